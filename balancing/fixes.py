r"""The fix: rescale the hidden units of a network until its norm is smallest.

Multiplying what enters hidden unit :math:`i` by a factor :math:`a_i` and dividing what leaves it
by :math:`a_i` keeps the function of the network, but not its norm. The norm
:math:`\|W\|_{p,q}^q` is convex in :math:`\log a` for all :math:`p, q > 0`, and it is smallest
where every hidden unit is balanced: where incoming shares equal outgoing shares. Such factors
exist, and only one choice of them, for the units that lie on a path of nonzero weights from an
input to an output. Source: Saul 2023, Algorithm 1; existence and uniqueness are derived here.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from balancing._orbit import Orbit, Point
from balancing._powers_of_two import (
    check_dtypes,
    check_restorable,
    nearest_powers,
    powers_of_two,
)
from balancing._two_level import two_level
from balancing._validate import a_function, exponents, number, whole
from balancing.graph import RescalingGraph, trace
from balancing.rescaling import rescaled, write

__all__ = ["BalanceResult", "balance"]


@dataclass(frozen=True, eq=False, repr=False)
class BalanceResult:
    """What :func:`balance` found.

    Attributes:
        model: the rescaled network.
        factors: hidden group name -> factors of its units, float64 tensor of shape (units,).
        norms: the norm at the start and after each iteration, float64 tensor of shape
            (iterations + 1,); before the weights are rounded to their dtype.
        iterations: number of updates of the factors; with ``exact=True`` the step to powers of two
            is the last one.
        passes: how often the entries of :math:`|W|^p` were read, all of them together counting as
            one. Sums over the entries are not computed again where nothing in them has changed.
            So Algorithm 1 takes up to two passes for an iteration, and the two-level method two
            to three.
        converged: whether ``max_imbalance`` came down to the tolerance; with ``exact=True``, that
            of the real minimizer.
        max_imbalance: largest relative imbalance of a hidden unit that is not skipped:
            ``|in - out| / (in + out)``, of its incoming and outgoing shares; 0 if there is none.
            With ``exact=True``, what the powers of two leave: for p = q about
            ``(2**p - 1) / (2**p + 1)`` at most.
        skipped: hidden group name -> indices of its dead units, which keep factor 1: they lie on
            no path of nonzero weights from an input to an output. Groups without are left out.
        method: name of the method that ran.
    """

    model: nn.Module
    factors: dict[str, Tensor]
    norms: Tensor
    iterations: int
    passes: float
    converged: bool
    max_imbalance: float
    skipped: dict[str, Tensor]
    method: str
    _before: dict[str, _Kept]  # name -> parameter before the rescaling

    def __repr__(self) -> str:
        return (
            f"BalanceResult({self.method}: norm {self.norms[0]:.6g} -> {self.norms[-1]:.6g}, "
            f"{self.iterations} iterations, imbalance {self.max_imbalance:.1e}, "
            f"{'' if self.converged else 'not '}converged, "
            f"{sum(map(len, self.skipped.values()))} units skipped)"
        )

    @torch.no_grad()
    def check(self, *example_input: Tensor) -> float:
        """Largest change of the output of ``model`` against the network before, with dropout off.

        Relative to the largest output; NaN if an output became NaN. Call it before ``model`` is
        trained further.

        Args:
            *example_input: an input of the network, or several where it takes several.

        Raises:
            RuntimeError: a parameter of the network before has been written to since; or whatever
                the network raises for an input that it does not take.
        """
        before = {name: kept.values(name) for name, kept in self._before.items()}
        after = copy.deepcopy(self.model).eval()
        changes = [0.0]
        news = _tensors(after(*example_input))  # first: functional_call may leave a module that has
        olds = _tensors(functional_call(after, before, example_input))  # two names altered
        for old, new in zip(olds, news, strict=True):
            if not torch.equal(new, old):  # both may be zero, or without any sample
                change = (new.double() - old.double()).abs().max()
                changes.append(float(change / old.double().abs().max()))
        return float(torch.tensor(changes, dtype=torch.float64).max())  # keeps a NaN


class _Kept:
    """A parameter as it is now: a copy, or itself with a note of whether it has been written to."""

    def __init__(self, parameter: Tensor) -> None:
        copied = parameter.is_inference()  # whose writes are not counted
        self._values = parameter.detach().clone() if copied else parameter.detach()
        self._version = None if copied else self._values._version

    def values(self, name: str) -> Tensor:
        if self._version is not None and self._values._version != self._version:
            raise RuntimeError(
                f"parameter '{name}' of the network before the fix has been changed since; "
                "check() compares with what it was, so call it first"
            )
        return self._values


def _tensors(output: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    if isinstance(output, Tensor):
        return (output,)
    return tuple(output.values() if isinstance(output, Mapping) else output)


@torch.no_grad()
def balance(
    model: nn.Module | RescalingGraph,
    p: float = 2,
    q: float | None = None,
    *,
    method: Literal["auto", "two-level", "multiplicative"] = "auto",
    tol: float = 1e-6,
    max_iter: int = 1000,
    exact: bool = False,
    inplace: bool = False,
    callback: Callable[[int, float, float], object] | None = None,
    progress: bool = False,
) -> BalanceResult:
    r"""Rescale the hidden units until :math:`\|W\|_{p,q}` is smallest; the function is kept.

    Biases do not enter the norm; they are rescaled along. So are parameters that require no
    gradient: a layer that is left out would change the function. The model is written to once, at
    the end; if anything is raised before, by ``callback`` too, it is unchanged.

    Beside the model it takes at most the memory of one more float64 copy of the weights, in which
    :math:`|W|^p` lies first and then the result, or with ``inplace`` the old weights, which
    ``check`` compares with: for float32 twice the bytes of the weights. Newton's method, which
    takes over where sweeps stall, needs as much again.

    Parameters may be sharded over processes (:class:`torch.distributed.tensor.DTensor`). Then every
    process makes the call, and gets a :class:`~balancing.sharded.ShardedBalanceResult`; the first
    one of the mesh calls ``callback``, shows progress and warns.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        method: ``"two-level"`` for exact updates of the units of alternate layers and of layers
            as a whole, in turn; ``"multiplicative"`` for Algorithm 1 of Saul 2023. Both find the
            same factors. ``"auto"`` is ``"two-level"``, the faster by far.
        tol: stop when no live hidden unit has a relative imbalance
            ``|in - out| / (in + out)`` above this.
        max_iter: stop after so many iterations.
        exact: allow only powers of two as factors. Outputs are then the same bit for bit, and
            :func:`~balancing.rescale` by the inverse factors restores the very same weights. The
            norm becomes a little less small: the real minimizer is found first, then factors
            near it of which none can be doubled or halved to lower the norm. Needs float32,
            float64 or bfloat16, and activations in the normal range of it.
        inplace: change the given model instead of a copy.
        callback: called with the number of iterations done, the norm and the largest relative
            imbalance, first before any iteration. The two-level method, where it extrapolates,
            reports the largest imbalance that an iteration met, not the one that it left.
        progress: show a progress bar on stderr.

    Returns:
        The rescaled network, and how it was found. Parameters keep their dtype: factors and sums
        are float64, and each parameter is rounded once.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, or ``callback`` no function.
        ValueError: an argument is not what is said above, a weight or bias is NaN or infinite, or
            the minimizing factors leave the range of float64, or a parameter that of its dtype;
            with ``exact=True``, a parameter has another dtype than said above or would lose bits.
            The message names it, and nothing is changed.
        NotHomogeneousError: the model cannot be traced.

    Warns:
        UserWarning: the tolerance was not reached within ``max_iter`` iterations.
    """
    p, q = exponents(p, q)
    if method not in ("auto", *_METHODS):
        raise ValueError(f"method must be one of auto, {', '.join(_METHODS)}, got {method!r}")
    tol = number("tol", tol, "a finite number above 0", lambda value: 0 < value < math.inf)
    max_iter = whole("max_iter", max_iter)
    if callback is not None:
        a_function("callback", callback)
    graph = trace(model)
    chosen = "two-level" if method == "auto" else method

    def search(orbit: Orbit) -> Solution:
        return _search(orbit, chosen, tol, max_iter, exact, callback, progress)

    if "torch.distributed.tensor" in sys.modules:  # without it no tensor is sharded
        from balancing.sharded import balance_sharded, is_sharded

        if is_sharded(graph):
            return balance_sharded(graph, p, q, search, chosen, exact=exact, inplace=inplace)
    graph.check_finite(weights=False)
    if exact:
        check_dtypes(graph)
    orbit = Orbit(graph, p, q)
    if not orbit.finite:
        graph.check_finite()
    found = search(orbit)
    # no entry of a matrix is larger than its norm
    new = rescaled(graph, found.factors, found.memory, largest=found.norms[-1])
    if exact:
        check_restorable(graph, new)
    names = [name for edge in graph.edges for name in (edge.weight, edge.bias) if name]
    model = write(graph, new, inplace=inplace)
    olds = new if inplace else {}  # write() has left the old values there
    before = {name: _Kept(olds.get(name, graph.model.get_parameter(name))) for name in names}
    return BalanceResult(
        model=model,
        **found.told(),
        method=chosen,
        _before=before,
    )


def _search(
    orbit: Orbit,
    method: str,
    tol: float,
    max_iter: int,
    exact: bool,
    callback: Callable[[int, float, float], object] | None,
    progress: bool,
) -> Solution:
    """Run a method; report to the callback and the progress bar, and warn if it falls short."""
    with tqdm(total=max_iter, desc="balance", disable=not progress, mininterval=0.5) as bar:

        def report(iteration: int, point: Point) -> None:
            if callback is not None:
                callback(iteration, point.norm, point.max_imbalance)
            if progress:
                bar.set_postfix(imbalance=f"{point.max_imbalance:.1e}", refresh=False)
                bar.update(iteration - bar.n)

        found = _solve(orbit, _METHODS[method], tol, max_iter, exact, report)
    if not found.converged:
        warnings.warn(
            f"balance() stopped after {max_iter} iterations (max_iter) at a relative imbalance "
            f"of {found.max_imbalance:.2g}, above tol = {tol:g}",
            # the caller's line; search, balance, torch.no_grad lie between; if sharded, two more
            stacklevel=7 if orbit.is_sharded else 5,
        )
    return found


@dataclass(frozen=True)
class Solution:
    """What is left of an orbit.

    Attributes:
        memory: what |W|^p was in, to be freed or reused: parameter name -> tensor.
    """

    factors: dict[str, Tensor]
    dead: dict[str, Tensor]
    norms: list[float]
    passes: float
    converged: bool
    max_imbalance: float
    memory: dict[str, Tensor]

    def told(self) -> dict[str, Any]:
        """What a :class:`BalanceResult` says of the search."""
        return {
            "factors": self.factors,
            "norms": torch.tensor(self.norms, dtype=torch.float64),
            "iterations": len(self.norms) - 1,
            "passes": self.passes,
            "converged": self.converged,
            "max_imbalance": self.max_imbalance,
            "skipped": {group: units for group, units in self.dead.items() if len(units)},
        }


def _solve(
    orbit: Orbit,
    method: Callable[[Orbit, float], Iterator[Point]],
    tol: float,
    max_iter: int,
    exact: bool,
    report: Callable[[int, Point], None],
) -> Solution:
    norms = []
    for iteration, point in enumerate(method(orbit, tol)):
        norms.append(point.norm)
        report(iteration, point)
        converged = point.max_imbalance <= tol
        if converged or iteration == max_iter:
            break
    if not converged:  # the imbalance may be that of the point before
        point = orbit.at(point.theta)
        converged = point.max_imbalance <= tol
    factors = {group: point.theta[units].exp() for group, units in orbit.slots.items()}
    for group, values in factors.items():
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise ValueError(
                f"the factors that balance group '{group}' leave the range of float64; "
                "bring its layers to comparable scales first"
            )
    if exact:
        point = nearest_powers(orbit, point.theta)
        norms.append(point.norm)
        factors = {group: powers_of_two(point.theta[units]) for group, units in orbit.slots.items()}
    dead = {group: (~orbit.live[units]).nonzero()[:, 0] for group, units in orbit.slots.items()}
    return Solution(
        factors, dead, norms, orbit.passes, converged, point.max_imbalance, orbit.release()
    )


# A method is an endless iterator of points, the start first; balance() has the loop.


def _multiplicative(orbit: Orbit, tol: float) -> Iterator[Point]:
    """Algorithm 1: all hidden units at once, a <- a (out / in)^(1 / (4 max(p, q)))."""
    point = orbit.at(orbit.start)
    while True:
        yield point
        step = (point.log_out - point.log_in) / (4 * max(orbit.p, orbit.q))
        point = orbit.at(point.theta + torch.where(orbit.live, step, 0.0))


_METHODS: dict[str, Callable[[Orbit, float], Iterator[Point]]] = {
    "two-level": two_level,
    "multiplicative": _multiplicative,
}

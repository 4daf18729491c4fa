r"""Ways to balance a network, each from a module to a rescaled copy of it.

Each contestant takes a module, p, q and a :class:`Run`, in which it notes how far it has come, so
that something can be said of one that is stopped. All that have a tolerance stop by the same rule,
the one of :func:`balancing.balance`: the largest ``|in - out| / (in + out)`` of a live unit.
"""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import matrix_balance
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, fx, nn

from balancing import RescalingGraph, balance, rescale, trace
from balancing._orbit import Orbit

__all__ = [
    "METHOD",
    "TOL",
    "Contestant",
    "Run",
    "Unable",
    "algorithm1",
    "algorithm1_on_factors",
    "brevitas_equalization",
    "lapack",
    "lbfgs",
    "ours",
    "torch_equalization",
    "version_of",
]

METHOD = "auto"  # of balance(), the one that is compared with the others
TOL = 1e-6
ENDLESS = 10**9  # iterations: only the time limit ends a run
LARGEST_MATRIX = 6000  # rows; in float64 that takes 0.3 GB


class Unable(Exception):  # noqa: N818  (a finding of the comparison, not a failure of it)
    """Why a contestant cannot take a network, in words for the table."""


@dataclass
class Run:
    """How far a contestant has come.

    Attributes:
        norm: the last one known.
        imbalance: the largest relative one of a live unit, likewise.
        iterations: updates or sweeps.
        passes: how often the entries of |W|^p were read, of those who count it.
        seconds: without tracing, copying and rescaling at the end, if that can be told apart.
        model: what is being changed, of those who note no norm.
        norms: every norm noted, with the seconds since the start of the run.
    """

    norm: float = math.nan
    imbalance: float = math.nan
    iterations: float = math.nan
    passes: float = math.nan
    seconds: float = math.nan
    model: nn.Module | None = None
    norms: list[tuple[float, float]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def note(self, iterations: int, norm: float, imbalance: float) -> None:
        self.iterations, self.norm, self.imbalance = iterations, norm, imbalance
        self.norms.append((time.perf_counter() - self.start, norm))

    def seconds_to(self, norm: float) -> float:
        """When a norm as low was first noted; NaN if none was."""
        return next((seconds for seconds, reached in self.norms if reached <= norm), math.nan)

    @contextmanager
    def solving(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start


Contestant = Callable[[nn.Module, float, float, Run], nn.Module]


def ours(
    model: nn.Module, p: float, q: float, run: Run, *, tol: float = TOL, method: str = METHOD
) -> nn.Module:
    """balance(): its seconds are those between the first report to a callback and the last."""
    first = math.nan

    def report(iterations: int, norm: float, imbalance: float) -> None:
        nonlocal first
        now = time.perf_counter()
        first = first if iterations else now
        run.seconds = now - first
        run.note(iterations, norm, imbalance)

    result = balance(model, p, q, method=method, tol=tol, max_iter=ENDLESS, callback=report)
    run.passes = result.passes
    return result.model


def algorithm1_on_factors(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """Algorithm 1 with |W|^p computed once: an update is two products of a matrix and a vector."""
    return ours(model, p, q, run, method="multiplicative")


@torch.no_grad()
def algorithm1(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """Algorithm 1 as printed: the weights themselves are rescaled at every update."""
    model = copy.deepcopy(model)
    graph = trace(model)
    orbit = Orbit(graph, p, q)
    live = {name: orbit.live[units] for name, units in orbit.slots.items()}
    with run.solving():
        for update in itertools.count():
            into, out, norm = _share_sums(graph, p, q)
            gaps = [((into[g] - out[g]).abs() / (into[g] + out[g]))[live[g]] for g in live]
            run.note(update, norm, float(torch.cat(gaps).max()))
            if run.imbalance <= TOL:
                return model
            factors = {
                g: torch.where(live[g], out[g] / into[g], 1.0) ** (1 / (4 * max(p, q)))
                for g in live
            }
            for edge in graph.edges:
                weight, bias = graph.weight(edge), graph.bias(edge)
                weight /= edge.columns(factors.get, weight).view(len(weight), 1, -1, 1)
                if edge.target in factors:
                    weight *= factors[edge.target].view(len(weight), -1, 1, 1)
                    if bias is not None:
                        bias *= factors[edge.target]


def _share_sums(
    graph: RescalingGraph, p: float, q: float
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Shares into and out of every unit, by group, and the norm; from the weights as they are."""
    into, out = (
        {name: torch.zeros(g.size, dtype=torch.float64) for name, g in graph.hidden.items()}
        for _ in range(2)
    )
    total = 0.0
    for edge in graph.edges:
        weight = graph.weight(edge)
        share = weight.square() if p == 2 else weight.abs().pow_(p)
        if p != q:
            row = share.sum((2, 3), keepdim=True)
            share *= torch.where(row == 0, 0.0, row ** (q / p - 1))
        rows = share.sum((2, 3)).flatten()
        total += float(rows.sum())
        if edge.target in into:
            into[edge.target] += rows
        for source, columns in edge.by_source(share.sum((1, 3)).flatten()):
            if source in out:
                out[source] += columns
    return into, out, total ** (1 / q)


def lbfgs(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """scipy's L-BFGS-B on log F over the log factors, from |W|^p computed once.

    The logarithm of F is convex, too, and has a scale that suits the first step better than F's.
    """
    graph = trace(model)
    orbit = Orbit(graph, p, q)
    theta, latest = orbit.start, orbit.at(orbit.start)

    def value_and_gradient(free: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal latest
        here = theta.clone()
        here[orbit.live] = torch.from_numpy(free)
        latest = orbit.at(here)
        log_f = q * math.log(latest.norm)
        gradient = q * ((latest.log_in - log_f).exp() - (latest.log_out - log_f).exp())
        return log_f, gradient[orbit.live].numpy()

    def accept(intermediate_result: OptimizeResult) -> None:  # scipy goes by this name
        run.note(run.iterations + 1, latest.norm, latest.max_imbalance)
        if run.imbalance <= TOL:
            raise StopIteration

    run.note(0, latest.norm, latest.max_imbalance)
    with run.solving():
        found = minimize(
            value_and_gradient,
            theta[orbit.live].numpy(),
            jac=True,
            method="L-BFGS-B",
            callback=accept,
            options={"maxiter": ENDLESS, "maxfun": ENDLESS, "ftol": 0, "gtol": 0},
        )
    run.passes = orbit.passes
    theta[orbit.live] = torch.from_numpy(found.x)
    return _rescaled(graph, orbit, theta.exp())


def lapack(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """LAPACK's gebal on the matrix of |W|, all inputs and outputs in one node; p = q = 2.

    It scales one unit after another by powers of two, and stops when no such scaling of a unit
    lowers the sum of its row's and its column's l2 norm by 5 %: it has no tolerance. (scipy's
    documentation speaks of l1 norms; since LAPACK 3.5 it is l2.)
    """
    graph = trace(model)
    orbit = Orbit(graph, p, q)
    if orbit.size > LARGEST_MATRIX:
        raise Unable(f"matrix of {8 * orbit.size**2 / 1e9:.1f} GB")
    merged = torch.zeros(orbit.size, orbit.size, dtype=torch.float64)

    def units(group: str, size: int) -> Tensor:
        slot = orbit.slots.get(group)
        return torch.arange(slot.start, slot.stop) if slot else torch.zeros(size, dtype=torch.long)

    for edge in graph.edges:
        squares = graph.weight(edge).detach().square().sum(3)
        blocks, rows, columns = squares.shape
        read = [units(s.group, s.size).repeat_interleave(s.repeat) for s in edge.sources]
        targets = units(edge.target, blocks * rows).view(blocks, rows, 1)
        sources = torch.cat(read).view(blocks, 1, columns)
        where = (targets.expand_as(squares), sources.expand_as(squares))
        merged.index_put_(where, squares, accumulate=True)
    transposed = merged.sqrt_().numpy().T  # LAPACK's order of entries: nothing is copied
    with run.solving():
        _, (scale, _) = matrix_balance(transposed, permute=False, separate=True, overwrite_a=True)
    # the matrix became T^-1 A^T T: entry (j, i) times t_i / t_j, where ours is W_ij a_i / a_j
    return _rescaled(graph, orbit, torch.from_numpy(scale / scale[0]))


def _rescaled(graph: RescalingGraph, orbit: Orbit, factors: Tensor) -> nn.Module:
    return rescale(graph, {name: factors[units] for name, units in orbit.slots.items()})


def torch_equalization(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """torch.ao's cross-layer equalization, with its default threshold.

    It wants to be told the pairs of layers; these are all that it can take: linear layers or
    convolutions of one block, with units between them that nothing else writes to or reads.
    """
    from torch.ao.quantization._equalize import equalize

    run.model = model = copy.deepcopy(model)
    graph = trace(model)
    pairs = []
    for group in graph.hidden:
        layers = [*graph.incoming(group), *graph.outgoing(group)]
        plain = all(
            edge.blocks == 1
            and not edge.transposed
            and [source.repeat for source in edge.sources] == [1]
            for edge in layers
        )
        if len(layers) == 2 and plain:
            pairs.append([edge.name for edge in layers])
    if not pairs:
        raise Unable("no pair of layers that it takes")
    with run.solving():
        equalize(model, pairs)
    return model


def brevitas_equalization(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
    """brevitas's cross-layer equalization as it comes; it finds the layers by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import, of its own deprecated parts
        try:
            from brevitas.graph.equalize import EqualizeGraph
        except ImportError as error:
            raise Unable("not installed") from error
    run.model = traced = fx.symbolic_trace(copy.deepcopy(model))
    with run.solving(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EqualizeGraph().apply(traced)


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

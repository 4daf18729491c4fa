r"""Flows integrated to a tolerance.

Gradient descent with a small step only approximates the flow for which the theorems hold. Here
the flow itself is integrated by an adaptive Runge-Kutta method of order 8, so that what remains
of an invariant's drift is the integrator's tolerance.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import DOP853
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from balancing._rows import Coordinates, Dual, Rows, coordinates
from balancing._validate import (
    a_copy,
    a_function,
    a_module,
    as_vector,
    at_least_zero,
    exponents,
    float64_parameters,
    number,
)
from balancing.flows import gradients
from balancing.graph import RescalingGraph, trace

__all__ = ["Trajectory", "integrate_flow"]


@dataclass(frozen=True)
class Trajectory:
    """States of a network along a flow.

    Attributes:
        times: shape (T,), float64.
        states: shape (T, parameters), float64: all parameters as one vector, in the order of
            ``model.parameters()``.
        losses: shape (T,), float64.
        evaluations: number of gradients that the integrator took.
        sliding: whether the flow began to slide along a kink at the last of ``times``, so that
            the integration ended there.
    """

    times: Tensor
    states: Tensor
    losses: Tensor
    evaluations: int
    sliding: bool
    _model: nn.Module

    def model(self, index: int) -> nn.Module:
        """A copy of the network with its weights at ``times[index]``.

        Raises:
            TypeError: ``index`` is no whole number.
            IndexError: it is not among those of ``times``.
        """
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"index must be a whole number, got {index!r}")
        if not -len(self.times) <= index < len(self.times):
            raise IndexError(f"index must be below {len(self.times)}, got {index}")
        copied = copy.deepcopy(self._model)
        vector_to_parameters(self.states[index].clone(), copied.parameters())
        return copied

    def measure(self, quantity: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Evaluate a quantity at every time: name -> tensor of shape (T, ...).

        ``quantity`` maps a model to named tensors, as
        :func:`~balancing.unit_invariants` does.

        Raises:
            TypeError: ``quantity`` is no function, or returns something else.
        """
        a_function("quantity", quantity)
        rows = [quantity(self.model(index)) for index in range(len(self.times))]
        if not all(isinstance(row, dict) for row in rows) or not all(
            isinstance(value, Tensor) for row in rows for value in row.values()
        ):
            raise TypeError("quantity must return a dict of tensors")
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def integrate_flow(
    model: nn.Module | RescalingGraph,
    loss_fn: Callable[[nn.Module], Tensor],
    times: Sequence[float] | Tensor,
    *,
    p: float | None = None,
    q: float | None = None,
    weight_decay: float = 0.0,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    on_sliding: Literal["raise", "stop"] = "raise",
) -> Trajectory:
    r"""Integrate a flow from the model's current weights; the model is not changed.

    Without ``p`` this is :func:`~balancing.gradient_flow`, of any module. With ``p`` it is
    :func:`~balancing.weight_balancing_flow`, in coordinates that have no pole at zero: for p > 1
    :math:`z = \mathrm{sign}(W)\, \pi^{(p-1)/p}`, which lets weights cross zero; for p <= 1, where
    no weight reaches or leaves zero, :math:`\log |W|` (derived here).

    With ReLU the velocity jumps where a unit's pre-activation changes sign for some sample. The
    flow may cross such a kink, or *slide* along it: on both sides the velocity points at the kink,
    no ordinary solution goes on, and an integrator takes ever smaller steps to and fro. For p > 2
    the same may happen where a weight is 0: it gets there in finite time, and may stay.

    Args:
        model: a module whose parameters are all float64. With ``p`` one that
            :func:`~balancing.trace` accepts, or its graph.
        loss_fn: maps the module to its scalar loss E, for example
            ``lambda net: ((net(x) - y) ** 2).mean()``.
        times: increasing times at which to record; the first is the time of the current weights.
        p: exponent within the incoming weights of a unit, above 0; None means gradient flow.
        q: exponent across units, above 0; None means ``q = p``.
        weight_decay: :math:`\lambda`, at least 0.
        rtol: relative tolerance of the integrator, for each step and coordinate.
        atol: absolute tolerance of the integrator; for a coordinate z it is taken relative to the
            largest one of the layer at the start, if that is below 1.
        on_sliding: what to do when the flow begins to slide: ``"raise"``, or ``"stop"`` and
            return the trajectory until then.

    Raises:
        TypeError: ``model`` is no module, ``loss_fn`` no function, or what it returns no tensor.
        ValueError: a parameter is not float64 (named) or not finite, or none requires a gradient;
            the model cannot be copied; the loss is no real scalar, does not depend on the
            parameters, or has a gradient that is NaN or infinite at the start; the times do not
            increase; p or q is not above 0, or q is given without p; ``weight_decay`` or ``atol``
            is negative or infinite, ``rtol`` is not above 0, or ``on_sliding`` is neither of the
            two words.
        NotHomogeneousError: with ``p``, the model cannot be traced.
        RuntimeError: the flow slides, or the integrator cannot reach its tolerance.
    """
    if p is None and q is not None:
        raise ValueError(f"q = {q!r} needs p; without p this is gradient flow")
    balanced = None if p is None else exponents(p, q)
    decay = at_least_zero("weight_decay", weight_decay)
    rtol = number("rtol", rtol, "finite and above 0", lambda value: 0 < value < np.inf)
    atol = at_least_zero("atol", atol)
    a_function("loss_fn", loss_fn)
    network = a_module("model", model.model if isinstance(model, RescalingGraph) else model)
    float64_parameters(network)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("no parameter requires a gradient, so nothing would move")
    grid = _as_times(times)
    if (
        grid.ndim != 1
        or len(grid) < 2
        or not ((np.diff(grid) > 0).all() and np.isfinite(grid).all())
    ):
        raise ValueError("times must be at least two increasing finite numbers")
    if on_sliding not in ("raise", "stop"):
        raise ValueError(f"on_sliding must be 'raise' or 'stop', got {on_sliding!r}")
    moving = _Moving(model, loss_fn, balanced, decay)
    start = moving.state()
    absolute = atol * moving.scales()
    solver = DOP853(moving.velocity, grid[0], start, grid[-1], rtol=rtol, atol=absolute)
    if not np.isfinite(solver.f).all():  # the integrator would look for a step without end
        raise ValueError(
            "loss_fn has NaN or infinite gradients at the model's weights; they must be finite"
        )
    reached, states = [grid[0]], [start]
    recent = deque([-np.inf], maxlen=_SLIDING_STEPS)  # the times of the last steps
    least = _SLIDING_PART * (grid[-1] - grid[0])
    while solver.status == "running" and solver.t - recent[0] > least:
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"the integrator stopped at t = {solver.t:g}: {message}")
        due = grid[(grid > solver.t_old) & (grid <= solver.t)]
        if len(due):
            reached.extend(due)
            states.extend(solver.dense_output()(due).T)
        recent.append(solver.t)
    sliding = solver.status == "running"
    if sliding:
        if on_sliding == "raise":
            raise RuntimeError(
                f"the flow slides along a kink from t = {solver.t:g} of {grid[-1]:g}; end before "
                "that time, or pass on_sliding='stop'"
            )
        if solver.t > reached[-1]:
            reached.append(solver.t)
            states.append(solver.y)
    vectors, losses = [], []
    for index, state in enumerate(states):
        moving.place(state if index else None)
        vectors.append(as_vector(moving.network))
        losses.append(loss_fn(moving.network).detach())
    return Trajectory(
        times=torch.tensor(np.array(reached)),
        states=torch.stack(vectors),
        losses=torch.stack(losses),
        evaluations=int(solver.nfev),
        sliding=sliding,
        _model=copy.deepcopy(network),
    )


def _as_times(times: Sequence[float] | Tensor) -> NDArray[np.float64]:
    """An array, or an empty one of what is no list of numbers."""
    try:
        if isinstance(times, Tensor):
            times = times.detach().cpu()
        return np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        return np.empty(0)


# Where the flow crosses a kink, the step shrinks to about the tolerance and grows tenfold a step
# from there: a dozen tiny steps. Where it slides, the steps stay tiny: so many of them together
# advance by less than this part of the time span.
_SLIDING_STEPS = 100
_SLIDING_PART = 1e-3


class _Moving:
    """A copy of a network that the integrator moves, and its state as one vector.

    The rows of a weight-balancing flow are in the coordinates of :mod:`balancing._rows`; all other
    parameters, for gradient flow all of them, are their own coordinates.
    """

    def __init__(
        self,
        model: nn.Module | RescalingGraph,
        loss_fn: Callable[[nn.Module], Tensor],
        balanced: tuple[float, float] | None,
        decay: float,
    ) -> None:
        self.loss_fn, self.decay = loss_fn, decay
        self.rows: list[tuple[Rows, Coordinates]] = []
        if balanced is None:
            network = model.model if isinstance(model, RescalingGraph) else model
            self.network = a_copy(network)
            self.speed, self.decay_of_others = 1.0, decay
        else:
            graph = a_copy(trace(model))
            self.network = graph.model
            self.speed, self.decay_of_others = 1 / balanced[0], 0.0
        named = self.network.named_parameters()
        self.weights = {name: w.detach() for name, w in named if w.requires_grad}
        if balanced is not None:
            self.rows = [
                (rows, coordinates(rows.join(self.weights), *balanced))
                for rows in Rows.of(graph, self.weights)
            ]
        in_rows = {name for rows, _ in self.rows for name in rows.names}
        self.others = [name for name in self.weights if name not in in_rows]
        self.first = {name: w.clone() for name, w in self.weights.items()}

    def state(self) -> NDArray[np.float64]:
        parts = [chart.of(rows.join(self.weights)) for rows, chart in self.rows]
        return _vector(parts + [self.weights[name] for name in self.others])

    def scales(self) -> NDArray[np.float64]:
        """What is small for each coordinate: for z, a power of the weights, the layer's largest."""
        parts = []
        for rows, chart in self.rows:
            x = chart.of(rows.join(self.weights))
            largest = float(x.abs().max()) if isinstance(chart, Dual) and x.numel() else 1.0
            parts.append(torch.full_like(x, min(largest, 1.0) or 1.0))
        return _vector(parts + [torch.ones_like(self.weights[name]) for name in self.others])

    def place(self, state: NDArray[np.float64] | None) -> list[tuple[Tensor, Tensor]]:
        """Move the network to a state, None for the first; returns x and W of all rows."""
        if state is None:  # bit for bit
            for name, weight in self.weights.items():
                weight.copy_(self.first[name])
            return []
        shapes = [rows.shape for rows, _ in self.rows]
        shapes += [self.weights[name].shape for name in self.others]
        device = next(iter(self.weights.values())).device
        split = torch.tensor(state, device=device).split([shape.numel() for shape in shapes])
        parts = [part.view(shape) for part, shape in zip(split, shapes, strict=True)]
        placed = []
        for (rows, chart), x in zip(self.rows, parts, strict=False):
            W = chart.to_weights(x)
            placed.append((x, W))
            for name, part in rows.part(W).items():
                self.weights[name].copy_(part)
        for name, part in zip(self.others, parts[len(self.rows) :], strict=True):
            self.weights[name].copy_(part)
        return placed

    def velocity(self, _: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        placed = self.place(state)
        g = gradients(self.network, self.loss_fn(self.network))
        parts = [
            chart.velocity(x, W, rows.join(g), self.decay)
            for (rows, chart), (x, W) in zip(self.rows, placed, strict=True)
        ]
        parts += [
            -self.speed * g[name] - self.decay_of_others * self.weights[name]
            for name in self.others
        ]
        return _vector(parts)


def _vector(parts: Sequence[Tensor]) -> NDArray[np.float64]:
    vector: NDArray[np.float64] = torch.cat([part.flatten() for part in parts]).numpy(force=True)
    return vector

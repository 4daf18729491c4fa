r"""Gradient flow :math:`\dot W = -\nabla L(W)`, integrated to a tolerance.

Gradient descent with a small step only approximates the flow for which the theorems hold. Here
the flow itself is integrated by an adaptive Runge-Kutta method of order 8, so that what remains
of an invariant's drift is the integrator's tolerance.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import DOP853
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

__all__ = ["Trajectory", "gradient_flow", "integrate_flow"]


def gradient_flow(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    r"""The velocity :math:`-\partial L / \partial W` of every parameter, by name.

    Args:
        model: any module.
        loss: scalar computed from the model's parameters.

    Returns:
        Parameter name -> tensor of its shape and dtype; zero where the loss does not depend on it.
    """
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return {name: -gradient for name, gradient in zip(named, gradients, strict=True)}


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
        """A copy of the network with its weights at ``times[index]``."""
        copied = copy.deepcopy(self._model)
        vector_to_parameters(self.states[index].clone(), copied.parameters())
        return copied

    def measure(self, quantity: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Evaluate a quantity at every time: name -> tensor of shape (T, ...).

        ``quantity`` maps a model to named tensors, as
        :func:`~balancing.unit_invariants` does.
        """
        rows = [quantity(self.model(index)) for index in range(len(self.times))]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def integrate_flow(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    times: Sequence[float] | Tensor,
    *,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    on_sliding: Literal["raise", "stop"] = "raise",
) -> Trajectory:
    """Integrate gradient flow from the model's current weights; the model is not changed.

    With ReLU the velocity jumps where a unit's pre-activation changes sign for some sample. The
    flow may cross such a kink, or *slide* along it: on both sides the velocity points at the kink,
    no ordinary solution goes on, and an integrator takes ever smaller steps to and fro.

    Args:
        model: a module whose parameters are all float64.
        loss_fn: maps the module to its scalar loss, for example
            ``lambda net: ((net(x) - y) ** 2).mean()``.
        times: increasing times at which to record; the first is the time of the current weights.
        rtol: relative tolerance of the integrator, for each step and weight.
        atol: absolute tolerance of the integrator.
        on_sliding: what to do when the flow begins to slide: ``"raise"``, or ``"stop"`` and
            return the trajectory until then.

    Raises:
        ValueError: a parameter is not float64 (named) or not finite, the times do not increase,
            or ``on_sliding`` is neither of the two words.
        RuntimeError: the flow slides, or the integrator cannot reach its tolerance.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float64:
            raise ValueError(
                f"parameter '{name}' is {parameter.dtype}; a tight tolerance needs float64: "
                "call model.double() first"
            )
        if not torch.isfinite(parameter).all():
            raise ValueError(f"parameter '{name}' has NaN or infinite entries")
    grid = np.asarray(times, dtype=np.float64)
    if (
        grid.ndim != 1
        or len(grid) < 2
        or not ((np.diff(grid) > 0).all() and np.isfinite(grid).all())
    ):
        raise ValueError("times must be at least two increasing finite numbers")
    if on_sliding not in ("raise", "stop"):
        raise ValueError(f"on_sliding must be 'raise' or 'stop', got {on_sliding!r}")
    moving = copy.deepcopy(model)

    def velocity(_: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        loss = _loss_at(moving, state, loss_fn)
        parts = gradient_flow(moving, loss).values()
        return torch.cat([part.flatten() for part in parts]).numpy(force=True)

    start = parameters_to_vector(moving.parameters()).numpy(force=True)
    solver = DOP853(velocity, grid[0], start, grid[-1], rtol=rtol, atol=atol)
    reached, states = [grid[0]], [start]
    recent = deque([-math.inf] * _SLIDING_STEPS)
    least = _SLIDING_PACE * _SLIDING_STEPS * (grid[-1] - grid[0])
    while solver.status == "running" and solver.t - recent.popleft() >= least:
        recent.append(solver.t)
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"the integrator stopped at t = {solver.t:g}: {message}")
        due = grid[(grid > solver.t_old) & (grid <= solver.t)]
        if len(due):
            reached.extend(due)
            states.extend(solver.dense_output()(due).T)
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
    return Trajectory(
        times=torch.tensor(np.array(reached)),
        states=torch.tensor(np.array(states)),
        losses=torch.stack([_loss_at(moving, state, loss_fn).detach() for state in states]),
        evaluations=int(solver.nfev),
        sliding=sliding,
        _model=copy.deepcopy(model),
    )


# Where the flow crosses a kink, the step shrinks to about the tolerance and grows tenfold a step
# from there: a dozen tiny steps. Where it slides, the steps stay tiny. So the pace is taken over
# many steps; at this one the whole time would take a hundred thousand.
_SLIDING_STEPS = 100
_SLIDING_PACE = 1e-5


def _loss_at(
    model: nn.Module, state: NDArray[np.float64], loss_fn: Callable[[nn.Module], Tensor]
) -> Tensor:
    device = next(model.parameters()).device
    vector_to_parameters(torch.tensor(state, device=device), model.parameters())
    return loss_fn(model)

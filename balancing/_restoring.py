r"""Rescale hidden units until each has a given imbalance.

With factors :math:`a = e^\theta` the imbalance is :math:`I(\theta) = \nabla F(\theta) / q`, where F
is :math:`\|W\|_{p,q}^q` after the rescaling. So :math:`I(\theta) = T` holds at the minimum of the
convex :math:`\varphi(\theta) = F(\theta) / q - T \cdot \theta`, which Newton's method finds. Its
Hessian is a Laplacian of the shares; conjugate gradients solve with it in a few products, each one
pass over the weights between hidden units.

A Newton step is halved as long as it ends where :math:`\varphi` rises along it. That ends: along a
direction d the third derivative of :math:`\varphi` is at most :math:`2K\|d\|_\infty` times the
second, with K = p for p = q and K = p + 3q otherwise, so that :math:`1 / (2K\|d\|_\infty)` of a
Newton step always descends. Near the minimum nothing is cut. Derived here.

Far from it Newton's method is slow: where one sum outweighs the other a step moves theta by 1/q or
1/p at most. So as long as a unit has far to go, all take the step of Algorithm 1, with the target:
they minimize the upper bound of :math:`\varphi` in which units do not interact,
:math:`\mathrm{in}\, a^{2m} / 2m + \mathrm{out}\, a^{-2m} / 2m - T \log a`, m = max(p, q).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FAR_STEPS, _NEWTON_STEPS, _CG_STEPS = 200, 100, 200
_FAR = 2.0  # a unit whose sums have to change by more than e^_FAR has far to go


@dataclass(frozen=True)
class Powers:
    """|W|^p of one layer, and the hidden units that its rows and columns belong to.

    Units are numbered; the last number stands for whatever keeps factor 1.

    Attributes:
        targets: shape (blocks, rows), the unit that a row writes to.
        sources: shape (blocks, columns), the unit that a column reads.
        power: shape (blocks, rows, columns), float64, |W|^p.
        rest: shape (blocks, rows), float64, |W|^p summed over all that is not in the columns,
            which reads nothing that is rescaled.
    """

    targets: Tensor
    sources: Tensor
    power: Tensor
    rest: Tensor


@dataclass(frozen=True)
class _State:
    """One layer at some theta, with the names of the module's formulas.

    Attributes:
        x: shape (blocks, columns), a_j^-p.
        sums: shape (blocks, rows), sum_j of |W_ij|^p x_j.
        total: shape (blocks, rows), ||w_i||_p^q, the sum of the row's shares.
    """

    x: Tensor
    sums: Tensor
    total: Tensor


class Imbalance:
    """The imbalance of the units as a function of the logarithms of their factors.

    Args:
        layers: all layers that a unit writes to or reads from.
        units: number of units, with the one that stands for factor 1.
        p: exponent within a row.
        q: exponent across rows.

    Attributes:
        inflow: shape (units,), incoming shares of each unit at the theta of the last :meth:`move`.
        outflow: shape (units,), outgoing shares.
        passes: how often all entries of |W|^p have been read.
    """

    def __init__(self, layers: Sequence[Powers], units: int, p: float, q: float) -> None:
        self.layers, self.p, self.q, self.passes = layers, p, q, 0
        self.steepness = 2 * (p if p == q else p + 3 * q)
        self.move(layers[0].rest.new_zeros(units))

    def move(self, theta: Tensor) -> None:
        """Evaluate at theta, whose last entry is 0."""
        self.inflow, self.outflow = torch.zeros_like(theta), torch.zeros_like(theta)
        self.theta, self.states, self.passes = theta, [], self.passes + 2
        power = torch.exp(self.p * theta)
        for layer in self.layers:
            x, sums = 1 / power[layer.sources], layer.rest
            if layer.sources.numel():
                sums = sums + _times(layer.power, x)
            total = sums * power[layer.targets]
            if self.p != self.q:
                total = total ** (self.q / self.p)
            self.states.append(_State(x, sums, total))
            _add(self.inflow, layer.targets, total)
            if layer.sources.numel():
                _add(self.outflow, layer.sources, x * _times(layer.power.mT, _ratio(total, sums)))

    def times_hessian(self, v: Tensor) -> Tensor:
        """The derivative of the imbalance along v."""
        p, q, self.passes = self.p, self.q, self.passes + 2
        result = p * v * self.outflow
        for layer, state in zip(self.layers, self.states, strict=True):
            at_rows = v[layer.targets]
            if not layer.sources.numel():
                _add(result, layer.targets, q * state.total * at_rows)
                continue
            mean = _ratio(_times(layer.power, state.x * v[layer.sources]), state.sums)
            _add(result, layer.targets, q * state.total * (at_rows - mean))
            along = _ratio(state.total, state.sums) * (q * at_rows - (q - p) * mean)
            _add(result, layer.sources, -state.x * _times(layer.power.mT, along))
        return result

    def shares(self) -> Iterator[Tensor]:
        """The shares of each layer, shape (blocks, rows, columns)."""
        for layer, state in zip(self.layers, self.states, strict=True):
            yield _ratio(state.total, state.sums)[:, :, None] * layer.power * state.x[:, None, :]

    def solve(self, target: Tensor, tol: float) -> tuple[Tensor, float]:
        """Find theta where the imbalance is the target.

        A unit without any incoming or any outgoing weight has no such theta in general; it keeps
        factor 1 and is left out of the deviation.

        Returns:
            theta; and the largest deviation from the target that remains, relative to the sum of
            the unit's incoming and outgoing shares: at most ``tol`` if the target can be reached.
        """
        live = (self.inflow > 0) & (self.outflow > 0)
        live[-1] = False
        for _ in range(_FAR_STEPS):
            log_ratio = self._log_ratio(target, live)
            if not float(log_ratio.abs().max()) > _FAR:
                break
            self.move(self.theta + log_ratio / (2 * max(self.p, self.q)))
        for remaining in reversed(range(_NEWTON_STEPS)):
            size = torch.where(live, self.inflow + self.outflow, 1.0)
            residual = torch.where(live, target - (self.inflow - self.outflow), 0.0)
            deviation = float((residual / size).abs().max())
            if not deviation > tol or not remaining:  # it may be NaN
                break
            # quadratic convergence needs no better a direction than this
            accuracy = max(tol / 4, min(0.1, deviation) * deviation)
            scale = torch.where(live, self.q * self.inflow + self.p * self.outflow, 1.0)
            direction = self.newton_direction(
                residual, live, size * accuracy, functools.partial(torch.mul, 1 / scale)
            )
            self._advance(direction, target)
        return self.theta, deviation

    def _log_ratio(self, target: Tensor, live: Tensor) -> Tensor:
        """log x, where in x - out / x is the target; 0 for the units that are not live."""
        into, out = torch.where(live, self.inflow, 1.0), torch.where(live, self.outflow, 1.0)
        # of two forms of the root the one in which no digits cancel
        size = (target.abs() + torch.hypot(target, 2 * (into.sqrt() * out.sqrt()))) / 2
        log_ratio = torch.where(target > 0, (size / into).log(), (out / size).log())
        return torch.where(live, log_ratio, 0.0)

    def _advance(self, direction: Tensor, target: Tensor) -> None:
        """Go along a direction of descent, at most as far as where the slope turns upward."""
        start, part = self.theta, 1.0
        guaranteed = 1 / max(1.0, self.steepness * float(direction.abs().max()))
        downhill = float((target - self.inflow + self.outflow) @ direction)
        while True:
            self.move(start + part * direction)
            # near the minimum a full step ends there, up to a slope of higher order
            uphill = float((self.inflow - self.outflow - target) @ direction)
            if uphill <= 0.1 * downhill or part == guaranteed:
                return
            part = max(part / 2, guaranteed)

    def newton_direction(
        self,
        residual: Tensor,
        live: Tensor,
        accuracy: Tensor,
        precondition: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Conjugate gradients, preconditioned, until every entry of the residual is accurate."""
        direction, step = torch.zeros_like(residual), torch.zeros_like(residual)
        before = 1.0
        for _ in range(_CG_STEPS):
            scaled = precondition(residual)
            now = float(residual @ scaled)
            step = scaled + now / before * step
            product = torch.where(live, self.times_hessian(step), 0.0)
            curvature = float(step @ product)
            if curvature <= 0:  # only rounding is left
                break
            direction = direction + now / curvature * step
            residual = residual - now / curvature * product
            before = now
            if bool((residual.abs() <= accuracy).all()):
                break
        return direction


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of a matrix and a vector, block by block."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _add(result: Tensor, index: Tensor, values: Tensor) -> None:
    result.index_add_(0, index.flatten(), values.flatten())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The ratio, 0 where the denominator is 0: a row of zeros."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)

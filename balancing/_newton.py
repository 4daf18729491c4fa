r"""A Newton step for the factors, for networks in which sweeps stall.

Sweeps are slow where channels hardly mix, as in a deep chain of nearly diagonal layers: what is out
of balance has to travel from layer to layer. The Hessian of F / q in the logarithms of the factors
is a Laplacian of the shares, with one more term for p != q. In such a network its strong entries
are few, and a sparse factorization of those preconditions conjugate gradients. In a small network
all entries are kept, and for p = q one solve is exact. Where weights are sharded over processes the
diagonal alone is taken: it consists of sums for each unit. Derived here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor

from balancing._orbit import Orbit
from balancing._restoring import Imbalance, Powers

__all__ = ["newton_direction"]

_RIDGE = 1e-13  # keeps off singularity units that are all but cut off from what is fixed
_FEW_UNITS = 1500  # up to here every entry of the Hessian is kept
_STRONG = 0.01  # of shares in units of the geometric mean of in + out of both ends


def newton_direction(orbit: Orbit, theta: Tensor, tol: float) -> Tensor | None:
    """The Newton step at theta, shape (units,) as theta; None if shares leave the range of float64.

    Args:
        orbit: the network.
        theta: log factors.
        tol: relative imbalance that is aimed for; no better a direction is needed.
    """
    units = int(orbit.live.sum())
    number = torch.full_like(orbit.live, units, dtype=torch.long)  # what keeps factor 1 is last
    number[orbit.live] = torch.arange(units, device=theta.device)
    layers = []
    for layer in orbit.layers:
        blocks = layer.shape[0]
        layers.append(
            Powers(
                number[layer.targets].view(blocks, -1),
                number[layer.sources].view(blocks, -1),
                layer.at(theta),
                theta.new_zeros(layer.shape[:2]),
            )
        )
    function = Imbalance(layers, units + 1, orbit.p, orbit.q)
    live = torch.arange(units + 1, device=theta.device) < units
    size = torch.where(live, function.inflow + function.outflow, 1.0)
    if not bool((torch.isfinite(size) & (size > torch.finfo(size.dtype).tiny)).all()):
        return None
    residual = torch.where(live, function.outflow - function.inflow, 0.0)
    imbalance = float((residual / size).abs().max())
    accuracy = max(tol / 4, min(0.1, imbalance) * imbalance)
    if orbit.is_sharded:  # entries stay where they are
        solve: Callable[[Tensor], Tensor] = functools.partial(torch.mul, 1 / _diagonal(function))
    else:
        solve = _StrongEntries(function, size).solve
    direction = function.newton_direction(residual, live, size * accuracy, solve)
    for layer in orbit.layers:
        layer.read += (function.passes + 1) * layer.shape.numel()
    return torch.where(orbit.live, direction[number], 0.0)


def _diagonal(function: Imbalance) -> Tensor:
    """Of the Hessian, or for p != q about so."""
    diagonal = function.q * function.inflow + max(function.p, function.q) * function.outflow
    return torch.where(diagonal > 0, diagonal, 1.0)


class _StrongEntries:
    """Factorization of the large entries of the Hessian at theta = 0, scaled to a diagonal near 1.

    The term that p != q adds is left out for q < p, and bounded for q > p.
    """

    def __init__(self, function: Imbalance, size: Tensor) -> None:
        q, units = function.q, len(size) - 1
        self.root = size.sqrt()
        least = _STRONG if units > _FEW_UNITS else 0.0
        rows, columns, values = [], [], []
        for layer, shares in zip(function.layers, function.shares(), strict=True):
            scale = self.root[layer.targets][:, :, None] * self.root[layer.sources][:, None, :]
            inner = (layer.targets < units)[:, :, None] & (layer.sources < units)[:, None, :]
            scaled = shares / scale
            block, row, column = (inner & (scaled > least)).nonzero(as_tuple=True)
            rows.append(layer.targets[block, row].cpu())
            columns.append(layer.sources[block, column].cpu())
            values.append(scaled[block, row, column].cpu())
        entries = coo_array(
            (torch.cat(values), (torch.cat(rows), torch.cat(columns))), shape=(units, units)
        )
        diagonal = _diagonal(function) / size
        regular = diags_array(diagonal[:-1].cpu().numpy() * (1 + _RIDGE))
        self.factors = splu((regular - q * (entries + entries.T)).tocsc())

    def solve(self, residual: Tensor) -> Tensor:
        scaled = (residual / self.root)[:-1].cpu().numpy()
        solution = torch.from_numpy(np.asarray(self.factors.solve(scaled))).to(residual)
        return torch.cat([solution, residual.new_zeros(1)]) / self.root

"""The incoming weights of a layer's units as the rows of a matrix, and the flow on such a matrix.

The bias, a weight from a constant unit, is the last column. Every function here takes the matrix W
of shape (units, columns) and g = dE/dW of the same shape, both float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from balancing.graph import Edge, RescalingGraph

# Where p > 2 the velocity of W is infinite at W = 0: |W| is taken for at least this part of the
# norm of its row.
FLOOR = 1e-8


class Rows:
    """How the parameters of one layer that may move lie in a matrix.

    Args:
        edge: the layer.
        parameters: name -> parameter, of those that may move.
    """

    def __init__(self, edge: Edge, parameters: Mapping[str, Tensor]) -> None:
        self.edge = edge
        self.weight = edge.weight if edge.weight in parameters else None
        self.bias = edge.bias if edge.bias in parameters else None
        if self.weight is not None:
            self.of_weight = parameters[self.weight].shape
            self.by_channel = edge.by_channel(parameters[self.weight]).shape
        self.shape = self.join(parameters).shape if self.names else torch.Size()

    @classmethod
    def of(cls, graph: RescalingGraph, parameters: Mapping[str, Tensor]) -> list[Rows]:
        """The rows of every layer that has a parameter that may move."""
        found = (cls(edge, parameters) for edge in graph.edges)
        return [rows for rows in found if rows.names]

    @property
    def names(self) -> list[str]:
        """Names of the parameters in the matrix."""
        return [name for name in (self.weight, self.bias) if name is not None]

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The matrix, from tensors of the parameters' shapes."""
        parts = []
        if self.weight is not None:
            parts.append(self.edge.by_channel(tensors[self.weight]).flatten(0, 1).flatten(1))
        if self.bias is not None:
            parts.append(tensors[self.bias][:, None])
        return torch.cat(parts, 1).double()

    def part(self, matrix: Tensor) -> dict[str, Tensor]:
        """Undo :meth:`join`."""
        result = {}
        if self.bias is not None:
            result[self.bias], matrix = matrix[:, -1], matrix[:, :-1]
        if self.weight is not None:
            weight = self.edge.like_weight(matrix.reshape(self.by_channel))
            result[self.weight] = weight.reshape(self.of_weight)
        return result


def row_norms(W: Tensor, p: float) -> Tensor:
    """||w_i||_p of every row, shape (units, 1), without overflow."""
    largest = W.abs().amax(1, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest)
    return scale * (W / scale).abs().pow(p).sum(1, keepdim=True) ** (1 / p)


def _normalized(W: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The norms, and the rows divided by them; a row of zeros stays zero."""
    n = row_norms(W, p)
    return n, W / torch.where(n == 0, 1.0, n)


def _power(n: Tensor, exponent: float) -> Tensor:
    """n ** exponent, but 0 for a negative exponent at n = 0: a row of zeros is at rest."""
    return torch.where(n == 0, 0.0**exponent if exponent >= 0 else 0.0, n**exponent)


def velocity(W: Tensor, g: Tensor, p: float, q: float) -> Tensor:
    """dW/dt where the shares move by -W g."""
    n, unit = _normalized(W, p)
    u = unit.abs() if p <= 2 else unit.abs().clamp(min=FLOOR)
    along = (unit * g).sum(1, keepdim=True)
    moving = u ** (2 - p) * g + (p / q - 1) * unit * along
    at_rest = (n == 0) & (p > 2)  # the floor is a part of the norm, which is 0
    return torch.where(at_rest, 0.0, -_power(n, 2 - q) / p * moving)


def shares(W: Tensor, p: float, q: float) -> Tensor:
    """The shares of the row's entries."""
    n, unit = _normalized(W, p)
    return unit.abs() ** p * n**q


class Coordinates(Protocol):
    """Coordinates x of a matrix W in which the flow can be integrated."""

    def of(self, W: Tensor) -> Tensor:
        """From W to x."""

    def to_weights(self, x: Tensor) -> Tensor:
        """From x to W."""

    def velocity(self, x: Tensor, W: Tensor, g: Tensor, decay: float) -> Tensor:
        """dx/dt where the shares move by -W g - decay * shares."""


class Dual:
    r"""For p > 1: :math:`z = \mathrm{sign}(W)\, \pi^{(p-1)/p}`, regular where a weight is 0.

    .. math:: \dot z = -\tfrac{p-1}{p} \big( n_i^{(p-q)/p}\, g + \lambda z \big)
    """

    def __init__(self, p: float, q: float) -> None:
        self.p, self.q = p, q

    def of(self, W: Tensor) -> Tensor:
        return W.sign() * shares(W, self.p, self.q) ** ((self.p - 1) / self.p)

    def to_weights(self, x: Tensor) -> Tensor:
        # |z|^(1/(p-1)) is |W|/n up to a factor of the row, and pi sums to n^q
        direction = x.sign() * x.abs() ** (1 / (self.p - 1))
        total = x.abs().pow(self.p / (self.p - 1)).sum(1, keepdim=True)
        return _normalized(direction, self.p)[1] * total ** (1 / self.q)

    def velocity(self, x: Tensor, W: Tensor, g: Tensor, decay: float) -> Tensor:
        p, q = self.p, self.q
        return -(p - 1) / p * (_power(row_norms(W, p), (p - q) / p) * g + decay * x)


class Logarithm:
    """For p <= 1, where no weight ever reaches or leaves zero: x = log |W|, signs as at first."""

    def __init__(self, p: float, q: float, W: Tensor) -> None:
        self.p, self.q, self.signs = p, q, W.sign()

    def of(self, W: Tensor) -> Tensor:
        return torch.where(self.signs == 0, 1.0, W.abs()).log()

    def to_weights(self, x: Tensor) -> Tensor:
        return self.signs * x.exp()

    def velocity(self, x: Tensor, W: Tensor, g: Tensor, decay: float) -> Tensor:
        p, q = self.p, self.q
        n, unit = _normalized(W, p)
        along = (unit * g).sum(1, keepdim=True)
        own = self.signs * unit.abs() ** (1 - p) * g
        moving = -_power(n, 1 - q) / p * (own + (p / q - 1) * along) - decay / q
        return torch.where(self.signs == 0, 0.0, moving)


def coordinates(W: Tensor, p: float, q: float) -> Coordinates:
    """The coordinates for these exponents, for a flow that starts at W."""
    return Dual(p, q) if p > 1 else Logarithm(p, q, W)

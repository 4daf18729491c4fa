r"""The norm on the orbit of a network: as a function of the logarithms of the factors.

.. math::

   F(\theta) = \sum_i \Big( \sum_j |W_{ij}|^p \, e^{p(\theta_i - \theta_j)} \Big)^{q/p},
   \qquad \theta = \log a .

The weights enter through :math:`|W|^p` alone, which is computed once, in float64. Each value of F,
with the shares into and out of every unit, then takes two products of a matrix and a vector for
each layer. Factors and sums are kept as logarithms, so that no power of them overflows. Nothing
but :math:`|W|^p` is as large as the weights: whatever else has an entry for each of them is made
and used piece by piece.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from balancing._pieces import pieces
from balancing.graph import Edge, RescalingGraph

__all__ = ["Layer", "Orbit", "Part", "Point", "PointWithShares", "greedy_colours", "imbalance"]


_LOWEST = torch.finfo(torch.float64).min


@dataclass(frozen=True)
class Point:
    """One choice of factors.

    Attributes:
        theta: log a, shape (units,) as in :class:`Orbit`.
        norm: the norm itself, not its power F.
        max_imbalance: largest |in - out| / (in + out) of a live unit; 0 if there is none.
    """

    theta: Tensor
    norm: float
    max_imbalance: float


@dataclass(frozen=True)
class PointWithShares(Point):
    """One choice of factors, with the shares there.

    Attributes:
        log_in: logarithm of the sum of each unit's incoming shares.
        log_out: the same of its outgoing shares.
    """

    log_in: Tensor
    log_out: Tensor


class Orbit:
    """F for one network and one pair of exponents.

    All units lie in one vector. Its first entry stands for every unit that keeps factor 1, inputs
    and outputs alike; the hidden groups follow.

    Attributes:
        slots: hidden group name -> where its units lie in the vector.
        live: whether a unit lies on a path of nonzero weights from an input to an output; False
            for the first entry. Where all units are, F is strictly convex and has a minimizer.
        size: length of the vector.
        is_sharded: whether each process holds a part of the entries of |W|^p only.
    """

    is_sharded = False

    def __init__(self, graph: RescalingGraph, p: float, q: float) -> None:
        self.p, self.q = p, q
        self.slots: dict[str, slice] = {}
        self.size = 1
        for name, group in graph.hidden.items():
            self.slots[name] = slice(self.size, self.size + group.size)
            self.size += group.size
        weights = (graph.model.get_parameter(edge.weight) for edge in graph.edges)
        self.device = next((weight.device for weight in weights), torch.device("cpu"))
        self.layers = self.read_layers(graph)
        none = torch.zeros(0, dtype=torch.long, device=self.device)  # there may be no layer
        self.targets = torch.cat([none, *(layer.targets for layer in self.layers)])
        self.sources = torch.cat([none, *(layer.sources for layer in self.layers)])
        self.live = self.reached(forward=True) & self.reached(forward=False)
        self.live[0] = False

    def read_layers(self, graph: RescalingGraph) -> list[Layer]:
        """The layers, with |W|^p."""
        return [Layer(graph, edge, self.p, self) for edge in graph.edges]

    @property
    def start(self) -> Tensor:
        """The theta of the network as it is: all factors are 1."""
        return torch.zeros(self.size, dtype=torch.float64, device=self.device)

    @property
    def finite(self) -> bool:
        """Whether all weights are surely finite, as sums of |W|^p are; they may just overflow."""
        parts = (part for layer in self.layers for part in layer.parts)
        return all(bool(torch.isfinite(part.plain_sums(True)).all()) for part in parts)

    @property
    def passes(self) -> float:
        """How often the entries of |W|^p have been read, all of them counting as one."""
        entries = sum(layer.shape.numel() for layer in self.layers)
        return sum(layer.read for layer in self.layers) / max(entries, 1)

    def at(self, theta: Tensor) -> PointWithShares:
        """Evaluate F and the shares: one pass for the rows, one for the columns."""
        into, out = [theta[:0]], [theta[:0]]
        for layer in self.layers:
            log_x = -self.p * theta[layer.sources]
            row = layer.whole.sums(_unless_zero(log_x), of_rows=True)
            total = (self.q / self.p) * (self.p * theta[layer.targets] + row)  # ||w_i||_p^q
            log_y = torch.where(row == -math.inf, row, total - row)
            into.append(total)
            out.append(log_x + layer.whole.sums(_unless_zero(log_y), of_rows=False))
        totals = torch.cat(into)
        log_in = _scattered_logsumexp(totals, self.targets, self.size)
        log_out = _scattered_logsumexp(torch.cat(out), self.sources, self.size)
        apart = (log_in - log_out)[self.live].abs()
        return PointWithShares(
            theta,
            float((torch.logsumexp(totals, 0) / self.q).exp()),
            imbalance(float(apart.max())) if len(apart) else 0.0,
            log_in,
            log_out,
        )

    def release(self) -> dict[str, Tensor]:
        """Give up |W|^p, where it is as large as the weights: parameter name -> its memory."""
        memory = {}
        for layer in self.layers:
            weight = layer.graph.weight(layer.edge)
            if (layer.power.numel(), layer.device) == (weight.numel(), weight.device):
                memory[layer.edge.weight] = layer.power
        self.layers = []
        return memory

    def indices(self, group: str, size: int) -> Tensor:
        """Where the units of a group lie in the vector."""
        units = self.slots.get(group)
        if units is None:  # they keep factor 1
            return torch.zeros(size, dtype=torch.long, device=self.device)
        return torch.arange(units.start, units.stop, device=self.device)

    def reached(self, *, forward: bool) -> Tensor:
        """The units to which nonzero weights lead from an input (or back from an output)."""
        reached = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        reached[0], before = True, 0
        # one sweep would do, but for sums that tie a group to one that is computed later
        while before < int(reached.sum()) < self.size:
            before = int(reached.sum())
            for layer in self.layers if forward else reversed(self.layers):
                for part in layer.parts:
                    ends = (layer.sources[part.columns], layer.targets[part.rows])
                    start, end = ends if forward else ends[::-1]
                    reached[end[part.carries(reached[start], to_rows=forward)]] = True
        return reached


class Layer:
    """|W|^p of one edge, summed over taps and repeated columns.

    ``power``, shape (blocks, targets, sources), holds the sums themselves as long as they can be
    trusted, then their logarithms: large p or widely spread weights leave the range of float64,
    and logarithms cost an exponential for every entry of a product. ``read`` counts the entries
    read so far.
    """

    def __init__(self, graph: RescalingGraph, edge: Edge, p: float, orbit: Orbit) -> None:
        self.graph, self.edge, self.p, self.device = graph, edge, p, orbit.device
        self.shape = self._shape()
        self.power = torch.empty(self._held(), dtype=torch.float64, device=self.device)
        self._fill(lambda weight, out: _power(weight, p, out), torch.sum)
        self.is_log, self.read = False, 0
        self.targets = orbit.indices(edge.target, self.shape[0] * self.shape[1])
        self.sources = torch.cat([orbit.indices(s.group, s.size) for s in edge.sources])
        self.parts = tuple(self._split())
        self.whole = self.parts[0] if len(self.parts) == 1 else self.part()

    def part(self, *where: Any) -> Part:
        """Some of the entries: arguments as for :class:`Part`."""
        return Part(self, *where)

    def _shape(self) -> torch.Size:
        """Numbers of blocks, targets and sources."""
        sources = sum(source.size for source in self.edge.sources)
        return torch.Size((*self._weight().shape[:2], sources // self.edge.blocks))

    def _held(self) -> torch.Size:
        """Numbers of those whose entries are in ``power``."""
        return self.shape

    def _split(self) -> Iterator[Part]:
        """A part for each source, or several where it covers a block incompletely."""
        width = self.shape[2]
        at = start = 0
        for source in self.edge.sources:
            while at < start + source.size:
                block, column = divmod(at, width)
                left = start + source.size - at
                count = left // width if column == 0 else 0  # blocks that are covered whole
                after = at + (count * width or min(left, width - column))
                yield self.part(
                    slice(block, block + max(count, 1)),
                    slice(column, width if count else column + after - at),
                    slice(at, after),
                    source.group,
                    slice(at - start, after - start),
                )
                at = after
            start = at

    @cached_property
    def floor(self) -> float:
        """What underflow can take from a sum of |W|^p x with x <= 1, over the resolution."""
        float64 = torch.finfo(torch.float64)
        largest = max((float(part.plain_sums(True).max()) for part in self.parts), default=0.0)
        return float64.tiny * max(self.shape) * (1 + largest) / float64.eps

    def at(self, theta: Tensor) -> Tensor:
        """|W|^p after the rescaling by e^theta, shape as ``power``."""
        log_power = self.power if self.is_log else self.power.log()
        up, down = (theta[ends].view(len(self.power), -1) for ends in (self.targets, self.sources))
        return (log_power + self.p * (up[:, :, None] - down[:, None, :])).exp_()

    def to_log(self) -> None:
        """Hold logarithms from now on."""
        self._fill(lambda w, out: torch.abs(w, out=out).log_().mul_(self.p), torch.logsumexp)
        self.is_log = True

    def leads(self, reached: Tensor, blocks: slice, in_block: slice, *, to_rows: bool) -> Tensor:
        """Whether a nonzero weight leads to each row from a reached column (or the converse).

        Args:
            reached: a bool for each column (or row).
            blocks: blocks of the rows and columns.
            in_block: which columns of each block.
            to_rows: whether it leads to rows, from columns.
        """
        weight = self._weight()[blocks]
        start = reached.view(len(weight), 1, -1) if to_rows else reached.view(len(weight), -1, 1)
        width = self.power[:, :, in_block].shape[2]
        found = reached.new_zeros(len(weight), weight.shape[1] if to_rows else width)
        for where in pieces(weight.shape, 2):
            nonzero = weight[where].to(self.device) != 0
            nonzero = self._per_unit(nonzero, torch.any)[:, :, in_block]
            if to_rows:
                found[where] = (nonzero & start[where[:1]]).any(2)
            else:
                found[where[:1]] |= (nonzero & start[where]).any(1)
        return found.flatten()

    def _fill(
        self,
        of_entries: Callable[[Tensor, Tensor], Tensor],
        combine: Callable[[Tensor, int], Tensor],
    ) -> None:
        """Compute ``power``: of each weight in float64, out into a given place, and combined."""
        weight = self._weight()
        if weight.shape[3] == 1 and not self._repeats:
            weight = weight[..., 0]
            if (weight.dtype, weight.device) == (torch.float64, self.device):
                of_entries(weight, self.power)  # nothing is made on the way
                return
            for where in pieces(weight.shape):
                entries = self.power[where].copy_(weight[where])
                of_entries(entries, entries)
            return
        for where in pieces(weight.shape, 2):
            entries = weight[where].to(self.device, torch.float64, copy=True)
            self.power[where] = self._per_unit(of_entries(entries, entries), combine)

    def _weight(self) -> Tensor:
        """W as it is stored, shape (blocks, targets, columns, taps)."""
        return self.graph.weight(self.edge).detach()

    @property
    def _repeats(self) -> bool:
        return any(source.repeat > 1 for source in self.edge.sources)

    def _per_unit(self, weight: Tensor, combine: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Combine taps and repeated columns: (blocks, targets, columns, taps) -> sources last."""
        weight = weight.squeeze(3) if weight.shape[3] == 1 else combine(weight, 3)
        if not self._repeats:
            return weight
        parts = weight.split([s.size * s.repeat for s in self.edge.sources], 2)  # in one block
        units = ((s.size, s.repeat) for s in self.edge.sources)
        return torch.cat(
            [combine(part.unflatten(2, u), 3) for part, u in zip(parts, units, strict=True)], 2
        )


class Part:
    """The entries of a layer that read one group; by default, all of them.

    Attributes:
        group: name of the group read.
        units: which of its units.
        rows: which rows of the layer the part writes to.
        columns: which of its columns, counted over all blocks, the part reads.
    """

    def __init__(
        self,
        layer: Layer,
        blocks: slice = slice(None),
        in_block: slice = slice(None),
        columns: slice = slice(None),
        group: str = "",
        units: slice = slice(None),
    ) -> None:
        self.layer: Layer = weakref.proxy(layer)  # no cycle, so that |W|^p is freed at once
        self.group, self.units, self.columns = group, units, columns
        self._blocks, self._in_block = blocks, in_block
        n, rows, width = layer.shape
        self.shape = torch.Size((len(range(n)[blocks]), rows, len(range(width)[in_block])))
        first = (blocks.start or 0) * self.shape[1]
        self.rows = slice(first, first + self.shape[0] * self.shape[1])
        self._plain: dict[bool, Tensor] = {}
        self._empty: dict[bool, Tensor] = {}

    @property
    def power(self) -> Tensor:
        """A view of the layer's, shape (blocks, targets, sources)."""
        return self.layer.power[self._blocks, :, self._in_block]

    def sums(self, log_x: Tensor | None, *, of_rows: bool, empty: Tensor | None = None) -> Tensor:
        """Logarithms of the sums over each row (or column) of |W|^p x; -inf where all W are 0.

        Args:
            log_x: log x, one number for each column (or row); None for zeros.
            of_rows: sum over rows rather than columns.
            empty: where no W has an x above 0, if not only where all W are 0.
        """
        if not self.layer.is_log:
            if log_x is None:
                shift, sums = 0.0, self.plain_sums(of_rows)
            else:
                shift = max(float(log_x.max()), _LOWEST)
                sums = self._product((log_x - shift).exp_(), of_rows)
            if self._trusts(sums, of_rows, empty):
                return sums.log().add_(shift)
            self.layer.to_log()
        self.layer.read += self.shape.numel()
        return self._log_product(log_x, of_rows)

    def _log_product(self, log_x: Tensor | None, of_rows: bool) -> Tensor:
        """The sums from logarithms of |W|^p."""
        terms = _oriented(self.power, of_rows)
        sums = terms.new_empty(terms.shape[:2])
        for where in pieces(terms.shape, 2):
            some = terms[where]
            if log_x is not None:
                some = some + log_x.view(len(terms), 1, -1)[where[:1]]
            sums[where] = torch.logsumexp(some, 2)
        return sums.flatten()

    def plain_sums(self, of_rows: bool) -> Tensor:
        """The sums for x = 1: needed to see what is empty, and at the start."""
        if of_rows not in self._plain:
            length = self.shape[0] * self.shape[2 if of_rows else 1]
            ones = torch.ones(length, dtype=torch.float64, device=self.layer.device)
            self._plain[of_rows] = self._product(ones, of_rows)
        return self._plain[of_rows]

    def _product(self, x: Tensor, of_rows: bool) -> Tensor:
        self.layer.read += self.shape.numel()
        return times(_oriented(self.power, of_rows), x)

    def carries(self, reached: Tensor, *, to_rows: bool) -> Tensor:
        """Whether a nonzero weight leads to each row from a reached column (or the converse)."""
        if reached.all():
            return ~self.empty(to_rows)
        return self._leads(reached, to_rows)

    def _trusts(self, sums: Tensor, of_rows: bool, empty: Tensor | None) -> bool:
        """Whether no sum has overflowed, or lost by underflow what could be seen."""
        low, high = map(float, sums.aminmax())
        if self.layer.floor <= low and high < math.inf:
            return True
        doubtful = ~((self.layer.floor <= sums) & (sums < math.inf))  # not >: it may be NaN
        empty = self.empty(of_rows) if empty is None else empty
        return bool(empty[doubtful].all())

    def empty(self, of_rows: bool) -> Tensor:
        """Whether each row (or column) has no nonzero weight."""
        if of_rows not in self._empty:
            empty = None if self.layer.is_log else self.plain_sums(of_rows) == 0
            if empty is None or empty.any():  # underflow may make it look so
                length = self.shape[0] * self.shape[2 if of_rows else 1]
                everywhere = torch.ones(length, dtype=torch.bool, device=self.layer.device)
                empty = ~self._leads(everywhere, of_rows)
            self._empty[of_rows] = empty
        return self._empty[of_rows]

    def _leads(self, reached: Tensor, to_rows: bool) -> Tensor:
        return self.layer.leads(reached, self._blocks, self._in_block, to_rows=to_rows)


def imbalance(log_ratio: float) -> float:
    """|in - out| / (in + out) from log (in / out)."""
    return math.tanh(abs(log_ratio) / 2)


def greedy_colours(near: Sequence[set[int]]) -> list[int]:
    """A colour for each node of a graph, the first that no neighbour has; nodes in their order.

    Args:
        near: for each node the numbers of its neighbours; its own number does not matter.
    """
    colours: list[int] = []
    for neighbours in near:
        taken = {colours[other] for other in neighbours if other < len(colours)}
        colours.append(next(c for c in itertools.count() if c not in taken))
    return colours


def times(matrices: Tensor, x: Tensor) -> Tensor:
    """Products with a vector by blocks: (blocks, m, n) and (blocks * n,) -> (blocks * m,)."""
    blocks = len(matrices)
    if blocks == 1:
        return matrices[0] @ x
    if matrices.shape[2] == 1:
        return (matrices * x.view(blocks, 1, 1)).flatten()
    return (matrices @ x.view(blocks, -1, 1)).flatten()


def _unless_zero(values: Tensor) -> Tensor | None:
    return values if values.any() else None


def _power(weight: Tensor, p: float, out: Tensor) -> Tensor:
    """|W|^p, written to ``out``, which may be W."""
    return torch.square(weight, out=out) if p == 2 else torch.abs(weight, out=out).pow_(p)


def _oriented(matrix: Tensor, of_rows: bool) -> Tensor:
    return matrix if of_rows else matrix.mT


def _scattered_logsumexp(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Logarithm, for each index, of the sum of exp(values) that have it; -inf for none."""
    largest = values.new_full((size,), -math.inf).scatter_reduce_(0, index, values, "amax")
    shift = largest.clamp(min=torch.finfo(values.dtype).min)
    sums = torch.zeros_like(shift).index_add_(0, index, (values - shift[index]).exp())
    return sums.log() + shift

r"""Sums of shares on the orbit of a network, recomputed only where something in them has changed.

The weights fall into *links*: a link holds the shares between two sets of units, each either the
live units of one hidden group or units that keep factor 1. Of each link two vectors are kept,

.. math::

   \mathrm{row}_i = \sum_j |W_{ij}|^p a_j^{-p}, \qquad
   \mathrm{col}_j = \sum_i |W_{ij}|^p \, y_i, \qquad
   y_i = \|w_i\|_p^q \Big/ \sum_j |W_{ij}|^p a_j^{-p},

and one touch of the link's entries computes one of them. For p = q, :math:`y_i = a_i^p`. A factor
common to a whole group multiplies the vectors by a known number, so it makes none of them stale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from balancing._orbit import Layer, Orbit, Part, Point, imbalance

__all__ = ["Link", "Sums"]


@dataclass(eq=False)
class Link:
    """The shares between two sets of units.

    Attributes:
        part: where their entries of |W|^p are.
        layer: number of the layer.
        target: group written to; None if the units keep factor 1.
        source: group read, likewise.
        rows: 0 for the rows that belong to the target, -inf for the others; None if all do.
        columns: the same for the columns and the source.
        empty: whether each row (True) or column (False) has no nonzero weight in the link; only
            of links that do not have all rows and columns, once it was asked for.
    """

    part: Part
    layer: int
    target: str | None
    source: str | None
    rows: Tensor | None
    columns: Tensor | None
    row: _Cached = field(default_factory=lambda: _Cached())
    col: _Cached = field(default_factory=lambda: _Cached())
    sum: _Cached = field(default_factory=lambda: _Cached())
    empty: dict[bool, Tensor] = field(default_factory=dict)

    @property
    def is_diagonal(self) -> bool:
        """Whether each row has one column of its own: depthwise convolution, normalization."""
        return self.part.shape[1:] == (1, 1)


@dataclass(eq=False)
class _Cached:
    """Logarithms of sums, and the versions of what they were computed from."""

    key: object = None
    value: Tensor = field(default_factory=lambda: torch.empty(0))
    version: int = 0  # counts the changes of the value


class Sums:
    """Incoming and outgoing shares at a theta that moves.

    Attributes:
        theta: log factors, shape (units,) as in :class:`Orbit`; replaced, never written to.
        groups: names of the hidden groups with live units.
        live: hidden group -> whether its units are live.
        all_live: hidden group -> whether all of them are.
        links: all links.
        by_layer: the links of each layer.
        into: group -> links whose rows are its live units.
        out_of: group -> links whose columns are its live units.
    """

    def __init__(self, orbit: Orbit) -> None:
        self.orbit, self.p, self.q = orbit, orbit.p, orbit.q
        self.theta = orbit.start
        self.live = {group: orbit.live[units] for group, units in orbit.slots.items()}
        self.groups = [group for group, live in self.live.items() if bool(live.any())]
        self.all_live = {group: bool(live.all()) for group, live in self.live.items()}
        self.by_layer = [list(self._split(i, layer)) for i, layer in enumerate(orbit.layers)]
        self.links = [link for links in self.by_layer for link in links]
        self.into: dict[str, list[Link]] = {group: [] for group in self.groups}
        self.out_of: dict[str, list[Link]] = {group: [] for group in self.groups}
        for link in self.links:
            if link.target is not None:
                self.into[link.target].append(link)
            if link.source is not None:
                self.out_of[link.source].append(link)
        self._version: dict[str | None, int] = dict.fromkeys([None, *self.groups], 0)
        self._row_sums = [_Cached() for _ in orbit.layers]

    def log_in(self, group: str, without: frozenset[Link] = frozenset()) -> Tensor:
        """Logarithms of incoming shares, but for those of some links."""
        links = [link for link in self.into[group] if link not in without]
        if self.p == self.q:
            sums = self._gather(group, [(link.part.rows, self.row(link)) for link in links])
            return sums + self.p * self.theta[self.orbit.slots[group]]
        numbers = dict.fromkeys(link.layer for link in links)
        return self._gather(group, [(slice(None), self.totals(number)) for number in numbers])

    def log_out(self, group: str, without: frozenset[Link] = frozenset()) -> Tensor:
        """Logarithms of outgoing shares, but for those of some links."""
        links = [link for link in self.out_of[group] if link not in without]
        sums = self._gather(group, [(link.part.units, self.col(link)) for link in links])
        return sums - self.p * self.theta[self.orbit.slots[group]]

    def _gather(self, group: str, parts: list[tuple[slice, Tensor]]) -> Tensor:
        """Logarithms of sums over parts, each of which is about some units of the group."""
        size = len(self.live[group])
        if len(parts) == 1 and len(parts[0][1]) == size:
            return parts[0][1]
        sums = self.theta.new_full((size,), -math.inf)
        for units, values in parts:
            _add_to(sums, units, values)
        return sums

    def log_by_row(self, link: Link) -> Tensor:
        """Logarithms of the shares of a link, summed over each of its rows."""
        if self.p == self.q:
            return self.row(link) + self.p * self._at_rows(link)
        rows = self.row_sums(link.layer)[link.part.rows]
        shares = self.totals(link.layer)[link.part.rows] + self.row(link) - rows
        return torch.where(rows == -math.inf, rows, shares)

    def log_by_column(self, link: Link) -> Tensor:
        """Logarithms of the shares of a link, summed over each of its columns."""
        return self.col(link) - self.p * self._at_columns(link)

    def log_sum(self, link: Link) -> Tensor:
        """Logarithm of the sum of all shares of a link, without a touch if there is a way."""
        key = self._row_key(link), self._col_key(link)
        if link.sum.key != key:
            stale = link.row.key != key[0]
            known = link.col.key == key[1] or link.target is None
            by_column = self.p == self.q and stale and known
            shares = self.log_by_column(link) if by_column else self.log_by_row(link)
            link.sum = _Cached((key[0], self._col_key(link)), torch.logsumexp(shares, 0))
        return link.sum.value

    def norm(self) -> float:
        """The norm at theta."""
        if self.p == self.q:
            sums = [self.log_sum(link) for link in self.links]
        else:
            sums = [torch.logsumexp(self.totals(i), 0) for i in range(len(self.by_layer))]
        return float((torch.logsumexp(torch.stack(sums), 0) / self.q).exp()) if sums else 0.0

    def largest_log_ratio(self) -> float:
        """Largest log (in / out) of a live unit, either way; 0 if there is none."""
        ratios = (self.farthest(g, self.log_in(g) - self.log_out(g)) for g in self.groups)
        return max(ratios, default=0.0)

    def farthest(self, group: str, values: Tensor) -> float:
        """Largest absolute value of a live unit."""
        return float((values if self.all_live[group] else values[self.live[group]]).abs().max())

    def point(self) -> Point:
        """The norm and the largest imbalance at theta; what is stale is computed."""
        return Point(self.theta, self.norm(), imbalance(self.largest_log_ratio()))

    def move(self, theta: Tensor) -> None:
        """Go to a theta that has nothing in common with the present one."""
        if theta is not self.theta:
            self.theta = theta
            for group in self.groups:
                self._version[group] += 1

    def add(self, steps: Mapping[str, Tensor]) -> None:
        """Move the live units of some groups."""
        self.theta = self.theta.clone()
        for group, step in steps.items():
            step = step if self.all_live[group] else torch.where(self.live[group], step, 0.0)
            self.theta[self.orbit.slots[group]] += step
            self._version[group] += 1

    def shift(self, steps: Mapping[str, float]) -> None:
        """Move all live units of a group alike, for some groups."""
        before = {
            link: [
                cached.key == key
                for cached, key in (
                    (link.row, self._row_key(link)),
                    (link.col, self._col_key(link)),
                    (link.sum, (self._row_key(link), self._col_key(link))),
                )
            ]
            for link in self.links
        }
        self.add({group: self.theta.new_tensor(step) for group, step in steps.items()})
        for link, (row_fresh, col_fresh, sum_fresh) in before.items():
            up, down = (steps.get(end or "", 0.0) for end in (link.target, link.source))
            if row_fresh:
                value, version = link.row.value - self.p * down, link.row.version + bool(down)
                link.row = _Cached(self._row_key(link), value, version)
            # the rows of a layer that reads one set of units all change alike
            alike = row_fresh and len(self.by_layer[link.layer]) == 1
            if col_fresh and (alike or self.p == self.q):
                value = link.col.value + self.q * up - (self.q - self.p) * down
                link.col = _Cached(self._col_key(link), value)
            if sum_fresh and (alike or self.p == self.q):
                value = link.sum.value + self.q * (up - down)
                link.sum = _Cached((self._row_key(link), self._col_key(link)), value)

    # --- what is kept ---

    def row(self, link: Link) -> Tensor:
        """log sum_j |W_ij|^p / a_j^p over the columns of the link."""
        key = self._row_key(link)
        if link.row.key != key:
            moved = link.source is not None and key != 0
            log_x = -self.p * self._at_columns(link) if moved else None
            sums = self._touch(link, log_x, of_rows=True)
            link.row = _Cached(key, sums, link.row.version + 1)
        return link.row.value

    def col(self, link: Link) -> Tensor:
        """log sum_i |W_ij|^p y_i over the rows of the link."""
        rows = self.row_sums(link.layer)[link.part.rows] if self.p != self.q else None
        key = self._col_key(link)
        if link.col.key != key:
            if rows is None:
                moved = link.target is not None and key != 0
                log_y = self.p * self._at_rows(link) if moved else None
            else:
                total = self.totals(link.layer)[link.part.rows]
                log_y = torch.where(rows == -math.inf, rows, total - rows)
            link.col = _Cached(key, self._touch(link, log_y, of_rows=False))
        return link.col.value

    def row_sums(self, number: int) -> Tensor:
        """The rows of all links of a layer together: log sum_j |W_ij|^p / a_j^p."""
        links = self.by_layer[number]
        values = [self.row(link) for link in links]
        if len(links) == 1:
            return values[0]
        key = tuple(link.row.version for link in links)
        cached = self._row_sums[number]
        if cached.key != key:
            sums = self.theta.new_full(self.orbit.layers[number].targets.shape, -math.inf)
            for link, value in zip(links, values, strict=True):
                _add_to(sums, link.part.rows, value)
            cached = self._row_sums[number] = _Cached(key, sums)
        return cached.value

    def totals(self, number: int) -> Tensor:
        """log ||w_i||_p^q for each row of a layer."""
        layer = self.orbit.layers[number]
        theta = self._at(layer.edge.target, slice(0, len(layer.targets)))
        return self.q * theta + (self.q / self.p) * self.row_sums(number)

    def _row_key(self, link: Link) -> object:
        return self._version[link.source]

    def _col_key(self, link: Link) -> object:
        version = self._version[link.target]
        if self.p == self.q:
            return version
        return version, *(other.row.version for other in self.by_layer[link.layer])

    def _touch(self, link: Link, log_x: Tensor | None, *, of_rows: bool) -> Tensor:
        inside, wanted = (link.columns, link.rows) if of_rows else (link.rows, link.columns)
        empty = None
        if inside is not None:
            log_x = inside if log_x is None else log_x + inside
            if of_rows not in link.empty:  # it takes a look at every weight
                link.empty[of_rows] = ~link.part.carries(inside == 0, to_rows=of_rows)
            empty = link.empty[of_rows]
        sums = link.part.sums(log_x, of_rows=of_rows, empty=empty)
        return sums if wanted is None else sums + wanted

    def _at_rows(self, link: Link) -> Tensor:
        return self._at(self.orbit.layers[link.layer].edge.target, link.part.rows)

    def _at_columns(self, link: Link) -> Tensor:
        return self._at(link.part.group, link.part.units)

    def _at(self, group: str, units: slice) -> Tensor:
        """Log factors of some units of a group, 0 if they keep factor 1."""
        slot = self.orbit.slots.get(group)
        if slot is None:
            return self.theta.new_zeros(units.stop - units.start)
        return self.theta[slot.start + units.start : slot.start + units.stop]

    def _split(self, number: int, layer: Layer) -> Iterator[Link]:
        for part in layer.parts:
            for target, rows in self._sets(layer.edge.target, part.rows):
                for source, columns in self._sets(part.group, part.units):
                    yield Link(part, number, target, source, rows, columns)

    def _sets(self, group: str, units: slice) -> list[tuple[str | None, Tensor | None]]:
        """The live units of a group and the others, each with its mask if there are both."""
        live = self.live.get(group, torch.zeros(0, dtype=torch.bool))[units]
        if not live.any():
            return [(None, None)]
        if live.all():
            return [(group, None)]
        zeros = torch.zeros(live.shape, dtype=torch.float64, device=live.device)
        dead = (None, zeros.masked_fill(live, -math.inf))
        return [(group, zeros.masked_fill(~live, -math.inf)), dead]


def _add_to(sums: Tensor, where: slice, values: Tensor) -> None:
    sums[where] = torch.logaddexp(sums[where], values)

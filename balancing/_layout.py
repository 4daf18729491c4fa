"""Where the units lie in a traced tensor, and where an operation on dimensions takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PASS_EXAMPLE", "Layout", "Unsupported"]

PASS_EXAMPLE = "pass example_input to trace()"


class Unsupported(Exception):  # noqa: N818  (becomes an error or a boundary)
    """Why no factor can pass."""


@dataclass(frozen=True)
class Layout:
    """The dimension that counts units.

    Attributes:
        axis: that dimension: from the front where ``rank`` is known, else -1 for the last one;
            None where every kind of layer may read the tensor, as the network's input.
        rank: number of dimensions with the batch, or None where it is not known.
    """

    axis: int | None = None
    rank: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether units are known to lie in the last dimension."""
        return self.axis is not None and self.axis == (-1 if self.rank is None else self.rank - 1)

    @classmethod
    def last(cls, rank: int | None = None) -> Layout:
        """Units in the last dimension."""
        return cls(-1 if rank is None else rank - 1, rank)

    def of_rank(self, rank: int) -> Layout:
        """The same with the number of dimensions filled in."""
        return Layout.last(rank) if self.axis == -1 else Layout(self.axis, rank)

    def known(self) -> tuple[int, int]:
        """Axis and rank, where both are known."""
        if self.axis is None or self.rank is None:
            raise Unsupported(f"the number of dimensions is not known here; {PASS_EXAMPLE}")
        return self.axis, self.rank

    def broadcast(self, other: Layout) -> Layout | None:
        """The layout of a sum, or None where units would be added to something else."""
        if self.axis is None or other.axis is None:
            mine = other if self.axis is None else self
            theirs = self if self.axis is None else other
            if mine.axis is None or mine.rank is None or theirs.rank is None:
                return mine
            grown = max(0, theirs.rank - mine.rank)
            return Layout(mine.axis + grown, mine.rank + grown)
        if self.rank is None or other.rank is None:
            return Layout.last() if self.is_last and other.is_last else None
        if self.axis - self.rank != other.axis - other.rank:
            return None
        return self if self.rank >= other.rank else other

    def permuted(self, order: Sequence[int]) -> Layout:
        """After ``permute(order)``."""
        axis, rank = self.known()
        return Layout([d % rank for d in order].index(axis), rank)

    def transposed(self, first: int, second: int) -> Layout:
        """After ``transpose(first, second)``."""
        axis, rank = self.known()
        first, second = first % rank, second % rank
        return replace(self, axis={first: second, second: first}.get(axis, axis))

    def without(self, dims: Sequence[int], *, keep: bool) -> Layout:
        """After a reduction over some dimensions, which stay with size 1 if ``keep``."""
        axis, rank = self.known()
        gone = {d % rank for d in dims}
        if axis in gone:
            raise Unsupported("it mixes units: it reduces the dimension that they lie in")
        if keep:
            return self
        return Layout(axis - sum(d < axis for d in gone), rank - len(gone))

    def separates(self, dim: int) -> bool:
        """Whether a dimension counts units: what lies along it are different units."""
        if dim < 0 and self.is_last:
            return dim == -1
        if self.rank is None:
            if dim not in (0, 1, -1):
                raise Unsupported(f"dimension {dim} may be that of the units; {PASS_EXAMPLE}")
            # features of unknown rank: the columns that the next layer reads tell if they are two
            return dim == 1
        return dim % self.rank == self.axis

    def indexed(self, index: Any) -> Layout:
        """After ``tensor[index]`` with whole numbers, slices, None and an ellipsis."""
        axis, rank = self.known()
        parts = list(index) if isinstance(index, tuple) else [index]
        if not all(p is None or p is ... or type(p) in (int, slice) for p in parts):
            raise Unsupported("it is indexed by something other than numbers and slices")
        taken = sum(p is not None and p is not ... for p in parts)
        rest = [slice(None)] * (rank - taken)
        at = parts.index(...) if ... in parts else len(parts)
        parts = [*parts[:at], *rest, *parts[at + 1 :]]
        before, position, new_axis = 0, 0, None
        for part in parts:
            if part is None:
                position += 1
                continue
            if before == axis:
                if part != slice(None):
                    raise Unsupported("it takes some of the units only")
                new_axis = position
            before += 1
            position += isinstance(part, slice)
        return Layout(new_axis, position)

    def stacked(self, dim: int) -> Layout:
        """After a new dimension was put in at ``dim``."""
        axis, rank = self.known()
        return Layout(axis + (dim % (rank + 1) <= axis), rank + 1)

    def flattened(self, start: int, end: int) -> tuple[Layout, bool]:
        """After ``flatten(start, end)``, and whether positions came to lie beside each unit."""
        if self.axis is None or self.rank is None:
            if (start, end) != (1, -1):
                raise Unsupported(
                    "only a flatten of all dimensions from 1 on keeps units apart for certain; "
                    + PASS_EXAMPLE
                )
            # of features with more than two dimensions the next layer's columns will not fit
            return Layout(1, 2), self.axis is None
        axis, rank = self.axis, self.rank
        start, end = start % rank, end % rank
        if start < axis <= end:
            raise Unsupported("it mixes units with what lies before them; flatten from 1 on a map")
        merged = start == axis and end > start
        return Layout(axis - (end - start if axis > end else 0), rank - (end - start)), merged

    def reshaped(self, before: Sequence[int], after: Sequence[int]) -> tuple[Layout, int]:
        """After a reshape of a known shape, and how many positions now lie beside each unit."""
        axis, _ = self.known()
        lead, units = math.prod(before[:axis]), before[axis]
        for new in range(min(1, axis), len(after)):
            if math.prod(after[:new]) == lead and units and after[new] % units == 0:
                return Layout(new, len(after)), after[new] // units
        raise Unsupported("it mixes samples or takes units apart")

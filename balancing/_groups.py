"""The groups of a network while they are being found: some are tied to others, some are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from balancing._layout import Layout, Unsupported
from balancing.graph import Group

__all__ = ["ANYWHERE", "Groups", "Segment", "Stream", "misfit"]

ANYWHERE = Layout()


@dataclass(frozen=True)
class Segment:
    """Units of one group as they lie in a tensor; ``repeat`` is None where it is not known.

    Segments with the same ``flattened`` have the same unknown number of positions.
    """

    group: int
    size: int | None
    repeat: int | None = 1
    flattened: str = ""


@dataclass(frozen=True)
class Stream:
    """The units that a traced tensor carries, and where; or a tuple of such tensors, alike."""

    segments: tuple[Segment, ...]
    layout: Layout = ANYWHERE
    is_tuple: bool = False

    @property
    def is_opaque(self) -> bool:
        """Whether it is the result of a boundary of which nothing is known but that."""
        return len(self.segments) == 1 and self.segments[0].size is None


class Groups:
    """Groups of units, by number, since two of them may still be tied.

    Attributes:
        groups: what is known of each group; where two were tied, the first has it all.
        tied: for each group the number of the one that it was tied to, or its own.
        names: of the groups.
        incidental: groups that are of no interest if no layer reads them.
    """

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.tied: list[int] = []
        self.names: set[str] = set()
        self.incidental: set[int] = set()

    def root(self, number: int) -> int:
        while self.tied[number] != number:
            number = self.tied[number]
        return number

    def add(self, group: Group) -> int:
        self.groups.append(replace(group, name=self.free_name(group.name)))
        self.tied.append(len(self.groups) - 1)
        return len(self.groups) - 1

    def free_name(self, name: str) -> str:
        """The name, or one like it if another group has it."""
        count, found = 1, name
        while found in self.names:
            count += 1
            found = f"{name}:{count}"
        self.names.add(found)
        return found

    def update(self, number: int, **changes: Any) -> None:
        self.groups[number] = replace(self.groups[number], **changes)

    def opaque(self, name: str, why: str, *, incidental: bool = False) -> Stream:
        """Units of which nothing is known but that they keep factor 1."""
        number = self.add(Group(name, 0, frozen=why))
        if incidental:
            self.incidental.add(number)
        return Stream((Segment(number, None, None),))

    def why_frozen(self, stream: Stream) -> str | None:
        """A reason if no unit of the stream may be rescaled."""
        reasons = [self.groups[self.root(s.group)].frozen for s in stream.segments]
        return reasons[0] if None not in reasons else None

    def freeze(self, stream: Stream, reason: str) -> None:
        for segment in stream.segments:
            root = self.root(segment.group)
            if self.groups[root].frozen is None:
                self.update(root, frozen=reason)

    def tie(self, a: Stream, b: Stream, how: str) -> Stream:
        """Give two streams the same factors."""
        layout = a.layout.broadcast(b.layout)
        frozen = [self.why_frozen(stream) for stream in (a, b)]
        if any(frozen):
            for stream, other, why in ((a, b, frozen[1]), (b, a, frozen[0])):
                if why is not None:
                    self.freeze(stream, self.because(how, other, why))
            known = b if a.is_opaque else a
            return replace(known, layout=known.layout if layout is None else layout)
        if layout is None:
            raise Unsupported(f"units would be {how} something else, such as positions")
        problem = misfit(a.segments, b.segments)
        if problem:
            raise Unsupported(f"{problem} {how} each other")
        pairs = zip(a.segments, b.segments, strict=True)
        return Stream(tuple(self.unite(x, y, how) for x, y in pairs), layout)

    def unite(self, a: Segment, b: Segment, how: str) -> Segment:
        """Tie two groups; where one is frozen, freeze the other and keep them apart."""
        one, other = self.groups[self.root(a.group)], self.groups[self.root(b.group)]
        if one.frozen is None and other.frozen is None:
            self.merge(a.group, b.group)
        elif other.frozen is not None:
            self.freeze(Stream((a,)), self.because(how, Stream((b,)), other.frozen))
        elif one.frozen is not None:
            self.freeze(Stream((b,)), self.because(how, Stream((a,)), one.frozen))
        return a if a.size is not None and a.repeat is not None else b

    def merge(self, first: int, second: int) -> None:
        one, other = sorted((self.root(first), self.root(second)))
        if one != other:
            x, y = self.groups[one], self.groups[other]
            self.tied[other] = one
            self.update(
                one,
                size=x.size or y.size,
                activation=y.activation if x.activation == "linear" else x.activation,
                frozen=x.frozen or y.frozen,
            )

    def because(self, how: str, other: Stream, why: str) -> str:
        if why.startswith(("added to", "stacked", "concatenated", "read like")):
            return why  # it was passed on: name what it comes from
        return f"{how} '{self.groups[self.root(other.segments[0].group)].name}', {why}"


def misfit(a: Sequence[Segment], b: Sequence[Segment]) -> str | None:
    """Why the units of two tensors do not correspond, or None if they do."""
    if len(a) != len(b):
        return "concatenations of different groups are"
    for x, y in zip(a, b, strict=True):
        if x.size != y.size and None not in (x.size, y.size):
            return f"{x.size} and {y.size} units are"
        if x.repeat != y.repeat and None not in (x.repeat, y.repeat):
            return f"channels of {x.repeat} and {y.repeat} positions are"
    return None

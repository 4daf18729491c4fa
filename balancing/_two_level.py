r"""The two-level method: exact updates of groups that do not interact, then of groups as a whole.

Units of groups that no weight joins do not interact, so all of them can be updated at once, each
to the minimum over its own factor: for p = q the factor :math:`(\mathrm{out}/\mathrm{in})^{1/2p}`.
A *sweep* updates the groups colour by colour. What it leaves is nearly constant within a group. So
a *coarse step* follows, with one factor for each group; its coefficients are sums that the sweep
has left behind, and it costs no pass over the weights. Sweeps that still converge slowly are
extrapolated (Anderson 1965).

For p != q the update minimizes an upper bound of the norm, as Algorithm 1 of Saul 2023 does, but
for one colour at a time: the factor is :math:`(\mathrm{out}/\mathrm{in})^{1/(q + \max(p, q))}`. For
q > p the bound allows for units of a group that all move alike, which the coarse step sees to; so
the exponent :math:`1/(q + p)` is tried first.

A sweep that raises the norm is undone, and what follows is more careful: no extrapolation, the
guaranteed exponent, at last Algorithm 1. Sweeps that stall give way to Newton's method. For p = q
the problem is matrix balancing, and the sweeps are Osborne's (1960). The rest is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from balancing._exponentials import least_sum
from balancing._newton import newton_direction
from balancing._orbit import Orbit, Point, greedy_colours, imbalance
from balancing._sums import Link, Sums

__all__ = ["two_level"]

_WINDOW = 5  # sweeps that are combined in an extrapolation
_SLOW = 0.1  # extrapolate once a sweep leaves more than this of the imbalance
_ROUNDING = 1e-14  # relative rise of the norm that rounding may cause
_LIGHT = 0.1  # share of the entries that are swept twice as often
_PATIENCE = 30  # passes before a stall is looked for
_STALL = 5  # sweeps that should leave at most a tenth of the imbalance
_HALVINGS = 12


def two_level(orbit: Orbit, tol: float) -> Iterator[Point]:
    """Points of falling norm, the start first; a sweep costs about two passes.

    Once sweeps are extrapolated, the imbalance of a point is the largest met during its sweep,
    unless the tolerance is near: to know it at the point itself would take one more pass.
    """
    method = _TwoLevel(orbit, tol)
    point = method.sums.point()
    while True:
        yield point
        point = method.advance(point)


class _TwoLevel:
    def __init__(self, orbit: Orbit, tol: float) -> None:
        self.orbit, self.tol, self.sums = orbit, tol, Sums(orbit)
        blocks = _blocks(self.sums)
        self.colours = _colours(blocks, self.sums)
        light = _light(blocks, self.sums)
        self.light_colours = [[b for b in colour if b in light] for colour in self.colours]
        self.coarse_links, self.coarse_exponents = _coarse_problem(self.sums)
        self.chain = _chain(self.coarse_links)
        self.history = _History()
        self.start = orbit.start  # where the next sweep begins
        self.careful = self.extrapolates = self.stalled = False
        self.known = True  # whether the imbalance of the latest point is its own
        self.met: list[float] = []  # largest log (in / out) that each sweep has met
        self.by_newton: list[float] = []  # imbalance after each Newton step

    def advance(self, point: Point) -> Point:
        """The next point; its norm is not higher."""
        limit = _limit(point, self.sums.q)
        self.stalled = self.stalled or self.stalls()
        new = self.newton(point) if self.stalled else None
        if new is None:
            if not self.met:
                self.start = point.theta
            new = self.swept(self.start)
            if new.norm > limit and self.start is not point.theta:
                self.history.clear()
                self.start = point.theta
                new = self.swept(self.start)
            if new.norm > limit and not self.careful:
                self.careful = True
                new = self.swept(self.start)
        if new.norm > limit:
            new = self.multiplicative(point.theta)
        self.extrapolates |= new.max_imbalance > _SLOW * point.max_imbalance
        if self.extrapolates:
            self.start = self.history.next(self.start, new.theta)
        if self.known:  # all sums there are, which is worth more than to extrapolate
            self.start = new.theta
        return new

    def stalls(self) -> bool:
        """Whether sweeps have come to bring next to nothing."""
        met, passes = self.met, self.orbit.passes
        return passes > _PATIENCE and len(met) > _STALL and met[-1] > 0.1 * met[-1 - _STALL]

    def swept(self, theta: Tensor) -> Point:
        """The point after a sweep from theta, with coarse steps."""
        sums, tol, self.known = self.sums, self.tol, True
        sums.move(theta)
        for colour in self.light_colours:
            sums.add(self.update(colour)[1])
        met = 0.0
        for colour in self.colours:
            log_ratio, steps = self.update(colour)
            if colour is self.colours[-1] and imbalance(log_ratio) <= tol:
                point = sums.point()
                if point.max_imbalance <= tol:
                    return point
            sums.add(steps)
            met = max(met, log_ratio)
            if colour is self.colours[0]:
                self.coarse_step()
        self.coarse_step()
        # what to expect now, if this sweep has gained as much as the one before
        expected = met * min(1.0, met / self.met[-1]) if self.met else 0.0
        self.met.append(met)
        if self.extrapolates and imbalance(expected) > tol:
            self.known = False
            return Point(sums.theta, sums.norm(), imbalance(met))
        return sums.point()

    def update(self, colour: list[_Block]) -> tuple[float, dict[str, Tensor]]:
        """Largest log (in / out) of the units of one colour, and their steps."""
        met, steps = 0.0, {}
        for block in colour:
            log_ratio, moves = block.step(self.sums, careful=self.careful)
            met = max(met, log_ratio)
            steps.update(moves)
        return met, steps

    def coarse_step(self) -> None:
        """The best factor for each group as a whole.

        For p != q, and layers that read several groups, that of an approximation, in which the
        shares of all columns vary by themselves.
        """
        if self.chain is not None:
            # the slopes vanish where the sums of all links are equal
            logs = torch.stack([self.sums.log_sum(link) for link in self.chain])
            steps = (logs.mean() - logs).cumsum(0) / self.sums.q
            groups = [link.target or "" for link in self.chain[:-1]]
            self.sums.shift(dict(zip(groups, steps.tolist(), strict=False)))
        elif self.coarse_links:
            log_sums = torch.stack([self.sums.log_sum(link) for link in self.coarse_links])
            found = least_sum(log_sums.numpy(force=True)[:, None], self.coarse_exponents)[:, 0]
            self.sums.shift(dict(zip(self.sums.groups, found.tolist(), strict=True)))

    def newton(self, point: Point) -> Point | None:
        """The point after a Newton step, halved as long as the norm rises; None for none.

        Where shares are lost in the rounding of the norm, steps are judged by nothing: if they
        bring no balance, sweeps take their turn.
        """
        recent = [*self.by_newton[-_STALL:], point.max_imbalance]
        if len(recent) > _STALL and recent[-1] > recent[0] / 2:
            self.stalled, self.met, self.by_newton = False, [], []
            return None
        self.by_newton, self.known = recent, True
        step = newton_direction(self.orbit, point.theta, self.tol)
        for halvings in range(_HALVINGS if step is not None else 0):
            self.sums.move(point.theta + step / 2**halvings)
            new = self.sums.point()
            if new.norm <= _limit(point, self.sums.q):
                return new
        return None

    def multiplicative(self, theta: Tensor) -> Point:
        """The point after a step of Algorithm 1."""
        sums, self.known = self.sums, True
        sums.move(theta)
        exponent = 1 / (4 * max(sums.p, sums.q))
        sums.add({g: (sums.log_out(g) - sums.log_in(g)) * exponent for g in sums.groups})
        return sums.point()


@dataclass(frozen=True, eq=False)
class _Block:
    """Groups whose units are updated together: channel by channel.

    Attributes:
        groups: their names; more than one only if diagonal links join them.
        diagonals: the diagonal links between them.
        loops: links from a group to itself.
        fixed: diagonal links from a group to itself: their shares never change.
    """

    groups: tuple[str, ...]
    diagonals: tuple[Link, ...]
    loops: tuple[Link, ...]
    fixed: tuple[Link, ...]

    def step(self, sums: Sums, *, careful: bool) -> tuple[float, dict[str, Tensor]]:
        """Largest log (in / out) now, and how far each unit is to move."""
        p, q = sums.p, sums.q
        m = max(p, q) if careful else p
        if len(self.groups) == 1 and (p != q or not (self.loops or self.fixed)):
            [group] = self.groups
            log_in, log_out = sums.log_in(group), sums.log_out(group)
            # units that a weight joins need Algorithm 1's bound
            exponent = 4 * max(p, q) if self.loops else q + m
            steps = (log_out - log_in) / exponent
            return sums.farthest(group, log_in - log_out), {group: steps}
        inner = frozenset((*self.diagonals, *self.loops, *self.fixed))
        eye = np.eye(len(self.groups))
        slopes, exponents = [], []

        def add(log_slope: Tensor, exponent: NDArray[np.float64]) -> None:
            slopes.append(log_slope)
            exponents.append(exponent)

        for i, group in enumerate(self.groups):
            add(sums.log_in(group, inner), q * eye[i])
            add(sums.log_out(group, inner), -m * eye[i])
        for link in self.loops:  # the bound of (a_i / a_j)^p by (a_i^2p + a_j^-2p) / 2
            i = self.groups.index(link.target or "")
            add(sums.log_by_row(link), 2 * p * eye[i])
            add(sums.log_by_column(link), -2 * p * eye[i])
        for link in self.diagonals:
            t, s = (self.groups.index(end or "") for end in (link.target, link.source))
            add(sums.log_by_row(link), q * (eye[t] - eye[s]))
        log_slopes, signs = torch.stack(slopes), np.stack(exponents)
        met = 0.0
        for i, group in enumerate(self.groups):
            into, out = log_slopes[signs[:, i] > 0], log_slopes[signs[:, i] < 0]
            log_ratio = torch.logsumexp(into, 0) - torch.logsumexp(out, 0)
            met = max(met, sums.farthest(group, log_ratio))
        moves = torch.from_numpy(least_sum(log_slopes.numpy(force=True), signs)).to(log_slopes)
        return met, dict(zip(self.groups, moves, strict=True))


def _coarse_problem(sums: Sums) -> tuple[list[Link], NDArray[np.float64]]:
    """The links whose sums a factor for each group changes, and how: shape (links, groups)."""
    number = {group: i for i, group in enumerate(sums.groups)}
    links = [link for link in sums.links if link.target != link.source]
    exponents = np.zeros((len(links), len(number)))
    for row, link in enumerate(links):
        for end, exponent in ((link.target, sums.q), (link.source, -sums.q)):
            if end is not None:
                exponents[row, number[end]] = exponent
    return links, exponents


def _chain(links: list[Link]) -> list[Link] | None:
    """The links in the order of a chain of groups, from outside to outside; None if it is none."""
    behind = {link.source: link for link in links}
    chain: list[Link] = []
    at: str | None = None
    while at in behind:
        chain.append(behind.pop(at))
        at = chain[-1].target
    return chain if links and len(chain) == len(links) and at is None else None


def _limit(point: Point, q: float) -> float:
    """What rounding may make of the norm; its power, F, is kept as a logarithm."""
    return point.norm * (1 + _ROUNDING * (1 + abs(q * math.log(point.norm)) / 10))


def _blocks(sums: Sums) -> list[_Block]:
    """The groups, those joined by diagonal links together unless other links join them, too."""
    sizes = {group: len(sums.live[group]) for group in sums.groups}
    between: dict[frozenset[str], list[Link]] = {}
    for link in sums.links:
        if link.target is not None and link.source is not None:
            between.setdefault(frozenset((link.target, link.source)), []).append(link)

    def joins(link: Link) -> bool:
        full = link.part.shape[0] == sizes[link.target or ""] == sizes[link.source or ""]
        return link.is_diagonal and full

    block = {group: [group] for group in sums.groups}
    for pair, links in between.items():
        if len(pair) == 1 or not all(map(joins, links)):
            continue
        one, other = (block[group] for group in pair)
        across = (between.get(frozenset((a, b)), []) for a in one for b in other)
        looped = any(frozenset((group,)) in between for group in (*one, *other))
        if one is other or looped or not all(joins(link) for links in across for link in links):
            continue
        one.extend(other)
        block.update(dict.fromkeys(other, one))
    result = []
    for groups in {id(groups): groups for groups in block.values()}.values():
        inner = [link for a in groups for link in sums.into[a] if link.source in groups]
        own = [link for link in inner if link.target == link.source]
        result.append(
            _Block(
                tuple(groups),
                tuple(link for link in inner if link.target != link.source),
                tuple(link for link in own if not joins(link)),
                tuple(link for link in own if joins(link)),
            )
        )
    return result


def _light(blocks: list[_Block], sums: Sums) -> list[_Block]:
    """The blocks with the fewest entries: in narrow layers sweeps are slow, and cost little."""

    def entries(block: _Block) -> int:
        links = (link for g in block.groups for link in (*sums.into[g], *sums.out_of[g]))
        return sum(link.part.shape.numel() for link in links)

    left = _LIGHT * sum(link.part.shape.numel() for link in sums.links)
    light = []
    for block in sorted(blocks, key=entries):
        left -= entries(block)
        if left < 0:
            break
        light.append(block)
    return light


def _colours(blocks: list[_Block], sums: Sums) -> list[list[_Block]]:
    """The blocks by colour: no link joins two of one colour."""
    number = {group: i for i, block in enumerate(blocks) for group in block.groups}
    near: list[set[int]] = [set() for _ in blocks]
    for link in sums.links:
        if link.target is not None and link.source is not None:
            a, b = number[link.target], number[link.source]
            near[a].add(b)
            near[b].add(a)
    chosen = greedy_colours(near)
    return [
        [block for block, c in zip(blocks, chosen, strict=True) if c == colour]
        for colour in range(max(chosen, default=-1) + 1)
    ]


class _History:
    """Starts and results of the latest sweeps, for Anderson acceleration."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.starts: list[Tensor] = []
        self.ends: list[Tensor] = []

    def next(self, start: Tensor, end: Tensor) -> Tensor:
        """Add a sweep; returns where the combination of all would not move, if they were linear."""
        self.starts = [*self.starts[-_WINDOW:], start]
        self.ends = [*self.ends[-_WINDOW:], end]
        if len(self.ends) == 1:
            return end
        ends = torch.stack(self.ends)
        moves = ends - torch.stack(self.starts)
        changes = (moves[1:] - moves[:-1]).T
        scale = changes.norm(dim=0).clamp(min=torch.finfo(changes.dtype).tiny)
        weights = torch.linalg.lstsq(changes / scale, moves[-1, :, None]).solution[:, 0] / scale
        mixed = end - (ends[1:] - ends[:-1]).T @ weights
        return mixed if bool(torch.isfinite(mixed).all()) else end

"""One entry of the ledger, and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

__all__ = ["Claim", "Outcome"]


@dataclass(frozen=True)
class Claim:
    """One statement and its check.

    Attributes:
        id: short name, for example ``"du2018.thm2.1"``.
        paper: authors and year.
        where: where the paper has it, or "ours".
        statement: what is claimed, in words with TeX between dollar signs.
        status: ``"stated"``, ``"recalled"`` or ``"derived"``.
        measured: what the measured number is; of one seed, if ``per_seed``.
        accept: smallest and largest number for which the claim holds.
        check: computes the number; takes the recorded table if ``experiment`` is given.
        experiment: name of the recorded experiment that the check reads, or None.
        per_seed: the claim is about every seed of the table by itself: the check gets the rows of
            one seed after the other. Otherwise it gets all rows at once.
        share: the claim holds if it does for at least this share of the seeds; above 0, at most 1.
        reason: why less than all seeds are enough; empty if ``share`` is 1.

    Raises:
        ValueError: ``per_seed`` without an experiment, a share that is not above 0 and at most 1,
            a share below 1 for what is not judged per seed, or without a reason.
    """

    id: str
    paper: str
    where: str
    statement: str
    status: Literal["stated", "recalled", "derived"]
    measured: str
    accept: tuple[float, float]
    check: Callable[..., float]
    experiment: str | None = None
    per_seed: bool = False
    share: float = 1.0
    reason: str = ""

    def __post_init__(self) -> None:
        """Reject a claim that cannot be judged, naming the entry."""
        if self.per_seed and self.experiment is None:
            raise ValueError(f"{self.id}: per_seed needs an experiment, whose table has the seeds")
        if not 0 < self.share <= 1:
            raise ValueError(f"{self.id}: share must be above 0 and at most 1, got {self.share}")
        if self.share < 1 and not self.per_seed:
            raise ValueError(f"{self.id}: share below 1 needs per_seed=True")
        if (self.share < 1) != bool(self.reason):
            raise ValueError(
                f"{self.id}: reason must say why a share below 1 is enough, and only then"
            )

    def judge(self, table: pd.DataFrame | None = None) -> Outcome:
        """Compute the number, or one for each seed, and compare with what is accepted.

        Args:
            table: the recorded table, for a claim with an experiment.

        Raises:
            ValueError: the claim is about every seed, and the table has no column ``seed``.
        """
        if table is None:
            value = float(self.check())
            return Outcome(value, value, 0, None, None, (), self._accepts(value))
        if not self.per_seed:
            value = float(self.check(table))
            seeds = int(table["seed"].nunique()) if "seed" in table else 0
            return Outcome(value, value, seeds, None, None, (), self._accepts(value))
        if "seed" not in table:
            raise ValueError(
                f"the recorded table '{self.experiment}.csv' does not have what the claim "
                f"{self.id} reads (no column seed); record it again: "
                f"balancing reproduce {self.experiment}"
            )
        values = {
            int(seed): float(self.check(table[table["seed"] == seed]))
            for seed in sorted(table["seed"].unique())
        }
        fails = tuple(seed for seed, value in values.items() if not self._accepts(value))
        # a share such as 0.9 of 20 seeds is 18 of them, whatever its last bit
        needed = max(1, math.ceil(self.share * len(values) - 1e-9))
        holds = len(values) - len(fails)
        return Outcome(
            float(np.median(list(values.values()))) if values else math.nan,
            max(values.values(), key=self._badness, default=math.nan),
            len(values),
            holds,
            needed,
            fails,
            holds >= needed,
        )

    def _accepts(self, value: float) -> bool:
        low, high = self.accept
        return low <= value <= high

    def _badness(self, value: float) -> tuple[bool, float]:
        """The larger, the worse; NaN is the worst of all."""
        low, high = self.accept
        if math.isnan(value):
            return True, math.inf
        if not low <= value <= high:
            return True, max(low - value, value - high)
        # "at most" and "at least": 0 and infinity are the other ends then, and no bounds to near
        if low == 0:
            return False, value
        return False, -value if math.isinf(high) else abs(value - (low + high) / 2)


@dataclass(frozen=True)
class Outcome:
    """What a claim's check has found.

    Attributes:
        value: the number; the median over the seeds of a claim about every seed.
        worst: that of the seed for which the claim does worst; ``value`` for other claims.
        seeds: number of seeds in the table; 0 without a table or a column ``seed``.
        held: number of seeds for which the claim holds; None unless it is about every seed.
        needed: for how many it must; None unless it is about every seed.
        exceptions: the seeds for which it does not hold.
        holds: the verdict.
    """

    value: float
    worst: float
    seeds: int
    held: int | None
    needed: int | None
    exceptions: tuple[int, ...]
    holds: bool

"""One entry of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """One statement and its check.

    Attributes:
        id: short name, for example ``"du2018.thm2.1"``.
        paper: authors and year.
        where: where the paper has it, or "ours".
        statement: what is claimed, in words with TeX between dollar signs.
        status: ``"stated"``, ``"recalled"`` or ``"derived"``.
        measured: what the measured number is.
        accept: smallest and largest number for which the claim holds.
        check: computes the number; takes the recorded table if ``experiment`` is given.
        experiment: name of the recorded experiment that the check reads, or None.
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

"""The ledger: what each paper says, how it is checked here, and the verdict.

A claim has one measured number and the interval in which that number must lie for the claim to
hold. Quick checks compute the number on the spot, on random networks with fixed seeds. Claims
about an experiment read the table that ``balancing reproduce`` records.

Status words: *stated* (in the paper's abstract or the summary that we work from), *recalled*
(from knowledge of the paper; re-derived here), *derived* (worked out here; not claimed to be in
the paper).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from balancing.claims import (
    du2018,
    du2018_optimizers,
    du2018_runs,
    faster,
    saul2023,
    saul2023_flows,
)
from balancing.claims.claim import Claim
from balancing.experiments._record import recorded
from balancing.experiments._settings import bar

__all__ = ["LEDGER", "LEDGERS", "Claim", "evaluate", "to_markdown"]

#: The claims of each paper and those of ours that belong to it.
LEDGERS: dict[str, tuple[Claim, ...]] = {
    "du2018": du2018.CLAIMS + du2018_runs.CLAIMS + du2018_optimizers.CLAIMS,
    "saul2023": saul2023.CLAIMS + faster.CLAIMS + saul2023_flows.CLAIMS,
}
LEDGER: tuple[Claim, ...] = tuple(claim for claims in LEDGERS.values() for claim in claims)


_COLUMNS = (
    "id",
    "paper",
    "where",
    "statement",
    "status",
    "measured",
    "value",
    "low",
    "high",
    "verdict",
)


def evaluate(
    claims: Iterable[Claim] | None = None,
    *,
    results: Path | str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Check claims; None means the whole ledger.

    Args:
        claims: the claims to check.
        results: folder with the recorded tables, ``<experiment>.csv``. Claims whose table is
            not there get the verdict ``"not run"``.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row a claim: id, paper, where, statement, status, measured, value, low, high, verdict
        (``"holds"``, ``"fails"`` or ``"not run"``).

    Raises:
        TypeError: ``claims`` holds something else than claims.
        ValueError: a recorded table is damaged or lacks a column (the message names the file).
        OSError: it cannot be read.
    """
    chosen = LEDGER if claims is None else tuple(claims)
    for claim in chosen:
        if not isinstance(claim, Claim):
            raise TypeError(f"claims must be Claim objects, got {claim!r}")
    rows = []
    for claim in bar(chosen, "claims", progress):
        table = _recorded(results, claim.experiment) if claim.experiment else None
        if claim.experiment and table is None:
            value, verdict = float("nan"), "not run"
        else:
            try:
                value = claim.check() if table is None else claim.check(table)
            except (KeyError, IndexError) as error:
                if table is None:
                    raise
                raise ValueError(
                    f"the recorded table '{claim.experiment}.csv' does not have what the claim "
                    f"{claim.id} reads ({error!r}); record it again"
                ) from error
            low, high = claim.accept
            verdict = "holds" if low <= value <= high else "fails"
        rows.append(
            {
                "id": claim.id,
                "paper": claim.paper,
                "where": claim.where,
                "statement": claim.statement,
                "status": claim.status,
                "measured": claim.measured,
                "value": value,
                "low": claim.accept[0],
                "high": claim.accept[1],
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _recorded(results: Path | str | None, experiment: str) -> pd.DataFrame | None:
    return None if results is None else recorded(Path(results), experiment)


def to_markdown(report: pd.DataFrame) -> str:
    """Render the outcome of :func:`evaluate` as a Markdown table with typeset formulas.

    Raises:
        TypeError: ``report`` is no DataFrame.
        ValueError: it lacks a column.
    """
    if not isinstance(report, pd.DataFrame):
        raise TypeError(f"report must be what evaluate() returned, got {type(report).__name__}")
    if missing := [name for name in _COLUMNS if name not in report]:
        raise ValueError(f"report must be what evaluate() returned; it lacks '{missing[0]}'")
    lines = ["| Claim | Status | Measured | Accepted | Verdict |", "|---|---|---|---|---|"]
    for row in report.to_dict("records"):
        value = "–" if row["verdict"] == "not run" else _tex(row["value"])
        if row["low"] == 0:
            accepted = f"at most {_tex(row['high'])}"
        elif row["high"] == np.inf:
            accepted = f"at least {_tex(row['low'])}"
        else:
            accepted = f"{_tex(row['low'])} to {_tex(row['high'])}"
        lines.append(
            f"| **{row['where']}** (`{row['id']}`). {row['statement']} | {row['status']} "
            f"| {row['measured']}: {value} | {accepted} | **{row['verdict']}** |".replace(
                "\\|",
                "\\Vert ",  # in a table, a backslash and a bar are one bar
            )
        )
    return "\n".join(lines)


def _tex(value: float) -> str:
    """A number with two significant digits below 0.01, so that rounding noise is not printed."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"

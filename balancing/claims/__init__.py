"""The ledger: what each paper says, how it is checked here, and the verdict.

A claim has one measured number and the interval in which that number must lie for the claim to
hold. Quick checks compute the number on the spot, on random networks with fixed seeds. Claims
about an experiment read the table that ``balancing reproduce`` records. Where the statement is one
about a run, every seed of the table is judged by itself, and the claim holds if it does for all of
them, or for the share that the claim names. Where it is about the seeds together (a probability, a
slope of medians), there is one number.

Status words: *stated* (in the paper's abstract or the summary that we work from), *recalled*
(from knowledge of the paper; re-derived here), *derived* (worked out here; not claimed to be in
the paper).
"""

from __future__ import annotations

import math
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
from balancing.claims.claim import Claim, Outcome
from balancing.experiments._record import recorded
from balancing.experiments._settings import bar

__all__ = ["LEDGER", "LEDGERS", "Claim", "Outcome", "evaluate", "to_markdown", "to_text"]

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
    "worst",
    "low",
    "high",
    "seeds",
    "held",
    "needed",
    "exceptions",
    "reason",
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
        One row a claim. Columns: ``id``, ``paper``, ``where``, ``statement``, ``status``,
        ``measured``; ``value``, the number, of a claim about every seed its median over them;
        ``worst``, that of the worst seed; ``low``, ``high``, the accepted interval; ``seeds``, of
        the recorded table (0 for none); ``held``, ``needed``, the number of seeds for which a claim
        about every seed holds and must hold (missing for other claims); ``exceptions``, the seeds
        for which it does not; ``reason``, why some may fail; ``verdict``, ``"holds"``, ``"fails"``
        or ``"not run"``.

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
            outcome, verdict = _NOT_RUN, "not run"
        else:
            try:
                outcome = claim.judge(table)
            except (KeyError, IndexError) as error:
                if table is None:
                    raise
                raise ValueError(
                    f"the recorded table '{claim.experiment}.csv' does not have what the claim "
                    f"{claim.id} reads ({error!r}); record it again"
                ) from error
            verdict = "holds" if outcome.holds else "fails"
        rows.append(
            {
                "id": claim.id,
                "paper": claim.paper,
                "where": claim.where,
                "statement": claim.statement,
                "status": claim.status,
                "measured": claim.measured,
                "value": outcome.value,
                "worst": outcome.worst,
                "low": claim.accept[0],
                "high": claim.accept[1],
                "seeds": outcome.seeds,
                "held": outcome.held,
                "needed": outcome.needed,
                "exceptions": outcome.exceptions,
                "reason": claim.reason,
                "verdict": verdict,
            }
        )
    report = pd.DataFrame(rows, columns=_COLUMNS)
    return report.astype({"held": "Int64", "needed": "Int64"})


_NOT_RUN = Outcome(math.nan, math.nan, 0, None, None, (), holds=False)


def _recorded(results: Path | str | None, experiment: str) -> pd.DataFrame | None:
    return None if results is None else recorded(Path(results), experiment)


def to_text(report: pd.DataFrame) -> str:
    """Render the outcome of :func:`evaluate` as lines for a terminal, with counts at the end.

    Raises:
        TypeError: ``report`` is no DataFrame.
        ValueError: it lacks a column.
    """
    _check_report(report)
    lines = []
    for row in report.to_dict("records"):
        line = f"{row['verdict']:8} {row['id']:28} {row['value']:10.3g}"
        if pd.notna(row["held"]):
            line += f" (worst {row['worst']:.3g}), holds in {row['held']} of {row['seeds']} seeds"
            if row["needed"] < row["seeds"]:
                line += f", {row['needed']} needed"
            if row["exceptions"]:
                line += f", not in {', '.join(map(str, row['exceptions']))}"
        elif row["seeds"]:
            line += f" from {row['seeds']} seeds"
        accepted = f"accepted {row['low']:g} to {row['high']:g}"
        lines.append(f"{line}  {accepted}: {row['measured']}")
    counts = report["verdict"].value_counts()
    words = ("holds", "fails", "not run")
    return "\n".join([*lines, ", ".join(f"{counts.get(word, 0)} {word}" for word in words)])


def _check_report(report: object) -> None:
    if not isinstance(report, pd.DataFrame):
        raise TypeError(f"report must be what evaluate() returned, got {type(report).__name__}")
    if missing := [name for name in _COLUMNS if name not in report]:
        raise ValueError(f"report must be what evaluate() returned; it lacks '{missing[0]}'")


def to_markdown(report: pd.DataFrame) -> str:
    """Render the outcome of :func:`evaluate` as a Markdown table with typeset formulas.

    Raises:
        TypeError: ``report`` is no DataFrame.
        ValueError: it lacks a column.
    """
    _check_report(report)
    lines = ["| Claim | Status | Measured | Accepted | Verdict |", "|---|---|---|---|---|"]
    for row in report.to_dict("records"):
        judged = pd.notna(row["held"])
        value = "–" if row["verdict"] == "not run" else _tex(row["value"])
        if judged:
            value = f"median {value}, worst {_tex(row['worst'])}"
        elif row["seeds"]:
            value += f" ({row['seeds']} seeds)"
        if row["low"] == 0:
            accepted = f"at most {_tex(row['high'])}"
        elif row["high"] == np.inf:
            accepted = f"at least {_tex(row['low'])}"
        else:
            accepted = f"{_tex(row['low'])} to {_tex(row['high'])}"
        verdict = f"**{row['verdict']}**"
        if judged:
            verdict += f" in {row['held']} of {row['seeds']}"
            if row["reason"]:
                accepted += f", in {row['needed']} of {row['seeds']}: {row['reason']}"
        lines.append(
            f"| **{row['where']}** (`{row['id']}`). {row['statement']} | {row['status']} "
            f"| {row['measured']}: {value} | {accepted} | {verdict} |".replace(
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

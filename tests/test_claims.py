"""The ledger: its entries, how a verdict comes about, and that the claims hold."""

import itertools
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from balancing.claims import LEDGER, Claim, evaluate, to_markdown

RESULTS = Path(__file__).parent.parent / "book" / "results"
COLUMNS = [
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
]


def fake(value: float = 0.5, accept: tuple[float, float] = (0, 1), **changes: object) -> Claim:
    entries: dict[str, object] = {
        "id": "test.claim",
        "paper": "A and B",
        "where": "Theorem 1",
        "statement": "It holds.",
        "status": "derived",
        "measured": "a number",
        "accept": accept,
        "check": lambda: value,
    }
    return Claim(**(entries | changes))


@pytest.mark.parametrize(
    ("value", "accept", "verdict"),
    [
        (0.5, (0, 1), "holds"),
        (0, (0, 1), "holds"),
        (1, (0, 1), "holds"),
        (1.0001, (0, 1), "fails"),
        (-1e-9, (0, 1), "fails"),
        (1e300, (0.1, math.inf), "holds"),
        (0.05, (0.1, math.inf), "fails"),
        (math.nan, (0, 1), "fails"),
    ],
)
def test_verdict(value: float, accept: tuple[float, float], verdict: str) -> None:
    report = evaluate([fake(value, accept)])
    assert list(report.columns) == COLUMNS
    row = report.iloc[0]
    assert row["verdict"] == verdict
    assert (row["low"], row["high"]) == accept
    assert row["value"] == value or math.isnan(value)
    assert row["id"] == "test.claim"


def test_order_is_kept_and_none_is_left_out() -> None:
    claims = [fake(id=f"test.{i}") for i in (2, 0, 1)]
    assert evaluate(iter(claims))["id"].tolist() == ["test.2", "test.0", "test.1"]


def test_no_claims_give_an_empty_table() -> None:
    assert list(evaluate([]).columns) == COLUMNS


def recorded(name: str = "some.table") -> Claim:
    return fake(check=lambda table: float(table["x"].sum()), experiment=name)


def test_recorded_table_is_read(tmp_path: Path) -> None:
    pd.DataFrame({"x": [0.25, 0.5]}).to_csv(tmp_path / "some.table.csv", index=False)
    for folder in (tmp_path, str(tmp_path)):
        report = evaluate([recorded(), recorded("other.table")], results=folder)
        assert report["verdict"].tolist() == ["holds", "not run"]
        assert report["value"].iloc[0] == 0.75
        assert math.isnan(report["value"].iloc[1])


def test_without_results_the_table_is_not_run() -> None:
    assert evaluate([recorded()])["verdict"].tolist() == ["not run"]


def cells(markdown: str) -> list[list[str]]:
    """The cells of the table as a Markdown parser sees them, row by row."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    rows: list[list[str]] = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(token.content)
    return rows


def test_markdown() -> None:
    claims = [
        fake(2e-16, (0, 1e-9)),
        fake(0.3, (0.1, math.inf)),
        fake(1.05, (0.9, 1.1)),
        fake(7, (0, 1)),
        recorded(),
    ]
    heading, *rows = cells(to_markdown(evaluate(claims)))
    assert heading == ["Claim", "Status", "Measured", "Accepted", "Verdict"]
    assert [row[0] for row in rows] == ["**Theorem 1** (`test.claim`). It holds."] * 5
    assert [row[1] for row in rows] == ["derived"] * 5
    assert [row[2] for row in rows] == [
        r"a number: $2 \times 10^{-16}$",
        "a number: 0.3",
        "a number: 1.05",
        "a number: 7",
        "a number: –",
    ]
    assert [row[3] for row in rows] == [
        r"at most $1 \times 10^{-9}$",
        "at least 0.1",
        "0.9 to 1.1",
        "at most 1",
        "at most 1",
    ]
    verdicts = ["**holds**", "**holds**", "**holds**", "**fails**", "**not run**"]
    assert [row[4] for row in rows] == verdicts


def test_markdown_keeps_the_formulas_of_the_ledger() -> None:
    """A bar inside a cell is a border for Markdown, with or without a backslash."""
    quick = [fake(statement=c.statement, measured=c.measured, id=c.id) for c in LEDGER]
    _, *rows = cells(to_markdown(evaluate(quick)))
    assert len(rows) == len(LEDGER)
    for claim, row in zip(LEDGER, rows, strict=True):
        assert len(row) == 5
        # ‖ may be written as \Vert in the table, but it may not become a single bar
        shown = re.sub(r"\\[lr]?Vert\s*", r"\\|", row[0])
        assert shown.endswith(re.sub(r"\\[lr]?Vert\s*", r"\\|", claim.statement))


# --- the ledger itself ---------------------------------------------------------------------------


def test_entries() -> None:
    ids = [claim.id for claim in LEDGER]
    assert len(set(ids)) == len(ids)
    for claim in LEDGER:
        assert claim.status in ("stated", "recalled", "derived")
        assert re.fullmatch(r"[a-z0-9]+(\.[a-z0-9.-]+)+", claim.id)
        assert claim.accept[0] <= claim.accept[1]
        assert claim.statement.count("$") % 2 == 0
        assert claim.statement.endswith(".")
        # ours is derived, never the paper's own word
        assert (claim.paper == "ours") == claim.id.startswith("ours.")
        if claim.paper == "ours":
            assert claim.status == "derived"


@pytest.fixture(scope="module")
def quick() -> pd.DataFrame:
    """Verdicts of all claims that need no recorded experiment (the slow part of this file)."""
    return evaluate([claim for claim in LEDGER if claim.experiment is None])


@pytest.mark.parametrize("claim", [c.id for c in LEDGER if c.experiment is None])
def test_quick_claim_holds(quick: pd.DataFrame, claim: str) -> None:
    row = quick.set_index("id").loc[claim]
    assert row["verdict"] == "holds", f"measured {row['value']}"


@pytest.mark.parametrize("claim", [c for c in LEDGER if c.experiment], ids=lambda c: c.id)
def test_recorded_claim_holds(claim: Claim) -> None:
    if not (RESULTS / f"{claim.experiment}.csv").exists():
        pytest.skip(f"{claim.experiment} is not recorded; run: balancing reproduce")
    (row,) = evaluate([claim], results=RESULTS).to_dict("records")
    assert row["verdict"] == "holds", f"measured {row['value']}"

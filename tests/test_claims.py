"""The ledger: its entries, how a verdict comes about, and that the claims hold."""

import itertools
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from balancing.claims import LEDGER, Claim, evaluate, to_markdown, to_text

RESULTS = Path(__file__).parent.parent / "book" / "results"
COLUMNS = [
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


def recorded(name: str = "some.table", **changes: object) -> Claim:
    return fake(check=lambda table: float(table["x"].sum()), experiment=name, **changes)


def test_recorded_table_is_read(tmp_path: Path) -> None:
    pd.DataFrame({"x": [0.25, 0.5]}).to_csv(tmp_path / "some.table.csv", index=False)
    for folder in (tmp_path, str(tmp_path)):
        report = evaluate([recorded(), recorded("other.table")], results=folder)
        assert report["verdict"].tolist() == ["holds", "not run"]
        assert report["value"].iloc[0] == 0.75
        assert math.isnan(report["value"].iloc[1])


def test_without_results_the_table_is_not_run() -> None:
    assert evaluate([recorded()])["verdict"].tolist() == ["not run"]


# --- claims about every seed ---------------------------------------------------------------------


def over_seeds(
    tmp_path: Path,
    values: dict[int, float],
    accept: tuple[float, float] = (0, 1),
    **changes: object,
) -> pd.DataFrame:
    """The report on a claim whose number is the sum of x, two rows a seed, out of order."""
    rows = [(seed, 0.0) for seed in values] + list(reversed(values.items()))
    pd.DataFrame(rows, columns=["seed", "x"]).to_csv(tmp_path / "t.csv", index=False)
    claim = fake(
        accept=accept,
        check=lambda table: float(table["x"].sum(skipna=False)),
        experiment="t",
        **({"per_seed": True} | changes),
    )
    return evaluate([claim], results=tmp_path)


FOUR = {0: 0.2, 3: 0.4, 5: 7.0, 8: 0.1}


@pytest.mark.parametrize(
    ("share", "needed", "verdict"), [(1.0, 4, "fails"), (0.75, 3, "holds"), (0.76, 4, "fails")]
)
def test_every_seed_is_judged_by_itself(
    tmp_path: Path, share: float, needed: int, verdict: str
) -> None:
    reason = "" if share == 1 else "one start is odd"
    (row,) = over_seeds(tmp_path, FOUR, share=share, reason=reason).to_dict("records")
    assert (row["held"], row["seeds"], row["needed"]) == (3, 4, needed)
    assert row["exceptions"] == (5,)
    assert row["value"] == pytest.approx(0.3)  # the median
    assert row["worst"] == 7
    assert row["verdict"] == verdict


@pytest.mark.parametrize(
    ("accept", "worst"),
    [((0, 9), 7), ((0.05, math.inf), 0.1), ((0.05, 7.02), 7), ((0.3, math.inf), 0.1), ((3, 4), 7)],
)
def test_worst_is_the_seed_nearest_to_failing_or_farthest_beyond(
    tmp_path: Path, accept: tuple[float, float], worst: float
) -> None:
    assert over_seeds(tmp_path, FOUR, accept)["worst"].tolist() == [worst]


def test_a_seed_whose_number_is_nan_fails(tmp_path: Path) -> None:
    (row,) = over_seeds(tmp_path, {0: 0.2, 1: math.nan}).to_dict("records")
    assert (row["held"], row["needed"], row["exceptions"]) == (1, 2, (1,))
    assert row["verdict"] == "fails"
    assert math.isnan(row["worst"])


def test_one_seed(tmp_path: Path) -> None:
    (row,) = over_seeds(tmp_path, {7: 0.2}, share=0.9, reason="rare").to_dict("records")
    assert (row["held"], row["seeds"], row["needed"], row["verdict"]) == (1, 1, 1, "holds")
    (row,) = over_seeds(tmp_path, {7: 2.0}, share=0.9, reason="rare").to_dict("records")
    assert (row["held"], row["needed"], row["verdict"]) == (0, 1, "fails")


def test_a_share_of_twenty_seeds_is_not_rounded_up(tmp_path: Path) -> None:
    for share, needed in ((0.9, 18), (0.85, 17), (0.55, 11), (0.05, 1)):
        values = dict.fromkeys(range(20), 0.5)
        assert over_seeds(tmp_path, values, share=share, reason="x")["needed"].item() == needed


def test_claim_about_all_seeds_shows_their_number(tmp_path: Path) -> None:
    report = over_seeds(tmp_path, FOUR, (7, 8), per_seed=False)
    (row,) = report.to_dict("records")
    assert row["value"] == row["worst"] == pytest.approx(7.7)
    assert row["seeds"] == 4
    assert pd.isna(row["held"])
    assert pd.isna(row["needed"])
    assert "7.7 (4 seeds)" in cells(to_markdown(report))[1][2]
    assert "from 4 seeds" in to_text(report)


def test_table_without_seeds_is_an_error_that_names_the_claim(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1.0]}).to_csv(tmp_path / "t.csv", index=False)
    claim = recorded("t", per_seed=True)
    with pytest.raises(ValueError, match=r"'t\.csv' .* test\.claim reads \(no column seed"):
        evaluate([claim], results=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_seed": True}, "per_seed needs an experiment"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ({"share": 0.9, "reason": "x"}, "share below 1 needs per_seed"),
        ({"share": 0.9, "per_seed": True, "experiment": "t"}, "reason must say why"),
        ({"reason": "x"}, "reason must say why"),
    ],
)
def test_claim_that_cannot_be_judged(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"test.claim: {message}"):
        fake(**changes)


def test_reports_say_for_how_many_seeds_a_claim_holds(tmp_path: Path) -> None:
    report = over_seeds(tmp_path, FOUR, share=0.75, reason="one start is odd")
    row = cells(to_markdown(report))[1]
    assert row[2] == "a number: median 0.3, worst 7"
    assert row[3] == "at most 1, in 3 of 4: one start is odd"
    assert row[4] == "**holds** in 3 of 4"
    first, counts = to_text(report).splitlines()
    assert re.search(r"^holds +test\.claim +0\.3 \(worst 7\), holds in 3 of 4 seeds, ", first)
    assert "3 needed, not in 5 " in first
    assert counts == "1 holds, 0 fails, 0 not run"
    (record,) = json.loads(report.to_json(orient="records"))
    assert (record["held"], record["needed"], record["exceptions"]) == (3, 3, [5])


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
    assert row["verdict"] == "holds", f"{row['value']}, worst {row['worst']} {row['exceptions']}"

"""The comparison of fixes: each contestant does what it is said to do, on small networks."""

import importlib.util
import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from strategies import network
from torch import nn

from balancing import balance, lpq_norm, mlp
from benchmarks import contestants, fix
from benchmarks.contestants import Run, Unable
from benchmarks.fix import (
    OURS,
    Config,
    Rows,
    TimeUp,
    compare,
    judge,
    measure,
    report,
    time_limit,
    with_ratios,
)
from benchmarks.problems import Problem, problems

WIDTHS = (6, 12, 8, 5, 3)


def make_small(generator: torch.Generator) -> nn.Module:
    return mlp(WIDTHS, bias=True, generator=generator)


SMALL = Problem("small", make_small, (6,), others=((1, 2), (2, 1)))
CONFIG = Config(threads=1, limit=10, repeats=1, alone=False)
PAIRS = [(2, 2), (1, 2), (2, 1), (2, 4)]


def small(seed: int = 3) -> nn.Module:
    """With biases other than zero, and units of very different scales."""
    return network(WIDTHS, seed, bias=True, scale=1.5)


def norm_of(model: nn.Module, p: float = 2, q: float = 2) -> float:
    return float(lpq_norm(model, p, q).detach())


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_algorithm_1_on_weights_and_on_factors_are_one(p: float, q: float) -> None:
    model = small()
    runs = Run(), Run()
    one = contestants.algorithm1(model, p, q, runs[0])
    two = contestants.algorithm1_on_factors(model, p, q, runs[1])
    assert runs[0].iterations == runs[1].iterations > 5
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)  # rounding of a hundred updates


def test_algorithm_1_takes_convolutions_and_leaves_dead_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten()
    ).append(nn.Linear(4 * 4, 2))
    model.double()
    with torch.no_grad():
        model[0].weight[1] = 0
    one = contestants.algorithm1(model, 2, 2, Run())
    two = contestants.algorithm1_on_factors(model, 2, 2, Run())
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_lbfgs_finds_the_same_minimum(p: float, q: float) -> None:
    model = small()
    run = Run()
    found = contestants.lbfgs(model, p, q, run)
    norm = norm_of(found, p, q)
    best = float(balance(model, p, q, tol=1e-9, max_iter=100_000).norms[-1])
    assert run.imbalance <= contestants.TOL
    assert run.passes > run.iterations > 0  # some sums are read once for all
    # the norm is flat at its minimum: an imbalance of 1e-6 costs its square, and rounding
    assert best * (1 - 1e-12) <= norm <= best * (1 + 1e-9)


def test_lapack_stops_by_its_own_rule_at_powers_of_two() -> None:
    model = small()
    found = contestants.lapack(model, 2, 2, Run())
    best = float(balance(model, max_iter=100_000).norms[-1])
    assert best < norm_of(found) < norm_of(model)
    for name, after in found.named_parameters():
        mantissa, _ = torch.frexp(after.abs())
        torch.testing.assert_close(
            mantissa, torch.frexp(model.get_parameter(name).abs())[0], rtol=0, atol=0
        )
    # no unit's scaling by two lowers what it looks at by 5 %
    layers = [layer.weight.detach() for layer in found if isinstance(layer, nn.Linear)]
    for before, behind in itertools.pairwise(layers):
        row, column = before.norm(dim=1), behind.norm(dim=0)
        for factor in (2, 0.5):
            assert bool((factor * row + column / factor >= 0.95 * (row + column)).all())


def test_lapack_takes_convolutions_behind_a_flatten() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    model = model.append(nn.Linear(4 * 4, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(8)
    found = contestants.lapack(model, 2, 2, Run())
    best = float(balance(model, max_iter=100_000).norms[-1])
    assert best <= norm_of(found) < 0.5 * norm_of(model)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    assert torch.equal(found(x), model(x))


def test_lapack_refuses_a_matrix_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "LARGEST_MATRIX", 25)  # 12 + 8 + 5 units, and all the others
    with pytest.raises(Unable, match=r"matrix of 0\.0 GB"):
        contestants.lapack(small(), 2, 2, Run())


@pytest.mark.parametrize("name", ["brevitas_equalization", "torch_equalization"])
def test_equalization_keeps_the_function_and_equalizes_ranges(name: str) -> None:
    if name.startswith("brevitas") and not importlib.util.find_spec("brevitas"):
        with pytest.raises(Unable, match="not installed"):
            contestants.brevitas_equalization(small(), 2, 2, Run())
        return
    problem = Problem("small", lambda _: small(), (6,))
    found = getattr(contestants, name)(small(), 2, 2, Run())
    norm, imbalance, change = judge(problem, small(), found, 2, 2, 0)
    assert change < 1e-12
    assert imbalance > 0.01
    assert norm > float(balance(small(), max_iter=100_000).norms[-1])


def test_what_runs_too_long_is_stopped_and_its_norm_is_kept() -> None:
    def endless(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
        run.note(7, 1.5, 0.25)
        while True:
            time.sleep(0.001)

    row = measure(endless, SMALL, SMALL.model(0), 2, 2, Config(limit=0.05))
    assert row["status"] == "not in 0.05 s"
    assert not row["ended"]
    assert (row["iterations"], row["norm"], row["max_imbalance"]) == (7, 1.5, 0.25)
    assert row["seconds"] >= 0.05
    with time_limit(0.02):
        pass
    time.sleep(0.03)  # no alarm is left
    with pytest.raises(TimeUp), time_limit(0.01):
        time.sleep(1)


def test_a_changed_function_is_told() -> None:
    def broken(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
        return small(seed=4)

    row = measure(broken, SMALL, small(), 2, 2, CONFIG)
    assert row["status"] == "function changed"
    assert row["change"] > 0.1


def test_a_failure_is_told() -> None:
    def failing(model: nn.Module, p: float, q: float, run: Run) -> nn.Module:
        raise TypeError("cannot take a convolution")

    row = measure(failing, SMALL, small(), 2, 2, CONFIG)
    assert row["status"] == "TypeError: cannot take a convolution"
    assert math.isnan(row["seconds"])


def test_comparison_has_all_rows_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    table = compare((SMALL,), CONFIG, path)
    methods = table[table["q"] == table["p"]]["method"].tolist()
    assert methods[:4] == [OURS, *(f"{OURS}, tol {tol}" for tol in (0.1, 0.01, 0.001))]
    assert methods[4:] == [
        "Algorithm 1 on factors",
        "Algorithm 1",
        "L-BFGS",
        "LAPACK gebal",
        "brevitas",
        "torch.ao",
    ]
    assert len(table) == 10 + 2 * 3
    full = table[table["tol"] == contestants.TOL]
    assert full["ended"].all()
    assert (full["max_imbalance"] <= contestants.TOL).all()
    assert (full.loc[full["method"] != OURS, "times_to_norm"] > 0).all()
    text = report(table)
    assert "LAPACK gebal" in text
    assert "small (1, 2)" in text

    lines = path.read_text().splitlines()
    cut = lines[:6]
    key, row = json.loads(cut[-1])
    cut[-1] = json.dumps([key, {**row, "seconds": 123.0}])  # a mark: it is not measured again
    path.write_text("\n".join(cut) + "\n")
    again = compare((SMALL,), CONFIG, path)
    assert again["method"].tolist() == table["method"].tolist()
    assert again.loc[4, "seconds"] == 123
    assert len(Rows(CONFIG, path).done) == len(table)
    assert not Rows(replace(CONFIG, limit=11), path).done  # other settings: anew


def test_a_contestant_alone_finds_the_same() -> None:
    given = SMALL, 2.0, 2.0, fix.entries(2, 2)[OURS], CONFIG, math.nan
    here, there = fix.run_entry(*given), fix.run_alone(*given)
    assert here["norm"] == pytest.approx(there["norm"], rel=1e-12)
    assert (here["iterations"], here["passes"]) == (there["iterations"], there["passes"])
    assert there["seconds"] > there["solver_seconds"] > 0


def test_ratios_compare_at_the_loosest_sufficient_tolerance() -> None:
    rows = pd.DataFrame(
        {
            "network": "n",
            "p": 2.0,
            "q": 2.0,
            "initial_norm": 10.0,
            "method": [OURS, f"{OURS}, tol 0.1", f"{OURS}, tol 0.01", "peer", "better", "stopped"],
            "tol": [1e-6, 0.1, 0.01, math.nan, math.nan, math.nan],
            "norm": [5.0, 6.0, 5.5, 5.6, 4.0, 7.0],
            "seconds": [4.0, 1.0, 2.0, 8.0, 8.0, 60.0],
            "seconds_to_norm": [4.0, math.nan, math.nan, math.nan, 6.0, math.nan],
            "ended": [True, True, True, True, True, False],
        }
    )
    table = with_ratios(rows).set_index("method")
    assert table["times_ours"].tolist() == [1, 0.25, 0.5, 2, 2, 15]
    assert table.loc["peer", ["tol_of_equal", "times_equal"]].tolist() == [0.01, 4]
    assert table.loc["better", ["tol_of_equal", "times_equal"]].isna().all()
    assert pd.isna(table.loc["stopped", "times_equal"])
    assert table.loc["better", "times_to_norm"] == 1.5
    assert table.loc["peer", "ratio"] == pytest.approx(0.56)


def test_problems_are_the_same_in_every_run_and_start_far_from_balance() -> None:
    names = [problem.name for problem in problems()]
    assert len(names) == len(set(names)) == len(problems(quick=True)) + 2
    for problem in problems(quick=True):
        one, two = (problem.model(0).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert all(v.dtype == torch.float64 for v in one.values() if v.is_floating_point())
        with torch.no_grad():
            assert bool(torch.isfinite(problem.model(0)(problem.example(0))).all())


def test_sparse_problem_has_no_weight_at_a_dead_unit() -> None:
    (problem,) = (each for each in problems(quick=True) if each.name == "1 % of weights")
    layers = [layer.weight for layer in problem.model(0) if isinstance(layer, nn.Linear)]
    for before, behind in itertools.pairwise(layers):
        assert torch.equal((before != 0).any(1), (behind != 0).any(0))
    share = sum(int((w != 0).sum()) for w in layers) / sum(w.numel() for w in layers)
    assert 0 < share < 0.012


def test_readme_has_the_recorded_table() -> None:
    root = Path(__file__).parent.parent
    table = pd.read_csv(root / "book" / "results" / f"{fix.NAME}.csv")
    assert fix.readme(table) in (root / "README.md").read_text()


def test_figure_of_the_table(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    table = pd.read_csv(root / "book" / "results" / f"{fix.NAME}.csv")
    fix.draw(table, tmp_path)
    assert "<svg" in (tmp_path / f"{fix.NAME}.svg").read_text()
    assert (root / "book" / "results" / f"{fix.NAME}.svg").exists()

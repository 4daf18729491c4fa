"""The network experiment of Du, Hu and Lee: its step against autograd, its table, its record."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from strategies import generator, network
from torch import nn

from balancing.experiments import EXPERIMENTS, du2018
from balancing.experiments.du2018 import DriftConfig, Figure2Config, FullBatchDescent, figure2, run

RECORDED = Path(__file__).parent.parent / "book" / "results" / "du2018.figure2.csv"
COLUMNS = [
    "init",
    "step",
    "seed",
    "iteration",
    "loss",
    "norm1",
    "norm2",
    "norm3",
    "gap12",
    "ratio12",
    "gap23",
    "ratio23",
]
SMALL = Figure2Config(
    widths=(20, 10, 8, 5), samples=30, iterations=25, record_every=10, dtype="float64"
)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("widths", [(7, 6, 5, 3), (4, 3), (5, 4, 2), (6, 5, 4, 3, 2)])
def test_descent_equals_autograd_and_sgd(widths: tuple[int, ...]) -> None:
    net = network(widths, 3)
    rng, step = generator(4), 0.05
    x = torch.randn(11, widths[0], dtype=torch.float64, generator=rng)
    y = torch.randn(11, widths[-1], dtype=torch.float64, generator=rng)
    ours = [parameter.detach().clone() for parameter in net.parameters()]
    descent = FullBatchDescent(ours, x, y, step)
    optimizer = torch.optim.SGD(net.parameters(), lr=step)
    start = [weight.clone() for weight in ours]
    for _ in range(8):
        optimizer.zero_grad()
        loss = (net(x) - y).square().sum() / (2 * len(x))
        loss.backward()
        optimizer.step()
        descent.forward()
        # sums of at most 33 squares, in another order
        assert descent.loss() == pytest.approx(loss.item(), rel=1e-13)
        descent.descend()
        for weight, parameter in zip(ours, net.parameters(), strict=True):
            # eight steps of rounding 1e-16 in products over at most 11 terms
            error = (weight - parameter).norm() / parameter.norm()
            assert error.item() <= 1e-12
    assert all((w - s).norm() > 1e-3 * s.norm() for w, s in zip(ours, start, strict=True))


def test_run_equals_autograd_and_sgd() -> None:
    """The whole table, recomputed from the same start with torch's own loop."""
    x, y = du2018.data(SMALL)
    net = du2018.network(SMALL)
    optimizer = torch.optim.SGD(net.parameters(), lr=SMALL.step)
    rows = []
    for iteration in range(26):
        loss = (net(x) - y).square().sum() / (2 * len(x))
        if iteration in (0, 10, 20, 25):
            norms = [parameter.detach().square().sum().item() for parameter in net.parameters()]
            rows.append([iteration, loss.item(), *norms])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    table = run(SMALL)
    ours = table[["iteration", "loss", "norm1", "norm2", "norm3"]]
    np.testing.assert_allclose(ours, rows, rtol=1e-12, atol=0)  # rounding over 25 steps


def test_table() -> None:
    table = run(SMALL)
    assert list(table.columns) == COLUMNS
    assert table["iteration"].tolist() == [0, 10, 20, 25]  # every tenth, and the last
    assert set(table["init"]) == {"balanced"}
    assert set(table["step"]) == {0.02}
    assert set(table["seed"]) == {0}
    for above, below in ((1, 2), (2, 3)):
        upper, lower = table[f"norm{above}"], table[f"norm{below}"]
        assert table[f"gap{above}{below}"].tolist() == (upper - lower).tolist()
        assert table[f"ratio{above}{below}"].tolist() == (upper / lower).tolist()


@pytest.mark.parametrize(
    ("iterations", "every", "expected"),
    [(4, 2, [0, 2, 4]), (5, 2, [0, 2, 4, 5]), (3, 10, [0, 3]), (2, 1, [0, 1, 2])],
)
def test_recorded_iterations(iterations: int, every: int, expected: list[int]) -> None:
    table = run(replace(SMALL, iterations=iterations, record_every=every))
    assert table["iteration"].tolist() == expected


def test_the_seed_decides() -> None:
    state = torch.get_rng_state()
    table = run(SMALL)
    pd.testing.assert_frame_equal(run(SMALL), table, check_exact=True)
    other = run(replace(SMALL, seed=1))
    assert (other["loss"] != table["loss"]).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_data() -> None:
    config = Figure2Config(samples=2000, widths=(50, 4, 3, 20), label_std=3.0)
    x, y = du2018.data(config)
    assert x.shape == (2000, 50)
    assert y.shape == (2000, 20)
    assert x.dtype == y.dtype == torch.float32
    for values, deviation in ((x, 1.0), (y, 3.0)):
        n = values.numel()
        # five standard deviations of the sample variance
        assert abs(values.double().var() / deviation**2 - 1) <= 5 * math.sqrt(2 / n)


def test_float32_and_float64_solve_the_same_problem() -> None:
    double, single = run(SMALL), run(replace(SMALL, dtype="float32"))
    columns = ["loss", "norm1", "norm2", "norm3"]
    # float32 resolves 6e-8; 25 steps and sums over 30 samples
    np.testing.assert_allclose(single[columns], double[columns], rtol=1e-5)
    assert (single["loss"] != double["loss"]).any()


def test_one_and_two_threads_agree(threads: None) -> None:
    config = Figure2Config(iterations=5, record_every=1, dtype="float64")
    tables = []
    for count in (1, 2):
        torch.set_num_threads(count)
        tables.append(run(config)[["loss", "norm1", "norm2", "norm3"]])
    # sums over 1,000 terms may be split otherwise
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-12)


def test_figure2_runs_both_starts() -> None:
    table = figure2(replace(SMALL, init="unbalanced"))
    assert table["init"].unique().tolist() == ["balanced", "unbalanced"]
    assert table.index.tolist() == list(range(8))
    for init, part in table.groupby("init"):
        alone = run(replace(SMALL, init=str(init)))
        pd.testing.assert_frame_equal(part.reset_index(drop=True), alone, check_exact=True)


def test_drift_runs_every_step_until_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Figure2Config] = []

    def small(config: Figure2Config, *, progress: bool | None = None) -> pd.DataFrame:
        seen.append(config)
        return run(replace(SMALL, step=config.step, iterations=2), progress=progress)

    monkeypatch.setattr(du2018, "run", small)
    table = du2018.drift(DriftConfig(steps=(0.5, 0.25), time=10, seed=3))
    assert [(c.step, c.iterations, c.seed, c.dtype) for c in seen] == [
        (0.5, 20, 3, "float64"),
        (0.25, 40, 3, "float64"),
    ]
    assert table["step"].unique().tolist() == [0.5, 0.25]


def test_divergence_names_iteration_and_step() -> None:
    config = replace(SMALL, init="unbalanced", step=1e10, dtype="float32")
    with pytest.raises(FloatingPointError, match=r"at iteration 10 .*; take a step below 1"):
        run(config)


@pytest.mark.parametrize("step", [10.0, 100.0, 1e4])
def test_divergence_that_kills_every_unit_is_divergence(step: float) -> None:
    """The weights grow beyond 1e7; then all ReLUs are off, and the loss is finite again."""
    with pytest.raises(FloatingPointError, match="take a step below"):
        run(replace(SMALL, init="unbalanced", step=step, iterations=200))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"init": "he"}, "init must be one of balanced, unbalanced, got he"),
        ({"widths": (3, 2, 1)}, r"widths must be four whole numbers above 0, got \(3, 2, 1\)"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"iterations": -1}, "iterations must be at least 1, got -1"),
        ({"record_every": 0}, "record_every must be at least 1, got 0"),
        ({"step": 0.0}, "step must be finite and above 0, got 0"),
        ({"step": math.nan}, "step must be finite and above 0, got nan"),
        ({"step": math.inf}, "step must be finite and above 0, got inf"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got float16"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Figure2Config(**setting)


def test_defaults_are_the_paper_size() -> None:
    config = EXPERIMENTS["du2018.figure2"].config
    assert config == Figure2Config()
    assert (config.widths, config.samples, config.iterations) == ((1000, 100, 100, 10), 1000, 10000)
    shapes = [tuple(w.shape) for w in du2018.network(config).parameters()]
    assert shapes == [(100, 1000), (100, 100), (10, 100)]
    assert not any(isinstance(m, nn.Linear) and m.bias is not None for m in du2018.network(config))


# --- the recorded table --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> pd.DataFrame:
    return pd.read_csv(RECORDED)


def test_record_is_complete_and_of_the_default_settings(recorded: pd.DataFrame) -> None:
    assert list(recorded.columns) == COLUMNS
    config = Figure2Config()
    iterations = list(range(0, config.iterations + 1, config.record_every))
    for init in ("balanced", "unbalanced"):
        assert recorded.loc[recorded["init"] == init, "iteration"].tolist() == iterations
    provenance = json.loads(RECORDED.with_suffix(".json").read_text())
    assert provenance["experiment"] == "du2018.figure2"
    assert provenance["config"] == json.loads(json.dumps(asdict(config)))


def test_record_agrees_with_a_recomputation(recorded: pd.DataFrame) -> None:
    again = figure2(Figure2Config(iterations=50))
    first = recorded[recorded["iteration"] <= 50].reset_index(drop=True)
    assert first["init"].tolist() == again["init"].tolist()
    assert first["iteration"].tolist() == again["iteration"].tolist()
    columns = ["loss", "norm1", "norm2", "norm3", "ratio12", "ratio23"]
    # float32 on another machine: products over 1,000 terms in another order, 50 times
    np.testing.assert_allclose(again[columns], first[columns], rtol=1e-5)
    for gap in ("gap12", "gap23"):  # a difference: relative to what is subtracted
        error = (again[gap] - first[gap]).abs() / first["norm1"]
        assert error.max() <= 1e-5

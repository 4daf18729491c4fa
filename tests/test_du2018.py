"""The experiments of Du, Hu and Lee.

The network of Section 4: its step against autograd, its table, its record. The factorizations of
Section 3: their tables against `factorize`, closed recursions and the theorems' statements.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generator, network, over_seeds, seeds
from torch import nn

from balancing import factorize
from balancing.experiments import EXPERIMENTS, du2018
from balancing.experiments.du2018 import (
    DriftConfig,
    Figure1Config,
    Figure2Config,
    FullBatchDescent,
    Theorem31Config,
    Theorem32Config,
    figure1,
    figure2,
    low_rank,
    rank_one,
    run,
    section4,
    theorem31,
    theorem32,
)

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


# of 11 samples: fewer than twice the inputs, so that the first layer goes in the span, and more
@pytest.mark.parametrize(
    "widths", [(7, 6, 5, 3), (13, 6, 5, 3), (9, 3), (4, 3), (5, 4, 2), (6, 5, 4, 3, 2)]
)
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
        for weight, parameter in zip(descent.weights, net.parameters(), strict=True):
            # eight steps of rounding 1e-16 in products over at most 11 terms
            error = (weight - parameter).norm() / parameter.norm()
            assert error.item() <= 1e-12
    assert all(now is given for now, given in zip(descent.weights, ours, strict=True))
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

    monkeypatch.setattr(section4, "run", small)
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


def test_record_is_complete(recorded: pd.DataFrame) -> None:
    assert list(recorded.columns) == COLUMNS
    config = Figure2Config()
    iterations = list(range(0, config.iterations + 1, config.record_every))
    runs = recorded.groupby(["seed", "init"])
    assert sorted(runs.groups) == [(s, i) for s in range(20) for i in ("balanced", "unbalanced")]
    for _, each in runs:
        assert each["iteration"].tolist() == iterations


def test_record_agrees_with_a_recomputation(recorded: pd.DataFrame) -> None:
    again = figure2(Figure2Config(iterations=100))
    first = recorded.query("seed == 0 and iteration <= 100").reset_index(drop=True)
    assert first["init"].tolist() == again["init"].tolist()
    assert first["iteration"].tolist() == again["iteration"].tolist()
    columns = ["loss", "norm1", "norm2", "norm3", "ratio12", "ratio23"]
    # float32 on another machine: products over 1,000 terms in another order, 100 times
    np.testing.assert_allclose(again[columns], first[columns], rtol=1e-5)
    for gap in ("gap12", "gap23"):  # a difference: relative to what is subtracted
        error = (again[gap] - first[gap]).abs() / first["norm1"]
        assert error.max() <= 1e-5


# --- Section 3: matrix factorization --------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    rank=st.integers(1, 8),
    seed=seeds,
)
def test_low_rank_targets(shape: tuple[int, int], rank: int, seed: int) -> None:
    rank = min(rank, *shape)
    target = low_rank(shape, rank, seed)
    assert target.shape == shape
    values = np.linalg.svd(target.numpy(), compute_uv=False)
    assert values[0] == pytest.approx(1, rel=1e-14)
    assert (values[rank:] <= 1e-14).all()
    assert (values[:rank] > 1e-12).all()
    assert torch.equal(low_rank(shape, rank, seed), target)


SMALL1 = Figure1Config(shape=(6, 5), rank=2, iterations=25, seed=3)


def test_figure1_is_four_runs_of_factorize() -> None:
    table = figure1(SMALL1)
    runs = table[["init", "objective"]].drop_duplicates().to_numpy().tolist()
    assert runs == [["balanced", 2], ["balanced", 3], ["unbalanced", 2], ["unbalanced", 3]]
    for (init, objective), part in table.groupby(["init", "objective"]):
        assert part["iteration"].tolist() == [0, 10, 20, 25]
        alone = factorize(
            low_rank((6, 5), 2, 3),
            2,
            step=0.05,
            steps=25,
            init_scale=0.01 if init == "balanced" else (0.2, 0.02),
            balance_penalty=0.125 if objective == 3 else 0.0,
            generator=generator(3 + 1_000_003),
            record_every=10,
        )
        rest = part.drop(columns=["init", "seed", "objective"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(rest, alone.history, check_exact=True)


def test_figure1_shows_what_it_is_expected_to() -> None:
    """Notes, section 3: the errors nearly coincide; (2) keeps its gap, (3) drives it to 0."""
    table = figure1(Figure1Config(record_every=1))
    runs = {key: part.set_index("iteration") for key, part in table.groupby(["init", "objective"])}
    two, three = runs["balanced", 2], runs["balanced", 3]
    for accuracy in (1.0, 1e-1, 1e-3, 1e-6, 1e-9):
        reached = [(run["error"] <= accuracy).idxmax() for run in (two, three)]
        assert reached[0] == pytest.approx(reached[1], rel=0.02)
    for init in ("balanced", "unbalanced"):
        kept, driven = runs[init, 2]["gap"], runs[init, 3]["gap"]
        assert (kept / kept[0] - 1).abs().max() <= 0.02
        assert driven[0] == kept[0]
        assert driven[1000] <= 1e-12
        assert runs[init, 3]["ratio"][1000] == pytest.approx(1, abs=1e-12)
        assert runs[init, 2]["error"][1000] <= 0.02
    assert two["ratio"][1000] == pytest.approx(1, abs=2e-3)  # the gap is 0.2 % of the norms
    assert runs["unbalanced", 2]["ratio"][1000] >= 5


def test_schedules() -> None:
    target = 3 * low_rank((6, 5), 2, 0)
    values = np.linalg.svd(target.numpy(), compute_uv=False)
    printed = du2018.printed_schedule(target, 2, 0.3)
    practical = du2018.practical_schedule(target)
    for t in (0, 1, 9, 1000):
        expected = (0.3 / 2) ** 0.5 / (100 * (t + 1) * np.linalg.norm(values) ** 1.5)
        assert printed(t) == pytest.approx(expected, rel=1e-13)
        assert practical(t) == pytest.approx(0.5 * (t + 1) ** -0.6 / 3, rel=1e-13)


def test_theorem31_is_runs_of_factorize_with_running_extremes() -> None:
    config = Theorem31Config(shape=(6, 8), rank=2, iterations=25, record_every=10)
    table = over_seeds(theorem31, config, 2)
    assert list(table.columns[:4]) == ["seed", "schedule", "eps", "norm_bound"]
    assert set(table["eps"]) == {0.1}
    assert len(table) == 2 * 2 * 4
    for (seed, schedule), part in table.groupby(["seed", "schedule"]):
        target = low_rank((6, 8), 2, seed)
        step = (
            du2018.printed_schedule(target, 2, 0.1)
            if schedule == "printed"
            else du2018.practical_schedule(target)
        )
        history = factorize(
            target,
            2,
            step=step,
            steps=25,
            init_scale=math.sqrt(0.1) / 8,
            generator=generator(seed + 1_000_003),
        ).history
        assert part["iteration"].tolist() == [0, 10, 20, 25]
        bound = 5 * 2**0.5 * np.linalg.norm(target.numpy())
        np.testing.assert_allclose(part["norm_bound"], bound, rtol=1e-14)
        for row in part.to_dict("records"):
            so_far = history[history["iteration"] <= row["iteration"]]
            assert {key: row[key] for key in history} == so_far.iloc[-1].to_dict()
            assert row["max_gap"] == so_far["gap"].max()
            assert row["max_norm"] == max(so_far["norm_u"].max(), so_far["norm_v"].max())
            if row["iteration"]:
                increase = np.diff(so_far["loss"]).max() / history["loss"][0]
                assert row["max_increase"] == increase
        assert math.isnan(part["max_increase"].iloc[0])


@settings(max_examples=10)
@given(
    shape=st.tuples(st.integers(5, 30), st.integers(5, 30)),
    rank=st.integers(1, 5),
    eps=st.sampled_from([0.01, 0.1, 0.9]),
)
def test_theorem31_for_all_t_along_the_printed_schedule(
    shape: tuple[int, int], rank: int, eps: float
) -> None:
    """The three statements, at every one of 500 iterations.

    The regime: sides of 5 to 30, ||M||_2 = 1, starts of variance eps / d^2. The printed schedule
    does not leave the saddle there: the error moves by less than 1 %, which is asserted too.
    """
    config = Theorem31Config(shape=shape, rank=rank, eps=eps, iterations=500)
    table = over_seeds(theorem31, config, 3)
    printed = table[table["schedule"] == "printed"]
    last = printed[printed["iteration"] == 500]
    assert (last["max_gap"] <= eps).all()
    assert (last["max_increase"] <= 0).all()
    assert (last["max_norm"] <= last["norm_bound"]).all()
    error = printed.groupby("seed")["error"]
    assert ((error.last() / error.first() - 1).abs() < 0.01).all()


def test_theorem31_converges_along_the_practical_schedule() -> None:
    table = over_seeds(theorem31, Theorem31Config(iterations=2000), 3)
    practical = table[table["schedule"] == "practical"]
    last = practical[practical["iteration"] == 2000]
    assert (last["error"] <= 1e-3).all()
    assert (last["max_gap"] <= 0.1).all()
    assert (last["max_norm"] <= last["norm_bound"]).all()
    assert (last["max_increase"] <= 1e-15).all()


@pytest.mark.parametrize("dim", [1, 2, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_rank_one_equals_factorize(dim: int, seed: int) -> None:
    """The same start, target and steps, with the matrices formed."""
    config = Theorem32Config(sigma1=2.0)
    path = rank_one(config, dim, seed)
    rng = generator(seed)
    u_star, v_star = (torch.randn(dim, dtype=torch.float64, generator=rng) for _ in range(2))
    u_star, v_star = u_star / u_star.norm(), v_star / v_star.norm()
    done = factorize(
        2.0 * torch.outer(u_star, v_star),
        1,
        step=0.1 / 2.0,
        steps=len(path) - 1,
        init_scale=0.1 * (2.0 / dim) ** 0.5,
        generator=generator(seed + 1_000_003),
    )
    history = done.history
    assert path["iteration"].tolist() == history["iteration"].tolist()
    # two hundred steps of rounding 1e-16; the error itself is at least 1e-6
    np.testing.assert_allclose(2.0 * path["error"], history["error"], rtol=1e-8)
    for which, name in (("u", "norm_u"), ("v", "norm_v")):
        norms = path[f"signal_{which}"] ** 2 + path[f"noise_{which}"] ** 2
        np.testing.assert_allclose(norms, history[name], rtol=1e-11)
    final = path.iloc[-1]
    assert final["signal_u"] == pytest.approx(float(done.U[:, 0] @ u_star), rel=1e-11)
    assert final["signal_v"] == pytest.approx(float(done.V[:, 0] @ v_star), rel=1e-11)
    np.testing.assert_allclose(path["ratio"], (path["signal_u"] / path["signal_v"]).abs())


@pytest.mark.parametrize("dim", [20, 2000])
def test_rank_one_obeys_its_closed_recursion(dim: int) -> None:
    """Derived: the two signals and the two noises move by themselves, whatever d is."""
    config = Theorem32Config()
    path = rank_one(config, dim, 4)
    a, b, p, q = (path[name][0] for name in ("signal_u", "signal_v", "noise_u", "noise_v"))
    for row in path.itertuples():
        # the noises are differences of vectors, of norms 0.1 at first and 1 at last
        np.testing.assert_allclose([row.signal_u, row.signal_v], [a, b], rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose([row.noise_u, row.noise_v], [p, q], rtol=1e-9, atol=1e-14)
        u2, v2 = a * a + p * p, b * b + q * q
        a, b = a - 0.1 * (a * v2 - b), b - 0.1 * (b * u2 - a)
        p, q = p * (1 - 0.1 * v2), q * (1 - 0.1 * u2)


@given(seed=seeds)
def test_rank_one_does_not_depend_on_the_unit(seed: int) -> None:
    one, four = (rank_one(Theorem32Config(sigma1=sigma), 30, seed) for sigma in (1.0, 4.0))
    for column in ("iteration", "error", "ratio"):
        assert one[column].tolist() == four[column].tolist()  # powers of two: bit for bit


@pytest.fixture(scope="module")
def rank_one_runs() -> pd.DataFrame:
    return over_seeds(theorem32, Theorem32Config(), 20)


def test_theorem32_takes_a_logarithm_of_d(rank_one_runs: pd.DataFrame) -> None:
    assert rank_one_runs["converged"].all()
    median = rank_one_runs.groupby("dim")["iterations"].median()
    # the notes' measurement, with other seeds
    for dim, steps in ((20, 160), (200, 175), (2000, 184)):
        assert median[dim] == pytest.approx(steps, abs=15)
    # ten times d costs (1/2) ln 10 units of time, that is 11.5 steps of 0.1, not ten times more
    assert 0 < median[200] - median[20] < 25
    assert 0 < median[2000] - median[200] < 25


def test_theorem32_signals_are_comparable_and_the_rate_is_linear(
    rank_one_runs: pd.DataFrame,
) -> None:
    # universal constants: the same for d = 20 and 2000
    assert rank_one_runs["ratio_min2"].min() >= 0.98
    assert rank_one_runs["ratio_max2"].max() <= 1.02
    assert rank_one_runs["ratio_final"].between(0.98, 1.02).all()
    assert (rank_one_runs["ratio_min"] <= rank_one_runs["ratio_min2"]).all()
    assert (rank_one_runs["ratio_max"] >= rank_one_runs["ratio_max2"]).all()
    # the noises contract by 1 - c_step |u|^2 / sigma1 -> 0.9 a step
    assert rank_one_runs["rate"].between(0.88, 0.9).all()


def test_theorem32_summarizes_the_paths() -> None:
    config = Theorem32Config(dims=(3, 40))
    table = over_seeds(theorem32, config, 2)
    assert table[["dim", "seed"]].to_numpy().tolist() == [[3, 0], [40, 0], [3, 1], [40, 1]]
    for row in table.itertuples():
        path = rank_one(config, row.dim, row.seed)
        signals = (path["signal_u"] * path["signal_v"]).tolist()
        first = next(t for t, signal in enumerate(signals) if signal >= 0.5)
        assert (row.iterations, row.stage1, row.converged) == (len(path) - 1, first, True)
        ratio = path["ratio"].tolist()
        assert (row.ratio_min, row.ratio_max) == (min(ratio), max(ratio))
        assert (row.ratio_min2, row.ratio_max2) == (min(ratio[first:]), max(ratio[first:]))
        assert row.ratio_final == ratio[-1]
        errors = path["error"].tolist()
        assert errors[-1] <= 1e-6 < min(errors[:-1])
        mean = (errors[-1] / errors[first]) ** (1 / (row.iterations - first))
        assert row.rate == pytest.approx(mean, rel=0.02)


def test_theorem32_that_is_cut_short_says_so() -> None:
    config = Theorem32Config(dims=(20,), max_iterations=10)
    [row] = theorem32(config).to_dict("records")
    assert (row["iterations"], row["converged"]) == (10, False)
    for name in ("stage1", "ratio_min2", "ratio_max2", "rate"):
        assert math.isnan(row[name])
    assert row["ratio_min"] <= row["ratio_final"] <= row["ratio_max"]


def test_theorem32_divergence_names_iteration_and_step() -> None:
    with pytest.raises(FloatingPointError, match=r"at iteration \d+; take a step below 50"):
        rank_one(Theorem32Config(c_step=100.0, sigma1=2.0), 20, 0)


@pytest.mark.parametrize(
    ("experiment", "config"),
    [
        (figure1, SMALL1),
        (theorem31, Theorem31Config(shape=(6, 5), rank=2, iterations=20)),
        (theorem32, Theorem32Config(dims=(5,))),
    ],
)
def test_factorizations_are_deterministic_and_quiet(
    experiment: Callable[..., pd.DataFrame], config: object, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    table = experiment(config)
    assert capsys.readouterr().err == ""  # not a terminal
    pd.testing.assert_frame_equal(experiment(config, progress=True), table, check_exact=True)
    assert "100%" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("config", "setting", "message"),
    [
        (Figure1Config, {"shape": (3,)}, r"shape must be two whole numbers above 0, got \(3,\)"),
        (Figure1Config, {"shape": (3, 0)}, r"shape must be two whole numbers above 0"),
        (Figure1Config, {"rank": 41}, "rank must be from 1 to 40, got 41"),
        (Figure1Config, {"iterations": 0}, "iterations must be at least 1, got 0"),
        (Figure1Config, {"record_every": 0}, "record_every must be at least 1, got 0"),
        (Figure1Config, {"step": math.nan}, "step must be finite and above 0, got nan"),
        (Figure1Config, {"init_scale": 0.0}, "init_scale must be finite and above 0, got 0.0"),
        (Figure1Config, {"unbalanced_scale": (1.0,)}, "unbalanced_scale must be two numbers"),
        (Figure1Config, {"unbalanced_scale": (1.0, 0.0)}, "unbalanced_scale must be two numbers"),
        (Theorem31Config, {"rank": 0}, "rank must be from 1 to 40, got 0"),
        (Theorem31Config, {"eps": 1.0}, "eps must be above 0 and below 1, got 1.0"),
        (Theorem31Config, {"eps": math.nan}, "eps must be above 0 and below 1, got nan"),
        (Theorem31Config, {"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        (Theorem32Config, {"dims": ()}, r"dims must be whole numbers above 0, got \(\)"),
        (Theorem32Config, {"dims": (20, 2.5)}, "dims must be whole numbers above 0"),
        (Theorem32Config, {"sigma1": 0.0}, "sigma1 must be finite and above 0, got 0.0"),
        (Theorem32Config, {"c_step": -1.0}, "c_step must be finite and above 0, got -1.0"),
        (Theorem32Config, {"accuracy": math.inf}, "accuracy must be finite and above 0, got inf"),
        (Theorem32Config, {"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    ],
)
def test_bad_factorization_settings_are_named(
    config: Callable[..., object], setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**setting)


@pytest.mark.parametrize(
    ("name", "run", "config"),
    [
        ("du2018.figure1", figure1, Figure1Config()),
        ("du2018.theorem31", theorem31, Theorem31Config()),
        ("du2018.theorem32", theorem32, Theorem32Config()),
    ],
)
def test_factorizations_are_registered(name: str, run: object, config: object) -> None:
    assert EXPERIMENTS[name].run is run
    assert EXPERIMENTS[name].config == config

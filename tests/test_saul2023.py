"""Saul's Figure 2: its table, against `balance` and against the values first measured."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from strategies import generator, over_seeds

from balancing import balance, lpq_norm, rescale, trace
from balancing.claims.saul2023 import FIRST_MEASURED
from balancing.experiments import EXPERIMENTS
from balancing.experiments.saul2023 import Figure2Config, figure2
from balancing.networks import mlp

RECORDED = Path(__file__).parent.parent / "book" / "results" / "saul2023.figure2.csv"
COLUMNS = ["network", "p", "q", "seed", "update", "ratio", "max_imbalance"]
SMALL = Figure2Config(
    networks=((20, 30, 15, 5), (20, 25, 15, 10, 5)), panels=((2, 2), (1, 2)), updates=8
)


def test_full_size_is_the_papers() -> None:
    config = Figure2Config()
    for widths, layers in zip(config.networks, (2, 4, 6), strict=True):
        assert (widths[0], sum(widths[1:-1]), widths[-1]) == (200, 3750, 10)
        assert len(widths[1:-1]) == layers
    assert len(config.panels) == 8
    assert set(FIRST_MEASURED) <= set(config.panels)
    assert EXPERIMENTS["saul2023.figure2"].config == config
    assert EXPERIMENTS["saul2023.figure2"].run is figure2


def test_table() -> None:
    table = over_seeds(figure2, SMALL, 2)
    assert list(table.columns) == COLUMNS
    curves = table.groupby(["network", "p", "q", "seed"])
    assert len(curves) == 2 * 2 * 2
    assert set(table["network"]) == {"20-30-15-5", "20-25-15-10-5"}
    for _, curve in curves:
        assert curve["update"].tolist() == list(range(9))
        assert curve["ratio"].iloc[0] == 1
        assert (curve["ratio"].diff().dropna() < 0).all()
        assert curve["max_imbalance"].between(0, 1).all()


@pytest.mark.parametrize(("p", "q"), SMALL.panels)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("widths", SMALL.networks)
def test_curve_is_that_of_balance(widths: tuple[int, ...], p: float, q: float, seed: int) -> None:
    net = mlp(widths, dtype=torch.float64, generator=generator(seed))
    for parameter in net.parameters():  # a common scale does not matter
        parameter.data.mul_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = balance(net, p, q, method="multiplicative", tol=1e-300, max_iter=8)
    table = figure2(replace(SMALL, seed=seed))
    curves = table.set_index(["network", "p", "q", "seed"])
    curve = curves.loc[("-".join(map(str, widths)), p, q, seed)]
    ratios = result.norms / lpq_norm(net, p, q).item()
    np.testing.assert_allclose(curve["ratio"], ratios, rtol=1e-12)
    assert curve["max_imbalance"].iloc[-1] == pytest.approx(result.max_imbalance, rel=1e-9)


def test_ratios_at_half_the_size() -> None:
    """The four panels that were measured before, on the shallowest network, half as wide."""
    config = Figure2Config(
        networks=((100, 1250, 625, 5),), panels=tuple(FIRST_MEASURED), updates=100
    )
    table = figure2(config).set_index(["p", "q", "update"])["ratio"]
    for (p, q), (shallow, *_) in FIRST_MEASURED.items():
        found = [table[p, q, update] for update in (1, 10, 100)]
        np.testing.assert_allclose(found, shallow, atol=0.01)


@pytest.mark.parametrize("seed", [0, 7])
def test_ratios_at_full_size(seed: int) -> None:
    """Ten updates of the deepest network; seed 7 is not in the record."""
    config = Figure2Config(networks=Figure2Config().networks[2:], panels=((2, 2),), updates=10)
    net = mlp(config.networks[0], dtype=torch.float64, generator=generator(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        norms = balance(net, 2, method="multiplicative", tol=1e-300, max_iter=10).norms
    first, tenth, _ = FIRST_MEASURED[2, 2][2]
    assert float(norms[1] / norms[0]) == pytest.approx(first, abs=5e-3)
    assert float(norms[10] / norms[0]) == pytest.approx(tenth, abs=5e-3)


@pytest.mark.parametrize("widths", Figure2Config().networks)
def test_minimal_norm_is_the_same_from_any_start(widths: tuple[int, ...]) -> None:
    """At full size, with every unit rescaled by e^N."""
    rng = generator(5)
    graph = trace(mlp(widths, bias=True, dtype=torch.float64, generator=rng))
    draw = {
        name: torch.randn(group.size, dtype=torch.float64, generator=rng).exp()
        for name, group in graph.hidden.items()
    }
    moved = trace(rescale(graph, draw))
    for p, q in ((1, 1), (2, 2), (1, 2)):
        one, other = (balance(each, p, q, method="multiplicative") for each in (graph, moved))
        assert one.converged
        assert other.converged
        # near the minimum the norm is a square of the imbalance, 1e-6
        assert float(other.norms[-1]) == pytest.approx(float(one.norms[-1]), rel=1e-9)


def test_record_is_of_the_default_config() -> None:
    if not RECORDED.exists():
        pytest.skip("saul2023.figure2 is not recorded; run: balancing reproduce")
    table, config = pd.read_csv(RECORDED), Figure2Config()
    assert list(table.columns) == COLUMNS
    curves = len(config.networks) * len(config.panels) * 20
    assert len(table) == curves * (11 + 18)
    assert table["max_imbalance"].between(sys.float_info.min, 1).all()
    again = figure2(Figure2Config(networks=config.networks[2:], panels=((2, 1),), updates=3))
    recorded = table.merge(again[["network", "p", "q", "seed", "update"]])
    # nine digits are recorded
    np.testing.assert_allclose(recorded["ratio"], again["ratio"], rtol=1e-8)


def test_deterministic_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    table = figure2(SMALL)
    assert capsys.readouterr().err == ""  # not a terminal
    pd.testing.assert_frame_equal(figure2(SMALL, progress=True), table, check_exact=True)
    assert "100%" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"networks": ()}, r"networks must be tuples of at least three widths.*got \(\)"),
        ({"networks": ((2, 1),)}, "networks must be tuples of at least three widths"),
        ({"networks": (200, 10)}, "networks must be tuples of at least three widths"),
        ({"panels": ()}, r"panels must be pairs \(p, q\), got \(\)"),
        ({"panels": ((1,),)}, "panels must be pairs"),
        ({"panels": (1, 2)}, "panels must be pairs"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"record_every": 0}, "record_every must be at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Figure2Config(**setting)


def test_bad_widths_and_exponents_are_named() -> None:
    with pytest.raises(ValueError, match="widths must be"):
        figure2(Figure2Config(networks=((3, 0, 2),)))
    with pytest.raises(ValueError, match="q must be finite and above 0"):
        figure2(Figure2Config(networks=((3, 2, 2),), panels=((1, -1),)))

"""The comparison of optimizers: its table against loops written by hand, its settings, its claims.

The loops use neither torch.optim nor the library: the updates are spelled out, and the invariants
are sums of squares.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from strategies import over_seeds
from torch import Tensor

from balancing import mlp
from balancing.claims import LEDGER, du2018_optimizers
from balancing.experiments import EXPERIMENTS, du2018
from balancing.experiments.digits import digits
from balancing.experiments.du2018 import OptimizersConfig, optimizers

RESULTS = Path(__file__).parent.parent / "book" / "results"
COLUMNS = ["optimizer", "lr", "rate", "seed", "step", "time", "loss", "change", "kept"]
DESCENTS = ["gd", "gd-momentum", "sgd", "sgd-momentum", "sgd-decay"]
ADAMS = ["adam", "adam-l2", "adamw"]
TINY = OptimizersConfig(
    hidden=(6, 5),
    images=30,
    batch=7,
    rates=(0.05,),
    time=0.6,
    adam_rates=(0.01,),
    adam_time=0.12,
    momentum=0.8,
    decay=0.3,
    adamw_decay=2.0,
    records=3,
)

Step = Callable[[list[Tensor], list[Tensor], int, dict[str, Any]], list[Tensor]]


def descent(weights: list[Tensor], gradients: list[Tensor], *_: object) -> list[Tensor]:
    return [w - 0.05 * g for w, g in zip(weights, gradients, strict=True)]


def with_decay(weights: list[Tensor], gradients: list[Tensor], *_: object) -> list[Tensor]:
    return [w - 0.05 * (g + 0.3 * w) for w, g in zip(weights, gradients, strict=True)]


def with_momentum(
    weights: list[Tensor], gradients: list[Tensor], step: int, state: dict[str, Any]
) -> list[Tensor]:
    # lr 0.01, so that the rate 0.01 / (1 - 0.8) is 0.05; the sum of all faded gradients
    state.setdefault("past", []).append(gradients)
    new = []
    for index, weight in enumerate(weights):
        terms = [0.8 ** (step - k) * past[index] for k, past in enumerate(state["past"])]
        new.append(weight - 0.01 * sum(terms))
    return new


def adam(l2: float = 0.0, decoupled: float = 0.0) -> Step:
    def update(
        weights: list[Tensor], gradients: list[Tensor], step: int, state: dict[str, Any]
    ) -> list[Tensor]:
        penalized = [g + l2 * w for w, g in zip(weights, gradients, strict=True)]
        state.setdefault("past", []).append(penalized)
        new = []
        for index, weight in enumerate(weights):
            past = [each[index] for each in state["past"]]
            ages = [step - k for k in range(step + 1)]
            first = sum(0.9**age * g for age, g in zip(ages, past, strict=True))
            second = sum(0.999**age * g**2 for age, g in zip(ages, past, strict=True))
            # averages: the weights of all gradients so far add up to one
            first = first / sum(0.9**age for age in ages)
            second = second / sum(0.999**age for age in ages)
            shrunk = (1 - 0.01 * decoupled) * weight
            new.append(shrunk - 0.01 * first / (second.sqrt() + 1e-8))
        return new

    return update


UPDATES: dict[str, Step] = {
    "gd": descent,
    "gd-momentum": with_momentum,
    "sgd": descent,
    "sgd-momentum": with_momentum,
    "sgd-decay": with_decay,
    "adam": adam(),
    "adam-l2": adam(l2=0.3),
    "adamw": adam(decoupled=2.0),
}


def outputs(weights: list[Tensor], x: Tensor) -> Tensor:
    w1, b1, w2, b2, w3, b3 = weights
    hidden = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
    return hidden @ w3.T + b3


def loss_of(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    logits = outputs(weights, x)
    return (torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]).mean()


def invariants(weights: list[Tensor]) -> Tensor:
    w1, b1, w2, b2, w3, _ = weights
    first = (w1**2).sum(1) + b1**2 - (w2**2).sum(0)
    return torch.cat([first, (w2**2).sum(1) + b2**2 - (w3**2).sum(0)])


def by_hand(name: str) -> list[tuple[float, float, float]]:
    """Loss, change and fraction kept after 0, 4, 8 and 12 steps."""
    x, y = digits(dtype=torch.float64)
    x, y = x[:30].flatten(1), y[:30]
    generator = torch.Generator().manual_seed(0)
    net = mlp([64, 6, 5, 10], bias=True, dtype=torch.float64, generator=generator)
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    start, state, rows = invariants(weights), {}, []
    for step in range(13):
        if step % 4 == 0:
            moved = invariants(weights)
            change = math.sqrt(float(((moved - start) ** 2).sum() / (start**2).sum()))
            kept = float((moved * start).sum() / (start * start).sum())
            rows.append((float(loss_of(weights, x, y)), change, kept))
        batch = torch.arange(30)
        if not name.startswith("gd"):
            batch = torch.randperm(30, generator=generator)[:7]
        leaves = [weight.clone().requires_grad_() for weight in weights]
        gradients = torch.autograd.grad(loss_of(leaves, x[batch], y[batch]), leaves)
        weights = UPDATES[name](weights, list(gradients), step, state)
    return rows


@pytest.fixture(scope="module")
def tiny() -> pd.DataFrame:
    return optimizers(TINY, progress=False)


@pytest.mark.parametrize("name", UPDATES)
def test_a_run_equals_a_loop_by_hand(tiny: pd.DataFrame, name: str) -> None:
    run = tiny[tiny["optimizer"] == name]
    assert run["step"].tolist() == [0, 4, 8, 12]
    # rounding over twelve steps; Adam divides small gradients by their size
    np.testing.assert_allclose(
        run[["loss", "change", "kept"]], by_hand(name), rtol=1e-9, atol=1e-14
    )
    assert run["change"].iloc[-1] > 1e-5


def test_table(tiny: pd.DataFrame) -> None:
    assert list(tiny.columns) == COLUMNS
    assert list(tiny["optimizer"].unique()) == DESCENTS + ADAMS
    assert len(tiny) == 8 * 4
    for name, run in tiny.groupby("optimizer"):
        rate = 0.01 if name in ADAMS else 0.05
        assert set(run["rate"]) == {rate}
        np.testing.assert_allclose(run["lr"], 0.2 * rate if "momentum" in name else rate)
        assert run["time"].tolist() == (rate * run["step"]).tolist()
        first = run.iloc[0]
        assert (first["step"], first["change"]) == (0, 0)
        assert first["kept"] == pytest.approx(1, abs=1e-15)
    # one network for all
    assert tiny[tiny["step"] == 0]["loss"].nunique() == 1


def test_every_rate_and_seed_runs_until_the_same_time() -> None:
    config = replace(TINY, rates=(0.1, 0.05), adam_rates=(0.02, 0.01), records=2)
    table = over_seeds(optimizers, config, 2)
    last = table.groupby(["optimizer", "rate", "seed"]).last()
    assert len(last) == 8 * 2 * 2
    for name in DESCENTS + ADAMS:
        expected = 0.12 if name in ADAMS else 0.6
        np.testing.assert_allclose(last.loc[name, "time"], expected)
    assert (last["loss"].groupby(["optimizer", "rate"]).nunique() == 2).all()
    # a seed's runs do not depend on what else is run
    alone = optimizers(TINY, progress=False)
    same = table[(table["rate"].isin([0.05, 0.01])) & (table["seed"] == 0)]
    ends = same.groupby("optimizer")["loss"].last()
    pd.testing.assert_series_equal(ends, alone.groupby("optimizer")["loss"].last())


def test_the_seed_decides(tiny: pd.DataFrame) -> None:
    state = torch.get_rng_state()
    pd.testing.assert_frame_equal(optimizers(TINY, progress=False), tiny, check_exact=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_minibatch_of_all_images_is_gradient_descent() -> None:
    table = optimizers(replace(TINY, batch=30), progress=False)
    gd, sgd = (table[table["optimizer"] == name]["change"].to_numpy() for name in ("gd", "sgd"))
    np.testing.assert_allclose(sgd, gd, rtol=1e-9)  # the images come in another order


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": ()}, "hidden must be whole numbers above 0, got ()"),
        ({"hidden": (4, 0)}, "hidden must be whole numbers above 0, got (4, 0)"),
        ({"hidden": (4.0,)}, "hidden must be whole numbers above 0, got (4.0,)"),
        ({"images": 0}, "images must be from 1 to 1797, got 0"),
        ({"images": 1798}, "images must be from 1 to 1797, got 1798"),
        ({"batch": 0}, "batch must be from 1 to 30, got 0"),
        ({"batch": 31}, "batch must be from 1 to 30, got 31"),
        ({"rates": ()}, "rates must be numbers above 0, got ()"),
        ({"rates": (0.1, -0.1)}, "rates must be numbers above 0, got (0.1, -0.1)"),
        ({"adam_rates": (math.nan,)}, "adam_rates must be numbers above 0, got (nan,)"),
        ({"time": math.inf}, "time must be finite and above 0, got inf"),
        ({"adam_time": 0.0}, "adam_time must be finite and above 0, got 0.0"),
        ({"time": 0.1}, "time must be at least 3 steps of 0.05, one for each record, got 0.1"),
        ({"records": 13}, "time must be at least 13 steps of 0.05"),
        ({"momentum": 1.0}, "momentum must be above 0 and below 1, got 1.0"),
        ({"momentum": 0.0}, "momentum must be above 0 and below 1, got 0.0"),
        ({"decay": -1.0}, "decay must be finite and above 0, got -1.0"),
        ({"adamw_decay": 0.0}, "adamw_decay must be finite and above 0, got 0.0"),
        ({"records": 0}, "records must be at least 1, got 0"),
        ({"seed": 0.5}, "seed must be a whole number of at least 0, got 0.5"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        replace(TINY, **change)


def test_divergence_is_named() -> None:
    with pytest.raises(FloatingPointError, match=r"gd has diverged at step \d+ .* below 1e\+200"):
        optimizers(replace(TINY, rates=(1e200,), time=1.2e201), progress=False)


def test_it_is_registered() -> None:
    experiment = EXPERIMENTS["du2018.optimizers"]
    assert experiment.run is optimizers is du2018.optimizers
    assert experiment.config == OptimizersConfig()


def test_record_is_complete() -> None:
    table = pd.read_csv(RESULTS / "du2018.optimizers.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == (5 * 4 + 3 * 4) * 20 * 13


# --- the claims read from the record -------------------------------------------------------------


def synthetic(
    optimizer: str, change: Callable[[float], float], kept: Callable[[float], float]
) -> pd.DataFrame:
    """The last rows of an optimizer's runs, at its rates, for three seeds."""
    config = OptimizersConfig()
    rates = config.adam_rates if optimizer in ADAMS else config.rates
    return pd.DataFrame(
        [
            {
                "optimizer": optimizer,
                "rate": rate,
                "seed": seed,
                "step": 1,
                "change": change(rate),
                "kept": kept(rate),
            }
            for rate in rates
            for seed in range(3)
        ]
    )


def proportional(rate: float) -> float:
    return 0.1 * rate


def constant(rate: float) -> float:
    return 0.7


# what would be true if a claim were not
OPPOSITES = {
    "ours.optimizers.gd": [("gd", proportional, constant), ("gd-momentum", constant, constant)],
    "ours.optimizers.sgd": [
        ("sgd", lambda rate: rate**0.5, constant),
        ("sgd-momentum", proportional, constant),
    ],
    "ours.optimizers.momentum": [
        ("gd", proportional, constant),
        ("gd-momentum", proportional, constant),
    ],
    "ours.optimizers.decay": [("sgd-decay", constant, lambda _: 1.0)],
    "ours.optimizers.adam": [("adam", proportional, constant)],
    "ours.optimizers.adam-l2": [("adam-l2", constant, lambda _: math.exp(-2 * 0.02 * 2))],
    "ours.optimizers.adamw": [("adamw", constant, lambda _: math.exp(-2 * 0.1 * 2))],
}


def test_every_claim_has_an_opposite() -> None:
    assert {claim.id for claim in du2018_optimizers.CLAIMS} == set(OPPOSITES)


@pytest.mark.parametrize("claim", OPPOSITES)
def test_a_claim_fails_on_the_opposite(claim: str) -> None:
    (entry,) = [each for each in LEDGER if each.id == claim]
    table = pd.concat([synthetic(*run) for run in OPPOSITES[claim]])
    low, high = entry.accept
    assert not low <= entry.check(table) <= high

"""The training experiment: its table at small size, recomputed by hand, and its record."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from strategies import generator, over_seeds
from torch import nn

from balancing import balance, mlp, shares
from balancing.experiments import EXPERIMENTS
from balancing.experiments.digits import digits
from balancing.experiments.pairing import PairingConfig, pairing

RECORDED = Path(__file__).parent.parent / "book" / "results" / "saul2023.pairing.csv"
COLUMNS = [
    "method",
    "p",
    "q",
    "weight_decay",
    "epochs",
    "seed",
    "epoch",
    "loss",
    "objective",
    "accuracy",
    "norm",
    "fixed_norm",
    "imbalance",
    "small",
    "pruned_accuracy",
    "deviation",
]
SMALL = PairingConfig(
    hidden=(12, 8),
    tested=1000,
    batch=300,
    epochs=2,
    lengths=(1, 2),
    record_every=1,
    flows=((1, 1, 3), (1, 2, 10), (3, 3, 0.03)),
    penalties=((1, 1, 1e-2), (1, 2, 1e-3)),
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return over_seeds(pairing, SMALL, 2)


def of(table: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    for name, value in chosen.items():
        table = table[table[name] == value]
    return table


def test_table(table: pd.DataFrame) -> None:
    assert list(table.columns) == COLUMNS
    runs = table[table["epoch"] == table["epochs"]].drop(columns="seed")
    kinds = [
        ("sgd", 2, 2, 0, 2),
        ("flow", 1, 1, 0, 2),
        ("flow", 1, 2, 0, 2),
        ("flow", 3, 3, 0, 2),
        ("flow", 1, 1, 1e-2, 2),
        ("sgd", 1, 1, 1e-2, 2),
        ("prox", 1, 1, 1e-2, 2),
        ("flow", 1, 1, 1e-2, 4),
        ("sgd", 1, 1, 1e-2, 4),
        ("prox", 1, 1, 1e-2, 4),
        ("flow", 1, 2, 1e-3, 2),
        ("sgd", 1, 2, 1e-3, 2),
    ]
    assert list(runs.iloc[:, :5].itertuples(index=False, name=None)) == 2 * kinds
    for epochs in (2, 4):  # as many rows in a longer run
        assert of(table, epochs=epochs, method="flow", weight_decay=1e-2, seed=0)[
            "epoch"
        ].tolist() == [0, epochs // 2, epochs]
    assert table["accuracy"].between(0, 1).all()
    assert table["small"].between(0, 1).all()
    # balancing can only lower the norm, up to its tolerance
    assert (table["fixed_norm"] <= table["norm"] * (1 + 1e-5)).all()


def test_flows_are_balanced_and_the_others_are_not(table: pd.DataFrame) -> None:
    flows = of(table, method="flow")
    assert flows["imbalance"].max() <= 2e-6  # the tolerance, and single precision
    assert flows["deviation"].max() <= 1e-6
    assert (flows["norm"] / flows["fixed_norm"] - 1).abs().max() <= 1e-5
    plain = table[(table["method"] != "flow") & (table["epoch"] > 0)]
    assert plain["imbalance"].min() >= 1e-4
    assert (plain["deviation"] == 0).all()


def test_same_start_and_batches_for_every_method(table: pd.DataFrame) -> None:
    starts = of(table, epoch=0)
    for _, each in starts.groupby("seed"):
        assert each["loss"].max() - each["loss"].min() <= 1e-5  # rescaled, the same function


@pytest.mark.parametrize(("method", "p", "q", "decay"), [("sgd", 1, 2, 1e-3), ("prox", 1, 1, 1e-2)])
def test_gradient_descent_recomputed(
    table: pd.DataFrame, method: str, p: int, q: int, decay: float
) -> None:
    images, classes = digits()
    order = torch.randperm(1797, generator=generator(0))
    x, y = images.flatten(1)[order[1000:]], classes[order[1000:]]
    rng = generator(1)
    net = balance(mlp([64, 12, 8, 10], generator=rng), p, q, max_iter=10_000).model
    for epoch in range(2):
        lr = 0.3 * (1 + math.cos(math.pi * epoch / 2)) / 2
        for batch in torch.randperm(797, generator=rng).split(300):
            net.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            with torch.no_grad():
                for w in net.parameters():
                    if method == "prox":
                        w -= lr * w.grad
                        w.copy_(nn.functional.softshrink(w, lr * decay))
                    else:  # the penalty is decay / 2 sum_i (sum_j |w_ij|)^2
                        rows = w.abs().sum(1, keepdim=True)
                        w -= lr * (w.grad + decay * rows * w.sign())
    row = of(table, method=method, p=p, q=q, weight_decay=decay, epochs=2, seed=1).iloc[-1]
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(net(x), y))
        norms = torch.cat([w.double().abs().sum(1) for w in net.parameters()])
        norm = float((norms**q).sum() ** (1 / q))
        test = images.flatten(1)[order[:1000]]
        accuracy = float((net(test).argmax(1) == classes[order[:1000]]).double().mean())
    assert row["loss"] == pytest.approx(loss, rel=1e-4)  # six steps in single precision
    assert row["norm"] == pytest.approx(norm, rel=1e-5)
    assert row["objective"] == pytest.approx(loss + decay / q * norm**q, rel=1e-4)
    assert row["accuracy"] == pytest.approx(accuracy, abs=0.002)
    total = sum(float(pi.sum()) for pi in shares(net, p, q).values())
    assert norm**q == pytest.approx(total, rel=1e-6)


def test_it_is_deterministic_and_quiet(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    config = replace(SMALL, penalties=())
    again = pairing(config)
    assert capsys.readouterr().err == ""  # not a terminal
    assert torch.equal(torch.get_rng_state(), state)
    first = of(table, seed=0, weight_decay=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first, check_exact=True, check_dtype=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"tested": 1797}, "tested must be at most 1000, got 1797"),
        ({"sgd_lr": 0.0}, "sgd_lr must be finite and above 0, got 0.0"),
        ({"hidden": (3, 0)}, r"hidden must be whole numbers above 0, got \(3, 0\)"),
        ({"lengths": (1.5,)}, r"lengths must be whole numbers above 0, got \(1.5,\)"),
        ({"flows": ((1, 1),)}, r"flows must be triples, got \(\(1, 1\),\)"),
        ({"penalties": ((4, 4, 0.1),)}, r"penalties: \(4, 4\) is not among the flows"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairingConfig(**setting)


def test_it_is_registered_and_its_record_is_complete() -> None:
    config = PairingConfig()
    assert EXPERIMENTS["saul2023.pairing"].run is pairing
    assert EXPERIMENTS["saul2023.pairing"].config == config
    recorded = pd.read_csv(RECORDED)
    assert list(recorded.columns) == COLUMNS
    ends = recorded[recorded["epoch"] == recorded["epochs"]]
    assert len(ends) == 20 * (6 + 9 + 4)


def test_flows_reach_the_accuracy_of_gradient_descent() -> None:
    """The record: every pair within 0.01 of SGD, means over the seeds."""
    recorded = pd.read_csv(RECORDED)
    ends = recorded[(recorded["epoch"] == recorded["epochs"]) & (recorded["weight_decay"] == 0)]
    means = ends.groupby(["method", "p", "q"])["accuracy"].mean()
    assert len(means["flow"]) == 5
    assert (means["flow"] - means["sgd", 2, 2]).abs().max() <= 0.01


def test_first_epochs_of_the_record_recomputed() -> None:
    recorded = pd.read_csv(RECORDED)
    # the schedule depends on the length: compare the start, and that the first steps descend
    config = replace(PairingConfig(), epochs=1, record_every=1, penalties=())
    again = pairing(config)
    for row in of(again, epoch=0).to_dict("records"):
        same = {name: row[name] for name in ("method", "p", "q", "weight_decay", "seed", "epoch")}
        old = of(recorded, **same).iloc[0]
        for name in ("loss", "norm", "fixed_norm"):
            assert row[name] == pytest.approx(old[name], rel=1e-5)
    assert (of(again, epoch=1)["loss"].to_numpy() < of(again, epoch=0)["loss"].to_numpy()).all()

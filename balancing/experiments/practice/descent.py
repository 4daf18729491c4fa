"""Training from a badly scaled start: SGD without and with the fix, and Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from balancing.experiments._settings import bar, check_counts
from balancing.experiments.practice.networks import (
    NETWORKS,
    Digits,
    check_networks,
    epoch,
    fixed,
    initial,
    thrown,
)

__all__ = ["TrainingConfig", "training"]

_METHODS = ("sgd", "sgd, fix first", "sgd, fix each epoch", "adam", "adam, fix first")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training runs; all are chosen.

    Attributes:
        networks: ``"mlp"`` and ``"conv"``, as in the other experiments.
        scales: values of s; the hidden units of the start are rescaled by e^(s z). Methods with
            the fix run from the largest scale only: the fix leads to the same start from all.
        p, q: the pair of the fix.
        sgd_lrs: the grid of learning rates of SGD, without momentum.
        adam_lrs: that of Adam.
        batch: size of the minibatches.
        epochs: passes over the training images; the learning rate falls to 0 along a cosine.
        seeds: number of runs of each kind, seeded by 0, 1, ...
        tuning: number of further seeds, with which the learning rate is chosen: for each network,
            scale and method that of the lowest mean training loss after the last epoch.
    """

    networks: tuple[str, ...] = NETWORKS
    scales: tuple[float, ...] = (0, 1, 2)
    p: float = 2.0
    q: float = 2.0
    sgd_lrs: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    adam_lrs: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    batch: int = 64
    epochs: int = 15
    seeds: int = 5
    tuning: int = 3

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_networks(self.networks, self.scales)
        check_counts(self, "batch", "epochs", "seeds", "tuning")
        for name in ("sgd_lrs", "adam_lrs"):
            lrs = getattr(self, name)
            if not lrs or not all(0 < lr < math.inf for lr in lrs):
                raise ValueError(f"{name} must be finite numbers above 0, got {lrs}")


@dataclass(frozen=True)
class _Run:
    network: str
    scale: float
    method: str
    lr: float
    seed: int


def training(config: TrainingConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Starts that compute one function, scaled well and badly, and what training makes of them.

    Methods: ``"sgd"``; ``"sgd, fix first"``, from the balanced start; ``"sgd, fix each epoch"``,
    from there and balanced again after every epoch; ``"adam"``; ``"adam, fix first"``.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        Columns: ``network``; ``scale``; ``method``; ``lr``; ``seed``; ``tuning``, whether the run
        served to choose the learning rate: then there is its last epoch alone, otherwise all
        epochs from 0, with the chosen rate; ``epoch``; ``loss``, the cross-entropy of the
        training images, infinite once training has failed; ``accuracy`` of the test images.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = config or TrainingConfig()
    data = Digits()
    tables = []
    settings = [
        (network, scale, method)
        for network, scale, method in product(config.networks, config.scales, _METHODS)
        if "fix" not in method or scale == max(config.scales)
    ]
    for network, scale, method in bar(settings, "training", progress):
        lrs = config.sgd_lrs if method.startswith("sgd") else config.adam_lrs
        losses = {}
        for lr in lrs:
            seeds = range(config.seeds, config.seeds + config.tuning)
            runs = [_Run(network, scale, method, lr, seed) for seed in seeds]
            ends = pd.concat([_train(run, config, data).iloc[[-1]] for run in runs])
            losses[lr] = ends["loss"].mean()
            tables.append(ends.assign(tuning=True))
        best = min(losses, key=lambda lr: losses[lr])
        for seed in range(config.seeds):
            table = _train(_Run(network, scale, method, best, seed), config, data)
            tables.append(table.assign(tuning=False))
    columns = [*_Run.__annotations__, "tuning", "epoch", "loss", "accuracy"]
    return pd.concat(tables, ignore_index=True)[columns]


def _train(run: _Run, config: TrainingConfig, data: Digits) -> pd.DataFrame:
    generator = torch.Generator().manual_seed(run.seed)
    (model,) = thrown(initial(run.network, generator), [run.scale], generator)
    if "fix" in run.method:
        model = fixed(model, config.p, config.q)
    kind = torch.optim.SGD if run.method.startswith("sgd") else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=run.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    seen = [(data.loss(model), data.accuracy(model))]
    for _ in range(config.epochs):
        epoch(model, optimizer, data, config.batch, generator)
        schedule.step()
        seen.append((data.loss(model), data.accuracy(model)))
        if math.isinf(seen[-1][0]):  # it stays so
            seen += [seen[-1]] * (config.epochs + 1 - len(seen))
            break
        if run.method == "sgd, fix each epoch":
            balanced = fixed(model, config.p, config.q)
            model.load_state_dict(balanced.state_dict())
    table = pd.DataFrame(seen, columns=["loss", "accuracy"]).rename_axis("epoch").reset_index()
    return table.assign(
        network=run.network, scale=float(run.scale), method=run.method, lr=run.lr, seed=run.seed
    )

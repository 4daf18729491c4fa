"""Training from a badly scaled start: SGD without and with the fix, and Adam.

:func:`tuning` tries learning rates, :func:`training` trains with those that were best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from balancing.experiments._settings import bar, check_counts, check_seed, chosen
from balancing.experiments.practice.networks import (
    NETWORKS,
    Digits,
    check_networks,
    epoch,
    fixed,
    initial,
    thrown,
)

__all__ = ["TrainingConfig", "TuningConfig", "best_rates", "training", "tuning"]

_METHODS = ("sgd", "sgd, fix first", "sgd, fix each epoch", "adam", "adam, fix first")


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


@dataclass(frozen=True)
class _Settings:
    """Settings of training runs; all are chosen.

    Attributes:
        networks: ``"mlp"`` and ``"conv"``, as in the other experiments.
        scales: values of s; the hidden units of the start are rescaled by e^(s z). Methods with
            the fix run from the largest scale only: the fix leads to the same start from all.
        p, q: the pair of the fix.
        batch: size of the minibatches.
        epochs: passes over the training images; the learning rate falls to 0 along a cosine.
        seed: seeds the network, the factors and the minibatches.
    """

    networks: tuple[str, ...] = NETWORKS
    scales: tuple[float, ...] = (0, 1, 2)
    p: float = 2.0
    q: float = 2.0
    batch: int = 64
    epochs: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_networks(self.networks, self.scales)
        check_counts(self, "batch", "epochs")
        check_seed(self)

    def kinds(self) -> list[tuple[str, float, str]]:
        """Network, scale and method of each kind of run."""
        return [
            (network, scale, method)
            for network, scale, method in product(self.networks, self.scales, _METHODS)
            if "fix" not in method or scale == max(self.scales)
        ]


@dataclass(frozen=True)
class TuningConfig(_Settings):
    """Settings of the choice of learning rates, beside those of all training runs.

    Attributes:
        sgd_lrs: the grid of learning rates of SGD, without momentum.
        adam_lrs: that of Adam.
    """

    sgd_lrs: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    adam_lrs: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        super().__post_init__()
        for name in ("sgd_lrs", "adam_lrs"):
            lrs = getattr(self, name)
            if not lrs or not all(map(_is_rate, lrs)):
                raise ValueError(f"{name} must be finite numbers above 0, got {lrs}")


# Found by `balancing reproduce practice.tuning`; a test compares them with its table.
_BEST = (
    ("mlp", 0, "sgd", 0.3),
    ("mlp", 0, "adam", 0.03),
    ("mlp", 1, "sgd", 0.1),
    ("mlp", 1, "adam", 0.03),
    ("mlp", 2, "sgd", 0.003),
    ("mlp", 2, "sgd, fix first", 0.3),
    ("mlp", 2, "sgd, fix each epoch", 0.3),
    ("mlp", 2, "adam", 0.01),
    ("mlp", 2, "adam, fix first", 0.03),
    ("conv", 0, "sgd", 1.0),
    ("conv", 0, "adam", 0.03),
    ("conv", 1, "sgd", 0.3),
    ("conv", 1, "adam", 0.03),
    ("conv", 2, "sgd", 0.003),
    ("conv", 2, "sgd, fix first", 1.0),
    ("conv", 2, "sgd, fix each epoch", 1.0),
    ("conv", 2, "adam", 0.01),
    ("conv", 2, "adam, fix first", 0.03),
)


@dataclass(frozen=True)
class TrainingConfig(_Settings):
    """Settings of the training runs, beside those that they share with the choice of their rates.

    Attributes:
        lrs: network, scale, method and learning rate of each kind of run: what :func:`best_rates`
            makes of the recorded table of :func:`tuning`, whose seeds are others.
    """

    lrs: tuple[tuple[str, float, str, float], ...] = _BEST

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        super().__post_init__()
        if not all(len(each) == 4 and _is_rate(each[3]) for each in self.lrs):
            raise ValueError(
                "lrs must be tuples of network, scale, method and a learning rate that is finite "
                f"and above 0, got {self.lrs}"
            )
        if missing := set(self.kinds()) - {each[:3] for each in self.lrs}:
            raise ValueError(f"lrs has no learning rate for {sorted(missing)}")


def tuning(config: TuningConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Every kind of run of :func:`training`, with every learning rate of a grid.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row a run. Columns: ``network``; ``scale``; ``method``; ``lr``; ``seed``; ``loss`` and
        ``accuracy`` after the last epoch, as for :func:`training`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = chosen(config, TuningConfig)
    data = Digits()
    runs = [
        (*kind, lr)
        for kind in config.kinds()
        for lr in (config.sgd_lrs if kind[2].startswith("sgd") else config.adam_lrs)
    ]
    ends = [_train(*run, config, data).iloc[[-1]] for run in bar(runs, "tuning", progress)]
    return pd.concat(ends, ignore_index=True).drop(columns="epoch")


def best_rates(table: pd.DataFrame) -> tuple[tuple[str, float, str, float], ...]:
    """Of each kind of run the learning rate with the lowest mean of the last training loss.

    Args:
        table: from :func:`tuning`, for one seed or several.

    Returns:
        What :attr:`TrainingConfig.lrs` takes.

    Raises:
        TypeError: ``table`` is no DataFrame.
        ValueError: it lacks a column; the message names it.
    """
    kind = ["network", "scale", "method"]
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be what tuning() returned, got {type(table).__name__}")
    if missing := [name for name in (*kind, "lr", "loss") if name not in table]:
        raise ValueError(f"table must be what tuning() returned; it lacks '{missing[0]}'")
    means = table.groupby([*kind, "lr"], sort=False)["loss"].mean().reset_index()
    best = means.loc[means.groupby(kind, sort=False)["loss"].idxmin()]
    return tuple(best[[*kind, "lr"]].itertuples(index=False, name=None))


def training(config: TrainingConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Starts that compute one function, scaled well and badly, and what training makes of them.

    Methods: ``"sgd"``; ``"sgd, fix first"``, from the balanced start; ``"sgd, fix each epoch"``,
    from there and balanced again after every epoch; ``"adam"``; ``"adam, fix first"``.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row an epoch, from 0. Columns: ``network``; ``scale``; ``method``; ``lr``; ``seed``;
        ``epoch``; ``loss``, the cross-entropy of the training images, infinite once training has
        failed; ``accuracy`` of the test images.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = chosen(config, TrainingConfig)
    data = Digits()
    lrs = {each[:3]: each[3] for each in config.lrs}
    kinds = bar(config.kinds(), "training", progress)
    tables = [_train(*kind, lrs[kind], config, data) for kind in kinds]
    return pd.concat(tables, ignore_index=True)


def _train(
    network: str, scale: float, method: str, lr: float, config: _Settings, data: Digits
) -> pd.DataFrame:
    """One run: a row an epoch, from 0."""
    generator = torch.Generator().manual_seed(config.seed)
    (model,) = thrown(initial(network, generator), [scale], generator)
    if "fix" in method:
        model = fixed(model, config.p, config.q)
    kind = torch.optim.SGD if method.startswith("sgd") else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    seen = [(data.loss(model), data.accuracy(model))]
    for _ in range(config.epochs):
        epoch(model, optimizer, data, config.batch, generator)
        schedule.step()
        seen.append((data.loss(model), data.accuracy(model)))
        if math.isinf(seen[-1][0]):  # it stays so
            seen += [seen[-1]] * (config.epochs + 1 - len(seen))
            break
        if method == "sgd, fix each epoch":
            balanced = fixed(model, config.p, config.q)
            model.load_state_dict(balanced.state_dict())
    table = pd.DataFrame(seen, columns=["loss", "accuracy"]).rename_axis("epoch").reset_index()
    said: list[tuple[str, str | float]] = [
        ("network", network),
        ("scale", float(scale)),
        ("method", method),
        ("lr", lr),
        ("seed", config.seed),
    ]
    for column, (name, value) in enumerate(said):
        table.insert(column, name, value)
    return table

"""From flow to descent: which optimizers keep the invariants of a network that learns digits.

The paper's theorems are about gradient flow, and it has no such experiment: everything here is
chosen by us. scikit-learn's handwritten digits, a ReLU network with biases, cross-entropy, float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from balancing.experiments._settings import bar, check_counts, check_positive, check_seed, chosen
from balancing.experiments.digits import digits
from balancing.graph import trace
from balancing.invariants import unit_invariants
from balancing.networks import mlp

__all__ = ["OptimizersConfig", "optimizers"]

_IMAGES = 1797  # as many as the file has


@dataclass(frozen=True)
class OptimizersConfig:
    """Settings of the comparison of optimizers (all chosen by us).

    Time is the rate times the number of steps, where the rate is ``lr / (1 - momentum)`` under
    momentum and ``lr`` otherwise. Adam moves every weight by about its rate in a step, whatever
    the gradient, so that its time is not that of gradient descent: it has rates and a time of its
    own.

    Attributes:
        hidden: units of the hidden layers.
        images: the network learns the first so many digits.
        batch: images in a minibatch, drawn without replacement and afresh for every step.
        rates: rates of gradient descent and of its variants.
        time: how long they run.
        adam_rates: rates of Adam and of its variants.
        adam_time: how long they run.
        momentum: heavy-ball momentum, in the variants that have it.
        decay: weight decay of gradient descent and of Adam with an l2 penalty.
        adamw_decay: weight decay of AdamW.
        records: rows of a run after the first, at equal times.
        seed: seeds the network and the minibatches.
    """

    hidden: tuple[int, ...] = (64, 32)
    images: int = 500
    batch: int = 100
    rates: tuple[float, ...] = (0.08, 0.04, 0.02, 0.01)
    time: float = 24.0
    adam_rates: tuple[float, ...] = (0.008, 0.004, 0.002, 0.001)
    adam_time: float = 2.0
    momentum: float = 0.9
    decay: float = 0.02
    adamw_decay: float = 0.1
    records: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_counts(self, "records")
        check_seed(self)
        check_positive(self, "decay", "adamw_decay")
        if not self.hidden or not all(type(n) is int and n > 0 for n in self.hidden):
            raise ValueError(f"hidden must be whole numbers above 0, got {self.hidden}")
        if not 1 <= self.images <= _IMAGES:
            raise ValueError(f"images must be from 1 to {_IMAGES}, got {self.images}")
        if not 1 <= self.batch <= self.images:
            raise ValueError(f"batch must be from 1 to {self.images}, got {self.batch}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be above 0 and below 1, got {self.momentum}")
        for rates, time in (("rates", "time"), ("adam_rates", "adam_time")):
            check_positive(self, time)
            given = getattr(self, rates)
            if not given or not all(0 < rate < math.inf for rate in given):
                raise ValueError(f"{rates} must be numbers above 0, got {given}")
            if getattr(self, time) / max(given) < self.records:
                raise ValueError(
                    f"{time} must be at least {self.records} steps of {max(given)}, one for each "
                    f"record, got {getattr(self, time)}"
                )


@dataclass(frozen=True)
class _Variant:
    """An optimizer with its settings: ``make`` takes the parameters and the lr."""

    name: str
    make: Callable[[Iterator[nn.Parameter], float], Optimizer]
    rates: tuple[float, ...]
    time: float
    momentum: float = 0.0
    full_batch: bool = False


def optimizers(
    config: OptimizersConfig | None = None, *, progress: bool | None = None
) -> pd.DataFrame:
    r"""Train one network with several optimizers and measure how its invariants fare.

    With I the vector of :func:`balancing.unit_invariants` of all hidden units, ``change`` is
    :math:`\|I(t) - I(0)\| / \|I(0)\|`, and ``kept`` is the fraction
    :math:`\langle I(t), I(0) \rangle / \|I(0)\|^2`: what an exponential decay of all
    invariants multiplies. All runs start from one network; those that take as many steps see the
    same minibatches.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        The runs, one below the other, each from time 0 on. Columns: ``optimizer``, one of gd,
        gd-momentum (all images in every step), sgd, sgd-momentum, sgd-decay, adam, adam-l2,
        adamw (minibatches); ``lr``; ``rate``; ``seed``; ``step``; ``time``, rate times step;
        ``loss`` of all images; ``change``; ``kept``.

    Raises:
        FloatingPointError: a run diverged; the message names it.
        ImportError: scikit-learn, which has the digits, is not installed.
    """
    config = chosen(config, OptimizersConfig)
    x, y = digits(dtype=torch.float64)
    x, y = x[: config.images].flatten(1), y[: config.images]
    runs = [(variant, rate) for variant in _variants(config) for rate in variant.rates]
    tables = [
        _train(variant, rate, x, y, config) for variant, rate in bar(runs, "optimizers", progress)
    ]
    return pd.concat(tables, ignore_index=True)


def _variants(config: OptimizersConfig) -> list[_Variant]:
    beta, decay = config.momentum, config.decay
    descent, adam = (config.rates, config.time), (config.adam_rates, config.adam_time)

    def heavy_ball(parameters: Iterator[nn.Parameter], lr: float) -> Optimizer:
        return SGD(parameters, lr=lr, momentum=beta)

    return [
        _Variant("gd", SGD, *descent, full_batch=True),
        _Variant("gd-momentum", heavy_ball, *descent, momentum=beta, full_batch=True),
        _Variant("sgd", SGD, *descent),
        _Variant("sgd-momentum", heavy_ball, *descent, momentum=beta),
        _Variant("sgd-decay", lambda p, lr: SGD(p, lr=lr, weight_decay=decay), *descent),
        _Variant("adam", Adam, *adam),
        _Variant("adam-l2", lambda p, lr: Adam(p, lr=lr, weight_decay=decay), *adam),
        _Variant("adamw", lambda p, lr: AdamW(p, lr=lr, weight_decay=config.adamw_decay), *adam),
    ]


def _train(
    variant: _Variant, rate: float, x: Tensor, y: Tensor, config: OptimizersConfig
) -> pd.DataFrame:
    """One run; the generator draws the network first, then the minibatches."""
    generator = torch.Generator().manual_seed(config.seed)
    widths = [x.shape[1], *config.hidden, 10]
    net = mlp(widths, bias=True, dtype=torch.float64, generator=generator)
    graph = trace(net)
    lr = rate * (1 - variant.momentum)
    optimizer = variant.make(net.parameters(), lr)
    steps = round(variant.time / rate)
    recorded = {round(steps * row / config.records) for row in range(config.records + 1)}

    def invariants() -> Tensor:
        return torch.cat(list(unit_invariants(graph).values()))

    start, rows = invariants(), []
    for step in range(steps + 1):
        if step in recorded:
            with torch.no_grad():
                loss = float(nn.functional.cross_entropy(net(x), y))
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"{variant.name} has diverged at step {step} (loss {loss:g}); take a rate "
                    f"below {rate:g}"
                )
            now = invariants()
            change = float((now - start).norm() / start.norm())
            rows.append((step, rate * step, loss, change, float(now @ start / (start @ start))))
        if step < steps:
            inputs, labels = x, y
            if not variant.full_batch:
                batch = torch.randperm(len(x), generator=generator)[: config.batch]
                inputs, labels = x[batch], y[batch]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    table = pd.DataFrame(rows, columns=["step", "time", "loss", "change", "kept"])
    table.insert(0, "optimizer", variant.name)
    table.insert(1, "lr", lr)
    table.insert(2, "rate", rate)
    table.insert(3, "seed", config.seed)
    return table

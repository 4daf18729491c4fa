"""Training a classifier of digits along weight-balancing flows, and by plain gradient descent.

All settings are chosen here; the paper's abstract and summary tell of no such experiment.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from balancing.descent import WeightBalancingDescent
from balancing.experiments._settings import bar, check_counts, check_positive, check_seed, chosen
from balancing.experiments.digits import digits
from balancing.fixes import balance
from balancing.graph import RescalingGraph, trace
from balancing.networks import mlp
from balancing.norms import imbalance, lpq_norm

__all__ = ["PairingConfig", "pairing"]

Method = Literal["flow", "sgd", "prox"]


@dataclass(frozen=True)
class PairingConfig:
    """Settings of the training runs; all are chosen.

    Attributes:
        hidden: widths of the hidden layers, between 64 pixels and 10 classes. No biases.
        tested: number of images that are kept for testing.
        batch: size of the minibatches.
        epochs: passes over the training images.
        lengths: the runs with the penalty p = q = 1 are repeated with so many times the epochs.
        record_every: epochs between recorded rows; times the length in the longer runs.
        sgd_lr: learning rate of gradient descent; like all learning rates it falls to 0 along a
            cosine.
        flows: (p, q, lr) of each flow. The learning rates, like ``sgd_lr``, are the largest of
            1, 3, 10, ... with which training was stable and, for p <= 1, less than a tenth of the
            flow's time was cut, with a seed that is not among those of the record.
        penalties: (p, q, weight decay) of each penalty, whose pair is among the flows.
        seed: seeds the initial network and the minibatches.
    """

    hidden: tuple[int, ...] = (128, 64)
    tested: int = 450
    batch: int = 64
    epochs: int = 60
    lengths: tuple[int, ...] = (1, 3, 10)
    record_every: int = 5
    sgd_lr: float = 0.3
    flows: tuple[tuple[float, float, float], ...] = (
        (1, 1, 10),
        (1, 2, 100),
        (2, 2, 0.3),
        (1.5, 1.5, 0.3),
        (3, 3, 0.03),
    )
    penalties: tuple[tuple[float, float, float], ...] = ((1, 1, 1e-3), (1, 2, 1e-4), (2, 2, 1e-3))
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_counts(self, "tested", "batch", "epochs", "record_every")
        check_seed(self)
        check_positive(self, "sgd_lr")
        if self.tested > 1000:
            raise ValueError(f"tested must be at most 1000, got {self.tested}")
        for name in ("hidden", "lengths"):
            if not all(type(n) is int and n > 0 for n in getattr(self, name)):
                raise ValueError(f"{name} must be whole numbers above 0, got {getattr(self, name)}")
        for name in ("flows", "penalties"):
            if not all(len(each) == 3 for each in getattr(self, name)):
                raise ValueError(f"{name} must be triples, got {getattr(self, name)}")
        for p, q, _ in self.penalties:
            if (p, q) not in [flow[:2] for flow in self.flows]:
                raise ValueError(f"penalties: ({p}, {q}) is not among the flows")


@dataclass(frozen=True)
class _Run:
    """One training run: (p, q) is the pair of the flow, of the penalty and of what is recorded."""

    method: Method
    p: float
    q: float
    lr: float
    weight_decay: float
    epochs: int

    def penalty(self, graph: RescalingGraph) -> Tensor:
        return self.weight_decay / self.q * lpq_norm(graph, self.p, self.q) ** self.q


def pairing(config: PairingConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    r"""Flows against gradient descent, without and with :math:`\tfrac\lambda q \|W\|_{p,q}^q`.

    Every run starts from a network that :func:`balancing.balance` has balanced. Methods:
    ``flow``, :class:`balancing.WeightBalancingDescent`; ``sgd``, gradient descent on loss and
    penalty (a subgradient); ``prox``, for p = q = 1, gradient descent on the loss, then the
    proximal map of the penalty.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        Rows from epoch 0 to the last. Columns: ``method``; ``p``,
        ``q``; ``weight_decay``, 0 for none; ``epochs``, the length of the run;
        ``epoch``; ``loss``, the cross-entropy of the training images; ``objective``, with the
        penalty; ``accuracy``, of the test images; ``norm``; ``fixed_norm``, that of the network
        when balanced; ``imbalance``, the sum of the sizes of all imbalances over that of all
        shares; ``small``, the part of the balanced network's weights that are below a hundredth
        of the largest of their layer; ``pruned_accuracy``, that of the balanced network without
        these; ``deviation``, the largest that the optimizer had so far (0 but for flows).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = chosen(config, PairingConfig)
    lrs = {(p, q): lr for p, q, lr in config.flows}
    runs = [_Run("sgd", 2, 2, config.sgd_lr, 0.0, config.epochs)]
    for (p, q), lr in lrs.items():
        runs.append(_Run("flow", p, q, lr, 0.0, config.epochs))
    for p, q, decay in config.penalties:
        is_l1 = p == q == 1
        for times in config.lengths if is_l1 else (1,):
            epochs = times * config.epochs
            runs.append(_Run("flow", p, q, lrs[p, q], decay, epochs))
            runs.append(_Run("sgd", p, q, config.sgd_lr, decay, epochs))
            if is_l1:
                runs.append(_Run("prox", p, q, config.sgd_lr, decay, epochs))
    data = _Data(config)
    tables = [_train(run, config, data) for run in bar(runs, "pairing", progress)]
    return pd.concat(tables, ignore_index=True)


class _Data:
    """The digits, split at random once and for all."""

    def __init__(self, config: PairingConfig) -> None:
        images, classes = digits()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        test, train = order[: config.tested], order[config.tested :]
        self.x, self.y = images[train].flatten(1), classes[train]
        self.test_x, self.test_y = images[test].flatten(1), classes[test]

    def accuracy(self, model: nn.Module) -> float:
        return float((model(self.test_x).argmax(1) == self.test_y).double().mean())


def _train(run: _Run, config: PairingConfig, data: _Data) -> pd.DataFrame:
    generator = torch.Generator().manual_seed(config.seed)
    start = mlp([64, *config.hidden, 10], generator=generator)
    # the method is named, so that a faster one will not change the start, and so all that follows
    fixed = balance(start, run.p, run.q, method="multiplicative", max_iter=10_000)
    graph = trace(fixed.model)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(graph.model.parameters(), lr=run.lr)
    if run.method == "flow":
        decay = run.weight_decay
        optimizer = WeightBalancingDescent(graph, run.lr, run.p, run.q, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs)
    every = config.record_every * run.epochs // config.epochs
    deviation, rows = 0.0, [_record(run, 0, graph, data)]
    for epoch in range(1, run.epochs + 1):
        for batch in torch.randperm(len(data.x), generator=generator).split(config.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(graph.model(data.x[batch]), data.y[batch])
            if run.method == "sgd" and run.weight_decay:
                loss = loss + run.penalty(graph)
            loss.backward()
            optimizer.step()
            if run.method == "prox":
                _shrink(graph.model, optimizer.param_groups[0]["lr"] * run.weight_decay)
            if isinstance(optimizer, WeightBalancingDescent):
                deviation = max(deviation, optimizer.deviation)
        schedule.step()
        if epoch % every == 0 or epoch == run.epochs:
            rows.append(_record(run, epoch, graph, data))
            rows[-1]["deviation"] = deviation
    table = pd.DataFrame(rows)
    table.insert(5, "seed", config.seed)
    return table


@torch.no_grad()
def _shrink(model: nn.Module, threshold: float) -> None:
    """The proximal map of threshold * sum |W|: every weight nearer to 0 by it, or 0."""
    for weight in model.parameters():
        weight.copy_(weight.sign() * (weight.abs() - threshold).clamp(min=0))


@torch.no_grad()
def _record(run: _Run, epoch: int, graph: RescalingGraph, data: _Data) -> dict[str, object]:
    model, p, q = graph.model, run.p, run.q
    loss = float(nn.functional.cross_entropy(model(data.x), data.y))
    norm = float(lpq_norm(graph, p, q))
    apart = sum(float(each.abs().sum()) for each in imbalance(graph, p, q).values())
    with warnings.catch_warnings():  # the norm is near its minimum long before all units are
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        fixed = balance(graph, p, q, tol=1e-3).model
    row = {
        "method": run.method,
        "p": float(p),
        "q": float(q),
        "weight_decay": run.weight_decay,
        "epochs": run.epochs,
        "epoch": epoch,
        "loss": loss,
        "objective": loss + run.weight_decay / q * norm**q,
        "accuracy": data.accuracy(model),
        "norm": norm,
        "fixed_norm": float(lpq_norm(fixed, p, q)),
        "imbalance": apart / norm**q,
    }
    below = [weight.abs() < 0.01 * weight.abs().max() for weight in fixed.parameters()]
    for weight, small in zip(fixed.parameters(), below, strict=True):
        weight[small] = 0
    row["small"] = float(torch.cat([small.flatten() for small in below]).double().mean())
    row["pruned_accuracy"] = data.accuracy(fixed)
    row["deviation"] = 0.0
    return row

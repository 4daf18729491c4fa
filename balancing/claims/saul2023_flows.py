"""Saul (2023), the flows: claims about them, about their discrete steps, and about training."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from balancing.claims.claim import Claim
from balancing.claims.saul2023 import SAUL
from balancing.descent import WeightBalancingDescent
from balancing.fixes import balance
from balancing.flows import gradient_flow, share_velocity, weight_balancing_flow
from balancing.networks import mlp
from balancing.norms import imbalance, lpq_norm
from balancing.trajectories import Trajectory, integrate_flow

PAIRS = ((0.5, 0.5), (1, 1), (1, 2), (2, 1), (2, 2), (1.5, 1.5), (3, 3), (1.5, 3))
DECAY = 0.7
SMOOTH = 12  # a seed whose flows cross few kinks, so that they are cheap to integrate
# (p, q) of the discrete steps, with learning rates that suit weights of about 0.5
STEPS = ((1, 1, 0.1), (1, 2, 0.2), (2, 2, 0.05), (1.5, 1.5, 0.05), (2, 1, 0.02), (3, 3, 0.01))


def _problem(
    seed: int, *, bias: bool = True
) -> tuple[nn.Sequential, Callable[[nn.Module], Tensor]]:
    """A random float64 network 3-4-3-2 (leaky ReLU), and its loss on 5 Gaussian samples."""
    generator = torch.Generator().manual_seed(seed)
    net = mlp([3, 4, 3, 2], activation=lambda: nn.LeakyReLU(0.3), bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(5, 2, dtype=torch.float64, generator=generator)

    def loss(model: nn.Module) -> Tensor:
        residual: Tensor = model(x) - y
        return 0.5 * residual.square().sum(1).mean()

    return net, loss


def _path(net: nn.Module, loss: Callable[[nn.Module], Tensor], **flow: float) -> Trajectory:
    return integrate_flow(net, loss, [0, 0.1, 0.2], on_sliding="stop", **flow)


def _imbalances(path: Trajectory, p: float, q: float) -> Tensor:
    """All imbalances along a path, shape (times, units), in units of ||W||_{p,q}^q at the start."""
    values = path.measure(lambda net: imbalance(net, p, q, bias=True)).values()
    with torch.no_grad():
        return torch.cat(list(values), 1) / lpq_norm(path.model(0), p, q) ** q


def _identity() -> float:
    """Largest relative difference of what incoming and outgoing shares gain."""
    worst = 0.0
    for seed in range(3):
        net, loss = _problem(seed)
        rate = share_velocity(net, loss(net), 1, 2)
        for here, above in (("linear1", "linear2"), ("linear2", "linear3")):
            into = rate[f"{here}.weight"].sum(1) + rate[f"{here}.bias"]
            out = rate[f"{above}.weight"].sum(0)
            scale = rate[f"{here}.weight"].abs().sum(1) + rate[f"{above}.weight"].abs().sum(0)
            worst = max(worst, float(((into - out).abs() / scale).max()))
    return worst


def _at_two_two() -> float:
    """Largest relative difference between twice the flow at p = q = 2 and gradient flow."""
    worst = 0.0
    for seed in range(3):
        net, loss = _problem(seed)
        flow = weight_balancing_flow(net, loss(net), 2, 2, weight_decay=DECAY)
        for name, velocity in gradient_flow(net, loss(net), weight_decay=DECAY).items():
            worst = max(worst, float((2 * flow[name] - velocity).abs().max() / velocity.norm()))
    return worst


def _conservation() -> float:
    """Largest change of an imbalance without decay, in units of the norm's power."""
    worst = 0.0
    for p, q in PAIRS:
        net, loss = _problem(SMOOTH)
        values = _imbalances(_path(net, loss, p=p, q=q), p, q)
        worst = max(worst, float((values - values[0]).abs().max()))
    return worst


def _decay() -> float:
    """Largest relative distance of an imbalance from its exponential."""
    worst = 0.0
    for p, q in PAIRS:
        net, loss = _problem(SMOOTH)
        path = _path(net, loss, p=p, q=q, weight_decay=DECAY)
        values = _imbalances(path, p, q)
        expected = values[0] * torch.exp(-DECAY * path.times)[:, None]
        worst = max(worst, float(((values - expected) / values[0]).abs().max()))
    return worst


def _balanced() -> float:
    """Largest imbalance along the flow with decay from a balanced start."""
    worst = 0.0
    for p, q in PAIRS:
        net, loss = _problem(SMOOTH, bias=False)
        start = balance(net, p, q, tol=1e-12, max_iter=10_000).model
        path = _path(start, loss, p=p, q=q, weight_decay=DECAY)
        worst = max(worst, float(_imbalances(path, p, q).abs().max()))
    return worst


def _gradient_flow_drift() -> float:
    """Largest change of an imbalance along gradient flow, for the pair where that is least."""
    net, loss = _problem(SMOOTH)
    path = _path(net, loss)
    drifts = []
    for p, q in PAIRS:
        if (p, q) != (2, 2):
            values = _imbalances(path, p, q)
            drifts.append(float((values - values[0]).abs().max()))
    return min(drifts)


def _steepest_ascent() -> float:
    """Largest slope of the regularized loss along the flow, relative to the sum of its terms."""
    worst = -math.inf
    for seed in range(3):
        for p, q in PAIRS:
            net, loss = _problem(seed, bias=False)
            flow = weight_balancing_flow(net, loss(net), p, q, weight_decay=DECAY)
            objective = loss(net) + DECAY / q * lpq_norm(net, p, q) ** q
            slopes = gradient_flow(net, objective)
            terms = torch.cat([-(slopes[name] * flow[name]).flatten() for name in flow])
            worst = max(worst, float(terms.sum() / terms.abs().sum()))
    return worst


def _descend(p: float, q: float, lr: float, tol: float) -> tuple[float, float]:
    """A hundred steps: the largest relative deviation, and the last loss over the first."""
    net, loss = _problem(3, bias=False)
    net_at_minimum = balance(net, p, q, tol=1e-12, max_iter=10_000).model
    optimizer = WeightBalancingDescent(net_at_minimum, lr, p, q, tol=tol)
    worst, losses = 0.0, []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(net_at_minimum)
        value.backward()
        optimizer.step()
        worst = max(worst, optimizer.deviation)
        losses.append(value.item())
    return worst, losses[-1] / losses[0]


@functools.cache
def _hundred_steps() -> tuple[float, float]:
    runs = [_descend(p, q, lr, 1e-10) for p, q, lr in STEPS]
    return max(run[0] for run in runs), max(run[1] for run in runs)


def _elastic_net() -> float:
    """Largest change of in - out in 100 mirror steps for the regularizer sum |W| + W^2 / 2."""
    net, loss = _problem(3, bias=False)

    def gaps() -> Tensor:
        pi = [W.detach().abs() + W.detach() ** 2 for W in net.parameters()]
        return torch.cat([a.sum(1) - b.sum(0) for a, b in itertools.pairwise(pi)])

    start = gaps()
    for _ in range(100):
        weights = list(net.parameters())
        gradients = torch.autograd.grad(loss(net), weights)
        with torch.no_grad():
            for W, g in zip(weights, gradients, strict=True):
                pi = W.abs() + W**2 - 0.02 * W * g
                W.copy_(W.sign() * ((1 + 4 * pi).sqrt() - 1) / 2)
    return float((gaps() - start).abs().max())


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["epoch"] == table["epochs"]]


def _accuracy_apart(table: pd.DataFrame) -> float:
    """Means over the seeds: in single runs one test image of 450 is 0.0022."""
    plain = _ends(table)
    plain = plain[plain["weight_decay"] == 0]
    means = plain.groupby(["method", "p", "q"])["accuracy"].mean()
    return float((means["flow"] - means["sgd"].iloc[0]).abs().max())


def _flow_imbalance(table: pd.DataFrame) -> float:
    return float(table[table["method"] == "flow"]["imbalance"].max())


def _l1_ends(table: pd.DataFrame) -> pd.DataFrame:
    """The last rows of the runs with an l1 penalty."""
    ends = _ends(table)
    return ends[(ends["weight_decay"] > 0) & (ends["p"] == 1) & (ends["q"] == 1)]


def _objective_ratio(table: pd.DataFrame, which: int) -> float:
    """l1: the flow's final objective over that of gradient descent, in runs of one length."""
    objective = _l1_ends(table).set_index(["method", "epochs"])["objective"]
    epochs = sorted(objective.index.unique("epochs"))[which]
    return float(objective["flow", epochs] / objective["sgd", epochs])


def _excess(table: pd.DataFrame) -> float:
    """l1: by how much the norm that gradient descent ends with exceeds the balanced one."""
    l1 = _l1_ends(table)
    sgd = l1[(l1["method"] == "sgd") & (l1["epochs"] == l1["epochs"].min())]
    return float(sgd["norm"].iloc[0] / sgd["fixed_norm"].iloc[0] - 1)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ours.flow.identity",
        "ours",
        "Weight-balancing flow",
        "For each hidden unit, incoming and outgoing shares gain alike: "
        "$\\sum_j W_{ij}\\,\\partial E/\\partial W_{ij} = "
        "\\sum_k W_{ki}\\,\\partial E/\\partial W_{ki}$, with the bias on the left.",
        "derived",
        "largest relative difference, 3 networks",
        (0, 1e-12),
        _identity,
    ),
    Claim(
        "saul2023.flow.minimal",
        SAUL,
        "Abstract",
        "Along a weight-balancing flow the regularizer stays minimal with respect to rescaling "
        "while the weights descend.",
        "stated",
        "largest imbalance from a balanced start, in units of $\\|W\\|_{p,q}^q$, 8 pairs",
        (0, 1e-8),
        _balanced,
    ),
    Claim(
        "ours.flow.conservation",
        "ours",
        "Weight-balancing flow",
        "Without a regularizer the flow $\\dot\\pi_{ij} = -W_{ij}\\,\\partial L/\\partial W_{ij}$ "
        "conserves every imbalance, from any start.",
        "derived",
        "largest change of an imbalance, in units of $\\|W\\|_{p,q}^q$, 8 pairs",
        (0, 1e-8),
        _conservation,
    ),
    Claim(
        "ours.flow.decay",
        "ours",
        "Weight-balancing flow",
        "With the regularizer $\\frac{\\lambda}{q}\\|W\\|_{p,q}^q$ every imbalance is "
        "$I_i(0)\\,e^{-\\lambda t}$.",
        "derived",
        "largest relative distance from the exponential, 8 pairs",
        (0, 1e-6),
        _decay,
    ),
    Claim(
        "saul2023.flow.l2",
        SAUL,
        "Abstract",
        "For $\\ell_2$ regularization the flow reduces to gradient flow (here at half its speed).",
        "stated",
        "largest relative difference of the velocities, 3 networks",
        (0, 1e-14),
        _at_two_two,
    ),
    Claim(
        "saul2023.flow.pairing",
        SAUL,
        "Abstract",
        "It does not otherwise: gradient flow keeps no imbalance but that of $p = q = 2$.",
        "stated",
        "change of an imbalance in units of $\\|W\\|_{p,q}^q$, least of 7 pairs",
        (1e-3, np.inf),
        _gradient_flow_drift,
    ),
    Claim(
        "ours.flow.descent",
        "ours",
        "Weight-balancing flow",
        "The regularized loss does not increase along the flow, for any $p, q > 0$.",
        "derived",
        "largest relative slope, 8 pairs, 3 networks",
        (-1, 0),
        _steepest_ascent,
    ),
    Claim(
        "ours.step.keeps",
        "ours",
        "WeightBalancingDescent",
        "Steps of finite size keep a balanced start balanced.",
        "derived",
        "largest relative imbalance, 100 steps, 6 pairs, tolerance $10^{-10}$",
        (0, 1e-10),
        lambda: _hundred_steps()[0],
    ),
    Claim(
        "ours.step.descends",
        "ours",
        "WeightBalancingDescent",
        "They descend meanwhile.",
        "derived",
        "largest ratio of the last loss to the first, 100 steps, 6 pairs",
        (0, 0.8),
        lambda: _hundred_steps()[1],
    ),
    Claim(
        "ours.step.shares",
        "ours",
        "WeightBalancingDescent",
        "For $p \\le 1$ the step in the shares keeps every imbalance by itself.",
        "derived",
        "largest relative imbalance without restoring, 100 steps, (1,1) and (1,2)",
        (0, 1e-12),
        lambda: max(_descend(p, q, lr, math.inf)[0] for p, q, lr in STEPS if p <= 1),
    ),
    Claim(
        "ours.flow.any-regularizer",
        "ours",
        "Pairing of flows and regularizers",
        "The mirror flow in $\\log \\lvert W \\rvert$ whose potential is a regularizer keeps its "
        "imbalances, and so do its finite steps, also for a regularizer that is no $\\ell_{p,q}$ "
        "norm.",
        "derived",
        "largest change of an imbalance, elastic net, 100 steps",
        (0, 1e-13),
        _elastic_net,
    ),
    Claim(
        "ours.pairing.accuracy",
        "ours",
        "Training on digits",
        "Flows of all pairs reach the test accuracy of plain gradient descent.",
        "derived",
        "largest distance of the mean accuracies, 5 pairs",
        (0, 0.01),
        _accuracy_apart,
        "saul2023.pairing",
    ),
    Claim(
        "ours.pairing.balance",
        "ours",
        "Training on digits",
        "They stay balanced over all of training, in single precision.",
        "derived",
        "largest sum of $|I_i|$ in units of $\\|W\\|_{p,q}^q$",
        (0, 1e-5),
        _flow_imbalance,
        "saul2023.pairing",
        per_seed=True,
    ),
    Claim(
        "ours.pairing.excess",
        "ours",
        "Training on digits, $\\ell_1$",
        "Gradient descent with an $\\ell_1$ penalty ends unbalanced, well above the smallest norm "
        "of its function.",
        "derived",
        "excess of the norm over that of the balanced network, 60 epochs",
        (0.05, np.inf),
        _excess,
        "saul2023.pairing",
        per_seed=True,
    ),
    Claim(
        "ours.pairing.head-start",
        "ours",
        "Training on digits, $\\ell_1$",
        "After equally many epochs the flow has the smaller regularized loss.",
        "derived",
        "its ratio to that of gradient descent, 60 epochs",
        (0, 0.7),
        lambda table: _objective_ratio(table, 0),
        "saul2023.pairing",
        per_seed=True,
    ),
    Claim(
        "ours.pairing.no-better-end",
        "ours",
        "Training on digits, $\\ell_1$, its limit",
        "Given ten times the epochs, gradient descent ends no worse than the flow.",
        "derived",
        "ratio of the flow's regularized loss to that of gradient descent, 600 epochs",
        (1, np.inf),
        lambda table: _objective_ratio(table, -1),
        "saul2023.pairing",
        per_seed=True,
        share=0.8,
        reason="an order of two nearly equal ends",
    ),
)

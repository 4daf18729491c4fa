"""The faster fix: claims of ours about the two-level method and powers of two."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import torch
from torch import nn

from balancing._orbit import Orbit
from balancing.claims.claim import Claim
from balancing.experiments.saul2023 import Figure2Config
from balancing.fixes import BalanceResult, balance
from balancing.graph import trace
from balancing.networks import mlp
from balancing.norms import lpq_norm
from balancing.rescaling import rescale

PAIRS = ((0.5, 0.5), (1, 1), (2, 2), (6, 6), (1, 2), (2, 1), (2, 4), (4, 1), (0.5, 6))
DEEPEST = Figure2Config().networks[-1]
RUNS = "benchmark.fix"


def _network(widths: tuple[int, ...], dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return mlp(widths, bias=True, dtype=dtype, generator=torch.Generator().manual_seed(0))


@functools.cache
def _fixed(widths: tuple[int, ...], exact: bool = False) -> BalanceResult:
    return balance(_network(widths), exact=exact)


def _same_minimizer() -> float:
    """Largest difference of a logarithm of a factor from that of Algorithm 1."""
    worst = 0.0
    for p, q in PAIRS:
        net = _network((5, 8, 7, 6, 3))
        ours = balance(net, p, q, tol=1e-11).factors
        theirs = balance(net, p, q, method="multiplicative", tol=1e-11, max_iter=50_000).factors
        worst = max(worst, *(float((ours[g] / theirs[g]).log().abs().max()) for g in ours))
    return worst


def _passes() -> float:
    return _fixed(DEEPEST).passes


def _growth() -> float:
    """Passes of a chain of 300 layers over those of 20."""
    short, long = (_fixed((50,) * (layers + 1)).passes for layers in (20, 300))
    return long / short


def _increase_of_one_layer() -> float:
    """Largest relative increase of the norm when one hidden layer alone moves, or 0."""
    worst = 0.0
    for p, q in itertools.product((0.5, 1, 1.5, 2, 3, 6, 20), repeat=2):
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            net = mlp((5, 8, 7, 3), dtype=torch.float64, generator=generator)
            for layer in net.parameters():
                layer.detach().mul_(torch.randn(len(layer), 1, generator=generator).exp())
            orbit = Orbit(trace(net), p, q)
            point = orbit.at(orbit.start)
            for units in orbit.slots.values():
                theta = point.theta.clone()
                theta[units] += (point.log_out - point.log_in)[units] / max(p, q)
                worst = max(worst, orbit.at(theta).norm / point.norm - 1)
    return worst


def _osborne() -> float:
    """Difference of ||W||_2 and the norm of the scaled merged matrix, relative."""
    net, factors = _network((3, 5, 4, 2)), balance(_network((3, 5, 4, 2))).factors
    weights = [layer.weight.detach().numpy() for layer in net if isinstance(layer, nn.Linear)]
    nodes = np.cumsum([1, *(len(w) for w in weights[:-1])])  # inputs and outputs are node 0
    merged = np.zeros((nodes[-1], nodes[-1]))
    where = [slice(0, 1), *(slice(a, b) for a, b in itertools.pairwise(nodes))]
    for weight, source, target in zip(weights, where, [*where[1:], where[0]], strict=True):
        columns = weight if source.start else np.hypot.reduce(weight, axis=1, keepdims=True)
        merged[target, source] = (
            columns if target.start else np.hypot.reduce(columns, axis=0, keepdims=True)
        )
    scale = np.concatenate([[1.0], *(each.numpy() for each in factors.values())])
    norm = lpq_norm(rescale(net, factors)).item()
    return abs(float(np.linalg.norm(scale[:, None] * merged / scale)) / norm - 1)


def _kept() -> float:
    """The share of the reduction that powers of two keep on the deepest network."""
    start, exact = (float(_fixed(DEEPEST, True).norms[i]) for i in (0, -1))
    return (start - exact) / (start - float(_fixed(DEEPEST).norms[-1]))


def _changed_bits() -> float:
    """Outputs that are not the same bit for bit, of 3 dtypes and 3 batch sizes."""
    changed = 0
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        net = _network((20, 64, 48, 32, 5), dtype)
        after = balance(net, exact=True).model
        for batch in (1, 7, 512):
            x = torch.randn(batch, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
            with torch.no_grad():
                changed += int((net(x) != after(x)).sum())
    return float(changed)


def _times(method: str, column: str, table: pd.DataFrame) -> float:
    """How many times the seconds of balance() a method takes on the deepest network, p = q = 2."""
    rows = table[(table["p"] == 2) & (table["q"] == 2)]
    rows = rows[rows["network"] == f"Saul 2023, {len(DEEPEST) - 2} hidden layers"]
    seconds = rows.set_index("method")[column]
    return float(seconds[method] / seconds["balance()"])


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ours.faster.minimum",
        "ours",
        "The two-level method",
        "It finds the factors that Algorithm 1 converges to.",
        "derived",
        "largest difference of a $\\log a_i$, 9 pairs $(p, q)$",
        (0, 1e-8),
        _same_minimizer,
    ),
    Claim(
        "ours.faster.passes",
        "ours",
        "The two-level method",
        "On the deepest network of Figure 2 it takes a few passes over the weights to a relative "
        "imbalance of $10^{-6}$, where Algorithm 1 takes hundreds.",
        "derived",
        "passes, $p = q = 2$",
        (0, 8),
        _passes,
    ),
    Claim(
        "ours.faster.depth",
        "ours",
        "The two-level method",
        "The passes do not grow with depth.",
        "derived",
        "passes for 300 layers of 50 units, over those for 20 layers",
        (0, 1.25),
        _growth,
    ),
    Claim(
        "ours.faster.one-layer",
        "ours",
        "The two-level method",
        "If the units of one hidden layer move alone, no exponent up to $1/\\max(p, q)$ increases "
        "the norm.",
        "derived",
        "largest relative increase with the largest exponent, 49 pairs $(p, q)$, 3 networks",
        (0, 1e-13),  # for p = q the norm is the same before and after
        _increase_of_one_layer,
    ),
    Claim(
        "ours.faster.osborne",
        "ours",
        "Matrix balancing",
        "For $p = q = 2$ the norm of a rescaled network is the Frobenius norm of "
        "$D M D^{-1}$, where all inputs and outputs are one node of the matrix $M$.",
        "derived",
        "relative difference of the two norms at the minimum",
        (0, 1e-14),
        _osborne,
    ),
    Claim(
        "ours.faster.powers",
        "ours",
        "Powers of two",
        "Factors that are powers of two keep most of the reduction of the norm.",
        "derived",
        "share of the reduction kept on the deepest network of Figure 2, $p = q = 2$",
        (0.73, 1),
        _kept,
    ),
    Claim(
        "ours.faster.bits",
        "ours",
        "Powers of two",
        "They leave every bit of the outputs as it was, in float32, float64 and bfloat16.",
        "derived",
        "outputs that differ, of 7,800",
        (0, 0),
        _changed_bits,
    ),
    Claim(
        "ours.faster.seconds",
        "ours",
        "Benchmark",
        "From module to module the two-level method is at least fifty times faster than "
        "Algorithm 1 as printed, which rescales the weights at every update.",
        "derived",
        "seconds of Algorithm 1 over those of balance(), deepest network of Figure 2",
        (50, np.inf),
        functools.partial(_times, "Algorithm 1", "seconds"),
        RUNS,
    ),
    Claim(
        "ours.faster.solver",
        "ours",
        "Benchmark",
        "Without tracing, copying and rescaling it is at least eighty times faster.",
        "derived",
        "seconds of the loop of Algorithm 1 over those of balance(), the same network",
        (80, np.inf),
        functools.partial(_times, "Algorithm 1", "solver_seconds"),
        RUNS,
    ),
)

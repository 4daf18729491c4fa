"""From flow to descent: claims about optimizers, read from the recorded table. All are ours."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from balancing.claims.claim import Claim
from balancing.experiments.du2018 import OptimizersConfig

_CONFIG = OptimizersConfig()  # the recorded one


def _ends(table: pd.DataFrame, optimizer: str, column: str) -> pd.Series[float]:
    """The last value of a column in the runs of one seed, by rate, the smallest first."""
    runs = table[table["optimizer"] == optimizer]
    return runs.sort_values("step").groupby("rate")[column].last()


def _slope(*optimizers: str) -> Callable[[pd.DataFrame], float]:
    """Slope of log change against log rate, without the largest rate; the one farthest from 1."""

    def check(table: pd.DataFrame) -> float:
        slopes = []
        for optimizer in optimizers:
            change = _ends(table, optimizer, "change").iloc[:-1]
            rates = change.index.to_numpy(dtype=float)
            slopes.append(float(np.polyfit(np.log(rates), np.log(change.to_numpy()), 1)[0]))
        return max(slopes, key=lambda slope: abs(slope - 1))

    return check


def _momentum_factor(table: pd.DataFrame) -> float:
    """At the smallest rate, where the leading order is the most accurate."""
    ratio = _ends(table, "gd-momentum", "change") / _ends(table, "gd", "change")
    return float(ratio.iloc[0])


def _decay_error(table: pd.DataFrame) -> float:
    expected = math.exp(-2 * _CONFIG.decay * _CONFIG.time)
    return float((_ends(table, "sgd-decay", "kept") / expected - 1).abs().max())


def _adam_remains(table: pd.DataFrame) -> float:
    change = _ends(table, "adam", "change")
    return float(change.iloc[0] / change.iloc[-1])


def _over_decay(optimizer: str, decay: float, extreme: str) -> Callable[[pd.DataFrame], float]:
    """The largest or smallest fraction kept, in units of what decay alone would keep."""

    def check(table: pd.DataFrame) -> float:
        kept = _ends(table, optimizer, "kept") / math.exp(-2 * decay * _CONFIG.adam_time)
        return float(kept.max() if extreme == "max" else kept.min())

    return check


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ours.optimizers.gd",
        "ours",
        "From flow to descent, on digits",
        "Over a fixed time the invariants drift in proportion to the step size, with and without "
        "momentum.",
        "derived",
        "slope of log drift against log rate, up to 0.04; the one farther from 1",
        (0.9, 1.1),
        _slope("gd", "gd-momentum"),
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.sgd",
        "ours",
        "From flow to descent, minibatches",
        "So they do under minibatch noise, with and without momentum.",
        "derived",
        "slope of log drift against log rate, up to 0.04; the one farther from 1",
        (0.85, 1.2),  # noise bends the curve: of three seeds two had 1.098
        _slope("sgd", "sgd-momentum"),
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.momentum",
        "ours",
        "From flow to descent, momentum",
        "At equal $\\eta / (1 - \\beta)$ and without noise, momentum multiplies the drift by "
        "$(1 + \\beta) / (1 - \\beta)$, to leading order: by 19 for $\\beta = 0.9$.",
        "derived",
        "ratio of the drifts at the smallest rate",
        (18, 20),
        _momentum_factor,
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.decay",
        "ours",
        "From flow to descent, weight decay",
        "Weight decay $\\lambda$ shrinks the invariants as $e^{-2 \\lambda t}$.",
        "derived",
        "largest relative error of the fraction kept until it is about 0.4, 4 rates",
        (0, 0.005),  # what remains is the drift of sgd, which is smaller than that
        _decay_error,
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.adam",
        "ours",
        "From flow to descent, Adam",
        "Adam's drift over a fixed time does not vanish with its step size.",
        "derived",
        "drift at the smallest rate over that at 8 times the rate",
        (0.5, np.inf),  # 1/8 for a drift in proportion to the rate
        _adam_remains,
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.adam-l2",
        "ours",
        "From flow to descent, Adam with an l2 penalty",
        "An $\\ell_2$ penalty under Adam shrinks the invariants far faster than "
        "$e^{-2 \\lambda t}$.",
        "derived",
        "largest fraction kept, in units of $e^{-2 \\lambda T}$, 4 rates",
        (0, 0.1),
        _over_decay("adam-l2", _CONFIG.decay, "max"),
        "du2018.optimizers",
        per_seed=True,
    ),
    Claim(
        "ours.optimizers.adamw",
        "ours",
        "From flow to descent, AdamW",
        "Under AdamW the invariants do not shrink as $e^{-2 \\lambda t}$: Adam's part adds more "
        "than the decay takes.",
        "derived",
        "smallest fraction kept, in units of $e^{-2 \\lambda T}$, 4 rates",
        (1.2, np.inf),  # 1 for decay alone
        _over_decay("adamw", _CONFIG.adamw_decay, "min"),
        "du2018.optimizers",
        per_seed=True,
    ),
)

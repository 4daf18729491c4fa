"""Two methods that balance one random network, side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from matplotlib.figure import Figure
from torch import nn
from traitlets import Enum, Float, Int

from balancing import plots
from balancing.fixes import balance
from balancing.networks import mlp
from balancing.widgets._explorer import Explorer

__all__ = ["Race"]

_EXPONENTS = (1.0, 1.5, 2.0, 3.0)
_TOLERANCE = 1e-8
_MOST = 20_000
_WORD = 0xFFFFFFFF


class Race(Explorer):
    r"""Algorithm 1 against the two-level method, update by update.

    Algorithm 1 (Saul 2023) updates all hidden units at once, by
    :math:`(\mathrm{out}/\mathrm{in})^{1/(4 \max(p, q))}`. The two-level method updates those of
    alternate layers, by :math:`(\mathrm{out}/\mathrm{in})^{1/(p + q)}`, and then each layer as a
    whole; here without the extrapolation of :func:`~balancing.balance` (chapter 11).

    Attributes:
        depth: number of hidden layers, 1 to 8.
        width: units in each, and inputs, 5 to 40; there are a quarter as many outputs.
        p: exponent within the incoming weights of a unit: 1, 1.5, 2 or 3.
        q: exponent across units, likewise.
        spread: standard deviation of the logarithms of the units' factors, 0 to 2.
        seed: of the random weights.
        steps: updates and sweeps that are shown.
        count: what is counted: ``"passes"`` over the weights, or ``"updates"``.
    """

    title = "race two methods to the smallest norm"

    depth = Int(6, min=1, max=8).tag(sync=True)
    width = Int(12, min=5, max=40).tag(sync=True)
    p = Enum(_EXPONENTS, 2.0).tag(sync=True)
    q = Enum(_EXPONENTS, 2.0).tag(sync=True)
    spread = Float(1.0, min=0.0, max=2.0).tag(sync=True)
    seed = Int(1, min=0).tag(sync=True)
    steps = Int(0, min=0, max=_MOST).tag(sync=True)
    count = Enum(("passes", "updates"), "passes").tag(sync=True)

    def network(self) -> nn.Sequential:
        """The network that is shown: float64, He's weights, then a factor for each hidden unit."""
        widths = [*[self.width] * (self.depth + 1), math.ceil(self.width / 4)]
        net = mlp(widths, dtype=torch.float64, generator=torch.Generator())  # not the global one
        draw = _normal(self.seed)
        layers = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for weight in layers:
                drawn = list(itertools.islice(draw, weight.numel()))
                scaled = math.sqrt(2 / weight.shape[1]) * torch.tensor(drawn, dtype=torch.float64)
                weight.copy_(scaled.view_as(weight))
            for into, out in itertools.pairwise(layers):
                drawn = list(itertools.islice(draw, len(into)))
                factors = (self.spread * torch.tensor(drawn, dtype=torch.float64)).exp()
                into *= factors[:, None]
                out /= factors
        return net

    def still(self) -> tuple[Figure, str]:
        """The norms of the library's two methods, each to the tolerance at which the race ends."""
        net, excess, words = self.network(), {}, []
        methods: dict[str, Literal["multiplicative", "two-level"]]
        methods = {"Algorithm 1": "multiplicative", "two-level": "two-level"}
        for name, method in methods.items():
            result = balance(net, self.p, self.q, method=method, tol=_TOLERANCE, max_iter=_MOST)
            above = result.norms / result.norms[-1] - 1
            excess[name] = above[above > 1e-14]
            words.append(f"{name} needs {result.iterations} updates")
        return plots.descent(excess), (
            f"How far the ({self.p:g}, {self.q:g}) norm of a network with {self.depth} hidden "
            f"layers is above its minimum, on a logarithmic axis: {'; '.join(words)}, until no "
            f"unit's relative imbalance is above 1e-8."
        )


def _uniform(seed: int) -> Iterator[float]:
    """Numbers in (0, 1) as common.js has them (mulberry32)."""
    state = seed & _WORD
    while True:
        state = (state + 0x6D2B79F5) & _WORD
        t = ((state ^ state >> 15) * (state | 1)) & _WORD
        t ^= (t + (t ^ t >> 7) * (t | 61)) & _WORD
        yield ((t ^ t >> 14) + 0.5) / 2**32


def _normal(seed: int) -> Iterator[float]:
    """Standard normal numbers, likewise (Box and Muller)."""
    draw = _uniform(seed)
    while True:
        size = math.sqrt(-2 * math.log(next(draw)))
        yield size * math.cos(2 * math.pi * next(draw))

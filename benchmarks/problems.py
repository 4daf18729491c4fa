"""The networks on which the fixes are compared: float64, in evaluation mode, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from balancing import mlp, rescale, trace
from balancing._orbit import Orbit
from balancing.experiments.saul2023 import Figure2Config
from tests import model_zoo

__all__ = ["Problem", "problems"]

Widths = Sequence[int]
PQ = tuple[float, float]


@dataclass(frozen=True)
class Problem:
    """A network to balance.

    Attributes:
        name: what the tables call it.
        make: generator -> the network; can be pickled.
        shape: of one input.
        others: exponents (p, q) besides (2, 2).
    """

    name: str
    make: Callable[[torch.Generator], nn.Module]
    shape: tuple[int, ...]
    others: tuple[PQ, ...] = ()

    def model(self, seed: int) -> nn.Module:
        return self.make(torch.Generator().manual_seed(seed)).double().eval()

    def example(self, seed: int) -> Tensor:
        """Two inputs."""
        generator = torch.Generator().manual_seed(seed + 1)
        return torch.randn(2, *self.shape, dtype=torch.float64, generator=generator)


def problems(*, quick: bool = False) -> tuple[Problem, ...]:
    """The networks of the comparison, or with ``quick`` small ones of the same kinds."""
    if quick:
        papers: Sequence[Widths] = ((10, 40, 20, 5), (10, 30, 20, 10, 5))
        chains, sparse = (4, 8), (20, 100, 100, 5)
        resnet, mobilenet = 4, 4
    else:
        papers = Figure2Config().networks
        chains, sparse = (20, 100, 300), (200, 1000, 1000, 1000, 10)
        resnet, mobilenet = 64, 32
    image = (3, 32, 32)
    return (
        *(
            Problem(
                f"Saul 2023, {len(w) - 2} hidden layers",
                partial(_plain, w),
                (w[0],),
                others=((1, 2), (2, 1), (2, 4)),
            )
            for w in papers
        ),
        *(
            Problem(f"{n} layers of 50 units", partial(_plain, [50] * (n + 1)), (50,))
            for n in chains
        ),
        Problem("1 % of weights", partial(_sparse, sparse, 0.01), (sparse[0],)),
        Problem("widely spread units", partial(_spread, papers[-1]), (papers[-1][0],)),
        *(
            Problem(f"{name}, {kind}", partial(_from_zoo, build, width, norm), image)
            for name, build, width in (
                ("ResNet-18", model_zoo.resnet18, resnet),
                ("MobileNetV2", model_zoo.mobilenet_v2, mobilenet),
            )
            for kind, norm in (("folded", False), ("batch norm", True))
        ),
    )


def _plain(widths: Widths, generator: torch.Generator) -> nn.Module:
    return mlp(widths, bias=True, dtype=torch.float64, generator=generator)


@torch.no_grad()
def _sparse(widths: Widths, kept: float, generator: torch.Generator) -> nn.Module:
    """A share ``kept`` of the weights, scaled up to keep their variance; the rest is zero.

    So is every weight at a unit that lies on no path from an input to an output. Their sum has no
    minimum: rescaling could make it as small as one likes, which says nothing about a method.
    """

    model = _plain(widths, generator)
    graph = trace(model)
    for edge in graph.edges:
        weight = graph.weight(edge)
        drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        weight *= (drawn < kept) / kept**0.5
    orbit = Orbit(graph, 2, 2)
    live = {name: orbit.live[units].double() for name, units in orbit.slots.items()}
    for edge in graph.edges:
        weight = graph.weight(edge)
        weight *= edge.columns(live.get, weight).view(1, 1, -1, 1)
        if edge.target in live:
            weight *= live[edge.target].view(1, -1, 1, 1)
    return model


def _spread(widths: Widths, generator: torch.Generator) -> nn.Module:
    """Every hidden unit rescaled by exp(2 N), N from the standard normal distribution."""
    graph = trace(_plain(widths, generator))
    factors = {
        name: torch.randn(group.size, generator=generator, dtype=torch.float64).mul(2).exp()
        for name, group in graph.hidden.items()
    }
    return rescale(graph, factors)


def _from_zoo(
    build: Callable[..., nn.Module], width: int, norm: bool, generator: torch.Generator
) -> nn.Module:
    return build(width, norm=norm, generator=generator)

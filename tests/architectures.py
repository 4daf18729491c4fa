"""Random networks of every layer that trace() supports, as plain modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Step = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """Steps one after the other; a step gets the network, so that a copy uses its own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[Step] = []
        self.shape: tuple[int, ...] = ()  # of one input

    def add(self, layer: nn.Module) -> Step:
        self.layers.append(layer)
        index = len(self.layers) - 1
        return lambda net, x: net.layers[index](x)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(self, x)
        return x


def _convolution(
    net: Network, draw: st.DrawFn, dim: int, n_in: int, n_out: int, *, transposed: bool = False
) -> Step:
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else ()
    kind = (kinds or (nn.Conv1d, nn.Conv2d, nn.Conv3d))[dim - 1]
    size = draw(st.sampled_from([1, 3]))
    groups = draw(st.sampled_from([g for g in (1, 2, n_in) if n_in % g == 0 and n_out % g == 0]))
    bias = draw(st.booleans())
    return net.add(kind(n_in, n_out, size, padding=size // 2, groups=groups, bias=bias))


def _activation(net: Network, draw: st.DrawFn, channels: int) -> Step:
    return draw(
        st.sampled_from(
            [
                net.add(nn.ReLU()),
                net.add(nn.LeakyReLU(draw(st.sampled_from([-0.5, 0.1, 0.7])))),
                net.add(nn.PReLU(draw(st.sampled_from([1, channels])), init=0.3)),
                lambda _, x: torch.relu(x),
                lambda _, x: nn.functional.relu(x),
                lambda _, x: x.relu(),
                net.add(nn.Identity()),
            ]
        )
    )


def _batch_norm(net: Network, dim: int, channels: int) -> Step:
    return net.add((nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim](channels))


def _map_steps(net: Network, draw: st.DrawFn, dim: int, channels: int, depth: int) -> int:
    """Convolutional steps that keep the positions; returns the number of channels."""
    pools = [
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dim - 1](3, 1, 1),
        (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dim - 1](3, 1, 1),
    ]
    kinds = ["conv", "transposed", "residual", "cat", "pool", "dropout", "norm", "shared"]
    joined = False  # a sum over a concatenation is not supported: there is no layer in between
    for _ in range(depth):
        kind = draw(st.sampled_from(kinds))
        if kind == "residual" and joined:
            kind = "conv"
        joined = kind == "cat" or (joined and kind in ("pool", "dropout"))
        if kind in ("conv", "transposed"):
            n_out = draw(st.sampled_from([2, 4, channels]))
            layer = _convolution(net, draw, dim, channels, n_out, transposed=kind == "transposed")
            act = _activation(net, draw, n_out)
            net.steps.append(lambda n, x, layer=layer, act=act: act(n, layer(n, x)))
            channels = n_out
        elif kind == "residual":
            first = _convolution(net, draw, dim, channels, 4)
            second = _convolution(net, draw, dim, 4, channels)
            act = _activation(net, draw, 4)
            net.steps.append(lambda n, x, f=first, s=second, act=act: x + s(n, act(n, f(n, x))))
        elif kind == "cat":
            layer = _convolution(net, draw, dim, channels, 2)
            net.steps.append(lambda n, x, layer=layer: torch.cat([x, layer(n, x).relu()], 1))
            channels += 2
        elif kind == "norm":
            groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
            norms = [_batch_norm(net, dim, channels), net.add(nn.GroupNorm(groups, channels))]
            net.steps.append(draw(st.sampled_from(norms)))
        elif kind == "shared":
            layer = _convolution(net, draw, dim, channels, channels)
            act = _activation(net, draw, channels)
            net.steps.append(lambda n, x, f=layer, act=act: f(n, act(n, f(n, x))))
        elif kind == "pool":
            net.steps.append(net.add(draw(st.sampled_from(pools))))
        else:
            net.steps.append(net.add(nn.Dropout(0.5)))
    return channels


def _feature_steps(net: Network, draw: st.DrawFn, width: int, depth: int) -> int:
    """Fully connected steps; returns the number of units."""
    joined = True  # the features may come from a concatenation, or from a flatten
    for _ in range(depth):
        kind = draw(st.sampled_from(["linear", "residual", "cat", "norm", "shared"]))
        if kind == "residual" and joined:
            kind = "linear"
        joined = kind == "cat"
        bias = draw(st.booleans())
        if kind == "linear":
            n_out = draw(st.sampled_from([3, 5]))
            layer, act = net.add(nn.Linear(width, n_out, bias)), _activation(net, draw, n_out)
            net.steps.append(lambda n, x, layer=layer, act=act: act(n, layer(n, x)))
            width = n_out
        elif kind == "residual":
            first, second = net.add(nn.Linear(width, 4, bias)), net.add(nn.Linear(4, width))
            act = _activation(net, draw, 4)
            net.steps.append(lambda n, x, f=first, s=second, act=act: x + s(n, act(n, f(n, x))))
        elif kind == "norm":
            norms = [_batch_norm(net, 0, width), net.add(nn.LayerNorm(width))]
            net.steps.append(draw(st.sampled_from(norms)))
        elif kind == "shared":
            layer, act = net.add(nn.Linear(width, width, bias)), _activation(net, draw, width)
            net.steps.append(lambda n, x, f=layer, act=act: f(n, act(n, f(n, x))))
        else:
            layer = net.add(nn.Linear(width, 3, bias))
            net.steps.append(lambda n, x, layer=layer: torch.cat([layer(n, x).relu(), x], dim=-1))
            width += 3
    return width


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A float64 network with Gaussian weights and biases; in training mode only without dropout."""
    net = Network()
    dim = draw(st.sampled_from([0, 1, 2, 2, 3]))
    if dim == 0:
        width = 4
        net.shape = (width,)
    else:
        positions = draw(st.sampled_from([3, 4]))
        net.shape = (3, *[positions] * dim)
        channels = _map_steps(net, draw, dim, 3, draw(st.integers(1, 5)))
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dim - 1](1)
        pooled = net.add(pool)
        width = channels * positions**dim
        heads: list[tuple[Step, int]] = [
            (net.add(nn.Flatten()), width),
            (lambda _, x: x.flatten(1), width),
            (lambda _, x: torch.flatten(x, start_dim=1), width),
            (lambda _, x: x.view(x.size(0), -1), width),
            (lambda _, x: x.reshape(x.shape[0], -1), width),
            (lambda n, x: pooled(n, x).flatten(1), channels),
        ]
        if dim == 2:
            heads.append((lambda _, x: x.mean((2, 3)), channels))
        step, width = draw(st.sampled_from(heads))
        net.steps.append(step)
    width = _feature_steps(net, draw, width, draw(st.integers(0, 3)))
    net.steps.append(net.add(nn.Linear(width, 2)))
    random = any(isinstance(layer, nn.Dropout) for layer in net.layers)
    net.double().train(not random and draw(st.booleans()))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return net

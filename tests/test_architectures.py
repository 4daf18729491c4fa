"""Properties of the graph on random networks of all supported layers."""

from __future__ import annotations

import copy

import torch
from architectures import Network, networks
from hypothesis import given
from strategies import settings
from torch import Tensor

from balancing import NotHomogeneousError, RescalingGraph, rescale, trace, unit_invariants


def with_parameters(graph: RescalingGraph, values: dict[str, Tensor]) -> RescalingGraph:
    model = copy.deepcopy(graph.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
    return RescalingGraph(model, graph.groups, graph.edges)  # it may need an example to be traced


def traced(net: Network, x: Tensor) -> RescalingGraph:
    try:
        return trace(net)
    except NotHomogeneousError as error:
        message = str(error)
    assert "example_input" in message  # some need to see the sizes of the maps, and say so
    return trace(net, x)


@settings(max_examples=200)
@given(net=networks())
def test_symmetry_flow_identity_and_one_step(net: Network) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator)
    graph = traced(net, x)
    y = torch.randn(3, 2, dtype=torch.float64, generator=generator)

    # random rescaling leaves the function unchanged
    factors = {
        name: 10 ** (2 * torch.rand(group.size, dtype=torch.float64, generator=generator) - 1)
        for name, group in graph.hidden.items()
    }
    before = net(x)
    after = rescale(graph, factors)(x)
    scale = before.abs().max() + 1e-3  # outputs may be tiny where all units are off
    assert (after - before).abs().max() <= 1e-10 * scale

    # sum over incoming of w dL/dw = sum over outgoing of v dL/dv: since the invariant is quadratic,
    # I(w + g) - I(w - g) is four times the difference of the two sums
    weights = {name: w.detach().clone() for name, w in net.named_parameters()}
    loss = 0.5 * (before - y).square().sum()
    found = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
    gradients = dict(zip(weights, found, strict=True))
    length = torch.cat([g.flatten() for g in found]).norm().clamp(min=1e-30)
    unit = {name: g / length for name, g in gradients.items()}
    plus = unit_invariants(with_parameters(graph, {n: weights[n] + unit[n] for n in weights}))
    minus = unit_invariants(with_parameters(graph, {n: weights[n] - unit[n] for n in weights}))
    size = sum(float(w.square().sum()) for w in weights.values())
    for name in graph.hidden:
        assert (plus[name] - minus[name]).abs().max() <= 1e-9 * size**0.5 + 1e-12 * size

    # one gradient-descent step: exactly eta^2 times the invariant of the gradients
    step = 0.1 / max(1.0, float(length))
    moved = unit_invariants(
        with_parameters(graph, {n: weights[n] - step * gradients[n] for n in weights})
    )
    start = unit_invariants(graph)
    squares = unit_invariants(with_parameters(graph, gradients))
    for name in graph.hidden:
        error = (moved[name] - start[name] - step**2 * squares[name]).abs().max()
        assert error <= 1e-10 * size

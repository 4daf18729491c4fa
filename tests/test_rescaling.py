"""Rescaling keeps the function, and a failed call keeps the network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, hidden_sizes, linears, network, networks, seeds, state, unchanged
from torch import Tensor, nn

from balancing import NotHomogeneousError, rescale, trace


def factors_for(net: nn.Sequential, seed: int) -> dict[str, Tensor]:
    """Factors between 1e-3 and 1e3 for every hidden unit."""
    rng = generator(seed)
    return {
        name: 10 ** (6 * torch.rand(size, dtype=torch.float64, generator=rng) - 3)
        for name, size in hidden_sizes(net).items()
    }


def outputs(net: nn.Sequential, seed: int = 0) -> Tensor:
    first = next(iter(linears(net).values()))
    x = torch.randn(20, first.in_features, dtype=torch.float64, generator=generator(seed))
    with torch.no_grad():
        return net(x.to(first.weight.dtype))


@given(networks(layers=(1, 5), zeros=0.1), seeds)
def test_function_is_kept(net: nn.Sequential, seed: int) -> None:
    factors = factors_for(net, seed)
    new = rescale(net, factors)
    before, after = outputs(net), outputs(new)
    # a few hundred roundings of 1e-16, and room for cancellation in the sums over units
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()
    if factors:
        assert not unchanged(new, state(net))


@given(networks(layers=(2, 5)), seeds)
def test_weights_by_hand(net: nn.Sequential, seed: int) -> None:
    factors = factors_for(net, seed)
    new = rescale(net, factors)
    below = np.ones(net.linear1.in_features)
    for name, layer in linears(net).items():
        here = factors[name].numpy() if name in factors else np.ones(layer.out_features)
        expected = here[:, None] * layer.weight.detach().numpy() / below[None, :]
        # one multiplication and one division, in either order
        np.testing.assert_allclose(
            new.get_parameter(f"{name}.weight").detach(), expected, rtol=1e-15, atol=0
        )
        if layer.bias is not None:
            ours = new.get_parameter(f"{name}.bias").detach()
            np.testing.assert_allclose(ours, here * layer.bias.detach().numpy(), rtol=1e-15, atol=0)
        below = here


@given(networks(layers=(2, 4)), seeds)
def test_copy_and_in_place_agree(net: nn.Sequential, seed: int) -> None:
    factors, before = factors_for(net, seed), state(net)
    parameters = list(net.parameters())
    new = rescale(net, factors)
    assert unchanged(net, before)
    assert rescale(net, factors, inplace=True) is net
    assert unchanged(net, state(new))
    # an optimizer that holds the parameters goes on working
    pairs = zip(net.parameters(), parameters, strict=True)
    assert all(now is then and now.requires_grad and now.is_leaf for now, then in pairs)


@given(networks(layers=(2, 4)), seeds, seeds)
def test_factors_compose_and_invert(net: nn.Sequential, one: int, two: int) -> None:
    a, b = factors_for(net, one), factors_for(net, two)
    stepwise = rescale(rescale(net, a), b)
    at_once = rescale(net, {name: a[name] * b[name] for name in a})
    back = rescale(rescale(net, a), {name: 1 / a[name] for name in a})
    for name, value in net.named_parameters():
        # at most ten roundings of 1e-16 each
        torch.testing.assert_close(
            stepwise.get_parameter(name), at_once.get_parameter(name), rtol=2e-15, atol=0
        )
        torch.testing.assert_close(back.get_parameter(name), value, rtol=2e-15, atol=0)


@given(networks(layers=(2, 5)), st.integers(-30, 30))
def test_powers_of_two_change_no_bit_of_the_output(net: nn.Sequential, power: int) -> None:
    rng = generator(abs(power))
    factors = {
        name: 2.0 ** torch.randint(-abs(power), abs(power) + 1, (size,), generator=rng)
        for name, size in hidden_sizes(net).items()
    }
    assert torch.equal(outputs(rescale(net, factors)), outputs(net))


@pytest.mark.parametrize("factor", [2, 2.0, torch.tensor(2.0), torch.full((4,), 2.0)])
def test_scalars_and_shapes(factor: object) -> None:
    net = network([3, 4, 2], bias=True)
    new = rescale(net, {"linear1": factor})
    assert torch.equal(new.linear1.weight, 2 * net.linear1.weight)
    assert torch.equal(new.linear1.bias, 2 * net.linear1.bias)
    assert torch.equal(new.linear2.weight, net.linear2.weight / 2)
    assert torch.equal(new.linear2.bias, net.linear2.bias)


def test_numbers_are_taken_in_float64() -> None:
    net = network([3, 4, 2])
    expected = net.linear1.weight.detach().numpy() * 0.1
    new = rescale(net, {"linear1": 0.1}).linear1.weight.detach()
    np.testing.assert_allclose(new, expected, rtol=1e-15, atol=0)


def test_groups_that_are_not_named_keep_their_factor() -> None:
    net = network([3, 4, 5, 2], bias=True)
    new = rescale(net, {"linear2": 3.0})
    changed = {
        name
        for name, value in net.named_parameters()
        if not torch.equal(value, new.get_parameter(name))
    }
    assert changed == {"linear2.weight", "linear2.bias", "linear3.weight"}
    same = rescale(net, {})
    assert same is not net
    assert unchanged(same, state(net))


def test_graph_is_accepted() -> None:
    net = network([3, 4, 2])
    graph = trace(net)
    assert unchanged(rescale(graph, {"linear1": 3.0}), state(rescale(net, {"linear1": 3.0})))
    assert rescale(graph, {"linear1": 3.0}, inplace=True) is net


def test_float32() -> None:
    net = network([6, 8, 8, 3], bias=True, dtype=torch.float32)
    new = rescale(net, factors_for(net, 3))
    assert all(parameter.dtype == torch.float32 for parameter in new.parameters())
    before = outputs(net)
    # float32 resolves 6e-8; sums of at most eight terms in three layers
    assert (outputs(new) - before).abs().max() <= 1e-5 * before.abs().max()


BAD = {
    "unknown group": ({"linear9": 2.0}, r"'linear9' is not a group.*linear1, linear2"),
    "input": ({"input": 2.0}, r"'input' is not rescaled \(network input\)"),
    "output": ({"linear3": 2.0}, r"'linear3' is not rescaled \(network output\)"),
    "length": ({"linear1": torch.ones(5)}, r"'linear1' must have shape \(4,\) or \(\), got \(5,\)"),
    "shape": ({"linear1": torch.ones(4, 1)}, r"'linear1' must have shape .* got \(4, 1\)"),
    "one": ({"linear1": torch.ones(1)}, r"'linear1' must have shape .* got \(1,\)"),
    "zero": ({"linear2": torch.tensor([1.0, 0, 1])}, "'linear2' must be positive and finite"),
    "negative": ({"linear2": -1.0}, "'linear2' must be positive and finite"),
    "NaN": ({"linear2": math.nan}, "'linear2' must be positive and finite"),
    "infinite": ({"linear2": math.inf}, "'linear2' must be positive and finite"),
    "overflow": ({"linear2": 1e308}, r"parameter 'linear2\.weight' overflow torch\.float64"),
    "overflow below": ({"linear2": 1e-308}, r"parameter 'linear3\.weight' overflow torch\.float64"),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_factors_change_nothing(case: str, inplace: bool) -> None:
    bad, message = BAD[case]
    net = network([3, 4, 3, 2], bias=True, scale=100)
    before = state(net)
    # a good factor in front must not be applied either
    with pytest.raises(ValueError, match=message):
        rescale(net, {"linear1": 2.0} | bad, inplace=inplace)
    assert unchanged(net, before)


def test_overflow_of_float32_is_found() -> None:
    net = network([3, 4, 2], dtype=torch.float32)
    before = state(net)
    with pytest.raises(ValueError, match=r"'linear1\.weight' overflow torch\.float32"):
        rescale(net, {"linear1": 1e39}, inplace=True)
    assert unchanged(net, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["linear1.weight", "linear1.bias", "linear2.bias"])
def test_nan_weights_are_named(name: str, bad: float) -> None:
    net = network([3, 4, 2], bias=True)
    with torch.no_grad():
        net.get_parameter(name).view(-1)[0] = bad
    before = state(net)
    with pytest.raises(ValueError, match=rf"parameter '{name}'"):
        rescale(net, {"linear1": 2.0}, inplace=True)
    assert unchanged(net, before)


def test_unsupported_network_is_not_changed() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    before = state(net)
    with pytest.raises(NotHomogeneousError):
        rescale(net, {"0": 2.0}, inplace=True)
    assert unchanged(net, before)


def test_frozen_boundaries_are_refused_and_the_rest_keeps_the_function() -> None:
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)]
    net = nn.Sequential(*layers).double()
    graph = trace(net, on_unsupported="freeze")
    with pytest.raises(ValueError, match=r"'0' is not rescaled \(read by Tanh at '1'\)"):
        rescale(graph, {"0": 2.0})
    x = torch.randn(9, 3, dtype=torch.float64, generator=generator(0))
    new = rescale(graph, {"2": torch.tensor([0.5, 3, 10, 0.1])})
    torch.testing.assert_close(new(x), net(x), rtol=1e-12, atol=1e-14)

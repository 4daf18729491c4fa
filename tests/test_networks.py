"""The networks of the papers and their initializations."""

import pytest
import torch
from strategies import generator, linears, state, unchanged
from torch import nn

from balancing import mlp
from balancing.networks import du2018_network, gaussian_, he_


def test_layers_shapes_and_names() -> None:
    net = mlp([5, 7, 6, 3])
    assert [name for name, _ in net.named_children()] == [
        "linear1",
        "activation1",
        "linear2",
        "activation2",
        "linear3",
    ]
    assert [tuple(layer.weight.shape) for layer in linears(net).values()] == [
        (7, 5),
        (6, 7),
        (3, 6),
    ]
    assert all(layer.bias is None for layer in linears(net).values())
    assert net(torch.zeros(4, 5)).shape == (4, 3)


def test_biases_start_at_zero() -> None:
    for layer in linears(mlp([5, 7, 3], bias=True)).values():
        assert torch.equal(layer.bias, torch.zeros(layer.out_features))


@pytest.mark.parametrize(
    ("activation", "at_minus_two"),
    [
        ("relu", 0.0),
        ("leaky_relu", -0.02),
        ("linear", -2.0),
        (lambda: nn.LeakyReLU(0.25), -0.5),
    ],
)
def test_activation(activation: object, at_minus_two: float) -> None:
    net = mlp([2, 3, 3, 1], activation=activation)
    for h in (1, 2):
        module = net.get_submodule(f"activation{h}")
        assert module(torch.tensor(-2.0)).item() == pytest.approx(at_minus_two)
        assert module(torch.tensor(2.0)) == 2
    assert net.activation1 is not net.activation2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(dtype: torch.dtype) -> None:
    net = mlp([2, 3, 1], bias=True, dtype=dtype)
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
    assert {parameter.dtype for parameter in mlp([2, 1]).parameters()} == {torch.float32}


@pytest.mark.parametrize("make", [mlp, lambda *a, **k: du2018_network("balanced", **k)])
def test_generator_alone_decides(make: object) -> None:
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        one = make([4, 5, 3], generator=generator(7))
        torch.rand(3)
        two = make([4, 5, 3], generator=generator(7))
        other = make([4, 5, 3], generator=generator(8))
        torch.set_rng_state(before)
        make([4, 5, 3], generator=generator(7))
        assert torch.equal(torch.get_rng_state(), before)
    assert unchanged(two, state(one))
    assert not unchanged(other, state(one))


def test_without_generator_the_global_one_is_used() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one = mlp([4, 5, 3])
        torch.manual_seed(3)
        two = mlp([4, 5, 3])
        three = mlp([4, 5, 3])
    assert unchanged(two, state(one))
    assert not unchanged(three, state(one))


def moments(weight: torch.Tensor) -> tuple[float, float]:
    return weight.double().mean().item(), weight.double().var().item()


# The sample variance of n Gaussians has relative standard deviation sqrt(2/n), their mean
# sqrt(variance/n); five of each are allowed.
def assert_gaussian(weight: torch.Tensor, variance: float) -> None:
    n = weight.numel()
    mean, measured = moments(weight.detach())
    assert abs(mean) <= 5 * (variance / n) ** 0.5
    assert abs(measured / variance - 1) <= 5 * (2 / n) ** 0.5


def test_he_variance() -> None:
    net = mlp([300, 400, 50], generator=generator(0))
    assert_gaussian(net.linear1.weight, 2 / 300)
    assert_gaussian(net.linear2.weight, 2 / 400)


def test_he_in_place() -> None:
    net = mlp([300, 40, 5], bias=True)
    nn.init.ones_(net.linear1.bias)
    assert he_(net, generator=generator(1)) is net
    assert_gaussian(net.linear1.weight, 2 / 300)
    assert torch.equal(net.linear1.bias, torch.zeros(40))


@pytest.mark.parametrize(
    ("init", "variances", "squared_norms"),
    [
        ("balanced", (1e-6, 1e-5, 1e-4), (0.1, 0.1, 0.1)),
        ("unbalanced", (1e-4, 1e-4, 1e-4), (10, 1, 0.1)),
    ],
)
def test_du2018_network(
    init: str, variances: tuple[float, ...], squared_norms: tuple[float, ...]
) -> None:
    net = du2018_network(init, generator=generator(0))
    layers = linears(net)
    shapes = [tuple(layer.weight.shape) for layer in layers.values()]
    assert shapes == [(100, 1000), (100, 100), (10, 100)]
    assert all(layer.bias is None for layer in layers.values())
    assert isinstance(net.activation1, nn.ReLU)
    assert isinstance(net.activation2, nn.ReLU)
    for layer, variance, norm in zip(layers.values(), variances, squared_norms, strict=True):
        assert_gaussian(layer.weight, variance)
        deviation = norm * (2 / layer.weight.numel()) ** 0.5
        assert abs(layer.weight.detach().square().sum().item() - norm) <= 5 * deviation


def test_gaussian_sets_biases_to_zero_and_takes_zero_variance() -> None:
    net = gaussian_(mlp([30, 40, 5], bias=True), [0.0, 2.0], generator=generator(2))
    assert torch.equal(net.linear1.weight, torch.zeros(40, 30))
    assert_gaussian(net.linear2.weight, 2.0)
    assert torch.equal(net.linear2.bias, torch.zeros(5))


@pytest.mark.parametrize("widths", [[], [3], [3, 0], [3, -1, 2], [3, 2.0], [3, "4", 2], [None, 2]])
def test_bad_widths(widths: list[object]) -> None:
    with pytest.raises(ValueError, match="widths must be at least two whole numbers above 0, got"):
        mlp(widths)


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'gelu'; choose from relu"):
        mlp([2, 3, 1], activation="gelu")


def test_unknown_init() -> None:
    with pytest.raises(ValueError, match=r"unknown init 'he'; choose from balanced, unbalanced"):
        du2018_network("he")


@pytest.mark.parametrize("widths", [(5, 4, 3), (5, 4, 3, 2, 1), (5,), (5, 4, 0, 1)])
def test_du2018_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        du2018_network(widths=widths)


@pytest.mark.parametrize("variances", [[], [1.0], [1, 1, 1], [1, -1], [1, float("nan")]])
def test_bad_variances_change_nothing(variances: list[float]) -> None:
    net = mlp([3, 4, 2], bias=True)
    before = state(net)
    with pytest.raises(ValueError, match="variances must be 2 numbers"):
        gaussian_(net, variances)
    assert unchanged(net, before)

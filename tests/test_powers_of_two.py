"""Powers of two as factors: every bit of the outputs is kept, and most of the norm's reduction."""

import copy
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from architectures import Network
from architectures import networks as any_networks
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    exponents,
    generator,
    hidden_sizes,
    linears,
    network,
    networks,
    seeds,
    state,
    unchanged,
)
from test_architectures import traced
from test_fixes import spread_factors
from torch import Tensor, nn

from balancing import BalanceResult, RescalingGraph, balance, lpq_norm, rescale, trace
from balancing.experiments.saul2023 import Figure2Config
from balancing.networks import mlp

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def exact(model: nn.Module | RescalingGraph, p: float = 2, q: float | None = None) -> BalanceResult:
    """Near the minimizer is near enough: what is tested here does not depend on the start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        return balance(model, p, q, tol=0.1, max_iter=100, exact=True)


def of(model: nn.Module, graph: RescalingGraph) -> RescalingGraph:
    """The graph of a copy; tracing anew might take an example."""
    return RescalingGraph(model, graph.groups, graph.edges)


def spread(model: nn.Module | RescalingGraph, seed: int, by: float) -> RescalingGraph:
    """The same function, with factors e^(by N)."""
    graph = trace(model)
    return of(rescale(graph, spread_factors(graph, seed, by)), graph)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def are_powers_of_two(factors: dict[str, Tensor]) -> bool:
    return all(bool((torch.frexp(f).mantissa == 0.5).all()) for f in factors.values())


def falls(graph: RescalingGraph, p: float, q: float) -> list[float]:
    """How much the norm falls, relatively, when one factor is doubled or halved."""
    now, result = lpq_norm(graph, p, q).item(), []
    for name, group in graph.hidden.items():
        for unit, by in itertools.product(range(group.size), (2.0, 0.5)):
            factor = torch.ones(group.size, dtype=torch.float64)
            factor[unit] = by
            moved = of(rescale(graph, {name: factor}), graph)
            result.append(1 - lpq_norm(moved, p, q).item() / now)
    return result


# --- every bit is kept ---------------------------------------------------------------------------


@torch.no_grad()
def check_bits(graph: RescalingGraph, shape: tuple[int, ...], seed: int) -> None:
    for dtype in DTYPES:
        before = spread(of(copy.deepcopy(graph.model), graph), seed, 2.0)
        before.model.to(dtype)
        result = exact(before)
        assert are_powers_of_two(result.factors)
        restored = rescale(
            of(result.model, graph), {name: 1 / a for name, a in result.factors.items()}
        )
        assert unchanged(restored, state(before.model))
        training = graph.model.training
        for batch in (1, 7, 512):
            x = torch.randn(batch, *shape, generator=generator(batch)).to(dtype)
            for model in (before.model, result.model):
                model.train(training and batch > 1)  # a batch of one has no variance
            try:
                expected = before.model(x)
            except NotImplementedError:  # torch pools no volumes in bfloat16
                assert dtype == torch.bfloat16
                continue
            assert same_bits(expected, result.model(x))


@settings(max_examples=50)
@given(networks(layers=(2, 5), max_width=40, bias=True), seeds)
def test_fully_connected_outputs_keep_every_bit(net: nn.Sequential, seed: int) -> None:
    check_bits(trace(net), (net[0].in_features,), seed)


@settings(max_examples=50)
@given(any_networks(), seeds)
def test_outputs_of_any_layers_keep_every_bit(net: Network, seed: int) -> None:
    check_bits(traced(net, torch.randn(3, *net.shape).double()), net.shape, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rescaling_by_powers_of_two_does_not_round(dtype: torch.dtype) -> None:
    """Over the whole range of exponents that the dtype has."""
    low, high = math.log2(torch.finfo(dtype).tiny), math.log2(torch.finfo(dtype).max)
    wide = torch.arange(math.ceil(low), math.floor(high), dtype=torch.float64)
    net = network([1, len(wide), 1], bias=True).to(dtype)
    first, last = linears(net).values()
    with torch.no_grad():
        first.weight.uniform_(1, 2, generator=generator(0))
        first.bias.uniform_(1, 2, generator=generator(1))
        last.weight.copy_((1.5 * torch.exp2(wide)).to(dtype))
    factor = np.ldexp(1.0, wide.int().numpy())
    after = rescale(net, {"linear1": torch.from_numpy(factor)})
    new_first, new_last = linears(after).values()
    for name in ("weight", "bias"):
        expected = getattr(first, name).double().flatten().numpy(force=True) * factor
        assert np.array_equal(
            getattr(new_first, name).double().flatten().numpy(force=True), expected
        )
    assert torch.equal(new_last.weight, torch.full_like(new_last.weight, 1.5))


# --- how small the norm becomes ------------------------------------------------------------------


def check_local_minimum(graph: RescalingGraph, p: float, q: float) -> None:
    result = exact(graph, p, q)
    after = of(result.model, graph)
    start, reached = result.norms[0].item(), result.norms[-1].item()
    assert are_powers_of_two(result.factors)
    assert reached <= start * (1 + 1e-14)  # two ways to sum
    # shares are powers up to q/p = 40 of sums that are rounded to 2e-16
    assert reached == pytest.approx(lpq_norm(after, p, q).item(), rel=1e-12)
    # the norm is F^(1/q) with q >= 0.5, and a fall of F below 1e-12 is taken for rounding
    assert max(falls(after, p, q), default=0.0) <= 1e-11
    if p == q:
        assert result.max_imbalance <= (2**p - 1) / (2**p + 1) + 1e-9


@settings(max_examples=20)
@given(networks(layers=(2, 4)), seeds, exponents, exponents)
def test_no_single_move_lowers_the_norm(net: nn.Module, seed: int, p: float, q: float) -> None:
    check_local_minimum(spread(net, seed, 1.0), p, q)


@settings(max_examples=12)
@given(any_networks(), exponents, st.sampled_from([None, 0.5, 2, 6]))
def test_no_single_move_lowers_it_in_any_network(net: Network, p: float, q: float | None) -> None:
    graph = traced(net, torch.randn(3, *net.shape).double())
    check_local_minimum(graph, p, p if q is None else q)


class Loop(nn.Module):
    """A residual sum around a single layer: its units feed one another, and themselves."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.loop, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        with torch.no_grad():
            for parameter in self.double().parameters():
                parameter.normal_(generator=generator(seed))
            self.loop.weight += 3 * torch.eye(6)  # which no factor changes

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last((x + self.loop(x)).relu())


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), (1, 2), (2, 1), (1, 6), (6, 1)])
def test_no_single_move_lowers_it_around_a_loop(p: float, q: float) -> None:
    for seed in range(10):
        check_local_minimum(spread(Loop(seed), seed, 1.0), p, q)


def brute_force(net: nn.Sequential, p: float, q: float, reach: int = 2) -> tuple[float, bool]:
    """Smallest norm over powers of two around the real minimizer; whether it lies at no bound."""
    real = balance(net, p, q, tol=1e-4).factors
    center = torch.cat(list(real.values())).log2().round().numpy()
    offsets = np.array(list(itertools.product(range(-reach, reach + 1), repeat=len(center))))
    factors = np.exp2(center + offsets)
    layers = [layer.weight.detach().abs().numpy() for layer in linears(net).values()]
    ends = np.cumsum([0, *hidden_sizes(net).values()])
    ones = [np.ones((len(factors), n)) for n in (net[0].in_features, net[-1].out_features)]
    parts = [ones[0], *(factors[:, a:b] for a, b in itertools.pairwise(ends)), ones[1]]
    total = np.zeros(len(factors))
    for weight, below, here in zip(layers, parts, parts[1:], strict=False):
        scaled = here[:, :, None] * weight / below[:, None, :]
        total += ((scaled**p).sum(2) ** (q / p)).sum(1)
    best = total.argmin()
    return total[best] ** (1 / q), bool(np.abs(offsets[best]).max() < reach)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), (1, 2), (2, 1), (1, 4), (4, 1)])
def test_close_to_the_best_of_all_integers(p: float, q: float) -> None:
    excess = []
    for seed in range(6):
        net = spread(network([3, 3, 2, 2], seed), seed, 1.0).model
        best, inside = brute_force(net, p, q)
        assert inside
        excess.append(exact(net, p, q).norms[-1].item() / best - 1)
    assert min(excess) >= -1e-13
    assert max(excess) <= 0.03


@pytest.mark.parametrize(("index", "kept"), [(0, 0.91), (1, 0.9), (2, 0.79)])
def test_most_of_the_reduction_is_kept_on_the_papers_networks(index: int, kept: float) -> None:
    net = mlp(Figure2Config().networks[index], dtype=torch.float64, generator=generator(0))
    result = balance(net, tol=1e-3, exact=True)
    assert len(result.norms) == result.iterations + 1  # the step to powers of two is the last
    start, real, reached = (result.norms[i].item() for i in (0, -2, -1))
    assert result.converged
    assert result.max_imbalance > 1e-3  # that of the powers of two
    assert start - reached >= kept * (start - real)


# --- what is left as it is, and what is refused --------------------------------------------------


def test_dead_units_keep_factor_1() -> None:
    net = network([3, 4, 3, 2], seed=1, scale=5)
    with torch.no_grad():
        net.linear1.weight[2] = 0
        net.linear3.weight[:, 1] = 0
    result = balance(net, exact=True)
    assert result.factors["linear1"][2] == 1
    assert result.factors["linear2"][1] == 1
    assert {name: units.tolist() for name, units in result.skipped.items()} == {
        "linear1": [2],
        "linear2": [1],
    }


def test_without_hidden_units_nothing_happens() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    result = balance(net, exact=True)
    assert result.factors == {}
    torch.testing.assert_close(result.norms, result.norms[:1].expand(2))
    assert unchanged(result.model, state(net))


def test_in_place_and_check() -> None:
    net = spread(network([4, 6, 3], dtype=torch.float32), 0, 2.0).model
    result = balance(net, exact=True, inplace=True)
    assert result.model is net
    assert result.check(torch.randn(9, 4, generator=generator(0))) == 0.0


@pytest.mark.parametrize("name", ["linear1.bias", "linear2.weight"])
def test_float16_is_refused(name: str) -> None:
    net = network([3, 4, 2], bias=True, dtype=torch.float32)
    module, kind = name.split(".")
    parameter = nn.Parameter(net.get_parameter(name).detach().half())
    setattr(net.get_submodule(module), kind, parameter)
    before = state(net)
    with pytest.raises(ValueError, match=rf"'{name}' is torch.float16: its range is so narrow"):
        balance(net, exact=True, inplace=True)
    assert unchanged(net, before)


def test_mixed_dtypes_are_fine() -> None:
    net = spread(network([3, 4, 5, 2], bias=True), 0, 2.0).model
    net.linear1.to(torch.bfloat16)
    net.linear2.to(torch.float32)
    result = balance(net, exact=True)
    restored = rescale(result.model, {name: 1 / a for name, a in result.factors.items()})
    assert not unchanged(result.model, state(net))
    assert unchanged(restored, state(net))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lost_bits_are_refused(dtype: torch.dtype) -> None:
    """The factor is about 1e-6; a bias, which the norm does not see, must not become subnormal."""
    net = network([3, 4, 2], bias=True).to(dtype)
    with torch.no_grad():
        net.linear1.weight.mul_(1e6)
        net.linear2.weight.mul_(1e-6)
        net.linear1.bias.fill_((1 + torch.finfo(dtype).eps) * torch.finfo(dtype).tiny)
    before = state(net)
    with pytest.raises(ValueError, match=r"take 4 entries of parameter 'linear1.bias' out of"):
        balance(net, exact=True, inplace=True)
    assert unchanged(net, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_is_refused(dtype: torch.dtype) -> None:
    net = network([3, 4, 2], bias=True).to(dtype)
    with torch.no_grad():
        net.linear1.weight.mul_(1e-6)
        net.linear2.weight.mul_(1e6)
        net.linear1.bias.fill_(torch.finfo(dtype).max)
    before = state(net)
    with pytest.raises(ValueError, match=r"parameter 'linear1.bias' overflow"):
        balance(net, exact=True, inplace=True)
    assert unchanged(net, before)


def test_subnormal_weights_that_keep_their_bits_are_accepted() -> None:
    net = network([3, 4, 2], bias=True, dtype=torch.float32)
    with torch.no_grad():
        net.linear1.weight.mul_(1e-3)
        net.linear2.weight.mul_(1e3)
        net.linear1.bias.fill_(3 * torch.finfo(torch.float32).smallest_normal * 2.0**-20)
    result = balance(net, exact=True)
    assert all(factor > 1 for factor in result.factors["linear1"])
    restored = rescale(result.model, {name: 1 / a for name, a in result.factors.items()})
    assert unchanged(restored, state(net))

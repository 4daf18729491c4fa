"""The two-level method: the same minimizer as any other, in few passes, on any graph."""

from __future__ import annotations

import copy
import gc
import math
import warnings
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from architectures import Network, networks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from model_zoo import densenet, mobilenet_v2, residual_mlp, resnet18, transformer_encoder, unet
from scipy.optimize import minimize
from strategies import exponents, generator, network, seeds, settings
from test_architectures import traced
from test_fixes import increase, spread_factors
from torch import Tensor, nn

from balancing import RescalingGraph, balance, mlp, rescale, trace
from balancing._exponentials import least_sum
from balancing._orbit import Orbit
from balancing._sums import Sums
from balancing._two_level import _chain, _TwoLevel
from balancing.experiments.saul2023 import Figure2Config

PAPER = Figure2Config().networks
UNEQUAL = [(1, 2), (2, 1), (2, 4)]


def chain(layers: int, width: int = 50, seed: int = 0) -> nn.Module:
    return mlp([width] * (layers + 1), dtype=torch.float64, generator=generator(seed))


def passes(model: nn.Module | RescalingGraph, p: float, q: float, tol: float = 1e-6) -> float:
    result = balance(model, p, q, tol=tol)
    assert result.converged
    assert increase(result.norms) <= 1e-13
    return result.passes


# --- passes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("widths", PAPER, ids=len)
def test_passes_on_the_papers_networks(widths: tuple[int, ...], seed: int) -> None:
    net = mlp(widths, dtype=torch.float64, generator=generator(seed))
    assert passes(net, 2, 2) <= 8
    assert max(passes(net, p, q) for p, q in UNEQUAL) <= 12


@pytest.mark.parametrize("layers", [20, 100, 300])
def test_passes_do_not_grow_with_depth(layers: int) -> None:
    assert passes(chain(layers), 2, 2) <= 13
    assert passes(chain(layers), 1, 2) <= 16


ZOO: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "unet": unet,
    "densenet": lambda **kw: densenet((6, 12, 8), **kw),
    "residual_mlp": residual_mlp,
}


@pytest.mark.parametrize("name", ZOO)
def test_passes_on_networks_that_people_train(name: str) -> None:
    net = ZOO[name](norm=False, generator=generator(0)) if name != "residual_mlp" else None
    net = (net or residual_mlp(generator=generator(0))).double()
    assert passes(net, 2, 2) <= 12
    assert max(passes(net, p, q) for p, q in UNEQUAL[:2]) <= 30


def test_networks_normalized_throughout_decouple() -> None:
    """Each free unit lies between two frozen groups, so one update is exact."""
    result = balance(resnet18(16, generator=generator(0)).double(), tol=1e-12)
    assert result.iterations <= 1


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 2)])
def test_hard_cases(p: float, q: float) -> None:
    net = mlp(PAPER[2], dtype=torch.float64, generator=generator(0))
    moved = rescale(net, spread_factors(trace(net), 1, by=2.0))
    one, two = (balance(each, p, q) for each in (net, moved))
    assert two.passes <= 25
    assert two.norms[-1].item() == pytest.approx(one.norms[-1].item(), rel=1e-11)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(torch.rand(weight.shape, generator=generator(2)) < 0.01)
    assert passes(net, p, q) <= 80


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("width", [10, 120])
def test_channels_that_hardly_mix(p: float, q: float, width: int) -> None:
    """Sweeps alone take the square of the depth; 120 units in 15 layers need the sparse solve."""
    layers = 15 if width == 120 else 50
    net, rng = chain(layers, width), generator(3)
    with torch.no_grad():
        for weight in net.parameters():
            scales = torch.randn(width, dtype=torch.float64, generator=rng).exp()
            weight.copy_(torch.diag(scales) + 1e-6 * weight)
    result = balance(net, p, q, tol=1e-9, max_iter=60)
    assert result.converged
    assert increase(result.norms) <= 1e-13
    assert Orbit(trace(result.model), p, q).at(torch.zeros(1 + width * (layers - 1)).double())


# --- the minimizer -------------------------------------------------------------------------------


def minimizer(graph: RescalingGraph, p: float, q: float, fixed: dict[str, Tensor]) -> np.ndarray:
    """Log factors of all hidden units, by scipy's trust-region Newton method."""
    start, at = 0, {}
    for name, group in graph.hidden.items():
        at[name] = slice(start, start + group.size)
        start += group.size
    free = torch.ones(start, dtype=torch.bool)
    for name, units in fixed.items():
        free[at[name]][units] = False
    layers = []
    for edge in graph.edges:
        columns = edge.columns(
            lambda g: torch.arange(at[g].start, at[g].stop) if g in at else None,
            torch.zeros(1, dtype=torch.long),
        )
        # a frozen source counts as the unit behind the last
        read = torch.cat(
            [
                torch.full((s.size * s.repeat,), s.group in at, dtype=torch.bool)
                for s in edge.sources
            ]
        )
        columns = torch.where(read, columns, start)
        weight = graph.weight(edge).detach().abs().double()
        rows = weight.shape[0] * weight.shape[1]
        target = at.get(edge.target)
        units = torch.full((rows,), start)
        if target is not None:
            units = torch.arange(target.start, target.stop)
        layers.append((weight, units, columns))

    def log_norm(values: Tensor) -> Tensor:
        theta = torch.zeros(start + 1, dtype=torch.float64)
        theta[:-1][free] = values
        total = torch.zeros(())
        for weight, units, columns in layers:
            blocks = weight.shape[0]
            up = theta[units].view(blocks, -1, 1, 1)
            down = theta[columns].view(blocks, 1, -1, 1)
            rows = (weight * (up - down).exp()).pow(p).sum((2, 3))
            total = total + rows[rows > 0].pow(q / p).sum()
        return total.log()

    def value(x: np.ndarray) -> float:
        return log_norm(torch.from_numpy(x)).item()

    def slope(x: np.ndarray) -> np.ndarray:
        at_x = torch.from_numpy(x).requires_grad_()
        return torch.autograd.grad(log_norm(at_x), at_x)[0].numpy()

    def curvature(x: np.ndarray) -> np.ndarray:
        return torch.autograd.functional.hessian(
            log_norm, torch.from_numpy(x), vectorize=True
        ).numpy()

    theta = np.zeros(start)
    if free.any():
        found = minimize(
            value,
            np.zeros(int(free.sum())),
            jac=slope,
            hess=curvature,
            method="trust-exact",
            options={"gtol": 1e-13, "maxiter": 500},
        ).x
        for _ in range(3):  # near the minimum its model and the value differ by rounding
            found = found - np.linalg.lstsq(curvature(found), slope(found), rcond=1e-14)[0]
        theta[free.numpy()] = found
    return theta


@settings(max_examples=200)
@given(net=networks(), p=st.sampled_from([1, 1.5, 2, 3]), ratio=st.sampled_from([1, 1, 0.5, 2]))
def test_minimizer_is_scipys_on_random_graphs(net: Network, p: float, ratio: float) -> None:
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator(0))
    graph = traced(net, x)
    before = copy.deepcopy(net)(x)  # in training mode a call moves the running statistics
    result = balance(graph, p, p * ratio, tol=1e-8)
    assert result.converged
    assert increase(result.norms) <= 1e-13
    assert Orbit(graph, p, p * ratio).at(_theta(graph, result.factors)).max_imbalance <= 1e-8
    ours = torch.cat([torch.zeros(0).double(), *result.factors.values()]).log()
    np.testing.assert_allclose(
        ours, minimizer(graph, p, p * ratio, result.skipped), rtol=0, atol=1e-6
    )
    after = result.model(x)
    scale = before.abs().max() + 1e-3  # outputs may be tiny where all units are off
    assert (after - before).abs().max() <= 1e-12 * scale


def _theta(graph: RescalingGraph, factors: dict[str, Tensor]) -> Tensor:
    return torch.cat([torch.zeros(1).double(), *factors.values()]).log().nan_to_num(neginf=0.0)


@settings(max_examples=40)
@given(net=networks(), p=exponents, q=exponents, seed=seeds)
def test_agrees_with_algorithm_1_for_all_exponents(
    net: Network, p: float, q: float, seed: int
) -> None:
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator(0))
    graph = traced(net, x)
    moved = trace(rescale(graph, spread_factors(graph, seed)), x)
    fast = balance(moved, p, q, tol=1e-9)
    assert increase(fast.norms) <= 1e-13
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        plain = balance(moved, p, q, method="multiplicative", tol=1e-9, max_iter=2000)
    assert fast.norms[-1] <= plain.norms[-1] * (1 + 1e-12)


# --- its parts -----------------------------------------------------------------------------------


@given(
    arrays(float, (5, 3), elements=st.floats(-30, 30)),
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 6.0]), min_size=5, max_size=5),
)
def test_least_sum(log_slopes: np.ndarray, sizes: list[float]) -> None:
    """A ring of two variables and what is fixed, with three problems at once."""
    signs = np.array([[1, 0], [-1, 1], [0, -1], [0, 1], [-1, 0]])
    x, logs = signs * np.array(sizes)[:, None], np.log(np.array(sizes))
    c = least_sum(log_slopes, x)
    for at, log_s in zip(c.T, log_slopes.T, strict=True):

        def value(c: np.ndarray, log_s: np.ndarray = log_s) -> float:
            return float(np.logaddexp.reduce(log_s - logs + x @ c))

        assert value(at) <= value(np.zeros(2)) + 1e-13
        if np.ptp(log_s) < 3:  # from farther off it may take more steps than it is given
            least = minimize(value, np.zeros(2), method="BFGS", options={"gtol": 1e-10}).fun
            assert value(at) <= least + 1e-5  # the square of the slope that may be left


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 2), (2, 1)])
def test_coarse_step_of_a_chain_is_the_least_sum(p: float, q: float) -> None:
    net = rescale(chain(12, 7), {"linear3": 100 * torch.rand(7, generator=generator(1))})
    method = _TwoLevel(Orbit(trace(net), p, q), 1e-6)
    assert method.chain is not None
    log_sums = np.array([[float(method.sums.log_sum(link))] for link in method.coarse_links])
    steps = least_sum(log_sums, method.coarse_exponents)[:, 0]
    method.coarse_step()
    for group, step in zip(method.sums.groups, steps, strict=True):
        units = method.sums.theta[method.orbit.slots[group]]
        torch.testing.assert_close(units, torch.full_like(units, step), rtol=0, atol=1e-9)
    now = [float(method.sums.log_sum(link)) for link in method.coarse_links]
    np.testing.assert_allclose(now, now[0], rtol=0, atol=1e-9)  # all are equal


@pytest.mark.parametrize(
    "ends",
    [
        [(None, "a"), ("a", "b"), ("b", None), ("a", None)],  # a skip connection
        [(None, "a"), ("a", "b"), ("a", None)],  # no way out of b
        [(None, "a"), ("b", None)],  # nor from a to b
        [(None, "a"), ("a", None), ("b", "c"), ("c", "b")],  # a loop beside
        [],
    ],
)
def test_other_networks_are_no_chain(ends: list[tuple[str | None, str | None]]) -> None:
    links = [SimpleNamespace(source=source, target=target) for source, target in ends]
    assert _chain(links) is None


def test_least_sum_of_a_chain_makes_all_terms_equal() -> None:
    log_slopes = np.array([[300.0], [-50.0], [7.0], [0.0]])
    x = 2.0 * np.array([[1, 0, 0], [-1, 1, 0], [0, -1, 1], [0, 0, -1]])
    terms = log_slopes + x @ least_sum(log_slopes, x)
    np.testing.assert_allclose(terms, log_slopes.mean(), rtol=0, atol=1e-10)


@settings(max_examples=60)
@given(net=networks(), p=exponents, q=exponents, seed=seeds, data=st.data())
def test_kept_sums_are_those_at_theta(
    net: Network, p: float, q: float, seed: int, data: st.DataObject
) -> None:
    """However theta has moved, what Sums has kept equals what Orbit computes anew."""
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator(0))
    graph, rng = traced(net, x), generator(seed)
    with torch.no_grad():
        for weight in net.parameters():  # some dead units
            weight.mul_(torch.rand(weight.shape, generator=rng) < 0.7)
    orbit = Orbit(graph, p, q)
    sums = Sums(orbit)
    for _ in range(4):
        kind = data.draw(st.sampled_from(["add", "shift", "move", "look"]))
        some = [g for g in sums.groups if data.draw(st.booleans())]
        if kind == "add":
            sizes = {g: len(sums.live[g]) for g in some}
            sums.add(
                {g: torch.randn(n, dtype=torch.float64, generator=rng) for g, n in sizes.items()}
            )
        elif kind == "shift":
            sums.shift({g: float(torch.randn((), generator=rng)) for g in some})
        elif kind == "move":
            step = torch.randn(orbit.size, dtype=torch.float64, generator=rng)
            sums.move(sums.theta + torch.where(orbit.live, step, 0.0))
        else:
            for group in some:
                sums.log_in(group), sums.log_out(group)
            for link in sums.links:
                if data.draw(st.booleans()):
                    sums.log_sum(link)
    ours, true = sums.point(), orbit.at(sums.theta)
    if math.isfinite(true.norm):
        assert ours.norm == pytest.approx(true.norm, rel=1e-11)
    assert ours.max_imbalance == pytest.approx(true.max_imbalance, abs=1e-9)
    for group in sums.groups:
        units, live = orbit.slots[group], sums.live[group]
        for one, other in (
            (sums.log_in(group), true.log_in[units]),
            (sums.log_out(group), true.log_out[units]),
        ):
            torch.testing.assert_close(one[live], other[live], rtol=0, atol=1e-9)
    assert not sums.theta[~orbit.live].any()


def test_a_touch_reads_a_part_of_the_weights() -> None:
    """For p = q the first layer's rows and the last layer's columns are read once for all."""
    net = network([3, 40, 40, 40, 2])
    orbit = Orbit(trace(net), 2, 2)
    sums = Sums(orbit)
    sums.point()
    whole = orbit.passes
    sums.add({"linear2": torch.ones(40).double()})
    sums.point()
    inner = 2 * 40 * 40
    touched = pytest.approx(inner / (3 * 40 + inner + 2 * 40))
    assert orbit.passes - whole == touched
    sums.shift({"linear1": 0.5, "linear2": -0.5})
    sums.point()
    assert orbit.passes - whole == touched


@pytest.mark.parametrize("pre_norm", [True, False])
def test_transformer(pre_norm: bool) -> None:
    net = transformer_encoder(
        24, heads=2, depth=2, patch=4, image=8, pre_norm=pre_norm, generator=generator(0)
    ).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator(1))
    result = balance(trace(net, x), tol=1e-10)
    assert result.converged
    assert result.passes <= 16
    assert result.check(x) <= 1e-12


class Loops(nn.Module):
    """Residual sums around single layers, all of them tied to one group."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.loops = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for loop in self.loops:
            x = x + loop(x).relu()
        return self.last(x)


def test_newton_steps_that_bring_no_balance_give_way_to_sweeps() -> None:
    """Units whose shares are lost in the rounding of the norm: nothing judges a Newton step."""
    net, rng = Loops().double(), generator(60592)
    with torch.no_grad():
        for weight in net.parameters():
            values = torch.randn(weight.shape, generator=rng)
            weight.copy_(values * (6 * torch.randn(weight.shape, generator=rng)).exp())
            if weight.dim() > 1:
                weight.mul_(torch.rand(weight.shape, generator=rng) > 0.6)
    result = balance(net, 6, max_iter=300)
    assert result.converged
    assert increase(result.norms) <= 1e-13


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_on_the_device_of_the_weights(device: str) -> None:
    """A depthwise block and dead units, so that all kinds of links are there."""
    net = mobilenet_v2(4, norm=False, generator=generator(0)).double()
    with torch.no_grad():
        next(net.parameters())[1] = 0
    expected = balance(net, 1, 2)
    result = balance(copy.deepcopy(net).to(device), 1, 2)
    assert result.converged
    for group, factors in result.factors.items():
        assert factors.device.type == device
        torch.testing.assert_close(factors.cpu(), expected.factors[group], rtol=1e-5, atol=0)


def test_no_memory_is_held_when_an_orbit_is_gone() -> None:
    """Nothing but the orbit keeps |W|^p, and nothing in it refers back."""
    orbit = Orbit(trace(network([3, 4, 5, 2])), 2, 2)
    power = weakref.ref(orbit.layers[1].power)
    gc.disable()
    try:
        del orbit
        assert power() is None
    finally:
        gc.enable()

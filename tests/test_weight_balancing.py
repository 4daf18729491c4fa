"""Weight-balancing flows: against the shares' own derivatives, the symmetry, other integrators."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from architectures import Network, networks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import Problem, exponents, generator, network, problems, state, unchanged
from test_architectures import traced
from torch import Tensor, nn
from torch.autograd.functional import jvp as derivative
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from balancing import (
    NotHomogeneousError,
    gradient_flow,
    imbalance,
    integrate_flow,
    lpq_norm,
    mlp,
    share_velocity,
    shares,
    trace,
    weight_balancing_flow,
)

PAIRS = [(0.5, 0.5), (1, 1), (1, 2), (2, 1), (2, 2), (1.5, 1.5), (3, 3), (1.5, 3)]
decays = st.sampled_from([0.0, 0.3])


def layers(net: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Name, W and dE/dW of each linear layer, the bias as the last column. After backward()."""
    found = []
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            W, g = layer.weight.detach(), layer.weight.grad
            if layer.bias is not None:
                W = torch.cat([W, layer.bias.detach()[:, None]], 1)
                g = torch.cat([g, layer.bias.grad[:, None]], 1)
            found.append((name, W, g))
    return found


def as_rows(values: dict[str, Tensor], name: str) -> Tensor:
    bias = values.get(f"{name}.bias")
    weight = values[f"{name}.weight"]
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def shares_of(W: Tensor, p: float, q: float) -> Tensor:
    """|W_ij|^p ||w_i||_p^(q-p), differentiable."""
    power = W.abs() ** p
    return power * power.sum(1, keepdim=True) ** ((q - p) / p)


# --- the velocity --------------------------------------------------------------------------------


@given(problems(), exponents, exponents, decays)
def test_velocity_moves_the_shares_by_minus_w_g(
    problem: Problem, p: float, q: float, decay: float
) -> None:
    """Against the derivative of the shares, from the product rule, by automatic differentiation."""
    net = problem.net
    velocity = weight_balancing_flow(net, problem.loss(net), p, q, weight_decay=decay)
    of_shares = share_velocity(net, problem.loss(net), p, q, weight_decay=decay)
    problem.loss(net).backward()
    for name, W, g in layers(net):
        pi = shares_of(W, p, q)
        expected = -W * g - decay * pi
        torch.testing.assert_close(as_rows(of_shares, name), expected, rtol=1e-12, atol=1e-14)
        moved = derivative(lambda W: shares_of(W, p, q), W, as_rows(velocity, name))[1]
        # powers up to 20 of a sum of at most six terms, and the sum of the row cancels
        scale = expected.abs().sum(1, keepdim=True) + 1e-30
        assert ((moved - expected).abs() / scale).max() <= 1e-10


@given(problems(), exponents, exponents)
def test_incoming_and_outgoing_shares_gain_alike(problem: Problem, p: float, q: float) -> None:
    """The identity from the symmetry: sum over incoming of W g = sum over outgoing of W g."""
    net = problem.net
    velocity = share_velocity(net, problem.loss(net), p, q)
    names = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    for here, above in itertools.pairwise(names):
        into, out = as_rows(velocity, here), velocity[f"{above}.weight"]
        scale = into.abs().sum(1) + out.abs().sum(0) + 1e-30
        assert ((into.sum(1) - out.sum(0)).abs() / scale).max() <= 1e-12


@settings(max_examples=60)
@given(net=networks(), p=exponents, q=exponents)
def test_no_imbalance_moves_in_any_architecture(net: Network, p: float, q: float) -> None:
    """Convolutions, residual sums, concatenations: the imbalance's central difference is zero."""
    rng = generator(0)
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=rng)
    graph = traced(net, x)
    loss = net(x).square().sum()
    velocity = weight_balancing_flow(graph, loss, p, q)
    # relative to the weights, no step moves one by more than 1e-5
    fastest = max(
        float((velocity[name].abs() / w.detach().abs()).max())
        for name, w in net.named_parameters()
        if name in velocity
    )
    h = 1e-5 / max(fastest, 1e-30)
    start = parameters_to_vector(net.parameters()).detach()
    along = torch.cat([velocity[name].flatten() for name, _ in net.named_parameters()])
    moved, total = [], lpq_norm(graph, p, q).item() ** q
    for sign in (1, -1):
        vector_to_parameters(start + sign * h * along, net.parameters())
        moved.append(imbalance(graph, p, q, bias=True))
        total = max(total, *(v.abs().max().item() for v in moved[-1].values() if len(v)), 1e-30)
    for name, plus in moved[0].items():
        # the second differences vanish too, up to (20 * 1e-5)^3; the rest is rounding
        assert (plus - moved[1][name]).abs().max() <= 1e-10 * total


@given(problems(bias=True))
def test_special_cases(problem: Problem) -> None:
    net = problem.net
    problem.loss(net).backward()
    formulas = {
        (2, 2): lambda W, g, n, along: -g / 2,
        (1, 1): lambda W, g, n, along: -W.abs() * g,
        (3, 3): lambda W, g, n, along: -g / (3 * W.abs()),
        (0.5, 0.5): lambda W, g, n, along: -2 * W.abs() ** 1.5 * g,
        (1, 2): lambda W, g, n, along: -(W.abs() * g - W * along / (2 * n)) / n,
        (2, 1): lambda W, g, n, along: -(n * g + W * along / n) / 2,
    }
    for (p, q), formula in formulas.items():
        velocity = weight_balancing_flow(net, problem.loss(net), p, q)
        for name, W, g in layers(net):
            n = (W.abs() ** p).sum(1, keepdim=True) ** (1 / p)
            expected = formula(W, g, n, (W * g).sum(1, keepdim=True))
            torch.testing.assert_close(as_rows(velocity, name), expected, rtol=1e-11, atol=1e-13)


@given(problems(), exponents, exponents, decays)
def test_objective_descends(problem: Problem, p: float, q: float, decay: float) -> None:
    """Derived: dL/dt <= 0, by the Cauchy-Schwarz inequality, for all p, q > 0."""
    net = problem.net
    velocity = weight_balancing_flow(net, problem.loss(net), p, q, weight_decay=decay)
    norm = sum(shares_of(as_rows(dict(net.named_parameters()), n), p, q).sum() for n in linear(net))
    objective = problem.loss(net) + decay / q * norm
    slopes = torch.autograd.grad(objective, list(net.parameters()), materialize_grads=True)
    pairs = zip(slopes, net.named_parameters(), strict=True)
    terms = [slope * velocity[name] for slope, (name, _) in pairs]
    size = sum(float(term.abs().sum()) for term in terms)
    assert sum(float(term.sum()) for term in terms) <= 1e-12 * size


def linear(net: nn.Module) -> list[str]:
    return [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]


def test_q_defaults_to_p_and_a_graph_is_accepted() -> None:
    net = network([3, 4, 2], bias=True)
    graph = trace(net)
    for function in (weight_balancing_flow, share_velocity):
        loss = net(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        one = function(net, loss, 3)
        loss = net(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        two = function(graph, loss, 3, 3)
        assert list(one) == list(two)
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("p", "q"), [*PAIRS, (6, 6), (20, 2), (0.5, 20), (3, 2), (2, 3)])
def test_zeros_give_no_nan(p: float, q: float) -> None:
    net = network([3, 4, 2], act="linear", bias=True)
    with torch.no_grad():
        net.linear1.weight[1] = 0  # a row of zeros
        net.linear1.bias[1] = 0
        net.linear1.weight[0, 1] = 0  # and one weight
    loss = net(torch.ones(2, 3, dtype=torch.float64)).square().sum()
    velocity = weight_balancing_flow(net, loss, p, q)
    assert all(torch.isfinite(v).all() for v in velocity.values())
    if (p, q) != (2, 2):
        assert not velocity["linear1.weight"][1].any()
    one = velocity["linear1.weight"][0, 1]
    assert (one == 0) == (p < 2)


def test_floor_is_where_the_documentation_has_it() -> None:
    net = network([2, 1], 3)
    with torch.no_grad():
        net.linear1.weight.copy_(torch.tensor([[0.0, 2.0]]))
    loss = (net.linear1.weight * torch.tensor([[5.0, 0.0]])).sum()
    velocity = weight_balancing_flow(net, loss, 3)["linear1.weight"][0, 0]
    # n^(2-q) u^(2-p) g / p with u = 1e-8
    assert velocity.item() == pytest.approx(-(2**-1) * 1e8 * 5 / 3, rel=1e-12)


def test_parameters_outside_the_rows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)).double()
    net[0].bias.requires_grad_(False)
    loss = net(torch.randn(5, 3, dtype=torch.float64)).square().sum()
    (slope,) = torch.autograd.grad(loss, [net[1].weight], retain_graph=True)
    velocity = weight_balancing_flow(net, loss, 1.5, 3, weight_decay=0.3)
    assert list(velocity) == [name for name, _ in net.named_parameters()]
    torch.testing.assert_close(velocity["1.weight"], -slope / 1.5)  # without decay
    assert not velocity["0.bias"].any()
    x = torch.randn(5, 3, dtype=torch.float64)
    (slope,) = torch.autograd.grad(net(x).square().sum(), [net[1].weight])
    gradient = gradient_flow(net, net(x).square().sum(), weight_decay=0.3)
    assert not gradient["0.bias"].any()
    torch.testing.assert_close(gradient["1.weight"], -slope - 0.3 * net[1].weight.detach())
    # a bias that does not move is no column of its row
    (g,) = torch.autograd.grad(net(x).square().sum(), [net[0].weight])
    velocity = weight_balancing_flow(net, net(x).square().sum(), 1.5, 3)
    W = net[0].weight.detach()
    moved = derivative(lambda W: shares_of(W, 1.5, 3), W, velocity["0.weight"])[1]
    torch.testing.assert_close(moved, -W * g, rtol=1e-11, atol=1e-14)


def test_dtype_of_the_parameters_is_kept() -> None:
    net = network([3, 4, 2], dtype=torch.float32)
    twin = network([3, 4, 2])
    twin.load_state_dict(net.state_dict())
    x = torch.ones(2, 3)
    single = weight_balancing_flow(net, net(x).square().sum(), 1, 2)
    double = weight_balancing_flow(twin, twin(x.double()).square().sum(), 1, 2)
    for name, value in single.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), double[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [weight_balancing_flow, share_velocity])
def test_what_the_velocities_refuse(function: object) -> None:
    net = network([3, 4, 2])
    before = state(net)
    x = torch.ones(2, 3, dtype=torch.float64)
    for bad in (0, -1, math.nan, "2"):
        with pytest.raises(ValueError, match=r"^p must be .*got"):
            function(net, net(x).sum(), bad)
        with pytest.raises(ValueError, match=r"^q must be .*got"):
            function(net, net(x).sum(), 2, bad)
    for bad in (-0.1, math.nan, math.inf, "1", True):
        with pytest.raises(ValueError, match="weight_decay must be"):
            function(net, net(x).sum(), weight_decay=bad)
        with pytest.raises(ValueError, match="weight_decay must be"):
            gradient_flow(net, net(x).sum(), weight_decay=bad)
    gelu = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    with pytest.raises(NotHomogeneousError):
        function(gelu, gelu(x).sum())
    assert unchanged(net, before)
    with torch.no_grad():
        net.linear1.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"parameter 'linear1\.weight'"):
        function(net, net(x).sum())


# --- the flow, integrated ------------------------------------------------------------------------


def smooth(seed: int, bias: bool = True) -> Problem:
    """Few kinks (a leaky ReLU), so that a tight tolerance is cheap."""
    net = network([3, 4, 3, 2], seed, act="leaky 0.3", bias=bias)
    rng = generator(seed + 1)
    x = torch.randn(5, 3, dtype=torch.float64, generator=rng)
    y = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    return Problem(net, x, y)


TIMES = (0.0, 0.1, 0.2, 0.4)


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=str)
def test_flow_conserves_its_imbalance_and_gradient_flow_does_not(p: float, q: float) -> None:
    problem = smooth(0)
    scale = lpq_norm(problem.net, p, q).item() ** q
    drifts = []
    for chosen in ({"p": p, "q": q}, {}):
        path = integrate_flow(problem.net, problem.loss, TIMES, **chosen, on_sliding="stop")
        assert path.times[-1] >= 0.2
        assert (path.losses.diff() < 0).all()
        values = path.measure(lambda n: imbalance(n, p, q, bias=True)).values()
        drifts.append(max(float((v - v[0]).abs().max()) for v in values) / scale)
    assert drifts[0] <= 1e-8
    if (p, q) == (2, 2):
        assert drifts[1] <= 1e-8
    else:
        assert drifts[1] >= 1e-3


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=str)
def test_with_decay_the_imbalance_decays_exponentially(p: float, q: float) -> None:
    problem = smooth(1)
    path = integrate_flow(
        problem.net, problem.loss, TIMES, p=p, q=q, weight_decay=0.7, on_sliding="stop"
    )
    assert path.times[-1] >= 0.2
    for value in path.measure(lambda n: imbalance(n, p, q, bias=True)).values():
        expected = value[0] * torch.exp(-0.7 * path.times)[:, None]
        assert ((value - expected).abs() / value[0].abs()).max() <= 1e-6


def test_at_two_two_it_is_gradient_flow_at_half_the_speed() -> None:
    problem = smooth(2)
    one = integrate_flow(problem.net, problem.loss, [0, 0.1, 0.2], weight_decay=0.3)
    two = integrate_flow(problem.net, problem.loss, [0, 0.2, 0.4], p=2, weight_decay=0.3)
    torch.testing.assert_close(one.states, two.states, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("p", "q"), [(0.5, 2), (1, 2), (1.5, 1.5), (3, 3)])
def test_against_another_integrator_in_the_weights_themselves(p: float, q: float) -> None:
    problem = smooth(3)
    net = problem.net
    with torch.no_grad():  # away from zero, where this form has its singularity for p = 3
        for w in net.parameters():
            w.copy_(w.sign() * (0.2 + w.abs()))
    moving, names = copy.deepcopy(net), [name for name, _ in net.named_parameters()]

    def velocity(_: float, vector: np.ndarray) -> np.ndarray:
        vector_to_parameters(torch.tensor(vector), moving.parameters())
        found = weight_balancing_flow(moving, problem.loss(moving), p, q, weight_decay=0.2)
        return torch.cat([found[name].flatten() for name in names]).numpy()

    start = parameters_to_vector(net.parameters()).detach().numpy()
    expected = solve_ivp(velocity, (0, 0.03), start, rtol=1e-9, atol=1e-12).y[:, -1]
    path = integrate_flow(net, problem.loss, [0, 0.03], p=p, q=q, weight_decay=0.2)
    assert np.abs(expected - start).max() >= 1e-3
    # the reference is the less accurate of the two: its tolerance, summed over its steps
    np.testing.assert_allclose(path.states[-1], expected, rtol=0, atol=1e-7)


def two_weights(u: float, v: float) -> nn.Sequential:
    """f(x) = v u x."""
    net = mlp([1, 1, 1], activation="linear", dtype=torch.float64)
    nn.init.constant_(net.linear1.weight, u)
    nn.init.constant_(net.linear2.weight, v)
    return net


def towards(target: float) -> object:
    one = torch.ones(1, 1, dtype=torch.float64)
    return lambda net: (net(one) - target).square().sum() / 2


def test_weights_cross_zero_for_p_above_one_and_never_below() -> None:
    # from (1, 0.2) to u v = -1: the smaller one has to change its sign
    for p in (1.5, 2, 3):
        path = integrate_flow(two_weights(1, 0.2), towards(-1.0), [0, 30], p=p)
        u, v = path.states[-1].tolist()
        assert u > 0 > v
        assert u * v == pytest.approx(-1, abs=1e-6)
        assert u**p - (-v) ** p == pytest.approx(1 - 0.2**p, abs=1e-8)
    for p in (0.5, 1):
        path = integrate_flow(two_weights(1, 0.2), towards(-1.0), [0, 30], p=p)
        u, v = path.states[-1].tolist()
        assert u > 0
        assert 0 <= v < 1e-2  # on its way to 0: as e^-t for p = 1, as t^-2 for p = 1/2
        assert u**p - v**p == pytest.approx(1 - 0.2**p, abs=1e-8)


def test_zeros_stay_for_p_up_to_one_and_thaw_above() -> None:
    for p in (0.5, 1, 1.5, 2, 3):
        net = network([2, 3, 1], 4, act="leaky 0.3", bias=True)
        with torch.no_grad():
            net.linear1.bias.zero_()
            net.linear1.weight[1, 0] = 0
        x = torch.tensor([[1.0, 2.0], [-0.5, 0.3]], dtype=torch.float64)
        path = integrate_flow(
            net, lambda n, x=x: (n(x) - 1).square().sum(), [0, 0.05], p=p, on_sliding="stop"
        )
        after = path.model(-1)
        frozen = p <= 1
        assert bool((after.linear1.bias == 0).all()) == frozen
        assert bool(after.linear1.weight[1, 0] == 0) == frozen


def test_first_state_is_the_network_bit_for_bit_and_it_is_not_changed() -> None:
    problem = smooth(5)
    before = state(problem.net)
    path = integrate_flow(problem.net, problem.loss, [0, 0.01], p=3, q=1.5)
    assert unchanged(problem.net, before)
    assert unchanged(path.model(0), before)


def test_decay_alone_is_exponential() -> None:
    """Where the loss is constant, W(t) = e^(-lambda t / q) W(0); without p, e^(-lambda t) W(0)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 1)).double()
    start = {name: w.detach().clone() for name, w in net.named_parameters()}

    def constant(net: nn.Module) -> Tensor:
        return 0 * parameters_to_vector(net.parameters()).sum()

    for chosen, rate in (({}, 0.7), ({"p": 1, "q": 2}, 0.35), ({"p": 3}, 0.7 / 3)):
        path = integrate_flow(net, constant, [0, 2], weight_decay=0.7, **chosen)
        for name, w in path.model(-1).named_parameters():
            # the slope of the PReLU is no part of the norm
            factor = 1 if chosen and name == "1.weight" else math.exp(-2 * rate)
            torch.testing.assert_close(w.detach(), factor * start[name], rtol=1e-9, atol=0)


def test_frozen_and_other_parameters_along_the_flow() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    net = net.double()
    net[4].weight.requires_grad_(False)
    x = torch.randn(6, 2, dtype=torch.float64)
    for chosen in ({}, {"p": 1.5, "q": 3}):
        path = integrate_flow(
            trace(net),
            lambda n: (n(x) - 1).square().sum(),
            [0, 0.02],
            **chosen,
            weight_decay=0.1,
            on_sliding="stop",
        )
        after = path.model(-1)
        assert torch.equal(after[4].weight, net[4].weight)
        assert (after[1].weight != net[1].weight).all()
        if chosen:  # only the last group touches the weights that are held fast
            held = path.measure(lambda n: imbalance(n, 1.5, 3, bias=True))
            first, second = held["0"], held["2"]
            expected = first[0] * math.exp(-0.1 * path.times[-1])
            assert (first[-1] - expected).abs().max() <= 1e-9
            assert (second[-1] - second[0]).abs().max() >= 1e-4


def test_what_the_integration_refuses() -> None:
    net = network([2, 3, 1])

    def loss(_: nn.Module) -> Tensor:
        raise AssertionError("the loss was evaluated")

    for options, message in (
        ({"q": 2}, r"q = 2 needs p; without p this is gradient flow"),
        ({"p": 0}, "p must be finite and above 0"),
        ({"p": 1, "q": -1}, "q must be finite and above 0"),
        ({"p": 1, "weight_decay": -1}, "weight_decay must be finite and at least 0, got -1"),
        ({"weight_decay": math.nan}, "weight_decay must be finite and at least 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            integrate_flow(net, loss, [0, 1], **options)
    gelu = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    with pytest.raises(NotHomogeneousError):
        integrate_flow(gelu, loss, [0, 1], p=1)


def test_shares_include_the_bias_as_the_library_counts_it() -> None:
    """What the flow keeps is imbalance(bias=True): the shares that it moves are those."""
    net = network([3, 4, 2], 7, bias=True)
    pi = shares(net, 1.5, 3, bias=True)
    for name in ("linear1", "linear2"):
        W = torch.cat(
            [net.get_parameter(f"{name}.weight"), net.get_parameter(f"{name}.bias")[:, None]], 1
        )
        torch.testing.assert_close(as_rows(pi, name), shares_of(W.detach(), 1.5, 3))


def test_sliding_is_noticed_in_these_coordinates_too() -> None:
    """Here the steps to and fro across the kink vary by a factor of a hundred."""
    rng = generator(1)
    net = mlp([3, 4, 3, 2], activation=lambda: nn.LeakyReLU(0.3), dtype=torch.float64, bias=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.7, generator=rng)
    x = torch.randn(5, 3, dtype=torch.float64, generator=rng)
    y = torch.randn(5, 2, dtype=torch.float64, generator=rng)
    path = integrate_flow(
        net,
        lambda n: 0.5 * (n(x) - y).square().sum(1).mean(),
        [0, 0.1, 0.2],
        p=1,
        q=2,
        weight_decay=0.7,
        on_sliding="stop",
    )
    assert path.sliding
    assert path.evaluations < 5000
    end = path.model(-1)
    first = end.linear1(x)
    second = end.linear2(end.activation1(first))
    # on the kink up to the integrator's tolerance
    assert torch.cat([first.flatten(), second.flatten()]).abs().min() <= 1e-7


@pytest.mark.parametrize("size", [0.1, 0.01, 0.003])
@pytest.mark.parametrize(("p", "q"), [(3, 3), (3, 1)])
def test_small_weights_keep_their_imbalance_too(p: float, q: float, size: float) -> None:
    """The coordinates are powers of the weights, and the tolerance is relative to them."""
    net = mlp([3, 4, 2], activation="linear", bias=True, dtype=torch.float64)
    rng = generator(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, size, generator=rng)
    x = torch.randn(6, 3, dtype=torch.float64, generator=rng)
    y = torch.randn(6, 2, dtype=torch.float64, generator=rng)
    path = integrate_flow(
        net, lambda net: (net(x) - y).square().mean(), [0, 0.5, 1], p=p, q=q, on_sliding="stop"
    )
    values = torch.cat(list(path.measure(lambda net: imbalance(net, p, q, bias=True)).values()), 1)
    with torch.no_grad():
        assert (values - values[0]).abs().max() <= 1e-8 * lpq_norm(net, p, q) ** q

"""Gradient flow against closed forms and independent integrators."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from strategies import Problem, generator, network, problems, seeds, state, unchanged
from torch import Tensor, nn

from balancing import Trajectory, gradient_flow, integrate_flow, mlp, unit_invariants


@given(problems())
def test_velocity_is_minus_the_gradient(problem: Problem) -> None:
    net = problem.net
    velocity = gradient_flow(net, problem.loss(net))
    problem.loss(net).backward()
    assert list(velocity) == [name for name, _ in net.named_parameters()]
    for name, parameter in net.named_parameters():
        assert torch.equal(velocity[name], -parameter.grad)


def test_velocity_against_central_differences() -> None:
    net = network([2, 3, 1], 5, bias=True)
    problem = Problem(net, torch.ones(1, 2).double(), torch.ones(1, 1).double())
    velocity = gradient_flow(net, problem.loss(net))
    h = 1e-6  # truncation h^2 = 1e-12, rounding 1e-16 / h = 1e-10
    for name, parameter in net.named_parameters():
        flat = parameter.detach().view(-1)
        for i in range(len(flat)):
            flat[i] += h
            above = problem.loss(net).item()
            flat[i] -= 2 * h
            below = problem.loss(net).item()
            flat[i] += h
            slope = (above - below) / (2 * h)
            assert velocity[name].view(-1)[i].item() == pytest.approx(-slope, abs=1e-8)


def test_velocity_is_zero_where_the_loss_does_not_depend() -> None:
    net = network([2, 3, 1])
    velocity = gradient_flow(net, net.linear2.weight.square().sum())
    assert torch.equal(velocity["linear1.weight"], torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(velocity["linear2.weight"], -2 * net.linear2.weight)


def two_weights(u: float, v: float, activation: str = "linear") -> nn.Sequential:
    """f(x) = v phi(u x)."""
    net = mlp([1, 1, 1], activation=activation, dtype=torch.float64)
    nn.init.constant_(net.linear1.weight, u)
    nn.init.constant_(net.linear2.weight, v)
    return net


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_two_weights_against_another_integrator() -> None:
    times = np.linspace(0, 3, 7)
    path = integrate_flow(
        two_weights(2, 0.5), lambda net: (net(column(1)) - 2).square().sum() / 2, times
    )
    expected = solve_ivp(
        lambda _, s: [-(s[0] * s[1] - 2) * s[1], -(s[0] * s[1] - 2) * s[0]],
        (0, 3),
        [2, 0.5],
        method="Radau",
        t_eval=times,
        rtol=1e-9,
        atol=1e-11,
    )
    np.testing.assert_array_equal(path.times, times)
    # the reference is the less accurate of the two: its tolerance, summed over its steps
    np.testing.assert_allclose(path.states, expected.y.T, rtol=0, atol=1e-7)
    losses = (expected.y[0] * expected.y[1] - 2) ** 2 / 2
    np.testing.assert_allclose(path.losses, losses, rtol=0, atol=1e-7)
    assert not path.sliding
    assert path.evaluations > 0


@settings(max_examples=5)
@given(seeds)
def test_linear_least_squares_against_the_matrix_exponential(seed: int) -> None:
    rng = generator(seed)
    x = torch.randn(6, 3, dtype=torch.float64, generator=rng)
    y = torch.randn(6, 2, dtype=torch.float64, generator=rng)
    net = mlp([3, 2], dtype=torch.float64, generator=rng)
    times = torch.tensor([0.5, 0.7, 1.5, 4.0], dtype=torch.float64)  # starts at 0.5, uneven
    path = integrate_flow(net, lambda n: 0.5 * (n(x) - y).square().sum(), times)
    best = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0].T
    start, gram = net.linear1.weight.detach().numpy(), (x.T @ x).numpy()
    for t, vector in zip(times.tolist(), path.states, strict=True):
        expected = best + (start - best) @ expm(-gram * (t - 0.5))
        # the integrator's tolerance of 1e-10 a step
        np.testing.assert_allclose(vector.view(2, 3), expected, rtol=0, atol=1e-8)


def test_trajectory_and_the_model_it_came_from() -> None:
    net = network([2, 3, 1], bias=True)
    problem = Problem(net, column(1, -1).expand(-1, 2), column(1, 2))
    before = state(net)
    path = integrate_flow(net, problem.loss, [0, 0.1, 0.2], on_sliding="stop")
    assert unchanged(net, before)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert path.times.dtype == path.states.dtype == path.losses.dtype == torch.float64
    assert path.states.shape == (3, sum(p.numel() for p in net.parameters()))
    assert unchanged(path.model(0), before)
    for i in range(3):
        vector = torch.cat([p.detach().flatten() for p in path.model(i).parameters()])
        assert torch.equal(vector, path.states[i])
        assert path.losses[i] == problem.loss(path.model(i)).detach()
    assert (path.losses.diff() < 0).all()
    # later changes of the network do not reach the recorded path
    with torch.no_grad():
        net.linear1.weight.zero_()
    assert unchanged(path.model(0), before)


def test_model_of_a_trajectory_is_a_copy() -> None:
    path = integrate_flow(two_weights(2, 0.5), lambda net: net(column(1)).square().sum(), [0, 0.1])
    kept = path.states.clone()
    with torch.no_grad():
        path.model(1).linear1.weight.zero_()
    assert torch.equal(path.states, kept)


def test_measure_stacks_over_time() -> None:
    path = integrate_flow(
        two_weights(2, 0.5), lambda net: net(column(1)).square().sum(), [0, 0.1, 1]
    )
    measured = path.measure(unit_invariants)
    u, v = path.states.T
    assert list(measured) == ["linear1"]
    assert measured["linear1"].shape == (3, 1)
    torch.testing.assert_close(measured["linear1"][:, 0], u**2 - v**2, rtol=1e-14, atol=0)


# --- sliding -------------------------------------------------------------------------------------
# f(x) = v relu(w x) with v > 0 and labels -1 at x = 1 and x = -1. For w > 0 only x = 1 is active
# and dw/dt = -(v w + 1) v < 0; for w < 0 only x = -1 is, and dw/dt = (v |w| + 1) v > 0. Both push w
# to the kink w = 0, where dv/dt = 0. So w reaches 0 and no ordinary solution goes on. Until then
# v^2 - w^2 is constant, which gives the time of arrival as an integral.


def pushed_to_the_kink(net: nn.Module) -> Tensor:
    return 0.5 * (net(column(1, -1)) + 1).square().sum()


def arrival(w: float, v: float) -> float:
    """Time until w = 0 by quadrature of dt = dw / ((v w + 1) v) with v^2 = w^2 + constant."""

    def slowness(s: float) -> float:
        height = math.sqrt(s * s + v * v - w * w)
        return 1 / ((height * s + 1) * height)

    return quad(slowness, 0, w)[0]


def test_sliding_stops_at_the_kink() -> None:
    net = two_weights(0.5, 1, "relu")
    path = integrate_flow(net, pushed_to_the_kink, [0, 0.1, 0.2, 2], on_sliding="stop")
    assert path.sliding
    assert path.times[:3].tolist() == [0, 0.1, 0.2]
    assert len(path.times) == len(path.states) == len(path.losses) == 4
    # a hundred steps of at most 1e-5 of the span are taken before sliding is diagnosed
    assert path.times[-1].item() == pytest.approx(arrival(0.5, 1), abs=1e-4)
    np.testing.assert_allclose(path.states[-1], [0, math.sqrt(0.75)], rtol=0, atol=1e-4)


def test_sliding_raises_by_default_and_changes_nothing() -> None:
    net = two_weights(0.5, 1, "relu")
    before = state(net)
    with pytest.raises(RuntimeError, match=r"slides along a kink from t = 0\.\d+ of 2;"):
        integrate_flow(net, pushed_to_the_kink, [0, 2])
    assert unchanged(net, before)


def test_a_gentle_kink_is_noticed() -> None:
    """The smaller the jump of the velocity, the larger are the steps to and fro."""
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.fill_(0.005)
    path = integrate_flow(
        net, lambda n: 0.01 * n.weight.abs().sum(), [0, 1], rtol=1e-8, atol=1e-8, on_sliding="stop"
    )
    assert path.sliding
    assert 0.5 < path.times[-1] < 0.51
    assert path.evaluations < 10_000


def test_ending_before_the_kink_is_not_sliding() -> None:
    end = 0.99 * arrival(0.5, 1)
    path = integrate_flow(two_weights(0.5, 1, "relu"), pushed_to_the_kink, [0, end])
    assert not path.sliding
    assert path.times.tolist() == [0, end]


def test_crossing_a_kink_is_not_sliding() -> None:
    # With labels -1 at x = 1 and 1 at x = -1 the velocity points to w < 0 on both sides, until
    # v |w| = 1 fits the second sample.
    def loss(net: nn.Module) -> Tensor:
        return 0.5 * (net(column(1, -1)) - column(-1, 1)).square().sum()

    path = integrate_flow(two_weights(0.5, 1, "relu"), loss, [0, 5, 40])
    assert not path.sliding
    w, v = path.states[-1].tolist()
    assert w < 0
    assert v * -w == pytest.approx(1, abs=1e-8)
    assert v**2 - w**2 == pytest.approx(0.75, abs=1e-8)


# --- what is refused -----------------------------------------------------------------------------


def refused(net: nn.Module, times: object = (0, 1), **options: object) -> str:
    """The message of the ValueError, raised without evaluating the loss or changing the network."""
    before = state(net)

    def loss(_: nn.Module) -> Tensor:
        raise AssertionError("the loss was evaluated")

    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the callers look at the message)
        integrate_flow(net, loss, times, **options)
    assert unchanged(net, before)
    return str(caught.value)


def test_float32_is_refused_by_name() -> None:
    net = network([2, 3, 1])
    net.linear2.float()
    assert "parameter 'linear2.weight' is torch.float32" in refused(net)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    net = network([2, 3, 1], bias=True)
    with torch.no_grad():
        net.linear1.bias[1] = bad
    assert "parameter 'linear1.bias'" in refused(net)


@pytest.mark.parametrize(
    "times",
    [[], [0], [1, 0], [0, 0], [0, 1, 1], [0, math.nan], [[0, 1], [2, 3]], 3.0, [0, math.inf]],
    ids=str,
)
def test_bad_times(times: object) -> None:
    assert "times" in refused(two_weights(1, 1), times)


def test_bad_on_sliding() -> None:
    message = refused(two_weights(1, 1), on_sliding="ignore")
    assert message == "on_sliding must be 'raise' or 'stop', got 'ignore'"


def test_trajectory_is_exported() -> None:
    path = integrate_flow(two_weights(1, 1), lambda net: net(column(1)).square().sum(), [0, 0.1])
    assert isinstance(path, Trajectory)

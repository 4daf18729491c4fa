"""What gradient flow conserves, by how much descent misses it, and the monitor of both."""

import copy
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Problem, generator, linears, network, networks, problems, state, unchanged
from torch import Tensor, nn

from balancing import (
    InvariantMonitor,
    Trajectory,
    imbalance,
    integrate_flow,
    layer_invariants,
    matrix_invariants,
    mlp,
    trace,
    unit_invariants,
)


def by_hand(net: nn.Sequential, *, bias: bool = True) -> dict[str, NDArray[np.float64]]:
    """W_h W_h^T + b_h b_h^T - W_(h+1)^T W_(h+1) for every hidden layer, in numpy."""
    result = {}
    for (name, below), (_, above) in itertools.pairwise(linears(net).items()):
        w, v = (layer.weight.detach().numpy().astype(np.float64) for layer in (below, above))
        result[name] = w @ w.T - v.T @ v
        if bias and below.bias is not None:
            b = below.bias.detach().numpy().astype(np.float64)
            result[name] += np.outer(b, b)
    return result


def squared(tensors: object) -> float:
    """Sum of the squares of all entries: the scale for relative changes of invariants."""
    return sum(float(each.detach().square().sum()) for each in tensors)


# --- the quantities ------------------------------------------------------------------------------

# sums of at most a dozen squares, relative to the squared weights
RTOL = 1e-14


@given(networks(layers=(2, 4)), st.booleans())
def test_quantities_by_hand(net: nn.Sequential, bias: bool) -> None:
    atol = RTOL * squared(net.parameters())
    expected = by_hand(net, bias=bias)
    units, layers = unit_invariants(net, bias=bias), layer_invariants(net, bias=bias)
    assert list(units) == list(layers) == list(expected)
    for name, matrix in expected.items():
        np.testing.assert_allclose(units[name], np.diag(matrix), rtol=0, atol=atol)
        np.testing.assert_allclose(layers[name], np.trace(matrix), rtol=0, atol=atol)
        assert torch.equal(units[name], imbalance(net, 2, 2, bias=bias)[name])
        assert units[name].dtype == layers[name].dtype == torch.float64


@given(networks(layers=(2, 4), act=["linear"]), st.booleans())
def test_matrix_by_hand_and_its_diagonal(net: nn.Sequential, bias: bool) -> None:
    atol = RTOL * squared(net.parameters())
    matrices, units = matrix_invariants(net, bias=bias), unit_invariants(net, bias=bias)
    assert list(matrices) == list(units)
    for name, expected in by_hand(net, bias=bias).items():
        np.testing.assert_allclose(matrices[name], expected, rtol=0, atol=atol)
        np.testing.assert_allclose(matrices[name].diagonal(), units[name], rtol=0, atol=atol)


def test_float32_is_measured_in_float64() -> None:
    net = network([5, 6, 4], act="linear", dtype=torch.float32, bias=True)
    expected = by_hand(net)["linear1"]
    atol = RTOL * squared(net.parameters())
    assert matrix_invariants(net)["linear1"].dtype == torch.float64
    np.testing.assert_allclose(matrix_invariants(net)["linear1"], expected, rtol=0, atol=atol)
    np.testing.assert_allclose(unit_invariants(net)["linear1"], np.diag(expected), atol=atol)


def mixed() -> nn.Sequential:
    """Hidden groups "0" (linear) and "1" (relu)."""
    layers = [nn.Linear(2, 3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)]
    return nn.Sequential(*layers).double()


def test_matrix_is_given_for_linear_groups_only() -> None:
    assert list(matrix_invariants(mixed())) == ["0"]
    assert list(matrix_invariants(mixed(), groups=["0"])) == ["0"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["1"], "group '1' has activation relu; matrix invariants exist for .*: 0$"),
        (["0", "9"], "group '9' is unknown"),
        (["3"], "group '3' is"),  # frozen: the output
        (["input"], "group 'input' is"),
    ],
)
def test_matrix_of_another_group(groups: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrix_invariants(mixed(), groups=groups)


def test_no_linear_group() -> None:
    with pytest.raises(ValueError, match="no hidden group has a linear activation"):
        matrix_invariants(mlp([2, 3, 1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["linear1.weight", "linear1.bias", "linear2.weight"])
@pytest.mark.parametrize("quantity", [unit_invariants, layer_invariants, matrix_invariants])
def test_nan_weights_are_named(quantity: object, name: str, bad: float) -> None:
    net = network([3, 4, 2], act="linear", bias=True)
    with torch.no_grad():
        net.get_parameter(name).view(-1)[0] = bad
    with pytest.raises(ValueError, match=rf"parameter '{name}'"):
        quantity(net)


# --- along the flow ------------------------------------------------------------------------------


def path_of(problem: Problem, end: float = 0.5) -> Trajectory:
    """Gradient flow until ``end``, or until it slides along a ReLU kink."""
    return integrate_flow(
        problem.net, problem.loss, torch.linspace(0, end, 6), rtol=1e-11, on_sliding="stop"
    )


def is_at_rest(problem: Problem) -> bool:
    """Whether the gradient (nearly) vanishes at the start, so that nothing would move."""
    gradients = torch.autograd.grad(problem.loss(problem.net), [*problem.net.parameters()])
    return squared(gradients) < 1e-2


def assert_it_moves(path: Trajectory) -> None:
    """Otherwise that something is conserved would mean nothing."""
    scale = path.states[0].norm()
    assert (path.states[-1] - path.states[0]).norm() > 1e-3 * scale
    assert path.losses[-1] < path.losses[0]


# The integrator's tolerance is 1e-11 a step; the acceptance of the claim is 1e-9.
DRIFT = 1e-9


@settings(max_examples=4)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", ["relu", "leaky 0.3"])
@given(data=st.data())
def test_flow_conserves_units_and_layers(act: str, bias: bool, data: st.DataObject) -> None:
    problem = data.draw(problems(widths=(2, 5), act=[act], bias=bias))
    assume(not is_at_rest(problem))
    path = path_of(problem)
    assert_it_moves(path)
    scale = path.states.square().sum(1).max()
    for quantity in (unit_invariants, layer_invariants):
        for value in path.measure(quantity).values():
            assert (value - value[0]).abs().max() < DRIFT * scale


@settings(max_examples=4)
@pytest.mark.parametrize("bias", [False, True])
@given(data=st.data())
def test_flow_conserves_the_matrix_of_linear_layers(bias: bool, data: st.DataObject) -> None:
    problem = data.draw(problems(widths=(2, 4), act=["linear"], bias=bias))
    assume(not is_at_rest(problem))
    path = path_of(problem)
    assert_it_moves(path)
    scale = path.states.square().sum(1).max()
    for value in path.measure(matrix_invariants).values():
        assert (value - value[0]).abs().max() < DRIFT * scale


def test_flow_does_not_conserve_what_the_theorems_leave_out() -> None:
    """Without the bias, or off the diagonal under ReLU: the tests above can fail."""
    rng = generator(1)
    x, y = (torch.randn(6, n, dtype=torch.float64, generator=rng) for n in (3, 2))
    path = path_of(Problem(network([3, 4, 2], 1, bias=True), x, y))
    scale = path.states.square().sum(1).max()
    without = path.measure(lambda net: unit_invariants(net, bias=False))["linear1"]
    assert (without - without[0]).abs().max() > 1e-3 * scale
    first, last = (by_hand(path.model(i))["linear1"] for i in (0, -1))
    assert np.abs(last - first).max() > 1e-3 * scale
    assert np.abs(np.diag(last - first)).max() < DRIFT * scale


# --- one step of gradient descent ----------------------------------------------------------------


@settings(max_examples=50)
@given(problems(layers=(2, 4)), st.floats(1e-4, 1))
def test_one_step_changes_invariants_by_the_squared_step(problem: Problem, eta: float) -> None:
    net = problem.net
    gradients = torch.autograd.grad(problem.loss(net), [*net.parameters()])
    before = unit_invariants(net), layer_invariants(net)
    weights = squared(net.parameters())
    shadow = copy.deepcopy(net)  # holds the gradients where the weights are
    with torch.no_grad():
        for parameter, twin, gradient in zip(
            net.parameters(), shadow.parameters(), gradients, strict=True
        ):
            twin.copy_(gradient)
            parameter -= eta * gradient
    after = unit_invariants(net), layer_invariants(net)
    atol = 1e-12 * (weights + eta**2 * squared(gradients))
    for name, matrix in by_hand(shadow).items():
        unit, layer = (now[name] - then[name] for now, then in zip(after, before, strict=True))
        np.testing.assert_allclose(unit, eta**2 * np.diag(matrix), rtol=0, atol=atol)
        np.testing.assert_allclose(layer, eta**2 * np.trace(matrix), rtol=0, atol=atol)


# --- the monitor ---------------------------------------------------------------------------------


def names_and_values(net: nn.Sequential) -> dict[str, float]:
    values = {}
    for name, matrix in by_hand(net).items():
        values |= {f"unit:{name}[{i}]": each for i, each in enumerate(np.diag(matrix))}
    for name, matrix in by_hand(net).items():
        values[f"layer:{name}"] = np.trace(matrix)
    return values


def test_monitor_in_a_training_loop() -> None:
    net = network([3, 5, 4, 2], act="leaky_relu", bias=True)
    rng = generator(2)
    x, y = (torch.randn(40, n, dtype=torch.float64, generator=rng) for n in (3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    monitor = InvariantMonitor(net, every=3)
    expected = {0: names_and_values(net)}
    for step in range(1, 11):
        batch = torch.randperm(40, generator=rng)[:8]
        optimizer.zero_grad()
        (net(x[batch]) - y[batch]).square().mean().backward()
        optimizer.step()
        monitor.step()
        if step % 3 == 0:
            expected[step] = names_and_values(net)
    history = monitor.history
    assert list(history.columns) == ["step", "quantity", "value", "drift"]
    rows = [(step, *item) for step, values in expected.items() for item in values.items()]
    assert history["step"].tolist() == [step for step, _, _ in rows]
    assert history["quantity"].tolist() == [quantity for _, quantity, _ in rows]
    value = np.array([value for _, _, value in rows])
    atol = RTOL * squared(net.parameters())
    np.testing.assert_allclose(history["value"], value, rtol=0, atol=atol)
    start = np.tile(list(expected[0].values()), len(expected))
    np.testing.assert_allclose(history["drift"], value - start, rtol=0, atol=2 * atol)
    # training moves the weights by far more than it moves the invariants, but it does move them
    assert history["drift"].abs().max() > 1e-6


def test_monitor_starts_at_step_zero_without_drift() -> None:
    net = network([2, 3, 1])
    history = InvariantMonitor(net).history
    assert history["step"].unique().tolist() == [0]
    assert (history["drift"] == 0).all()
    assert dict(zip(history["quantity"], history["value"], strict=True)) == pytest.approx(
        names_and_values(net)
    )


def test_monitor_records_every_step_by_default() -> None:
    monitor = InvariantMonitor(trace(network([2, 3, 1])))
    monitor.step()
    monitor.step()
    assert monitor.history["step"].unique().tolist() == [0, 1, 2]


def test_monitor_of_matrices() -> None:
    net = network([2, 3, 1], act="linear")
    history = InvariantMonitor(net, quantities=["matrix"]).history
    entries = itertools.product(range(3), repeat=2)
    assert history["quantity"].tolist() == [f"matrix:linear1[{i},{j}]" for i, j in entries]
    expected = by_hand(net)["linear1"].flatten()
    np.testing.assert_allclose(history["value"], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("every", [0, -1, 2.0, "2", True, None])
def test_bad_every(every: object) -> None:
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got"):
        InvariantMonitor(network([2, 3, 1]), every)


@pytest.mark.parametrize("quantities", [["unit", "angle"], "unit"])
def test_unknown_quantity(quantities: object) -> None:
    with pytest.raises(ValueError, match=r"unknown quantity '.*'; choose from unit, layer, matrix"):
        InvariantMonitor(network([2, 3, 1]), quantities=quantities)


def test_matrix_of_a_relu_network() -> None:
    with pytest.raises(ValueError, match="no hidden group has a linear activation"):
        InvariantMonitor(network([2, 3, 1]), quantities=["matrix"])


def test_network_without_hidden_units_has_an_empty_history() -> None:
    net = network([3, 2])
    assert unit_invariants(net) == layer_invariants(net) == {}
    monitor = InvariantMonitor(net)
    monitor.step()
    assert len(monitor.history) == 0
    assert list(monitor.history.columns) == ["step", "quantity", "value", "drift"]


def diverge(net: nn.Sequential) -> dict[str, Tensor]:
    with torch.no_grad():
        net.linear2.weight[0, 1] = math.nan
    return state(net)


def test_nan_weights_are_named_and_not_recorded() -> None:
    net = network([2, 3, 1])
    monitor = InvariantMonitor(net)
    before = monitor.history
    diverge(net)
    with pytest.raises(ValueError, match=r"parameter 'linear2\.weight'"):
        monitor.step()
    with torch.no_grad():
        net.linear2.weight[0, 1] = 0.5
    pd.testing.assert_frame_equal(monitor.history, before)


def test_history_can_be_read_after_the_weights_became_nan() -> None:
    net = network([2, 3, 1])
    monitor = InvariantMonitor(net)
    before = monitor.history
    bad = diverge(net)
    pd.testing.assert_frame_equal(monitor.history, before)
    assert unchanged(net, bad)

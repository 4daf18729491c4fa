"""WeightBalancingDescent: what a step keeps, where it leads, and that it is a torch optimizer."""

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from architectures import Network, networks
from hypothesis import assume, given, settings
from strategies import Problem, exponents, generator, network, seeds, state, unchanged
from test_architectures import traced
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from balancing import (
    NotHomogeneousError,
    RescalingGraph,
    WeightBalancingDescent,
    _restoring,
    balance,
    imbalance,
    integrate_flow,
    mlp,
    rescale,
    shares,
    trace,
    weight_balancing_flow,
)

# (p, q) and a learning rate that suits weights of about 0.5
PAIRS = [
    (1, 1, 0.1),
    (1, 2, 0.2),
    (2, 2, 0.05),
    (1.5, 1.5, 0.05),
    (2, 1, 0.02),
    (3, 3, 0.01),
    (0.5, 1, 0.1),
    (1.5, 3, 0.05),
]


def problem(seed: int, bias: bool = True, dtype: torch.dtype = torch.float64) -> Problem:
    net = network([4, 8, 6, 3], seed, bias=bias)
    rng = generator(seed + 1)
    x = torch.randn(20, 4, dtype=torch.float64, generator=rng)
    y = torch.randn(20, 3, dtype=torch.float64, generator=rng)
    return Problem(net.to(dtype), x.to(dtype), y.to(dtype))


def run(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    steps: int,
) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(net)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def sizes(model: nn.Module | RescalingGraph, p: float, q: float) -> dict[str, Tensor]:
    """Incoming plus outgoing shares of every hidden unit, from the shares one by one."""
    graph = trace(model)
    pi = shares(graph, p, q, bias=True)
    result = {name: torch.zeros(g.size).double() for name, g in graph.hidden.items()}
    for edge in graph.edges:
        power = edge.by_channel(pi[edge.weight])
        if edge.target in result:
            result[edge.target] += power.sum((2, 3)).flatten()
            if edge.bias is not None:
                result[edge.target] += pi[edge.bias]
        for source, out in edge.by_source(power.sum((1, 3)).flatten()):
            if source in result:
                result[source] += out
    return result


def deviation(
    model: nn.Module | RescalingGraph,
    p: float,
    q: float,
    wanted: dict[str, Tensor],
    factor: float = 1.0,
) -> float:
    """Largest distance of an imbalance from what is wanted, relative to the unit's shares."""
    now, size = imbalance(model, p, q, bias=True), sizes(model, p, q)
    each = [((now[n] - factor * wanted[n]).abs() / (size[n] + 1e-300)).max() for n in wanted]
    return float(max(each))


# --- what a step keeps ---------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q", "lr"), PAIRS[:6], ids=str)
def test_balanced_start_stays_balanced_while_the_loss_falls(p: float, q: float, lr: float) -> None:
    task = problem(0, bias=False)
    net = balance(task.net, p, q, tol=1e-12, max_iter=10_000).model
    optimizer = WeightBalancingDescent(net, lr, p, q, tol=1e-10)
    graph, worst, losses = trace(net), 0.0, []
    zero = {name: torch.zeros(group.size) for name, group in graph.hidden.items()}
    for _ in range(300):
        losses += run(optimizer, net, task.loss, 1)
        worst = max(worst, deviation(graph, p, q, zero))
    assert worst <= 1.1e-10  # the tolerance, and rounding
    assert losses[-1] < 0.6 * losses[0]
    assert optimizer.time == pytest.approx(300 * p * lr, rel=1e-12)  # nothing was cut


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("p", "q", "lr"), PAIRS, ids=str)
def test_unbalanced_start_keeps_its_imbalance_but_for_decay(
    p: float, q: float, lr: float, decay: float
) -> None:
    task = problem(1)
    start = imbalance(task.net, p, q, bias=True)
    optimizer = WeightBalancingDescent(task.net, lr, p, q, weight_decay=decay, tol=1e-10)
    for _ in range(10):
        run(optimizer, task.net, task.loss, 10)
        factor = math.exp(-decay * optimizer.time)
        assert deviation(task.net, p, q, start, factor) <= 1.1e-10
        assert optimizer.deviation <= 1e-10


@pytest.mark.parametrize(("p", "q", "lr"), [each for each in PAIRS if each[0] <= 1], ids=str)
def test_share_steps_need_no_restoring(p: float, q: float, lr: float) -> None:
    task = problem(2)
    start = imbalance(task.net, p, q, bias=True)
    optimizer = WeightBalancingDescent(task.net, lr, p, q, tol=math.inf)
    run(optimizer, task.net, task.loss, 300)
    # 300 steps of rounding 1e-16 in sums of at most 9 shares
    assert deviation(task.net, p, q, start) <= 1e-12
    assert optimizer.deviation <= 1e-12


@pytest.mark.parametrize(("p", "q", "lr"), [each for each in PAIRS if each[0] > 1], ids=str)
def test_dual_steps_miss_by_the_square_of_the_step(p: float, q: float, lr: float) -> None:
    missed = []
    for part in (1e-2, 5e-3):
        task = problem(2)
        optimizer = WeightBalancingDescent(task.net, part * lr, p, q, tol=math.inf)
        run(optimizer, task.net, task.loss, 1)
        missed.append(optimizer.deviation)
    assert missed[0] / missed[1] == pytest.approx(4, rel=0.05)


def test_tolerance_decides_when_to_restore() -> None:
    task = problem(3)
    start = imbalance(task.net, 2, bias=True)
    optimizer = WeightBalancingDescent(task.net, 0.05, tol=1e-3)
    seen = []
    for _ in range(60):
        run(optimizer, task.net, task.loss, 1)
        seen.append(optimizer.deviation)
        assert deviation(task.net, 2, 2, start) == pytest.approx(optimizer.deviation, rel=1e-6)
    assert 1e-4 < max(seen) <= 1e-3


@settings(max_examples=40)
@given(seeds, exponents, exponents)
def test_rescaled_network_comes_back(seed: int, p: float, q: float) -> None:
    """Restoring undoes any rescaling: the weights with that imbalance are the only ones."""
    task = problem(seed)
    start = state(task.net)
    optimizer = WeightBalancingDescent(task.net, 0.0, p, q, tol=1e-13)
    rng = generator(seed)
    # far enough for the Newton steps to be cut: shares change by up to e^(+-40)
    factors = {
        name: torch.randn(n, dtype=torch.float64, generator=rng).mul(6 / max(p, q)).exp()
        for name, n in (("linear1", 8), ("linear2", 6))
    }
    rescale(task.net, factors, inplace=True)
    for parameter in task.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert optimizer.deviation <= 1e-13
    for name, now in task.net.state_dict().items():
        # the shares of a unit may depend on its factor a thousand times less than on others'
        torch.testing.assert_close(now, start[name], rtol=1e-8, atol=0)


@settings(max_examples=25)
@given(net=networks())
def test_imbalance_is_kept_in_any_architecture(net: Network) -> None:
    """Convolutions, residual sums, concatenations, PReLU; groups that neighbour themselves."""
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator(0))
    graph = traced(net, x)
    assume(graph.hidden)
    scale = net(x).detach().abs().max() + 1e-3

    def loss(n: nn.Module) -> Tensor:
        return (n(x) / scale - 1).square().mean()

    for p, q in ((1, 2), (2, 2), (3, 1.5)):
        # a step that changes the weights by a tenth
        velocity = weight_balancing_flow(graph, loss(net), p, q)
        weights = {name: w.detach().clone() for name, w in net.named_parameters()}
        speed = torch.cat([v.flatten() for v in velocity.values()]).norm()
        length = parameters_to_vector(net.parameters()).detach().norm()
        lr = float(0.1 * length / (p * speed + 1e-3 * length))
        optimizer = WeightBalancingDescent(graph, lr, p, q, tol=1e-10, weight_decay=0.1)
        start = imbalance(graph, p, q, bias=True)
        run(optimizer, net, loss, 1)
        # restoring does not change the function: the bare step leads to the same
        before = {name: w.detach().clone() for name, w in net.named_parameters()}
        net.load_state_dict(weights, strict=False)  # not the running statistics
        run(WeightBalancingDescent(graph, lr, p, q, tol=math.inf, weight_decay=0.1), net, loss, 1)
        bare = net(x).detach()
        net.load_state_dict(before, strict=False)
        # a step through a layer that is called twice may make outputs of 1e12
        assert (net(x) - bare).abs().max() <= 1e-10 * max(scale, bare.abs().max())
        run(optimizer, net, loss, 1)
        assert optimizer.deviation <= 1e-10
        factor = math.exp(-0.1 * optimizer.time)
        assert deviation(graph, p, q, start, factor) <= 1.1e-10


class Residual(nn.Module):
    """Its second layer reads the group that it writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.second(x).relu())


@pytest.mark.parametrize(("p", "q", "lr"), PAIRS, ids=str)
def test_group_that_reads_itself(p: float, q: float, lr: float) -> None:
    torch.manual_seed(0)
    net = Residual().double()
    x = torch.randn(10, 4, dtype=torch.float64)
    start = imbalance(net, p, q, bias=True)
    optimizer = WeightBalancingDescent(net, lr, p, q, tol=1e-11)
    losses = run(optimizer, net, lambda n: (n(x) - 1).square().mean(), 100)
    assert deviation(net, p, q, start) <= 1.1e-11
    assert losses[-1] < 0.5 * losses[0]


# --- where it leads ------------------------------------------------------------------------------


def test_at_two_two_without_restoring_it_is_sgd_bit_for_bit() -> None:
    task = problem(4)
    twin = copy.deepcopy(task.net)
    ours = WeightBalancingDescent(task.net, 0.05, tol=math.inf)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.05)
    run(ours, task.net, task.loss, 20)
    run(theirs, twin, task.loss, 20)
    assert unchanged(task.net, state(twin))


def test_at_two_two_a_step_is_sgds_up_to_a_rescaling_of_second_order() -> None:
    apart = []
    for lr in (1e-2, 5e-3):
        task = problem(4)
        twin = copy.deepcopy(task.net)
        run(WeightBalancingDescent(task.net, lr, tol=1e-12), task.net, task.loss, 1)
        run(torch.optim.SGD(twin.parameters(), lr=lr), twin, task.loss, 1)
        # the same function
        torch.testing.assert_close(task.net(task.x), twin(task.x), rtol=1e-12, atol=1e-13)
        vectors = [parameters_to_vector(net.parameters()).detach() for net in (task.net, twin)]
        apart.append(float((vectors[0] - vectors[1]).norm()))
    assert apart[0] > 1e-6
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.05)


def test_weight_decay_at_two_two_is_sgds_to_first_order() -> None:
    apart = []
    for lr in (1e-2, 5e-3):
        task = problem(5)
        twin = copy.deepcopy(task.net)
        ours = WeightBalancingDescent(task.net, lr, weight_decay=0.5, tol=math.inf)
        theirs = torch.optim.SGD(twin.parameters(), lr=lr, weight_decay=0.5)
        run(ours, task.net, task.loss, 1)
        run(theirs, twin, task.loss, 1)
        vectors = [parameters_to_vector(net.parameters()).detach() for net in (task.net, twin)]
        apart.append(float((vectors[0] - vectors[1]).norm()))
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(("p", "q", "lr"), PAIRS, ids=str)
def test_small_steps_follow_the_flow(p: float, q: float, lr: float) -> None:
    """To first order in the step, with decay: half the step, half the distance."""
    net = network([3, 4, 2], 6, act="leaky 0.3", bias=True)
    with torch.no_grad():  # away from zero, where the dual map of p = 3 is steep
        for w in net.parameters():
            w.copy_(w.sign() * (0.3 + w.abs()))
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator(7))

    def loss(n: nn.Module) -> Tensor:
        return (n(x) - 1).square().mean()

    end = 0.1 * p * lr
    path = integrate_flow(net, loss, [0, end], p=p, q=q, weight_decay=0.4)
    apart = []
    for steps in (20, 40):
        moved = copy.deepcopy(net)
        optimizer = WeightBalancingDescent(
            moved, end / p / steps, p, q, weight_decay=0.4, tol=1e-12
        )
        run(optimizer, moved, loss, steps)
        assert optimizer.time == pytest.approx(end, rel=1e-12)
        vector = parameters_to_vector(moved.parameters()).detach()
        apart.append(float((vector - path.states[-1]).norm()))
    travelled = float((path.states[-1] - path.states[0]).norm())
    assert apart[0] <= 0.05 * travelled
    assert apart[0] / apart[1] == pytest.approx(2, rel=0.05)


def test_long_steps_are_cut_for_p_up_to_one() -> None:
    for p, q in ((1, 1), (1, 2), (0.5, 1)):
        task = problem(8)
        before, start = shares(task.net, p, q, bias=True), imbalance(task.net, p, q, bias=True)
        optimizer = WeightBalancingDescent(task.net, 1e4, p, q, weight_decay=0.1)
        signs = {name: w.sign() for name, w in state(task.net).items()}
        run(optimizer, task.net, task.loss, 1)
        assert 0 < optimizer.time < 1e3
        factor = math.exp(-0.1 * optimizer.time)
        lost = [
            1 - float((pi / before[name]).min()) / factor
            for name, pi in shares(task.net, p, q, bias=True).items()
        ]
        assert max(lost) == pytest.approx(0.9, abs=1e-12)
        assert deviation(task.net, p, q, start, factor) <= 1e-12
        assert all(torch.equal(w.sign(), signs[n]) for n, w in task.net.named_parameters())


def test_signs_change_for_p_above_one() -> None:
    for p, q, lr in PAIRS:
        task = problem(9)
        signs = parameters_to_vector(task.net.parameters()).sign()
        run(WeightBalancingDescent(task.net, lr, p, q), task.net, task.loss, 200)
        crossed = parameters_to_vector(task.net.parameters()).sign() != signs
        assert bool(crossed.any()) == (p > 1)


# --- zeros, frozen and other parameters, dtypes --------------------------------------------------


@pytest.mark.parametrize(("p", "q", "lr"), PAIRS, ids=str)
def test_zeros_give_no_nan(p: float, q: float, lr: float) -> None:
    task = problem(10)
    with torch.no_grad():
        task.net.linear1.weight[0] = 0  # no incoming weight
        task.net.linear1.bias[0] = 0
        task.net.linear2.weight[:, 1] = 0  # no outgoing weight
        task.net.linear2.weight[2] = 0  # neither
        task.net.linear2.bias[2] = 0
        task.net.linear3.weight[:, 2] = 0
        task.net.linear1.weight[3, 1] = 0
    start = imbalance(task.net, p, q, bias=True)
    optimizer = WeightBalancingDescent(task.net, lr, p, q, weight_decay=0.1, tol=1e-9)
    losses = run(optimizer, task.net, task.loss, 50)
    assert all(torch.isfinite(w).all() for w in task.net.parameters())
    assert losses[-1] < losses[0]
    assert optimizer.deviation <= 1e-9
    factor = math.exp(-0.1 * optimizer.time)
    live = {"linear1": slice(2, None), "linear2": slice(3, None)}
    now, size = imbalance(task.net, p, q, bias=True), sizes(task.net, p, q)
    for name, units in live.items():
        apart = (now[name] - factor * start[name])[units].abs() / size[name][units]
        assert apart.max() <= 1.1e-9
    if p <= 1:
        assert task.net.linear1.weight[3, 1] == 0


def test_zero_biases_that_would_stay_zero_are_warned_of() -> None:
    net = mlp([3, 4, 2], bias=True)
    with pytest.warns(UserWarning, match=r"parameter 'linear\d\.bias' is zero, and stays so"):
        WeightBalancingDescent(net, 0.1, 1, 2)
    WeightBalancingDescent(net, 0.1, 1.5)  # here they thaw: no warning


def test_frozen_parameters_stay_and_their_units_are_left_alone() -> None:
    for p, q, lr in PAIRS:
        net = network([4, 5, 6, 5, 3], 11, bias=True)
        net.linear3.weight.requires_grad_(False)  # touches linear2 and linear3
        net.linear3.bias.requires_grad_(False)
        rng = generator(12)
        x = torch.randn(20, 4, dtype=torch.float64, generator=rng)
        before, start = state(net), imbalance(net, p, q, bias=True)
        optimizer = WeightBalancingDescent(net, lr, p, q, weight_decay=0.2, tol=1e-10)
        run(optimizer, net, lambda n, x=x: (n(x) - 1).square().mean(), 20)
        after = state(net)
        for name in before:
            assert torch.equal(before[name], after[name]) == name.startswith("linear3.")
        factor = math.exp(-0.2 * optimizer.time)
        assert deviation(net, p, q, {"linear1": start["linear1"]}, factor) <= 1.1e-10
        for name in ("linear2", "linear3"):
            assert deviation(net, p, q, {name: start[name]}, factor) >= 1e-3


def test_frozen_bias_is_no_column() -> None:
    for p, q, lr in PAIRS:
        task = problem(13)
        task.net.linear2.bias.requires_grad_(False)
        bare = copy.deepcopy(task.net)
        before, start = state(task.net), imbalance(task.net, p, q, bias=True)
        optimizer = WeightBalancingDescent(task.net, lr, p, q, tol=1e-9)
        run(optimizer, task.net, task.loss, 1)
        # linear2 is not rescaled without its bias: the function is that of the bare step
        run(WeightBalancingDescent(bare, lr, p, q, tol=math.inf), bare, task.loss, 1)
        torch.testing.assert_close(task.net(task.x), bare(task.x), rtol=1e-10, atol=1e-12)
        run(optimizer, task.net, task.loss, 20)
        assert optimizer.deviation <= 1e-9
        assert torch.equal(before["linear2.bias"], task.net.linear2.bias)
        if p != q:  # linear1's outgoing rows lack a column: its imbalance is another one
            assert deviation(task.net, p, q, {"linear1": start["linear1"]}) >= 1e-4
        else:
            assert deviation(task.net, p, q, {"linear1": start["linear1"]}) <= 1.1e-9


def test_other_parameters_take_plain_steps_without_decay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    for p, q in ((1, 1), (3, 3), (2, 2)):
        before = net[1].weight.detach().clone()
        optimizer = WeightBalancingDescent(net, 0.01, p, q, weight_decay=0.5)
        run(optimizer, net, lambda n: n(x).square().mean(), 1)
        expected = before - 0.01 * net[1].weight.grad
        torch.testing.assert_close(net[1].weight.detach(), expected, rtol=1e-14, atol=0)


def test_missing_gradients_count_as_zero() -> None:
    one, two = problem(14), problem(14)
    for task in (one, two):
        task.loss(task.net).backward()
    one.net.linear2.bias.grad = None
    two.net.linear2.bias.grad.zero_()
    for task in (one, two):
        WeightBalancingDescent(task.net, 0.1, 1, 2, weight_decay=0.3).step()
    assert unchanged(one.net, state(two.net))


def test_without_any_gradient_nothing_happens() -> None:
    task = problem(14)
    before = state(task.net)
    optimizer = WeightBalancingDescent(task.net, 0.1, weight_decay=0.3)
    optimizer.step()
    assert unchanged(task.net, before)
    assert optimizer.time == 0


@pytest.mark.parametrize(
    ("dtype", "kept"),
    # rounding the weights of a unit with at least five: the resolution over sqrt(5), twice
    [(torch.float32, 1e-6 + 6e-8), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)],
)
@pytest.mark.parametrize(("p", "q", "lr"), PAIRS, ids=str)
def test_other_dtypes(p: float, q: float, lr: float, dtype: torch.dtype, kept: float) -> None:
    task = problem(15, dtype=dtype)
    start = imbalance(task.net, p, q, bias=True)
    optimizer = WeightBalancingDescent(task.net, lr, p, q)
    losses = run(optimizer, task.net, task.loss, 100)
    assert all(w.dtype == dtype for w in task.net.parameters())
    assert deviation(task.net, p, q, start) <= kept * max(p, q)
    assert losses[-1] < losses[0]


def test_dtypes_may_be_mixed() -> None:
    net = network([4, 8, 6, 3], 16, bias=True)
    net.linear2.float()
    start = imbalance(net, 1.5, 3, bias=True)
    optimizer = WeightBalancingDescent(net, 0.01, 1.5, 3)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [w.dtype for w in net.linear2.parameters()] == [torch.float32] * 2
    assert deviation(net, 1.5, 3, start) <= 1.1e-6


@pytest.mark.parametrize("p", [1.1, 3, 4, 6, 20])
def test_small_float32_weights_survive_large_exponents(p: float) -> None:
    net = network([40, 30, 5], 17, dtype=torch.float32, scale=1e-4)
    before = state(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    WeightBalancingDescent(net, 0.1, p, tol=math.inf).step()
    for name, now in state(net).items():
        torch.testing.assert_close(now, before[name], rtol=1e-5, atol=0)


# --- as an optimizer of torch --------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q", "lr"), [(1, 2, 0.2), (2, 2, 0.05), (3, 3, 0.01)])
def test_state_dict_continues_bit_for_bit(p: float, q: float, lr: float) -> None:
    whole, part = problem(18), problem(18)
    straight = WeightBalancingDescent(whole.net, lr, p, q, weight_decay=0.1)
    run(straight, whole.net, whole.loss, 20)

    first = WeightBalancingDescent(part.net, lr, p, q, weight_decay=0.1)
    run(first, part.net, part.loss, 10)
    file = io.BytesIO()
    torch.save({"model": part.net.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = problem(19)
    second = WeightBalancingDescent(fresh.net, 0.7, p, q, tol=1.0)
    fresh.net.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    run(second, fresh.net, whole.loss, 10)
    assert unchanged(fresh.net, state(whole.net))
    assert second.time == straight.time
    assert second.param_groups[0]["lr"] == lr
    assert second.param_groups[0]["tol"] == 1e-6


def test_a_deep_copy_goes_on_by_itself() -> None:
    task = problem(18)
    optimizer = WeightBalancingDescent(task.net, 0.2, 1, 2, weight_decay=0.1)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # wraps the optimizer's step
    run(optimizer, task.net, task.loss, 5)
    before, time = state(task.net), optimizer.time
    net, copied = copy.deepcopy((task.net, optimizer))
    losses = run(copied, net, task.loss, 5)
    assert unchanged(task.net, before)
    assert optimizer.time == time < copied.time
    assert run(optimizer, task.net, task.loss, 5) == losses  # and both go the same way
    assert unchanged(net, state(task.net))


def test_state_dict_is_a_copy() -> None:
    task = problem(18)
    optimizer = WeightBalancingDescent(task.net, 0.05, weight_decay=1.0)
    saved = optimizer.state_dict()["balance"]["target"]["linear1"]
    kept = saved.clone()
    run(optimizer, task.net, task.loss, 3)
    assert torch.equal(saved, kept)


def test_states_that_do_not_fit_are_refused() -> None:
    net = problem(18).net
    optimizer = WeightBalancingDescent(net, 0.05, 1, 2)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="not the state of a WeightBalancingDescent"):
        optimizer.load_state_dict(torch.optim.SGD(net.parameters(), lr=1.0).state_dict())
    other = WeightBalancingDescent(net, 1.0, 1, 1)
    with pytest.raises(ValueError, match=r"for p = 1, q = 1, this optimizer for p = 1, q = 2"):
        optimizer.load_state_dict(other.state_dict())
    other = WeightBalancingDescent(mlp([4, 9, 3]), 1.0, 1, 2)
    with pytest.raises(ValueError, match=r"another network, with the hidden units .*9"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.05
    now = optimizer.state_dict()["balance"]["target"]
    assert all(torch.equal(now[name], each) for name, each in before["balance"]["target"].items())


def test_closure() -> None:
    one, two = problem(20), problem(20)
    with_closure = WeightBalancingDescent(one.net, 0.05)

    def closure() -> float:
        with_closure.zero_grad()
        loss = one.loss(one.net)
        loss.backward()
        return loss.item()

    returned = [with_closure.step(closure) for _ in range(5)]
    without = WeightBalancingDescent(two.net, 0.05)
    assert returned == run(without, two.net, two.loss, 5)
    assert without.step() is None
    assert unchanged(one.net, state(two.net)) is False  # one more step, with the old gradients


def test_learning_rate_and_decay_are_read_at_each_step() -> None:
    task = problem(21)
    optimizer = WeightBalancingDescent(task.net, 0.1, 1, 2, weight_decay=0.2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    start = imbalance(task.net, 1, 2, bias=True)
    for _ in range(4):
        run(optimizer, task.net, task.loss, 1)
        scheduler.step()
    assert optimizer.time == pytest.approx(0.1 + 0.1 + 0.05 + 0.05, rel=1e-14)
    assert deviation(task.net, 1, 2, start, math.exp(-0.2 * 0.3)) <= 1e-9
    optimizer.param_groups[0]["weight_decay"] = 0.0
    run(optimizer, task.net, task.loss, 1)
    assert deviation(task.net, 1, 2, start, math.exp(-0.2 * 0.3)) <= 1e-9


def test_zero_grad_and_param_groups() -> None:
    task = problem(22)
    optimizer = WeightBalancingDescent(trace(task.net), 0.1, 1.5, 3, weight_decay=0.2, tol=1e-4)
    [group] = optimizer.param_groups
    assert [id(w) for w in group["params"]] == [id(w) for w in task.net.parameters()]
    assert (group["lr"], group["weight_decay"], group["tol"]) == (0.1, 0.2, 1e-4)
    task.loss(task.net).backward()
    optimizer.zero_grad()
    assert all(w.grad is None for w in task.net.parameters())
    with pytest.raises(ValueError, match="the parameters are those of the model"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 2), (0.5, 0.5), (2, 2), (3, 3), (2, 1)])
def test_gradients_that_are_not_finite_are_named_and_nothing_changes(
    p: float, q: float, bad: float
) -> None:
    task = problem(23)
    optimizer = WeightBalancingDescent(task.net, 0.01, p, q, weight_decay=0.1)
    run(optimizer, task.net, task.loss, 2)
    before, time = state(task.net), optimizer.time
    for name in ("linear2.weight", "linear1.bias", "linear3.bias"):
        task.loss(task.net).backward()
        task.net.get_parameter(name).grad.view(-1)[1] = bad
        with pytest.raises(ValueError, match=rf"gradient of '{name}' has NaN or infinite"):
            optimizer.step()
        optimizer.zero_grad()
        assert unchanged(task.net, before)
        assert optimizer.time == time
    run(optimizer, task.net, task.loss, 2)  # and it goes on


def test_overflow_is_refused_and_nothing_changes() -> None:
    task = problem(23)
    optimizer = WeightBalancingDescent(task.net, 1e200, 2, 2)
    before = state(task.net)
    task.loss(task.net).backward()
    with pytest.raises(FloatingPointError, match=r"lr = 1e\+200 leaves the range"):
        optimizer.step()
    assert unchanged(task.net, before)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1.5, 1.5), (2, 1)])
def test_overflow_of_a_narrow_dtype_is_refused(p: float, q: float) -> None:
    """The step is taken in single precision, where nothing overflows."""
    net = problem(23).net.half()
    optimizer = WeightBalancingDescent(net, 10.0, p, q)
    before = state(net)
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 1e4)
    with pytest.raises(FloatingPointError, match="the range of the parameters' dtype"):
        optimizer.step()
    assert unchanged(net, before)
    assert optimizer.time == optimizer.deviation == 0


def test_no_step_writes_what_is_not_finite() -> None:
    """With steps far too long for q < p: refused or not, the weights stay finite."""
    refused = 0
    for seed in range(10):
        net = mlp([3, 4, 2], activation="leaky_relu", bias=True, dtype=torch.float64)
        rng = generator(seed)
        with torch.no_grad():
            for weight in net.parameters():
                weight.normal_(0, 1.5, generator=rng)
        x = torch.randn(8, 3, dtype=torch.float64, generator=rng)
        optimizer = WeightBalancingDescent(net, 5.0, 2, 0.25)
        try:
            run(optimizer, net, lambda net, x=x: (net(x) - 1).square().mean(), 3)
        except FloatingPointError:
            refused += 1
        assert all(bool(weight.isfinite().all()) for weight in net.parameters())
    assert refused > 0


@pytest.mark.parametrize(("p", "q"), [(1, 20), (2, 20), (20, 2)])
def test_small_float32_weights_at_large_exponents_take_steps(p: float, q: float) -> None:
    net = mlp([3, 4, 2])
    rng = generator(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.005, generator=rng)
    optimizer = WeightBalancingDescent(net, 1e-9, p, q)
    before = state(net)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=rng)
    optimizer.step()
    assert not unchanged(net, before)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), (1.1, 20), (3, 20), (20, 2), (1.5, 3)])
def test_imbalance_is_restored_from_far_away(p: float, q: float) -> None:
    """Somebody has rescaled the units by e^(6 N) behind the optimizer's back."""
    net = network([4, 8, 6, 3])
    wanted = imbalance(net, p, q)
    optimizer = WeightBalancingDescent(net, 0.0, p, q, tol=1e-9)
    rng = generator(1)
    draw = {"linear1": 8, "linear2": 6}
    far = {
        n: (6 * torch.randn(k, dtype=torch.float64, generator=rng)).exp() for n, k in draw.items()
    }
    before = copy.deepcopy(net)
    rescale(net, far, inplace=True)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert optimizer.deviation <= 1e-9
    assert deviation(net, p, q, wanted) <= 2e-9
    x = torch.randn(5, 4, dtype=torch.float64, generator=rng)
    torch.testing.assert_close(net(x), before(x), rtol=1e-9, atol=1e-12)


def test_what_cannot_be_restored_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_restoring, "_NEWTON_STEPS", 1)
    task = problem(23)
    optimizer = WeightBalancingDescent(task.net, 0.1, 3, 3, tol=1e-12)
    with pytest.warns(UserWarning, match=r"above tol = 1e-12: it could not be restored"):
        run(optimizer, task.net, task.loss, 1)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_settings_are_checked_at_each_step(name: str) -> None:
    task = problem(23)
    optimizer = WeightBalancingDescent(task.net, 0.01)
    optimizer.param_groups[0][name] = -1.0
    before = state(task.net)
    task.loss(task.net).backward()
    with pytest.raises(ValueError, match=f"^{name} must be finite and at least 0, got -1"):
        optimizer.step()
    assert unchanged(task.net, before)


def test_sparse_gradients_are_refused() -> None:
    task = problem(24)
    optimizer = WeightBalancingDescent(task.net, 0.01)
    for parameter in task.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    task.net.linear2.weight.grad = torch.zeros(6, 8).double().to_sparse()
    with pytest.raises(ValueError, match=r"gradient of 'linear2\.weight' is sparse"):
        optimizer.step()


def test_changed_parameter_lists_are_refused() -> None:
    task = problem(25)
    optimizer = WeightBalancingDescent(task.net, 0.01)
    task.loss(task.net).backward()
    task.net.linear2.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"requires_grad of 'linear2\.bias' was changed"):
        optimizer.step()
    task.net.linear2.bias.requires_grad_(True)
    optimizer.step()
    task.net.linear2.bias = nn.Parameter(torch.zeros(6).double())
    with pytest.raises(ValueError, match=r"'linear2\.bias' was added, removed or replaced"):
        optimizer.step()
    task.net.linear2.bias = None
    with pytest.raises(ValueError, match=r"'linear2\.bias' was added, removed or replaced"):
        optimizer.step()


def test_bad_arguments_are_named() -> None:
    net = network([3, 4, 2])
    for bad in (-0.1, math.nan, math.inf, "1", True):
        with pytest.raises(ValueError, match=r"^lr must be"):
            WeightBalancingDescent(net, bad)
    for bad in (0, -1e-3, math.nan, None):
        with pytest.raises(ValueError, match=r"^tol must be"):
            WeightBalancingDescent(net, 0.1, tol=bad)
    for bad in (0, -2, math.inf, True):
        with pytest.raises(ValueError, match=r"^p must be"):
            WeightBalancingDescent(net, 0.1, bad)
        with pytest.raises(ValueError, match=r"^q must be"):
            WeightBalancingDescent(net, 0.1, 2, bad)
    with pytest.raises(ValueError, match="weight_decay must be"):
        WeightBalancingDescent(net, 0.1, weight_decay=-1)
    with torch.no_grad():
        net.linear1.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"parameter 'linear1\.weight'"):
        WeightBalancingDescent(net, 0.1)


def test_networks_without_a_unit_to_balance_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no hidden unit to balance: there are none"):
        WeightBalancingDescent(mlp([3, 2]), 0.1)
    net = network([3, 4, 2])
    net.linear2.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no hidden unit to balance: requires_grad is False"):
        WeightBalancingDescent(net, 0.1)
    gelu = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(NotHomogeneousError):
        WeightBalancingDescent(gelu, 0.1)


def test_shared_parameters_keep_the_imbalance() -> None:
    first, last, shared = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 4)
    net = nn.Sequential(first, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), last)
    net[4].weight, net[4].bias = shared.weight, shared.bias
    net.double()
    before = imbalance(net, 2, 2, bias=True)
    assert list(before) == ["0"]
    optimizer = WeightBalancingDescent(net, 0.05)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator(1))
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    after = imbalance(net, 2, 2, bias=True)
    torch.testing.assert_close(after["0"], before["0"], rtol=0, atol=1e-5)  # its tol is 1e-6


def test_shared_parameters_may_leave_no_unit() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    with pytest.raises(ValueError, match="no hidden unit to balance: there are none"):
        WeightBalancingDescent(net, 0.1)

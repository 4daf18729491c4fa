"""The fix: against Algorithm 1 as printed, scipy's minimum, and norm and imbalance themselves."""

import copy
import functools
import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from architectures import Network
from architectures import networks as any_networks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import (
    EXPONENTS,
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
from torch import Tensor, nn

from balancing import (
    BalanceResult,
    NotHomogeneousError,
    RescalingGraph,
    balance,
    imbalance,
    lpq_norm,
    rescale,
    shares,
    trace,
)
from balancing.networks import he_, mlp

PAIRS = list(itertools.product(EXPONENTS, repeat=2))


def few(model: nn.Module | RescalingGraph, p: float, q: float, updates: int) -> BalanceResult:
    """So many updates, converged or not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        return balance(model, p, q, method="multiplicative", tol=1e-300, max_iter=updates)


def spread_factors(graph: RescalingGraph, seed: int, by: float = 1.0) -> dict[str, Tensor]:
    """Factors e^(by N) with Gaussian N for every hidden unit."""
    rng = generator(seed)
    return {
        name: (by * torch.randn(group.size, dtype=torch.float64, generator=rng)).exp()
        for name, group in graph.hidden.items()
    }


def increase(norms: Tensor) -> float:
    """Largest relative increase in a step."""
    return float((norms[1:] / norms[:-1] - 1).max()) if len(norms) > 1 else 0.0


def relative_imbalance(model: nn.Module | RescalingGraph, p: float, q: float) -> float:
    """Largest |in - out| / (in + out), from the shares and the imbalance of the library."""
    graph = trace(model)
    pi, worst = shares(graph, p, q), 0.0
    for name, difference in imbalance(graph, p, q).items():
        into = sum(
            edge.by_channel(pi[edge.weight]).sum((2, 3)).flatten() for edge in graph.incoming(name)
        )
        total = 2 * into - difference  # in + out = 2 in - (in - out)
        worst = max(worst, float((difference / total).abs().max()))
    return worst


def relative_change(before: nn.Module, after: nn.Module, shape: tuple[int, ...]) -> float:
    x = torch.randn(20, *shape, dtype=torch.float64, generator=generator(0))
    with torch.no_grad():
        old, new = before(x), after(x)
    # a ReLU network may be off on all inputs but for rounding
    return float((new - old).abs().max() / old.abs().max().clamp(min=1e-6))


# --- Algorithm 1 ---------------------------------------------------------------------------------


def algorithm1(net: nn.Sequential, p: float, q: float, updates: int) -> tuple[nn.Module, list]:
    """Algorithm 1 as printed, on the weights themselves."""
    net, norms = copy.deepcopy(net), [lpq_norm(net, p, q).item()]
    for _ in range(updates):
        pi, factors = shares(net, p, q), {}
        for here, above in itertools.pairwise(linears(net)):
            into, out = pi[f"{here}.weight"].sum(1), pi[f"{above}.weight"].sum(0)
            factors[here] = (out / into) ** (1 / (4 * max(p, q)))
        rescale(net, factors, inplace=True)
        norms.append(lpq_norm(net, p, q).item())
    return net, norms


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_iterates_are_those_of_algorithm_1(p: float, q: float) -> None:
    net = network([3, 5, 4, 6, 2], bias=True)
    expected, norms = algorithm1(net, p, q, 10)
    ours = few(net, p, q, 10)
    # ten updates of rounding 1e-16; a share is a power q/p <= 40 of a sum
    np.testing.assert_allclose(ours.norms, norms, rtol=1e-12, atol=0)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), value, rtol=1e-11, atol=0)


@settings(max_examples=30)
@given(networks(layers=(2, 5)), st.integers(0, 9), st.sampled_from([0.0, 1.0, 4.0]))
def test_norm_never_increases(net: nn.Sequential, shift: int, by: float) -> None:
    net = rescale(net, spread_factors(trace(net), shift, by))
    for p, q in PAIRS[shift::10]:
        assert increase(few(net, p, q, 15).norms) <= 1e-13


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_minimum_is_scipys(p: float, q: float) -> None:
    net = network([3, 4, 3, 2], seed=5)
    weights = [layer.weight.detach().abs().numpy() for layer in linears(net).values()]

    def log_norm(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """log ||W||_{p,q} of eq. (1) and its gradient, by hand."""
        a = [np.ones(3), np.exp(theta[:4]), np.exp(theta[4:]), np.ones(2)]
        pi = []
        for w, below, here in zip(weights, a, a[1:], strict=False):
            scaled = here[:, None] * w / below
            rows = (scaled**p).sum(1, keepdims=True)
            pi.append(scaled**p * rows ** (q / p - 1))
        total = sum(each.sum() for each in pi)
        slope = [one.sum(1) - two.sum(0) for one, two in itertools.pairwise(pi)]
        return math.log(total) / q, np.concatenate(slope) / total

    found = minimize(log_norm, np.zeros(7), jac=True, method="BFGS", options={"gtol": 1e-9})
    ours = balance(net, p, q, max_iter=10_000)
    assert ours.norms[-1].item() == pytest.approx(math.exp(found.fun), rel=1e-8, abs=0)
    theta = torch.cat([each.log() for each in ours.factors.values()]).numpy()
    np.testing.assert_allclose(theta, found.x, atol=1e-4)


@settings(max_examples=15)
@given(networks(layers=(2, 4)), exponents, exponents, seeds)
def test_every_start_leads_to_the_same_network(
    net: nn.Sequential, p: float, q: float, seed: int
) -> None:
    moved = rescale(net, spread_factors(trace(net), seed, 2.0))
    one, two = (balance(each, p, q, tol=1e-7, max_iter=20_000) for each in (net, moved))
    assert one.converged
    assert two.converged
    assert one.norms[-1].item() == pytest.approx(two.norms[-1].item(), rel=1e-9, abs=0)


@settings(max_examples=15)
@given(networks(layers=(1, 5)), exponents, exponents)
def test_result_of_a_multilayer_perceptron(net: nn.Sequential, p: float, q: float) -> None:
    before = state(net)
    result = balance(net, p, q, max_iter=20_000)
    assert unchanged(net, before)
    check_result(trace(net), result, p, q)
    first = next(iter(linears(net).values()))
    assert relative_change(net, result.model, (first.in_features,)) <= 1e-12


def check_result(graph: RescalingGraph, result: BalanceResult, p: float, q: float) -> None:
    """What holds of every converged result, measured by other functions of the library."""
    assert result.converged
    assert result.max_imbalance <= 1e-6
    assert result.norms.shape == (result.iterations + 1,)
    # sums of powers, and their roots, in another order
    assert result.norms[0].item() == pytest.approx(lpq_norm(graph, p, q).item(), rel=1e-12)
    after = RescalingGraph(result.model, graph.groups, graph.edges)
    assert result.norms[-1].item() == pytest.approx(lpq_norm(after, p, q).item(), rel=1e-12)
    assert increase(result.norms) <= 1e-13
    assert {n: f.shape for n, f in result.factors.items()} == {
        name: (group.size,) for name, group in graph.hidden.items()
    }
    rescaled = rescale(graph, result.factors)
    assert unchanged(result.model, state(rescaled))
    if not result.skipped:
        measured = relative_imbalance(after, p, q)
        assert measured == pytest.approx(result.max_imbalance, abs=1e-11)


@settings(max_examples=20)
@given(any_networks(), st.sampled_from([(2, 2), (1, 1), (1, 2), (2, 1), (0.5, 3), (6, 6)]))
def test_every_architecture(net: Network, pair: tuple[float, float]) -> None:
    p, q = pair
    x = torch.randn(3, *net.shape, dtype=torch.float64, generator=generator(0))
    graph = trace(net, x)
    moved = trace(rescale(graph, spread_factors(graph, 1)), x)
    one, two = (balance(each, p, q, max_iter=20_000) for each in (graph, moved))
    for before, result in ((graph, one), (moved, two)):
        check_result(before, result, p, q)
        assert result.check(x) <= 1e-12
        assert relative_change(net, result.model, net.shape) <= 1e-11
    assert one.norms[-1].item() == pytest.approx(two.norms[-1].item(), rel=1e-9, abs=0)


class Residual(nn.Module):
    """A tied stream, a grouped convolution, a concatenation and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.back = nn.Conv2d(6, 4, 1)
        self.self_loop = nn.Conv2d(4, 4, 1)
        self.side = nn.ConvTranspose2d(4, 2, 3, padding=1)
        self.last = nn.Linear(6 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.back(torch.relu(self.inner(torch.relu(h))))
        h = h + self.self_loop(h)
        return self.last(torch.cat([h, torch.relu(self.side(h))], 1).flatten(1))


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 2), (2, 1), (0.5, 6), (6, 0.5)])
def test_minimum_on_a_residual_network_is_scipys(p: float, q: float) -> None:
    torch.manual_seed(0)
    net = Residual().double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    graph = trace(net, x)
    assert list(graph.hidden) == ["stem", "inner", "side"]

    def log_norm(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Of the rescaled module; the slope is the imbalance, which has tests of its own."""
        a = torch.from_numpy(np.exp(theta)).split([4, 6, 2])
        moved = RescalingGraph(
            rescale(graph, dict(zip(graph.hidden, a, strict=True))), graph.groups, graph.edges
        )
        with torch.no_grad():
            norm = lpq_norm(moved, p, q).item()
        slope = torch.cat([each / norm**q for each in imbalance(moved, p, q).values()])
        return math.log(norm), slope.numpy()

    found = minimize(log_norm, np.zeros(12), jac=True, method="BFGS", options={"gtol": 1e-9})
    result = balance(graph, p, q, max_iter=20_000)
    assert result.norms[-1].item() == pytest.approx(math.exp(found.fun), rel=1e-8, abs=0)
    assert result.check(x) <= 1e-12


def test_one_hidden_unit_in_closed_form() -> None:
    net = network([3, 1, 2], seed=1)
    into, out = net.linear1.weight.detach(), net.linear2.weight.detach()
    for p in EXPONENTS:
        below, above = into.abs().pow(p).sum(), out.abs().pow(p).sum()
        result = balance(net, p, tol=1e-12)
        # a^p in = a^-p out
        factor = (above / below) ** (1 / (2 * p))
        torch.testing.assert_close(result.factors["linear1"], factor[None], rtol=1e-11, atol=0)
        norm = (2 * (above * below).sqrt()) ** (1 / p)
        assert result.norms[-1].item() == pytest.approx(norm.item(), rel=1e-13)


# --- the loop ------------------------------------------------------------------------------------


def test_stops_at_the_tolerance_and_counts() -> None:
    net = network([4, 6, 5, 2], bias=True)
    seen: list[tuple[int, float, float]] = []
    once = functools.partial(balance, method="multiplicative")
    result = once(net, tol=1e-4, callback=lambda *row: seen.append(row))
    count, norms, left = (list(column) for column in zip(*seen, strict=True))
    assert count == list(range(result.iterations + 1))
    assert norms == result.norms.tolist()
    assert left[-1] == result.max_imbalance <= 1e-4 < min(left[:-1])
    assert result.method == "multiplicative"
    # the rows of the first layer and, for p = q, the columns of the last are read once for all
    points = result.iterations + 1
    entries = {24: points + 1, 30: 2 * points, 10: points + 1}
    assert result.passes == sum(n * times for n, times in entries.items()) / sum(entries)
    assert result.skipped == {}
    assert repr(result) == (
        f"BalanceResult(multiplicative: norm {norms[0]:.6g} -> {norms[-1]:.6g}, "
        f"{result.iterations} iterations, imbalance {left[-1]:.1e}, converged, 0 units skipped)"
    )
    assert balance(result.model, tol=1e-4).iterations == 0
    looser = once(net, tol=1e-2)
    assert looser.iterations < result.iterations
    assert looser.norms.tolist() == norms[: looser.iterations + 1]


def test_methods() -> None:
    net = network([4, 6, 5, 2])
    auto, fast, plain = (
        balance(net, 1, 2, method=m, tol=1e-9) for m in ("auto", "two-level", "multiplicative")
    )
    assert auto.method == fast.method == "two-level"
    assert auto.norms.tolist() == fast.norms.tolist()
    assert plain.method == "multiplicative"
    assert plain.iterations > 5 * fast.iterations
    for group, factors in fast.factors.items():
        torch.testing.assert_close(factors, plain.factors[group], rtol=1e-7, atol=0)


def test_unconverged_fix_warns_and_returns_what_it_has() -> None:
    net = network([4, 6, 5, 4, 2], bias=True)
    with pytest.warns(UserWarning, match=r"3 iterations \(max_iter\).*imbalance") as caught:
        result = balance(net, 2, 1, tol=1e-9, max_iter=3)
    assert caught[0].filename == __file__
    assert f"{result.max_imbalance:.2g}, above tol = 1e-09" in str(caught[0].message)
    assert (result.converged, result.iterations) == (False, 3)
    assert "not converged" in repr(result)
    assert result.norms[3] < result.norms[0]
    assert relative_change(net, result.model, (4,)) <= 1e-13


def test_no_iteration_changes_nothing() -> None:
    net = network([4, 6, 2], bias=True)
    with pytest.raises(UserWarning, match="0 iterations"):  # warnings are errors here
        balance(net, max_iter=0, inplace=True)
    with pytest.warns(UserWarning, match="0 iterations"):
        result = balance(net, max_iter=0)
    assert unchanged(result.model, state(net))
    assert result.norms.tolist() == [pytest.approx(lpq_norm(net).item(), rel=1e-14)]


def test_copy_and_in_place_agree() -> None:
    net = network([4, 6, 5, 2], bias=True)
    before, parameters = state(net), list(net.parameters())
    copied = balance(net, 1, 2)
    assert copied.model is not net
    assert unchanged(net, before)
    result = balance(net, 1, 2, inplace=True)
    assert result.model is net
    assert unchanged(net, state(copied.model))
    # an optimizer that holds the parameters goes on working
    pairs = zip(net.parameters(), parameters, strict=True)
    assert all(now is then and now.requires_grad and now.is_leaf for now, then in pairs)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_the_callback_raises_passes_and_leaves_the_model(error: type[BaseException]) -> None:
    net = network([4, 6, 5, 2])
    before = state(net)

    def stop(iteration: int, norm: float, left: float) -> None:
        if iteration == 2:
            raise error

    with pytest.raises(error):
        balance(net, inplace=True, callback=stop)
    assert unchanged(net, before)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    net = network([4, 6, 2])
    balance(net)
    assert capsys.readouterr() == ("", "")
    balance(net, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "balance" in err


def test_a_long_fix_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    balance(network([4, 6, 2]), progress=True)
    assert "imbalance=" in capsys.readouterr().err


# --- the check of the function -------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_check_measures_the_change_of_the_function(inplace: bool) -> None:
    net = network([4, 6, 5, 2], bias=True)
    twin = copy.deepcopy(net)
    result = balance(net, inplace=inplace)
    x = torch.randn(9, 4, dtype=torch.float64, generator=generator(1))
    with torch.no_grad():
        old, new = twin(x), result.model(x)
        expected = float((new - old).abs().max() / old.abs().max())
        assert 0 < expected < 1e-14
        assert result.check(x) == expected
        result.model.linear2.weight[1] = 0
        changed = float((result.model(x) - old).abs().max() / old.abs().max())
        assert result.check(x) == changed > 0.01


def test_check_with_dropout_and_several_inputs_and_outputs() -> None:
    class TwoByTwo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 5), nn.Linear(3, 5)
            self.three, self.four = nn.Linear(5, 1), nn.Linear(5, 2)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            h = self.dropout(torch.relu(self.one(x) + self.two(y)))
            return self.three(h), self.four(h)

    net = TwoByTwo().double().train()
    result = balance(net)
    x, y = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert result.check(x, y) <= 1e-12
    assert result.model.training
    with torch.no_grad():
        result.model.four.bias.add_(1)
    assert result.check(x, y) > 0.1


def test_check_of_a_network_that_is_zero() -> None:
    net = network([3, 4, 2], bias=True)
    with torch.no_grad():
        net.linear2.weight.zero_()
        net.linear2.bias.zero_()
    result = balance(net)
    assert result.check(torch.ones(2, 3, dtype=torch.float64)) == 0
    with torch.no_grad():
        result.model.linear2.bias.add_(1)
    assert result.check(torch.ones(2, 3, dtype=torch.float64)) == math.inf


# --- dead units ----------------------------------------------------------------------------------


def dead_by_hand(net: nn.Sequential) -> dict[str, list[int]]:
    """Units that no path of nonzero weights leads through, by walking all paths."""
    weights = [layer.weight.detach() != 0 for layer in linears(net).values()]
    forward, backward = [torch.ones(weights[0].shape[1], dtype=torch.bool)], []
    for w in weights:
        forward.append((w & forward[-1]).any(1))
    reached = torch.ones(len(weights[-1]), dtype=torch.bool)
    for w in reversed(weights):
        backward.insert(0, reached)
        reached = (w & reached[:, None]).any(0)
    dead = {
        name: (~(into & out)).nonzero().flatten().tolist()
        for name, into, out in zip(hidden_sizes(net), forward[1:], backward, strict=False)
    }
    return {name: units for name, units in dead.items() if units}


@settings(max_examples=60)
@given(networks(layers=(2, 5), zeros=0.6), exponents, exponents)
def test_dead_units_keep_their_factor_and_are_reported(
    net: nn.Sequential, p: float, q: float
) -> None:
    result = balance(net, p, q, max_iter=30_000)
    assert {name: units.tolist() for name, units in result.skipped.items()} == dead_by_hand(net)
    for name, units in result.skipped.items():
        assert result.factors[name][units].tolist() == [1.0] * len(units)
    graph = trace(net)
    check_result(graph, result, p, q)
    live = {name: torch.ones(n, dtype=torch.bool) for name, n in hidden_sizes(net).items()}
    for name, units in result.skipped.items():
        live[name][units] = False
    pi = shares(result.model, p, q)
    for here, above in itertools.pairwise(linears(net)):
        into, out = pi[f"{here}.weight"].sum(1), pi[f"{above}.weight"].sum(0)
        left = ((into - out).abs() / (into + out))[live[here]]
        assert (left <= 1.1e-6).all()


@pytest.mark.parametrize(("p", "q"), PAIRS[::5])
def test_rows_and_columns_of_zeros(p: float, q: float) -> None:
    net = network([3, 5, 4, 2], bias=True)
    with torch.no_grad():
        net.linear1.weight[1] = 0  # linear1[1] reads nothing
        net.linear2.weight[:, 2] = 0  # nothing reads linear1[2]
        net.linear3.weight[:, 3] = 0
        net.linear2.weight[:3, 4] = 0  # linear1[4] is read by linear2[3] only, which is dead
    result = balance(net, p, q, max_iter=20_000)
    assert {k: v.tolist() for k, v in result.skipped.items()} == {
        "linear1": [1, 2, 4],
        "linear2": [3],
    }
    assert "4 units skipped" in repr(result)
    check_result(trace(net), result, p, q)
    assert relative_change(net, result.model, (3,)) <= 1e-12


def test_a_cycle_that_no_input_reaches_is_dead() -> None:
    """Stream and branch feed each other: each has weights on both sides, and no minimizer."""

    class Cycle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
            self.up, self.down = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.last(h + self.down(torch.relu(self.up(h))))

    torch.manual_seed(0)
    net = Cycle().double()
    with torch.no_grad():
        net.stem.weight[0] = 0
        net.up.weight[0] = 0
        net.up.weight[0, 0] = 1.0  # stem[0] <-> up[0]
        net.down.weight[:, 0] = 0
        net.down.weight[0] = 0
        net.down.weight[0, 0] = 2.0
    for p, q in ((2, 2), (1, 2), (2, 1)):
        result = balance(net, p, q)
        assert {k: v.tolist() for k, v in result.skipped.items()} == {"stem": [0], "up": [0]}
        check_result(trace(net), result, p, q)


def test_a_sum_that_ties_backwards_is_reached() -> None:
    """The input reaches the stream, and what reads it first, through a later layer alone."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
            self.later, self.end = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
            self.head = nn.Linear(2, 1, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.stem(x))
            return self.head(torch.relu(self.inner(h))), self.end(h + self.later(x))

    torch.manual_seed(0)
    net = Late().double()
    with torch.no_grad():
        net.stem.weight.zero_()
    result = balance(net)
    assert result.skipped == {}
    check_result(trace(net), result, 2, 2)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_layers_of_zeros(p: float, q: float) -> None:
    for zeroed in (["linear2"], ["linear1", "linear2", "linear3"]):
        net = network([3, 4, 3, 2], bias=True)
        with torch.no_grad():
            for name in zeroed:
                net.get_submodule(name).weight.zero_()
        result = balance(net, p, q)
        assert (result.converged, result.iterations, result.max_imbalance) == (True, 0, 0.0)
        assert sum(map(len, result.skipped.values())) == 7
        assert unchanged(result.model, state(net))
        assert torch.isfinite(result.norms).all()


def test_networks_without_hidden_units() -> None:
    result = balance(network([3, 2]))
    assert (result.converged, result.iterations, result.factors) == (True, 0, {})
    nothing = balance(nn.Sequential(nn.ReLU(), nn.Flatten()))
    assert nothing.norms.tolist() == [0.0]
    assert nothing.passes == 0


# --- huge and tiny numbers -----------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.integers(-150, 150), min_size=15, max_size=15),
    st.sampled_from([0.5, 1, 2, 6, 20, 100]),
)
def test_one_layer_of_hidden_units_with_spread_weights_in_closed_form(
    powers: list[int], p: float
) -> None:
    """For p = q each unit adds 2 sqrt(in out), whatever the others do."""
    net = network([3, 3, 2])
    with torch.no_grad():
        scales = torch.tensor([10.0**k for k in powers], dtype=torch.float64)
        net.linear1.weight.mul_(scales[:9].view(3, 3))
        net.linear2.weight.mul_(scales[9:].view(2, 3))
    into = torch.logsumexp(p * net.linear1.weight.detach().abs().log(), 1)
    out = torch.logsumexp(p * net.linear2.weight.detach().abs().log(), 0)
    expected = torch.logsumexp(math.log(2) + (into + out) / 2, 0) / p
    result = balance(net, p)
    assert result.converged
    # logarithms of up to 100 * 345, resolved to 4e-12
    assert result.norms[-1].log().item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-11)
    torch.testing.assert_close(
        result.factors["linear1"].log(), (out - into) / (2 * p), rtol=1e-6, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:[0-9]+ entries of parameter.* become 0:UserWarning")
@pytest.mark.parametrize("decades", [300, 70])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 2), (1, 2), (2, 1), (0.5, 20), (20, 20), (6, 3)])
def test_weights_spread_over_many_decades(p: float, q: float, decades: int) -> None:
    for seed in range(3):
        net = network([4, 5, 6, 5, 3], seed)
        with torch.no_grad():
            for weight in net.parameters():
                part = torch.rand(weight.shape, dtype=torch.float64, generator=generator(seed))
                weight.mul_(10 ** (decades * (part - 0.5)))
        result = balance(net, p, q)
        assert result.converged
        norm = lpq_norm(result.model, p, q).item()
        assert result.norms[-1].item() == pytest.approx(norm, rel=1e-11)
        assert increase(result.norms) <= 1e-12  # logarithms of up to 20 * 345
        if decades == 70:  # with 300 the outputs themselves are infinite
            x = torch.randn(5, 4, dtype=torch.float64, generator=generator(0))
            assert result.check(x) < 1e-12
        a = [torch.ones(4).double(), *result.factors.values(), torch.ones(3).double()]
        weights = zip(net.parameters(), result.model.parameters(), strict=True)
        for (old, new), before, after in zip(weights, a[:-1], a[1:], strict=True):
            expected = old.abs().log() + after.log()[:, None] - before.log()
            kept = expected > -700  # smaller ones are lost, which is warned of
            close = (new.abs().log() - expected)[kept].abs()
            assert close.max() < 1e-12  # logarithms of up to 345, resolved to 6e-14


@pytest.mark.parametrize("scale", [1e-150, 1e-40, 1e40, 1e150])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (2, 2), (1, 2), (2, 1), (20, 20), (20, 6)])
def test_a_common_scale_changes_nothing_but_the_norm(p: float, q: float, scale: float) -> None:
    """Where |W|^p leaves the range of float64, logarithms take over with the same iterates."""
    net = network([4, 6, 5, 3], seed=3, zeros=0.2)
    one = few(net, p, q, 40)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(scale)
    other = few(net, p, q, 40)
    torch.testing.assert_close(other.norms / scale, one.norms, rtol=1e-11, atol=0)
    for name, factor in one.factors.items():
        torch.testing.assert_close(other.factors[name], factor, rtol=1e-10, atol=0)


def test_widely_rescaled_channels_of_a_convolution() -> None:
    torch.manual_seed(0)
    net = Residual().double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    graph = trace(net, x)
    moved = rescale(graph, spread_factors(graph, 0, by=40.0))  # factors of e^40
    for p, q in ((2, 2), (6, 6), (1, 2)):
        one, two = (balance(g, p, q, max_iter=5000) for g in (graph, trace(moved, x)))
        assert one.norms[-1].item() == pytest.approx(two.norms[-1].item(), rel=1e-9)


def test_he_network_at_large_exponents() -> None:
    net = he_(mlp([30, 40, 20, 5], dtype=torch.float64), generator=generator(0))
    for p, q in ((100, 100), (1, 100), (100, 20), (0.1, 0.1)):
        result = balance(net, p, q, max_iter=3000)
        check_result(trace(net), result, p, q)


def test_factors_beyond_float64_are_refused() -> None:
    scales = [1e-150] * 5 + [1e150] * 5
    layers = [nn.Linear(1, 1, bias=False) for _ in scales]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer, scale in zip(layers, scales, strict=True):
            layer.weight.fill_(scale)
    before = state(net)
    with pytest.raises(ValueError, match="group '2' leave the range of float64"):
        balance(net, inplace=True)
    assert unchanged(net, before)


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "resolution"),
    [(torch.float32, 6e-8), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_lower_precision(dtype: torch.dtype, resolution: float, inplace: bool) -> None:
    net = network([6, 8, 7, 3], bias=True, dtype=dtype)
    twin = network([6, 8, 7, 3], bias=True)
    twin.load_state_dict(net.state_dict())
    result, exact = balance(net, 1, 2, inplace=inplace), balance(twin, 1, 2)
    assert result.norms.dtype == torch.float64
    assert result.norms.tolist() == exact.norms.tolist()  # factors and sums are float64
    for name, factor in exact.factors.items():
        assert torch.equal(result.factors[name], factor)
    for name, value in exact.model.named_parameters():
        found = result.model.get_parameter(name)
        assert found.dtype == dtype
        assert torch.equal(found, value.to(dtype))  # rounded once
    x = torch.randn(9, 6, generator=generator(0)).to(dtype)
    assert 0 < result.check(x) <= 30 * resolution


def test_parameters_of_different_dtypes() -> None:
    net = network([6, 8, 7, 3], bias=True)
    net.linear2.float()
    net.linear3.weight.data = net.linear3.weight.data.bfloat16()
    dtypes = {name: value.dtype for name, value in net.named_parameters()}
    twin = copy.deepcopy(net).double()
    result, exact = balance(net, 2, 1), balance(twin, 2, 1)
    assert {name: value.dtype for name, value in result.model.named_parameters()} == dtypes
    assert result.norms.tolist() == exact.norms.tolist()
    for name, value in exact.model.named_parameters():
        assert torch.equal(result.model.get_parameter(name), value.to(dtypes[name]))


def test_parameters_that_require_no_gradient_are_rescaled_too() -> None:
    net = network([4, 6, 5, 2], bias=True)
    expected = balance(net)
    net.linear2.requires_grad_(False)
    result = balance(net)
    assert unchanged(result.model, state(expected.model))
    assert {n for n, w in result.model.named_parameters() if not w.requires_grad} == {
        "linear2.weight",
        "linear2.bias",
    }
    assert balance(net, inplace=True).model.linear1.weight.requires_grad


def test_the_result_can_be_trained() -> None:
    model = balance(network([4, 6, 2])).model
    model(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    assert all(weight.is_leaf and weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("tied", ["weight", "bias", "both"])
def test_shared_parameters_keep_one_scale(tied: str) -> None:
    layers = [m for n in (3, 4, 4) for m in (nn.Linear(n, 4), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(4, 2)).double()
    for kind in ("weight", "bias") if tied == "both" else (tied,):
        setattr(net[4], kind, getattr(net[2], kind))
    result = balance(net)
    assert result.converged
    assert result.check(torch.randn(5, 3, dtype=torch.float64, generator=generator(1))) <= 1e-13
    if tied != "weight":
        assert result.model[4].bias is result.model[2].bias


def test_graph_with_a_boundary() -> None:
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)]
    net = nn.Sequential(*layers).double()
    with pytest.raises(NotHomogeneousError, match="Tanh"):
        balance(net)
    graph = trace(net, on_unsupported="freeze")
    result = balance(graph)
    assert list(result.factors) == ["2"]
    assert result.check(torch.randn(5, 3, dtype=torch.float64)) <= 1e-13
    assert balance(graph, inplace=True).model is net


def test_inputs_of_different_widths_are_one_boundary() -> None:
    """The network's input is read once as a channel and once as nine pixels."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.flat = nn.Conv2d(1, 2, 1), nn.Linear(9, 3)
            self.one, self.two = nn.Linear(18, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            left = self.one(torch.relu(self.conv(x)).flatten(1))
            return left + self.two(torch.relu(self.flat(x.flatten(1))))

    torch.manual_seed(0)
    x = torch.randn(3, 1, 3, 3, dtype=torch.float64)
    graph = trace(Views().double(), x)
    result = balance(graph, 1, 2)
    check_result(graph, result, 1, 2)
    assert result.check(x) <= 1e-13


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["linear1.weight", "linear3.weight", "linear1.bias"])
@pytest.mark.parametrize("inplace", [False, True])
def test_nan_or_infinite_parameter_is_named(name: str, bad: float, inplace: bool) -> None:
    net = network([3, 4, 5, 2], bias=True)
    with torch.no_grad():
        net.get_parameter(name).view(-1)[1] = bad
    before = state(net)
    with pytest.raises(ValueError, match=rf"parameter '{name}' has 1 NaN or infinite"):
        balance(net, inplace=inplace)
    assert unchanged(net, before)


def test_a_bias_that_would_overflow_is_named() -> None:
    net = network([3, 4, 2], bias=True, dtype=torch.float32)
    with torch.no_grad():
        net.linear1.weight.mul_(1e-20)
        net.linear2.weight.mul_(1e20)
        net.linear1.bias.fill_(1e30)
    before = state(net)
    with pytest.raises(ValueError, match=r"'linear1\.bias' overflow torch\.float32"):
        balance(net, inplace=True)
    assert unchanged(net, before)


BAD: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "p": (lambda net: balance(net, 0), "^p must be finite and above 0, got 0"),
    "p NaN": (lambda net: balance(net, math.nan), "^p must be finite and above 0, got nan"),
    "p text": (lambda net: balance(net, "2"), "^p must be finite and above 0, got '2'"),
    "q": (lambda net: balance(net, 2, -1), "^q must be finite and above 0, got -1"),
    "q infinite": (lambda net: balance(net, 2, math.inf), "^q must be finite and above 0, got inf"),
    "method": (
        lambda net: balance(net, method="newton"),
        "^method must be one of auto, two-level, multiplicative, got 'newton'",
    ),
    "tol": (lambda net: balance(net, tol=0), "^tol must be a finite number above 0, got 0"),
    "tol NaN": (lambda net: balance(net, tol=math.nan), "^tol must be .* got nan"),
    "tol bool": (lambda net: balance(net, tol=True), "^tol must be .* got True"),
    "tol None": (lambda net: balance(net, tol=None), "^tol must be .* got None"),
    "max_iter": (lambda net: balance(net, max_iter=-1), "^max_iter must be .* got -1"),
    "max_iter float": (lambda net: balance(net, max_iter=10.0), "^max_iter must be .* got 10.0"),
    "max_iter bool": (lambda net: balance(net, max_iter=True), "^max_iter must be .* got True"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named_and_change_nothing(case: str) -> None:
    call, message = BAD[case]
    net = network([3, 4, 2])
    before = state(net)
    with pytest.raises(ValueError, match=message):
        call(net)
    assert unchanged(net, before)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module or a RescalingGraph"):
        balance(torch.ones(3))


# --- found by an audit ---------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(1e30, 1e-90), (1e40, 1e-80), (1e-40, 1e80)])
def test_factors_larger_than_any_weight(low: float, high: float) -> None:
    """W a_i leaves float64 here, W a_i / a_j does not."""
    net = network([1] * 11)
    with torch.no_grad():
        for k, weight in enumerate(net.parameters()):
            weight.fill_(low if k < 5 else high)
    result = balance(net, max_iter=5000, tol=1e-9)
    for weight in result.model.parameters():
        assert weight.item() == pytest.approx((low * high) ** 0.5, rel=1e-6)
    assert result.check(torch.ones(1, 1, dtype=torch.float64)) < 1e-12


def test_check_says_when_an_output_became_nan() -> None:
    net = network([1, 2, 1]).half()
    with torch.no_grad():
        net.linear1.weight.fill_(1)
        net.linear2.weight.copy_(torch.tensor([[1e4, -1e4]]))
    result = balance(net)  # its hidden units overflow
    assert math.isnan(result.check(torch.full((2, 1), 1000.0).half()))


def test_check_without_samples_and_with_named_outputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network([3, 4, 2])

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.body(x)}

    net = Named()
    result = balance(net)
    assert result.check(torch.zeros(0, 3).double()) == 0
    assert 0 < result.check(torch.randn(5, 3).double()) < 1e-12


def test_module_with_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.alias = self.first
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.alias(x).relu())

    assert balance(Twice().double()).check(torch.randn(5, 3).double()) < 1e-12


@pytest.mark.parametrize("kind", [np.int64, np.float32, torch.tensor])
def test_numbers_of_numpy_and_torch(kind: Callable[[int], float]) -> None:
    net = network([3, 4, 2])
    expected = balance(net, 2, 1, max_iter=5000)
    assert torch.equal(balance(net, kind(2), kind(1), max_iter=5000).norms, expected.norms)


def test_entries_that_become_zero_are_warned_of() -> None:
    net = network([2, 3, 1], bias=True).bfloat16()
    with torch.no_grad():
        net.linear1.weight.mul_(1e18)
        net.linear1.bias.fill_(1e-33)
    with pytest.warns(UserWarning, match=r"3 entries of parameter 'linear1\.bias' become 0"):
        balance(net)


def test_check_refuses_to_compare_with_a_network_that_has_changed() -> None:
    net, x = network([4, 6, 2]), torch.randn(3, 4, dtype=torch.float64, generator=generator(0))
    copied, inplace = balance(net), balance(copy.deepcopy(net), inplace=True)
    assert copied.check(x) <= 1e-14
    with torch.no_grad():
        net.linear1.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"'linear1\.weight' of the network before"):
        copied.check(x)
    assert inplace.check(x) <= 1e-14  # it has kept the weights


def test_under_inference_mode() -> None:
    with torch.inference_mode():
        net = network([4, 6, 2])
        result = balance(net)
        assert result.check(torch.ones(3, 4, dtype=torch.float64)) <= 1e-14
    assert balance(net, tol=1e-9).converged

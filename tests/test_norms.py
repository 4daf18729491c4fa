"""Norms, shares and imbalance against plain loops over units."""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    EXPONENTS,
    exponents,
    linears,
    network,
    networks,
    state,
    unchanged,
)
from torch import nn

from balancing import imbalance, lpq_norm, rescale, shares, trace

PAIRS = list(itertools.product(EXPONENTS, repeat=2))
# A sum of at most 30 terms raised to at most q/p = 40: the rounding of either side stays well
# below 1e-12 relative.
RTOL = 1e-12


def rows_by_hand(net: nn.Sequential, bias: bool) -> dict[str, list[list[float]]]:
    """Layer -> rows of |w|, with |b| as the last entry of a row if biases are counted."""
    rows = {}
    for name, layer in linears(net).items():
        rows[name] = [[abs(w) for w in row] for row in layer.weight.tolist()]
        if bias and layer.bias is not None:
            for row, b in zip(rows[name], layer.bias.tolist(), strict=True):
                row.append(abs(b))
    return rows


def shares_by_hand(
    net: nn.Sequential, p: float, q: float, bias: bool
) -> dict[str, list[list[float]]]:
    """Layer -> |W_ij|^p ||w_i||_p^(q-p), zero in rows of zeros: eq. (1) and Algorithm 1."""
    result = {}
    for name, rows in rows_by_hand(net, bias).items():
        result[name] = []
        for row in rows:
            norm = sum(w**p for w in row) ** (1 / p)
            result[name].append([w**p * norm ** (q - p) if norm else 0.0 for w in row])
    return result


@settings(max_examples=8)
@given(networks(zeros=0.3), st.booleans())
def test_against_a_loop_over_units(net: nn.Sequential, bias: bool) -> None:
    graph = trace(net)
    for p, q in PAIRS:
        by_hand = shares_by_hand(net, p, q, bias)
        ours = shares(graph, p, q, bias=bias)
        for name, layer in linears(net).items():
            expected = torch.tensor(by_hand[name], dtype=torch.float64)
            fan_in = layer.in_features
            torch.testing.assert_close(
                ours[f"{name}.weight"], expected[:, :fan_in], rtol=RTOL, atol=0
            )
            counted = bias and layer.bias is not None
            assert (f"{name}.bias" in ours) == counted
            if counted:
                torch.testing.assert_close(
                    ours[f"{name}.bias"], expected[:, fan_in], rtol=RTOL, atol=0
                )

        layers = list(linears(net))
        flows = imbalance(graph, p, q, bias=bias)
        assert list(flows) == layers[:-1]
        for here, above in itertools.pairwise(layers):
            for i, row in enumerate(by_hand[here]):
                into = sum(row)
                out = sum(row_above[i] for row_above in by_hand[above])
                # relative to the two sums, since their difference may cancel
                assert abs(flows[here][i] - (into - out)) <= RTOL * (into + out)


@settings(max_examples=8)
@given(networks(zeros=0.3))
def test_norm_against_a_loop_and_as_the_sum_of_shares(net: nn.Sequential) -> None:
    graph = trace(net)
    for p, q in PAIRS:
        norm = lpq_norm(graph, p, q).item()
        by_hand = sum(
            sum(w**p for w in row) ** (q / p)
            for rows in rows_by_hand(net, bias=False).values()
            for row in rows
        ) ** (1 / q)
        assert norm == pytest.approx(by_hand, rel=RTOL, abs=0)
        total = sum(float(each.sum()) for each in shares(graph, p, q).values())
        assert total == pytest.approx(norm**q, rel=1e-11, abs=0)  # norm**q: 20 times the rounding


@settings(max_examples=15)
@given(networks(layers=(2, 3), max_width=4), exponents, exponents)
def test_imbalance_is_the_slope_of_the_norm_under_rescaling(
    net: nn.Sequential, p: float, q: float
) -> None:
    h = 1e-5  # truncation m^2 h^2 / 6 <= 7e-9 for m = 20, rounding 1e-16 / h = 1e-11
    power = lpq_norm(net, p, q).item() ** q
    for name, values in imbalance(net, p, q).items():
        for i, value in enumerate(values.tolist()):
            moved = []
            for sign in (1, -1):
                factor = torch.ones(len(values), dtype=torch.float64)
                factor[i] = math.exp(sign * h)
                moved.append(lpq_norm(rescale(net, {name: factor}), p, q).item() ** q)
            slope = (moved[0] - moved[1]) / (2 * h)
            assert abs(slope - q * value) <= 1e-6 * q * power


def test_q_defaults_to_p() -> None:
    net = network([3, 4, 2])
    assert lpq_norm(net, 3) == lpq_norm(net, 3, 3) != lpq_norm(net, 3, 2)
    assert torch.equal(imbalance(net, 3)["linear1"], imbalance(net, 3, 3)["linear1"])
    assert torch.equal(shares(net, 3)["linear1.weight"], shares(net, 3, 3)["linear1.weight"])
    assert lpq_norm(net) == lpq_norm(net, 2, 2)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_rows_of_zeros_have_no_share_and_no_nan(p: float, q: float) -> None:
    net = network([3, 4, 2], bias=True)
    with torch.no_grad():
        net.linear1.weight[1] = 0
        net.linear1.bias[1] = 0
        net.linear2.weight[:, 1] = 0
    for bias in (False, True):
        ours = shares(net, p, q, bias=bias)
        assert ours["linear1.weight"][1].tolist() == [0, 0, 0]
        assert imbalance(net, p, q, bias=bias)["linear1"][1] == 0
        assert all(torch.isfinite(each).all() for each in ours.values())
    lpq_norm(net, p, q).backward()
    for name in ("linear1.weight", "linear2.weight"):
        assert torch.isfinite(net.get_parameter(name).grad).all()


def test_network_of_zeros_has_norm_zero() -> None:
    net = network([3, 4, 2], zeros=1.0)
    for p, q in PAIRS:
        assert lpq_norm(net, p, q) == 0
        assert imbalance(net, p, q)["linear1"].tolist() == [0] * 4


def norm_in_decimal(net: nn.Sequential, p: int, q: int) -> Decimal:
    """The norm in decimal arithmetic with 60 digits, which neither overflows nor underflows."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**9, -(10**9)
        total = Decimal(0)
        for rows in rows_by_hand(net, bias=False).values():
            for row in rows:
                power = sum((Decimal(w) ** p for w in row), Decimal(0))
                total += power ** (Decimal(q) / Decimal(p)) if power else Decimal(0)
        return total ** (Decimal(1) / Decimal(q))


@given(
    st.lists(st.integers(-150, 150), min_size=10, max_size=10),
    st.sampled_from([1, 2, 6, 20, 100]),
    st.sampled_from([1, 2, 6, 20, 100]),
)
def test_huge_and_tiny_weights(powers: list[int], p: int, q: int) -> None:
    net = network([3, 2, 2])
    with torch.no_grad():
        scales = torch.tensor([10.0**k for k in powers], dtype=torch.float64)
        net.linear1.weight.mul_(scales[:6].view(2, 3))
        net.linear2.weight.mul_(scales[6:].view(2, 2))
    expected = float(norm_in_decimal(net, p, q))
    assert lpq_norm(net, p, q).item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("p", "q"), [(0.5, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1.5), (6, 20)])
def test_norm_is_differentiable(p: float, q: float) -> None:
    net = network([3, 3, 2])
    # gradcheck moves the parameters in place and compares autograd with central differences
    parameters = tuple(net.parameters())
    assert torch.autograd.gradcheck(lambda *_: lpq_norm(net, p, q), parameters)


def test_float32_weights_are_summed_in_float64() -> None:
    net = network([40, 30, 5], dtype=torch.float32, bias=True)
    twin = network([40, 30, 5], bias=True)
    twin.load_state_dict(net.state_dict())
    for p, q in PAIRS:
        for function in (shares, imbalance):
            ours, exact = (function(each, p, q, bias=True) for each in (net, twin))
            for name in exact:
                assert ours[name].dtype == torch.float64
                assert torch.equal(ours[name], exact[name])
        assert lpq_norm(net, p, q).dtype == torch.float64
        assert torch.equal(lpq_norm(net, p, q), lpq_norm(twin, p, q))


def test_graph_is_accepted_and_read_anew() -> None:
    net = network([3, 4, 2])
    graph = trace(net)
    before = lpq_norm(graph)
    with torch.no_grad():
        net.linear1.weight.mul_(2)
    assert lpq_norm(graph) == lpq_norm(net) != before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["linear1.weight", "linear2.weight"])
@pytest.mark.parametrize("p", EXPONENTS)
def test_nan_or_infinite_weight_is_named(p: float, name: str, bad: float) -> None:
    net = network([3, 4, 2])
    with torch.no_grad():
        net.get_parameter(name)[1, 0] = bad
    before = state(net)
    for function in (lpq_norm, shares, imbalance):
        with pytest.raises(ValueError, match=rf"parameter '{name}'"):
            function(net, p)
    assert unchanged(net, before)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_nan_bias_is_named_where_biases_count(p: float) -> None:
    net = network([3, 4, 2], bias=True)
    with torch.no_grad():
        net.linear1.bias[2] = math.nan
    for function in (shares, imbalance):
        with pytest.raises(ValueError, match=r"parameter 'linear1\.bias'"):
            function(net, p, bias=True)


@pytest.mark.parametrize("bad", [0, -1, -0.5, math.nan, math.inf, True, "2", [2]])
@pytest.mark.parametrize("function", [lpq_norm, shares, imbalance])
def test_bad_exponent_is_named(function: object, bad: object) -> None:
    net = network([3, 4, 2])
    before = state(net)
    with pytest.raises(ValueError, match=r"^p must be .*got"):
        function(net, bad)
    with pytest.raises(ValueError, match=r"^q must be .*got"):
        function(net, 2, bad)
    assert unchanged(net, before)

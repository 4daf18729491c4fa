"""What each layer type means for the graph, against invariants written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from balancing import (
    NotHomogeneousError,
    layer_invariants,
    matrix_invariants,
    trace,
    unit_invariants,
)


class Functional(nn.Module):
    """Layers for tests that only differ in what lies between them."""

    def __init__(self, forward: Callable[[Functional, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.same = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.Linear(3 * 16, 5), nn.Linear(5, 5)
        self.last, self.gelu = nn.Linear(5, 2), nn.GELU()
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def squares(weight: Tensor, *dims: int) -> Tensor:
    return weight.detach().double().square().sum(dims)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, 1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], 48),
        lambda x: x.reshape((x.size(0), -1)),
    ],
)
def test_columns_behind_a_flatten_belong_to_channels(flatten: Callable[[Tensor], Tensor]) -> None:
    net = Functional(lambda n, x: n.last(F.relu(n.first(flatten(F.relu(n.conv(x)))))))
    found = unit_invariants(net)
    into = squares(net.conv.weight, 1, 2, 3) + net.conv.bias.detach().double() ** 2
    # channel c owns columns 16 c to 16 c + 15: its 4 x 4 positions
    out = squares(net.first.weight.unflatten(1, (3, 16)), 0, 2)
    torch.testing.assert_close(found["conv"], into - out, rtol=1e-12, atol=1e-12)
    assert set(found) == {"conv", "first"}


def test_view_whose_batch_is_not_certain_needs_an_example() -> None:
    net = Functional(lambda n, x: n.last(n.first(n.conv(x).view(-1, 48))))
    with pytest.raises(NotHomogeneousError, match="pass example_input"):
        trace(net)
    graph = trace(net, torch.zeros(2, 2, 4, 4))
    assert [(s.group, s.size, s.repeat) for s in graph.edges[1].sources] == [("conv", 3, 16)]


def test_view_that_mixes_samples_is_refused() -> None:
    net = Functional(lambda n, x: n.last(n.first(n.conv(x).view(-1, 48))))
    with pytest.raises(NotHomogeneousError, match="mixes samples"):
        trace(net, torch.zeros(2, 2, 8, 4))


@pytest.mark.parametrize(
    ("pool", "activation"),
    [
        (nn.MaxPool2d(2), "max_pool"),
        (lambda x: F.max_pool2d(x, 2), "max_pool"),
        (lambda x: F.adaptive_max_pool2d(x, 2), "max_pool"),
        (nn.AvgPool2d(2), "linear"),
        (lambda x: F.avg_pool2d(x, 2), "linear"),
        (lambda x: F.adaptive_avg_pool2d(x, 2), "linear"),
        (nn.ZeroPad2d(1), "linear"),
        (lambda x: F.interpolate(x, scale_factor=2), "linear"),
        (lambda x: F.leaky_relu(x, -0.3), "leaky_relu"),
        (nn.PReLU(3), "prelu"),
    ],
)
def test_operations_on_each_channel(pool: Callable[[Tensor], Tensor], activation: str) -> None:
    net = Functional(lambda n, x: n.same(n.between(n.conv(x))))
    net.between = pool
    graph = trace(net)
    assert list(graph.hidden) == ["conv"]
    assert graph.hidden["conv"].activation == activation


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_count_each_shared_weight_once(groups: int) -> None:
    """Theorem 2.3, per channel: incoming filter minus all outgoing taps."""
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv1d(4, 8, 5, groups=groups, bias=False)
    )
    out = torch.zeros(4, dtype=torch.float64)
    weight = net[2].weight.detach().double()  # (8, 4 / groups, 5)
    for target in range(8):
        block = target // (8 // groups)
        for j in range(4 // groups):
            out[block * (4 // groups) + j] += weight[target, j].square().sum()
    into = squares(net[0].weight, 1, 2)
    torch.testing.assert_close(unit_invariants(net)["0"], into - out, rtol=1e-12, atol=1e-12)
    total = squares(net[0].weight, 0, 1, 2) - squares(net[2].weight, 0, 1, 2)
    torch.testing.assert_close(layer_invariants(net)["0"], total, rtol=1e-12, atol=1e-12)


def test_transposed_convolution_has_its_sources_first() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ConvTranspose2d(4, 6, 3, groups=2))
    out = squares(net[1].weight, 1, 2, 3)
    into = squares(net[0].weight, 1, 2, 3)
    torch.testing.assert_close(unit_invariants(net)["0"], into - out, rtol=1e-12, atol=1e-12)


def test_a_sum_ties_groups() -> None:
    """The stream of a residual block: what both layers write minus what both readers read."""
    net = Functional(
        lambda n, x: n.last((h := F.relu(n.first(n.conv(x).flatten(1)))) + n.second(torch.relu(h)))
    )
    graph = trace(net)
    assert list(graph.hidden) == ["conv", "first"]
    into = squares(net.first.weight, 1) + squares(net.second.weight, 1)
    into = into + (net.first.bias**2 + net.second.bias**2).detach().double()
    out = squares(net.second.weight, 0) + squares(net.last.weight, 0)
    torch.testing.assert_close(unit_invariants(graph)["first"], into - out, rtol=1e-6, atol=1e-6)


def test_a_concatenation_sets_groups_side_by_side() -> None:
    def forward(n: Functional, x: Tensor) -> Tensor:
        h = n.conv(x)
        return n.wide(torch.cat([torch.relu(h), n.same(h)], dim=1))

    net = Functional(forward)
    net.wide = nn.Conv2d(6, 2, 1)
    graph = trace(net)
    assert [(s.group, s.size) for s in graph.edges[2].sources] == [("conv", 3), ("same", 3)]
    out = squares(net.wide.weight, 0, 2, 3)
    same = squares(net.same.weight, 1, 2, 3) + net.same.bias.detach().double() ** 2 - out[3:]
    torch.testing.assert_close(unit_invariants(graph)["same"], same, rtol=1e-6, atol=1e-6)


def gelu_in_one_branch(n: Functional, x: Tensor) -> Tensor:
    h = F.relu(n.first(n.conv(x).flatten(1)))
    return n.last(h + n.gelu(n.second(h)))


def test_an_unsupported_branch_is_named() -> None:
    with pytest.raises(NotHomogeneousError) as caught:
        trace(Functional(gelu_in_one_branch))
    assert (caught.value.node, caught.value.op) == ("gelu", "GELU")
    assert "supported are linear layers and convolutions" in str(caught.value)


def test_an_unsupported_branch_can_be_frozen() -> None:
    graph = trace(Functional(gelu_in_one_branch), on_unsupported="freeze")
    assert list(graph.hidden) == ["conv"]  # the sum ties the stream to the branch
    printed = str(graph)
    assert "read by GELU at 'gelu'" in printed
    assert "computed by GELU" in printed


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda n, x: n.first(n.conv(x).flatten()), "flatten from 1 on a map"),
        (lambda n, x: n.last(n.conv(x)), "units lie in dimension 1"),
        (lambda n, x: n.same(n.conv(x) * n.conv.bias[0]), "only products with numbers"),
        (lambda n, x: n.same(n.conv(x) * n.same(x)), "only products with numbers"),
        (lambda n, x: n.same(2 / n.conv(x)), "only products with numbers"),
        (lambda n, x: n.same(n.conv(x) @ n.conv(x)), "no rescaling factor is known"),
        (lambda n, x: n.same(n.conv(x)[:, [2, 1, 0]]), "other than numbers and slices"),
        (lambda n, x: n.same(n.conv(x)[:, :1]), "some of the units only"),
        (lambda n, x: n.same(n.conv(x).chunk(3, 1)[0]), "units of one group apart"),
        (lambda n, x: n.same(n.conv(x).transpose_(2, 3)), "changes dimensions in place"),
        (lambda n, x: n.last(n.conv(x).mean(1)), "mixes units"),
        (lambda n, x: n.last(n.conv(x).mean()), "reduces all dimensions"),
        (lambda n, x: n.same(F.max_pool1d(n.conv(x).flatten(2).mT, 2)), "it would mix units"),
        (lambda n, x: n.same(torch.cat([n.conv(x), x[:, 0]], 1)), "it reads 3 columns, but 3 of"),
        (lambda n, x: n.last(n.first(n.conv(x).flatten(1)) + n.last(x)), "5 and 2 units are added"),
        (
            lambda n, x: n.same(F.max_pool2d(n.conv(x), 2, return_indices=True)[0]),
            "no rescaling factor is known",
        ),
    ],
)
def test_what_is_refused(forward: Callable[[Functional, Tensor], Tensor], reason: str) -> None:
    with pytest.raises(NotHomogeneousError, match=reason):
        trace(Functional(forward))


def test_a_mean_that_leaves_positions_is_refused() -> None:
    """Of a 3-d map (N, C, D, H, W) a mean over (2, 3) leaves (N, C, W): units are not last."""
    net = Functional(lambda n, x: n.last(n.cube(x).mean((2, 3))))
    net.cube = nn.Conv3d(1, 5, 1)
    for example in (None, torch.zeros(1, 1, 2, 2, 5)):
        with pytest.raises(NotHomogeneousError, match="units lie in dimension 1 here"):
            trace(net, example)


def test_matrix_invariants_of_linear_convolutions() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 4, 2)).double()
    w, v = (layer.weight.detach() for layer in net)
    by_hand = torch.einsum("iskl,jskl->ij", w, w) - torch.einsum("tikl,tjkl->ij", v, v)
    torch.testing.assert_close(matrix_invariants(net)["0"], by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (nn.Sequential(nn.MaxPool2d(2)), "has activation max_pool"),
        (nn.Sequential(nn.Dropout()), "has activation dropout"),
        (nn.Conv2d(3, 3, 1, groups=3), "meets a grouped convolution"),
    ],
)
def test_no_matrix_where_units_cannot_be_mixed(between: nn.Module, why: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), between, nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match=why):
        matrix_invariants(net, groups=["0"])

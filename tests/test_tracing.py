"""Networks as people build them: the function is kept, and what is frozen is reported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import model_zoo
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, seeds, settings, state, unchanged
from torch import Tensor, nn

from balancing import (
    NotHomogeneousError,
    RescalingGraph,
    Source,
    WeightBalancingDescent,
    balance,
    imbalance,
    layer_invariants,
    lpq_norm,
    matrix_invariants,
    rescale,
    trace,
    unit_invariants,
)


def randomized(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64, its one-dimensional parameters moved off 0 and 1."""
    rng = generator(seed)
    net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=rng)
    return net


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def change(graph: RescalingGraph, *inputs: Tensor, seed: int = 2) -> float:
    """Relative change of the output under random factors; the model's buffers stay as they are."""
    rng = generator(seed)
    factors = {
        name: 10 ** (2 * torch.rand(group.size, dtype=torch.float64, generator=rng) - 1)
        for name, group in graph.hidden.items()
    }
    buffers = {name: b.clone() for name, b in graph.model.named_buffers()}
    old, new = copy.deepcopy(graph.model), rescale(graph, factors)
    for module in (graph.model, new):
        for name, buffer in module.named_buffers():
            assert torch.equal(buffer, buffers[name])
    with torch.no_grad():
        before, after = old(*inputs), new(*inputs)
    return float((after - before).abs().max() / before.abs().max())


class Net(nn.Module):
    """Layers by name, and a forward given as a function."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


# --- whole networks ------------------------------------------------------------------------------

IMAGES = normal(8, 3, 32, 32)
SMALL: dict[str, Callable[[torch.Generator], nn.Module]] = {
    "resnet18": lambda g: model_zoo.resnet18(4, generator=g),
    "resnet18 folded": lambda g: model_zoo.resnet18(4, norm=False, generator=g),
    "mobilenet_v2": lambda g: model_zoo.mobilenet_v2(4, generator=g),
    "mobilenet_v2 folded": lambda g: model_zoo.mobilenet_v2(4, norm=False, generator=g),
    "unet": lambda g: model_zoo.unet(4, depth=2, generator=g),
    "unet folded": lambda g: model_zoo.unet(4, depth=2, norm=False, upsample=True, generator=g),
    "densenet": lambda g: model_zoo.densenet((2, 3), 4, generator=g),
    "densenet folded": lambda g: model_zoo.densenet((2, 3), 4, norm=False, generator=g),
    **{
        f"transformer {'pre' if pre else 'post'} {'token' if token else 'mean'}": (
            lambda g, pre=pre, token=token: model_zoo.transformer_encoder(
                8, heads=2, depth=2, patch=8, image=32, pre_norm=pre, class_token=token, generator=g
            )
        )
        for pre in (True, False)
        for token in (True, False)
    },
    "residual_mlp": lambda g: nn.Sequential(
        nn.Flatten(), model_zoo.residual_mlp(8, features=3072, generator=g)
    ),
    "residual_mlp normalized": lambda g: nn.Sequential(
        nn.Flatten(), model_zoo.residual_mlp(8, features=3072, norm=True, generator=g)
    ),
}
# hidden groups: in a ResNet-18 one in each of 8 blocks and one stream for each of 4 stages; in a
# MobileNetV2 two in each of 17 blocks but one in the first, the stem, the head and 7 streams;
# in a transformer gain and hidden units of each block (pre) or hidden units alone (post)
HIDDEN = {"resnet18": 12, "mobilenet_v2": 42, "transformer pre": 5, "transformer post": 3}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("example", [False, True], ids=["", "example"])
def test_networks_keep_their_function(name: str, example: bool) -> None:
    net = randomized(SMALL[name](generator(0)))
    before = state(net)
    graph = trace(net, IMAGES if example else None)
    assert unchanged(net, before)
    expected = HIDDEN.get(name.rsplit(" ", 1)[0])
    if expected is not None:
        assert len(graph.hidden) == expected
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    for training in (False, True):
        net.train(training)
        # a few hundred layers of rounding; batch norm in training divides by a deviation that
        # may be small
        assert change(graph, IMAGES) <= 1e-12


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2 folded", "transformer pre mean"])
def test_networks_are_balanced(name: str) -> None:
    net = randomized(SMALL[name](generator(0))).eval()
    graph = trace(net)
    with pytest.warns(UserWarning, match="stopped after 30 iterations"):
        result = balance(graph, method="multiplicative", max_iter=30, tol=1e-9)
    assert result.check(IMAGES) <= 1e-12
    assert (result.norms.diff() <= 1e-14 * result.norms[0]).all()  # rounding of a sum
    assert result.norms[-1] < result.norms[0]


def test_mobilenet_with_its_own_activation_is_frozen_but_for_its_streams() -> None:
    net = randomized(model_zoo.mobilenet_v2(4, norm=False, activation=nn.ReLU6)).eval()
    with pytest.raises(NotHomogeneousError, match="ReLU6 at '1': it is capped at 6"):
        trace(net)
    graph = trace(net, on_unsupported="freeze")
    assert len(graph.hidden) == 7  # between two blocks nothing is capped
    assert "read by ReLU6 at '1'" in str(graph)
    assert change(graph, IMAGES) <= 1e-12


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (model_zoo.resnet18, 11_689_512),
        (model_zoo.mobilenet_v2, 3_504_872),
        (model_zoo.densenet, 7_978_856),
    ],
)
def test_zoo_has_the_published_sizes(net: Callable[..., nn.Module], count: int) -> None:
    with torch.device("meta"):
        assert sum(w.numel() for w in net(classes=1000).parameters()) == count


# --- normalization -------------------------------------------------------------------------------


def test_batch_norm_gain_is_the_weight_of_a_new_group() -> None:
    net = randomized(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    )
    graph = trace(net)
    assert graph.groups["0"].frozen == "read by BatchNorm2d at '1'"
    assert graph.groups["1.normalized"].frozen == "computed by BatchNorm2d"
    assert list(graph.hidden) == ["1"]
    [edge] = graph.incoming("1")
    assert (edge.sources, edge.weight, edge.bias, edge.blocks) == (
        (Source("1.normalized", 4),),
        "1.weight",
        "1.bias",
        4,
    )
    gain = net[1].weight.detach()
    assert torch.equal(edge.like_weight(edge.by_channel(gain)).reshape(gain.shape), gain)
    out = net[3].weight.detach().square().sum((0, 2, 3))
    expected = gain**2 + net[1].bias.detach() ** 2 - out
    # sums of some ten squares of order one
    torch.testing.assert_close(unit_invariants(net)["1"], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        imbalance(net, 1, 1)["1"],
        gain.abs() - net[3].weight.detach().abs().sum((0, 2, 3)),
        rtol=0,
        atol=1e-13,
    )
    total = sum(w.detach().square().sum() for n, w in net.named_parameters() if "weight" in n)
    torch.testing.assert_close(lpq_norm(net).detach(), total.sqrt(), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 2), (3, 1.5)])
def test_descent_with_batch_norm_keeps_the_imbalance(p: float, q: float) -> None:
    net = randomized(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
        )
    )
    before = imbalance(net, p, q, bias=True)["1"]
    optimizer = WeightBalancingDescent(net, 0.01, p, q)
    x, y = normal(6, 1, 4, 4), normal(6, 2)
    for _ in range(3):
        loss = F.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = imbalance(net, p, q, bias=True)["1"]
    # the optimizer's tol is 1e-6 of shares of order one
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


CHANNELS: dict[str, tuple[nn.Module, list[str]]] = {
    "GroupNorm": (nn.GroupNorm(2, 4), ["norm"]),
    "InstanceNorm2d": (nn.InstanceNorm2d(4, affine=True), ["norm"]),
    "SyncBatchNorm": (nn.SyncBatchNorm(4).eval(), ["norm"]),
    "no gains": (nn.BatchNorm2d(4, affine=False), []),
    "InstanceNorm2d without gains": (nn.InstanceNorm2d(4), []),
    "LayerNorm over a map": (nn.LayerNorm((4, 5, 5)), []),
    "LayerNorm over positions": (nn.LayerNorm(5), []),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_normalizations_of_channels(name: str) -> None:
    norm, hidden = copy.deepcopy(CHANNELS[name])
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(n.norm(n.first(x)))),
            first=nn.Conv2d(3, 4, 1),
            norm=norm,
            last=nn.Conv2d(4, 2, 1),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == hidden
    assert graph.groups["first"].frozen == f"read by {type(norm).__name__} at 'norm'"
    assert change(graph, normal(4, 3, 5, 5)) <= 1e-12
    if not hidden and norm.state_dict().keys() & {"weight"}:
        assert "not part of any edge: norm.weight, norm.bias" in str(graph)


FEATURES: dict[str, nn.Module] = {
    "BatchNorm1d": nn.BatchNorm1d(4),
    "GroupNorm": nn.GroupNorm(2, 4),
    "LayerNorm": nn.LayerNorm(4),
    "LayerNorm without bias": nn.LayerNorm(4, bias=False),
    "RMSNorm": nn.RMSNorm(4),
}


@pytest.mark.parametrize("name", FEATURES)
def test_normalizations_of_features(name: str) -> None:
    norm = copy.deepcopy(FEATURES[name])
    net = randomized(nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 2)))
    for example in (None, normal(5, 3)):
        graph = trace(net, example)
        assert list(graph.hidden) == ["1"]
        assert change(graph, normal(5, 3)) <= 1e-12


def test_normalization_and_attention_as_functions() -> None:
    """The gains have no part: they stay as they are."""

    def forward(n: Net, x: Tensor) -> Tensor:
        h = F.layer_norm(n.first(x), (4,), n.gain, n.shift)
        h = F.scaled_dot_product_attention(n.query(h), h, h)
        return n.last(F.relu(n.hidden(h)))

    net = randomized(
        Net(
            forward,
            first=nn.Linear(3, 4),
            gain=nn.Parameter(torch.ones(4)),
            shift=nn.Parameter(torch.zeros(4)),
            query=nn.Linear(4, 4),
            hidden=nn.Linear(4, 5),
            last=nn.Linear(5, 2),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["hidden"]
    assert graph.groups["first"].frozen == "read by layer_norm at 'layer_norm'"
    assert graph.groups["query"].frozen is not None
    assert "not part of any edge: gain, shift\n" in str(graph)
    assert change(graph, normal(2, 5, 3)) <= 1e-12


def test_batch_norm_over_tokens_has_units_of_its_own() -> None:
    net = randomized(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(NotHomogeneousError, match="units lie in dimension 1 here"):
        trace(net, normal(5, 6, 3))  # the last layer mixes features, not the 6 normalized tokens
    graph = trace(net)
    assert not graph.hidden
    assert change(graph, normal(5, 6, 3)) == 0


AT_THE_INPUT: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "read by a layer": lambda n, x: n.first(n.norm(x)),
    "added to a layer": lambda n, x: n.norm(x) + n.first(x),
    "behind a boundary": lambda n, x: n.norm(n.first(x).tanh()),
}


@pytest.mark.parametrize("name", AT_THE_INPUT)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.GroupNorm(2, 4)])
def test_a_normalization_of_what_may_have_positions(name: str, norm: nn.Module) -> None:
    """As many positions as features: the gain of a position is none of the features'."""
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(n.second(AT_THE_INPUT[name](n, x)))),
            norm=copy.deepcopy(norm),
            first=nn.Linear(4, 4),
            second=nn.Linear(4, 5),
            last=nn.Linear(5, 2),
        )
    )
    graph = trace(net, on_unsupported="freeze")
    assert list(graph.hidden)[-1] == "second"
    assert graph.groups["norm"].frozen == (
        f"computed by {type(norm).__name__}; its input may have positions; pass example_input to "
        "trace()"
    )
    for x in (normal(3, 4, 4), normal(7, 4)):
        assert change(graph, x) <= 1e-12
        assert change(trace(net, x, on_unsupported="freeze"), x) <= 1e-12
    assert "norm" in trace(net, normal(7, 4), on_unsupported="freeze").hidden


@pytest.mark.parametrize("flat", [nn.Flatten(), lambda x: x.view(x.size(0), -1)])
def test_flat_inputs_have_no_positions(flat: Callable[[Tensor], Tensor]) -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(n.first(n.norm(n.flat(x))))),
            flat=flat,
            norm=nn.BatchNorm1d(6),
            first=nn.Linear(6, 4),
            last=nn.Linear(4, 2),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["norm", "first"]
    assert change(graph, normal(9, 2, 3)) <= 1e-12


def test_batch_norm_used_twice_is_one_edge() -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(n.norm(n.two(F.relu(n.norm(n.one(x)))))),
            one=nn.Linear(3, 4),
            norm=nn.BatchNorm1d(4),
            two=nn.Linear(4, 4),
            last=nn.Linear(4, 2),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["norm"]
    assert [edge.name for edge in graph.edges].count("norm") == 1
    assert change(graph, normal(9, 3)) <= 1e-12


def test_matrix_invariants_beside_a_normalization() -> None:
    """A linear group in a network that has blocks elsewhere; the gains' own group has none."""
    net = randomized(
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    )
    w, b, v = net[0].weight.detach(), net[0].bias.detach(), net[1].weight.detach()
    found = matrix_invariants(net)
    assert list(found) == ["0"]
    expected = w @ w.T + torch.outer(b, b) - v.T @ v
    torch.testing.assert_close(found["0"], expected, rtol=0, atol=1e-13)


# --- attention and other boundaries --------------------------------------------------------------


def attention(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    mixed, _ = n.mha(h, h, h, need_weights=True)
    return n.last(F.relu(n.hidden(mixed + h)))


def masked(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(F.relu(n.hidden(n.mha(n.query(x), h, h, attn_mask=n.mask)[0])))


def test_attention_is_a_boundary() -> None:
    layers = {"first": nn.Linear(3, 4), "hidden": nn.Linear(4, 5), "last": nn.Linear(5, 2)}
    for forward in (attention, masked):
        net = Net(
            forward,
            mha=nn.MultiheadAttention(4, 2, batch_first=True),
            query=nn.Linear(3, 4),
            mask=nn.Buffer(torch.zeros(6, 6, dtype=torch.float64)),
            **copy.deepcopy(layers),
        )
        graph = trace(randomized(net))
        assert list(graph.hidden) == ["hidden"]
        assert graph.groups["first"].frozen == "read by MultiheadAttention at 'mha'"
        assert graph.groups["mha"].frozen == "computed by MultiheadAttention"
        assert "not part of any edge: " in str(graph)
        assert "mha.in_proj_weight" in str(graph).split("not part of any edge: ")[1]
        assert change(graph, normal(2, 6, 3)) <= 1e-12


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_transformer_layers(activation: str, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        4, 2, 6, 0.0, activation, batch_first=True, norm_first=norm_first
    )
    net = randomized(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)))
    graph = trace(net)
    assert list(graph.hidden) == (["1.linear1"] if activation == "relu" else [])
    assert graph.groups["0"].frozen == "read by TransformerEncoderLayer at '1'"
    assert "1.norm1.weight" in str(graph).split("not part of any edge: ")[1]
    for training in (True, False):
        net.train(training)
        assert change(graph, normal(2, 5, 3)) <= 1e-12


def test_transformer_layer_with_a_relative_of_relu() -> None:
    class Squared(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, Squared(), batch_first=True)
    graph = trace(randomized(nn.Sequential(layer, nn.Linear(4, 2))))
    assert not graph.hidden
    assert change(graph, normal(2, 5, 4)) == 0


def test_torchs_transformer_encoder() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    graph = trace(randomized(nn.Sequential(encoder, nn.Linear(4, 2))))
    assert list(graph.hidden) == ["0.layers.0.linear1", "0.layers.1.linear1"]
    assert change(graph, normal(2, 5, 4)) <= 1e-12


def test_embedding_is_a_boundary() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        positions = n.position(torch.arange(x.shape[1]))
        return n.last(F.relu(n.hidden(n.token(x) + positions)).mean(1))

    net = randomized(
        Net(
            forward,
            token=nn.Embedding(7, 4),
            position=nn.Embedding(5, 4),
            hidden=nn.Linear(4, 6),
            last=nn.Linear(6, 2),
        )
    )
    x = torch.tensor([[0, 3, 6], [1, 1, 2]])
    graph = trace(net, x)
    assert list(graph.hidden) == ["hidden"]
    assert graph.groups["token"].frozen == "computed by Embedding"
    assert change(graph, x) <= 1e-12


def test_operations_on_frozen_units_lose_nothing() -> None:
    """Attention written out: the softmax reads what is frozen already."""

    def forward(n: Net, x: Tensor) -> Tensor:
        h = n.norm(x).tanh()
        mixed = torch.softmax(h @ h.transpose(1, 2), dim=-1) @ h
        return n.last(F.relu(n.hidden(mixed)))

    net = randomized(
        Net(
            forward,
            norm=nn.LayerNorm(4, elementwise_affine=False),
            hidden=nn.Linear(4, 6),
            last=nn.Linear(6, 2),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["hidden"]
    assert [g.frozen for g in graph.groups.values()][-3] == "computed by matmul"
    assert change(graph, normal(2, 5, 4)) <= 1e-12


# --- shared parameters ---------------------------------------------------------------------------


def test_layer_called_twice_ties_what_it_reads_and_what_it_writes() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        h = F.relu(n.first(x))
        for _ in range(2):
            h = F.relu(n.shared(h))
        return n.last(h)

    net = randomized(
        Net(forward, first=nn.Linear(3, 4), shared=nn.Linear(4, 4), last=nn.Linear(4, 2))
    )
    graph = trace(net)
    assert [edge.name for edge in graph.edges] == ["first", "shared", "last"]
    assert list(graph.hidden) == ["first"]  # 'shared' reads and writes the same units
    assert change(graph, normal(5, 3)) <= 1e-12
    weights = [w.detach() for name, w in net.named_parameters() if "weight" in name]
    norm = math.sqrt(sum(float(w.square().sum()) for w in weights))
    assert math.isclose(float(lpq_norm(net).detach()), norm, rel_tol=1e-14)  # each tensor once


def test_layer_called_on_two_streams_keeps_two_groups() -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(n.shared(F.relu(n.a(x)))) - n.shared(F.relu(n.b(x)))),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 4),
            shared=nn.Linear(4, 5),
            last=nn.Linear(5, 2),
        )
    )
    graph = trace(net)
    assert {name: g.size for name, g in graph.hidden.items()} == {"a": 4, "shared": 5}
    assert change(graph, normal(5, 3)) <= 1e-12


@pytest.mark.parametrize("tied", ["weight", "bias", "both"])
def test_parameters_of_two_layers(tied: str) -> None:
    net = randomized(
        nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()
        ).append(nn.Linear(4, 1))
    )
    if tied != "bias":
        net[4].weight = net[2].weight
    if tied != "weight":
        net[4].bias = net[2].bias
    graph = trace(net)
    if tied == "weight":  # the tensor's units have two biases: they keep their scale, all of them
        assert not graph.hidden
        assert "it has the biases '2.bias' and '4.bias'" in str(graph)
    elif tied == "bias":
        assert list(graph.hidden) == ["0", "2"]
        assert [edge.bias for edge in graph.edges] == ["0.bias", "2.bias", None, "6.bias"]
    else:
        assert list(graph.hidden) == ["0"]
    assert change(graph, normal(5, 3)) <= 1e-12


def test_one_of_two_layers_has_a_bias() -> None:
    net = randomized(
        nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4)
        ).append(nn.Linear(4, 1))
    )
    net[4].weight = net[2].weight
    graph = trace(net)
    assert [edge.bias for edge in graph.edges] == ["0.bias", "4.bias", "5.bias"]
    assert change(graph, normal(5, 3)) <= 1e-12


def test_a_layer_that_is_a_boundary_elsewhere() -> None:
    """Over positions a LayerNorm is a boundary, over features an edge: one tensor, one scale."""

    def forward(n: Net, x: Tensor) -> Tensor:
        h = n.norm(n.conv(x))
        return n.last(F.relu(n.norm(n.first(h))))

    net = randomized(
        Net(
            forward,
            conv=nn.Conv1d(6, 6, 1),
            norm=nn.LayerNorm(4),
            first=nn.Linear(4, 4),
            last=nn.Linear(4, 2),
        )
    )
    graph = trace(net)
    why = "'norm.weight' is also used by LayerNorm at 'norm', a boundary"
    assert [g.frozen for g in graph.groups.values()].count(why) == 1
    assert not graph.hidden
    assert change(graph, normal(3, 6, 4)) == 0


def test_a_shared_parameter_goes_by_the_name_under_which_the_model_lists_it() -> None:
    net = Net(
        lambda n, x: n.last(F.relu(n.early(F.relu(n.late(F.relu(n.first(x))))))),
        first=nn.Linear(3, 4),
        early=nn.Linear(4, 4),
        late=nn.Linear(4, 4),
        last=nn.Linear(4, 1),
    )
    net.late.weight, net.late.bias = net.early.weight, net.early.bias
    [edge] = [edge for edge in trace(net).edges if edge.name == "late"]
    assert (edge.weight, edge.bias) == ("early.weight", "early.bias")
    WeightBalancingDescent(randomized(net), 0.1)  # it knows parameters by these names


def test_a_layer_without_a_size_is_a_boundary() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(NotHomogeneousError, match="LazyLinear at '0': its size is not known yet"):
        trace(net)
    assert list(trace(net, on_unsupported="freeze").hidden) == ["1"]


@pytest.mark.parametrize(("start", "hidden"), [(2, []), (4, ["0", "1", "2"])])
def test_weights_that_overlap_in_memory(start: int, hidden: list[str]) -> None:
    memory = normal(8, 3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 2))
    randomized(net)
    net[0].weight = nn.Parameter(memory[:4])
    net[2].weight = nn.Parameter(memory[start : start + 4])
    graph = trace(net)
    assert list(graph.hidden) == hidden
    if not hidden:
        assert graph.groups["0"].frozen == "'0.weight' is also 2.weight"
    assert change(graph, normal(5, 3)) <= 1e-12


def test_a_constant_that_is_a_part_of_a_weight() -> None:
    first = nn.Linear(3, 4)
    part = first.weight.data[2:]
    net = Net(lambda n, x: (n.last(F.relu(n.first(x))), x @ part.T), first=first)
    net.last = nn.Linear(4, 2)
    graph = trace(net)
    assert graph.groups["first"].frozen == "'first.weight' is also '_tensor_constant0' in forward"


def test_a_layer_that_reads_units_that_do_not_correspond() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        a, b = F.relu(n.a(x)), F.relu(n.b(x))
        return n.last(F.relu(n.shared(torch.cat([a, b], 1)) + n.shared(F.relu(n.wide(x)))))

    net = randomized(
        Net(
            forward,
            a=nn.Linear(3, 2),
            b=nn.Linear(3, 3),
            wide=nn.Linear(3, 5),
            shared=nn.Linear(5, 4),
            last=nn.Linear(4, 1),
        )
    )
    graph = trace(net)
    assert not graph.hidden
    assert (
        graph.groups["wide"].frozen == "'shared.weight' is applied to units that do not correspond"
    )
    assert change(graph, normal(5, 3)) == 0


def test_a_tie_with_a_frozen_group_says_why() -> None:
    shared = nn.Linear(3, 3)
    net = randomized(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 1)))
    graph = trace(net)
    assert graph.groups["0"].frozen == "read like, by '0', 'input', network input"
    assert change(graph, normal(5, 3)) == 0


def test_a_layer_applied_to_what_depends_on_no_input() -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(n.first(x) + n.first(n.query).relu())),
            first=nn.Linear(3, 4),
            query=nn.Parameter(normal(3)),
            last=nn.Linear(4, 1),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["first"]
    assert change(graph, normal(5, 3)) <= 1e-12


# --- sums, products, dimensions ------------------------------------------------------------------

FROZEN: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "parameter": (lambda n, h: h + n.shift, "added to 'shift', a parameter"),
    "parameter first": (lambda n, h: n.shift - h, "added to 'shift', a parameter"),
    "buffer": (lambda n, h: h - n.fixed, "added to 'fixed', a buffer"),
    "number": (lambda n, h: 1 + h, "added to a number"),
    "constant": (lambda n, h: h + torch.ones_like(h), "added to 'ones_like', a constant"),
    "tokens": (
        lambda n, h: torch.cat([n.token.expand(h.size(0), -1, -1), h], 1),
        "concatenated with 'token', a parameter",
    ),
    "constant by name": (
        lambda n, h: torch.add(input=torch.ones_like(h), other=h),
        "added to 'ones_like', a constant",
    ),
    "slopes": (
        lambda n, h: F.prelu(weight=h.mean((0, 1)), input=n.x.mT).mT,
        "slopes of prelu at 'prelu'",
    ),
    "input": (lambda n, h: h + n.x, "added to 'input', network input"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_added_freezes(name: str) -> None:
    between, why = FROZEN[name]

    def forward(n: Net, x: Tensor) -> Tensor:
        n.x = x
        return n.last(F.relu(n.second(F.relu(between(n, n.first(x))))))

    net = Net(
        forward,
        first=nn.Linear(4, 4),
        second=nn.Linear(4, 5),
        last=nn.Linear(5, 1),
        shift=nn.Parameter(normal(4)),
        token=nn.Parameter(normal(1, 1, 4)),
        fixed=nn.Buffer(normal(4)),
    )
    x = normal(2, 6, 4)
    graph = trace(randomized(net), x)
    assert list(graph.hidden) == ["second"]
    assert graph.groups["first"].frozen == why
    assert change(graph, x) <= 1e-12


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "times": lambda h: 0.5 * h * 2,
    "division": lambda h: h / 3 / math.sqrt(2),
    "by a size": lambda h: h / h.shape[-1] ** 0.5,
    "minus": lambda h: -h,
    "difference": lambda h: h - 2 * h.relu(),
    "sum of a list": lambda h: sum([h, h.relu()]),
    "transposed twice": lambda h: h.transpose(1, 2).mT,
    "permuted": lambda h: h.permute(1, 0, 2).relu().transpose(0, 1),
    "permute a tuple": lambda h: torch.permute(h, (0, 2, 1)).transpose(-1, -2),
    "reshaped": lambda h: h.reshape(-1, h.shape[-1]).relu().view(2, 6, 4),
    "unflattened": lambda h: h.unflatten(1, (2, 3)).relu().flatten(1, 2),
    "squeezed": lambda h: h.unsqueeze(1).relu().squeeze(1),
    "halves": lambda h: torch.cat([(parts := h.chunk(2, dim=1))[0].relu(), parts[1]], dim=1),
    "split": lambda h: h.split(2, 1)[1],
    "unbound": lambda h: h.unbind(1)[0] + h.unbind(1)[3],
    "stacked": lambda h: torch.stack([h, h.relu()], dim=1).amax(1),
    "one token": lambda h: h[:, 0],
    "last tokens": lambda h: h[..., 1:, :],
    "new dimension": lambda h: h[:, None, :, :].mean((1, 2)),
    "mean over tokens": lambda h: h.mean(dim=1, keepdim=True),
    "mean over an axis": lambda h: h.mean(axis=1, keepdims=True),
    "halves along an axis": lambda h: torch.cat(
        [(parts := torch.chunk(h, 2, axis=1))[1], parts[0]], axis=1
    ),
    "unbound along an axis": lambda h: torch.unbind(h, axis=1)[0],
    "stacked along an axis": lambda h: torch.stack([h, h.relu()], axis=1).amax(axis=1),
    "sum over tokens": lambda h: h.sum(1),
    "samples": lambda h: torch.cat([h, h.relu()], 0),
    "pooled": lambda h: F.max_pool1d(h.transpose(1, 2), 2).transpose(1, 2),
}


@pytest.mark.parametrize("name", KEPT)
def test_operations_on_tokens_keep_units_apart(name: str) -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(F.relu(KEPT[name](n.first(x)))),
            first=nn.Linear(3, 4),
            last=nn.Linear(4, 2),
        )
    )
    x = normal(2, 6, 3)
    graph = trace(net, x)
    assert list(graph.hidden) == ["first"]
    assert change(graph, x) <= 1e-12


class Chain(nn.Module):
    """Operations one after the other; each may also read what came before it."""

    def __init__(self, names: list[str], seed: int) -> None:
        super().__init__()
        self.names = names
        self.features, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.tokens, self.wide = nn.Conv1d(6, 6, 1), nn.Conv1d(4, 4, 1)
        self.layer_norm, self.batch_norm = nn.LayerNorm(4), nn.BatchNorm1d(6)
        self.group_norm, self.feature_norm = nn.GroupNorm(2, 6), nn.BatchNorm1d(4)
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)
        self.shift = nn.Parameter(torch.ones(4))
        rng = generator(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.7, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        before = [x]
        for name in self.names:
            before.append(LINKS[name](self, before))
        return self.last(before[-1])


# all keep the shape (batch, 6, 4); some mix units, some let no factor pass
LINKS: dict[str, Callable[[Chain, list[Tensor]], Tensor]] = {
    "features": lambda n, xs: n.features(xs[-1]).relu(),
    "tokens": lambda n, xs: n.tokens(xs[-1]).relu(),
    "wide": lambda n, xs: n.wide(xs[-1].transpose(1, 2)).transpose(1, 2),
    "residual": lambda n, xs: xs[-1] + n.features(xs[-1]).relu(),
    "skip": lambda n, xs: xs[-1] - 2 * xs[len(xs) // 2],
    "layer norm": lambda n, xs: n.layer_norm(xs[-1]),
    "batch norm": lambda n, xs: n.batch_norm(xs[-1]),
    "group norm": lambda n, xs: n.group_norm(xs[-1]),
    "feature norm": lambda n, xs: n.feature_norm(xs[-1].mT).mT,
    "attention": lambda n, xs: n.mha(xs[-1], xs[-1], xs[-1])[0],
    "parameter": lambda n, xs: xs[-1] + n.shift,
    "query": lambda n, xs: xs[-1] + n.features(n.shift),
    "leaky": lambda n, xs: F.leaky_relu(xs[-1], -0.3) / 2,
    "tanh": lambda n, xs: xs[-1].tanh(),
    "softmax": lambda n, xs: xs[-1].softmax(-1),
    "half": lambda n, xs: torch.cat([xs[-1][:, :3], xs[-1].chunk(2, 1)[0]], 1),
    "half the units": lambda n, xs: torch.cat([xs[-1][..., :2], xs[0].chunk(2, -1)[1]], -1),
    "flip": lambda n, xs: xs[-1].flip(-1),
    "stack": lambda n, xs: torch.stack([xs[-1], xs[len(xs) // 2]], 1).amax(1),
    "reshape": lambda n, xs: xs[-1].reshape(-1, 4).relu().view(-1, 6, 4),
    "mix": lambda n, xs: xs[-1].reshape(-1, 4, 6).mT,
    "flat": lambda n, xs: xs[-1].flatten(1).unflatten(1, (6, 4)),
    "mean": lambda n, xs: xs[-1] + xs[-1].mean(1, keepdim=True),
    "mean over units": lambda n, xs: xs[-1] + xs[-1].mean(-1, keepdim=True),
    "pool": lambda n, xs: F.avg_pool1d(xs[-1], 3, 1, 1),
    "pool tokens": lambda n, xs: F.max_pool1d(xs[-1].mT, 3, 1, 1).mT,
}


@settings(max_examples=150)
@given(
    names=st.lists(st.sampled_from(list(LINKS)), min_size=1, max_size=6),
    seed=seeds,
    training=st.booleans(),
    example=st.booleans(),
)
def test_chains_of_operations_keep_their_function(
    names: list[str], seed: int, training: bool, example: bool
) -> None:
    """Layers used several times, on units and on tokens, with and without an example."""
    net, x = Chain(["features", *names], seed).double().train(training), normal(5, 6, 4)
    graph = trace(net, x if example else None, on_unsupported="freeze")
    # batch norms may divide by small deviations; a factor that is not undone changes far more
    assert change(graph, x) <= 1e-8


def test_tokens_without_an_example_are_asked_for() -> None:
    net = Net(
        lambda n, x: n.last(F.relu(n.first(x)).mean(1)), first=nn.Linear(3, 4), last=nn.Linear(4, 2)
    )
    with pytest.raises(NotHomogeneousError, match=r"not known here; pass example_input to trace"):
        trace(net)


@pytest.mark.parametrize("take", [lambda h: h.chunk(2, 2), lambda h: h.split(4, dim=2)])
def test_the_last_dimension_counted_from_the_front(take: Callable[[Tensor], Any]) -> None:
    """Halves of the units change places: only an example tells that dimension 2 is the last."""

    def forward(n: Net, x: Tensor) -> Tensor:
        a, b = take(F.relu(n.first(x)))
        return n.last(torch.cat([b, a], 2))

    net = randomized(Net(forward, first=nn.Linear(6, 8), last=nn.Linear(8, 2)))
    x = normal(3, 4, 6)
    with pytest.raises(NotHomogeneousError, match="dimension 2 may be that of the units; pass ex"):
        trace(net)
    with pytest.raises(NotHomogeneousError, match="it takes the units of one group apart"):
        trace(net, x)
    for example in (None, x):
        assert change(trace(net, example, on_unsupported="freeze"), x) == 0


def test_features_are_concatenated_along_a_dimension_that_an_example_tells() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        return n.last(F.relu(torch.cat([n.a(x), n.b(x)], 2)))

    net = randomized(Net(forward, a=nn.Linear(3, 4), b=nn.Linear(3, 5), last=nn.Linear(9, 2)))
    x = normal(2, 6, 3)
    with pytest.raises(NotHomogeneousError, match="dimension 2 may be that of the units"):
        trace(net)
    graph = trace(net, x)
    assert list(graph.hidden) == ["a", "b"]
    assert change(graph, x) <= 1e-12


def test_flattened_maps_of_different_sizes_are_told_apart_by_an_example() -> None:
    """3 channels of 4 positions and 2 of 9 have 30 columns: not 5 channels of 6."""

    def forward(n: Net, x: Tensor) -> Tensor:
        a, b = n.a(F.adaptive_avg_pool2d(x, 2)), n.b(F.adaptive_avg_pool2d(x, 3))
        return n.last(F.relu(torch.cat([a.flatten(1), b.flatten(1)], 1)))

    net = randomized(
        Net(forward, a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 2, 1), last=nn.Linear(30, 2))
    )
    with pytest.raises(NotHomogeneousError, match="its 30 columns cannot be assigned to channels"):
        trace(net)
    x = normal(2, 3, 6, 6)
    graph = trace(net, x)
    assert [(s.size, s.repeat) for s in graph.edges[-1].sources] == [(3, 4), (2, 9)]
    assert list(graph.hidden) == ["a", "b"]
    assert change(graph, x) <= 1e-12


def test_units_are_not_concatenated_with_positions() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        tokens = n.patch(x).flatten(2)
        return n.last(torch.cat([n.other(x).flatten(2), n.first(tokens)], dim=1))

    net = Net(
        forward,
        patch=nn.Conv2d(3, 4, 1),
        other=nn.Conv2d(3, 5, 1),
        first=nn.Linear(16, 16),
        last=nn.Conv1d(9, 2, 1),
    )
    with pytest.raises(NotHomogeneousError, match="units lie in dimension 1 here"):
        trace(net, torch.zeros(2, 3, 4, 4))

    def mixed(n: Net, x: Tensor) -> Tensor:
        features = n.first(x.flatten(2))
        return n.last(torch.cat([n.other(x).flatten(2), features], dim=1))

    net.run = mixed
    net.last = nn.Conv1d(8, 2, 1)
    with pytest.raises(NotHomogeneousError, match="it concatenates units and positions"):
        trace(net, torch.zeros(2, 3, 4, 4))


ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "to": lambda h: h.to(torch.long),
    "to by name": lambda h: h.to(dtype=torch.int64),
    "sum": lambda h: h.sum(1, dtype=torch.int32),
    "view": lambda h: h.view(torch.int64),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_to_whole_numbers_is_refused(name: str) -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(ROUNDED[name](n.first(x)).double()),
            first=nn.Linear(3, 4),
            last=nn.Linear(4, 2),
        )
    ).requires_grad_(False)  # whole numbers have no gradient
    x = normal(2, 6, 3)
    for example in (None, x):
        if name != "sum" or example is not None:
            with pytest.raises(NotHomogeneousError, match="it rounds to whole numbers"):
                trace(net, example)
        graph = trace(net, example, on_unsupported="freeze")
        assert change(graph, x) == 0


def test_rounding_to_the_dtype_of_an_input() -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(n.first(x.double()).to(x.dtype).double()),
            first=nn.Linear(3, 4),
            last=nn.Linear(4, 2),
        )
    )
    with pytest.raises(NotHomogeneousError, match="it rounds to whole numbers"):
        trace(net, torch.ones(2, 3, dtype=torch.int64))
    assert list(trace(net, normal(2, 3)).hidden) == ["first"]


REFUSED: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "a result by argument": (
        lambda n, h: (torch.add(h, h.relu(), out=(z := torch.zeros_like(h))), z)[1],
        "add at 'add': with the argument 'out' it is not known",
    ),
    "a modulus by argument": (
        lambda n, h: (torch.abs(h, out=(z := torch.zeros_like(h))), z)[1],
        "abs at 'abs_1': with the argument 'out' it is not known",
    ),
    "a concatenation by argument": (
        lambda n, h: (torch.cat([h, h.relu()], -1, out=(z := h.new_empty(2, 6, 8))), z)[1],
        "cat at 'cat': with the argument 'out' it is not known",
    ),
    "bits": (lambda n, h: h.view(torch.float32).double(), "it reads the bits of a number as"),
    "units apart along an axis": (
        lambda n, h: torch.cat([(p := torch.chunk(h, 2, axis=-1))[1], p[0]], axis=-1),
        "it takes the units of one group apart",
    ),
    "two tuples": (
        lambda n, h: (parts := h.chunk(2, 1) + h.relu().chunk(2, 1))[1] + parts[2],
        "it reads several tensors as one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_calls_that_are_refused(name: str) -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(REFUSED[name][0](n, n.first(x))),
            first=nn.Linear(3, 4),
            last=nn.Linear({"bits": 8, "a concatenation by argument": 8}.get(name, 4), 2),
        )
    ).requires_grad_(False)  # torch writes to out= only where no gradient is wanted
    x = normal(2, 6, 3)
    with pytest.raises(NotHomogeneousError, match=REFUSED[name][1]):
        trace(net, x)
    for example in (None, x):
        graph = trace(net, example, on_unsupported="freeze")
        assert not graph.hidden


@pytest.mark.parametrize("named", [False, True])
def test_slopes_given_to_a_function(named: bool) -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        h = n.first(x)
        return n.last(F.prelu(weight=n.slopes, input=h) if named else F.prelu(h, n.slopes))

    net = randomized(
        Net(
            forward,
            first=nn.Linear(3, 4),
            slopes=nn.Parameter(torch.rand(4, generator=generator(3))),
            last=nn.Linear(4, 2),
        )
    )
    graph = trace(net)
    assert list(graph.hidden) == ["first"]
    assert graph.hidden["first"].activation == "prelu"
    assert change(graph, normal(5, 3)) <= 1e-12


def test_a_single_sample_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 1))
    with pytest.raises(NotHomogeneousError, match="it reads 3 dimensions, not 4: give it a batch"):
        trace(net, torch.zeros(3, 5, 5))


@pytest.mark.parametrize("flatten", [lambda x: x.flatten(2), nn.Flatten(2)])
def test_patches_become_tokens(flatten: Callable[[Tensor], Tensor]) -> None:
    net = randomized(
        Net(
            lambda n, x: n.last(n.flatten(F.relu(n.patch(x))).transpose(1, 2)),
            flatten=flatten,
            patch=nn.Conv2d(3, 4, 2, 2),
            last=nn.Linear(4, 2),
        )
    )
    x = normal(2, 3, 4, 4)
    for example in (None, x):
        graph = trace(net, example)
        assert list(graph.hidden) == ["patch"]
        assert change(graph, x) <= 1e-12


def test_channel_shuffle_is_a_boundary() -> None:
    net = randomized(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    )
    with pytest.raises(NotHomogeneousError, match="ChannelShuffle at '1'"):
        trace(net)
    graph = trace(net, on_unsupported="freeze")
    assert not graph.hidden
    assert change(graph, normal(2, 3, 4, 4)) == 0


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 4), nn.Linear(2, 5), nn.Linear(9, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(F.relu(torch.cat([self.a(x), self.b(y)], dim=1)))


def test_several_inputs() -> None:
    net = randomized(TwoInputs())
    x, y = normal(5, 3), normal(5, 2)
    for example in (None, (x, y)):
        graph = trace(net, example)
        assert list(graph.hidden) == ["a", "b"]
        assert [graph.groups[name].size for name in ("input", "y")] == [3, 2]
        assert change(graph, x, y) <= 1e-12


def test_a_part_of_a_network_that_cannot_be_followed() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
            self.head = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.features(x)
            return self.head(h) if h.sum() > 0 else h

    net = randomized(Branching())
    with pytest.raises(NotHomogeneousError, match=r"test_tracing\.py:\d+, 'return self\.head"):
        trace(net)
    before = net(normal(5, 3))
    balance(net.features, inplace=True)
    torch.testing.assert_close(net(normal(5, 3)), before, rtol=1e-12, atol=1e-14)


NO_EXAMPLES: dict[str, tuple[Callable[[Net, Tensor], Tensor], Tensor, str]] = {
    "shape": (lambda n, x: n.last(n.first(x)), normal(2, 5), r"of shape \[\(2, 5\)\]: .*\[2, 5\]"),
    "dtype": (
        lambda n, x: n.last(F.embedding(x, n.first.weight)),
        normal(2, 3),
        "Expected tensor for argument #1 'indices'",
    ),
    "value": (
        lambda n, x: n.last(n.first(x) * x.max().item()),
        normal(2, 3),
        "it reads the values of a tensor, by aten._local_scalar_dense",
    ),
    "mask": (
        lambda n, x: n.last(n.first(x)[x[:, 0] > 0]),
        normal(2, 3),
        "it reads the values of a tensor, by aten.nonzero",
    ),
}


@pytest.mark.parametrize("name", NO_EXAMPLES)
def test_an_example_that_does_not_fit(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    forward, example, message = NO_EXAMPLES[name]
    net = randomized(Net(forward, first=nn.Linear(3, 4), last=nn.Linear(4, 1)))
    with pytest.raises(ValueError, match=f"cannot be applied to the example_input, .*{message}"):
        trace(net, example)
    assert capfd.readouterr() == ("", "")


def test_an_example_for_what_forward_may_do_without() -> None:
    """An argument that is None by default is None, unless the example gives it."""

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor | None = None, *, z: Tensor | None = None) -> Tensor:
            h = F.relu(self.a(x))
            if z is not None:
                h = h.tanh()
            return self.c(h) if y is None else self.c(F.relu(h + self.b(y)))

    net, x, y = randomized(Optional()), normal(5, 3), normal(5, 2)
    for example in (None, x, (x,), (x, None)):
        graph = trace(net, example)
        assert list(graph.groups) == ["input", "a", "c"]
        assert change(graph, x) <= 1e-12
    graph = trace(net, (x, y))
    assert [edge.name for edge in graph.edges] == ["a", "b", "c"]
    assert list(graph.hidden) == ["a"]  # the units of b are added to them
    assert change(graph, x, y) <= 1e-12


IN_MODES: dict[str, tuple[Callable[[Net, Tensor], Any], dict[str, int], list[str]]] = {
    "auxiliary head": (
        lambda n, h: (n.last(h), n.extra(h)) if n.training else (n.last(h),),
        {"first": 4},
        ["first", "last", "extra"],
    ),
    "auxiliary head when evaluating": (
        lambda n, h: (n.last(h),) if n.training else (n.last(h), n.extra(h)),
        {"first": 4},
        ["first", "last", "extra"],
    ),
    "noise": (
        lambda n, h: n.last(h + torch.ones(4, dtype=h.dtype) if n.training else h),
        {},
        ["first", "last"],
    ),
    "layer": (
        lambda n, h: n.last(F.relu(n.extra(h)) if n.training else h),
        {"first": 4},
        ["first", "last", "extra"],
    ),
    "dropout": (
        lambda n, h: n.last(n.norm(F.dropout(h, 0.0, n.training)).relu()),
        {"norm": 4},
        ["first", "norm", "last"],
    ),
}


@pytest.mark.parametrize("name", IN_MODES)
@pytest.mark.parametrize("example", [False, True], ids=["", "example"])
def test_training_and_evaluation_differ(name: str, example: bool) -> None:
    forward, hidden, edges = IN_MODES[name]
    net = randomized(
        Net(
            lambda n, x: forward(n, F.relu(n.first(x))),
            first=nn.Linear(3, 4),
            extra=nn.Linear(4, 4),
            last=nn.Linear(4, 4),
            norm=nn.BatchNorm1d(4),
        )
    )
    x = normal(6, 3)
    for mode in (True, False):
        net.train(mode)
        net.norm.eval()
        graph = trace(net, x if example else None)
        assert (net.training, net.norm.training) == (mode, False)
        assert {name: group.size for name, group in graph.hidden.items()} == hidden
        assert sorted(edge.name for edge in graph.edges) == sorted(edges)
        assert not [name for name in graph.groups if ":" in name]  # each is listed once
        for each in (True, False):
            both = RescalingGraph(copy.deepcopy(net).train(each), graph.groups, graph.edges)
            outputs = both.model(x)
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            for index in range(len(parts)):
                part = copy.deepcopy(both.model)
                part.run = lambda n, x, i=index: (
                    out[i] if isinstance(out := forward(n, F.relu(n.first(x))), tuple) else out
                )
                assert change(RescalingGraph(part, graph.groups, graph.edges), x) <= 1e-12


def test_an_activation_of_evaluation_only() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        h = n.first(x)
        return n.last(F.relu(h) if n.training else h.sigmoid())

    net = randomized(Net(forward, first=nn.Linear(3, 4), last=nn.Linear(4, 2)))
    with pytest.raises(NotHomogeneousError, match="sigmoid at 'sigmoid'"):
        trace(net)
    assert not trace(net, on_unsupported="freeze").hidden


def test_an_example_that_fits_one_mode_only() -> None:
    """In training a batch norm wants two samples."""

    def forward(n: Net, x: Tensor) -> Tensor:
        h = F.batch_norm(n.first(x), n.mean, n.variance, training=n.training)
        return n.last(F.relu(n.second(h)))

    net = randomized(
        Net(
            forward,
            first=nn.Linear(3, 4),
            second=nn.Linear(4, 5),
            last=nn.Linear(5, 2),
            mean=nn.Buffer(torch.zeros(4)),
            variance=nn.Buffer(torch.ones(4)),
        )
    )
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        trace(net, normal(1, 3))
    graph = trace(net.eval(), normal(1, 3))
    assert list(graph.hidden) == ["second"]
    assert change(graph, normal(5, 3)) <= 1e-12


def test_what_forward_stores_is_undone() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        h = F.relu(n.first(x) + torch.ones(4, dtype=torch.float64))
        n.kept, n.count = h, n.count + 1
        n.features.append(h)
        n.named["h"] = h
        n.calls += 1
        n.cache.mul_(2)
        n.first.seen = True
        return n.last(F.relu(n.second(h)) * torch.rand(1).item())

    net = randomized(
        Net(
            forward,
            first=nn.Linear(3, 4),
            second=nn.Linear(4, 5),
            last=nn.Linear(5, 2),
            calls=nn.Buffer(torch.zeros(())),
        )
    ).eval()
    net.features, net.named, net.count, net.cache = [], {"a": 1}, 0, torch.ones(3)
    before, attributes, random = state(net), dict(vars(net)), torch.get_rng_state()
    buffer, features, named = net.calls, net.features, net.named
    for example in (None, normal(2, 3)):
        graph = trace(net, example)
        assert graph.groups["first"].frozen == "added to '_tensor_constant0', a buffer"
        assert graph.model is net
    assert vars(net) == attributes
    assert net.features is features == []
    assert net.named is named == {"a": 1}
    assert net.calls is buffer
    assert torch.equal(net.cache, torch.ones(3))
    assert not hasattr(net.first, "seen")
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)
    balance(net)


def test_an_error_undoes_what_forward_stored() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        n.kept = n.first(x)
        return n.first(x) if n.kept.sum() > 0 or n.training else n.kept

    net = Net(forward, first=nn.Linear(3, 4))
    with pytest.raises(NotHomogeneousError, match=r"torch\.fx cannot follow it"):
        trace(net)
    assert not hasattr(net, "kept")
    assert net.training


def test_a_mode_that_cannot_be_followed_is_named() -> None:
    net = Net(lambda n, x: n.first(x) if n.training or x.sum() > 0 else x, first=nn.Linear(3, 4))
    with pytest.raises(NotHomogeneousError, match="tracing in evaluation mode at 'Net'"):
        trace(net)


def test_a_network_without_layers() -> None:
    with pytest.raises(NotHomogeneousError, match="a network without layers has no hidden units"):
        trace(nn.Sequential())


def test_an_example_leaves_running_statistics_and_the_generator_alone() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2)
    )
    before, random = state(net), torch.get_rng_state()
    trace(net, torch.ones(2, 3, 4, 4))
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)


def test_one_activation_module_at_two_places() -> None:
    net = randomized(
        Net(
            lambda n, x: n.c(n.act(n.b(n.act(n.a(x))))),
            a=nn.Linear(3, 4),
            act=nn.Tanh(),
            b=nn.Linear(4, 5),
            c=nn.Linear(5, 1),
        )
    )
    graph = trace(net, on_unsupported="freeze")
    assert {name: g.size for name, g in graph.groups.items() if "act" in name} == {
        "act": 4,
        "act:2": 5,
    }


def test_layer_invariants_with_shared_layers() -> None:
    """A layer that reads and writes the same units adds nothing to their sum, but its bias."""
    shared = nn.Linear(4, 4)
    net = randomized(
        nn.Sequential(nn.Linear(3, 4), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2))
    )
    squares = {n: float(w.detach().square().sum()) for n, w in net.named_parameters()}
    expected = squares["0.weight"] + squares["0.bias"] + squares["1.bias"] - squares["5.weight"]
    assert math.isclose(float(layer_invariants(net)["0"]), expected, rel_tol=1e-12)

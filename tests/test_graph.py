"""The rescaling graph: what is found, what is refused, and how it is reported."""

import pickle
import re
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from strategies import state, unchanged
from torch import Tensor, nn
from torch.nn.utils import prune

from balancing import (
    Edge,
    Group,
    NotHomogeneousError,
    RescalingGraph,
    Source,
    imbalance,
    mlp,
    trace,
)

# name in the tests -> (module, what the error calls it)
UNSUPPORTED = {
    "GELU": nn.GELU(),
    "Sigmoid": nn.Sigmoid(),
    "ReLU6": nn.ReLU6(),
    "Softmax": nn.Softmax(dim=-1),
    "Tanh": nn.Tanh(),
}


def three_layers(inside: nn.Module) -> nn.Sequential:
    layers = {
        "first": nn.Linear(4, 5),
        "relu": nn.ReLU(),
        "second": nn.Linear(5, 6),
        "inside": inside,
        "third": nn.Linear(6, 3),
        "leaky": nn.LeakyReLU(),
        "fourth": nn.Linear(3, 2),
    }
    return nn.Sequential(OrderedDict(layers))


class Functional(nn.Module):
    """Three linear layers, with the activation given as a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.function(self.two(self.function(self.one(x)))))


def test_mlp() -> None:
    net = mlp([4, 5, 3], bias=True)
    graph = trace(net)
    assert graph.model is net
    assert graph.groups == {
        "input": Group("input", 4, "linear", "network input"),
        "linear1": Group("linear1", 5, "relu", None),
        "linear2": Group("linear2", 3, "linear", "network output"),
    }
    assert graph.edges == (
        Edge("linear1", "linear1", (Source("input", 4),), "linear1.weight", "linear1.bias"),
        Edge("linear2", "linear2", (Source("linear1", 5),), "linear2.weight", "linear2.bias"),
    )
    assert list(graph.hidden) == ["linear1"]
    first, second = graph.edges
    assert list(graph.incoming("linear1")) == [first]
    assert list(graph.outgoing("linear1")) == [second]
    assert torch.equal(graph.weight(second), net.linear2.weight[None, :, :, None])
    assert torch.equal(graph.bias(first), net.linear1.bias)


def test_edges_without_bias() -> None:
    graph = trace(mlp([4, 5, 3]))
    assert [edge.bias for edge in graph.edges] == [None, None]
    assert graph.bias(graph.edges[0]) is None


def test_nested_sequential_uses_module_paths() -> None:
    inner = nn.Sequential(nn.Linear(3, 5), nn.LeakyReLU(0.2), nn.Dropout(0.1))
    graph = trace(nn.Sequential(inner, nn.Sequential(nn.Linear(5, 2), nn.Identity())))
    assert list(graph.groups) == ["input", "0.0", "1.0"]
    assert graph.groups["0.0"] == Group("0.0", 5, "leaky_relu", None)
    assert [edge.weight for edge in graph.edges] == ["0.0.weight", "1.0.weight"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (lambda x: x.relu(), "relu"),
        (lambda x: F.relu(input=x), "relu"),
        (lambda x: F.leaky_relu(x, 0.3), "leaky_relu"),
        (lambda x: F.dropout(x, 0.5, training=False), "dropout"),
    ],
    ids=["F.relu", "torch.relu", "method", "keyword", "F.leaky_relu", "F.dropout"],
)
def test_functions_and_methods(function: object, name: str) -> None:
    graph = trace(Functional(function))
    assert list(graph.hidden) == ["one", "two"]
    assert {group.activation for group in graph.hidden.values()} == {name}


def test_two_linear_layers_without_activation() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    assert graph.hidden == {"0": Group("0", 4, "linear", None)}


def test_group_read_by_two_layers_has_two_outgoing_edges() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.left, self.right = nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.body(x))
            return self.left(h), self.right(h)

    net = Heads().double()
    graph = trace(net)
    assert [edge.name for edge in graph.outgoing("body")] == ["left", "right"]
    assert list(graph.hidden) == ["body"]
    into = net.body.weight.square().sum(1)
    out = net.left.weight.square().sum(0) + net.right.weight.square().sum(0)
    # sums of at most five squares of order one
    torch.testing.assert_close(imbalance(net)["body"], (into - out).detach(), rtol=0, atol=1e-14)


def test_output_read_inside_is_frozen() -> None:
    class Peek(Functional):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.one(x))
            return self.three(torch.relu(self.two(h))), h

    graph = trace(Peek(None))
    assert graph.groups["one"].frozen == "network output"
    assert list(graph.hidden) == ["two"]


def test_layer_may_be_called_input() -> None:
    net = nn.Sequential(
        OrderedDict({"input": nn.Linear(3, 4), "relu": nn.ReLU(), "output": nn.Linear(4, 2)})
    )
    assert [group.size for group in trace(net).hidden.values()] == [4]


def test_trace_of_a_graph_is_the_graph() -> None:
    graph = trace(mlp([3, 4, 2]))
    assert trace(graph) is graph
    assert isinstance(graph, RescalingGraph)


@pytest.mark.parametrize("op", UNSUPPORTED)
def test_unsupported_module_is_named(op: str) -> None:
    net = three_layers(UNSUPPORTED[op])
    before = state(net)
    with pytest.raises(NotHomogeneousError) as caught:
        trace(net)
    error = caught.value
    assert (error.node, error.op) == ("inside", op)
    assert str(error) == f"{op} at 'inside': {error.reason}"
    assert "freeze" in error.reason  # says what would be accepted
    assert unchanged(net, before)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (F.gelu, "gelu"),
        (torch.sigmoid, "sigmoid"),
        (lambda x: x.tanh(), "tanh"),
        (F.relu6, "relu6"),
    ],
)
def test_unsupported_function_is_named(function: object, op: str) -> None:
    with pytest.raises(NotHomogeneousError, match=rf"'{op}") as caught:
        trace(Functional(function))
    assert caught.value.op == op
    assert caught.value.node == op


def test_unsupported_path_in_a_nested_module() -> None:
    net = nn.Sequential(OrderedDict(body=three_layers(nn.GELU())))
    with pytest.raises(NotHomogeneousError, match=r"GELU at 'body\.inside'"):
        trace(net)


def test_error_is_a_value_error_and_survives_pickling() -> None:
    error = NotHomogeneousError("body.2", "GELU", "it curves")
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is NotHomogeneousError
    assert (copy.node, copy.op, copy.reason) == ("body.2", "GELU", "it curves")
    assert str(copy) == str(error)


@pytest.mark.parametrize("op", UNSUPPORTED)
def test_freeze_keeps_both_sides_and_nothing_else(op: str) -> None:
    net = three_layers(UNSUPPORTED[op])
    graph = trace(net, on_unsupported="freeze")
    assert list(graph.hidden) == ["first", "third"]
    assert graph.groups["second"].frozen == f"read by {op} at 'inside'"
    assert graph.groups["inside"] == Group("inside", 6, "linear", f"computed by {op}")
    assert [(edge.sources[0].group, edge.target) for edge in graph.edges] == [
        ("input", "first"),
        ("first", "second"),
        ("inside", "third"),
        ("third", "fourth"),
    ]


def test_printed_graph_says_what_is_frozen_and_why() -> None:
    graph = trace(three_layers(nn.GELU()), on_unsupported="freeze")
    table, totals = str(graph).split("\n\n")
    heading, *lines = table.splitlines()
    assert heading.split() == ["group", "units", "rescaled", "activation", "incoming", "outgoing"]
    rows = {line.split()[0]: line for line in lines}
    assert list(rows) == list(graph.groups)
    columns = {name: re.split(" {2,}", row) for name, row in rows.items()}
    assert columns["input"][2] == "no: network input"
    assert columns["first"][2] == "yes"
    assert "first.weight + bias" in rows["first"]
    assert "second.weight" in rows["first"]
    assert columns["second"][2] == "no: read by GELU at 'inside'"
    assert columns["inside"][2] == "no: computed by GELU"
    assert columns["fourth"][2] == "no: network output"
    # first and third with their biases, second.weight, fourth.weight: 25 + 21 + 30 + 6 of 90
    assert totals == (
        "6 groups, 4 frozen; 82 of 90 parameters (91.1 %) touch a unit that may be rescaled"
    )


def test_printed_graph_lists_the_parameters_that_have_no_part() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.PReLU(3), nn.Linear(3, 2))
    assert "\nnot part of any edge: 1.weight\n3 groups, 2 frozen; " in str(trace(net))


def branch(x: Tensor) -> Tensor:
    return x.relu() if x.sum() > 0 else x


def rows(x: Tensor) -> Tensor:
    return torch.stack([row.relu() for row in x])


def counted(x: Tensor) -> Tensor:
    return x.relu() if len(x) > 1 else x


def ranged(x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        x = x.relu()
    return x


@pytest.mark.parametrize("flow", [branch, rows, counted, ranged])
@pytest.mark.parametrize("on_unsupported", ["raise", "freeze"])
def test_control_flow_that_cannot_be_followed(flow: object, on_unsupported: str) -> None:
    with pytest.raises(NotHomogeneousError, match=r"torch\.fx cannot follow") as caught:
        trace(Functional(flow), on_unsupported=on_unsupported)
    assert caught.value.node == "Functional"
    assert caught.value.op == "tracing"
    assert re.search(rf"at {re.escape(__file__)}:\d+, '.*(if x|for |len)", str(caught.value))
    assert "balance(model.features)" in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 3, "net", torch.ones(2), [nn.Linear(2, 2)], nn.Linear])
def test_wrong_type(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module or a RescalingGraph, got"):
        trace(wrong)


@pytest.mark.parametrize("wrong", ["ignore", "", None, True])
def test_bad_on_unsupported(wrong: object) -> None:
    with pytest.raises(ValueError, match="on_unsupported must be 'raise' or 'freeze', got"):
        trace(mlp([2, 3, 1]), on_unsupported=wrong)


def test_check_finite_names_the_parameter_and_counts() -> None:
    net = mlp([2, 3, 1], bias=True)
    graph = trace(net)
    graph.check_finite()
    with torch.no_grad():
        net.linear2.bias[0] = torch.nan
        net.linear2.weight[0, :2] = torch.inf
    with pytest.raises(ValueError, match=r"parameter 'linear2\.weight' has 2 NaN or infinite"):
        graph.check_finite()


# --- weights that are not the layer's own --------------------------------------------------------


class Tied(nn.Module):
    """The last layer's weight is that of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(x)).relu())


class Transposed(nn.Module):
    """An autoencoder whose decoder reads the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.inner = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = self.inner(self.encoder(x).relu()).tanh()
        return nn.functional.linear(code, self.encoder.weight.t())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other, self.first, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.first.weight = self.other.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.mark.parametrize(
    ("model", "layer", "group", "other"),
    [
        (Tied, "head", "hidden", "embedding.weight"),
        (Transposed, "encoder", "encoder", "'encoder_weight' in forward"),
        (Unused, "first", "first", "other.weight"),
    ],
)
def test_weight_that_something_else_uses(
    model: type[nn.Module], layer: str, group: str, other: str
) -> None:
    graph = trace(model(), on_unsupported="freeze")
    assert graph.groups[group].frozen == f"'{layer}.weight' is also {other}"
    assert group not in graph.hidden


def test_two_parameters_in_one_place() -> None:
    net = mlp([3, 3, 3])
    net.linear2.weight = nn.Parameter(net.linear1.weight.data)
    graph = trace(net)
    assert graph.groups["linear1"].frozen == "'linear1.weight' is also linear2.weight"
    assert not graph.hidden


def test_parameters_side_by_side_in_one_buffer() -> None:
    net, flat = mlp([3, 3, 3]), torch.randn(18)
    for k, layer in enumerate((net.linear1, net.linear2)):
        layer.weight = nn.Parameter(flat[9 * k : 9 * k + 9].view(3, 3))
    assert list(trace(net).hidden) == ["linear1"]


def test_layers_whose_weights_are_not_there() -> None:
    pruned = mlp([3, 4, 2])
    prune.l1_unstructured(pruned.linear1, "weight", 2)
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    for net, message in (
        (pruned, "its weight is no parameter but computed from others, as by pruning"),
        (lazy, "its size is not known yet; run the model on an input first"),
        (empty_layer(), "it has no weights: one of its widths is 0"),
    ):
        with pytest.raises(NotHomogeneousError, match=message):
            trace(net)


def empty_layer() -> nn.Module:
    with warnings.catch_warnings():  # torch says that initialization has nothing to do
        warnings.simplefilter("ignore", UserWarning)
        return nn.Sequential(nn.Linear(3, 0), nn.ReLU(), nn.Linear(0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.complex64}, r"'0\.weight' is torch\.complex64; weights must be real"),
        ({"device": "meta"}, r"'0\.weight' has no values: it is on the meta device"),
    ],
)
def test_parameters_without_real_values(options: dict[str, Any], message: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4, **options), nn.Identity(), nn.Linear(4, 2, **options))
    with pytest.raises(ValueError, match=message):
        trace(net).check_finite()

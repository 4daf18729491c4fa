"""The rescaling graph of a network: which units may be rescaled, and which weights carry them.

A positively homogeneous activation lets a positive factor pass: ``phi(a z) = a phi(z)`` for
``a > 0``. So the incoming weights and the bias of a hidden unit may be multiplied by ``a`` and
its outgoing weights divided by ``a`` without changing the function of the network.
:func:`trace` finds these units. It follows the data through the network with torch.fx and returns
a :class:`RescalingGraph`: *groups* of units joined by *edges*, one edge per weight tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from torch import Tensor, fx, nn

__all__ = ["Edge", "Group", "NotHomogeneousError", "RescalingGraph", "trace"]


class NotHomogeneousError(ValueError):
    """A network does something through which a rescaling factor cannot pass.

    Attributes:
        node: where, as the network names it (a module path, or the name of a traced call).
        op: what is done there, for example ``"GELU"``.
        reason: why no factor can pass.
    """

    def __init__(self, node: str, op: str, reason: str) -> None:
        super().__init__(f"{op} at '{node}': {reason}")
        self.node, self.op, self.reason = node, op, reason

    def __reduce__(self) -> tuple[Any, ...]:  # so that it survives pickling between processes
        return type(self), (self.node, self.op, self.reason)


@dataclass(frozen=True)
class Group:
    """Units that are computed together: the outputs of one layer, or the network's input.

    Attributes:
        name: name of the layer that computes the units; ``"input"`` for the network's input.
        size: number of units.
        activation: ``"linear"``, or the non-linear activation that the units pass through.
        frozen: why the units must keep factor 1, or None for hidden units, which are free.
    """

    name: str
    size: int
    activation: str = "linear"
    frozen: str | None = None


@dataclass(frozen=True)
class Edge:
    """The weights that lead from one group of units to another.

    Attributes:
        name: module path of the layer.
        source: name of the group that the weights read from.
        target: name of the group that the weights write to.
        weight: name of the weight among the model's parameters.
        bias: name of the bias among the model's parameters, or None.
    """

    name: str
    source: str
    target: str
    weight: str
    bias: str | None

    def by_channel(self, weight: Tensor) -> Tensor:
        """View a tensor shaped like the weight as (target units, source units, taps).

        A linear layer has one tap per pair of units. Every module on top of the graph works
        on this form, so that a layer type is described here and nowhere else.
        """
        return weight.unsqueeze(-1)


class RescalingGraph:
    """Groups of units and the weights between them, as found by :func:`trace`.

    Attributes:
        model: the traced module. The graph reads its current weights; it stores none.
        groups: name -> :class:`Group`, in the order in which the network computes them.
        edges: the layers, in the same order.
    """

    def __init__(self, model: nn.Module, groups: dict[str, Group], edges: tuple[Edge, ...]) -> None:
        self.model, self.groups, self.edges = model, groups, edges

    @property
    def hidden(self) -> dict[str, Group]:
        """The groups whose units may be rescaled, by name."""
        return {name: group for name, group in self.groups.items() if group.frozen is None}

    def incoming(self, group: str) -> Iterator[Edge]:
        """Edges that write to the group."""
        return (edge for edge in self.edges if edge.target == group)

    def outgoing(self, group: str) -> Iterator[Edge]:
        """Edges that read from the group."""
        return (edge for edge in self.edges if edge.source == group)

    def weight(self, edge: Edge) -> Tensor:
        """Current weights of an edge, shape (target units, source units, taps); a view."""
        return edge.by_channel(self.model.get_parameter(edge.weight))

    def bias(self, edge: Edge) -> Tensor | None:
        """Current biases of an edge, shape (target units,), or None."""
        return None if edge.bias is None else self.model.get_parameter(edge.bias)

    def check_finite(self) -> None:
        """Raise ValueError, naming the parameter, if a weight or bias is NaN or infinite."""
        for edge in self.edges:
            for name in filter(None, (edge.weight, edge.bias)):
                bad = ~torch.isfinite(self.model.get_parameter(name).detach())
                if bad.any():
                    raise ValueError(
                        f"parameter '{name}' has {int(bad.sum())} NaN or infinite entries; "
                        "every weight and bias must be finite"
                    )

    def __str__(self) -> str:
        """List every group with the weights that carry its factors, and what is frozen and why."""
        rows = [("group", "units", "activation", "incoming", "outgoing", "rescaled")]
        for group in self.groups.values():
            into = [e.weight + (" + bias" if e.bias else "") for e in self.incoming(group.name)]
            out = [edge.weight for edge in self.outgoing(group.name)]
            rows.append(
                (
                    group.name,
                    str(group.size),
                    group.activation,
                    ", ".join(into) or "-",
                    ", ".join(out) or "-",
                    f"no: {group.frozen}" if group.frozen else "yes",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


def trace(
    model: nn.Module | RescalingGraph, *, on_unsupported: Literal["raise", "freeze"] = "raise"
) -> RescalingGraph:
    """Find the units of a network that may be rescaled and the weights that carry them.

    Supported now: ``nn.Linear``; ReLU and leaky ReLU as modules, functions or methods; Identity
    and Dropout; any way of composing them that torch.fx can trace.

    Args:
        model: the network. A :class:`RescalingGraph` is returned as it is.
        on_unsupported: what to do about an operation through which no factor can pass.
            ``"raise"`` an error, or ``"freeze"``: treat it as a boundary, so that the units
            before and behind it keep factor 1; the graph says why when it is printed.

    Raises:
        NotHomogeneousError: an activation is not positively homogeneous (GELU, sigmoid, ...), an
            operation is not supported, two layers share a weight, or torch.fx cannot trace the
            model. The model is not changed.
        TypeError: ``model`` is neither a module nor a graph.
        ValueError: ``on_unsupported`` is neither of the two words.
    """
    if isinstance(model, RescalingGraph):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module or a RescalingGraph, got {type(model).__name__}"
        )
    if on_unsupported not in ("raise", "freeze"):
        raise ValueError(f"on_unsupported must be 'raise' or 'freeze', got {on_unsupported!r}")
    return _Builder(model, on_unsupported).build()


# --- building the graph --------------------------------------------------------------------------

_ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Identity: "linear",
    nn.Dropout: "linear",
    F.relu: "relu",
    torch.relu: "relu",
    F.leaky_relu: "leaky_relu",
    F.dropout: "linear",
    "relu": "relu",  # the tensor method
}
_SUPPORTED = (
    "supported are Linear, ReLU, LeakyReLU, Identity and Dropout; "
    "trace(model, on_unsupported='freeze') treats anything else as a boundary"
)
_WHY_NOT = {
    "ReLU6": "it is capped at 6, so it is not positively homogeneous",
    "GELU": "it is not positively homogeneous",
    "Sigmoid": "it is not positively homogeneous",
    "Tanh": "it is not positively homogeneous",
    "Softmax": "its output does not change in proportion to its input",
}


class _Builder:
    """Walks the traced nodes in order and keeps, for each, the group whose units it carries."""

    def __init__(self, model: nn.Module, on_unsupported: str) -> None:
        self.model = model
        self.on_unsupported = on_unsupported
        self.modules = {name for name, _ in model.named_modules()}
        self.groups: dict[str, Group] = {}
        self.edges: list[Edge] = []
        self.owner: dict[int, str] = {}  # id of a parameter -> the layer that uses it
        self.group_of: dict[fx.Node, str] = {}

    def build(self) -> RescalingGraph:
        if type(self.model) is nn.Linear:
            raise NotHomogeneousError(
                type(self.model).__name__, "tracing", "a single layer has no hidden units"
            )
        try:
            traced = fx.symbolic_trace(self.model)
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise NotHomogeneousError(
                type(self.model).__name__, "tracing", f"torch.fx cannot follow it ({error})"
            ) from error
        handlers: dict[str, Callable[[fx.Node], None]] = {
            "placeholder": self.placeholder,
            "output": self.output,
        }
        for node in traced.graph.nodes:
            handlers.get(node.op, self.call)(node)
        return RescalingGraph(self.model, self.groups, tuple(self.edges))

    def placeholder(self, node: fx.Node) -> None:
        name = "input" if not self.groups else str(node.target)
        while name in self.modules:  # groups of units are named after modules
            name = f"network {name}"
        self.group_of[node] = self.add(Group(name, 0, frozen="network input"))

    def output(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self.freeze(source, "network output")

    def call(self, node: fx.Node) -> None:
        """Handle a module, function or method that is applied to the data."""
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        kind = type(module) if module is not None else node.target
        if kind is nn.Linear:
            assert isinstance(module, nn.Linear)
            self.linear(node, module)
        elif kind in _ACTIVATIONS:
            source = node.all_input_nodes[0]
            self.group_of[node] = self.group_of[source]
            if _ACTIVATIONS[kind] != "linear":
                self.update(self.group_of[source], activation=_ACTIVATIONS[kind])
        else:
            self.unsupported(node, kind)

    def linear(self, node: fx.Node, layer: nn.Linear) -> None:
        name = str(node.target)
        source = self.group_of[node.all_input_nodes[0]]
        if self.groups[source].size == 0:  # a boundary learns its width from its first reader
            self.update(source, size=layer.in_features)
        for parameter in [layer.weight] if layer.bias is None else [layer.weight, layer.bias]:
            earlier = self.owner.setdefault(id(parameter), name)
            if earlier != name or name in self.groups:
                reason = f"it is also used by '{earlier}', and one tensor has one scale"
                raise NotHomogeneousError(name, "shared parameter", reason)
        self.group_of[node] = self.add(Group(name, layer.out_features))
        bias = None if layer.bias is None else f"{name}.bias"
        self.edges.append(Edge(name, source, self.group_of[node], f"{name}.weight", bias))

    def unsupported(self, node: fx.Node, kind: Any) -> None:
        op = getattr(kind, "__name__", str(kind))
        where = str(node.target) if node.op == "call_module" else node.name
        if self.on_unsupported == "raise":
            why = _WHY_NOT.get(op, "no rescaling factor is known to pass through it")
            raise NotHomogeneousError(where, op, f"{why}; {_SUPPORTED}")
        for source in node.all_input_nodes:
            self.freeze(source, f"read by {op} at '{where}'")
        self.group_of[node] = self.add(Group(where, 0, frozen=f"computed by {op}"))

    def freeze(self, node: fx.Node, reason: str) -> None:
        group = self.group_of[node]
        if self.groups[group].frozen is None:
            self.update(group, frozen=reason)

    def add(self, group: Group) -> str:
        self.groups[group.name] = group
        return group.name

    def update(self, name: str, **changes: Any) -> None:
        self.groups[name] = replace(self.groups[name], **changes)

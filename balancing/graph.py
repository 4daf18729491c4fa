"""The rescaling graph of a network: which units may be rescaled, and which weights carry them.

A positively homogeneous activation lets a positive factor pass: ``phi(a z) = a phi(z)`` for
``a > 0``. So the incoming weights and the bias of a hidden unit may be multiplied by ``a`` and
its outgoing weights divided by ``a`` without changing the function of the network.
:func:`trace` finds these units. It follows the data through the network with torch.fx and returns
a :class:`RescalingGraph`: *groups* of units joined by *edges*, one edge per weight tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from balancing._validate import a_module, all_finite

__all__ = ["Edge", "Group", "NotHomogeneousError", "RescalingGraph", "Source", "trace"]


_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
class Source:
    """The units of one group, as a layer reads them.

    Attributes:
        group: name of the group.
        size: number of units read.
        repeat: columns of the weight for each unit, next to each other: 1, or the number of
            positions of a channel behind a flatten.
    """

    group: str
    size: int
    repeat: int = 1


@dataclass(frozen=True)
class Edge:
    """The weights of one layer: they lead from one group of units, or several, to another.

    The gains of a normalization are the weights of an edge, too, which leads from the normalized
    values to a group of as many units, one weight each. A weight that several layers share is one
    edge.

    Attributes:
        name: module path of the layer.
        target: name of the group that the weights write to.
        sources: what the weights read, in the order of their columns; more than one where groups
            were concatenated.
        weight: name of the weight among the model's parameters.
        bias: name of the bias among the model's parameters, or None.
        blocks: number of groups of a grouped convolution; number of units of a normalization; 1
            for every other layer.
        transposed: whether the weight has its source dimension first (transposed convolution).
    """

    name: str
    target: str
    sources: tuple[Source, ...]
    weight: str
    bias: str | None
    blocks: int = 1
    transposed: bool = False

    def by_channel(self, weight: Tensor) -> Tensor:
        """View a tensor shaped like the weight as (blocks, targets, columns, taps).

        ``targets`` and ``columns`` count within a block. A linear layer has one block and one
        tap; a normalization has a block of one gain for each unit. Everything on top of the graph
        works on this form, so that a layer type is described here and nowhere else.
        """
        if weight.dim() == 1:
            return weight.view(self.blocks, 1, 1, 1)
        weight = weight.unsqueeze(-1) if weight.dim() == 2 else weight.flatten(2)
        blocked = weight.view(self.blocks, -1, *weight.shape[1:])
        return blocked.transpose(1, 2) if self.transposed else blocked

    def like_weight(self, by_channel: Tensor) -> Tensor:
        """Undo :meth:`by_channel` but for the taps: (targets or sources first, the rest, taps)."""
        blocked = by_channel.transpose(1, 2) if self.transposed else by_channel
        return blocked.flatten(0, 1)

    def columns(self, units: Callable[[str], Tensor | None], like: Tensor) -> Tensor:
        """One number for each column, from the numbers of the units that it reads.

        Args:
            units: group name -> tensor of shape (units,), or None for ones.
            like: a tensor of the wanted dtype and device.
        """
        parts = []
        for source in self.sources:
            values = units(source.group)
            ones = like.new_ones(source.size)
            parts.append(
                (ones if values is None else values.to(ones)).repeat_interleave(source.repeat)
            )
        return torch.cat(parts)

    def by_source(self, columns: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Sum one number a column over the columns of each unit: (group name, (units,)) pairs."""
        sizes = [source.size * source.repeat for source in self.sources]
        for source, part in zip(self.sources, columns.split(sizes), strict=True):
            yield source.group, part.unflatten(0, (source.size, source.repeat)).sum(1)


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
        return (e for e in self.edges if any(source.group == group for source in e.sources))

    def weight(self, edge: Edge) -> Tensor:
        """Current weights of an edge, shape (blocks, targets, columns, taps); a view."""
        return edge.by_channel(self.model.get_parameter(edge.weight))

    def bias(self, edge: Edge) -> Tensor | None:
        """Current biases of an edge, shape (target units,), or None."""
        return None if edge.bias is None else self.model.get_parameter(edge.bias)

    def check_real(self) -> None:
        """Raise ValueError, naming the parameter, if a weight or bias has no real values.

        One on the meta device has none, and one that is complex or of whole numbers, or in a format
        of eight bits, none that can be computed with.
        """
        for edge in self.edges:
            for name in filter(None, (edge.weight, edge.bias)):
                parameter = self.model.get_parameter(name)
                if parameter.is_meta:
                    raise ValueError(f"parameter '{name}' has no values: it is on the meta device")
                if parameter.dtype not in _REAL:
                    raise ValueError(
                        f"parameter '{name}' is {parameter.dtype}; weights must be real, of a "
                        "floating-point dtype of at least 16 bits"
                    )

    def check_finite(self, *, weights: bool = True) -> None:
        """Raise ValueError, naming the parameter, if a weight or bias is NaN or infinite.

        Or if it has no real values, as :meth:`check_real` says.

        Args:
            weights: whether to look for NaN and infinity in the weights, too, or in biases alone.
        """
        self.check_real()
        for edge in self.edges:
            for name in filter(None, (edge.weight, edge.bias)):
                parameter = self.model.get_parameter(name).detach()
                if (weights or name == edge.bias) and not all_finite(parameter):
                    bad = int((~torch.isfinite(parameter)).sum())
                    raise ValueError(
                        f"parameter '{name}' has {bad} NaN or infinite entries; "
                        "every weight and bias must be finite"
                    )

    def __str__(self) -> str:
        """List every group with the weights that carry its factors, and what is frozen and why.

        Below the table: the parameters that have no part in any of it, and totals.
        """
        rows = [("group", "units", "rescaled", "activation", "incoming", "outgoing")]
        for group in self.groups.values():
            into = [e.weight + (" + bias" if e.bias else "") for e in self.incoming(group.name)]
            out = [edge.weight for edge in self.outgoing(group.name)]
            rows.append(
                (
                    group.name,
                    str(group.size or "?"),
                    f"no: {group.frozen}" if group.frozen else "yes",
                    group.activation,
                    ", ".join(into) or "-",
                    ", ".join(out) or "-",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, "", *self._without_part(), self._totals()])

    def _without_part(self) -> list[str]:
        known = {
            id(self.model.get_parameter(n)) for e in self.edges for n in (e.weight, e.bias) if n
        }
        others = [name for name, w in self.model.named_parameters() if id(w) not in known]
        return [f"not part of any edge: {', '.join(others)}"] if others else []

    def _totals(self) -> str:
        hidden = self.hidden
        touched: dict[str, int] = {}
        for edge in self.edges:
            reads = any(source.group in hidden for source in edge.sources)
            if reads or edge.target in hidden:
                touched[edge.weight] = self.model.get_parameter(edge.weight).numel()
            if edge.bias is not None and edge.target in hidden:
                touched[edge.bias] = self.model.get_parameter(edge.bias).numel()
        total = sum(parameter.numel() for parameter in self.model.parameters())
        count = sum(touched.values())
        return (
            f"{len(self.groups)} groups, {len(self.groups) - len(hidden)} frozen; {count} of "
            f"{total} parameters ({100 * count / max(total, 1):.1f} %) touch a unit that may be "
            "rescaled"
        )


def trace(
    model: nn.Module | RescalingGraph,
    example_input: Tensor | tuple[Any, ...] | None = None,
    *,
    on_unsupported: Literal["raise", "freeze"] = "raise",
) -> RescalingGraph:
    """Find the units of a network that may be rescaled and the weights that carry them.

    A factor passes through Linear, convolution and transposed convolution (grouped and depthwise,
    too); ReLU, leaky ReLU and PReLU; maximum, average and adaptive pooling; Identity, Dropout, zero
    padding, upsampling; products with numbers; means, sums and maxima over positions or tokens;
    whatever moves dimensions and keeps units apart; sums and concatenations; as modules, functions
    or tensor methods, composed in any way that torch.fx can follow. A unit is a channel there: the
    columns of a linear layer behind a flatten are grouped by channel, a sum ties the units of its
    summands, a concatenation sets groups side by side. The first dimension of every tensor is taken
    to be the batch. Forward hooks are not seen.

    The network is traced as it is, in training and in evaluation mode: where its ``forward`` does
    different things, the factors keep both functions. An argument that is None by default, and that
    ``example_input`` does not give, is None. Whatever else ``forward`` decides in Python, as by
    ``torch.rand(1).item() > 0.5``, is decided once, while it is traced.

    A *boundary* stops factors: the units that it reads are frozen, that is they keep factor 1.

    * A normalization (batch, group, instance, layer, RMS) is one; its gains and biases are the
      incoming weights and biases of a new group, which is free: a gain for each unit. So the
      function is kept in training and in evaluation mode, and running statistics are not touched.
    * ``nn.MultiheadAttention``, embeddings and torch's transformer layers are boundaries; of the
      latter the hidden units between the two linear layers are free if the activation is ReLU.
      So are normalizations and attention as functions; there the gains have no part.
    * What a parameter, a buffer or a constant is added to is frozen.
    * Any other operation on units that may be rescaled is an error, unless ``on_unsupported`` says
      that it is a boundary.

    A tensor that several layers use has one scale: what they write is tied, and so is what they
    read, and there is one edge for all of them. Where that is not possible, or where something else
    uses the tensor, its units are frozen. Print the graph to see what is frozen, and why.

    Args:
        model: the network. A :class:`RescalingGraph` is returned as it is.
        example_input: an input of the network, or a tuple of several. Only shapes are looked at,
            and nothing is computed. Needed only where dimensions or sizes cannot be told otherwise:
            ``view(-1, n)``, tokens behind a linear layer, flattened maps that are concatenated.
            Without it a BatchNorm1d or GroupNorm behind a linear layer of as many features is taken
            to read (batch, features), and one whose input may have any dimensions, as that of the
            network, has gains that stay as they are.
        on_unsupported: what to do about an operation through which no factor can pass.
            ``"raise"`` an error, or ``"freeze"``: treat it as a boundary, so that the units
            before and behind it keep factor 1; the graph says why when it is printed.

    Raises:
        NotHomogeneousError: an activation is not positively homogeneous (GELU, sigmoid, ...), an
            operation is not supported, or torch.fx cannot trace the model (the message names the
            line). The model is not changed: what ``forward`` stores on modules is undone.
        TypeError: ``model`` is neither a module nor a graph, or its class forgot
            ``super().__init__()``.
        ValueError: ``on_unsupported`` is neither of the two words, or the network cannot be applied
            to ``example_input``.
    """
    if isinstance(model, RescalingGraph):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module or a RescalingGraph, got {type(model).__name__}"
        )
    a_module("model", model)
    if on_unsupported not in ("raise", "freeze"):
        raise ValueError(f"on_unsupported must be 'raise' or 'freeze', got {on_unsupported!r}")
    from balancing._tracing import Builder  # it needs the classes above

    return Builder(model, example_input, on_unsupported).build()

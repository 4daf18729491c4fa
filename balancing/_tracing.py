"""How :func:`balancing.trace` builds the graph: it follows the units through every operation.

What an operation does to the factors of the units that it reads. A name stands for the module,
the function and the tensor method alike: nn.ReLU, F.relu, torch.relu and x.relu() are "relu".
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.parameter import is_lazy

from balancing.graph import Edge, Group, NotHomogeneousError, RescalingGraph, Source

__all__ = ["Builder"]

_LINEAR = {"identity", "contiguous", "clone", "detach"}  # nothing happens to a unit
_PER_UNIT_LINEAR = {  # linear, each channel by itself
    "avgpool",
    "adaptiveavgpool",
    "zeropad",
    "upsample",
    "upsamplingnearest",
    "upsamplingbilinear",
    "interpolate",
}
_PER_UNIT = {  # positively homogeneous, each unit by itself; the name that a group then shows
    "relu": "relu",
    "leakyrelu": "leaky_relu",
    "prelu": "prelu",
    "abs": "abs",
    "maxpool": "max_pool",
    "adaptivemaxpool": "max_pool",
    "dropout": "dropout",  # linear, but a mask does not commute with mixing units
}
_POSITIONS = ((2, 3), [2, 3], (-2, -1), [-2, -1])
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NOT_PLANAR = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose3d)
_SUPPORTED = (
    "supported are linear layers and convolutions, (leaky, parametric) ReLU, pooling, dropout, "
    "zero padding, flatten, sums and concatenations; trace(model, on_unsupported='freeze') treats "
    "anything else as a boundary"
)
_WHY_NOT = {
    "relu6": "it is capped at 6, so it is not positively homogeneous",
    "gelu": "it is not positively homogeneous",
    "sigmoid": "it is not positively homogeneous",
    "tanh": "it is not positively homogeneous",
    "softmax": "its output does not change in proportion to its input",
}


@dataclass(frozen=True)
class _Segment:
    """Units of one group as they lie in a tensor; ``repeat`` is None where it is not known."""

    group: int
    size: int | None
    repeat: int | None = 1


@dataclass(frozen=True)
class _Stream:
    """The units that a traced tensor carries, and where.

    ``layout`` is "map" where channels are dimension 1, "features" where units are the last
    dimension, "any" for a network input, which either kind of layer may read.
    """

    segments: tuple[_Segment, ...]
    layout: Literal["any", "map", "features"]


class _Unsupported(Exception):  # noqa: N818  (becomes an error or a boundary)
    """Why no factor can pass."""


class Builder:
    """Walks the traced nodes in order and keeps, for each, the units that it carries.

    Groups are numbered while building, since a sum may still tie two of them; ``tied`` leads from
    a number to the number of the group that it was tied to.
    """

    def __init__(self, model: nn.Module, example_input: Tensor | None, on_unsupported: str) -> None:
        self.model, self.example_input = model, example_input
        self.on_unsupported = on_unsupported
        self.modules = {name for name, _ in model.named_modules()}
        self.groups: list[Group] = []
        self.tied: list[int] = []
        self.edges: list[tuple[Edge, int, tuple[_Segment, ...]]] = []
        self.owner: dict[int, tuple[str, int]] = {}  # id of a parameter -> layer, its group
        self.streams: dict[fx.Node, _Stream] = {}  # nodes that carry no units are not in it
        self.shapes: dict[fx.Node, torch.Size] = {}

    def build(self) -> RescalingGraph:
        if type(self.model).__module__.startswith("torch.nn.modules") and not list(
            self.model.children()
        ):
            raise NotHomogeneousError(
                type(self.model).__name__, "tracing", "a single layer has no hidden units"
            )
        try:
            traced = fx.symbolic_trace(self.model)
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise NotHomogeneousError(
                type(self.model).__name__, "tracing", f"torch.fx cannot follow it ({error})"
            ) from error
        if self.example_input is not None:
            with torch.no_grad():
                ShapeProp(traced).propagate(self.example_input)
            for node in traced.graph.nodes:
                if "tensor_meta" in node.meta and hasattr(node.meta["tensor_meta"], "shape"):
                    self.shapes[node] = node.meta["tensor_meta"].shape
        for node in traced.graph.nodes:
            self.visit(node)
        self.check_shared(traced.graph)
        return self.result()

    def check_shared(self, graph: fx.Graph) -> None:
        """Refuse a weight that something else uses, too: it would be rescaled with the layer."""
        users: dict[int, set[str]] = {}
        for module, submodule in self.model.named_modules():
            for name, parameter in submodule.named_parameters(recurse=False):
                users.setdefault(_place(parameter), set()).add(f"{module}.{name}".lstrip("."))
        for node in graph.nodes:
            if node.op == "get_attr":  # the network reads a layer's weight by itself
                tensor: Any = functools.reduce(getattr, str(node.target).split("."), self.model)
                if isinstance(tensor, Tensor):
                    users.setdefault(_place(tensor), set()).add(f"'{node.name}' in forward")
        for edge, *_ in self.edges:
            for name in filter(None, (edge.weight, edge.bias)):
                others = users[_place(self.model.get_parameter(name))] - {name}
                if others:
                    reason = f"'{name}' is also {min(others)}, and one tensor has one scale"
                    raise NotHomogeneousError(edge.name, "shared parameter", reason)

    def result(self) -> RescalingGraph:
        """Name the groups and drop the ties."""
        roots = {number: self.root(number) for number in range(len(self.groups))}
        groups = {self.groups[root].name: self.groups[root] for root in roots.values()}
        edges = []
        for edge, target, segments in self.edges:
            sources = tuple(
                Source(self.groups[roots[s.group]].name, s.size or 0, s.repeat or 1)
                for s in segments
            )
            edges.append(replace(edge, target=self.groups[roots[target]].name, sources=sources))
        return RescalingGraph(self.model, groups, tuple(edges))

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            name = "input" if not self.groups else str(node.target)
            while name in self.modules:  # groups of units are named after modules
                name = f"network {name}"
            number = self.add(Group(name, 0, frozen="network input"))
            self.streams[node] = _Stream((_Segment(number, None, None),), "any")
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.freeze(source, "network output")
        elif any(source in self.streams for source in node.all_input_nodes):
            module = self.module_of(node)
            kind = type(module).__name__ if module is not None else _name_of(node.target)
            try:
                if not _is_torchs(node, module):
                    raise _Unsupported("it is not torch's own")
                stream = self.apply(node, kind, module)
            except _Unsupported as why:
                stream = self.boundary(node, kind, str(why))
            if stream is not None:
                self.streams[node] = stream

    def module_of(self, node: fx.Node) -> nn.Module | None:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def apply(self, node: fx.Node, kind: str, module: nn.Module | None) -> _Stream | None:
        """The units that the result of an operation carries; None if it carries none."""
        family = re.sub(r"[123]d$", "", kind).replace("_", "").lower()
        if family in ("size", "getattr", "dim"):
            return None  # a number, for a view
        if family in ("add", "iadd"):
            return self.tie(self.operands(node))
        if family in ("cat", "concat"):
            return self.concatenate(node)
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)) and type(
            module
        ).__module__.startswith("torch.nn.modules"):
            return self.layer(node, module)
        [stream] = self.operands(node, 1)
        if family in _LINEAR or family in _PER_UNIT_LINEAR or family in _PER_UNIT:
            return self.per_unit(node, family, stream, module)
        if family == "mean":
            return self.mean(node, stream)
        if family in ("flatten", "view", "reshape"):
            return self.flatten(node, stream, module)
        raise _Unsupported(_WHY_NOT.get(family, "no rescaling factor is known to pass through it"))

    def operands(self, node: fx.Node, count: int | None = None) -> list[_Stream]:
        """The tensors that an operation reads, if all of them carry units."""
        given = [*node.args, *(v for v in node.kwargs.values() if isinstance(v, fx.Node))]
        tensors = [a for a in given if isinstance(a, fx.Node) and a in self.streams]
        if count is None and len(tensors) < len(given):
            raise _Unsupported("only sums of results of layers can be rescaled")
        if count is not None and len(tensors) != count:
            raise _Unsupported(f"it reads {len(tensors)} results, not {count}")
        return [self.streams[tensor] for tensor in tensors]

    def per_unit(
        self, node: fx.Node, family: str, stream: _Stream, module: nn.Module | None
    ) -> _Stream:
        if getattr(module, "return_indices", False) or node.kwargs.get("return_indices"):
            raise _Unsupported("it also returns indices")
        pooled = "pool" in family or family in ("interpolate", "upsample")
        if pooled and stream.layout == "features":
            raise _Unsupported("it would mix units: they are in the last dimension here")
        if family in _PER_UNIT:
            for segment in stream.segments:
                root = self.root(segment.group)
                if self.groups[root].activation == "linear":
                    self.update(root, activation=_PER_UNIT[family])
        return stream

    def layer(self, node: fx.Node, module: Any) -> _Stream:
        name = str(node.target)
        [stream] = self.operands(node, 1)
        linear = isinstance(module, nn.Linear)
        wanted: Literal["map", "features"] = "features" if linear else "map"
        if stream.layout not in ("any", wanted):
            where = "dimension 1" if stream.layout == "map" else "the last dimension"
            raise _Unsupported(f"units lie in {where} here; flatten or unflatten explicitly")
        read = module.in_features if linear else module.in_channels
        size = module.out_features if linear else module.out_channels
        self.check_parameters(name, module)
        if read == 0 or size == 0:
            raise _Unsupported("it has no weights: one of its widths is 0")
        segments = self.resolve(stream.segments, read)
        number = self.add(Group(name, size))
        for parameter in [module.weight] if module.bias is None else [module.weight, module.bias]:
            earlier, group = self.owner.setdefault(id(parameter), (name, number))
            if group != number:
                reason = f"it is also used by '{earlier}', and one tensor has one scale"
                raise NotHomogeneousError(name, "shared parameter", reason)
        edge = Edge(
            name,
            "",
            (),
            f"{name}.weight",
            None if module.bias is None else f"{name}.bias",
            1 if linear else module.groups,
            isinstance(module, _TRANSPOSED),
        )
        self.edges.append((edge, number, segments))
        return _Stream((_Segment(number, size),), wanted)

    def check_parameters(self, name: str, module: nn.Module) -> None:
        """Refuse a layer whose weight or bias is no parameter, or has no size yet."""
        for kind in ("weight", "bias"):
            tensor = getattr(module, kind)
            if tensor is None:
                continue
            if not isinstance(tensor, nn.Parameter):
                raise _Unsupported(
                    f"its {kind} is no parameter but computed from others, as by pruning; make it "
                    "permanent first"
                )
            if is_lazy(tensor):
                raise _Unsupported("its size is not known yet; run the model on an input first")

    def resolve(self, segments: tuple[_Segment, ...], read: int) -> tuple[_Segment, ...]:
        """Fill in sizes and repeats from the number of columns that a layer reads."""
        if len(segments) == 1 and segments[0].size is None:  # a boundary: its factors are 1
            root = self.root(segments[0].group)
            if self.groups[root].size == 0:
                self.update(root, size=read)
            return (replace(segments[0], size=read, repeat=1),)
        unknown = [s for s in segments if s.repeat is None]
        if any(s.size is None for s in segments):
            raise _Unsupported("the number of units of a boundary in a concatenation is unknown")
        known = sum((s.size or 0) * s.repeat for s in segments if s.repeat is not None)
        units = sum(s.size or 0 for s in unknown)
        if unknown:
            repeat, rest = divmod(read - known, units)
            same = len(unknown) == 1 or len(unknown) == len(segments)
            if rest or repeat < 1 or not same:
                raise _Unsupported(
                    f"its {read} columns cannot be assigned to channels; pass example_input"
                )
            return tuple(replace(s, repeat=repeat) if s.repeat is None else s for s in segments)
        if known != read:
            raise _Unsupported(f"it reads {read} columns, but {known} are there")
        return segments

    def flatten(self, node: fx.Node, stream: _Stream, module: nn.Module | None) -> _Stream:
        """From a map to features: the positions of each channel come to lie side by side."""
        shape = [a for a in node.args[1:] if not isinstance(a, (tuple, list))]
        for a in node.args[1:]:
            shape += list(a) if isinstance(a, (tuple, list)) else []
        if module is not None or _name_of(node.target) == "flatten":
            start = getattr(module, "start_dim", None)
            end = getattr(module, "end_dim", -1)
            if module is None:
                start = node.kwargs.get("start_dim", shape[0] if shape else 0)
                end = node.kwargs.get("end_dim", shape[1] if len(shape) > 1 else -1)
            if (start, end) != (1, -1):
                raise _Unsupported("only a flatten of all dimensions from 1 on keeps units apart")
        elif len(shape) != 2:
            raise _Unsupported("only a view with two dimensions, batch and features, is supported")
        elif not _is_batch(shape[0]) and node not in self.shapes:
            raise _Unsupported(
                "the first dimension may not be the batch; pass example_input to trace()"
            )
        if stream.layout == "features":
            return stream
        source = node.all_input_nodes[0]
        repeat = None
        if source in self.shapes and node in self.shapes:
            before, after = self.shapes[source], self.shapes[node]
            if after[0] != before[0]:
                raise _Unsupported("it mixes samples: the batch dimension changes")
            repeat = before[2:].numel()
        segments = tuple(
            replace(s, repeat=None if s.size is None else repeat) for s in stream.segments
        )
        return _Stream(segments, "features")

    def mean(self, node: fx.Node, stream: _Stream) -> _Stream:
        """Global average pooling: a mean over all positions."""
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        shape = self.shapes.get(node.all_input_nodes[0])
        # without an example, a map has two dimensions if nothing in the model has one or three
        planar = (
            not any(isinstance(module, _NOT_PLANAR) for module in self.model.modules())
            if shape is None
            else len(shape) == 4
        )
        known = planar and dims in _POSITIONS and not node.kwargs.get("keepdim")
        if stream.layout != "map" or not known:
            raise _Unsupported("only a mean over all positions of a map, without keepdim, is known")
        return _Stream(stream.segments, "features")

    def tie(self, streams: list[_Stream]) -> _Stream:
        """A sum: its summands need the same factors."""
        if len(streams) == 1:
            return streams[0]  # x + x
        first, second = streams
        if first.layout != second.layout and "any" not in (first.layout, second.layout):
            raise _Unsupported("it adds a map to features")
        if len(first.segments) != len(second.segments):
            raise _Unsupported("it adds concatenations of different groups")
        merged = []
        for a, b in zip(first.segments, second.segments, strict=True):
            if a.size != b.size and None not in (a.size, b.size):
                raise _Unsupported(f"it adds {a.size} units to {b.size}")
            merged.append(self.unite(a, b))
        return _Stream(tuple(merged), second.layout if first.layout == "any" else first.layout)

    def unite(self, a: _Segment, b: _Segment) -> _Segment:
        one, other = sorted((self.root(a.group), self.root(b.group)))
        if one != other:
            x, y = self.groups[one], self.groups[other]
            self.tied[other] = one
            self.update(
                one,
                size=x.size or y.size,
                activation=y.activation if x.activation == "linear" else x.activation,
                frozen=x.frozen or y.frozen,
            )
        return a if a.size is not None else b

    def concatenate(self, node: fx.Node) -> _Stream:
        tensors = node.args[0] if node.args else node.kwargs["tensors"]
        if not isinstance(tensors, (tuple, list)) or not all(t in self.streams for t in tensors):
            raise _Unsupported("only results of layers can be concatenated")
        streams = [self.streams[t] for t in tensors]
        layouts = {stream.layout for stream in streams} - {"any"}
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if len(layouts) != 1:
            raise _Unsupported("it concatenates maps and features, or inputs only")
        [layout] = layouts
        if dim != 1 and not (layout == "features" and dim == -1):
            raise _Unsupported(
                "only units may be concatenated (dimension 1), not samples or positions"
            )
        # a layer that has read the network's input has told its number of channels
        sizes = [self.groups[self.root(s.group)].size for st in streams for s in st.segments]
        segments = [s for stream in streams for s in stream.segments]
        filled = (
            s if s.size is not None else replace(s, size=size or None, repeat=1)
            for s, size in zip(segments, sizes, strict=True)
        )
        return _Stream(tuple(filled), layout)

    def boundary(self, node: fx.Node, kind: str, why: str) -> _Stream:
        where = str(node.target) if node.op == "call_module" else node.name
        if self.on_unsupported == "raise":
            raise NotHomogeneousError(where, kind, f"{why}; {_SUPPORTED}")
        for source in node.all_input_nodes:
            self.freeze(source, f"read by {kind} at '{where}'")
        number = self.add(Group(where, 0, frozen=f"computed by {kind}"))
        return _Stream((_Segment(number, None, None),), "any")

    def freeze(self, node: fx.Node, reason: str) -> None:
        stream = self.streams.get(node)
        for segment in stream.segments if stream is not None else ():
            root = self.root(segment.group)
            if self.groups[root].frozen is None:
                self.update(root, frozen=reason)

    def root(self, number: int) -> int:
        while self.tied[number] != number:
            number = self.tied[number]
        return number

    def add(self, group: Group) -> int:
        self.groups.append(group)
        self.tied.append(len(self.groups) - 1)
        return len(self.groups) - 1

    def update(self, number: int, **changes: Any) -> None:
        self.groups[number] = replace(self.groups[number], **changes)


def _place(tensor: Tensor) -> int:
    """Where a tensor begins in memory; two parameters at one place are one."""
    return tensor.data_ptr() or id(tensor)  # what has no memory is told apart by its object


def _name_of(target: Any) -> str:
    """Name of a called function or tensor method, without what marks it as in place."""
    return str(getattr(target, "__name__", target)).rstrip("_")


def _is_torchs(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation is what its name says: torch's, not a namesake."""
    owner = (
        type(module).__module__ if module is not None else getattr(node.target, "__module__", "")
    )
    return (owner or "torch").split(".")[0] in ("torch", "_operator", "builtins")


def _is_batch(size: Any) -> bool:
    """Whether a dimension of a view is taken from the size of the tensor itself: ``x.size(0)``."""
    if not isinstance(size, fx.Node):
        return False
    if _name_of(size.target) == "getitem":
        return bool(size.args[1] == 0)
    taken = (*size.args[1:], *size.kwargs.values())
    return _name_of(size.target) == "size" and 0 in taken

"""How :func:`balancing.trace` builds the graph: it follows the units through every operation.

Every traced tensor is a *stream* of units. A layer reads a stream and starts another one, with an
edge between them. Every other operation hands the units on, ties them to others, which then need
the same factors, or is a *boundary*: the units that it reads are frozen, that is keep factor 1, and
so do the units of its result.
"""

from __future__ import annotations

import bisect
import functools
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from balancing._groups import ANYWHERE, Groups, Segment, Stream, misfit
from balancing._layout import PASS_EXAMPLE, Layout, Unsupported
from balancing._symbolic import recordings
from balancing.graph import Edge, Group, NotHomogeneousError, RescalingGraph, Source

__all__ = ["Builder"]

# What an operation does to the factors of the units that it reads. A name stands for the module,
# the function and the tensor method alike: nn.ReLU, F.relu, torch.relu and x.relu() are "relu".

_LINEAR = {  # nothing happens to a unit
    *("identity", "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16"),
    *("neg", "negative"),
}
_PER_UNIT = {  # positively homogeneous, each unit by itself; the name that a group then shows
    "relu": "relu",
    "leakyrelu": "leaky_relu",
    "prelu": "prelu",
    "abs": "abs",
    "dropout": "dropout",  # linear, but a mask does not commute with mixing units
}
_POSITIONS = {  # on the positions of each channel; linear but for the maximum
    *("avgpool", "adaptiveavgpool", "maxpool", "adaptivemaxpool", "zeropad"),
    *("upsample", "upsamplingnearest", "upsamplingbilinear", "interpolate"),
}
_REDUCTIONS = {"mean": "linear", "sum": "linear", "amax": "max_pool", "amin": "max_pool"}
_SUMS = {"add", "iadd", "sub", "isub", "subtract"}
_PRODUCTS = {"mul", "imul", "multiply", "div", "idiv", "truediv", "itruediv", "divide"}
_RESHAPES = {"flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"}
_NUMBERS = {"size", "dim", "len"}  # of a tensor
_ATTRIBUTES = {"shape", "ndim", "device", "dtype", "is_cuda", "requires_grad"}
_CONSTANTS = {"zeroslike", "oneslike", "emptylike", "newzeros", "newones", "newempty", "newfull"}

# The names by which an operation may get arguments besides its input. A call with any other name
# may do more than is known here, as with out=.
_ALIASES = {"dim": "axis", "keepdim": "keepdims"}
_KEYWORDS: dict[str, str] = {
    **dict.fromkeys(_LINEAR, "dtype device non_blocking copy memory_format"),
    **dict.fromkeys(
        _POSITIONS,
        "kernel_size stride padding dilation ceil_mode return_indices count_include_pad "
        "divisor_override output_size size scale_factor mode align_corners "
        "recompute_scale_factor antialias",
    ),
    **dict.fromkeys(_REDUCTIONS, "dim axis keepdim keepdims dtype"),
    **dict.fromkeys(_SUMS, "other alpha"),
    **dict.fromkeys(_PRODUCTS, "other"),
    **dict.fromkeys(_RESHAPES, "start_dim end_dim dim sizes shape size"),
    **dict.fromkeys(("cat", "concat", "stack"), "tensors dim axis"),
    "abs": "",
    "relu": "inplace",
    "leakyrelu": "negative_slope inplace",
    "prelu": "weight",
    "dropout": "p training inplace",
    "permute": "dims",
    "chunk": "chunks dim axis",
    "split": "split_size split_size_or_sections dim axis",
    "unbind": "dim axis",
}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNEL_NORMS = (  # SyncBatchNorm among them; the gain belongs to dimension 1
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
_FEATURE_NORMS = (nn.LayerNorm, nn.RMSNorm)  # the gain belongs to the last dimensions
_TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_BOUNDARIES = (  # what is between factors by its nature: no reason to refuse a network
    *(nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag, *_CHANNEL_NORMS, *_FEATURE_NORMS),
    *(nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer, *_TRANSFORMER_LAYERS),
)
_BOUNDARY_FUNCTIONS = {  # the same as functions; here gains and embeddings have no part
    *("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"),
    *("embedding", "scaled_dot_product_attention"),
}
_SUPPORTED = (
    "supported are linear layers and convolutions, (leaky, parametric) ReLU, pooling, dropout, "
    "zero padding, flatten, sums and concatenations, normalizations and nn.MultiheadAttention; "
    "trace(model, on_unsupported='freeze') treats anything else as a boundary"
)
_WHY_NOT = {
    "relu6": "it is capped at 6, so it is not positively homogeneous",
    "gelu": "it is not positively homogeneous",
    "sigmoid": "it is not positively homogeneous",
    "tanh": "it is not positively homogeneous",
    "softmax": "its output does not change in proportion to its input",
}


@dataclass
class _Link:
    """An edge whose ends are not named yet: a sum or a shared layer may still tie groups."""

    edge: Edge
    target: int
    segments: tuple[Segment, ...]


class Builder(Groups):
    """Walks the traced nodes in order and keeps, for each, the units that it carries."""

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor | tuple[Any, ...] | None,
        on_unsupported: str,
    ) -> None:
        super().__init__()
        self.model, self.example_input = model, example_input
        self.on_unsupported = on_unsupported
        self.modules = {name for name, _ in model.named_modules()}
        self.links: list[_Link] = []
        self.by_weight: dict[int, _Link] = {}  # id of a parameter -> the edge that has it
        self.by_bias: dict[int, int] = {}  # id of a parameter -> the group whose bias it is
        self.accounted: dict[str, set[str]] = {}  # parameter of an edge -> its names in such edges
        self.elsewhere: dict[int, set[str]] = {}  # place of a parameter -> boundaries that use it
        self.memory = _Memory(model)
        self.feeding: set[str] = set()  # parameters inside of boundaries that edges have
        self.inputs: dict[Any, Stream] = {}  # of the network, by name
        self.streams: dict[fx.Node, Stream] = {}  # nodes that carry no units are not in it
        self.numbers: set[fx.Node] = set()  # nodes that are numbers, as a size
        self.shapes: dict[fx.Node, torch.Size] = {}  # from the example
        self.sizes: dict[tuple[fx.Node, int], int] = {}  # of a dimension, from layers that read it

    def build(self) -> RescalingGraph:
        name = type(self.model).__name__
        if _is_torch_module(self.model) and not list(self.model.children()):
            empty = not list(self.model.parameters())
            what = "a network without layers" if empty else "a single layer"
            raise NotHomogeneousError(name, "tracing", f"{what} has no hidden units")
        recorded = recordings(self.model, self.example_input)
        for traced in recorded:
            self.visit_all(traced.graph)
        self.check_shared([node for traced in recorded for node in traced.graph.nodes])
        return self.result()

    def visit_all(self, graph: fx.Graph) -> None:
        """Follow the units through one recording.

        Every layer that another recording has, too, is called once more by this one: what both of
        them ask for holds.
        """
        first = not self.streams
        known = len(self.groups)
        for node in graph.nodes:
            shape = getattr(node.meta.get("tensor_meta"), "shape", None)
            if shape is not None:
                self.shapes[node] = shape
            self.visit(node)
        if not first:
            self.incidental.update(range(known, len(self.groups)))

    def check_shared(self, nodes: Sequence[fx.Node]) -> None:
        """Freeze the layers whose weight something else uses, too: it would be rescaled as well."""
        users: dict[int, set[str]] = {}
        for module, submodule in self.model.named_modules():
            for name, parameter in submodule.named_parameters(recurse=False):
                place = self.memory.place(parameter)
                users.setdefault(place, set()).add(f"{module}.{name}".lstrip("."))
        for node in nodes:
            tensor = self.attribute(node)
            if isinstance(tensor, Tensor):  # the network reads a layer's weight by itself
                users.setdefault(self.memory.place(tensor), set()).add(f"'{node.name}' in forward")
        for link in self.links:
            for name in filter(None, (link.edge.weight, link.edge.bias)):
                place = self.memory.place(self.model.get_parameter(name))
                others = users[place] - self.accounted[name] | self.elsewhere.get(place, set())
                if others:
                    self.freeze_link(link, f"'{name}' is also {min(others)}")

    @staticmethod
    def attribute(node: fx.Node) -> Any:
        """A tensor that forward reads; constants are attributes of the recording only."""
        if node.op != "get_attr":
            return None
        recorded = node.graph.owning_module
        return functools.reduce(getattr, str(node.target).split("."), recorded)

    def result(self) -> RescalingGraph:
        """Name the groups and drop the ties."""
        roots = {number: self.root(number) for number in range(len(self.groups))}
        # a shared tensor has several names: take that under which the model lists it
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        edges = []
        for link in self.links:
            sources = tuple(
                Source(self.groups[roots[s.group]].name, s.size or 0, s.repeat or 1)
                for s in link.segments
            )
            target = self.groups[roots[link.target]].name
            weight, bias = (
                n and names[id(self.model.get_parameter(n))]
                for n in (link.edge.weight, link.edge.bias)
            )
            edges.append(
                replace(link.edge, target=target, sources=sources, weight=weight or "", bias=bias)
            )
        ends = {source.group for edge in edges for source in edge.sources}
        ends.update(edge.target for edge in edges)
        groups = {}
        for number, root in roots.items():
            group = self.groups[root]
            if number not in self.incidental or group.name in ends:
                groups[group.name] = group
        return RescalingGraph(self.model, groups, tuple(edges))

    def visit(self, node: fx.Node) -> None:
        read = [source for source in node.all_input_nodes if source in self.streams]
        if node.op == "placeholder":
            name = "input" if not self.inputs else str(node.target)
            while name in self.modules:  # groups of units are named after modules
                name = f"network {name}"
            if node.target not in self.inputs:
                number = self.add(Group(name, 0, frozen="network input"))
                self.inputs[node.target] = Stream((Segment(number, None, None),))
            self.note(node, self.inputs[node.target])
        elif node.op == "get_attr":
            tensor = self.attribute(node)
            if isinstance(tensor, Tensor):
                kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
                stream = self.opaque(str(node.target), f"a {kind}", incidental=True)
                self.note(node, replace(stream, layout=Layout(None, tensor.dim())))
        elif node.op == "output":
            for source in read:
                self.freeze(self.streams[source], "network output")
        elif read or node.op == "call_module":
            module = self.module_of(node)
            kind = type(module).__name__ if module is not None else _name_of(node.target)
            try:
                if not _is_torchs(node, module):
                    raise Unsupported("it is not torch's own")
                found = self.apply(node, kind, module)
            except Unsupported as why:
                found = self.boundary(node, kind, module, str(why))
            if found is not None:
                self.note(node, found)
        elif _name_of(node.target) in dir(operator) and self.numbers.issuperset(
            node.all_input_nodes
        ):
            self.numbers.add(node)

    def note(self, node: fx.Node, stream: Stream) -> None:
        if node in self.shapes:
            stream = replace(stream, layout=stream.layout.of_rank(len(self.shapes[node])))
        self.streams[node] = stream

    def module_of(self, node: fx.Node) -> nn.Module | None:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def apply(self, node: fx.Node, kind: str, module: nn.Module | None) -> Stream | None:
        """The units that the result of an operation carries; None if it carries none."""
        family = re.sub(r"[123]d$", "", kind).replace("_", "").lower()
        if family in _NUMBERS or (family == "getattr" and node.args[1] in _ATTRIBUTES):
            self.numbers.add(node)
            return None
        if family in _CONSTANTS:
            return None
        if family in ("cat", "concat", "stack", *_SUMS):
            self.check_arguments(node, family)
            return self.sum(node) if family in _SUMS else self.join(node, family)
        if module is not None and _is_torch_module(module):
            if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
                return self.layer(node, module)
            if isinstance(module, (*_CHANNEL_NORMS, *_FEATURE_NORMS)):
                return self.normalization(node, module)
            for name, part in module.named_modules():
                if isinstance(part, _TRANSFORMER_LAYERS) and _is_torch_module(part):
                    self.feedforward(f"{node.target}.{name}".rstrip("."), part)
        why = _WHY_NOT.get(family, "no rescaling factor is known to pass through it")
        if family in _PRODUCTS:
            why = "only products with numbers are known to let a factor pass"
        streams = [self.streams[n] for n in node.all_input_nodes if n in self.streams]
        if family == "prelu":
            streams = self.without_slopes(node)
        if len(streams) != 1:
            raise Unsupported(why)
        if family in _KEYWORDS:
            self.check_arguments(node, family)
        stream = streams[0]
        if stream.is_tuple:
            if family == "getitem" and isinstance(node.args[1], int):
                return replace(stream, is_tuple=False)
            raise Unsupported("it reads several tensors as one")
        if family in _PRODUCTS:
            others = [a for a in (*node.args, *node.kwargs.values()) if not self.is_number(a)]
            if len(others) > 1 or (node.args[:1] != tuple(others) and "div" in family):
                raise Unsupported(why)
            return stream
        if family in _LINEAR or family in _POSITIONS or family in _PER_UNIT:
            return self.per_unit(node, family, kind, stream, module)
        if family in _REDUCTIONS:
            return self.reduce(node, family, stream)
        found = self.rearranged(node, family, stream, module)
        if found is None:
            raise Unsupported(why)
        return found

    @staticmethod
    def check_arguments(node: fx.Node, family: str) -> None:
        """Refuse arguments that are not known, and whole numbers as results."""
        for name in node.kwargs.keys() - {"input", *_KEYWORDS[family].split()}:
            raise Unsupported(f"with the argument '{name}' it is not known to let a factor pass")
        dtypes = [a for a in _flat([*node.args, *node.kwargs.values()]) if type(a) is torch.dtype]
        if any(not dtype.is_floating_point for dtype in dtypes):
            raise Unsupported("it rounds to whole numbers")
        if dtypes and family == "view":
            raise Unsupported("it reads the bits of a number as another one")

    def without_slopes(self, node: fx.Node) -> list[Stream]:
        """What a parametric ReLU is applied to; where its slopes are units, they are frozen."""
        slopes = self.streams.get(_argument(node, 1, "weight"))
        if slopes is not None:
            self.freeze(slopes, f"slopes of prelu at '{node.name}'")
        read = _argument(node, 0, "input")
        return [self.streams[read]] if read in self.streams else []

    def is_number(self, value: Any) -> bool:
        if isinstance(value, fx.Node):
            return value in self.numbers
        return isinstance(value, (int, float))

    # --- operations on each unit -----------------------------------------------------------------

    def per_unit(
        self, node: fx.Node, family: str, kind: str, stream: Stream, module: nn.Module | None
    ) -> Stream:
        if getattr(module, "return_indices", False) or node.kwargs.get("return_indices"):
            raise Unsupported("it also returns indices")
        result = getattr(node.meta.get("tensor_meta"), "dtype", None)  # with an example
        if result is not None and not result.is_floating_point and not stream.is_opaque:
            raise Unsupported("it rounds to whole numbers")  # as by to(x.dtype)
        if family in _POSITIONS and not stream.is_opaque:
            layout, dims = stream.layout, re.search(r"([123])d$", kind)
            rank = layout.rank
            wrong = rank is not None and (rank < 3 if dims is None else rank != int(dims[1]) + 2)
            if layout.axis not in (1, None) or wrong:
                raise Unsupported("it would mix units: it works on the last dimensions")
        if family in _PER_UNIT or "maxpool" in family:
            self.activate(stream, _PER_UNIT.get(family, "max_pool"))
        return stream

    def reduce(self, node: fx.Node, family: str, stream: Stream) -> Stream:
        """A mean, sum or maximum over positions or tokens."""
        dims = _argument(node, 1, "dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if stream.is_opaque:
            return replace(stream, layout=ANYWHERE)
        if not dims or not all(isinstance(d, int) for d in dims):
            raise Unsupported("it mixes units: it reduces all dimensions")
        keep = bool(_argument(node, 2, "keepdim", False))
        layout = stream.layout.without(cast("Sequence[int]", dims), keep=keep)
        if _REDUCTIONS[family] != "linear":
            self.activate(stream, _REDUCTIONS[family])
        return replace(stream, layout=layout)

    def activate(self, stream: Stream, activation: str) -> None:
        for segment in stream.segments:
            root = self.root(segment.group)
            if self.groups[root].activation == "linear":
                self.update(root, activation=activation)

    # --- operations on dimensions ----------------------------------------------------------------

    def rearranged(
        self, node: fx.Node, family: str, stream: Stream, module: nn.Module | None
    ) -> Stream | None:
        """The units after a reshape, transposition or index; None for any other operation."""
        if family in ("expand", "expandas", "repeat", "flip", "roll") and stream.is_opaque:
            return replace(stream, layout=ANYWHERE)
        transposes = family in ("transpose", "swapaxes", "permute", "t") or family == "getattr"
        if not (transposes or family in (*_RESHAPES, "getitem", "chunk", "split", "unbind")):
            return None
        if str(node.target).endswith("_"):
            raise Unsupported("it changes dimensions in place")
        if stream.is_opaque:
            flat = family in _RESHAPES and self.flattens(node, family, module) == (1, -1)
            return replace(stream, layout=Layout(None, 2) if flat else ANYWHERE)
        layout, dims = stream.layout, _flat(node.args[1:])
        if family in _RESHAPES:
            return self.reshape(node, family, stream, module)
        if family == "getitem":
            return replace(stream, layout=layout.indexed(node.args[1]))
        if family == "permute":
            order = dims or _flat([node.kwargs.get("dims", ())])
            return replace(stream, layout=layout.permuted(order))
        if transposes:
            if family == "getattr" and node.args[1] not in ("T", "mT"):
                return None
            if family in ("t", "getattr"):
                if layout.rank != 2 and node.args[1:] != ("mT",):
                    raise Unsupported("only a matrix can be transposed without dimensions")
                dims = [-2, -1]
            if len(dims) != 2:
                raise Unsupported("its dimensions must be given by position")
            return replace(stream, layout=layout.transposed(*dims))
        position = 1 if family == "unbind" else 2
        dim = _argument(node, position, "dim", 0)
        if not isinstance(dim, int) or layout.separates(dim):
            raise Unsupported("it takes the units of one group apart")
        if family == "unbind":
            layout = layout.without([dim], keep=False)
        return replace(stream, layout=layout, is_tuple=True)

    def reshape(
        self, node: fx.Node, family: str, stream: Stream, module: nn.Module | None
    ) -> Stream:
        """From a map to features, say: the positions of each channel come to lie side by side."""
        source = next(n for n in node.all_input_nodes if n in self.streams)
        if source in self.shapes and node in self.shapes and stream.layout.axis is not None:
            before, after = self.shapes[source], self.shapes[node]
            layout, positions = stream.layout.reshaped(before, after)
            segments = tuple(
                replace(s, repeat=s.repeat and s.repeat * positions) for s in stream.segments
            )
            return Stream(segments, layout)
        dims = self.flattens(node, family, module)
        if dims is None:
            raise Unsupported(f"what becomes of the units cannot be told; {PASS_EXAMPLE}")
        layout, merged = stream.layout.flattened(*dims)
        unknown = tuple(replace(s, repeat=None, flattened=node.name) for s in stream.segments)
        return Stream(unknown if merged else stream.segments, layout)

    @staticmethod
    def flattens(node: fx.Node, family: str, module: nn.Module | None) -> tuple[int, int] | None:
        """The first and the last dimension that a reshape makes one; None if it cannot be told."""
        if family == "flatten":
            start = getattr(module, "start_dim", None) or _argument(node, 1, "start_dim", 0)
            end = getattr(module, "end_dim", None) or _argument(node, 2, "end_dim", -1)
            return start, end
        shape = _flat(node.args[1:])
        of_batch = family in ("view", "reshape") and len(shape) == 2 and _is_batch(shape[0])
        return (1, -1) if of_batch else None

    # --- sums and concatenations -----------------------------------------------------------------

    def sum(self, node: fx.Node) -> Stream:
        """A sum: its summands need the same factors."""
        streams = [self.streams[n] for n in node.all_input_nodes if n in self.streams]
        if any(stream.is_tuple for stream in streams):
            raise Unsupported("it reads several tensors as one")
        others = [
            a
            for a in (*node.args[:2], node.kwargs.get("input"), node.kwargs.get("other"))
            if a is not None and a not in self.streams and a != 0
        ]
        for other in others:
            what = "a number" if self.is_number(other) else f"'{other}', a constant"
            self.freeze(streams[0], f"added to {what}")
        return functools.reduce(lambda a, b: self.tie(a, b, "added to"), streams)

    def join(self, node: fx.Node, family: str) -> Stream:
        """A concatenation or a stack."""
        tensors = _argument(node, 0, "tensors")
        if not isinstance(tensors, (tuple, list)) or not tensors:
            raise Unsupported("only results of layers can be concatenated")
        dim = _argument(node, 1, "dim", 0)
        if not isinstance(dim, int):
            raise Unsupported("its dimension is no constant")
        how = "stacked with" if family == "stack" else "concatenated with"
        streams = [self.streams[t] for t in tensors if t in self.streams]
        known = next((s.layout for s in streams if s.layout.axis is not None), None)
        if known is None:
            if all(self.why_frozen(stream) for stream in streams):
                return self.opaque(node.name, f"{family} of what is frozen", incidental=True)
            raise Unsupported("it concatenates inputs only")
        if family != "stack" and known.separates(dim):
            if len(streams) < len(tensors):
                raise Unsupported("only results of layers can be concatenated")
            for other in streams:
                if other.layout.axis is not None and not other.layout.separates(dim):
                    raise Unsupported("it concatenates units and positions")
            return Stream(tuple(s for t in tensors for s in self.sized(t, dim)), known)
        if len(streams) < len(tensors):
            self.freeze(streams[0], f"{how} a constant")
        stream = functools.reduce(lambda a, b: self.tie(a, b, how), streams)
        return replace(stream, layout=known.stacked(dim)) if family == "stack" else stream

    def sized(self, tensor: fx.Node, dim: int) -> tuple[Segment, ...]:
        """The segments of a tensor along a dimension, with the size of a boundary filled in."""
        stream = self.streams[tensor]
        if not stream.is_opaque:
            return stream.segments
        size = self.shapes[tensor][dim] if tensor in self.shapes else self.sizes.get((tensor, dim))
        return (replace(stream.segments[0], size=size, repeat=1),)

    # --- layers ----------------------------------------------------------------------------------

    def layer(self, node: fx.Node, module: Any) -> Stream:
        name = str(node.target)
        linear = isinstance(module, nn.Linear)
        read = module.in_features if linear else module.in_channels
        size = module.out_features if linear else module.out_channels
        self.check_parameters(module)
        if read == 0 or size == 0:
            raise Unsupported("it has no weights: one of its widths is 0")
        self.check_shapes(module, read, size)
        stream = self.read_by(node)
        rank = stream.layout.rank
        if not linear:
            dims = module.weight.dim()
            if rank not in (None, dims):
                raise Unsupported(f"it reads {rank} dimensions, not {dims}: give it a batch")
            rank = dims
        for source in node.all_input_nodes:
            self.sizes[source, -1 if linear else 1] = read
        try:
            fits = stream.layout.is_last if linear else stream.layout.axis == 1
            if stream.layout.axis is not None and not fits:
                where = "dimension 1" if stream.layout.axis == 1 else "another dimension"
                where = "the last dimension" if stream.layout.is_last else where
                raise Unsupported(f"units lie in {where} here; flatten or unflatten explicitly")
            segments = self.resolve(stream.segments, read)
        except Unsupported:
            why = self.why_frozen(stream)
            if why is None:
                raise
            # nothing is lost: all that it reads keeps factor 1, wherever it lies
            [segment] = self.opaque(f"{name}.input", why).segments
            segments = self.resolve((segment,), read)
        edge = Edge(
            name,
            "",
            (),
            f"{name}.weight",
            None if module.bias is None else f"{name}.bias",
            1 if linear else module.groups,
            isinstance(module, _TRANSPOSED),
        )
        return self.connect(edge, size, segments, Layout.last(rank) if linear else Layout(1, rank))

    def read_by(self, node: fx.Node) -> Stream:
        """What a layer reads; a layer may also be applied to what depends on no input."""
        streams = [self.streams[n] for n in node.all_input_nodes if n in self.streams]
        return streams[0] if streams else self.opaque(f"{node.target}.input", "a constant")

    def connect(
        self, edge: Edge, size: int, segments: tuple[Segment, ...], layout: Layout
    ) -> Stream:
        """Add an edge and its target. A tensor that is used again is the same edge again."""
        weight = self.model.get_parameter(edge.weight)
        bias = None if edge.bias is None else self.model.get_parameter(edge.bias)
        target = self.add(Group(edge.name, size))
        link = self.by_weight.get(id(weight))
        if link is None:
            link = self.by_weight[id(weight)] = _Link(edge, target, segments)
            self.links.append(link)
            self.accounted.setdefault(edge.weight, set()).add(edge.weight)
            if bias is not None and edge.bias is not None:
                self.claim_bias(link, bias, edge.bias)
        else:
            self.share(link, edge, target, segments, bias)
        return Stream((Segment(target, size),), layout)

    def claim_bias(self, link: _Link, bias: nn.Parameter, name: str) -> None:
        """Note whose bias it is; a bias that several layers have counts with the first."""
        first = self.by_bias.setdefault(id(bias), link.target)
        if first == link.target:
            link.edge = replace(link.edge, bias=name)
            self.accounted.setdefault(name, set()).add(name)
            return
        self.merge(first, link.target)
        link.edge = replace(link.edge, bias=None)
        counted = next(k.edge.bias for k in self.links if k.target == first and k.edge.bias)
        self.accounted[counted].add(name)

    def share(
        self,
        link: _Link,
        edge: Edge,
        target: int,
        segments: tuple[Segment, ...],
        bias: nn.Parameter | None,
    ) -> None:
        """Use an edge once more: what it writes to is tied, and so is what it reads."""
        self.accounted[link.edge.weight].add(edge.weight)
        self.merge(link.target, target)
        same = (edge.blocks, edge.transposed) == (link.edge.blocks, link.edge.transposed)
        if not same or misfit(link.segments, segments):
            why = f"'{edge.weight}' is applied to units that do not correspond"
            self.freeze_link(link, why)
            self.freeze(Stream(segments), why)
        else:
            for one, other in zip(link.segments, segments, strict=True):
                self.unite(one, other, f"read like, by '{edge.name}',")
        if bias is None or edge.bias is None:
            return
        if link.edge.bias is None:
            self.claim_bias(link, bias, edge.bias)
        elif self.model.get_parameter(link.edge.bias) is bias:
            self.accounted[link.edge.bias].add(edge.bias)
        else:
            why = f"it has the biases '{link.edge.bias}' and '{edge.bias}'"
            self.freeze(Stream((Segment(target, None),)), why)

    def normalization(self, node: fx.Node, module: Any) -> Stream:
        """What it reads is frozen; its gains are the weights, one each, of units of their own."""
        name, kind = str(node.target), type(module).__name__
        stream = self.read_by(node)
        self.freeze(stream, f"read by {kind} at '{name}'")
        layout = stream.layout
        if isinstance(module, _FEATURE_NORMS):
            if len(module.normalized_shape) != 1:
                raise Unsupported("it has a gain for each position, not for each unit")
            if layout.axis is not None and not layout.is_last:
                raise Unsupported("it normalizes positions, not units")
            size, layout = module.normalized_shape[0], Layout.last(layout.rank)
        else:
            size = getattr(module, "num_channels", None) or module.num_features
            dims = re.search(r"([123])d$", kind)
            if dims is None or kind == "BatchNorm1d":  # they take features, too
                layout = self.channels_of(stream, size)
            elif layout.rank in (None, int(dims[1]) + 2):
                layout = Layout(1, int(dims[1]) + 2)
            else:
                raise Unsupported(f"it reads {layout.rank} dimensions: give it a batch")
        if module.weight is None:
            number = self.add(Group(name, size, frozen=f"computed by {kind}"))
            return Stream((Segment(number, size),), layout)
        self.check_parameters(module)
        normalized = self.add(Group(f"{name}.normalized", size, frozen=f"computed by {kind}"))
        bias = None if getattr(module, "bias", None) is None else f"{name}.bias"
        edge = Edge(name, "", (), f"{name}.weight", bias, blocks=size)
        return self.connect(edge, size, (Segment(normalized, size),), layout)

    @staticmethod
    def channels_of(stream: Stream, size: int) -> Layout:
        """Dimension 1 of what is normalized, which may have any number of dimensions."""
        layout = stream.layout
        if layout.rank is not None:
            return Layout(1, layout.rank)
        if layout.axis is None:
            raise Unsupported(f"its input may have positions; {PASS_EXAMPLE}")
        # of features: if there were a dimension of tokens before them, it would be normalized
        units = sum((s.size or 0) * (s.repeat or 1) for s in stream.segments)
        if units == size:
            return Layout(1, 2)
        raise Unsupported(f"it normalizes tokens, not units; {PASS_EXAMPLE}")

    def feedforward(self, name: str, module: Any) -> None:
        """The hidden units of a transformer layer, between its two linear layers."""
        activation = module.activation
        if activation is not nn.functional.relu and type(activation) is not nn.ReLU:
            return
        first, second = module.linear1, module.linear2
        for layer in (first, second):
            self.check_parameters(layer)
        [read] = self.opaque(f"{name}.linear1.input", f"inside {type(module).__name__}").segments
        source = self.resolve((read,), first.in_features)
        ends: list[Stream] = []
        for part, layer in (("linear1", first), ("linear2", second)):
            bias = None if layer.bias is None else f"{name}.{part}.bias"
            edge = Edge(f"{name}.{part}", "", (), f"{name}.{part}.weight", bias)
            segments = ends[0].segments if ends else source
            self.feeding.update(filter(None, (edge.weight, edge.bias)))
            ends.append(self.connect(edge, layer.out_features, segments, Layout.last()))
        self.activate(ends[0], "relu")
        self.freeze(ends[1], f"inside {type(module).__name__}")

    @staticmethod
    def check_parameters(module: Any) -> None:
        """Refuse a layer whose weight or bias is no parameter, or has no size yet."""
        for kind in ("weight", "bias"):
            tensor = getattr(module, kind, None)
            if tensor is None:
                continue
            if not isinstance(tensor, nn.Parameter):
                raise Unsupported(
                    f"its {kind} is no parameter but computed from others, as by pruning; make it "
                    "permanent first"
                )
            if is_lazy(tensor):
                raise Unsupported("its size is not known yet; run the model on an input first")
            if tensor.layout != torch.strided:
                raise Unsupported(f"its {kind} is sparse; make it dense first")

    @staticmethod
    def check_shapes(module: Any, read: int, size: int) -> None:
        """Refuse a layer whose parameters were replaced by others of another shape."""
        transposed = isinstance(module, _TRANSPOSED)
        groups, taps = getattr(module, "groups", 1), getattr(module, "kernel_size", ())
        expected = (read, size // groups, *taps) if transposed else (size, read // groups, *taps)
        if module.weight.shape != expected:
            raise Unsupported(
                f"its weight has shape {tuple(module.weight.shape)}, but its sizes say {expected}"
            )
        if module.bias is not None and module.bias.shape != (size,):
            raise Unsupported(
                f"its bias has shape {tuple(module.bias.shape)}, but its sizes say ({size},)"
            )

    def resolve(self, segments: tuple[Segment, ...], read: int) -> tuple[Segment, ...]:
        """Fill in sizes and repeats from the number of columns that a layer reads."""
        if len(segments) == 1 and segments[0].size is None:  # a boundary: its factors are 1
            root = self.root(segments[0].group)
            if self.groups[root].size == 0:
                self.update(root, size=read)
            return (replace(segments[0], size=read, repeat=1),)
        unknown = [s for s in segments if s.repeat is None]
        known = sum((s.size or 0) * s.repeat for s in segments if s.repeat is not None)
        missing = sum(s.size is None for s in segments)
        if missing:
            if missing > 1 or unknown or known >= read:
                raise Unsupported(
                    f"it reads {read} columns, but {known} of the units that are known and those "
                    "of a boundary are there; pass example_input to trace()"
                )
            return tuple(
                replace(s, size=read - known, repeat=1) if s.size is None else s for s in segments
            )
        units = sum(s.size or 0 for s in unknown)
        if unknown:
            repeat, rest = divmod(read - known, units)
            if rest or repeat < 1 or len({s.flattened for s in unknown}) > 1:
                raise Unsupported(
                    f"its {read} columns cannot be assigned to channels; pass example_input"
                )
            return tuple(replace(s, repeat=repeat) if s.repeat is None else s for s in segments)
        if known != read:
            raise Unsupported(f"it reads {read} columns, but {known} are there")
        return segments

    # --- boundaries ------------------------------------------------------------------------------

    def boundary(self, node: fx.Node, kind: str, module: nn.Module | None, why: str) -> Stream:
        where = str(node.target) if node.op == "call_module" else node.name
        read = [self.streams[n] for n in node.all_input_nodes if n in self.streams]
        layer = isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))
        lost = layer or not all(self.why_frozen(stream) for stream in read)
        expected = isinstance(module, _BOUNDARIES) or kind in _BOUNDARY_FUNCTIONS
        if lost and not expected and self.on_unsupported == "raise":
            raise NotHomogeneousError(where, kind, f"{why}; {_SUPPORTED}")
        for stream in read:
            self.freeze(stream, f"read by {kind} at '{where}'")
        for name, parameter in module.named_parameters() if module is not None else ():
            if f"{where}.{name}" not in self.feeding:  # if it is an edge's, too, by another call
                uses = self.elsewhere.setdefault(self.memory.place(parameter), set())
                uses.add(f"used by {kind} at '{where}', a boundary")
        reason = f"computed by {kind}"
        if expected and PASS_EXAMPLE in why:  # its gains are lost, and need not be
            reason = f"{reason}; {why}"
        return self.opaque(where, reason, incidental=not lost and not expected)

    def freeze_link(self, link: _Link, reason: str) -> None:
        self.freeze(Stream((Segment(link.target, None), *link.segments)), reason)


class _Memory:
    """Where the tensors of a model lie; those that overlap have one place."""

    def __init__(self, model: nn.Module) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        tensors = [*model.parameters(), *model.buffers()]
        stored = [t for t in tensors if not is_lazy(t) and t.layout == torch.strided and t.numel()]
        for tensor in sorted(stored, key=Tensor.data_ptr):
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            start, last = tensor.data_ptr(), sum((n - 1) * step for n, step in steps)
            end = start + (last + 1) * tensor.element_size()
            if self.ends and start < self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.starts.append(start)
                self.ends.append(end)

    def place(self, tensor: Tensor) -> int:
        """A number for where a tensor lies."""
        start = 0 if is_lazy(tensor) or tensor.layout != torch.strided else tensor.data_ptr()
        index = bisect.bisect(self.starts, start) - 1
        if start and index >= 0 and start < self.ends[index]:
            return self.starts[index]
        return start or id(tensor)  # what has no memory is told apart by its object


def _name_of(target: Any) -> str:
    """Name of a called function or tensor method, without what marks it as in place."""
    return str(getattr(target, "__name__", target)).rstrip("_")


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, by position or by one of its names."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, node.kwargs.get(_ALIASES.get(name, name), default))


def _flat(arguments: Sequence[Any]) -> list[Any]:
    """Sizes or dimensions, given one by one or as a tuple."""
    return [x for a in arguments for x in (a if isinstance(a, (tuple, list)) else (a,))]


def _is_torch_module(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules")


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

r"""The fix on weights that are sharded over processes: only sums for each unit travel.

:func:`balancing.balance` comes here by itself where a parameter is a
:class:`torch.distributed.tensor.DTensor`, as ``distribute_tensor``, tensor parallelism and FSDP2
make them. The factors depend on the weights through sums for each unit alone,

.. math::

   \sum_j |W_{ij}|^p a_j^{-p} \quad\text{and}\quad \sum_i |W_{ij}|^p y_i ,

and a sum over entries is the sum of the sums over shards. The first process of the mesh runs the
method. Where it needs sums it sends the factors of the columns (or rows), each process takes the
sums over the entries that it holds, and ``all_reduce`` adds them up. At the end all are told the
factors, and each rescales its own shards. No weight is sent.

Only one process decides, because equal numbers are no more than nearly equal: linear algebra may
round differently in two processes, and then one of them might stop a step before the other and
leave it waiting. Derived here.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from balancing._orbit import Layer, Orbit, Part, times
from balancing._validate import all_finite
from balancing.fixes import BalanceResult, Solution, _Kept
from balancing.graph import Edge, RescalingGraph
from balancing.rescaling import _times_ratio

__all__ = ["ShardedBalanceResult"]


@dataclass(frozen=True, eq=False, repr=False)
class ShardedBalanceResult(BalanceResult):
    """What :func:`balancing.balance` found for sharded weights: the same in every process.

    ``model`` has the placements that it had. ``check`` needs a network that can be called with its
    DTensor parameters, and then takes inputs that are DTensors, too.

    Attributes:
        messages: number of collective operations for sums: broadcasts of what to sum, and
            reductions.
        traffic: bytes that these carried, each operation counted once, as what one process puts in
            or gets out.
    """

    messages: int = 0
    traffic: int = 0


def is_sharded(graph: RescalingGraph) -> bool:
    """Whether a weight or bias of the graph is a DTensor.

    Modules of FSDP2 that hold gathered weights for the time being give them back first.
    """
    for module in _fsdp_modules(graph.model):
        module.reshard()
    return any(isinstance(graph.model.get_parameter(name), DTensor) for name in _names(graph))


def _fsdp_modules(model: nn.Module) -> list[Any]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [m for m in model.modules() if fsdp is not None and isinstance(m, fsdp.FSDPModule)]


def balance_sharded(
    graph: RescalingGraph,
    p: float,
    q: float,
    search: Callable[[Orbit], Solution],
    method: str,
    *,
    exact: bool,
    inplace: bool,
) -> ShardedBalanceResult:
    """:func:`balancing.balance` for a graph with DTensors; arguments have been checked.

    Raises:
        ValueError: as :func:`balancing.balance`; or the parameters do not lie on one mesh, a
            shard has another shape than its placement says, or ``exact``, or FSDP without
            ``inplace``. Every process raises.
    """
    if exact:
        raise ValueError(
            "exact=True takes whole weights, but parameters of this network are sharded over "
            "processes (DTensor); leave exact out, or balance the gathered network"
        )
    if not inplace and _fsdp_modules(graph.model):
        raise ValueError("inplace must be True for modules of FSDP, which cannot be copied")
    shards = Shards(graph)
    shards.agree(shards.misfit())
    shards.agree(shards.not_finite())
    found = _solution(graph, p, q, shards, search)
    new = shards.rescaled(found.factors)
    shards.agree(
        next(
            (
                f"these factors would make parameter '{name}' overflow {values.dtype}"
                for name, values in new.items()
                if not all_finite(values)
            ),
            None,
        )
    )
    before = {}
    for name in _names(graph):
        old = graph.model.get_parameter(name).detach()
        before[name] = _Kept(old.clone() if inplace else old)
    return ShardedBalanceResult(
        model=shards.write(new, inplace=inplace),
        **found.told(),
        method=method,
        _before=before,
        messages=shards.messages,
        traffic=shards.traffic,
    )


def _solution(
    graph: RescalingGraph,
    p: float,
    q: float,
    shards: Shards,
    search: Callable[[Orbit], Solution],
) -> Solution:
    """What the first process finds, with the help of the others, in every process."""
    orbit = ShardedOrbit(graph, p, q, shards)
    if not shards.leads:
        orbit.serve()
        found = shards.share(None)
        if isinstance(found, Solution):
            return _moved(found, orbit.device)
        raise (
            found
            if isinstance(found, ValueError)
            else RuntimeError(f"balance() was stopped by the first process of the mesh: {found}")
        )
    outcome: Solution | ValueError | str = "it ended"
    try:
        orbit.find_live()
        found = search(orbit)
        outcome = _moved(found, torch.device("cpu"))  # theirs are other devices
    except BaseException as error:  # the others wait, whatever it is
        outcome = ValueError(str(error)) if isinstance(error, ValueError) else repr(error)
        raise
    finally:
        shards.tell(torch.tensor([_Sum.NONE, 0, 0, 0, 0], device=orbit.device))
        shards.share(outcome)
    return found


def _moved(found: Solution, device: torch.device) -> Solution:
    factors = {group: values.to(device) for group, values in found.factors.items()}
    dead = {group: units.to(device) for group, units in found.dead.items()}
    return replace(found, factors=factors, dead=dead)


def _names(graph: RescalingGraph) -> list[str]:
    return [name for edge in graph.edges for name in (edge.weight, edge.bias) if name]


class Shard:
    """What this process holds of a parameter: a product of sets of indices, one a dimension.

    Attributes:
        local: the entries, in the memory of the parameter.
        index: for each dimension of the parameter, which indices they have, ascending.
        split: dimensions of the mesh over which the parameter is split; along the others, and
            where it is no DTensor, every process has the same entries.
    """

    def __init__(self, name: str, parameter: Tensor, mesh: DeviceMesh) -> None:
        if parameter.is_meta or not parameter.is_floating_point():
            raise ValueError(
                f"parameter '{name}' is {parameter.dtype} on {parameter.device}; weights must be "
                "real, of a floating-point dtype, and have values"
            )
        self.name, self.parameter = name, parameter
        placements: tuple[Placement, ...] = ()
        self.local = parameter.detach()
        if isinstance(parameter, DTensor):
            placements, self.local = parameter.placements, parameter.to_local().detach()
        if any(placement.is_partial() for placement in placements):
            raise ValueError(
                f"parameter '{name}' is placed as {placements}: it must be sharded or replicated"
            )
        self.split = tuple(i for i, each in enumerate(placements) if not each.is_replicate())
        self.index = [
            _indices(size, dim, mesh, placements) for dim, size in enumerate(parameter.shape)
        ]

    def misfit(self) -> str | None:
        """What is wrong with the shape of the shard, or None."""
        expected = tuple(map(len, self.index))
        if tuple(self.local.shape) == expected:
            return None
        return (
            f"the shard of parameter '{self.name}' in process {dist.get_rank()} must have shape "
            f"{expected}, which is what its placement gives it of {tuple(self.parameter.shape)}, "
            f"but has {tuple(self.local.shape)}"
        )

    def with_values(self, local: Tensor) -> Tensor:
        """Other values, placed as the parameter is."""
        if not isinstance(self.parameter, DTensor):
            return local
        return DTensor.from_local(
            local,
            self.parameter.device_mesh,
            self.parameter.placements,
            run_check=False,
            shape=self.parameter.shape,
            stride=self.parameter.stride(),
        )


def _indices(size: int, dim: int, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Tensor:
    """The indices along one dimension of a tensor that this process holds."""
    index, coordinate = torch.arange(size), mesh.get_coordinate() or ()
    for place, count, placement in zip(coordinate, mesh.shape, placements, strict=False):
        if getattr(placement, "dim", None) == dim:
            # where FSDP splits what tensor parallelism has split before, each piece is split
            pieces = index.chunk(getattr(placement, "split_factor", 1))
            chunks = (piece.chunk(count) for piece in pieces)
            mine = [chunk[place] for chunk in chunks if place < len(chunk)]
            index = torch.cat([index[:0], *mine])
    return index


class Shards:
    """The shards of all weights and biases of a graph in this process, and the sums over processes.

    Attributes:
        mesh: the processes.
        of: parameter name -> shard.
        leads: whether this process is the first one of the mesh.
        messages: as in :class:`ShardedBalanceResult`.
        traffic: likewise.
    """

    def __init__(self, graph: RescalingGraph) -> None:
        self.graph, self.messages, self.traffic = graph, 0, 0
        parameters = {name: graph.model.get_parameter(name) for name in _names(graph)}
        meshes = {n: w.device_mesh for n, w in parameters.items() if isinstance(w, DTensor)}
        first, self.mesh = next(iter(meshes.items()))
        for name, mesh in meshes.items():
            if mesh != self.mesh:
                raise ValueError(
                    f"all parameters must lie on one device mesh, but '{name}' lies on {mesh} and "
                    f"'{first}' on {self.mesh}"
                )
        coordinate = self.mesh.get_coordinate()
        if coordinate is None:
            raise ValueError(f"process {dist.get_rank()} is no part of {self.mesh}")
        self.leads = not any(coordinate)
        # along each dimension of the mesh of more than one process: its group, and the first in it
        self._lines: dict[int, tuple[dist.ProcessGroup, int]] = {}
        for dim in range(self.mesh.ndim):
            first_of_line = (*coordinate[:dim], 0, *coordinate[dim + 1 :])
            if self.mesh.size(dim) > 1:
                source = int(self.mesh.mesh[first_of_line])
                self._lines[dim] = self.mesh.get_group(dim), source
        self.of = {name: Shard(name, w, self.mesh) for name, w in parameters.items()}

    def reduce(self, values: Tensor, split: tuple[int, ...], op: dist.ReduceOp.RedOpType) -> Tensor:
        """Combine what the processes have for the shards of a parameter, in place."""
        for dim in split:
            if dim in self._lines:
                dist.all_reduce(values, op, group=self._lines[dim][0])
                self._count(values)
        return values

    def tell(self, values: Tensor) -> Tensor:
        """Overwrite values by those of the first process of the mesh."""
        for group, source in self._lines.values():
            dist.broadcast(values, source, group=group)
            self._count(values)
        return values

    def share(self, what: Any) -> Any:
        """An object of the first process, in all of them."""
        box = [what]
        for group, source in self._lines.values():
            dist.broadcast_object_list(box, source, group=group)
        return box[0]

    def _count(self, values: Tensor) -> None:
        self.messages += 1
        self.traffic += values.nbytes

    def agree(self, problem: str | None) -> None:
        """Raise ValueError in every process if one of them has a problem."""
        for dim, (group, _) in self._lines.items():
            found: list[str | None] = [None] * self.mesh.size(dim)
            dist.all_gather_object(found, problem, group=group)
            problem = next((each for each in found if each is not None), None)
        if problem is not None:
            raise ValueError(problem)

    def misfit(self) -> str | None:
        """What is wrong with the shape of a shard, or None."""
        return next(filter(None, (shard.misfit() for shard in self.of.values())), None)

    def not_finite(self) -> str | None:
        """What is wrong with the first parameter with a NaN or infinite entry here, or None."""
        for name, shard in self.of.items():
            local = shard.local
            if not all_finite(local):
                bad = int((~torch.isfinite(local)).sum())
                return (
                    f"parameter '{name}' has {bad} NaN or infinite entries in process "
                    f"{dist.get_rank()}; every weight and bias must be finite"
                )
        return None

    def rescaled(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameter name -> new values of its shard, in the parameter's dtype."""
        changed: dict[str, Tensor] = {}
        for edge in self.graph.edges:
            into = factors.get(edge.target)
            if into is None and not any(source.group in factors for source in edge.sources):
                continue
            shard = self.of[edge.weight]
            box = Box(edge, shard)
            like = torch.ones(1, dtype=torch.float64, device=shard.local.device)
            columns = edge.columns(factors.get, like)
            rows = like.expand(box.shape[0] * box.shape[1]) if into is None else into.to(like)
            new = torch.empty_like(shard.local, memory_format=torch.contiguous_format)
            if new.numel():  # there may be fewer rows than processes
                old, into_place = box.matrix(shard.local), box.matrix(new)
                _times_ratio(old, *box.at_entries(rows, columns), into_place)
            changed[edge.weight] = new
            if edge.bias is not None and into is not None:
                bias = self.of[edge.bias]
                at = into[bias.index[0].to(into.device)]
                changed[edge.bias] = (bias.local.double() * at).to(bias.local.dtype)
        return changed

    def write(self, new: Mapping[str, Tensor], *, inplace: bool) -> nn.Module:
        """Put new values of shards into the model, or into a deep copy."""
        for name, values in new.items():
            shard = self.of[name]
            lost = torch.zeros((), dtype=torch.long, device=values.device)
            lost += ((values == 0) & (shard.local != 0)).sum()
            if int(self.reduce(lost, shard.split, dist.ReduceOp.SUM)):
                warnings.warn(
                    f"{int(lost)} entries of parameter '{name}' become 0: rescaled they are too "
                    f"small for {values.dtype}",
                    stacklevel=5,  # the caller of balance(); torch.no_grad lies in between
                )
        if inplace:
            for name, values in new.items():
                self.of[name].parameter.copy_(self.of[name].with_values(values))
            return self.graph.model
        made = {}
        for name, values in new.items():
            old = self.of[name].parameter
            made[id(old)] = nn.Parameter(self.of[name].with_values(values), old.requires_grad)
        return copy.deepcopy(self.graph.model, made)


class Box:
    """The entries of a weight that a process holds, in the form (blocks, targets, columns, taps).

    Attributes:
        shape: of the whole: numbers of blocks, targets and columns.
        blocks: which blocks they are of.
        targets: which targets, counted within a block.
        columns: which columns, counted within a block.
    """

    def __init__(self, edge: Edge, shard: Shard) -> None:
        self.edge = edge
        size, index = shard.parameter.shape, shard.index
        first, second = index[0], index[1] if len(index) > 1 else torch.zeros(1, dtype=torch.long)
        per_block, other = size[0] // edge.blocks, size[1] if len(index) > 1 else 1
        self._block, self._in_block, self._second = first // per_block, first % per_block, second
        self.blocks, inner = self._block.unique(), self._in_block.unique()
        self._at = torch.searchsorted(self.blocks, self._block) * len(inner)
        self._at += torch.searchsorted(inner, self._in_block)
        self._grid = (len(self.blocks), len(inner))
        if edge.transposed:
            self.shape = torch.Size((edge.blocks, other, per_block))
            self.targets, self.columns = second, inner
        else:
            self.shape = torch.Size((edge.blocks, per_block, other))
            self.targets, self.columns = inner, second

    @staticmethod
    def matrix(local: Tensor) -> Tensor:
        """A shard in its own order: (1, first dimension, second, taps)."""
        if local.dim() < 3:
            local = local.unsqueeze(1) if local.dim() == 1 else local
            return local[None, :, :, None]
        return local.flatten(2)[None]

    def by_channel(self, local: Tensor) -> Tensor:
        """A shard as (blocks, targets, columns, taps).

        If it begins or ends within a block, zeros stand for what others have of that block.
        """
        matrix, cells = self.matrix(local)[0], self._grid[0] * self._grid[1]
        if len(self._at) != cells:
            full = matrix.new_zeros(cells, *matrix.shape[1:])
            full[self._at.to(local.device)] = matrix
            matrix = full
        blocked = matrix.view(*self._grid, *matrix.shape[1:])
        return blocked.transpose(1, 2) if self.edge.transposed else blocked

    def at_entries(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """One number for each row and each column of the whole, in the shape of :meth:`matrix`."""
        blocks = self.shape[0]
        one, other = (columns, rows) if self.edge.transposed else (rows, columns)
        block, inner, second = (
            each.to(rows.device) for each in (self._block, self._in_block, self._second)
        )
        at_first = one.view(blocks, -1)[block, inner][None, :, None, None]
        if blocks == 1:
            at_second = other[second][None, None, :, None]
        else:
            at_second = other.view(blocks, -1)[block][:, second][None, :, :, None]
        return (at_second, at_first) if self.edge.transposed else (at_first, at_second)


class _Sum(IntEnum):
    """What the first process asks the others for."""

    NONE = 0  # that is all
    PRODUCT = 1
    LOG_PRODUCT = 2
    LEADS = 3
    TO_LOG = 4
    RESCALE = 5
    RESCALED_PRODUCT = 6


class ShardedOrbit(Orbit):
    """F of a network whose weights are sharded.

    The first process asks; the others :meth:`serve`, that is they do with their entries what it
    does with its own.
    """

    is_sharded = True

    def __init__(self, graph: RescalingGraph, p: float, q: float, shards: Shards) -> None:
        self.shards, self.is_complete = shards, False
        super().__init__(graph, p, q)

    def read_layers(self, graph: RescalingGraph) -> list[Layer]:
        return [_Layer(graph, edge, self.p, self, i) for i, edge in enumerate(graph.edges)]

    def reached(self, *, forward: bool) -> Tensor:
        found = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        return super().reached(forward=forward) if self.is_complete else found

    def find_live(self) -> None:
        """Find out which units are live, in the first process."""
        self.is_complete = True
        self.live = self.reached(forward=True) & self.reached(forward=False)
        self.live[0] = False

    def serve(self) -> None:
        """Answer until the first process has no more questions."""
        header = torch.zeros(5, dtype=torch.long, device=self.device)
        while True:
            what, number, part, of_rows, size = self.shards.tell(header).tolist()
            if what == _Sum.NONE:
                return
            x = torch.empty(size, dtype=torch.float64, device=self.device) if size else None
            layer = cast(_Layer, self.layers[number])
            layer.all_parts[part].answer(
                _Sum(what), None if x is None else self.shards.tell(x), bool(of_rows)
            )

    def release(self) -> dict[str, Tensor]:
        self.layers = []
        return {}


class _Layer(Layer):
    """The entries of |W|^p in this process.

    ``power`` has those of some blocks, targets and sources: ``box.blocks``, ``box.targets`` and
    ``units``.
    """

    def __init__(
        self, graph: RescalingGraph, edge: Edge, p: float, orbit: ShardedOrbit, number: int
    ) -> None:
        self.shards, self.shard, self.number = orbit.shards, orbit.shards.of[edge.weight], number
        self.all_parts: list[_Part] = []
        self.box = Box(edge, self.shard)
        self.edge = edge
        self.units = self.box.columns
        if self._repeats:
            self.units = torch.cat([units + at for at, units, _ in self._columns()])
        super().__init__(graph, edge, p, orbit)
        self.everything = self.part()
        self.rescaled = self.power[:0]

    def _columns(self) -> list[tuple[int, Tensor, Tensor]]:
        """For each source, where its units begin, those with a column here, and the columns."""
        found, start, at = [], 0, 0
        for source in self.edge.sources:
            stop = start + source.size * source.repeat
            columns = self.box.columns
            columns = columns[(start <= columns) & (columns < stop)] - start
            found.append((at, (columns // source.repeat).unique(), columns))
            start, at = stop, at + source.size
        return found

    def _shape(self) -> torch.Size:
        blocks, targets, _ = self.box.shape
        return torch.Size((blocks, targets, sum(s.size for s in self.edge.sources) // blocks))

    def _held(self) -> torch.Size:
        return torch.Size((len(self.box.blocks), len(self.box.targets), len(self.units)))

    def part(self, *where: Any) -> _Part:
        self.all_parts.append(_Part(self, len(self.all_parts), *where))
        return self.all_parts[-1]

    def _weight(self) -> Tensor:
        return self.box.by_channel(self.shard.local)

    def _per_unit(self, weight: Tensor, combine: Callable[[Tensor, int], Tensor]) -> Tensor:
        weight = combine(weight, 3)
        if not self._repeats:
            return weight
        parts, start = [], 0
        nothing = combine(weight.new_zeros(1, 0), 1)  # what changes no sum
        for source, (_, units, columns) in zip(self.edge.sources, self._columns(), strict=True):
            # the columns of a unit may be split over processes: fill up with nothing
            full = nothing.expand(*weight.shape[:2], len(units) * source.repeat).clone()
            at = torch.searchsorted(units, columns // source.repeat) * source.repeat
            at += columns % source.repeat
            full[:, :, at.to(weight.device)] = weight[:, :, start : start + len(columns)]
            parts.append(combine(full.unflatten(2, (len(units), source.repeat)), 3))
            start += len(columns)
        return torch.cat(parts, 2)

    def to_log(self) -> None:
        self.everything.ask(_Sum.TO_LOG)

    def at(self, theta: Tensor) -> Tensor:
        self.everything.ask(_Sum.RESCALE, theta)
        return cast(Tensor, _Matrix(self.everything))  # products are all that is asked of it

    def rescale(self, theta: Tensor) -> None:
        """Have ``rescaled``, the entries here after a rescaling."""
        blocks, targets, units = self.indices
        log_power = self.power if self.is_log else self.power.log()
        up = theta[self.targets].view(self.shape[0], -1)[blocks][:, targets]
        down = theta[self.sources].view(self.shape[0], -1)[blocks][:, units]
        self.rescaled = (log_power + self.p * (up[:, :, None] - down[:, None, :])).exp_()

    @property
    def indices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks, targets and sources of the entries here."""
        return (
            self.box.blocks.to(self.device),
            self.box.targets.to(self.device),
            self.units.to(self.device),
        )

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """Combine what the processes have, in place."""
        return self.shards.reduce(values, self.shard.split, op)


class _Part(Part):
    """The entries of a layer in this process that read one group."""

    layer: _Layer

    def __init__(
        self,
        layer: _Layer,
        number: int,
        blocks: slice = slice(None),
        in_block: slice = slice(None),
        *where: Any,
    ) -> None:
        super().__init__(layer, blocks, in_block, *where)
        self.number = number
        ends = blocks.indices(layer.shape[0])[:2], in_block.indices(layer.shape[2])[:2]
        at_blocks, targets, units = layer.indices
        self._blocks = _within(at_blocks, *ends[0])
        self._in_block = _within(units, *ends[1])
        self.where = (
            at_blocks[self._blocks] - ends[0][0],
            targets,
            units[self._in_block] - ends[1][0],
        )

    def local(self, x: Tensor, *, at_rows: bool) -> Tensor:
        """One number for each row (or column) of the part -> those of rows with entries here."""
        blocks, targets, units = self.where
        return x.view(self.shape[0], -1)[blocks][:, targets if at_rows else units].flatten()

    def whole(self, local: Tensor | None, nothing: float, *, at_rows: bool) -> Tensor:
        """Undo :meth:`local`; ``nothing`` where no entry of this process is."""
        blocks, targets, units = self.where
        here, length = (targets, self.shape[1]) if at_rows else (units, self.shape[2])
        full = self.layer.power.new_full((self.shape[0], length), nothing)
        if local is not None:
            full[blocks[:, None], here] = local.view(len(blocks), len(here))
        return full.flatten()

    def ask(self, what: _Sum, x: Tensor | None = None, of_rows: bool = True) -> Tensor:
        """Have all processes do something with their entries; returns what they have together."""
        header = [what, self.layer.number, self.number, of_rows, 0 if x is None else len(x)]
        shards = self.layer.shards
        shards.tell(torch.tensor(header, device=self.layer.device))
        return self.answer(what, None if x is None else shards.tell(x.double()), of_rows)

    def answer(self, what: _Sum, x: Tensor | None, of_rows: bool) -> Tensor:
        """Do what the first process has asked for."""
        if what == _Sum.LOG_PRODUCT:
            return self.log_products(x, of_rows)
        if x is not None and what == _Sum.LEADS:
            return self.leading(x.bool(), of_rows)
        if what == _Sum.TO_LOG:
            Layer.to_log(self.layer)
        elif x is not None and what == _Sum.RESCALE:
            self.layer.rescale(x)
        elif x is not None:
            entries = self.power if what == _Sum.PRODUCT else self.layer.rescaled
            return self.products(entries, x, of_rows)
        return self.layer.power.new_zeros(0)

    def _product(self, x: Tensor, of_rows: bool) -> Tensor:
        self.layer.read += self.shape.numel()
        return self.ask(_Sum.PRODUCT, x, of_rows)

    def _log_product(self, log_x: Tensor | None, of_rows: bool) -> Tensor:
        return self.ask(_Sum.LOG_PRODUCT, log_x, of_rows)

    def _leads(self, reached: Tensor, to_rows: bool) -> Tensor:
        return self.ask(_Sum.LEADS, reached, to_rows).bool()

    def products(self, entries: Tensor, x: Tensor, of_rows: bool) -> Tensor:
        """Sums of entries times x."""
        here = self.local(x, at_rows=not of_rows)
        sums = times(entries if of_rows else entries.mT, here) if entries.numel() else None
        return self.layer.reduce(self.whole(sums, 0.0, at_rows=of_rows))

    def log_products(self, log_x: Tensor | None, of_rows: bool) -> Tensor:
        """Logarithms of such sums, from logarithms."""
        here = None if log_x is None else self.local(log_x, at_rows=not of_rows)
        sums = super()._log_product(here, of_rows) if self.power.numel() else None
        all_sums = self.whole(sums, -torch.inf, at_rows=of_rows)
        largest = self.layer.reduce(all_sums.clone(), dist.ReduceOp.MAX)
        shift = torch.where(largest == -torch.inf, 0.0, largest)
        return self.layer.reduce((all_sums - shift).exp_()).log_().add_(shift)

    def leading(self, reached: Tensor, to_rows: bool) -> Tensor:
        """Above 0 where a nonzero weight leads from what is reached."""
        here = self.local(reached, at_rows=not to_rows)
        found = super()._leads(here, to_rows).double() if self.power.numel() else None
        return self.layer.reduce(self.whole(found, 0.0, at_rows=to_rows))


def _within(index: Tensor, start: int, stop: int) -> slice:
    """Where an ascending index lies between two numbers."""
    return slice(int((index < start).sum()), int((index < stop).sum()))


class _Matrix:
    """The rescaled entries of a layer, wherever they are, in products with vectors."""

    def __init__(self, part: _Part, *, of_rows: bool = True) -> None:
        self.part, self.of_rows = part, of_rows

    @property
    def mT(self) -> _Matrix:  # noqa: N802  (torch's name)
        """Its transpose."""
        return _Matrix(self.part, of_rows=not self.of_rows)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        sums = self.part.ask(_Sum.RESCALED_PRODUCT, vectors.flatten(), self.of_rows)
        return sums.view(self.part.shape[0], -1, 1)

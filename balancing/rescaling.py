"""Rescaling hidden units by given factors: the symmetry itself, as an operation on a model."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor, nn

from balancing._pieces import pieces
from balancing._validate import all_finite
from balancing.graph import RescalingGraph, trace

__all__ = ["rescale"]

_MODERATE = 2.0**500  # the ratio of two such numbers is in the range of float64


@torch.no_grad()
def rescale(
    model: nn.Module | RescalingGraph,
    factors: Mapping[str, Tensor | Sequence[float] | float],
    *,
    inplace: bool = False,
) -> nn.Module:
    r"""Multiply what enters each hidden unit by its factor and divide what leaves it.

    :math:`W_{ij} \leftarrow a_i W_{ij} / a_j` and :math:`b_i \leftarrow a_i b_i`, with factor 1 on
    inputs, outputs and every group that is not named. The function of the network is kept, up to
    rounding. Sources: the symmetry of Du et al. 2018, Section 2, and Saul 2023, Algorithm 1.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        factors: hidden group name -> positive factors, shape (units,) or a scalar.
        inplace: change the given model instead of a copy.

    Returns:
        The rescaled model: a deep copy, or the given one if ``inplace``.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, ``factors`` no mapping, or a value of
            it neither numbers nor a tensor.
        ValueError: a name is not a hidden group, a shape does not fit, a factor is not positive
            and finite, or a weight would overflow. Nothing is changed then.
        NotHomogeneousError: the model cannot be traced.

    Warns:
        UserWarning: an entry other than 0 becomes 0 in the dtype of its parameter (named).
    """
    graph = trace(model)
    graph.check_finite()
    return write(graph, rescaled(graph, factors), inplace=inplace)


def write(graph: RescalingGraph, new: Mapping[str, Tensor], *, inplace: bool) -> nn.Module:
    """Put new values of parameters into the model, or into a deep copy.

    Args:
        graph: the graph of the model.
        new: parameter name -> values in its shape, strides, dtype and device. A copy takes them
            as its parameters; of a model that is itself changed they hold the old values then.
        inplace: change the model itself.

    Warns:
        UserWarning: as :func:`rescale`, in the name of the caller of a public function above.
    """
    olds = {name: graph.model.get_parameter(name) for name in new}
    for name, old in olds.items():
        nonzero = int(new[name].count_nonzero())
        if nonzero < old.numel() and nonzero != old.count_nonzero():
            lost = int(((new[name] == 0) & (old != 0)).sum())
            warnings.warn(
                f"{lost} entries of parameter '{name}' become 0: rescaled they are too small for "
                f"{old.dtype}",
                stacklevel=4,  # torch.no_grad lies in between
            )
    if inplace:
        for name, old in olds.items():
            for where in pieces(old.shape):
                before = old[where].clone()
                old[where] = new[name][where]
                new[name][where] = before
        return graph.model
    # a copy that finds its parameters made already; old values are not copied first
    made = {id(old): type(old)(new[name], old.requires_grad) for name, old in olds.items()}
    return copy.deepcopy(graph.model, made)


def rescaled(
    graph: RescalingGraph,
    factors: Mapping[str, Tensor | Sequence[float] | float],
    memory: MutableMapping[str, Tensor] | None = None,
    *,
    largest: float = math.inf,
) -> dict[str, Tensor]:
    """What :func:`rescale` would write: parameter name -> new values, laid out as the parameter.

    The weights of the graph must be finite.

    Args:
        graph: the graph.
        factors: as in :func:`rescale`.
        memory: parameter name -> float64 tensor with as many entries on the same device. Entries
            are taken out one by one: the memory of a float64 parameter holds its new values, as
            fresh memory costs more than the arithmetic; that of another is free before they are
            made.
        largest: a bound of the new weights, if one is known.

    Raises:
        ValueError: as :func:`rescale`.
    """
    if not isinstance(factors, Mapping):
        raise TypeError(f"factors must map group names to numbers, got {type(factors).__name__}")
    checked = {name: _factor(graph, name, value) for name, value in factors.items()}
    changed: dict[str, Tensor] = {}
    for edge in graph.edges:
        into = checked.get(edge.target)
        if into is None and not any(source.group in checked for source in edge.sources):
            continue
        weight = graph.weight(edge)
        device, blocks = weight.device, weight.shape[0]
        like = torch.ones(1, dtype=torch.float64, device=device)
        rows = (like if into is None else into.to(device)).expand(blocks * weight.shape[1])
        columns = edge.columns(checked.get, like)
        new = _space(graph.model.get_parameter(edge.weight), memory, edge.weight)
        in_place = edge.by_channel(new)
        _times_ratio(weight, rows.view(blocks, -1, 1, 1), columns.view(blocks, 1, -1, 1), in_place)
        if in_place.data_ptr() != new.data_ptr():  # the strides are such that it is a copy
            new.copy_(edge.like_weight(in_place).reshape(new.shape))
        if not largest < torch.finfo(new.dtype).max / 2:
            _check_range(edge.weight, new)
        changed[edge.weight] = new
        bias = graph.bias(edge)
        if edge.bias is not None and bias is not None and into is not None:
            changed[edge.bias] = torch.empty_like(bias).copy_(bias.double() * into.to(device))
            _check_range(edge.bias, changed[edge.bias])
    return changed


def _space(old: Tensor, memory: MutableMapping[str, Tensor] | None, name: str) -> Tensor:
    """Memory for other values of a parameter, with the strides that a copy of it has."""
    free = None if memory is None else memory.pop(name, None)
    if free is None or free.dtype != old.dtype:
        del free  # before as much is asked for again
        return torch.empty_like(old)
    if old.is_contiguous():
        return free.view(old.shape)
    return free.view(-1).as_strided(old.shape, torch.empty_like(old, device="meta").stride())


def _check_range(name: str, new: Tensor) -> None:
    if not all(all_finite(new[where]) for where in pieces(new.shape)):
        raise ValueError(f"these factors would make parameter '{name}' overflow {new.dtype}")


def _times_ratio(weight: Tensor, rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """weight * rows / columns in float64, in whose range it is throughout if the result is."""
    ends = torch.stack([*rows.aminmax(), *columns.aminmax()])
    moderate = float(ends.min()) > 1 / _MODERATE and float(ends.max()) < _MODERATE
    by_unit = (*weight.shape[:3], 1)
    if moderate and weight.shape == by_unit and out.dtype == torch.float64:
        torch.div(rows, columns, out=out).mul_(weight)  # nothing is made on the way
        return
    rows, columns = rows.expand(by_unit), columns.expand(by_unit)
    ratio = _ratio if moderate else _ratio_of_any
    for where in pieces(weight.shape, 3):
        out[where] = ratio(weight[where], rows[where], columns[where])


def _ratio(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return (rows / columns) * weight


def _ratio_of_any(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    (m, rows_exponent), (n, columns_exponent) = torch.frexp(rows), torch.frexp(columns)
    exponent = (rows_exponent - columns_exponent).double()
    half = (exponent / 2).floor()  # either half is a power of two that float64 has
    return weight * (m / n) * torch.exp2(half) * torch.exp2(exponent - half)


def _factor(graph: RescalingGraph, name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    hidden = graph.hidden
    if name not in hidden:
        known = graph.groups.get(name)
        why = f"is not rescaled ({known.frozen})" if known else "is not a group of this network"
        raise ValueError(f"group '{name}' {why}; hidden groups: {', '.join(hidden) or 'none'}")
    size = hidden[name].size
    # numbers are taken in float64: torch's default dtype would round them
    dtype = None if isinstance(value, Tensor) else torch.float64
    try:
        factor = torch.as_tensor(value, dtype=dtype).detach()
    except TypeError as error:
        raise TypeError(f"factors of group '{name}' must be numbers: {error}") from error
    except (ValueError, OverflowError) as error:
        raise ValueError(f"factors of group '{name}' must be numbers, in a row: {error}") from error
    odd = factor.is_meta or factor.layout != torch.strided or factor.is_quantized
    if odd or factor.is_complex():
        raise ValueError(
            f"factors of group '{name}' must be a dense tensor of real numbers, got "
            f"{factor.dtype}, {factor.layout} on {factor.device}"
        )
    factor = factor.double()
    if factor.shape not in ((), (size,)):
        raise ValueError(
            f"factors of group '{name}' must have shape ({size},) or (), got {tuple(factor.shape)}"
        )
    if not bool((torch.isfinite(factor) & (factor > 0)).all()):
        raise ValueError(f"factors of group '{name}' must be positive and finite")
    return factor.expand(size)

"""Rescaling hidden units by given factors: the symmetry itself, as an operation on a model."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

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
        new: parameter name -> values in its shape, dtype and device.
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
            old.copy_(new[name])
        return graph.model
    # a copy that finds its parameters made already; old values are not copied first
    made = {id(old): _like(old, new[name]) for name, old in olds.items()}
    return copy.deepcopy(graph.model, made)


def _like(old: nn.Parameter, new: Tensor) -> nn.Parameter:
    """A parameter as ``copy.deepcopy`` makes it, with other values."""
    if new.stride() != old.stride():
        new = torch.empty_like(old).copy_(new)
    return type(old)(new, old.requires_grad)


def rescaled(
    graph: RescalingGraph,
    factors: Mapping[str, Tensor | Sequence[float] | float],
    memory: Mapping[str, Tensor] | None = None,
    *,
    largest: float = math.inf,
) -> dict[str, Tensor]:
    """What :func:`rescale` would write: parameter name -> new values, in the parameter's dtype.

    The weights of the graph must be finite.

    Args:
        graph: the graph.
        factors: as in :func:`rescale`.
        memory: parameter name -> float64 tensor with as many entries on the same device. It is
            overwritten, and may be what is returned: fresh memory costs more than the arithmetic.
        largest: a bound of the new weights, if one is known.

    Raises:
        ValueError: as :func:`rescale`.
    """
    checked = {name: _factor(graph, name, value) for name, value in factors.items()}
    changed: dict[str, Tensor] = {}
    for edge in graph.edges:
        into = checked.get(edge.target)
        if into is None and not any(source.group in checked for source in edge.sources):
            continue
        old = graph.model.get_parameter(edge.weight)
        weight = graph.weight(edge)
        device, blocks = weight.device, weight.shape[0]
        like = torch.ones(1, dtype=torch.float64, device=device)
        rows = like if into is None else into.to(device)
        columns = edge.columns(checked.get, like)
        space = None if memory is None else memory.get(edge.weight)
        new = _times_ratio(
            weight,
            rows.view(-1, 1, 1, 1) if into is None else rows.view(blocks, -1, 1, 1),
            columns.view(blocks, 1, -1, 1),
            None if space is None else space.view(weight.shape),
        )
        changed[edge.weight] = edge.like_weight(new).reshape(old.shape).to(old.dtype)
        bias = graph.bias(edge)
        if edge.bias is not None and bias is not None and into is not None:
            changed[edge.bias] = (bias.double() * into.to(device)).to(bias.dtype)
    weights = {edge.weight for edge in graph.edges}
    for name, new in changed.items():
        in_range = name in weights and largest < torch.finfo(new.dtype).max / 2
        if not in_range and not all_finite(new):
            raise ValueError(f"these factors would make parameter '{name}' overflow {new.dtype}")
    return changed


def _times_ratio(weight: Tensor, rows: Tensor, columns: Tensor, out: Tensor | None) -> Tensor:
    """weight * rows / columns in float64, in whose range it is throughout if the result is."""
    ends = torch.stack([*rows.aminmax(), *columns.aminmax()])
    if float(ends.min()) > 1 / _MODERATE and float(ends.max()) < _MODERATE:
        if out is None:
            out = torch.empty(weight.shape, dtype=torch.float64, device=weight.device)
        if torch.broadcast_shapes(rows.shape, columns.shape) == weight.shape:
            return torch.div(rows, columns, out=out).mul_(weight)
        return torch.mul(weight, rows / columns, out=out)
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
    factor = torch.as_tensor(value, dtype=dtype).detach().double()
    if factor.shape not in ((), (size,)):
        raise ValueError(
            f"factors of group '{name}' must have shape ({size},) or (), got {tuple(factor.shape)}"
        )
    if not bool((torch.isfinite(factor) & (factor > 0)).all()):
        raise ValueError(f"factors of group '{name}' must be positive and finite")
    return factor.expand(size)

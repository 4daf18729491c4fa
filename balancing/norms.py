r"""The :math:`\ell_{p,q}` norm of a network, the shares of its weights, and the imbalance.

With :math:`w_i` the vector of incoming weights of unit :math:`i`, over hidden and output units,

.. math::

   \|W\|_{p,q} = \Big( \sum_i \|w_i\|_p^q \Big)^{1/q}, \qquad
   \pi_{ij} = |W_{ij}|^p \, \|w_i\|_p^{q-p} = (|W_{ij}|/\|w_i\|_p)^p \, \|w_i\|_p^q .

The *share* :math:`\pi_{ij}` is what weight :math:`W_{ij}` contributes to :math:`\|W\|_{p,q}^q`.
The *imbalance* of a hidden unit is the sum of its incoming shares minus the sum of its outgoing
shares. Sources: Saul 2023, eq. (1) for the norm; Saul 2023, Algorithm 1 for the shares. For
:math:`p = q = 2` the imbalance is the conserved quantity of Du et al. 2018, Theorem 2.1.

All sums are taken in float64, whatever the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from balancing._validate import exponents
from balancing.graph import Edge, RescalingGraph, trace

__all__ = ["imbalance", "lpq_norm", "shares"]


@dataclass(frozen=True)
class _Rows:
    """The incoming weights of one layer's units, each row divided by its own norm.

    ``weight`` (blocks, targets, columns, taps) and ``bias`` (blocks * targets,) hold
    |w| / ||w_i||_p, so that no power of them overflows; ``norm`` (blocks * targets,) holds
    ||w_i||_p. A row of zeros stays zero.
    """

    edge: Edge
    weight: Tensor
    bias: Tensor | None
    norm: Tensor


def _rows(graph: RescalingGraph, p: float, *, bias: bool) -> Iterator[_Rows]:
    for edge in graph.edges:
        weight = graph.weight(edge).double().abs()
        b = graph.bias(edge) if bias else None
        b = None if b is None else b.double().abs()
        row = weight.flatten(0, 1).flatten(1)
        row = row if b is None else torch.cat([row, b[:, None]], 1)
        largest = row.detach().amax(1)
        scale = torch.where(largest == 0, 1.0, largest)
        norm = scale * _positive_power(_positive_power(row / scale[:, None], p).sum(1), 1 / p)
        safe = torch.where(norm == 0, 1.0, norm)
        per_row = safe.view(*weight.shape[:2], 1, 1)
        yield _Rows(edge, weight / per_row, None if b is None else b / safe, norm)


def _positive_power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x >= 0, with derivative 0 instead of infinity at x = 0."""
    if exponent == 1:
        return x
    if exponent == 2:
        return x * x
    zero = x == 0  # not x > 0: a NaN must stay one
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x) ** exponent)


def lpq_norm(model: nn.Module | RescalingGraph, p: float = 2, q: float | None = None) -> Tensor:
    r"""The norm :math:`\|W\|_{p,q}` of all weights; biases do not enter.

    The gain of a normalization counts as a row with one weight. A tensor that several layers share
    counts once.

    Differentiable, so that it can serve as a penalty; wrap the call in ``torch.no_grad()`` to
    record values only. Source: Saul 2023, eq. (1).

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.

    Returns:
        Scalar float64 tensor.

    Raises:
        ValueError: p or q is not above 0, a weight is NaN, infinite or not real (named), or the
            result leaves the range of float64.
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.
    """
    p, q = exponents(p, q)
    graph = trace(model)
    graph.check_real()
    rows = list(_rows(graph, p, bias=False))
    if not rows:  # a network may have no weights
        return torch.zeros((), dtype=torch.float64)
    norms = torch.cat([each.norm for each in rows])
    largest = norms.detach().max()
    if not torch.isfinite(largest):
        graph.check_finite()
        raise _out_of_range(p, q)
    if largest == 0:
        return norms.sum()
    norm: Tensor = largest * _positive_power(norms / largest, q).sum() ** (1 / q)
    if not torch.isfinite(norm.detach()):
        raise _out_of_range(p, q)
    return norm


@torch.no_grad()
def shares(
    model: nn.Module | RescalingGraph, p: float = 2, q: float | None = None, *, bias: bool = False
) -> dict[str, Tensor]:
    r"""The share :math:`\pi_{ij}` of every weight in :math:`\|W\|_{p,q}^q`.

    Source: Saul 2023, Algorithm 1.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        bias: count each bias as a weight from a constant unit, in the row norms too.

    Returns:
        Parameter name -> shares, float64, of the parameter's shape. Biases are listed only
        with ``bias=True``. The sum over all entries is :math:`\|W\|_{p,q}^q`.

    Raises:
        ValueError: p or q is not above 0, a weight is NaN, infinite or not real (named), or the
            result leaves the range of float64.
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.
    """
    p, q = exponents(p, q)
    graph = trace(model)
    graph.check_real()
    result: dict[str, Tensor] = {}
    for rows in _rows(graph, p, bias=bias):
        edge, total = rows.edge, rows.norm**q
        weight = _positive_power(rows.weight, p) * total.view(*rows.weight.shape[:2], 1, 1)
        shape = graph.model.get_parameter(edge.weight).shape
        result[edge.weight] = edge.like_weight(weight).reshape(shape)
        if rows.bias is not None and edge.bias is not None:
            result[edge.bias] = _positive_power(rows.bias, p) * total
    _check(graph, result, p, q)
    return result


@torch.no_grad()
def imbalance(
    model: nn.Module | RescalingGraph, p: float = 2, q: float | None = None, *, bias: bool = False
) -> dict[str, Tensor]:
    r"""What flows into each hidden unit minus what flows out of it.

    .. math:: I_i = \sum_j \pi_{ij} - \sum_k \pi_{ki}

    A unit with :math:`I_i = 0` is *balanced*: the norm is stationary under its rescaling,
    because :math:`\partial \|W\|_{p,q}^q / \partial \log a_i = q I_i`. Source: Saul 2023; for
    :math:`p = q = 2`, Du et al. 2018, Theorem 2.1.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        bias: count each bias as a weight from a constant unit.

    Returns:
        Group name -> float64 tensor of shape (units,), in the unit of :math:`|W|^q`; one entry
        per hidden unit.

    Raises:
        ValueError: p or q is not above 0, a weight is NaN, infinite or not real (named), or the
            result leaves the range of float64.
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.
    """
    p, q = exponents(p, q)
    graph = trace(model)
    graph.check_real()
    hidden = graph.hidden
    result: dict[str, Tensor] = {}
    sums = _entrywise_sums(graph, p, bias=bias) if p == q else _row_sums(graph, p, q, bias=bias)
    for edge, into, columns in sums:
        if edge.target in hidden:
            result[edge.target] = result.get(edge.target, 0) + into
        for source, out in edge.by_source(columns):
            if source in hidden:
                result[source] = result.get(source, 0) - out
    _check(graph, result, p, q)
    return {
        # a group may have no weights at all on one side, or on both
        name: result.get(name, torch.zeros(group.size, dtype=torch.float64))
        for name, group in hidden.items()
    }


def _row_sums(
    graph: RescalingGraph, p: float, q: float, *, bias: bool
) -> Iterator[tuple[Edge, Tensor, Tensor]]:
    """For each layer the sum of shares of each row and of each column."""
    for rows in _rows(graph, p, bias=bias):
        total = rows.norm**q
        per_row = total.view(rows.weight.shape[0], 1, -1)
        yield rows.edge, total, (per_row @ _positive_power(rows.weight, p).sum(-1)).flatten()


def _entrywise_sums(
    graph: RescalingGraph, p: float, *, bias: bool
) -> Iterator[tuple[Edge, Tensor, Tensor]]:
    """The same for p = q, where a share is just |W|^p: one pass over the weights, not five."""
    for edge in graph.edges:
        weight = graph.weight(edge).double()
        power = weight * weight if p == 2 else _positive_power(weight.abs(), p)
        into = power.sum((2, 3)).flatten()
        b = graph.bias(edge) if bias else None
        if b is not None:
            into = into + _positive_power(b.double().abs(), p)
        yield edge, into, power.sum((1, 3)).flatten()


def _check(graph: RescalingGraph, result: dict[str, Tensor], p: float, q: float) -> None:
    """Look for a NaN or infinite weight only when the outcome shows that there may be one."""
    if not all(bool(torch.isfinite(value).all()) for value in result.values()):
        graph.check_finite()
        raise _out_of_range(p, q)


def _out_of_range(p: float, q: float) -> ValueError:
    return ValueError(
        f"for p = {p:g} and q = {q:g} the powers of these weights leave the range of float64; "
        "take exponents nearer to 1, or bring the weights nearer to 1"
    )

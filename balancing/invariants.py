r"""What gradient flow conserves: the invariants of Du, Hu and Lee (2018), Section 2.

For hidden unit :math:`i` of layer :math:`h`, row :math:`i` of :math:`W^{(h)}` holds its incoming
weights and column :math:`i` of :math:`W^{(h+1)}` its outgoing ones. Along gradient flow

* per unit (Theorem 2.1):
  :math:`\|W^{(h)}[i,:]\|^2 - \|W^{(h+1)}[:,i]\|^2` is constant,
* per layer (Corollary 2.1): so is its sum
  :math:`\|W^{(h)}\|_F^2 - \|W^{(h+1)}\|_F^2`,
* per linear layer (Theorem 2.2): so is the whole matrix
  :math:`W^{(h)} W^{(h)\top} - W^{(h+1)\top} W^{(h+1)}`.

A unit's own bias counts as one more incoming weight (derived here; the paper has no biases).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import pandas as pd
import torch
from torch import Tensor, nn

from balancing.graph import RescalingGraph, trace
from balancing.norms import imbalance

__all__ = ["InvariantMonitor", "layer_invariants", "matrix_invariants", "unit_invariants"]


def unit_invariants(model: nn.Module | RescalingGraph, *, bias: bool = True) -> dict[str, Tensor]:
    r"""Squared norm of the incoming minus squared norm of the outgoing weights, per hidden unit.

    This is :func:`~balancing.imbalance` at p = q = 2. Gradient flow conserves it if the biases,
    where there are any, are counted (``bias=True``). Source: Du et al. 2018, Theorem 2.1.

    Returns:
        Group name -> float64 tensor of shape (units,), in squared weight units.

    Raises:
        ValueError: a weight is NaN or infinite (named).
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.
    """
    return imbalance(model, 2, 2, bias=bias)


def layer_invariants(model: nn.Module | RescalingGraph, *, bias: bool = True) -> dict[str, Tensor]:
    r"""Squared Frobenius norm of the weights into a group minus that of the weights out of it.

    The sum of :func:`unit_invariants` over the group. Source: Du et al. 2018, Corollary 2.1.

    Returns:
        Group name -> scalar float64 tensor, in squared weight units.

    Raises:
        ValueError: a weight is NaN or infinite (named).
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.
    """
    return {name: value.sum() for name, value in unit_invariants(model, bias=bias).items()}


@torch.no_grad()
def matrix_invariants(
    model: nn.Module | RescalingGraph,
    *,
    bias: bool = True,
    groups: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    r"""The matrix :math:`W_h W_h^\top + b_h b_h^\top - W_{h+1}^\top W_{h+1}` of linear groups.

    Its diagonal is :func:`unit_invariants`. It is conserved only where the activation is linear:
    a linear group may be mixed by any invertible matrix, not only rescaled. Source: Du et al.
    2018, Theorem 2.2; the term in the bias is derived here.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        bias: include the term in the bias.
        groups: names of hidden groups; None means every linear one.

    Returns:
        Group name -> symmetric float64 tensor of shape (units, units), in squared weight units.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, or ``groups`` no collection of
            names.
        ValueError: a named group is unknown, frozen or not linear; or none is named and the
            network has no linear hidden group; or a weight is NaN or infinite (named).
        NotHomogeneousError: the model cannot be traced.
    """
    graph = trace(model)
    hidden = graph.hidden
    linear = _linear_groups(graph)
    if groups is not None and (isinstance(groups, str) or not isinstance(groups, Iterable)):
        raise TypeError(f"groups must be a collection of names or None, got {groups!r}")
    names = linear if groups is None else list(groups)
    if not (names or linear):
        raise ValueError(
            "no hidden group has a linear activation, so no matrix is conserved; "
            "unit_invariants holds for every activation here"
        )
    for name in names:
        if name not in linear:
            what = "is unknown"
            if name in hidden:
                activation = hidden[name].activation
                what = f"has activation {activation}"
                if activation == "linear":
                    what = (
                        "meets a grouped convolution or a normalization, which keep its units apart"
                    )
            raise ValueError(
                f"group '{name}' {what}; matrix invariants exist for linear hidden groups: "
                f"{', '.join(linear) or 'none in this network'}"
            )
    graph.check_finite()
    result = {}
    for name in names:
        gram = torch.zeros(hidden[name].size, hidden[name].size, dtype=torch.float64)
        for edge in graph.edges:
            if edge.blocks > 1:  # linear groups meet no blocks
                continue
            weight = graph.weight(edge)[0].double()
            if edge.target == name:
                rows = weight.flatten(1)
                gram = gram.to(rows.device) + rows @ rows.T
                b = graph.bias(edge) if bias else None
                if b is not None:
                    gram = gram + torch.outer(b.double(), b.double())
            widths = [source.size * source.repeat for source in edge.sources]
            for source, part in zip(edge.sources, weight.split(widths, dim=1), strict=True):
                if source.group == name:
                    columns = part.unflatten(1, (source.size, source.repeat)).transpose(0, 1)
                    columns = columns.flatten(1)
                    gram = gram.to(columns.device) - columns @ columns.T
        result[name] = gram
    return result


def _linear_groups(graph: RescalingGraph) -> list[str]:
    """Hidden groups whose units may be mixed by any matrix, not only rescaled one by one."""
    blocked = {edge.target for edge in graph.edges if edge.blocks > 1} | {
        source.group for edge in graph.edges if edge.blocks > 1 for source in edge.sources
    }
    return [
        name
        for name, group in graph.hidden.items()
        if group.activation == "linear" and name not in blocked
    ]


_QUANTITIES: dict[str, Callable[[RescalingGraph], dict[str, Tensor]]] = {
    "unit": unit_invariants,
    "layer": layer_invariants,
    "matrix": matrix_invariants,
}


class InvariantMonitor:
    """Record the invariants of a model during any training loop.

    Call :meth:`step` after each optimizer step; the invariants at construction are step 0::

        monitor = InvariantMonitor(model, every=10)
        for batch in batches:
            ...
            optimizer.step()
            monitor.step()
        monitor.history  # a DataFrame

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        every: record at each ``every``-th call of :meth:`step`; at least 1.
        quantities: any of ``"unit"``, ``"layer"`` and ``"matrix"``.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, or ``quantities`` no collection of
            names.
        ValueError: ``every`` is below 1, a quantity is unknown, or ``"matrix"`` is asked for
            and no hidden group is linear.
        NotHomogeneousError: the model cannot be traced.
    """

    def __init__(
        self,
        model: nn.Module | RescalingGraph,
        every: int = 1,
        *,
        quantities: Sequence[str] = ("unit", "layer"),
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        if not isinstance(quantities, Iterable):
            raise TypeError(f"quantities must be a collection of names, got {quantities!r}")
        quantities = list(quantities)
        for quantity in quantities:
            if quantity not in list(_QUANTITIES):
                raise ValueError(
                    f"unknown quantity {quantity!r}; choose from {', '.join(_QUANTITIES)}"
                )
        self._graph = trace(model)
        self._every, self._quantities = every, tuple(quantities)
        self._names = self._name_values()
        self._steps, self._recorded, self._values = 0, [0], [self._measure()]

    def step(self) -> None:
        """Count one training step, and record the invariants if it is one to record.

        Raises:
            ValueError: a weight is NaN or infinite (named); nothing is recorded then.
        """
        self._steps += 1
        if self._steps % self._every == 0:
            values = self._measure()
            self._recorded.append(self._steps)
            self._values.append(values)

    @property
    def history(self) -> pd.DataFrame:
        """Long table with one row per recorded step and quantity.

        Columns: ``step``; ``quantity``, for example ``unit:linear1[3]``, ``layer:linear1`` or
        ``matrix:linear1[3,4]``; ``value``, in squared weight units; ``drift``, the value minus
        the value at step 0.
        """
        names = self._names
        values = torch.stack(self._values)
        return pd.DataFrame(
            {
                "step": torch.tensor(self._recorded).repeat_interleave(len(names)).numpy(),
                "quantity": names * len(self._recorded),
                "value": values.flatten().numpy(),
                "drift": (values - values[0]).flatten().numpy(),
            }
        )

    def _measure(self) -> Tensor:
        tables = (_QUANTITIES[quantity](self._graph) for quantity in self._quantities)
        values = [value.flatten().cpu() for table in tables for value in table.values()]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *values])  # there may be none

    def _name_values(self) -> list[str]:
        names = []
        for quantity in self._quantities:
            for group, value in _QUANTITIES[quantity](self._graph).items():
                for index in product(*map(range, value.shape)):
                    suffix = f"[{','.join(map(str, index))}]" if index else ""
                    names.append(f"{quantity}:{group}{suffix}")
        return names

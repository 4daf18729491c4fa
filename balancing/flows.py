r"""Flows of the weights: gradient flow, and Saul's weight-balancing flows.

Gradient flow of :math:`L = E + \tfrac{\lambda}{2} \|W\|^2` is :math:`\dot W = -\nabla L`. A
weight-balancing flow moves the *shares* of the weights in :math:`\|W\|_{p,q}^q` instead,

.. math:: \dot\pi_{ij} = -W_{ij} \frac{\partial L}{\partial W_{ij}}, \qquad
   L = E + \tfrac{\lambda}{q} \|W\|_{p,q}^q ,

so that every imbalance :math:`I_i` obeys :math:`\dot I_i = -\lambda I_i`, for any p, q > 0. At
p = q = 2 this is gradient flow at half the speed. Source: Saul 2023 for what the flow does; this
form of it, and all that is said about it here, is derived here.

A bias counts as one more incoming weight, from a constant unit, in its row and in the norm:
without it no imbalance would be conserved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from balancing import _rows
from balancing._rows import Rows
from balancing._validate import a_module, at_least_zero, exponents
from balancing.graph import RescalingGraph, trace

__all__ = ["gradient_flow", "share_velocity", "weight_balancing_flow"]


def gradient_flow(
    model: nn.Module, loss: Tensor, *, weight_decay: float = 0.0
) -> dict[str, Tensor]:
    r"""The velocity :math:`-\partial E / \partial W - \lambda W` of every parameter, by name.

    Args:
        model: any module.
        loss: the scalar E, computed from the model's parameters.
        weight_decay: :math:`\lambda`, at least 0.

    Returns:
        Parameter name -> tensor of its shape and dtype; without decay, zero where the loss does
        not depend on it. Zero for a parameter that does not require a gradient.

    Raises:
        TypeError: ``model`` is no module, or ``loss`` no tensor.
        ValueError: ``weight_decay`` is negative or not finite, or ``loss`` is no real scalar that
            was computed from tensors that require a gradient.
    """
    decay = at_least_zero("weight_decay", weight_decay)
    a_module("model", model)
    found = gradients(model, loss)
    result = {}
    for name, parameter in model.named_parameters():
        w = parameter.detach()
        result[name] = -found[name] - decay * w if name in found else torch.zeros_like(w)
    return result


@torch.no_grad()
def weight_balancing_flow(
    model: nn.Module | RescalingGraph,
    loss: Tensor,
    p: float = 2,
    q: float | None = None,
    *,
    weight_decay: float = 0.0,
) -> dict[str, Tensor]:
    r"""The velocity of every parameter when the shares move by :math:`\dot\pi = -W\, dL/dW`.

    With :math:`g = \partial E / \partial W`, :math:`w_i` the row of a unit (its bias included) and
    :math:`n_i = \|w_i\|_p`,

    .. math:: \dot W_{ij} = -\frac{1}{p} \Big[ \frac{W_{ij}^2\, g_{ij}}{\pi_{ij}}
        + \Big( \frac{p}{q} - 1 \Big) \frac{W_{ij}\, (w_i \cdot g_i)}{n_i^q} \Big]
        - \frac{\lambda}{q} W_{ij} .

    The regularizer is plain decay whatever p and q. At p = q = 2 the velocity is :math:`-g/2 -
    \lambda W / 2`, at p = q = 1 :math:`-|W|\, g - \lambda W`. Derived here.

    Where a weight is zero it is at rest for p < 2; for p > 2 the velocity is infinite there, and
    ``|W|`` is taken for at least 1e-8 of the norm of its row. A row of zeros is at rest, but for
    p = q = 2. (:func:`integrate_flow` moves in coordinates that have no such points.)

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        loss: the scalar E, without the regularizer, computed from the model's parameters.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        weight_decay: :math:`\lambda`, at least 0.

    Returns:
        Parameter name -> tensor of its shape and dtype. Parameters that are no weight or bias of
        the graph, such as the slopes of a PReLU, have the velocity :math:`-g/p` and no decay.
        Those that do not require a gradient are at rest; they are left out of the rows, and the
        units that they belong to lose their conservation law.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, or ``loss`` no tensor.
        ValueError: p or q is not above 0, ``weight_decay`` is negative, a weight is NaN or
            infinite (named), or ``loss`` is no real scalar that was computed from tensors that
            require a gradient.
        NotHomogeneousError: the model cannot be traced.
    """
    p, q = exponents(p, q)
    decay = at_least_zero("weight_decay", weight_decay)
    graph = trace(model)
    found = gradients(graph.model, loss)
    result = {name: torch.zeros_like(w) for name, w in graph.model.named_parameters()}
    result.update({name: -gradient / p for name, gradient in found.items()})
    for rows, W, g in _matrices(graph, found):
        parts = rows.part(_rows.velocity(W, g, p, q) - decay / q * W)
        result.update({name: part.to(result[name].dtype) for name, part in parts.items()})
    return result


@torch.no_grad()
def share_velocity(
    model: nn.Module | RescalingGraph,
    loss: Tensor,
    p: float = 2,
    q: float | None = None,
    *,
    weight_decay: float = 0.0,
) -> dict[str, Tensor]:
    r"""The same flow in terms of the shares: :math:`\dot\pi = -W g - \lambda \pi`, entry by entry.

    Conservation is plain in this form: what a hidden unit's incoming shares gain in sum, its
    outgoing shares gain as well, since rescaling the unit does not change E. Derived here.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph.
        loss: the scalar E, without the regularizer, computed from the model's parameters.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        weight_decay: :math:`\lambda`, at least 0.

    Returns:
        Name -> float64 tensor of the parameter's shape, for every weight and bias of the graph
        that requires a gradient.

    Raises:
        TypeError: ``model`` is neither a module nor a graph, or ``loss`` no tensor.
        ValueError: p or q is not above 0, ``weight_decay`` is negative, a weight is NaN or
            infinite (named), or ``loss`` is no real scalar that was computed from tensors that
            require a gradient.
        NotHomogeneousError: the model cannot be traced.
    """
    p, q = exponents(p, q)
    decay = at_least_zero("weight_decay", weight_decay)
    graph = trace(model)
    result: dict[str, Tensor] = {}
    for rows, W, g in _matrices(graph, gradients(graph.model, loss)):
        result.update(rows.part(-W * g - decay * _rows.shares(W, p, q)))
    return result


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that requires one, by name.

    Raises:
        TypeError, ValueError: as :func:`gradient_flow`.
    """
    named = {name: w for name, w in model.named_parameters() if w.requires_grad}
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss must be a tensor with one number, got {type(loss).__name__}")
    if loss.numel() != 1 or not loss.is_floating_point():
        raise ValueError(
            f"the loss must be one real number, got shape {tuple(loss.shape)}, {loss.dtype}"
        )
    if not named:
        return {}
    if not loss.requires_grad:
        raise ValueError(
            "the loss must be computed from the model's parameters with gradients on; it requires "
            "no gradient"
        )
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def _matrices(
    graph: RescalingGraph, g: Mapping[str, Tensor]
) -> Iterator[tuple[Rows, Tensor, Tensor]]:
    """The rows of every layer that may move, and W and g as matrices."""
    graph.check_finite()
    weights = {name: graph.model.get_parameter(name).detach() for name in g}
    for rows in Rows.of(graph, weights):
        yield rows, rows.join(weights), rows.join(g)

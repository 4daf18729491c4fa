"""The papers' networks and initializations. All are plain torch modules."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from balancing._validate import a_generator, number

__all__ = ["du2018_network", "gaussian_", "he_", "mlp"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
}


def mlp(
    widths: Sequence[int],
    *,
    activation: str | Callable[[], nn.Module] = "relu",
    bias: bool = False,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A fully connected network, initialized by :func:`he_`.

    Its layers are named ``linear1``, ``activation1``, ``linear2``, ... so that a group of hidden
    units carries the name of the layer that computes it.

    Args:
        widths: number of inputs, of units in each hidden layer, and of outputs.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"linear"``, or a function that
            returns a new module, for example ``lambda: nn.LeakyReLU(0.3)``.
        bias: whether the layers have biases (initially zero).
        dtype: dtype of the parameters; None means torch's default.
        generator: source of the random weights; None means torch's global one.

    Raises:
        TypeError: ``widths`` is no sequence, ``activation`` neither a text nor a function that
            returns a module, ``dtype`` no dtype, or ``generator`` no generator.
        ValueError: fewer than two widths, a width that is not a whole number above 0, an unknown
            activation, or a dtype that is not a real floating-point one.
    """
    if not isinstance(widths, Iterable):
        raise TypeError(f"widths must be a sequence of whole numbers, got {widths!r}")
    widths = list(widths)
    if len(widths) < 2 or not all(type(n) is int and 0 < n < 2**31 for n in widths):
        raise ValueError(f"widths must be at least two whole numbers above 0, got {widths}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype or None, got {dtype!r}")
    if dtype is not None and (not dtype.is_floating_point or dtype.itemsize < 2):
        raise ValueError(f"dtype must be a floating-point one of at least 16 bits, got {dtype}")
    a_generator(generator)
    if not isinstance(activation, str) and (
        isinstance(activation, nn.Module) or not callable(activation)
    ):
        raise TypeError(
            f"activation must be a name, or a function that returns a new module, got "
            f"{activation!r}"
        )
    if isinstance(activation, str) and activation not in _ACTIVATIONS:
        raise ValueError(
            f"unknown activation {activation!r}; choose from {', '.join(_ACTIVATIONS)}, "
            "or pass a function that returns a module"
        )
    make = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for h, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        if h > 1:
            made = make()
            if not isinstance(made, nn.Module):
                raise TypeError(
                    f"activation must return a torch.nn.Module, but it returned a "
                    f"{type(made).__name__}"
                )
            layers[f"activation{h - 1}"] = made
        # skip_init: torch's own initialization would draw from the global generator
        layers[f"linear{h}"] = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias, dtype=dtype)
    return he_(nn.Sequential(layers), generator=generator)


@torch.no_grad()
def he_(model: nn.Sequential, *, generator: torch.Generator | None = None) -> nn.Sequential:
    """Draw weights from N(0, 2 / fan-in) and set biases to zero, in place (He et al. 2015).

    Raises:
        TypeError: ``model`` is no ``nn.Sequential``, or ``generator`` no generator.
        ValueError: a weight is not of a floating-point dtype. Nothing is changed then.
    """
    a_generator(generator)
    for layer in _linear_layers(model):
        layer.weight.normal_(0.0, (2 / layer.in_features) ** 0.5, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
    return model


@torch.no_grad()
def gaussian_(
    model: nn.Sequential, variances: Sequence[float], *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Draw the weights of layer h from N(0, variances[h]) and set biases to zero, in place.

    Raises:
        TypeError: ``model`` is no ``nn.Sequential``, or ``generator`` no generator.
        ValueError: not one variance a layer, or one that is no finite number of at least 0; or a
            weight is not of a floating-point dtype. Nothing is changed then.
    """
    layers = _linear_layers(model)
    given = list(variances) if isinstance(variances, Iterable) else []
    if len(given) != len(layers):
        raise ValueError(
            f"variances must be {len(layers)} numbers of at least 0, one a layer, got {variances!r}"
        )
    what = f"{len(layers)} numbers of at least 0, one a layer"
    given = [number("variances", each, what, lambda value: 0 <= value < math.inf) for each in given]
    a_generator(generator)
    for layer, variance in zip(layers, given, strict=True):
        layer.weight.normal_(0.0, variance**0.5, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
    return model


DU2018_WIDTHS = (1000, 100, 100, 10)
DU2018_VARIANCES = {
    "balanced": (1e-4 / 100, 1e-4 / 10, 1e-4),
    "unbalanced": (1e-4, 1e-4, 1e-4),
}


def du2018_network(
    init: str = "balanced",
    *,
    widths: Sequence[int] = DU2018_WIDTHS,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The ReLU network of Du et al. 2018, Section 4: 1000-100-100-10, no biases.

    Args:
        init: ``"balanced"``: variances 1e-4/100, 1e-4/10 and 1e-4, so that each layer has a
            squared Frobenius norm of about 0.1; or ``"unbalanced"``: 1e-4 in every layer, so
            that the squared norms are about 10, 1 and 0.1. Both as the paper states them.
        widths: other widths, for a smaller network of the same kind.
        dtype: dtype of the parameters; None means torch's default.
        generator: source of the random weights; None means torch's global one.

    Raises:
        TypeError: as :func:`mlp`.
        ValueError: an unknown ``init``, or not four widths.
    """
    if init not in list(DU2018_VARIANCES):
        raise ValueError(f"unknown init {init!r}; choose from {', '.join(DU2018_VARIANCES)}")
    if isinstance(widths, Sequence) and len(widths) != 4:
        raise ValueError(f"widths must be four whole numbers above 0, got {widths!r}")
    network = mlp(widths, dtype=dtype, generator=generator)
    return gaussian_(network, DU2018_VARIANCES[init], generator=generator)


def _linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be a torch.nn.Sequential, got {type(model).__name__}")
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in layers:
        if not layer.weight.is_floating_point():
            raise ValueError(f"model must have floating-point weights, got {layer.weight.dtype}")
    return layers

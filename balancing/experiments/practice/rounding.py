"""Weight quantization before and after the fix, and how large its error should be."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor, nn

from balancing._validate import a_module
from balancing.experiments._settings import bar, chosen
from balancing.experiments.practice.networks import Digits, OrbitConfig, versions, weights

__all__ = ["QuantizationConfig", "predicted_error", "quantization", "quantize", "sensitivity"]


@dataclass(frozen=True)
class QuantizationConfig(OrbitConfig):
    """Settings of the quantization experiment, beside those of the networks; all chosen.

    Attributes:
        bits: sizes of the integers; 8 bits stand for -127 to 127.
        samples: number of training images for the predicted error.
    """

    bits: tuple[int, ...] = (8, 4)
    samples: int = 128

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        super().__post_init__()
        for bits in self.bits:
            _check_bits(bits)
        if not 1 <= self.samples <= 1347:
            raise ValueError(f"samples must be from 1 to 1347, got {self.samples}")


def _check_bits(bits: int) -> None:
    if type(bits) is not int or not 2 <= bits <= 32:
        raise ValueError(f"bits must be a whole number from 2 to 32, got {bits!r}")


def _steps(weight: Tensor, bits: int, per_channel: bool) -> Tensor:
    """Distance of neighbouring grid points: one for the tensor, or one a row."""
    axes = tuple(range(1, weight.dim())) if per_channel else tuple(range(weight.dim()))
    largest = weight.abs().amax(axes, keepdim=True)
    return largest / int(2 ** (bits - 1) - 1)


@torch.no_grad()
def quantize(model: nn.Module, bits: int, *, per_channel: bool = False) -> nn.Module:
    """A copy with each weight rounded to a symmetric grid; biases are kept as they are.

    Args:
        model: its weights are the parameters with at least two axes.
        bits: 2 to 32; the grid has 2^bits - 1 points, from minus to plus the largest size of a
            weight.
        per_channel: a grid for each row, the incoming weights of a unit or an output channel,
            instead of one for each tensor.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: bits is not a whole number from 2 to 32.
    """
    _check_bits(bits)
    a_module("model", model)
    result = copy.deepcopy(model)
    for name, weight in weights(model).items():
        step = _steps(weight, bits, per_channel)
        step = torch.where(step == 0, 1.0, step)  # a row of zeros stays one
        result.get_parameter(name).copy_((weight / step).round() * step)
    return result


def sensitivity(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    r"""How much the outputs depend on each weight: :math:`J = E\, |\partial f / \partial W|^2`.

    Args:
        model: maps (samples, ...) to outputs of shape (samples, outputs).
        x: the samples; the mean is over them, the sum within over the outputs.

    Returns:
        Name of a weight -> J, of the weight's shape.

    Raises:
        TypeError: ``model`` is no module, or ``x`` no tensor.
        ValueError: there is no sample.
    """
    a_module("model", model)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of samples, got {type(x).__name__}")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x must hold samples, got shape {tuple(x.shape)}")
    parameters = {name: each.detach() for name, each in model.named_parameters()}
    moved = weights(model)

    def outputs(moved: dict[str, Tensor], sample: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(model, parameters | moved, (sample[None],))
        return result[0]

    jacobian = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))
    total = {name: torch.zeros_like(each) for name, each in moved.items()}
    for some in x.split(32):  # all at once would take too much memory
        for name, each in jacobian(moved, some).items():
            total[name] += each.square().sum((0, 1))
    return {name: each / len(x) for name, each in total.items()}


@torch.no_grad()
def predicted_error(
    model: nn.Module, x: Tensor, scores: dict[str, Tensor], bits: int, *, per_channel: bool = False
) -> float:
    r"""First-order error of the outputs after :func:`quantize`, relative to the outputs.

    Errors of rounding are taken to be independent and uniform over a step :math:`\Delta`. Then
    the squared error is :math:`\sum_{ij} \Delta^2 J_{ij} / 12`. Derived in chapter 15.

    Args:
        model: a network.
        x: samples, for the size of the outputs.
        scores: name of a weight -> :math:`W^2 J`, with J of :func:`sensitivity`. It is the same
            for all networks of an orbit.
        bits: as for :func:`quantize`.
        per_channel: as for :func:`quantize`.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: bits is not a whole number from 2 to 32, a weight has no score, or a weight is
            0: its J cannot be found.
    """
    _check_bits(bits)
    a_module("model", model)
    if missing := sorted(weights(model).keys() - scores.keys()):
        raise ValueError(f"scores must have an entry for every weight; '{missing[0]}' has none")
    error = 0.0
    for name, weight in weights(model).items():
        if (weight == 0).any():
            raise ValueError(f"parameter '{name}' has weights that are 0; their J is not known")
        steps = _steps(weight, bits, per_channel)
        error += float((steps**2 * scores[name] / weight**2).sum()) / 12
    return math.sqrt(error / float(model(x).square().sum(1).mean()))


def quantization(
    config: QuantizationConfig | None = None, *, progress: bool | None = None
) -> pd.DataFrame:
    """Trained networks, as trained and thrown, before and after the fix, with rounded weights.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        Columns: ``network``; ``seed``; ``scale``, s of the factors e^(s z); ``fix``, ``"none"``
        or the pair; ``bits``; ``grid``, ``"tensor"`` or ``"channel"``; ``error``, the root mean
        square change of the test images' logits over their root mean square; ``predicted``, the
        same by :func:`predicted_error` from training images; ``accuracy`` of the test images;
        ``unrounded``, the accuracy before rounding.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = chosen(config, QuantizationConfig)
    data, exact = Digits(), Digits(torch.float64)
    x = exact.x[: config.samples]
    rows = []
    for network in bar(config.networks, "quantization", progress):
        scores: dict[str, Tensor] = {}
        for scale, fix, model in versions(network, config, data):
            if not scores:
                J = sensitivity(model, x)
                scores = {name: each**2 * J[name] for name, each in weights(model).items()}
            logits = _logits(model, exact)
            for bits, grid in product(config.bits, ("tensor", "channel")):
                per_channel = grid == "channel"
                rounded = quantize(model, bits, per_channel=per_channel)
                change = _logits(rounded, exact) - logits
                rows.append(
                    {
                        "network": network,
                        "seed": config.seed,
                        "scale": float(scale),
                        "fix": fix,
                        "bits": bits,
                        "grid": grid,
                        "error": float(change.norm() / logits.norm()),
                        "predicted": predicted_error(
                            model, x, scores, bits, per_channel=per_channel
                        ),
                        "accuracy": exact.accuracy(rounded),
                        "unrounded": exact.accuracy(model),
                    }
                )
    return pd.DataFrame(rows)


@torch.no_grad()
def _logits(model: nn.Module, data: Digits) -> Tensor:
    logits: Tensor = model(data.test_x)
    return logits

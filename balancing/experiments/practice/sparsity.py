"""Pruning by magnitude before and after the fix, and by scores that no rescaling changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor, nn

from balancing._validate import a_module, number
from balancing.experiments._settings import bar, chosen
from balancing.experiments.practice.networks import Digits, OrbitConfig, versions, weights
from balancing.experiments.practice.rounding import sensitivity

__all__ = ["PruningConfig", "prune", "pruning"]


@dataclass(frozen=True)
class PruningConfig(OrbitConfig):
    """Settings of the pruning experiment, beside those of the networks; all chosen.

    Attributes:
        parts: parts of the weights that are set to zero. Nothing is trained afterwards.
        samples: number of training images for the scores.
    """

    parts: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    samples: int = 128

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        super().__post_init__()
        for part in self.parts:
            _check_part(part)
        if not 1 <= self.samples <= 1347:
            raise ValueError(f"samples must be from 1 to 1347, got {self.samples}")


def _check_part(part: float) -> None:
    number("the part to prune", part, "at least 0 and below 1", lambda value: 0 <= value < 1)


@torch.no_grad()
def prune(
    model: nn.Module,
    part: float,
    *,
    layerwise: bool = False,
    scores: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy without the weights of the lowest scores; biases are kept.

    Args:
        model: its weights are the parameters with at least two axes.
        part: part of the weights that are set to zero, at least 0 and below 1.
        layerwise: the same part of each tensor, instead of one threshold for all.
        scores: name of a weight -> scores of its shape; None means the sizes of the weights.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: part is not what is said above, or the model has no weights.
    """
    _check_part(part)
    a_module("model", model)
    if not weights(model):
        raise ValueError("model must have weights, and this one has none")
    result = copy.deepcopy(model)
    scores = (
        {name: each.abs() for name, each in weights(model).items()} if scores is None else scores
    )
    together = [[name] for name in scores] if layerwise else [list(scores)]
    for names in together:
        flat = torch.cat([scores[name].flatten() for name in names])
        keep = torch.ones_like(flat)
        keep[flat.argsort(stable=True)[: round(part * len(flat))]] = 0
        for name, mask in zip(names, keep.split([scores[n].numel() for n in names]), strict=True):
            parameter = result.get_parameter(name)
            parameter.mul_(mask.view_as(parameter))
    return result


def pruning(config: PruningConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Trained networks, as trained and thrown, before and after the fix, pruned.

    Methods: ``"global"``, one threshold on the sizes of all weights; ``"layer"``, one a layer;
    ``"sensitivity"``, one threshold on :math:`W^2 J`, with J of :func:`sensitivity`, which needs
    images and is the same for all networks of an orbit.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        Columns: ``network``; ``seed``; ``scale``, s of the factors e^(s z); ``fix``, ``"none"``
        or the pair; ``method``; ``part``, of the weights that are zero; ``accuracy`` of the test
        images; ``unpruned``, the accuracy before. Rows of ``"sensitivity"`` only for ``"none"``.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    config = chosen(config, PruningConfig)
    data, exact = Digits(), Digits(torch.float64)
    rows = []
    for network in bar(config.networks, "pruning", progress):
        for scale, fix, model in versions(network, config, data):
            methods: dict[str, dict[str, Tensor] | None] = {"global": None, "layer": None}
            if fix == "none":
                J = sensitivity(model, exact.x[: config.samples])
                methods["sensitivity"] = {n: w**2 * J[n] for n, w in weights(model).items()}
            for (method, scores), part in product(methods.items(), config.parts):
                pruned = prune(model, part, layerwise=method == "layer", scores=scores)
                rows.append(
                    {
                        "network": network,
                        "seed": config.seed,
                        "scale": float(scale),
                        "fix": fix,
                        "method": method,
                        "part": part,
                        "accuracy": exact.accuracy(pruned),
                        "unpruned": exact.accuracy(model),
                    }
                )
    return pd.DataFrame(rows)

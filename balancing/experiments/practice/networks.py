"""What the experiments of practice share: digits, two networks, training, and their orbits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from balancing._validate import a_generator, at_least_zero, number
from balancing.experiments._settings import check_counts, check_positive, check_seed, chosen
from balancing.experiments.digits import digits
from balancing.fixes import balance
from balancing.graph import trace
from balancing.rescaling import rescale

__all__ = ["OrbitConfig", "check_networks", "fixed", "initial", "thrown", "trained", "weights"]

NETWORKS = ("mlp", "conv")
_TESTED = 450


class Digits:
    """The digits, split at random once and for all: 1,347 to train on, 450 for testing.

    Attributes:
        x, y: training images, shape (1347, 1, 8, 8), and classes, shape (1347,).
        test_x, test_y: the same for testing.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        images, classes = digits(dtype=dtype)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        test, train = order[:_TESTED], order[_TESTED:]
        self.x, self.y = images[train], classes[train]
        self.test_x, self.test_y = images[test], classes[test]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Part of the test images that the model classifies correctly."""
        return float((model(self.test_x).argmax(1) == self.test_y).double().mean())

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Cross-entropy of the training images; infinite if it is not a number."""
        loss = float(nn.functional.cross_entropy(model(self.x), self.y))
        return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True)
class OrbitConfig:
    """Networks and their versions, for the experiments on trained networks; all chosen.

    Attributes:
        networks: ``"mlp"``, 64-128-64-10, and ``"conv"``, two 3 x 3 convolutions of stride 2 with
            16 and 32 channels, then one linear layer; both ReLU, with biases.
        epochs: passes over the training images, by SGD with ``lr``, ``momentum`` and minibatches
            of ``batch``; the learning rate falls to 0 along a cosine.
        scales: values of s; the hidden units are rescaled by e^(s z), 0 for as trained.
        fixes: pairs (p, q); each version is also measured after the fix.
        seed: seeds the networks, their training and the factors.
    """

    networks: tuple[str, ...] = NETWORKS
    epochs: int = 20
    lr: float = 0.1
    momentum: float = 0.9
    batch: int = 64
    scales: tuple[float, ...] = (0, 1, 2)
    fixes: tuple[tuple[float, float], ...] = ((1, 1), (2, 2), (16, 16))
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_networks(self.networks, self.scales)
        check_counts(self, "epochs", "batch")
        check_seed(self)
        check_positive(self, "lr")
        number("momentum", self.momentum, "at least 0 and below 1", lambda value: 0 <= value < 1)
        if not all(len(pair) == 2 and min(pair) > 0 for pair in self.fixes):
            raise ValueError(f"fixes must be pairs of numbers above 0, got {self.fixes}")


def check_networks(networks: Sequence[str], scales: Sequence[float]) -> None:
    """Reject unknown networks and scales that cannot be."""
    is_row = isinstance(networks, (tuple, list))
    if not is_row or not networks or not set(networks) <= set(NETWORKS):
        raise ValueError(f"networks must be among {', '.join(NETWORKS)}, got {networks}")
    if not isinstance(scales, (tuple, list)) or not scales:
        raise ValueError(f"scales must be finite and at least 0, got {scales}")
    for scale in scales:
        at_least_zero("scales", scale)


def initial(network: str, generator: torch.Generator) -> nn.Sequential:
    """A network, ``"mlp"`` or ``"conv"``: Gaussian weights, variance 2 / fan-in; biases 0.

    Parameters are float32, whatever torch's default.

    Raises:
        ValueError: there is no such network.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
    # skip_init: torch's own initialization would draw from the global generator
    layers: list[nn.Module]
    if network == "mlp":
        layers = [
            nn.Flatten(),
            nn.utils.skip_init(nn.Linear, 64, 128),
            nn.ReLU(),
            nn.utils.skip_init(nn.Linear, 128, 64),
            nn.ReLU(),
            nn.utils.skip_init(nn.Linear, 64, 10),
        ]
    else:
        layers = [
            nn.utils.skip_init(nn.Conv2d, 1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.utils.skip_init(nn.Conv2d, 16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.utils.skip_init(nn.Linear, 4 * 32, 10),
        ]
    model = nn.Sequential(*layers).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                deviation = math.sqrt(2 / parameter[0].numel())
                parameter.normal_(0.0, deviation, generator=generator)
            else:
                parameter.zero_()
    return model


def trained(
    network: str, config: OrbitConfig, data: Digits, generator: torch.Generator
) -> nn.Sequential:
    """A network of :func:`initial` that has learned the digits, then cast to float64."""
    config = chosen(config, OrbitConfig)
    model = initial(network, generator)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    for _ in range(config.epochs):
        epoch(model, optimizer, data, config.batch, generator)
        schedule.step()
    return model.double()


def epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Digits,
    batch: int,
    generator: torch.Generator,
) -> None:
    """One pass over the training images in a random order."""
    for some in torch.randperm(len(data.x), generator=generator).split(batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x[some]), data.y[some]).backward()
        optimizer.step()


def thrown(
    model: nn.Module, scales: Sequence[float], generator: torch.Generator
) -> list[nn.Module]:
    """The model with its hidden units rescaled by e^(s z), once for each s, with the same z.

    Args:
        model: what :func:`balancing.trace` accepts.
        scales: the values of s.
        generator: source of the standard Gaussian z, one a unit.

    Raises:
        TypeError: ``generator`` is no generator.
        ValueError: a scale is no finite number.
    """
    a_generator(generator)
    scales = [number("scales", s, "finite numbers", math.isfinite) for s in scales]
    graph = trace(model)
    z = {
        name: torch.randn(group.size, dtype=torch.float64, generator=generator)
        for name, group in graph.hidden.items()
    }
    return [rescale(graph, {name: (s * z[name]).exp() for name in z}) for s in scales]


def fixed(model: nn.Module, p: float, q: float) -> nn.Module:
    """The balanced version of a model.

    The method is named, so that a faster one will not change the last digits of a start, which
    training amplifies.
    """
    with warnings.catch_warnings():  # the factors are settled long before the last digit is
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        return balance(model, p, q, method="multiplicative").model


def versions(
    network: str, config: OrbitConfig, data: Digits
) -> Iterator[tuple[float, str, nn.Module]]:
    """(scale, fix, model): a trained network, thrown, and each of them before and after fixes."""
    generator = torch.Generator().manual_seed(config.seed)
    model = trained(network, config, data, generator)
    for scale, each in zip(config.scales, thrown(model, config.scales, generator), strict=True):
        yield scale, "none", each
        for p, q in config.fixes:
            yield scale, f"({p:g}, {q:g})", fixed(each, p, q)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are weights: all but the biases. Row i leads into unit i."""
    return {name: each.detach() for name, each in model.named_parameters() if each.dim() > 1}

"""Random networks and problems for the property-based tests, and the profile they run under."""

import os
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import balancing

# The same examples in every run, so that CI cannot fail by chance; no deadline, since the first
# call of a torch function is slow. A failure prints the example.
settings.register_profile(
    "balancing",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("balancing")

EXPONENTS = (0.5, 1, 1.5, 2, 3, 6, 20)
SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "linear": 1.0, "leaky 0.3": 0.3}

seeds = st.integers(0, 2**31 - 1)
exponents = st.sampled_from(EXPONENTS)


@dataclass(frozen=True)
class Problem:
    """A network with data to fit."""

    net: nn.Sequential
    x: Tensor
    y: Tensor

    def loss(self, net: nn.Module) -> Tensor:
        return 0.5 * (net(self.x) - self.y).square().sum(1).mean()


def over_seeds(run: Callable[..., pd.DataFrame], config: Any, count: int) -> pd.DataFrame:
    """The tables of an experiment for the seeds 0 to count - 1, one below the other."""
    tables = [run(replace(config, seed=seed), progress=False) for seed in range(count)]
    return pd.concat(tables, ignore_index=True)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def activation(name: str) -> str | Callable[[], nn.Module]:
    return name if name in ("relu", "leaky_relu", "linear") else lambda: nn.LeakyReLU(SLOPES[name])


def network(
    widths: Sequence[int],
    seed: int = 0,
    *,
    act: str = "relu",
    bias: bool = False,
    dtype: torch.dtype = torch.float64,
    scale: float = 0.7,
    zeros: float = 0.0,
) -> nn.Sequential:
    """A network with Gaussian weights and biases, of which a share ``zeros`` is set to zero."""
    net = balancing.mlp(widths, activation=activation(act), bias=bias, dtype=dtype)
    rng = generator(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            draw = scale * torch.randn(parameter.shape, dtype=torch.float64, generator=rng)
            keep = torch.rand(parameter.shape, generator=rng) >= zeros
            parameter.copy_(draw * keep)
    return net


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    layers: tuple[int, int] = (2, 4),
    max_width: int = 5,
    act: Sequence[str] = tuple(SLOPES),
    bias: bool | None = None,
    zeros: float = 0.0,
) -> nn.Sequential:
    count = draw(st.integers(*layers))
    widths = draw(st.lists(st.integers(1, max_width), min_size=count + 1, max_size=count + 1))
    return network(
        widths,
        draw(seeds),
        act=draw(st.sampled_from(act)),
        bias=draw(st.booleans()) if bias is None else bias,
        zeros=zeros,
    )


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    layers: tuple[int, int] = (2, 3),
    widths: tuple[int, int] = (1, 5),
    act: Sequence[str] = ("relu", "leaky 0.3"),
    bias: bool | None = None,
) -> Problem:
    """A network and 3 to 6 Gaussian samples."""
    count = draw(st.integers(*layers))
    sizes = draw(st.lists(st.integers(*widths), min_size=count + 1, max_size=count + 1))
    seed = draw(seeds)
    net = network(
        sizes,
        seed,
        act=draw(st.sampled_from(act)),
        bias=draw(st.booleans()) if bias is None else bias,
    )
    samples, rng = draw(st.integers(3, 6)), generator(seed + 1)
    x = torch.randn(samples, sizes[0], dtype=torch.float64, generator=rng)
    y = torch.randn(samples, sizes[-1], dtype=torch.float64, generator=rng)
    return Problem(net, x, y)


def linears(net: nn.Sequential) -> dict[str, nn.Linear]:
    """The linear layers by name; all but the last compute hidden units."""
    return {name: layer for name, layer in net.named_children() if isinstance(layer, nn.Linear)}


def hidden_sizes(net: nn.Sequential) -> dict[str, int]:
    return {name: layer.out_features for name, layer in list(linears(net).items())[:-1]}


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every stored number is bit for bit what it was."""
    now = net.state_dict()
    return now.keys() == before.keys() and all(
        torch.equal(now[name].flatten().view(torch.uint8), before[name].flatten().view(torch.uint8))
        for name in now
    )


def fingerprint(thing: Any) -> Any:
    """Everything about an object that a function may have changed, in a form that can be compared.

    Tensors by their bits, layout, memory and gradient; modules by their tensors, mode and hooks;
    folders by their files.
    """
    if isinstance(thing, nn.Module):
        modules = dict(thing.named_modules()) if "_modules" in vars(thing) else {}
        return [
            (
                name,
                type(module),
                module.training,
                sorted(vars(module)),
                len(module._forward_hooks) + len(module._forward_pre_hooks),
                {n: fingerprint(t) for n, t in module._parameters.items()},
                {n: fingerprint(t) for n, t in module._buffers.items()},
            )
            for name, module in modules.items()
        ]
    if isinstance(thing, Tensor):
        about = (id(thing), thing.dtype, thing.layout, thing.requires_grad, str(thing.device))
        if is_lazy(thing) or thing.is_meta:
            return about
        grad = None if thing.grad is None else fingerprint(thing.grad)
        if thing.layout != torch.strided or thing.is_quantized:
            return (*about, str(thing), grad)
        place = (thing.data_ptr(), tuple(thing.shape), thing.stride())
        return (*about, place, _bits(thing), grad)
    if isinstance(thing, balancing.RescalingGraph):
        return fingerprint(thing.model), dict(thing.groups), thing.edges
    if isinstance(thing, torch.optim.Optimizer):
        kept = {name: _bits(value) for name, value in vars(thing).items() if torch.is_tensor(value)}
        about = (getattr(thing, "time", None), getattr(thing, "deviation", None))
        return fingerprint(thing.param_groups), fingerprint(dict(thing.state)), kept, about
    if isinstance(thing, torch.Generator):
        return fingerprint(thing.get_state())[-2]
    if isinstance(thing, pd.DataFrame):
        return thing.to_csv()
    if isinstance(thing, Path):
        found = sorted(thing.rglob("*"))
        return {str(p): p.read_bytes() if p.is_file() else None for p in found}
    if isinstance(thing, dict):
        return {key: fingerprint(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [fingerprint(value) for value in thing]
    return repr(thing)


# torch adds variables of its own as parts of it are first used; pytest names the test in one
_ENVIRONMENT = sorted(os.environ.keys() - {"PYTEST_CURRENT_TEST"})


def _bits(tensor: Tensor) -> bytes:
    whole = tensor.detach().clone(memory_format=torch.contiguous_format).flatten()
    return whole.view(torch.uint8).numpy().tobytes()


def surroundings() -> dict[str, Any]:
    """The state of the process that no function of the library may change."""
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's generator": str(np.random.get_state()),
        "random": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
        "style": dict(mpl.rcParams),
        "warnings": list(warnings.filters),
    }

"""How much memory balance() takes beside the model, in multiples of the bytes of the weights.

Each network is balanced in a process of its own. What counts is the largest amount of memory that
the process has ever held (VmHWM), less what it held before the call; so nothing is missed between
two looks at it. That needs /proc, so Linux.

Run: python -m benchmarks.memory [--billion]
It prints a table. With --billion it balances one chain of 1.07e9 weights in float32, 4.3 GB, which
takes 13 GB in all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from balancing import balance, mlp, trace

__all__ = ["NETWORKS", "Case", "Peak", "measure", "measure_alone"]

BILLION = "chain of 1.07e9"
NEEDED = 14e9  # bytes, for the billion weights


@dataclass(frozen=True)
class Case:
    """What to balance, and how.

    Attributes:
        network: one of `NETWORKS`.
        dtype: name of a dtype of torch.
        p: exponent within the incoming weights of a unit.
        q: exponent across units.
        inplace: change the model itself.
    """

    network: str
    dtype: str = "float32"
    p: float = 2.0
    q: float = 2.0
    inplace: bool = False


@dataclass(frozen=True)
class Peak:
    """What a case took.

    Attributes:
        weights: number of parameters.
        times: largest memory beside the model, over the bytes of the parameters.
        gigabytes: largest memory of the process, with the model and the libraries.
        seconds: of the call.
        norms: at the start and at the end.
        max_imbalance: at the end.
        change: of the output, relative; NaN if the model itself was changed.
    """

    weights: int
    times: float
    gigabytes: float
    seconds: float
    norms: tuple[float, float]
    max_imbalance: float
    change: float


def _chain(units: int, layers: int, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return mlp([units] * (layers + 1), bias=True, dtype=dtype, generator=generator)


def _one_large(dtype: torch.dtype) -> nn.Module:
    """One layer that has nearly all weights: nothing can be freed while it is changed."""
    generator = torch.Generator().manual_seed(0)
    return mlp([64, 5400, 5400, 64], bias=True, dtype=dtype, generator=generator)


@torch.no_grad()
def _dead_units(dtype: torch.dtype) -> nn.Module:
    model = _chain(2048, 7, dtype)
    for parameter in model.get_submodule("linear3").parameters():
        parameter[:1000] = 0
    return model


@torch.no_grad()
def _convolutions(kernel: int, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    widths = [3, *[640 * 3 // kernel] * 8, 10]
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(widths):
        # skip_init: nothing is made twice, so that the memory before the call is the model's
        layer = nn.utils.skip_init(nn.Conv2d, into, out, kernel, padding=kernel // 2, dtype=dtype)
        layer.weight.normal_(0.0, (2 / layer.weight[0].numel()) ** 0.5, generator=generator)
        layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


NETWORKS: Mapping[str, Callable[[torch.dtype], nn.Module]] = {
    "chain": lambda dtype: _chain(2048, 7, dtype),
    "one large layer": _one_large,
    "dead units": _dead_units,
    "convolutions, 3 x 3": lambda dtype: _convolutions(3, dtype),
    "convolutions, 1 x 1": lambda dtype: _convolutions(1, dtype),
    BILLION: lambda dtype: _chain(8192, 16, dtype),
}


def measure(case: Case) -> Peak:
    """Balance a network in this process, which should have done nothing else before."""
    torch.set_num_threads(1)
    dtype = getattr(torch, case.dtype)
    # what is imported at the first call, and buffers of libraries, are no memory of the second
    balance(_chain(4, 3, dtype), case.p, case.q)
    model = NETWORKS[case.network](dtype)
    size = sum(parameter.nbytes for parameter in model.parameters())
    before = _status("VmRSS")
    start = time.perf_counter()
    result = balance(model, case.p, case.q, inplace=case.inplace)
    seconds = time.perf_counter() - start
    peak = _status("VmHWM")
    return Peak(
        weights=sum(parameter.numel() for parameter in model.parameters()),
        times=(peak - before) / size,
        gigabytes=peak / 1e9,
        seconds=seconds,
        norms=(float(result.norms[0]), float(result.norms[-1])),
        max_imbalance=result.max_imbalance,
        change=float("nan") if case.inplace else _change(model, result.model),
    )


def measure_alone(case: Case, environment: Mapping[str, str] | None = None) -> Peak:
    """Balance a network in a new process.

    Args:
        case: what to balance.
        environment: variables to set there.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(asdict(case))],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Peak(**json.loads(done.stdout))


@torch.no_grad()
def _change(old: nn.Module, new: nn.Module) -> float:
    """Largest change of the output, relative to the largest output."""
    edge = trace(old).edges[0]
    channels = sum(source.size for source in edge.sources)
    shape = (2, channels, *(5,) * (old.get_parameter(edge.weight).dim() - 2))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x = x.to(old.get_parameter(edge.weight).dtype)
    before: Tensor = old(x)
    return float((new(x) - before).abs().max() / before.abs().max())


def _status(name: str) -> int:
    """Bytes, from what the kernel says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billion", action="store_true", help="the chain of 1.07e9 weights alone")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(asdict(measure(Case(**arguments.case)))))
        return
    if arguments.billion:
        if _available() < NEEDED:
            sys.exit(f"needs {NEEDED / 1e9:g} GB, but {_available() / 1e9:.1f} GB are available")
        cases = [Case(BILLION)]
    else:
        cases = [
            Case(network, dtype, *exponents, inplace)
            for network in NETWORKS
            if network != BILLION
            for dtype in ("float32", "float64")
            for exponents in ((2.0, 2.0), (1.0, 2.0))
            for inplace in (False, True)
        ]
    rows = []
    for case in cases:
        rows.append({**asdict(case), **asdict(measure_alone(case))})
        print(rows[-1], file=sys.stderr)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()

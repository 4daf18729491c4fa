"""Runs for the tests of sweeps: in a module of their own, which worker processes can import."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Config:
    """Settings of every run here.

    Attributes:
        folder: each call leaves a file there, named after the seed, a number and the process.
        seconds: how long a run takes at least.
        fatal: seeds that a run does not survive.
    """

    folder: str
    seed: int = 0
    seconds: float = 0.0
    fatal: tuple[int, ...] = ()


def calls(folder: Path | str) -> list[int]:
    """The seeds of all calls so far, in order; several times where there were several."""
    return sorted(int(path.name.partition("-")[0]) for path in Path(folder).iterdir())


def processes(folder: Path | str) -> set[int]:
    """The processes that did them."""
    return {int(path.name.rpartition("-")[2]) for path in Path(folder).iterdir()}


def _note(config: Config) -> None:
    name = f"{config.seed}-{time.monotonic_ns()}-{os.getpid()}"
    (Path(config.folder) / name).touch()
    time.sleep(config.seconds)


def numbers(config: Config) -> pd.DataFrame:
    """A table with a column of each kind."""
    _note(config)
    rng = np.random.default_rng(config.seed)
    return pd.DataFrame(
        {
            "seed": config.seed,
            "x": rng.standard_normal(3),
            "odd": [np.nan, np.inf, -0.0],
            "many": rng.integers(2**60, size=3),
            "name": ["é", "2", ""],
            "ok": [True, False, True],
            "threads": torch.get_num_threads(),
        }
    )


def failing(config: Config) -> pd.DataFrame:
    """Raises for the fatal seeds."""
    _note(config)
    if config.seed in config.fatal:
        raise FloatingPointError(f"no luck with {config.seed}")
    return numbers(config)


def dying(config: Config) -> pd.DataFrame:
    """Takes its process along at the first call for a fatal seed."""
    first = config.seed not in calls(config.folder)
    _note(config)
    if config.seed in config.fatal and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(config)


def deadly(config: Config) -> pd.DataFrame:
    """Takes its process along at every call for a fatal seed; others have time to end before."""
    if config.seed in config.fatal:
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(config)

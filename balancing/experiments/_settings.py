"""What the experiments share: a progress bar and the checks of their settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from tqdm.auto import tqdm

from balancing._validate import whole

T = TypeVar("T")


class HasSeed(Protocol):
    """A config of one run."""

    @property
    def seed(self) -> int:
        """What its random numbers are made from."""


def bar(items: Sequence[T], name: str, progress: bool | None) -> Iterable[T]:
    """The items, with a progress bar on stderr; None means only on a terminal."""
    disable = None if progress is None else not progress
    bar: Iterable[T] = tqdm(items, desc=name, disable=disable, mininterval=0.5)
    return bar


def check_shape(shape: tuple[int, int], rank: int) -> None:
    """Reject a matrix shape or a rank that cannot be."""
    if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape must be two whole numbers above 0, got {shape}")
    if not 1 <= rank <= min(shape):
        raise ValueError(f"rank must be from 1 to {min(shape)}, got {rank}")


def check_counts(config: object, *names: str) -> None:
    """Reject settings below 1, naming the setting."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_seed(config: HasSeed) -> None:
    """Reject a seed that is no whole number of at least 0."""
    whole("seed", config.seed)


def check_positive(config: object, *names: str) -> None:
    """Reject settings that are not finite and above 0, naming the setting."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {getattr(config, name)}")

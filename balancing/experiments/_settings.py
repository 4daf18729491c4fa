"""What the experiments share: a progress bar and the checks of their settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from tqdm.auto import tqdm

from balancing._validate import number, whole

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


def chosen(config: object, kind: type[T]) -> T:
    """The given settings, or the default ones for None.

    Raises:
        TypeError: they are settings of another experiment, or no settings at all.
    """
    if config is None:
        return kind()
    if not isinstance(config, kind):
        raise TypeError(f"config must be a {kind.__name__}, got {type(config).__name__}")
    return config


def check_shape(shape: tuple[int, int], rank: int) -> None:
    """Reject a matrix shape or a rank that cannot be."""
    if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape must be two whole numbers above 0, got {shape}")
    if not 1 <= rank <= min(shape):
        raise ValueError(f"rank must be from 1 to {min(shape)}, got {rank}")


def check_counts(config: object, *names: str) -> None:
    """Reject settings that are no whole numbers of at least 1, naming the setting."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_seed(config: HasSeed) -> None:
    """Reject a seed that is no whole number of at least 0."""
    whole("seed", config.seed)


def check_positive(config: object, *names: str) -> None:
    """Reject settings that are not finite and above 0, naming the setting."""
    for name in names:
        number(
            name, getattr(config, name), "finite and above 0", lambda value: 0 < value < math.inf
        )

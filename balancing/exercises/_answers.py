"""What the checks of the exercises share: reading an answer, and saying what is wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from balancing.networks import mlp


class Wrong(Exception):  # noqa: N818  (not an error: an answer)
    """What is wrong with an answer, and a hint."""


class Missing(Exception):  # noqa: N818
    """There is no answer yet."""


def network(seed: int, activation: Any = "relu", widths: tuple[int, ...] = (4, 6, 5, 3)) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation=activation, dtype=torch.float64, generator=generator)


def call(function: Any, *arguments: Any) -> Any:
    if not callable(function):
        raise Wrong(f"A function is asked for; this is {type(function).__name__}.")
    wanted = len(inspect.signature(function).parameters)
    if wanted != len(arguments):
        raise Wrong(f"The function takes {wanted} arguments; it should take {len(arguments)}.")
    return given_answer(function(*arguments))


def given_answer(answer: Any) -> Any:
    """The answer, unless it is still the None or the dots of the exercise's cell."""
    if answer is None or answer is ...:
        raise Missing
    return answer


def number(value: Any, what: str = "The answer") -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        raise Wrong(f"{what} should be a number; it is {value!r}.") from None


def choose(answer: Any, right: set[str], wrong: Mapping[str, str], nudge: str) -> None:
    """Compare a choice among candidates; the wrong ones come with a hint each."""
    try:
        given = set(answer)
    except TypeError:
        raise Wrong("A set of names is asked for.") from None
    if unknown := given - right - set(wrong):
        raise Wrong(f"Not among the candidates: {', '.join(sorted(map(str, unknown)))}.")
    for name in sorted(given - right):
        raise Wrong(wrong[name])
    if count := len(right - given):
        raise Wrong(
            f"What you named is right; {count} more {'is' if count == 1 else 'are'} missing. "
            f"{nudge}"
        )


def close(a: float, b: float, tolerance: float = 1e-3) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-300)


def gaussian(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(each, dtype=torch.float64, generator=generator) for each in shapes]


def matrix(value: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        matrix = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"A matrix is asked for; this is {type(value).__name__}.") from None
    if matrix.shape != shape:
        raise Wrong(f"The shape should be {tuple(shape)}; it is {tuple(matrix.shape)}.")
    return matrix.detach()

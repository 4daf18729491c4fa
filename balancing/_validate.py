"""Checks of arguments that several modules share."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable

import torch
from torch import Tensor


def number(name: str, value: object, what: str, accepted: Callable[[float], bool]) -> float:
    """Return an argument as a float: a Python or numpy number, or a tensor of one.

    Args:
        name: of the argument.
        value: the argument.
        what: what is accepted, in words.
        accepted: whether a number is.

    Raises:
        ValueError: it is no number, or not an accepted one; the message names it.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not accepted(float(value)):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return float(value)


def whole(name: str, value: object) -> int:
    """Return an argument as an int.

    Raises:
        ValueError: it is not a whole number of at least 0; the message names it.
    """
    try:
        result = operator.index(value)  # type: ignore[arg-type]  # it raises TypeError
    except TypeError:
        result = -1
    if isinstance(value, bool) or result < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
    return result


def exponents(p: float, q: float | None) -> tuple[float, float]:
    """Return ``(p, q)`` as floats, with ``q = p`` for None.

    Raises:
        ValueError: p or q is not a finite number above 0; the message names it.
    """
    p, q = (
        number(name, value, "finite and above 0", lambda value: 0 < value < math.inf)
        for name, value in (("p", p), ("q", p if q is None else q))
    )
    return p, q


def at_least_zero(name: str, value: float) -> float:
    """Return an argument as a float.

    Raises:
        ValueError: it is not a finite number of at least 0; the message names it.
    """
    return number(name, value, "finite and at least 0", lambda value: 0 <= value < math.inf)


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite; mostly in one pass that allocates nothing."""
    # a sum that is finite has finite terms only; one that is not may just have overflowed
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())

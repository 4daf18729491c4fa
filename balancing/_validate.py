"""Checks of arguments that several modules share."""

from __future__ import annotations

import math


def exponents(p: float, q: float | None) -> tuple[float, float]:
    """Return ``(p, q)`` as floats, with ``q = p`` for None.

    Raises:
        ValueError: p or q is not a finite number above 0; the message names it.
    """
    q = p if q is None else q
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    return float(p), float(q)


def at_least_zero(name: str, value: float) -> float:
    """Return an argument as a float.

    Raises:
        ValueError: it is not a finite number of at least 0; the message names it.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return float(value)

"""Checks of arguments that several modules share."""

from __future__ import annotations

import copy
import math
import numbers
import operator
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_T = TypeVar("_T")


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
    if isinstance(value, Tensor) and value.ndim == 0 and not (value.is_complex() or value.is_meta):
        value = value.item()
    if isinstance(value, bool) or not _accepts(accepted, value):
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return float(value)  # type: ignore[arg-type]  # a real number, as has been seen


def _accepts(accepted: Callable[[float], bool], value: object) -> bool:
    try:
        return isinstance(value, numbers.Real) and accepted(float(value))
    except OverflowError:  # a Python int may be larger than any float
        return False


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
        ValueError: p or q is not a finite number above 0, or 1 / p overflows; the message names it.
    """
    least = 1 / sys.float_info.max
    p, q = (
        number(name, value, "finite and above 0", lambda value: least <= value < math.inf)
        for name, value in (("p", p), ("q", p if q is None else q))
    )
    return p, q


def at_least_zero(name: str, value: float) -> float:
    """Return an argument as a float.

    Raises:
        ValueError: it is not a finite number of at least 0; the message names it.
    """
    return number(name, value, "finite and at least 0", lambda value: 0 <= value < math.inf)


def a_module(name: str, value: object) -> nn.Module:
    """Return an argument that is a module, ready for use.

    Raises:
        TypeError: it is none, or its class forgot ``super().__init__()``; the message names it.
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}")
    if "_modules" not in vars(value):
        raise TypeError(
            f"{name} must be a torch.nn.Module that is initialized; the __init__ of "
            f"{type(value).__name__} does not call super().__init__()"
        )
    return value


def a_generator(generator: object) -> None:
    """Refuse what is neither a generator nor None, before anything is drawn.

    Raises:
        TypeError: with the argument's name, ``generator``.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {type(generator).__name__}"
        )


def a_function(name: str, value: object) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: the message names it.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def float64_parameters(model: nn.Module) -> None:
    """Refuse parameters with which a tight tolerance cannot be met.

    Raises:
        ValueError: there are none, or one is not float64, dense and finite (named).
    """
    named = dict(model.named_parameters())
    if not named:
        raise ValueError("model must have parameters, and this one has none")
    for name, parameter in named.items():
        if is_lazy(parameter) or parameter.is_meta or parameter.layout != torch.strided:
            raise ValueError(
                f"parameter '{name}' must be dense and have values; it is sparse, on the meta "
                "device, or of a size that is not known yet"
            )
        if parameter.dtype != torch.float64:
            raise ValueError(
                f"parameter '{name}' is {parameter.dtype}; a tight tolerance needs float64: "
                "call model.double() first"
            )
        if not all_finite(parameter.detach()):
            raise ValueError(f"parameter '{name}' has NaN or infinite entries; it must be finite")


def a_copy(model: _T) -> _T:
    """A deep copy of a module, or of what holds one.

    Raises:
        ValueError: torch cannot copy it.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            "model cannot be copied: it has a tensor that is computed from others, as by pruning "
            "or weight normalization; make it permanent first"
        ) from error


def as_vector(model: nn.Module) -> Tensor:
    """All parameters in one vector; torch's own function takes contiguous ones only."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite; mostly in one pass that allocates nothing."""
    # a sum that is finite has finite terms only; one that is not may just have overflowed
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())

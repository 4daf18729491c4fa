r"""Asymmetric matrix factorization by gradient descent (Du, Hu and Lee 2018, Section 3).

A matrix is fitted by a product :math:`U V^\top`. The objectives, numbered as in the paper, with
:math:`B = U^\top U - V^\top V`:

.. math::
    (2)\quad f(U, V) = \tfrac12 \|U V^\top - M\|_F^2, \qquad
    (3)\quad f(U, V) + c\,\|B\|_F^2,\ c = \tfrac18.

The penalty of (3) is stated by the paper; the factor 1/2 of (2) is recalled.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard

import pandas as pd
import torch
from torch import Tensor

from balancing._validate import a_generator

__all__ = ["FactorizationResult", "factorize"]


@dataclass(frozen=True, eq=False)
class FactorizationResult:
    """What :func:`factorize` returns.

    Attributes:
        U: left factor after the last step, shape (d1, rank), float64.
        V: right factor after the last step, shape (d2, rank), float64.
        history: one row every ``record_every`` iterations, from 0 (the start) to the last.
            Columns: ``iteration``; ``loss``, the objective that is descended, its penalty
            included; ``error``, the norm of U V^T - M; ``gap``, that of U^T U - V^T V (both
            Frobenius norms); ``ratio``, which is ``norm_u / norm_v``; ``norm_u`` and ``norm_v``,
            the squared Frobenius norms of U and V.
    """

    U: Tensor
    V: Tensor
    history: pd.DataFrame


@torch.no_grad()
def factorize(
    target: Tensor,
    rank: int,
    *,
    step: float | Callable[[int], float],
    steps: int,
    init_scale: float | Sequence[float],
    balance_penalty: float = 0.0,
    generator: torch.Generator | None = None,
    record_every: int = 1,
) -> FactorizationResult:
    r"""Fit ``target`` by a product of two factors, by gradient descent from a Gaussian start.

    With :math:`E = U V^\top - M` and :math:`B = U^\top U - V^\top V`, both factors move at once:

    .. math::
        U \leftarrow U - \eta_t\,(E V + 4 c\,U B), \qquad
        V \leftarrow V - \eta_t\,(E^\top U - 4 c\,V B).

    For c = 0 a step changes B by exactly
    :math:`\eta_t^2\,(V^\top E^\top E V - U^\top E E^\top U)` (derived), so that descent almost
    keeps the gap that it starts with. A positive c drives the gap to zero.

    A step costs three products of d1 * d2 * rank multiplications, and a record one pass over E.

    Args:
        target: the matrix M, shape (d1, d2), of a floating dtype; computed with in float64.
        rank: columns of the factors, from 1 to min(d1, d2).
        step: step size, or a function of the iteration t = 0, 1, ... that returns it.
        steps: number of steps.
        init_scale: standard deviation of the i.i.d. Gaussian entries of the start: one number,
            or a pair for U and V.
        balance_penalty: c; 0 is the paper's objective (2), 1/8 its objective (3).
        generator: source of the start, U before V; None means torch's global one.
        record_every: iterations between the rows of the history.

    Raises:
        TypeError: ``generator`` is no generator.
        ValueError: an argument outside of what is said above, or a step function that returns
            something else than a finite number above 0; the message names it.
        FloatingPointError: the descent diverged; the message names the iteration and the step.
    """
    target = _matrix(target)
    d1, d2 = target.shape
    if type(rank) is not int or not 1 <= rank <= min(d1, d2):
        raise ValueError(
            f"rank must be a whole number from 1 to {min(d1, d2)}, the smaller side of the "
            f"target, got {rank!r}"
        )
    for name, count in (("steps", steps), ("record_every", record_every)):
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
    scales = tuple(init_scale) if isinstance(init_scale, Sequence) else (init_scale, init_scale)
    if len(scales) != 2 or not all(_is_positive(scale) for scale in scales):
        raise ValueError(
            "init_scale must be a finite number above 0, or a pair of them for U and V, "
            f"got {init_scale!r}"
        )
    if not (
        _is_positive(balance_penalty) or (_is_number(balance_penalty) and balance_penalty == 0)
    ):
        raise ValueError(f"balance_penalty must be finite and at least 0, got {balance_penalty!r}")
    if not callable(step) and not _is_positive(step):
        raise ValueError(f"step must be finite and above 0, or a function, got {step!r}")

    a_generator(generator)
    U, V = target.new_empty(d1, rank), target.new_empty(d2, rank)
    for factor, scale in zip((U, V), scales, strict=True):
        factor.normal_(0.0, scale, generator=generator)
    E, grad_u, grad_v = torch.empty_like(target), torch.empty_like(U), torch.empty_like(V)
    rows, size = [], math.nan
    with _threads_for(d1 * d2 * rank):
        for t in range(steps + 1):
            torch.addmm(target, U, V.T, beta=-1, out=E)
            is_recorded = t % record_every == 0 or t == steps
            if is_recorded or balance_penalty:
                B = U.T @ U - V.T @ V
            if is_recorded:
                error, gap, norm_u, norm_v = (
                    float(torch.linalg.vector_norm(x)) for x in (E, B, U, V)
                )
                loss = 0.5 * error * error + balance_penalty * gap * gap
                if not math.isfinite(loss):
                    raise _divergence(t, size)
                rows.append((t, loss, error, gap, norm_u * norm_u, norm_v * norm_v))
            if t == steps:
                break
            torch.mm(E, V, out=grad_u)
            torch.mm(E.T, U, out=grad_v)
            if balance_penalty:
                grad_u.addmm_(U, B, alpha=4 * balance_penalty)
                grad_v.addmm_(V, B, alpha=-4 * balance_penalty)
            # every entry of U and V enters E V: to look there is enough
            if not math.isfinite(float(torch.linalg.vector_norm(grad_u))):
                raise _divergence(t, size)
            size = _step_size(step, t)
            U.sub_(grad_u, alpha=size)
            V.sub_(grad_v, alpha=size)
    history = pd.DataFrame(rows, columns=["iteration", "loss", "error", "gap", "norm_u", "norm_v"])
    history.insert(4, "ratio", history["norm_u"] / history["norm_v"])
    return FactorizationResult(U, V, history)


@contextmanager
def _threads_for(multiplications: int) -> Iterator[None]:
    """One thread for small products: to wait for a second costs more than it does.

    On two cores that other work keeps busy, some fifty times more (seen once, at 50x40, rank 3).
    """
    before = torch.get_num_threads()
    if multiplications < 1 << 20:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_positive(value: object) -> bool:
    # a Python int may be larger than any float
    return _is_number(value) and 0 < value <= sys.float_info.max


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _matrix(target: Tensor) -> Tensor:
    if not isinstance(target, Tensor):
        raise ValueError(f"target must be a torch.Tensor, got {type(target).__name__}")
    if target.ndim != 2 or target.numel() == 0 or not target.is_floating_point():
        raise ValueError(
            "target must be a non-empty matrix of a floating dtype, got shape "
            f"{tuple(target.shape)} and dtype {target.dtype}"
        )
    if target.is_meta or target.layout != torch.strided:
        raise ValueError("target must be dense and have values; it is sparse or on the meta device")
    if not bool(target.isfinite().all()):
        raise ValueError("target must be finite, got NaN or infinite entries")
    return target.detach().to(torch.float64).contiguous()


def _step_size(step: float | Callable[[int], float], t: int) -> float:
    if not callable(step):
        return step
    size = step(t)
    if not _is_positive(size):
        raise ValueError(f"step({t}) must be a finite number above 0, got {size!r}")
    return size


def _divergence(iteration: int, size: float) -> FloatingPointError:
    remedy = f"take a step below {size:g}" if iteration else "take a smaller init_scale or target"
    return FloatingPointError(f"the descent has diverged at iteration {iteration}; {remedy}")

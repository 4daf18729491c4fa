"""Sums of exponentials of few variables: the small problems that the two-level method solves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["least_sum"]

_STEPS = 12
_HALVINGS = 30
_PROGRESS = 1e-3  # more than a sweep gains
_RESOLUTION = 1e-14  # of logarithms, so of the sum relative to itself


def least_sum(log_slopes: NDArray[np.float64], exponents: NDArray[np.float64]) -> Any:
    r"""Where :math:`\sum_n S_n e^{x_n \cdot c} / \|x_n\|_\infty` is least, for many S at once.

    Newton's method, from a start that is exact if all terms can be made equal, as for a chain.
    In numpy for the most part, since the arrays are so small that most of the time goes into
    calls.

    Args:
        log_slopes: log S, shape (terms, problems); -inf for a term that a problem does not have.
        exponents: x, shape (terms, variables); no row is 0.

    Returns:
        c, shape (variables, problems), to a thousandth of the slope at the start. Variables that
        are in no term keep 0.
    """
    present = np.isfinite(log_slopes)
    weight = log_slopes - np.log(np.abs(exponents).max(1))[:, None]

    def value(c: NDArray[np.float64]) -> Any:
        return np.logaddexp.reduce(weight + exponents @ c, axis=0)

    with np.errstate(all="ignore"):  # what is not finite is not taken
        c = np.zeros((exponents.shape[1], log_slopes.shape[1]))
        equal = _newton_step(exponents, present, -(exponents.T @ np.where(present, log_slopes, 0)))
        now, at_equal = value(c), value(equal)
        c, now = np.where(at_equal < now, equal, c), np.fmin(at_equal, now)
        wanted = None
        for _ in range(_STEPS):
            terms = np.nan_to_num(np.exp(weight + exponents @ c - now))
            slope, size = exponents.T @ terms, np.abs(exponents).T @ terms
            uneven = np.nan_to_num(np.abs(slope / size)).max()
            wanted = max(_PROGRESS * uneven, _RESOLUTION) if wanted is None else wanted
            if uneven <= wanted:
                break
            step = _newton_step(exponents, terms, -slope)
            for _ in range(_HALVINGS):
                ahead = value(c + step)
                rises = ~(ahead <= now + _RESOLUTION)  # not >: it may be NaN
                if not rises.any():
                    break
                step = np.where(rises, step / 2, step)
            c, now = c + np.where(rises, 0, step), np.where(rises, now, ahead)
    return c


def _newton_step(
    exponents: NDArray[np.float64], terms: NDArray[Any], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve with X^T diag(terms) X for each problem, kept off singularity."""
    # in torch, whose number of threads is the user's choice: numpy's may spin beside them
    x, weights = torch.from_numpy(exponents), torch.from_numpy(terms.astype(np.float64))
    matrix = x.T @ (weights.T[:, :, None] * x)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    scale = diagonal.clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    scaled = scale[:, :, None] * matrix * scale[:, None, :]
    scaled.diagonal(dim1=1, dim2=2).add_(_RESOLUTION)
    solution = torch.linalg.solve(scaled, scale * torch.from_numpy(right.T))
    return np.asarray((scale * solution).T)

"""Sums of exponentials of few variables: the small problems that the two-level method solves."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["least_sum"]

_STEPS = 12
_HALVINGS = 30
_PROGRESS = 1e-3  # more than a sweep gains
_RESOLUTION = 1e-14  # of logarithms, so of the sum relative to itself


def least_sum(log_slopes: Tensor, exponents: Tensor) -> Tensor:
    r"""Where :math:`\sum_n S_n e^{x_n \cdot c} / \|x_n\|_\infty` is least, for many S at once.

    Newton's method, from a start that is exact if all terms can be made equal, as for a chain.

    Args:
        log_slopes: log S, shape (terms, problems); -inf for a term that a problem does not have.
        exponents: x, shape (terms, variables); no row is 0.

    Returns:
        c, shape (variables, problems), to a thousandth of the slope at the start. Variables that
        are in no term keep 0.
    """
    present = torch.isfinite(log_slopes).to(log_slopes.dtype)
    slopes = torch.where(present > 0, log_slopes, 0.0)
    weight = log_slopes - exponents.abs().amax(1).log()[:, None]

    def value(c: Tensor) -> Tensor:
        return torch.logsumexp(weight + exponents @ c, 0)

    c = torch.zeros(exponents.shape[1], log_slopes.shape[1]).to(log_slopes)
    equal = _newton_step(exponents, present, -(exponents.T @ slopes))
    c = torch.where(value(equal) < value(c), equal, c)
    wanted = None
    for _ in range(_STEPS):
        terms = (weight + exponents @ c - value(c)).exp().nan_to_num()
        slope, size = exponents.T @ terms, exponents.abs().T @ terms
        uneven = (slope / size).abs().nan_to_num()
        wanted = _PROGRESS * uneven.max() if wanted is None else wanted
        if not bool((uneven > wanted.clamp(min=_RESOLUTION)).any()):
            break
        step = _newton_step(exponents, terms, -slope)
        before = value(c) + _RESOLUTION
        for _ in range(_HALVINGS):
            rises = ~(value(c + step) <= before)  # not >: it may be NaN
            if not rises.any():
                break
            step = torch.where(rises, step / 2, step)
        c = c + torch.where(rises, 0.0, step)
    return c


def _newton_step(exponents: Tensor, terms: Tensor, right: Tensor) -> Tensor:
    """Solve with X^T diag(terms) X for each problem, kept off singularity."""
    matrix = exponents.T @ (terms.T[:, :, None] * exponents)
    scale = matrix.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(matrix.dtype).tiny).rsqrt()
    scaled = scale[:, :, None] * matrix * scale[:, None, :]
    scaled.diagonal(dim1=1, dim2=2).add_(_RESOLUTION)
    solution: Tensor = torch.linalg.solve(scaled, scale * right.T)
    return (scale * solution).T

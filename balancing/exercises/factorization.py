"""Exercises of chapters 6 and 7, on matrix factorization."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from balancing.exercises._answers import (
    Wrong,
    call,
    close,
    gaussian,
    matrix,
    number,
)


def _gap_change(answer: Any) -> str:
    """06.1: the exact change of U^T U - V^T V in a step on f + gamma ||U^T U - V^T V||_F^2."""
    for seed, step, penalty in ((0, 0.1, 0.0), (1, 0.3, 0.0), (2, 0.2, 0.125), (3, 0.1, 0.5)):
        U, V, target = gaussian(seed, (5, 2), (4, 2), (5, 4))
        U.requires_grad_()
        V.requires_grad_()
        gap = U.T @ U - V.T @ V
        loss = 0.5 * (U @ V.T - target).square().sum() + penalty * gap.square().sum()
        slope_u, slope_v = torch.autograd.grad(loss, (U, V))
        U, V, before = U.detach(), V.detach(), gap.detach()
        new_u, new_v = U - step * slope_u, V - step * slope_v
        true = new_u.T @ new_u - new_v.T @ new_v - before
        squares = step**2 * (slope_u.T @ slope_u - slope_v.T @ slope_v)
        E = U @ V.T - target
        of_2 = step**2 * (V.T @ E.T @ E @ V - U.T @ E @ E.T @ U)
        given = matrix(call(answer, U, V, target, step, penalty), true.shape)
        wrong = (
            (-true, "The sign is wrong: the gap is U^T U minus V^T V."),
            (true / step, "The step size enters squared."),
            (
                of_2,
                "Right for gamma = 0. With a penalty the terms linear in the step do not cancel.",
            ),
            (
                squares,
                "The squares are right. The terms linear in the step are missing for gamma > 0.",
            ),
            (true - squares, "The terms linear in the step are right; the squares are missing."),
        )
        if not torch.allclose(given, true, rtol=1e-9, atol=1e-12):
            for other, hint in wrong:
                if torch.allclose(given, other, rtol=1e-9, atol=1e-12):
                    raise Wrong(hint)
            raise Wrong(
                f"For gamma = {penalty:g} it is not the change of a step. Expand "
                "(U - eta G)^T (U - eta G) with G the gradient, and the same for V."
            )
    return (
        "Exact, for every gamma: what is linear in the step shrinks the gap, the squares may not."
    )


def _balanced_factors(answer: Any) -> str:
    """06.2: factors of a matrix with the smallest sum of squares."""
    for seed, shape, rank in ((0, (5, 4), 2), (1, (4, 6), 3), (2, (3, 3), 1)):
        left, right = gaussian(seed, (shape[0], rank), (shape[1], rank))
        target = left @ right.T
        factors = call(answer, target, rank)
        try:
            U, V = factors
        except (TypeError, ValueError):
            raise Wrong("A pair (U, V) is asked for.") from None
        U, V = (matrix(each, (n, rank)) for each, n in zip((U, V), shape, strict=True))
        if not torch.allclose(U @ V.T, target, atol=1e-9):
            raise Wrong("U V^T is not the matrix.")
        squares = float(U.square().sum() + V.square().sum())
        smallest = 2 * float(torch.linalg.svdvals(target).sum())
        if not close(squares, smallest, 1e-9):
            hint = "Give the square root of each singular value to either side."
            if torch.allclose(U.T @ U, torch.eye(rank).double()) or torch.allclose(
                V.T @ V, torch.eye(rank).double()
            ):
                hint = "All of the singular values are in one factor."
            raise Wrong(
                f"U V^T is the matrix, but the squares sum to {squares:.4g}, and {smallest:.4g} "
                f"can be had. {hint}"
            )
    return "U^T U = V^T V, and the squares sum to twice the sum of the singular values."


def _rank_one_factor(answer: Any) -> str:
    """07.1: the factor a step of the error at the end of a rank-one descent."""
    for c in (0.1, 0.5, 0.65, 0.8, 0.95):
        given = number(call(answer, c), f"The factor for c = {c:g}")

        def step(x: Tensor, c: float = c) -> Tensor:
            a, b, m, n = x
            u, v = 1 - c * (b * b + n * n), 1 - c * (a * a + m * m)
            return torch.stack([u * a + c * b, v * b + c * a, u * m, v * n])

        minimum = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        linearized = torch.autograd.functional.jacobian(step, minimum)
        sizes = torch.linalg.eigvals(linearized).abs().tolist()
        sizes.remove(min(sizes, key=lambda size: abs(size - 1)))  # along the curve of minima
        if not close(given, max(sizes), 1e-9):
            if close(given, 1 - c, 1e-9):
                raise Wrong(
                    f"Right for c up to 2/3. For c = {c:g} the noise is not the slowest any more."
                )
            if close(given, 1 - 2 * c, 1e-9):
                raise Wrong("That is how a + b comes to rest. The noise is slower.")
            raise Wrong(
                f"For c = {c:g} the slowest part shrinks by {max(sizes):.3f} a step, not by "
                f"{given:.3f}. Linearize at a = b = sqrt(sigma1), without noise."
            )
    return "The noise decides up to c = 2/3, and a + b, which then overshoots, beyond."


def _steps_per_decade(answer: Any) -> str:
    """07.2: how many more rank-one steps ten times the dimension takes."""
    for c in (0.05, 0.1, 0.5):
        given = number(call(answer, c), f"The number of steps for c = {c:g}")
        counts, decades = [], 200  # so many that whole steps do not blur the mean
        for start in (1e-2, 1e-2 * 10 ** (-decades / 2)):
            x, count = start, 0
            while x * x < 0.5:
                x, count = x + c * (x - x**3), count + 1
            counts.append(count)
        true = (counts[1] - counts[0]) / decades
        if abs(given - true) > 0.02:
            for factor, hint in (
                (2.0, "The signal of the start falls as 1 / sqrt(d), not as 1 / d."),
                (math.log(1 + c) / c, "A step multiplies the signal by 1 + c, less than exp(c)."),
                (1 / math.log(10), "That is for e times the dimension."),
            ):
                if abs(given - factor * true) < 0.02 * factor:
                    raise Wrong(hint)
            raise Wrong(
                f"For c = {c:g} it takes {true:.2f} more steps, not {given:.2f}. How much smaller "
                "is the signal of the start, and how much does a step make of it?"
            )
    return "The signal starts smaller by a factor of sqrt(10), and a step gains 1 + c."


CHECKS: dict[str, Callable[[Any], str]] = {
    "06.1": _gap_change,
    "06.2": _balanced_factors,
    "07.1": _rank_one_factor,
    "07.2": _steps_per_decade,
}

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
    choose,
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


def _gap_rate(answer: Any) -> str:
    """06.3: the rate of ||U^T U - V^T V||_F^2 along the gradient flow of (3)."""
    for seed, scale in ((0, 1.0), (1, 0.5), (2, 2.0)):
        U, V, target = gaussian(seed, (5, 2), (4, 2), (5, 4))
        U, V = (scale * U).requires_grad_(), V.requires_grad_()
        gap = U.T @ U - V.T @ V
        squares = gap.square().sum()
        slope = torch.autograd.grad(squares, (U, V), retain_graph=True)
        loss = 0.5 * (U @ V.T - target).square().sum() + squares / 8
        velocity = torch.autograd.grad(-loss, (U, V))
        true = sum(float((a * b).sum()) for a, b in zip(slope, velocity, strict=True))
        given = number(call(answer, U.detach(), V.detach()), "The rate")
        if close(given, true, 1e-9):
            continue
        gap, U, V = gap.detach(), U.detach(), V.detach()
        one_sided = -2 * float((gap @ U.T @ U @ gap).trace())
        for typical, hint in (
            (-true, "The sign: the penalty shrinks the gap."),
            (true / 2, "That is for half of the square: tr(B dB/dt) counts twice."),
            (
                true / (2 * float(gap.norm())),
                "That is the rate of the norm, not of its square.",
            ),
            (8 * true, "The 1/8 of (3) is missing."),
            (one_sided, "The squares of V count as well: S = U^T U + V^T V."),
            (-2 * float(squares.detach()), "The larger the factors, the faster: where is S?"),
            (-2 * float((gap @ gap @ gap).trace()), "S is the sum of the squares, not B."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(f"The rate there is {true:.4g}, not {given:.4g}. {hint}")
        raise Wrong(
            f"The rate there is {true:.4g}, not {given:.4g}. Insert "
            "dB/dt = -(S B + B S) / 2 into the rate, 2 tr(B dB/dt)."
        )
    return "It is -2 tr(B S B), never positive: S has no negative eigenvalue."


def _same_pair(answer: Any) -> str:
    """06.4: which changes keep both the product and the balance of a balanced pair."""
    choose(
        answer,
        {"turn both", "exchange columns", "signs of both"},
        {
            "three and a third": (
                "3 U and V / 3 have the same product, but 9 U^T U is not V^T V / 9."
            ),
            "any invertible G": (
                "With G = 3 that is three and a third: the product is kept, balance is not."
            ),
            "turn one": "If U alone is turned, the product becomes U R V^T.",
            "sign of one": "If U alone changes its sign, so does the product.",
            "double both": "Twice both factors is four times the product.",
            "exchange the factors": "V U^T is the transpose of U V^T.",
        },
        "Ask of each: is the product the same, and is U^T U still V^T V?",
    )
    return "These are rotations and reflections of the hidden units: all that balance leaves free."


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


def _noisy_growth(answer: Any) -> str:
    """07.3: what a step multiplies the growing signal by, in noise of any size."""
    for rho, c in ((0.1, 0.1), (0.9, 0.3), (1.5, 0.1), (2.0, 0.2)):
        a, b = 3e-7, -1e-7
        shrink_u, shrink_v = 1 - c * (b * b + rho * rho), 1 - c * (a * a + rho * rho)
        true = (shrink_u * a + c * b + shrink_v * b + c * a) / (a + b)
        given = number(call(answer, rho, c), f"The factor for rho = {rho:g} and c = {c:g}")
        if close(given, true, 1e-6):
            continue
        for typical, hint in (
            (1 + c, "That is without noise. Keep the bracket in front of a and of b."),
            (1 - c * rho**2, "Each signal also gains c times the other."),
            (1 + c - 2 * c * rho**2, "The step of a has only the noise of the other side, once."),
            (1 + c - c * rho, "The noise enters squared."),
            (1 + c + c * rho**2, "The noise works against the signal: mind the sign."),
            (1 - c - c * rho**2, "That is for the difference of the signals; s+ is their mean."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(hint)
        raise Wrong(
            f"For rho = {rho:g} and c = {c:g} a step multiplies the signal by {true:.4g}, not by "
            f"{given:.4g}. Add the two equations of the signals and drop third orders in them."
        )
    return "The signal grows if and only if the noise is below 1, in units of sqrt(sigma1)."


def _changed_by_dimension(answer: Any) -> str:
    """07.4: what a hundred times the dimension changes in the median run."""
    choose(
        answer,
        {"signal at the start", "first stage", "final ratio"},
        {
            "noise at the start": (
                "The noise is almost the whole vector, of length c_init, whatever the dimension."
            ),
            "growth factor": "The signal grows by 1 + c a step: no dimension occurs in the map.",
            "second stage": (
                "The second stage begins with noise of size c_init, whatever the dimension."
            ),
            "final factor": "The noise dies out by 1 - c a step: no dimension occurs in the map.",
        },
        "The dimension enters through the start: what of it changes, and what follows from that?",
    )
    return "The signal is ten times smaller, and so is the gap; all else follows from the map."


CHECKS: dict[str, Callable[[Any], str]] = {
    "06.1": _gap_change,
    "06.2": _balanced_factors,
    "06.3": _gap_rate,
    "06.4": _same_pair,
    "07.1": _rank_one_factor,
    "07.2": _steps_per_decade,
    "07.3": _noisy_growth,
    "07.4": _changed_by_dimension,
}

"""Exercises of chapter 11, on faster fixes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from balancing.exercises._answers import Wrong, call, close, gaussian, matrix, number


def _osborne_step(answer: Any) -> str:
    """11.1: a matrix of powers after one of its units has got its best factor."""
    for seed, i in ((0, 2), (1, 0), (2, 4)):
        M = gaussian(seed, (6, 6))[0].exp()
        row, column = M[i].sum() - M[i, i], M[:, i].sum() - M[i, i]

        def moved(t: Tensor, M: Tensor = M, i: int = i) -> Tensor:
            after = M.clone()
            after[i] *= t
            after[:, i] /= t
            return after

        best = (column / row).sqrt()
        given = matrix(call(answer, M.clone(), i), (6, 6))
        if torch.allclose(given, moved(best), rtol=1e-9):
            continue
        scaled_row, scaled_column = M.clone(), M.clone()
        scaled_row[i] *= best
        scaled_column[:, i] /= best
        for typical, hint in (
            (moved(1 / best), "It is the other way round: a large column wants a larger row."),
            (moved(best**2), "That exchanges the two sums; the root makes them equal."),
            (moved(best.sqrt()), "That is the exponent of Algorithm 1: nothing else moves here."),
            (
                moved(((column + M[i, i]) / (row + M[i, i])).sqrt()),
                "Leave the diagonal out of both sums: no factor can change it.",
            ),
            (scaled_row, "The column is to be divided by what the row is multiplied by."),
            (scaled_column, "The row is to be multiplied by what the column is divided by."),
        ):
            if torch.allclose(given, typical, rtol=1e-6):
                raise Wrong(f"Row and column {i} do not have equal sums. {hint}")
        raise Wrong(
            f"Row {i} should be multiplied, and column {i} divided, by the number that makes their "
            "sums equal; all other entries stay."
        )
    return "Row and column have equal sums, so no other factor of this unit gives a smaller F."


def _layer_step(answer: Any) -> str:
    """11.2: the factors for whole layers that make all layer sums equal."""
    for seed, n, q in ((0, 5, 2.0), (1, 4, 1.0), (2, 7, 3.0)):
        sums = gaussian(seed, (1, n))[0][0].exp()
        steps = (sums.log().mean() - sums.log()) / q
        true = steps.cumsum(0)[:-1].exp()
        given = call(answer, sums, q)
        try:
            a = torch.as_tensor(given, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"A tensor is asked for; this is {type(given).__name__}.") from None
        if a.shape == (n,) and torch.allclose(a[:-1], true, rtol=1e-6):
            raise Wrong("There are N - 1 hidden layers; the last factor, 1, is that of outputs.")
        if a.shape != true.shape:
            raise Wrong(
                f"For N = {n} there are {n - 1} hidden layers, so as many factors; yours have "
                f"shape {tuple(a.shape)}."
            )
        if torch.allclose(a, true, rtol=1e-9):
            continue
        for typical, hint in (
            (1 / true, "It is the other way round: incoming weights are multiplied by a."),
            (true**q, "Layer sums grow with the power q of a factor: a root is missing."),
            (true.sqrt(), "Half of the exponent: that would do if neighbours moved as well."),
            (true.log(), "Those are logarithms of the factors."),
            (
                steps[:-1].exp(),
                "A layer sum changes with the ratio of two factors, c_h - c_(h-1): add them up.",
            ),
            (
                ((sums.mean().log() - sums.log()) / q).cumsum(0)[:-1].exp(),
                "Rescaling keeps the product of the layer sums, not their sum: which mean?",
            ),
        ):
            if torch.allclose(a, typical, rtol=1e-6):
                raise Wrong(f"For N = {n}, q = {q:g} the layer sums do not become equal. {hint}")
        raise Wrong(f"For N = {n}, q = {q:g} the layer sums do not become equal.")
    return "All layer sums become equal, for every depth and q."


def _sweep_rate(answer: Any) -> str:
    """11.3: by how much a sweep shrinks the error of whole layers."""
    for n in (7, 4, 30):
        true = _rate_of_sweeps(n)
        given = number(call(answer, n))
        if close(given, true, 1e-6):
            continue
        cosine = math.cos(math.pi / n)
        for typical, hint in (
            (cosine, "That is the rate of half a sweep; both colours count as one sweep."),
            ((1 + cosine) / 2, "That is the rate of Algorithm 1."),
            (math.cos(math.pi / (n - 1)) ** 2, "N counts layers of weights, not hidden layers."),
            (math.cos(math.pi / (n + 1)) ** 2, "There are N - 1 hidden layers between N weights."),
            (1 - math.pi**2 / n**2, "That is the limit for deep networks; the exact rate, please."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(f"For N = {n} the rate is {true:.4g}, not {given:.4g}. {hint}")
        raise Wrong(f"For N = {n} the rate is {true:.4g}, not {given:.4g}.")
    return "A long run of sweeps over a chain shrinks at this rate."


def _rate_of_sweeps(n: int) -> float:
    """Measured: each layer in turn moves to the mean of its neighbours, odd ones, then even."""
    theta = torch.zeros(n + 1, dtype=torch.float64)
    theta[1:-1] = 1
    norms = []
    for _ in range(40 * n):
        for first in (1, 2):
            inner = slice(first, n, 2)
            theta[inner] = (theta[first - 1 : n - 1 : 2] + theta[first + 1 : n + 1 : 2]) / 2
        norms.append(float(theta.norm()))
        theta /= theta.norm()
    return norms[-1]


def _nearest_power(answer: Any) -> str:
    """11.4: factors rounded to the powers of two that are nearest in the logarithm."""
    a = (3 * gaussian(0, (1, 30))[0][0]).exp()
    a[0] = 1.45  # nearer to 1 than to 2 by the difference, nearer to 2 by the ratio
    given = matrix(call(answer, a.clone()), a.shape)
    exponents = a.log2()
    for typical, hint in (
        (exponents.round(), "Those are the exponents."),
        (2 ** exponents.floor(), "You always round down; 1.9 is nearer to 2 than to 1."),
        (2 ** exponents.ceil(), "You always round up; 1.1 is nearer to 1 than to 2."),
        (a.round(), "Those are whole numbers; powers of two are 1/4, 1/2, 1, 2, 4 and so on."),
        (a.log().round().exp(), "Those are powers of e."),
        (a, "The factors have not been rounded."),
    ):
        if torch.allclose(given, typical, rtol=1e-9, atol=0):
            raise Wrong(hint)
    if not bool((torch.frexp(given).mantissa == 0.5).all()):
        raise Wrong("Not all of these are powers of two: 2 with a whole number as exponent.")
    apart = (given.log2() - exponents).abs()
    if bool((apart > 0.5).any()):
        worst = int(apart.argmax())
        if worst == 0:
            raise Wrong("For 1.45 it is 2: 2 / 1.45 is less than 1.45 / 1. Compare ratios.")
        raise Wrong(
            f"For {float(a[worst]):.4g} you return {float(given[worst]):.4g}; another power of two "
            "is nearer in the logarithm."
        )
    return "Powers of two, none off by more than a factor of the root of 2."


CHECKS: dict[str, Callable[[Any], str]] = {
    "11.1": _osborne_step,
    "11.2": _layer_step,
    "11.3": _sweep_rate,
    "11.4": _nearest_power,
}

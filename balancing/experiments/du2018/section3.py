"""Section 3: matrix factorization by gradient descent; Figure 1, Theorems 3.1 and 3.2.

Stated by the paper: both objectives. Recalled: the theorems and the printed schedule. Chosen:
sizes, targets, seeds, the practical schedule, and the powers and constants that the theorems leave
open. Each config says which is which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from balancing._validate import whole
from balancing.experiments._settings import (
    bar,
    check_counts,
    check_positive,
    check_seed,
    check_shape,
    chosen,
)
from balancing.factorization import factorize

__all__ = [
    "Figure1Config",
    "Theorem31Config",
    "Theorem32Config",
    "figure1",
    "low_rank",
    "practical_schedule",
    "printed_schedule",
    "rank_one",
    "theorem31",
    "theorem32",
]


def low_rank(shape: tuple[int, int], rank: int, seed: int) -> Tensor:
    """A random target of the given rank and of spectral norm 1, float64.

    A product of two Gaussian matrices, divided by its largest singular value (chosen).

    Args:
        shape: rows and columns, (d1, d2).
        rank: from 1 to min(d1, d2).
        seed: seeds both matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.randn(rows, rank, dtype=torch.float64, generator=generator) for rows in shape
    )
    product = left @ right.T
    return product / float(torch.linalg.matrix_norm(product, 2))


@dataclass(frozen=True)
class Figure1Config:
    """Settings of Figure 1: sizes, step, scales and seeds are all chosen.

    Attributes:
        shape: rows and columns of the target, which is :func:`low_rank`: ||M||_2 = 1.
        rank: rank of the target and columns of the factors.
        init_scale: standard deviation of the entries of U and V at the balanced start.
        unbalanced_scale: those of U and of V at the unbalanced start (a figure of ours).
        step: constant step size, in units of 1 / ||M||_2.
        iterations: number of steps.
        record_every: iterations between recorded rows.
        seed: seeds the target and the start.
    """

    shape: tuple[int, int] = (50, 40)
    rank: int = 3
    init_scale: float = 0.01
    unbalanced_scale: tuple[float, float] = (0.2, 0.02)
    step: float = 0.05
    iterations: int = 1000
    record_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_shape(self.shape, self.rank)
        check_counts(self, "iterations", "record_every")
        check_seed(self)
        check_positive(self, "init_scale", "step")
        if len(self.unbalanced_scale) != 2 or not all(
            0 < s < math.inf for s in self.unbalanced_scale
        ):
            raise ValueError(
                f"unbalanced_scale must be two numbers above 0, got {self.unbalanced_scale}"
            )


def figure1(config: Figure1Config | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Figure 1: descent on the objectives (2) and (3), from a balanced and an unbalanced start.

    The paper's figure, as recalled, shows both objectives from one small start: the error, and
    how balanced the factors are. The unbalanced start is our addition.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        The four runs, one below the other. Columns: ``init``, balanced or unbalanced; ``seed``;
        ``objective``, 2 or 3 as the paper numbers them; then those of
        :attr:`balancing.FactorizationResult.history`.
    """
    config = chosen(config, Figure1Config)
    target = low_rank(config.shape, config.rank, config.seed)
    starts: dict[str, float | tuple[float, float]] = {
        "balanced": config.init_scale,
        "unbalanced": config.unbalanced_scale,
    }
    settings = [(init, objective) for init in starts for objective in (2, 3)]
    tables = []
    for init, objective in bar(settings, "figure 1", progress):
        table = factorize(
            target,
            config.rank,
            step=config.step,
            steps=config.iterations,
            init_scale=starts[init],
            balance_penalty=1 / 8 if objective == 3 else 0.0,
            generator=_start_generator(config.seed),
            record_every=config.record_every,
        ).history
        table.insert(0, "init", init)
        table.insert(1, "seed", config.seed)
        table.insert(2, "objective", objective)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def printed_schedule(target: Tensor, rank: int, eps: float) -> Callable[[int], float]:
    r"""Theorem 3.1's step sizes :math:`\sqrt{\epsilon/r} / (100 (t+1) \|M\|_F^{3/2})` (recalled).

    Their sum up to T grows as 1e-3 ln T for a target of unit scale, so that no feasible run
    leaves the saddle at 0: a device of the proof (derived).
    """
    norm = float(torch.linalg.matrix_norm(target))
    first = math.sqrt(eps / rank) / (100 * norm**1.5)
    return lambda t: first / (t + 1)


def practical_schedule(target: Tensor) -> Callable[[int], float]:
    """Step sizes 0.5 (t+1)^-0.6 / ||M||_2: of the theorem's order with delta = 0.1 (chosen)."""
    norm = float(torch.linalg.matrix_norm(target, 2))
    return lambda t: 0.5 * (t + 1) ** -0.6 / norm


@dataclass(frozen=True)
class Theorem31Config:
    """Settings of Theorem 3.1.

    Attributes:
        shape: rows and columns of the targets, which are :func:`low_rank` (chosen).
        rank: rank of the targets and columns of the factors (chosen).
        eps: the theorem's accuracy, above 0 and below ||M||_F (chosen). The entries of the start
            have variance eps / d^2, d = max(shape): the theorem's poly(d) is chosen as d^2.
        iterations: number of steps (chosen).
        record_every: iterations between recorded rows (chosen).
        seed: seeds the target and the start (chosen).
    """

    shape: tuple[int, int] = (50, 40)
    rank: int = 3
    eps: float = 0.1
    iterations: int = 20_000
    record_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        check_shape(self.shape, self.rank)
        check_counts(self, "iterations", "record_every")
        check_seed(self)
        # ||M||_F is at least ||M||_2 = 1
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be above 0 and below 1, got {self.eps}")


def theorem31(
    config: Theorem31Config | None = None, *, progress: bool | None = None
) -> pd.DataFrame:
    """Theorem 3.1 along its printed schedule, and along a practical one.

    The theorem says that for all t ||U^T U - V^T V||_F <= eps, that f does not increase, and
    that ||U||_F^2 and ||V||_F^2 are at most 5 sqrt(r) ||M||_F; and that f comes down to where
    the error is at most eps (recalled). Every iteration enters the three running extremes of the
    table, also those between its rows.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        Both runs, one below the other. Columns: ``seed``; ``schedule``, printed or practical;
        ``eps``; ``norm_bound``, 5 sqrt(r) ||M||_F; those of
        :attr:`balancing.FactorizationResult.history`; and, over all iterations so far,
        ``max_gap``, ``max_norm``, the largest of both squared norms, and ``max_increase``, the
        largest f_(t+1) - f_t divided by f_0 (NaN at the start).
    """
    config = chosen(config, Theorem31Config)
    scale = math.sqrt(config.eps) / max(config.shape)
    target = low_rank(config.shape, config.rank, config.seed)
    tables = []
    for name in bar(("printed", "practical"), "theorem 3.1", progress):
        if name == "printed":
            step = printed_schedule(target, config.rank, config.eps)
        else:
            step = practical_schedule(target)
        table = factorize(
            target,
            config.rank,
            step=step,
            steps=config.iterations,
            init_scale=scale,
            generator=_start_generator(config.seed),
        ).history
        bound = 5 * math.sqrt(config.rank) * float(torch.linalg.matrix_norm(target))
        table.insert(0, "seed", config.seed)
        table.insert(1, "schedule", name)
        table.insert(2, "eps", config.eps)
        table.insert(3, "norm_bound", bound)
        table["max_gap"] = table["gap"].cummax()
        table["max_norm"] = table[["norm_u", "norm_v"]].max(axis=1).cummax()
        table["max_increase"] = (table["loss"].diff() / table["loss"].iloc[0]).cummax()
        is_recorded = table["iteration"] % config.record_every == 0
        is_recorded.iloc[-1] = True
        tables.append(table[is_recorded])
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Theorem32Config:
    """Settings of Theorem 3.2, rank one.

    Attributes:
        dims: sides d of the square targets (chosen).
        seed: seeds the target and the start of each side (chosen).
        sigma1: the target's singular value; its singular vectors are uniform (chosen).
        c_init: the start's entries have standard deviation c_init sqrt(sigma1 / d): the form is
            recalled, the constant chosen.
        c_step: the step size is c_step / sigma1: the form is recalled, the constant chosen.
        accuracy: a run ends when ||u v^T - M||_F <= accuracy * sigma1 (chosen).
        max_iterations: a run ends here if not before; ``converged`` is then false (chosen).
    """

    dims: tuple[int, ...] = (20, 200, 2000)
    seed: int = 0
    sigma1: float = 1.0
    c_init: float = 0.1
    c_step: float = 0.1
    accuracy: float = 1e-6
    max_iterations: int = 5000

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        if not self.dims or not all(type(d) is int and d > 0 for d in self.dims):
            raise ValueError(f"dims must be whole numbers above 0, got {self.dims}")
        check_counts(self, "max_iterations")
        check_seed(self)
        check_positive(self, "sigma1", "c_init", "c_step", "accuracy")


def rank_one(config: Theorem32Config, dim: int, seed: int) -> pd.DataFrame:
    r"""Descent on :math:`\tfrac12\|u v^\top - \sigma_1 u^* v^{*\top}\|_F^2`, one row a step.

    Only vectors are formed: with a = u.u* and b = v.v*,

    .. math::
        u \leftarrow (1 - \eta \|v\|^2)\, u + \eta \sigma_1 b\, u^*, \qquad
        v \leftarrow (1 - \eta \|u\|^2)\, v + \eta \sigma_1 a\, v^*,

    and the residual is a sum of four orthogonal parts, so that its norm suffers no cancellation.

    Args:
        config: settings; ``dims`` and ``seed`` are not used.
        dim: side d of the target.
        seed: seeds the target, and the start, which is that of :func:`balancing.factorize` with
            a generator seeded by ``seed + 1_000_003``.

    Returns:
        One row an iteration, from 0. Columns: ``iteration``; ``error``, in units of sigma1;
        ``signal_u``, ``signal_v``, which are a and b; ``noise_u``, ``noise_v``, the norms of
        what is orthogonal to u* and v*; ``ratio``, ``|a| / |b|``.

    Raises:
        FloatingPointError: the descent diverged; the message names the iteration and the step.
    """
    config = chosen(config, Theorem32Config)
    for name, value in (("dim", dim), ("seed", seed)):
        if whole(name, value) < (name == "dim"):
            raise ValueError("dim must be at least 1, got 0")
    generator = torch.Generator().manual_seed(seed)
    u_star, v_star = (torch.randn(dim, dtype=torch.float64, generator=generator) for _ in "uv")
    u_star /= torch.linalg.vector_norm(u_star)
    v_star /= torch.linalg.vector_norm(v_star)
    generator, scale = _start_generator(seed), config.c_init * math.sqrt(config.sigma1 / dim)
    u, v = u_star.new_empty(dim), v_star.new_empty(dim)
    u.normal_(0.0, scale, generator=generator)
    v.normal_(0.0, scale, generator=generator)
    sigma1, eta = config.sigma1, config.c_step / config.sigma1
    rows = []
    for t in range(config.max_iterations + 1):
        a, b = float(u @ u_star), float(v @ v_star)
        noise_u = float(torch.linalg.vector_norm(u - a * u_star))
        noise_v = float(torch.linalg.vector_norm(v - b * v_star))
        error = math.hypot(a * b - sigma1, a * noise_v, b * noise_u, noise_u * noise_v) / sigma1
        if not math.isfinite(error):
            raise FloatingPointError(
                f"the descent has diverged at iteration {t}; take a step below {eta:g}"
            )
        rows.append((t, error, a, b, noise_u, noise_v))
        if error <= config.accuracy:
            break
        u.mul_(1 - eta * (b * b + noise_v * noise_v)).add_(u_star, alpha=eta * sigma1 * b)
        v.mul_(1 - eta * (a * a + noise_u * noise_u)).add_(v_star, alpha=eta * sigma1 * a)
    columns = ["iteration", "error", "signal_u", "signal_v", "noise_u", "noise_v"]
    table = pd.DataFrame(rows, columns=columns)
    table["ratio"] = table["signal_u"].abs() / table["signal_v"].abs()
    return table


def theorem32(
    config: Theorem32Config | None = None, *, progress: bool | None = None
) -> pd.DataFrame:
    """Theorem 3.2: the iterations that :func:`rank_one` takes, and its signal ratio ``|a| / |b|``.

    The first stage ends when a b >= sigma1 / 2 (chosen): before, the signals grow out of the
    noise; after, the error falls at a linear rate.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row a side. Columns: ``dim``; ``seed``; ``iterations``; ``converged``; ``stage1``, the
        iterations of the first stage; ``ratio_min``, ``ratio_max`` over the whole run;
        ``ratio_min2``, ``ratio_max2`` after the first stage; ``ratio_final``; ``rate``, the
        factor a step of the error, fitted by least squares to its logarithm after the first
        stage. Where the first stage did not end, what comes after it is NaN.
    """
    config = chosen(config, Theorem32Config)
    rows = []
    for dim in bar(config.dims, "theorem 3.2", progress):
        path = rank_one(config, dim, config.seed)
        after = path[(path["signal_u"] * path["signal_v"] >= config.sigma1 / 2).cummax()]
        rate = math.nan
        if len(after) > 1:
            rate = math.exp(np.polyfit(after["iteration"], np.log(after["error"]), 1)[0])
        rows.append(
            {
                "dim": dim,
                "seed": config.seed,
                "iterations": path["iteration"].iloc[-1],
                "converged": path["error"].iloc[-1] <= config.accuracy,
                "stage1": after["iteration"].min(),
                "ratio_min": path["ratio"].min(),
                "ratio_max": path["ratio"].max(),
                "ratio_min2": after["ratio"].min(),
                "ratio_max2": after["ratio"].max(),
                "ratio_final": path["ratio"].iloc[-1],
                "rate": rate,
            }
        )
    return pd.DataFrame(rows)


def _start_generator(seed: int) -> torch.Generator:
    # as for the network: the start is not a copy of the numbers that made the target
    return torch.Generator().manual_seed(seed + 1_000_003)

"""Section 4: gradient descent on a three-layer ReLU network, and Figure 2.

Stated by the paper: the widths, both initializations, 1,000 data points, the quadratic loss,
full-batch gradient descent, 10,000 iterations. Chosen here, because the paper's settings are not
known to us: Gaussian data and labels, the loss's factor 1/(2m), the step size, the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from balancing._validate import at_least_zero, number
from balancing.experiments._settings import check_counts, check_positive, check_seed, chosen
from balancing.networks import DU2018_VARIANCES, DU2018_WIDTHS, du2018_network

__all__ = [
    "DriftConfig",
    "Figure2Config",
    "FullBatchDescent",
    "data",
    "drift",
    "figure2",
    "network",
    "run",
]


@dataclass(frozen=True)
class Figure2Config:
    """Settings of one run; the defaults are the full-size experiment.

    Attributes:
        init: ``"balanced"`` or ``"unbalanced"`` (stated by the paper).
        widths: inputs, two hidden layers, outputs (stated).
        samples: number of data points (stated).
        iterations: number of gradient-descent steps (stated).
        step: step size (chosen).
        label_std: standard deviation of the labels (chosen).
        record_every: iterations between recorded rows (chosen).
        seed: seeds the data and the weights (chosen).
        dtype: ``"float32"`` or ``"float64"`` for the run; records are always float64.
    """

    init: str = "balanced"
    widths: tuple[int, int, int, int] = DU2018_WIDTHS
    samples: int = 1000
    iterations: int = 10_000
    step: float = 0.02
    label_std: float = 1.0
    record_every: int = 100
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        if self.init not in list(DU2018_VARIANCES):
            raise ValueError(f"init must be one of {', '.join(DU2018_VARIANCES)}, got {self.init}")
        is_row = isinstance(self.widths, (tuple, list)) and len(self.widths) == 4
        if not is_row or not all(type(n) is int and n > 0 for n in self.widths):
            raise ValueError(f"widths must be four whole numbers above 0, got {self.widths}")
        check_counts(self, "samples", "iterations", "record_every")
        check_positive(self, "step")
        at_least_zero("label_std", self.label_std)
        check_seed(self)
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")


def data(config: Figure2Config) -> tuple[Tensor, Tensor]:
    """Inputs (samples, d_in) from N(0, I) and labels (samples, d_out) from N(0, label_std^2 I)."""
    config = chosen(config, Figure2Config)
    generator = torch.Generator().manual_seed(config.seed)
    shape_x, shape_y = (config.samples, config.widths[0]), (config.samples, config.widths[-1])
    # drawn in float64, so that a float32 and a float64 run see the same problem
    x = torch.randn(shape_x, dtype=torch.float64, generator=generator)
    y = config.label_std * torch.randn(shape_y, dtype=torch.float64, generator=generator)
    dtype = getattr(torch, config.dtype)
    return x.to(dtype), y.to(dtype)


def network(config: Figure2Config) -> nn.Sequential:
    """The network at initialization; its weights do not depend on ``config.step``."""
    generator = torch.Generator().manual_seed(config.seed + 1_000_003)
    model = du2018_network(
        config.init, widths=config.widths, dtype=torch.float64, generator=generator
    )
    return model.to(getattr(torch, config.dtype))


class FullBatchDescent:
    r"""Gradient descent on :math:`L = \frac{1}{2m}\|f(X) - Y\|_F^2` for a bias-free ReLU network.

    The step is bound by its matrix products, so nothing else is allowed to cost: samples are
    columns, every intermediate has a buffer of its own that is reused, activation and mask work
    in place, and the weight update is part of the product that computes the gradient.

    The widest product is needed once a step, not twice. With samples as columns, the first layer
    moves by a multiple of :math:`\delta X^\top`, so that what it computes of the data,
    :math:`Z = W X`, moves by the same multiple of :math:`\delta X^\top X`, and W itself is not
    needed. So the deltas are summed up to D, and
    :math:`Z(t) = Z(0) - \eta\, D(t)\, X^\top X`. That is done where it saves work: for fewer
    than twice as many samples as inputs.

    Tested against autograd; benchmarks/training_step.py sets its time against the bare products.

    Args:
        weights: one matrix a layer, shape (units out, units in); where the descent starts. They
            are updated in place: the first when :attr:`weights` is read, the others at once.
        x: inputs, shape (samples, d_in).
        y: labels, shape (samples, d_out).
        step: step size, above 0.

    Raises:
        ValueError: the shapes do not fit together, or the step is not finite and above 0.
    """

    def __init__(self, weights: Sequence[Tensor], x: Tensor, y: Tensor, step: float) -> None:
        number("step", step, "finite and above 0", lambda value: 0 < value < math.inf)
        shapes = [tuple(w.shape) for w in weights]
        widths = [x.shape[-1], *(shape[0] for shape in shapes)]
        if (
            not (x.dim() == y.dim() == 2 and len(x) == len(y) > 0)
            or shapes != list(zip(widths[1:], widths[:-1], strict=True))
            or y.shape[1] != widths[-1]
        ):
            raise ValueError(
                f"weights of shapes {shapes} do not lead from x, {tuple(x.shape)}, to y, "
                f"{tuple(y.shape)}"
            )
        self._weights, self.step_size, self.samples = list(weights), step, len(x)
        self.labels = y.T.contiguous()
        self.units = [x.T.contiguous()]  # the data, then each layer's outputs; columns: samples
        self.units += [w.new_empty(len(w), len(x)) for w in self._weights]
        self.deltas = [torch.empty_like(h) for h in self.units[1:]]  # dL/d(pre-activation)
        self._in_span = len(x) < 2 * x.shape[1]
        if self._in_span:
            self._gram = x @ x.T
            self._start = self._weights[0].clone()
            self._start_outputs = self._start @ self.units[0]
            self._moved = torch.zeros_like(self.deltas[0])  # the sum of deltas, D

    @property
    def weights(self) -> list[Tensor]:
        """The weights now: the given tensors, all up to date."""
        if self._in_span:
            first, move, data = self._weights[0], self._moved, self.units[0].T
            torch.addmm(self._start, move, data, alpha=-self.step_size, out=first)
        return self._weights

    def forward(self) -> None:
        """Fill ``units`` and, in the last of ``deltas``, the scaled residual."""
        last = len(self._weights) - 1
        for h, weight in enumerate(self._weights):
            outputs = self.units[h + 1]
            if h == 0 and self._in_span:
                start, move = self._start_outputs, self._moved
                torch.addmm(start, move, self._gram, alpha=-self.step_size, out=outputs)
            else:
                torch.mm(weight, self.units[h], out=outputs)
            if h < last:
                outputs.relu_()
        torch.sub(self.units[-1], self.labels, out=self.deltas[-1]).div_(self.samples)

    def loss(self) -> float:
        """Loss at the weights of the last :meth:`forward`, summed in float64."""
        residual = torch.linalg.vector_norm(self.deltas[-1], dtype=torch.float64)
        return 0.5 * self.samples * float(residual) ** 2

    def is_dead(self) -> bool:
        """Whether a hidden layer is off for all data: what a step too large can end in."""
        return any(not bool(units.any()) for units in self.units[1:-1])

    def descend(self) -> None:
        """Take one step from the weights of the last :meth:`forward`."""
        for h in reversed(range(len(self._weights))):
            if h > 0:  # back through W before W is changed, then through the ReLU
                delta, units = self.deltas[h - 1], self.units[h]
                torch.mm(self._weights[h].T, self.deltas[h], out=delta)
                torch.ops.aten.threshold_backward.grad_input(delta, units, 0, grad_input=delta)
            if h == 0 and self._in_span:
                self._moved.add_(self.deltas[0])
            else:
                self._weights[h].addmm_(self.deltas[h], self.units[h].T, alpha=-self.step_size)


def run(config: Figure2Config, *, progress: bool | None = None) -> pd.DataFrame:
    """One run of the experiment.

    Deterministic given ``config.seed``, up to the rounding of the machine's matrix products.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row every ``record_every`` iterations, from 0 to the last. Columns: ``init``,
        ``step``, ``seed``; ``iteration``; ``loss``; ``norm1``, ``norm2``, ``norm3``, the squared
        Frobenius norms; ``gap12``, ``gap23``, their differences; ``ratio12``, ``ratio23``.

    Raises:
        FloatingPointError: the descent diverged; the message names the iteration and the step.
    """
    config = chosen(config, Figure2Config)
    start = [parameter.detach() for parameter in network(config).parameters()]
    descent = FullBatchDescent(start, *data(config), config.step)
    rows = []
    bar = tqdm(
        range(config.iterations + 1),
        desc=f"{config.init}, step {config.step:g}",
        disable=None if progress is None else not progress,
        mininterval=0.5,
    )
    for iteration in bar:
        descent.forward()
        if iteration % config.record_every == 0 or iteration == config.iterations:
            loss = descent.loss()
            if not math.isfinite(loss) or descent.is_dead():
                raise FloatingPointError(
                    f"the descent has diverged at iteration {iteration} (loss {loss:g}); "
                    f"take a step below {config.step:g}"
                )
            now = [torch.linalg.vector_norm(w, dtype=torch.float64) for w in descent.weights]
            rows.append((iteration, loss, *(float(norm) ** 2 for norm in now)))
        if iteration < config.iterations:
            descent.descend()
    table = pd.DataFrame(rows, columns=["iteration", "loss", "norm1", "norm2", "norm3"])
    for h in (1, 2):
        above, below = table[f"norm{h}"], table[f"norm{h + 1}"]
        table[f"gap{h}{h + 1}"] = above - below
        table[f"ratio{h}{h + 1}"] = above / below
    for column, name in enumerate(("init", "step", "seed")):
        table.insert(column, name, getattr(config, name))
    return table


def figure2(config: Figure2Config | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Figure 2: the same run from both initializations, one table below the other.

    ``config.init`` is ignored. See :func:`run` for the columns.
    """
    config = chosen(config, Figure2Config)
    tables = [run(replace(config, init=init), progress=progress) for init in DU2018_VARIANCES]
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class DriftConfig:
    """Settings of the drift study (all chosen by us; the paper has no such experiment).

    Attributes:
        steps: step sizes.
        time: step size times number of iterations, the same for every run.
        init: as in :class:`Figure2Config`.
        dtype: float64, since the drift is small beside the rounding of float32.
        seed: seeds the data and the weights.
    """

    steps: tuple[float, ...] = (0.08, 0.04, 0.02, 0.01)
    time: float = 40.0
    init: str = "unbalanced"
    dtype: str = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        if not isinstance(self.steps, (tuple, list)) or not self.steps:
            raise ValueError(f"steps must be numbers above 0, got {self.steps!r}")
        check_positive(self, "time")
        for step in self.steps:
            if number("steps", step, "numbers above 0", lambda value: value > 0) > self.time:
                raise ValueError(f"steps must be at most the time, {self.time}, got {step}")


def drift(config: DriftConfig | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """How far the gaps drift until a fixed time, for several step sizes.

    Returns:
        The tables of the runs, one below the other; see :func:`run` for the columns.
    """
    config = chosen(config, DriftConfig)
    tables = []
    for step in config.steps:
        iterations = round(config.time / step)
        settings = Figure2Config(
            init=config.init,
            iterations=iterations,
            step=step,
            record_every=max(1, iterations // 25),
            seed=config.seed,
            dtype=config.dtype,
        )
        tables.append(run(settings, progress=progress))
    return pd.concat(tables, ignore_index=True)

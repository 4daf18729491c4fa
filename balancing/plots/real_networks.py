"""Figures of chapter 14: balancing real networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from balancing.plots._style import COLOURS, INK, draw_line, finish, make_axes, styled

__all__ = ["traced_units", "training_drift", "training_invariants"]


@styled
def traced_units(panels: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]) -> Figure:
    """Incoming against outgoing shares of every free unit, on log axes; a panel for each network.

    Args:
        panels: title -> group -> sums of incoming and of outgoing shares, shape (units,) each, all
            above 0; up to four groups.
    """
    figure, every = make_axes(len(panels), height=3.3)
    sums = [s for groups in panels.values() for pair in groups.values() for s in pair]
    low, high = min(float(s.min()) for s in sums) / 1.5, max(float(s.max()) for s in sums) * 1.5
    for axes, (title, groups) in zip(every, panels.items(), strict=True):
        axes.plot([low, high], [low, high], color=INK, linewidth=1, alpha=0.6)
        for index, (group, (into, out)) in enumerate(groups.items()):
            axes.plot(into, out, "os^D"[index], color=COLOURS[index], markersize=5, label=group)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(title=title, xlabel="incoming shares", ylabel="outgoing shares")
    return finish(figure, legend=every[-1], loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def training_invariants(panels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """The invariants of single units while a network is trained; a panel for each way to train.

    Args:
        panels: title -> times of the steps, shape (T,), and invariants, shape (T, units).
    """
    figure, every = make_axes(len(panels), height=2.9)
    for axes, (title, (times, values)) in zip(every, panels.items(), strict=True):
        draw_line(axes, times, values, 0, linewidth=1.1)
        axes.set(title=title, xlabel="time $t$")
        axes.sharey(every[0])
    every[0].set_ylabel("invariant $I_i$")
    return figure


@styled
def training_drift(steps: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Drifts until a fixed time against the step size, on log axes, beside lines of slope one.

    Args:
        steps: step sizes, from large to small.
        curves: label -> one drift a step size; up to four.
    """
    figure, (axes,) = make_axes(height=3.0)
    sizes = np.asarray(steps, dtype=float)
    for index, (label, drifts) in enumerate(curves.items()):
        axes.plot(sizes, drifts[-1] * sizes / sizes[-1], color=INK, linewidth=1, alpha=0.5)
        axes.plot(sizes, drifts, "os^D"[index], color=COLOURS[index], label=label)
    axes.set(xscale="log", yscale="log", xlabel=r"step size $\eta$", ylabel="largest drift")
    axes.set_xticks(sizes, [f"{step:g}" for step in sizes])
    axes.minorticks_off()
    return finish(figure, loc="upper left")

"""Figures of Part II: faster fixes (chapter 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from balancing.plots._style import COLOURS, INK, draw_line, finish, make_axes, styled

__all__ = ["layer_errors", "passes"]


@styled
def layer_errors(panels: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Errors of the factors, layer by layer: a dot for each unit, a line through the means.

    Args:
        panels: title -> errors of log a, one tensor of shape (units,) for each hidden layer; up
            to four panels with the same layers.
    """
    figure, every = make_axes(2, -(-len(panels) // 2), height=2.2)
    for axes, (title, layers) in zip(every, panels.items(), strict=False):
        for h, errors in enumerate(layers, start=1):
            axes.plot(np.full(len(errors), h), errors, ".", color=INK, alpha=0.35, markersize=4)
        means = [float(errors.mean()) for errors in layers]
        draw_line(axes, range(1, len(layers) + 1), means, 1, label="mean of the layer")
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.set(title=title, xlabel="hidden layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.sharey(every[0])
    for axes in every[::2]:
        axes.set_ylabel(r"error of $\log a$")
    for axes in every[len(panels) :]:
        axes.remove()
    return finish(figure, legend=every[0], loc="best")


@styled
def passes(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    needed: Mapping[str, Mapping[int, float]],
) -> Figure:
    """How the imbalance falls with the passes over the weights, and passes against depth.

    Args:
        runs: method -> passes so far and the largest relative imbalance then; up to four.
        needed: method -> {layers of weights: passes to a tolerance}; each is one of ``runs``.
    """
    figure, (left, right) = make_axes(2, height=3.2)
    for index, (method, (read, imbalance)) in enumerate(runs.items()):
        draw_line(left, read, imbalance, index, label=method)
        if method in needed:
            depths = needed[method]
            draw_line(right, list(depths), list(depths.values()), index)
            points = list(depths), list(depths.values())
            right.plot(*points, "o", color=COLOURS[index], markersize=4)
    left.set(xlabel="passes", ylabel="largest relative imbalance", xscale="log", yscale="log")
    right.set(xlabel="layers of weights", ylabel="passes to the tolerance")
    right.set(xscale="log", yscale="log")
    lines = left.get_legend_handles_labels()
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure

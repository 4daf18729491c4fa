"""Figures of chapter 15: what balance is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from balancing.plots._style import COLOURS, INK, band, finish, make_axes, seeds_note, styled

__all__ = ["bad_starts", "rounding_errors", "rounding_prediction", "sparsity"]

NAMES = {"mlp": "fully connected", "conv": "convolutional"}


def _mark(index: int) -> dict[str, Any]:
    return {"marker": "os^D"[index], "markersize": 4}


def _legend_above(figure: Figure, axes: Axes, columns: int, table: pd.DataFrame) -> Figure:
    lines = axes.get_legend_handles_labels()
    note: Any = {"title": seeds_note(table), "ncols": columns}
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), **note)
    return figure


@styled
def rounding_errors(table: pd.DataFrame, pair: str = "(2, 2)") -> Figure:
    """Error of the logits after rounding, against the scale of the factors; a panel a network.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: rows of :func:`balancing.experiments.practice.quantization` for one number of bits.
        pair: the fix that is shown, as in column ``fix``.
    """
    figure, every = make_axes(table["network"].nunique(), height=2.9)
    arms = [
        (fix, grid, f"per {grid}{'' if fix == 'none' else ', fix first'}")
        for fix in ("none", pair)
        for grid in ("tensor", "channel")
    ]
    for axes, network in zip(every, table["network"].unique(), strict=True):
        panel = table[table["network"] == network]
        for index, (fix, grid, label) in enumerate(arms):
            runs = panel[(panel["fix"] == fix) & (panel["grid"] == grid)]
            band(axes, runs, "scale", "error", index, **_mark(index), label=label)
        axes.set(title=NAMES[network], xlabel="scale $s$ of the factors", yscale="log")
        axes.set_xticks(sorted(panel["scale"].unique()))
        axes.sharey(every[0])
    every[0].set_ylabel("relative error of the logits")
    return _legend_above(figure, every[0], 4, table)


@styled
def rounding_prediction(table: pd.DataFrame) -> Figure:
    """Measured error of the logits against the predicted one, on log axes.

    Args:
        table: rows of :func:`balancing.experiments.practice.quantization`; up to four numbers of
            bits.
    """
    figure, (axes,) = make_axes(height=3.2)
    for index, (bits, runs) in enumerate(table.groupby("bits", sort=False)):
        axes.plot(
            runs["predicted"],
            runs["error"],
            "os^D"[index],
            color=COLOURS[index],
            markersize=3,
            alpha=0.5,
            label=f"{bits} bits",
        )
    ends = np.array([table["error"].min(), table["error"].max()])
    axes.plot(ends, ends, color=INK, linewidth=1, label="equal")
    axes.set(xscale="log", yscale="log", xlabel="predicted error", ylabel="measured error")
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def sparsity(table: pd.DataFrame, scales: Sequence[float], pair: str = "(2, 2)") -> Figure:
    """Accuracy against the part of the weights that is pruned; a row of panels a network.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: rows of :func:`balancing.experiments.practice.pruning`.
        scales: values of s, a column of panels each.
        pair: the fix that is shown, as in column ``fix``.
    """
    networks = list(table["network"].unique())
    figure, every = make_axes(len(scales), len(networks), height=2.5)
    arms = (
        ("none", "global", "global"),
        (pair, "global", "global, fix first"),
        ("none", "layer", "layerwise"),
        ("none", "sensitivity", "sensitivity"),
    )
    panels = [(network, scale) for network in networks for scale in scales]
    for axes, (network, scale) in zip(every, panels, strict=True):
        runs = table[(table["network"] == network) & (table["scale"] == scale)]
        for index, (fix, method, label) in enumerate(arms):
            chosen = runs[(runs["fix"] == fix) & (runs["method"] == method)]
            band(axes, chosen, "part", "accuracy", index, **_mark(index), label=label)
        start = "as trained" if scale == 0 else f"$s = {scale:g}$"
        axes.set(title=f"{NAMES[network]}, {start}", ylim=(0, 1.02))
        axes.set(xlabel="part of weights pruned", ylabel="accuracy")
    return _legend_above(figure, every[0], 4, table)


@styled
def bad_starts(table: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Training loss over the epochs; a panel for each scale of the start.

    Medians over the seeds, and the range of their middle 80 %.

    Runs with the fix come from one scale, and stand in all panels: the fix leads to the same start.

    Args:
        table: rows of :func:`balancing.experiments.practice.training` with one network, without
            those that served for tuning.
        methods: method -> label; up to four.
    """
    scales = sorted(table["scale"].unique())
    figure, every = make_axes(len(scales), height=2.9)
    for axes, scale in zip(every, scales, strict=True):
        for index, (method, label) in enumerate(methods.items()):
            runs = table[table["method"] == method]
            runs = runs if "fix" in method else runs[runs["scale"] == scale]
            band(axes, runs, "epoch", "loss", index, label=label)
        axes.set(title=f"$s = {scale:g}$", xlabel="epoch", yscale="log")
        axes.sharey(every[0])
    every[0].set_ylabel("training loss")
    return _legend_above(figure, every[0], len(methods), table)

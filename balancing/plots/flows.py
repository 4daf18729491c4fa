"""Figures of Part III: flows (chapters 12 and 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from balancing.plots._style import (
    COLOURS,
    INK,
    band,
    draw_line,
    finish,
    make_axes,
    seeds_note,
    styled,
)

__all__ = [
    "departure",
    "finite_steps",
    "imbalance_decay",
    "imbalances",
    "mobility",
    "pairing",
    "race",
]


# --- chapter 12 ----------------------------------------------------------------------------------


@styled
def mobility(sizes: Tensor, speeds: Mapping[float, Tensor]) -> Figure:
    """Speed of a weight for a gradient of 1, against its size.

    Args:
        sizes: absolute values of the weight, shape (n,).
        speeds: p -> speeds, shape (n,); up to four.
    """
    figure, (axes,) = make_axes(height=2.9)
    for index, (p, speed) in enumerate(speeds.items()):
        draw_line(axes, sizes, speed, index, label=f"$p = q = {p:g}$")
    axes.set(xlabel="size of the weight $|W|$", ylabel=r"$|W|^{2-p} \,/\, p$", ylim=(0, 2))
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def pairing(pairs: Sequence[tuple[float, float]], changes: Mapping[str, Sequence[float]]) -> Figure:
    """Largest change of an imbalance for several norms, along several flows, on a log axis.

    Args:
        pairs: (p, q) of each norm.
        changes: name of the flow -> one change a pair; up to four. What is below 1e-16 is drawn
            there.
    """
    figure, (axes,) = make_axes(height=3.1)
    for index, (label, values) in enumerate(changes.items()):
        y = np.clip(np.asarray(values, dtype=float), 1e-16, None)
        axes.plot(range(len(pairs)), y, "os^D"[index], color=COLOURS[index], label=label)
    axes.set(yscale="log", ylim=(3e-17, 10), xlabel="$(p, q)$", ylabel="change of an imbalance")
    axes.set_xticks(range(len(pairs)), [f"({p:g}, {q:g})" for p, q in pairs], fontsize=8.5)
    return finish(figure, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


@styled
def imbalance_decay(times: Tensor, panels: Mapping[str, Tensor], decay: float) -> Figure:
    """Imbalances over their initial values, and the exponential with the given rate.

    Args:
        times: shape (T,).
        panels: title -> ratios, shape (T, units).
        decay: rate of the exponential.
    """
    figure, every = make_axes(len(panels), height=2.9)
    for index, (axes, (title, ratios)) in enumerate(zip(every, panels.items(), strict=True)):
        draw_line(axes, times, ratios, index, linewidth=1.2)
        some = times[:: max(1, len(times) // 10)]
        axes.plot(some, (-decay * some).exp(), "x", color=INK, label=r"$e^{-\lambda t}$")
        axes.set(title=title, xlabel="time $t$")
        axes.sharey(every[0])
    every[0].set_ylabel("$I_i(t) \\,/\\, I_i(0)$")
    return finish(figure)


@styled
def imbalances(times: Tensor, flows: Mapping[str, Tensor]) -> Figure:
    """Imbalances of hidden units over time, along several flows.

    Args:
        times: shape (T,).
        flows: name -> imbalances, shape (T, units); up to four.
    """
    figure, (axes,) = make_axes(height=2.9)
    for index, (label, values) in enumerate(flows.items()):
        for unit, line in enumerate(values.T):
            draw_line(axes, times, line, index, label=label if unit == 0 else None)
    axes.set(xlabel="time $t$", ylabel="$I_i(t)$")
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def departure(times: Tensor, flows: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """How far flows take a network from balance and from its smallest norm, on log axes.

    Args:
        times: shape (T,).
        flows: name -> largest relative imbalances, and norms over the smallest less 1, shape (T,)
            each; up to four. What is below 1e-16 is drawn there.
    """
    figure, every = make_axes(2, height=2.9)
    names = ("largest relative imbalance", "norm / smallest norm - 1")
    for k, (axes, name) in enumerate(zip(every, names, strict=True)):
        for index, (label, values) in enumerate(flows.items()):
            draw_line(axes, times, np.clip(values[k], 1e-16, None), index, label=label)
        axes.set(yscale="log", ylim=(3e-17, 10), xlabel="time $t$", title=name)
    return finish(figure, legend=every[0], loc="center right")


# --- chapter 13 ----------------------------------------------------------------------------------


@styled
def finite_steps(
    lengths: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Change of an imbalance against the length of the steps, on log axes; a panel each.

    Args:
        lengths: lengths of a step.
        panels: title -> method -> one change a length. What is below 1e-16 is drawn there.
    """
    figure, every = make_axes(len(panels), height=2.9)
    labels: list[str] = []
    for axes, (title, methods) in zip(every, panels.items(), strict=True):
        for label, changes in methods.items():
            if label not in labels:  # a method looks the same in all panels
                labels.append(label)
            index = labels.index(label)
            y = np.clip(np.asarray(changes, dtype=float), 1e-16, None)
            draw_line(axes, lengths, y, index, marker="os^D"[index], markersize=4, label=label)
        axes.set(title=title, xlabel="step $dt$", xscale="log", yscale="log", ylim=(3e-17, 100))
        axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.sharey(every[0])
    every[0].set_ylabel("change of an imbalance")
    found = [axes.get_legend_handles_labels() for axes in every]
    lines = {label: line for each in found for line, label in zip(*each, strict=True)}
    figure.legend(
        lines.values(), lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(lines)
    )
    return figure


@styled
def race(table: pd.DataFrame) -> Figure:
    """Training with one penalty by several methods: objective and small weights over the epochs.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: runs of :func:`balancing.experiments.pairing.pairing` with one penalty; a column of
            panels for each length.
    """
    lengths = sorted(table["epochs"].unique())
    figure, every = make_axes(len(lengths), 2, height=2.4)
    names = {"flow": "flow", "sgd": "SGD", "prox": "proximal"}
    for column, epochs in enumerate(lengths):
        for row, (quantity, label) in enumerate(
            (("objective", "loss + penalty"), ("small", "part of small weights"))
        ):
            axes = every[row * len(lengths) + column]
            for index, (method, name) in enumerate(names.items()):
                runs = table[(table["epochs"] == epochs) & (table["method"] == method)]
                band(axes, runs, "epoch", quantity, index, label=name)
            axes.sharey(every[row * len(lengths)])
            axes.set_xlabel("epoch")
            if row == 0:
                axes.set(title=f"{epochs} epochs", yscale="log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_locator(NullLocator())
            else:
                axes.set_ylim(0, 1.03)
            if column == 0:
                axes.set_ylabel(label)
    lines = every[0].get_legend_handles_labels()
    note: Any = {"title": seeds_note(table), "ncols": 3}
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), **note)
    return figure

"""Figures of Part I: matrix factorization (chapters 6 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
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
    "escape",
    "figure1",
    "rank_one_steps",
    "schedules",
    "signal_ratios",
    "two_stages",
]


# --- chapter 06 ----------------------------------------------------------------------------------


@styled
def escape(
    sigma: Sequence[float],
    growing: Tensor,
    predicted: Tensor,
    learned: Tensor,
    half_times: Sequence[float],
) -> Figure:
    """Descent leaves the saddle at 0: the singular directions of the target, one after another.

    Args:
        sigma: singular values of the target.
        growing: size of the part that grows, a row an iteration, shape (T, directions).
        predicted: what the linearized descent makes of it, same shape.
        learned: share of each singular value that the product has reached, same shape.
        half_times: predicted iterations at which half of it is reached.
    """
    figure, (left, right) = make_axes(2)
    steps = np.arange(len(growing))
    for index, value in enumerate(sigma):
        label = rf"$\sigma_{index + 1} = {value:g}$"
        # until it would be as large as the factor that it becomes, and no further
        linear = predicted[:, index] <= value**0.5
        options: Any = {"color": INK, "linewidth": 1, "alpha": 0.6}
        note = "linearized" if index == 0 else None
        left.plot(steps[linear], predicted[linear, index], label=note, zorder=3, **options)
        draw_line(left, steps, growing[:, index], index, label=label)
        draw_line(right, steps, learned[:, index], index, label=label)
    right.plot(half_times, [0.5] * len(half_times), "o", color=INK, label="half, predicted")
    left.set(yscale="log", xlabel="iteration", title="The growing part")
    left.set_ylabel(r"$\|U^\top u_i^* + V^\top v_i^*\| / 2$")
    right.set(xlabel="iteration", title="What is learned")
    right.set_ylabel(r"$u_i^{*\top} U V^\top v_i^* \,/\, \sigma_i$")
    return finish(figure, loc="lower right", fontsize=9)


@styled
def figure1(table: pd.DataFrame) -> Figure:
    """Du, Hu and Lee 2018, Figure 1: error, gap and ratio of the factors, for both objectives.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: from :func:`balancing.experiments.du2018.figure1`, any number of seeds.
    """
    figure, panels = make_axes(3, 2, height=2.5)
    for row, init in enumerate(("balanced", "unbalanced")):
        for column, kind in enumerate(("error", "gap", "ratio")):
            axes = panels[3 * row + column]
            # (3) first, wide and pale: where the two coincide, the dashes of (2) lie on top
            for index, objective in enumerate((3, 2)):
                look: Any = {"linewidth": (4, 1.8)[index], "alpha": (0.5, 1)[index]}
                runs = table[(table["init"] == init) & (table["objective"] == objective)]
                label = f"objective ({objective})"
                band(axes, runs, "iteration", kind, index, label=label, **look)
            letter = "abcdef"[3 * row + column]
            axes.set(title=f"({letter}) {init}: {kind}", xlabel="iteration", yscale="log")
            if kind == "ratio":
                axes.axhline(1, color=INK, alpha=0.5, linewidth=1, zorder=1)
                ticks = [1, 1.2, 1.4] if init == "balanced" else [1, 3, 10, 30, 100]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
            else:
                axes.set_ylim(1e-12, 10)  # below, there is rounding only
    lines = panels[0].get_legend_handles_labels()
    note: Any = {"title": seeds_note(table), "ncols": 2}
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), **note)
    return figure


@styled
def schedules(
    runs: Mapping[str, pd.DataFrame], times: Mapping[str, Any], *, escape_time: float
) -> Figure:
    """Errors under several schedules of the step, and the time that their steps add up to.

    Args:
        runs: name of the schedule -> histories of :func:`balancing.factorize`, one below the
            other, with a column ``seed``; medians and bands over the seeds.
        times: name of the schedule -> sum of the step sizes so far, one number a step.
        escape_time: the time that it takes to leave the saddle.
    """
    figure, (left, right) = make_axes(2)
    for index, (name, run) in enumerate(runs.items()):
        start = run.groupby("seed")["error"].transform("first")
        shown = run.assign(step=1 + run["iteration"], part=run["error"] / start)
        band(left, shown, "step", "part", index, label=name)
        draw_line(right, np.arange(1, 1 + len(times[name])), times[name], index, label=name)
    right.axhline(escape_time, color=INK, linewidth=1, alpha=0.6)
    right.annotate(
        "to leave the saddle",
        (max(map(len, times.values())), escape_time),
        (0, -13),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=9,
    )
    left.set(xscale="log", yscale="log", xlabel="iteration, plus 1", title="Error")
    left.set(ylabel=r"$\|E_t\|_F \,/\, \|E_0\|_F$", ylim=(1e-12, 10))
    right.set(xscale="log", yscale="log", xlabel="number of steps", title="Time")
    right.set_ylabel(r"$\eta_0 + \eta_1 + \dots$")
    note = seeds_note(pd.concat(runs.values()))
    return finish(figure, legend=left, loc="lower left", fontsize=9, title=note, title_fontsize=9)


# --- chapter 07 ----------------------------------------------------------------------------------


@styled
def two_stages(
    path: pd.DataFrame, others: pd.DataFrame, *, half_time: float, rate: float
) -> Figure:
    """A rank-one run: its four numbers, and its error with the rate that theory gives.

    Args:
        path: from :func:`balancing.experiments.du2018.rank_one`.
        others: runs of several seeds, with a column ``seed``; the error of the middle 80 % of
            them is drawn until the first has ended.
        half_time: predicted iteration at which the product of the signals is half of sigma1.
        rate: predicted factor a step of the error at the end.
    """
    figure, (left, right) = make_axes(2)
    steps = path["iteration"]
    numbers = {"signal_u": "$|a|$", "signal_v": "$|b|$", "noise_u": r"$\mu$", "noise_v": r"$\nu$"}
    for index, (name, label) in enumerate(numbers.items()):
        # the signals come to coincide: the first wide and pale below the second
        look: Any = {"linewidth": 4, "alpha": 0.5} if name == "signal_u" else {}
        draw_line(left, steps, path[name].abs(), index, label=label, **look)
    left.set(yscale="log", xlabel="iteration", ylabel="size", title="Signals and noise")
    band(right, others, "iteration", "error", 1, label=seeds_note(others))
    draw_line(right, steps, path["error"], 0, label="this run")
    last, after = path.iloc[-1], steps >= half_time
    line = last["error"] * rate ** (steps[after] - last["iteration"])
    label = f"a factor of {rate:g} a step"
    right.plot(steps[after], line, color=INK, linewidth=1, label=label, zorder=3)
    for axes in (left, right):
        axes.axvline(half_time, color=INK, linewidth=1, alpha=0.6)
    right.set(yscale="log", xlabel="iteration", title="Error")
    right.set_ylabel(r"$\|u v^\top - M\|_F \,/\, \sigma_1$")
    return finish(figure, fontsize=9)


@styled
def rank_one_steps(table: pd.DataFrame, medians: pd.Series[float], line: tuple[Any, Any]) -> Figure:
    """Steps of the rank-one runs, against the dimension and against the signal that they got.

    Args:
        table: one row a run, with the columns ``dim``, ``iterations`` and ``start``, the signal
            of the start.
        medians: dimension -> predicted median number of steps.
        line: starts and the number of steps predicted for each, shape (n,) both.
    """
    figure, (left, right) = make_axes(2)
    right.sharey(left)
    for index, (dim, runs) in enumerate(table.groupby("dim")):
        marker: Any = {"marker": "os^"[index % 3], "color": COLOURS[index % 4], "s": 22}
        # side by side, or runs of as many steps would hide one another
        spread = runs["dim"] * np.geomspace(0.8, 1.25, len(runs))
        left.scatter(spread, runs["iterations"], alpha=0.7, **marker)
        right.scatter(runs["start"], runs["iterations"], label=f"$d = {dim}$", **marker)
    measured = table.groupby("dim")["iterations"].median()
    diamonds: Any = {"color": INK, "markersize": 8, "markerfacecolor": "none", "zorder": 3}
    left.plot(measured.index, measured, "D", label="median, measured", **diamonds)
    left.plot(medians.index, medians, color=INK, linewidth=1, label="median, predicted")
    right.plot(*line, color=INK, linewidth=1, label="predicted")
    left.set(xscale="log", xlabel="dimension $d$", ylabel="steps to $10^{-6}$")
    dims = [int(dim) for dim in measured.index]
    left.set_xticks(dims, [str(dim) for dim in dims])
    left.minorticks_off()
    right.set(xscale="log", xlabel=r"signal of the start $|a_0 + b_0| / 2$, in $\sqrt{\sigma_1}$")
    return finish(figure, fontsize=9)


@styled
def signal_ratios(paths: Mapping[str, pd.DataFrame], others: pd.DataFrame) -> Figure:
    """The ratio of the two signals along rank-one runs.

    Args:
        paths: label -> table of :func:`balancing.experiments.du2018.rank_one`.
        others: runs of several seeds, with a column ``seed``: their median and the range of their
            middle 80 % are drawn behind.
    """
    figure, (axes,) = make_axes()
    note = seeds_note(others)
    band(axes, others, "iteration", "ratio", None, linewidth=1, alpha=0.6, label=note)
    for index, (label, path) in enumerate(paths.items()):
        draw_line(axes, path["iteration"], path["ratio"], index, label=label)
    axes.set(xscale="linear", yscale="log", xlabel="iteration", ylabel="$|a| / |b|$")
    return finish(figure, fontsize=9)

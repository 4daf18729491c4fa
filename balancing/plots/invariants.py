"""Figures of Part I: what gradient flow conserves (chapters 1 to 5)."""

from __future__ import annotations

import itertools
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
    "conserved",
    "drift",
    "drifts",
    "entries",
    "figure2",
    "hyperbolas",
    "kept",
    "losses",
    "predicted_drift",
    "rescaled",
    "shared",
    "unrolled",
]


# --- chapter 01 ----------------------------------------------------------------------------------


@styled
def rescaled(
    x: Tensor, outputs: Mapping[str, Tensor], units: Mapping[str, tuple[Tensor, Tensor]]
) -> Figure:
    """One function, two networks: the graphs coincide, the weights of the units do not.

    Args:
        x: inputs, shape (n,).
        outputs: name of the network -> outputs, shape (n,); exactly two.
        units: name of the network -> squared incoming and outgoing norms, shape (units,) each.
    """
    figure, (left, right) = make_axes(2)
    for index, (name, y) in enumerate(outputs.items()):
        draw_line(left, x, y, index, label=name, linewidth=(4, 1.8)[index], alpha=(0.45, 1)[index])
    left.set(xlabel="input $x$", ylabel="output $f(x)$", title="The function")
    for index, (name, (into, out)) in enumerate(units.items()):
        marker = "os"[index]
        right.scatter(into, out, color=COLOURS[index], marker=marker, s=36, label=name, zorder=3)
    # rescaling moves a unit along a curve of constant product
    for into, out in zip(*next(iter(units.values())), strict=True):
        start = np.geomspace(into / 60, into * 60, 60)
        right.plot(start, float(into * out) / start, color=INK, alpha=0.25, linewidth=1)
    right.set(
        xscale="log",
        yscale="log",
        xlabel=r"$\|$incoming$\|^2$",
        ylabel=r"$\|$outgoing$\|^2$",
        title="Its hidden units",
    )
    return finish(figure)


# --- chapter 02 ----------------------------------------------------------------------------------


@styled
def hyperbolas(paths: Mapping[str, Tensor], *, target: float = 1.0, extent: float = 2.6) -> Figure:
    r"""Paths of (u, v) for the loss :math:`\frac12 (uv - target)^2`, with its contours.

    Args:
        paths: label -> points of a path, shape (n, 2); the first point is marked.
        target: the product that fits the data.
        extent: both axes run from -extent/4 to extent.
    """
    figure, (axes,) = make_axes(height=3.8)
    u, v = np.meshgrid(*[np.linspace(-extent / 4, extent, 200)] * 2)
    loss = 0.5 * (u * v - target) ** 2
    axes.contour(
        u, v, loss, levels=np.geomspace(0.005, 8, 9), colors=INK, linewidths=0.7, alpha=0.3
    )
    curve = np.linspace(target / extent, extent, 200)
    axes.plot(curve, target / curve, color=INK, linewidth=1.2, label=f"$uv = {target:g}$: no loss")
    for index, (label, points) in enumerate(paths.items()):
        draw_line(axes, points[:, 0], points[:, 1], index, label=label)
        axes.plot(*points[0], "o", color=COLOURS[index], markersize=6)
    axes.set(xlabel="$u$", ylabel="$v$", aspect="equal")
    axes.set(xlim=(-extent / 4, extent), ylim=(-extent / 4, extent))
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def conserved(times: Tensor, into: Tensor, out: Tensor, *, unit: str = "unit") -> Figure:
    """Squared incoming and outgoing norms of hidden units along a flow, and their difference.

    Args:
        times: shape (T,).
        into: squared norms of the incoming weights, shape (T, units); a panel each.
        out: squared norms of the outgoing weights, shape (T, units).
        unit: what the panels call a unit.
    """
    figure, panels = make_axes(into.shape[1], height=2.8)
    for i, axes in enumerate(panels):
        draw_line(axes, times, into[:, i], 0, label=r"$\|$incoming$\|^2$")
        draw_line(axes, times, out[:, i], 1, label=r"$\|$outgoing$\|^2$")
        draw_line(axes, times, (into - out)[:, i], 2, label="difference")
        axes.set(xlabel="time $t$", title=f"{unit} {i}")
        axes.sharey(panels[0])
    panels[0].set_ylabel("squared norm")
    return finish(figure, legend=panels[-1], loc="center left", bbox_to_anchor=(1, 0.5))


# --- chapter 03 ----------------------------------------------------------------------------------


@styled
def entries(paths: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """How far the entries of the matrix of Theorem 2.2 move along a flow, on a log axis.

    Args:
        paths: title of the panel -> times, shape (T,), and matrices, shape (T, n, n).
    """
    figure, panels = make_axes(len(paths))
    for axes, (title, (times, matrices)) in zip(panels, paths.items(), strict=True):
        moved = (matrices - matrices[0]).abs()[1:].clamp_min(1e-17)
        size = matrices.shape[1]
        for i, j in itertools.combinations_with_replacement(range(size), 2):
            index = int(i != j)
            label = ("diagonal", "off the diagonal")[index] if (i, j) in ((0, 0), (0, 1)) else None
            draw_line(axes, times[1:], moved[:, i, j], index, label=label, linewidth=1.1)
        axes.set(title=title, xlabel="time $t$", yscale="log", ylim=(3e-18, 30))
        axes.set_yticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
    panels[0].set_ylabel("change of the entry")
    return finish(figure, legend=panels[0])


@styled
def unrolled(matrix: Tensor, shape: tuple[int, int]) -> Figure:
    """The matrix of a convolution: equal shades are one shared weight, blanks are zeros.

    Args:
        matrix: the unrolled matrix, shape (channels out * positions, channels in * positions).
        shape: number of channels (out, in), between which lines are drawn.
    """
    figure, (axes,) = make_axes(height=3.0)
    values = np.ma.masked_equal(matrix.numpy(force=True), 0)
    limit = float(np.abs(values).max())
    axes.imshow(values, cmap="viridis", vmin=-limit, vmax=limit)
    rows, columns = matrix.shape
    for channel in range(1, shape[0]):
        axes.axhline(channel * rows / shape[0] - 0.5, color=INK, linewidth=0.8)
    for channel in range(1, shape[1]):
        axes.axvline(channel * columns / shape[1] - 0.5, color=INK, linewidth=0.8)
    axes.set(xlabel="what the layer reads", ylabel="output, channel by channel")
    axes.grid(visible=False)
    return figure


@styled
def shared(times: Tensor, once: Tensor, unrolled: Tensor) -> Figure:
    """Change of a layer gap along a flow, each shared weight counted once or at every use.

    Args:
        times: shape (T,).
        once: gap of the squared norms of the parameters, shape (T,).
        unrolled: gap of the squared norms of the unrolled matrices, shape (T,).
    """
    figure, (axes,) = make_axes(height=2.8)
    draw_line(axes, times, once - once[0], 0, label="each weight once")
    draw_line(axes, times, unrolled - unrolled[0], 1, label="unrolled matrix")
    axes.set(xlabel="time $t$", ylabel="change of the gap")
    return finish(figure)


# --- chapter 04 ----------------------------------------------------------------------------------


@styled
def predicted_drift(
    changes: pd.Series[float], units: Mapping[str, Tensor], integrals: Tensor
) -> Figure:
    """Drift until a fixed time against the step size, and unit by unit against its prediction.

    Args:
        changes: step size -> norm of the drifts of all units.
        units: label -> drift of each unit divided by the step size, shape (units,).
        integrals: what they should be for small steps, shape (units,).
    """
    figure, (left, right) = make_axes(2)
    steps = changes.index.to_numpy(dtype=float)
    line = float(integrals.norm()) * steps
    left.plot(steps, line, color=INK, linewidth=1, alpha=0.6, label="predicted, slope 1")
    left.plot(steps, changes, "o", color=COLOURS[1], label="measured")
    left.set(xscale="log", yscale="log", xlabel=r"step size $\eta$", title="All units")
    left.set_ylabel("norm of the drifts")
    left.set_xticks(steps, [f"{step:g}" for step in steps])
    left.minorticks_off()
    ends = [float(integrals.min()), float(integrals.max())]
    right.plot(ends, ends, color=INK, linewidth=1, alpha=0.6, label="equal")
    for index, (label, drift) in enumerate(units.items()):
        marker: Any = {"marker": "os^"[index % 3], "color": COLOURS[1 - index], "s": 30}
        right.scatter(integrals, drift, label=label, zorder=3, **marker)
    right.set(xlabel="integral along the flow", ylabel="drift / step size", title="Unit by unit")
    return finish(figure, fontsize=9)


@styled
def drifts(table: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> Figure:
    """Drift over a fixed time against the rate, for several optimizers; bands over the seeds.

    Args:
        table: last rows of :func:`balancing.experiments.du2018.optimizers`, one a run: columns
            ``optimizer``, ``rate``, ``seed``, ``change``.
        panels: title of the panel -> names of optimizers, up to four. A thin line of slope one
            runs through the first median of each.
    """
    figure, axes = make_axes(len(panels))
    for panel, (title, names) in zip(axes, panels.items(), strict=True):
        panel.sharey(axes[0])
        for index, name in enumerate(names):
            runs = table[table["optimizer"] == name]
            options: Any = {"marker": "os^D"[index], "markersize": 5, "label": name}
            band(panel, runs, "rate", "change", index, **options)
            rates = np.sort(runs["rate"].unique())
            first = runs["change"][runs["rate"] == rates[0]].median()
            note = "slope 1" if index == len(names) - 1 else None
            slope: Any = {"color": INK, "linewidth": 0.8, "alpha": 0.5, "zorder": 1}
            panel.plot(rates, first * rates / rates[0], label=note, **slope)
        panel.set(title=title, xscale="log", yscale="log", xlabel="rate")
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.minorticks_off()
        panel.legend(fontsize=9)
    axes[0].set_ylabel(r"$\|I(T) - I(0)\| \,/\, \|I(0)\|$")
    figure.legend([], [], title=seeds_note(table), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


@styled
def kept(runs: Mapping[str, pd.DataFrame], decays: Mapping[str, float]) -> Figure:
    r"""Fraction of the invariants that is kept over time, with the exponentials of weight decay.

    Args:
        runs: name of the optimizer -> rows of
            :func:`balancing.experiments.du2018.optimizers` with one rate; bands over the seeds.
        decays: label -> strength :math:`\lambda`, drawn as :math:`e^{-2 \lambda t}`.
    """
    figure, (axes,) = make_axes()
    for index, (name, table) in enumerate(runs.items()):
        band(axes, table, "time", "kept", index, label=name)
    times = np.linspace(0, max(table["time"].max() for table in runs.values()), 13)
    for index, (label, decay) in enumerate(decays.items()):
        marker: Any = {"marker": "ox"[index], "markersize": 5, "markerfacecolor": "none"}
        line: Any = {"color": INK, "linewidth": 0, "label": label, "zorder": 3}
        axes.plot(times, np.exp(-2 * decay * times), **line, **marker)
    axes.set(xlabel="time $t$", ylabel="fraction kept", ylim=(0, None))
    note = seeds_note(pd.concat(runs.values()))
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5), title=note)


# --- chapter 05 ----------------------------------------------------------------------------------


@styled
def figure2(table: pd.DataFrame) -> Figure:
    """Du, Hu and Lee 2018, Figure 2: gaps and ratios of squared norms, from both starts.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: from :func:`balancing.experiments.du2018.figure2`, any number of seeds.
    """
    figure, panels = make_axes(2, 2, height=2.7)
    for row, init in enumerate(("balanced", "unbalanced")):
        run = table[table["init"] == init]
        for column, kind in enumerate(("gap", "ratio")):
            axes = panels[2 * row + column]
            sign = "-" if kind == "gap" else "/"
            for index, (above, below) in enumerate(((1, 2), (2, 3))):
                label = rf"$\|W^{{({above})}}\|_F^2 {sign} \|W^{{({below})}}\|_F^2$"
                band(axes, run, "iteration", f"{kind}{above}{below}", index, label=label)
            if kind == "gap":
                # on the scale of the norms: a gap is small or large beside them only
                axes.set_ylim(-1.1, run["norm1"].max() * 1.05)
                band(axes, run, "iteration", "norm1", None, alpha=0.5, linewidth=1)
                last = run.groupby("iteration")["norm1"].median().iloc[-1]
                note = r"$\|W^{(1)}\|_F^2$"
                axes.annotate(
                    note,
                    (9500, last),
                    (0, -13),
                    textcoords="offset points",
                    ha="right",
                    color=INK,
                )
            else:
                axes.set_yscale("log")
                axes.axhline(1, color=INK, alpha=0.5, linewidth=1)
                ticks = [0.9, 1, 1.1] if init == "balanced" else [1, 2, 5, 10]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
                if init == "balanced":
                    axes.set_ylim(0.87, 1.15)
            letter = "abcd"[2 * row + column]
            axes.set(title=f"({letter}) {init} start: {kind}s", xlabel="iteration")
    figure.legend([], [], title=seeds_note(table), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


@styled
def losses(table: pd.DataFrame) -> Figure:
    """Loss against iterations, a line and a band an initialization; logarithmic."""
    figure, (axes,) = make_axes()
    for index, (init, runs) in enumerate(table.groupby("init", sort=False)):
        band(axes, runs, "iteration", "loss", index, label=f"{init} start")
    axes.set(yscale="log", xlabel="iteration", ylabel="loss")
    return finish(figure, title=seeds_note(table))


@styled
def drift(changes: pd.DataFrame, *, fitted: Sequence[float]) -> Figure:
    """Final drift of a gap against the step size, with a line of slope one.

    Args:
        changes: columns ``step``, ``seed``, and ``change``, the absolute change of the gap over a
            fixed time; medians and bands over the seeds.
        fitted: the step sizes to whose medians the line is fitted.
    """
    figure, (axes,) = make_axes()
    medians = changes.groupby("step")["change"].median()
    steps = medians.index.to_numpy(dtype=float)
    values = medians.to_numpy(dtype=float)
    chosen = np.isin(steps, fitted)
    rate = np.exp(np.mean(np.log(values[chosen] / steps[chosen])))
    axes.plot(steps, rate * steps, color=INK, linewidth=1, alpha=0.6, label="slope 1")
    band(axes, changes, "step", "change", 1, marker="o", label="measured")
    axes.set(xscale="log", yscale="log", xlabel=r"step size $\eta$")
    axes.set_ylabel(r"change of $\|W^{(1)}\|_F^2 - \|W^{(2)}\|_F^2$")
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.minorticks_off()
    return finish(figure, title=seeds_note(changes))

"""Figures of Part II: fixes (chapters 8 to 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.markers import CARETRIGHT
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
    "auxiliary",
    "benchmark",
    "convergence",
    "descent",
    "diffusion",
    "hinge",
    "modes",
    "norm_contours",
    "one_unit",
    "phases",
    "safe_exponents",
]


# --- chapter 08 ----------------------------------------------------------------------------------


@styled
def one_unit(into: float, out: float, p: float) -> Figure:
    r"""The norm of one unit's weights, in the logarithm of its factor and in the factor itself.

    Draws :math:`F = \mathrm{into}\, a^p + \mathrm{out}\, a^{-p}` with the minimum and a chord.

    Args:
        into: sum of the unit's incoming weights, each to the power p; above 0.
        out: the same of its outgoing weights.
        p: exponent of the norm.
    """
    figure, panels = make_axes(2)
    best = np.log(out / into) / (2 * p)
    theta = np.linspace(best - 1.4 / p, best + 1.6 / p, 300)
    ends = best + np.array([0.2, 1.5]) / p

    def norm(theta: Any) -> Any:
        return into * np.exp(p * theta) + out * np.exp(-p * theta)

    scales: tuple[Callable[[Any], Any], ...] = (np.asarray, np.exp)
    for axes, scale in zip(panels, scales, strict=True):
        x = scale(theta)
        draw_line(axes, x, norm(theta), 0, label="$F$")
        draw_line(axes, x, into * np.exp(p * theta), 1, label="incoming", linewidth=1.3)
        draw_line(axes, x, out * np.exp(-p * theta), 2, label="outgoing", linewidth=1.3)
        axes.plot(scale(ends), norm(ends), "-s", color=INK, linewidth=1, markersize=4)
        axes.plot(scale(best), norm(best), "o", color=COLOURS[0], markersize=7)
        axes.sharey(panels[0])
    panels[0].set_ylim(0, None)
    panels[0].set(xlabel=r"$\theta = \log a$", ylabel="$F$", title="Over the logarithm: convex")
    panels[1].set(xlabel="$a$", title="Over the factor: not convex")
    return finish(figure, legend=panels[1], loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def norm_contours(
    theta: Tensor, surfaces: Mapping[str, tuple[Tensor, Tensor]], *, levels: Sequence[float]
) -> Figure:
    """The norm over the logarithms of two factors, with a path to its minimum; a panel each.

    Args:
        theta: grid for both logarithms, shape (n,).
        surfaces: title -> norm divided by the smallest norm, shape (n, n), entry [i, j] at
            (theta[i], theta[j]); and points of a path that ends in the minimum, shape (k, 2).
        levels: ratios to draw.
    """
    figure, panels = make_axes(len(surfaces), height=3.1)
    for axes, (title, (ratio, path)) in zip(panels, surfaces.items(), strict=True):
        drawn = axes.contour(
            theta, theta, ratio.T, levels=list(levels), colors=INK, linewidths=0.8, alpha=0.6
        )
        for text in axes.clabel(drawn, fmt="%g", fontsize=7.5):
            text.set(color=INK, alpha=1)
        draw_line(axes, path[:, 0], path[:, 1], 1, marker="o", markersize=3, linewidth=1.2)
        axes.plot(*path[-1], "*", color=COLOURS[0], markersize=9, zorder=3)
        axes.set(xlabel=r"$\theta_1$", title=title, aspect="equal")
        axes.sharey(panels[0])
    panels[0].set_ylabel(r"$\theta_2$")
    return finish(figure)


@styled
def hinge(paths: Mapping[str, Tensor], *, extent: float = 2.6) -> Figure:
    """Orbits and the curves of gradient flow for a network with two weights u and v.

    Args:
        paths: label -> points (u, v) of a path, shape (n, 2); the first point is marked.
        extent: both axes run from -extent/4 to extent.
    """
    figure, (axes,) = make_axes(height=3.8)
    u, v = np.meshgrid(*[np.linspace(-extent / 4, extent, 200)] * 2)
    thin: Any = {"colors": INK, "linewidths": 0.7, "alpha": 0.4}
    products = np.array([-0.05, 0.05, 1 / extent**2, 0.3, 0.5]) * extent**2
    axes.contour(u, v, u * v, levels=products, linestyles="solid", **thin)
    differences = np.linspace(-0.9, 0.9, 10) * extent**2  # without 0, the balanced lines
    axes.contour(u, v, u * u - v * v, levels=differences, linestyles="dotted", **thin)
    ends = np.array([-extent / 4, extent])
    axes.plot(ends, ends, color=INK, linewidth=1.2, label="balanced: $|u| = |v|$")
    axes.plot(-ends, ends, color=INK, linewidth=1.2)
    for index, (label, points) in enumerate(paths.items()):
        draw_line(axes, points[:, 0], points[:, 1], index, label=label)
        axes.plot(*points[0], "o", color=COLOURS[index], markersize=6)
    axes.set(xlabel="$u$", ylabel="$v$", aspect="equal", xlim=ends, ylim=ends)
    return finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


# --- chapter 09 ----------------------------------------------------------------------------------


@styled
def auxiliary(
    theta: np.ndarray, norm: np.ndarray, bounds: Sequence[tuple[float, float, np.ndarray]]
) -> Figure:
    """A function and auxiliary functions above it, each of which leads to the next.

    Args:
        theta: grid, shape (n,).
        norm: the function on the grid, shape (n,).
        bounds: where the auxiliary function touches, where it is smallest, and its values on the
            grid, shape (n,).
    """
    figure, (axes,) = make_axes(height=3.2)
    draw_line(axes, theta, norm, 0, label="$F$")
    for index, (touch, best, height) in enumerate(bounds, start=1):
        start = "$0$" if index == 1 else rf"$\theta^{{({index - 1})}}$"
        draw_line(axes, theta, height, index, label=f"$G$ that touches at {start}", linewidth=1.3)
        axes.plot(touch, np.interp(touch, theta, norm), "o", color=COLOURS[0], markersize=7)
        axes.plot(best, np.interp(best, theta, height), "s", color=COLOURS[index], markersize=6)
    floor = float(norm.min())
    axes.set(xlabel=r"$\theta = \log a$", ylabel="$F$, $G$", ylim=(0.8 * floor, 3.2 * floor))
    return finish(figure, loc="upper center")


@styled
def descent(excess: Mapping[str, Tensor]) -> Figure:
    """How far a norm is above its minimum, after each update.

    Args:
        excess: label -> norm over its minimum less 1, after 0, 1, ... updates; up to four.
    """
    figure, (axes,) = make_axes()
    for index, (label, values) in enumerate(excess.items()):
        draw_line(axes, range(len(values)), values, index, label=label)
    axes.set(xlabel="update", ylabel="norm / smallest norm - 1", yscale="log")
    return finish(figure)


@styled
def safe_exponents(ratios: np.ndarray, exponents: np.ndarray, risen: np.ndarray) -> Figure:
    """Which exponents of a multiplicative update were seen to raise a norm.

    Args:
        ratios: q / p, shape (n,).
        exponents: p times the exponent, shape (m,).
        risen: whether a norm rose, shape (m, n).
    """
    figure, (axes,) = make_axes(height=3.9)
    x, y = np.meshgrid(ratios, exponents)
    axes.plot(x[~risen], y[~risen], ".", color=INK, alpha=0.45, markersize=5)
    axes.plot(x[risen], y[risen], "x", color=INK, alpha=0.6, markersize=5)
    fine = np.geomspace(ratios.min(), ratios.max(), 200)
    rules = {
        r"$1/\max(p, 2q)$": 1 / np.maximum(1, 2 * fine),
        r"Algorithm 1: $1/(4\,\max(p, q))$": 1 / (4 * np.maximum(1, fine)),
        r"$1/(4\,\min(p, q))$": 1 / (4 * np.minimum(1, fine)),
        r"$1/\max(p, q)$": 1 / np.maximum(1, fine),
    }
    for index, (label, rule) in enumerate(rules.items()):
        draw_line(axes, fine, rule, index, label=label, linewidth=2.6 if index == 0 else 1.8)
    axes.set(xlabel="$q / p$", ylabel=r"$p$ times exponent $\epsilon$")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(
            lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"
        )
    axes.grid(visible=False)
    return finish(figure, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


# --- chapter 10 ----------------------------------------------------------------------------------


@styled
def convergence(table: pd.DataFrame) -> Figure:
    """Figure 2 of Saul 2023: the norm over its initial value against the number of updates.

    Medians over the seeds, and the range of their middle 80 %.

    Args:
        table: from :func:`balancing.experiments.saul2023.figure2`, any number of seeds.
    """
    panels = table.groupby(["p", "q"], sort=False)
    figure, every = make_axes(4, -(-len(panels) // 4), height=2.3)
    for axes, ((p, q), panel) in zip(every, panels, strict=False):
        for index, (name, run) in enumerate(panel.groupby("network", sort=False)):
            label = f"{str(name).count('-') - 1} hidden layers"
            band(axes, run, "update", "ratio", index, label=label)
        axes.set(title=f"$({p:g}, {q:g})$", xlabel="update", ylim=(0, 1.03))
        axes.sharey(every[0])
        axes.tick_params(labelleft=axes in every[::4])
    for axes in every[::4]:
        axes.set_ylabel(r"$\|W\|_{p,q} \,/\, \|W_0\|_{p,q}$")
    for axes in every[len(panels) :]:
        axes.remove()
    lines = every[0].get_legend_handles_labels()
    note: Any = {"title": seeds_note(table), "ncols": 3}
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), **note)
    return figure


@styled
def diffusion(measured: Mapping[int, np.ndarray], model: Mapping[int, np.ndarray]) -> Figure:
    """Sums of the shares of each layer after some updates, measured and from the heat equation.

    Args:
        measured: number of updates -> one value a layer; up to four.
        model: the same from the heat equation.
    """
    figure, (axes,) = make_axes(height=3.2)
    for index, (updates, sums) in enumerate(measured.items()):
        layers = range(1, len(sums) + 1)
        draw_line(axes, layers, sums, index, label=f"{updates} updates")
        axes.plot(layers, model[updates], "x", color=INK, markersize=6)
    axes.plot([], [], "x", color=INK, markersize=6, label="heat equation")
    axes.set(xlabel="layer $h$", ylabel="layer sum / geometric mean", yscale="log")
    return finish(figure, loc="lower left")


@styled
def modes(
    vectors: Tensor,
    sizes: Sequence[int],
    spectra: Mapping[str, Tensor],
    expected: Mapping[str, np.ndarray],
) -> Figure:
    """Slow eigenvectors of an update over the hidden units, and eigenvalues for several norms.

    Args:
        vectors: eigenvectors in columns, the slowest first, shape (units, up to 3); units in the
            order of their layers.
        sizes: number of units of each layer.
        spectra: label -> eigenvalues.
        expected: label -> rates that should be among the eigenvalues.
    """
    figure, (left, right) = make_axes(2)
    for index, (name, vector) in enumerate(
        zip(("first", "second", "third"), vectors.T, strict=False)
    ):
        scaled = vector / vector.abs().max() * vector[0].sign()  # its sign means nothing
        draw_line(left, range(len(vector)), scaled, index, label=name, linewidth=1.4)
    for border in np.cumsum(sizes)[:-1]:
        left.axvline(float(border) - 0.5, color=INK, alpha=0.35, linewidth=0.8)
    left.set(xlabel="hidden unit", title="Slowest eigenvectors", ylim=(-1.1, 1.1))
    left.grid(visible=False)
    for row, (label, values) in enumerate(spectra.items()):
        height = np.full(len(values), -row)
        right.plot(values, height, "|", color=COLOURS[row], markersize=13, alpha=0.6)
        rates = expected[label]
        right.plot(rates, np.full(len(rates), -row), "o", color=INK, markersize=7, fillstyle="none")
    right.set(
        xlabel="eigenvalue", title="All eigenvalues", xlim=(0, 1.02), ylim=(0.5 - row - 1, 0.5)
    )
    right.set_yticks([-row for row in range(len(spectra))], list(spectra))
    return finish(figure, legend=left, loc="lower left", bbox_to_anchor=(0, -0.45), ncols=3)


@styled
def phases(means: Sequence[float], rests: Sequence[float]) -> Figure:
    """Errors of the factors after each update: of the layers' means, and within the layers."""
    figure, (axes,) = make_axes()
    draw_line(axes, range(len(means)), means, 0, label="mean of a layer")
    draw_line(axes, range(len(rests)), rests, 1, label="unit from the mean of its layer")
    axes.set(xlabel="update", ylabel="largest error of $\\theta$", yscale="log", ylim=(1e-11, 10))
    return finish(figure)


# --- chapter 11 ----------------------------------------------------------------------------------

_MARKERS = "osDv^PX"


@styled
def benchmark(table: pd.DataFrame) -> Figure:
    """How long each way to balance a network takes: a row for each, a marker for each way.

    A marker is filled where the norm came within 0.1 % of the lowest on that network; a sign
    behind it says that the run was stopped there. What has no time is left out.

    Args:
        table: rows of one pair (p, q) and up to seven methods. Columns: ``network``, ``method``,
            ``seconds``, ``norm``, ``ended`` (whether it was not stopped).
    """
    networks, methods = list(table["network"].unique()), list(table["method"].unique())
    figure, (axes,) = make_axes(height=1.4 + 0.42 * len(networks))
    figure.set_figwidth(7.6)
    # each method a little lower than the one before: equal times stay apart
    lane = 0.09 * (table["method"].map(methods.index) - (len(methods) - 1) / 2)
    height = table["network"].map(networks.index) + lane
    timed = table["seconds"].notna()
    low = table["norm"] <= 1.001 * table.groupby("network")["norm"].transform("min")
    for border in range(1, len(networks)):
        axes.axhline(border - 0.5, color=INK, alpha=0.15, linewidth=0.8)
    none: Any = {"linestyle": "none", "markersize": 6}
    for index, (method, marker) in enumerate(zip(methods, _MARKERS, strict=False)):
        look: Any = {"marker": marker, "color": COLOURS[index % len(COLOURS)], **none}
        for kind, fill in ((low, "full"), (~low, "none")):
            shown = timed & kind & (table["method"] == method)
            axes.plot(table["seconds"][shown], height[shown], fillstyle=fill, **look)
        axes.plot([], [], label=method, **look)
    axes.plot([], [], marker="o", color=INK, fillstyle="none", label="not the lowest norm", **none)
    late = timed & ~table["ended"]
    behind = 1.3 * table["seconds"][late]  # the axis is logarithmic
    axes.plot(behind, height[late], marker=CARETRIGHT, color=INK, label="stopped", **none)
    axes.set_yticks(range(len(networks)), networks)
    axes.set(xlabel="seconds", ylabel="network", xscale="log", ylim=(len(networks) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    return finish(figure, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)

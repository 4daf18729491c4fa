"""The book's figures: one style, one function a figure, each from a table or tensors.

Functions return a matplotlib Figure. :func:`show` displays it in a notebook in two forms: an SVG
whose text and axes take the page's own colour, so that it is at home on light and dark pages, and
a PNG for every other viewer. Lines differ in dash as well as in colour, for readers without
colour.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

__all__ = [
    "FigureOutput",
    "auxiliary",
    "conserved",
    "convergence",
    "departure",
    "descent",
    "diffusion",
    "drift",
    "drifts",
    "entries",
    "escape",
    "figure1",
    "figure2",
    "finite_steps",
    "hinge",
    "hyperbolas",
    "imbalance_decay",
    "kept",
    "losses",
    "mobility",
    "modes",
    "norm_contours",
    "one_unit",
    "pairing",
    "phases",
    "predicted_drift",
    "race",
    "rank_one_steps",
    "rescaled",
    "safe_exponents",
    "schedules",
    "shared",
    "show",
    "signal_ratios",
    "two_stages",
    "unrolled",
]

# A colour that no data uses: it becomes the page's text colour in the SVG.
_INK = "#010203"
# Okabe and Ito's blue, vermilion, green and purple, shifted until each has a contrast of at
# least 3 to 1 on white and on near-black.
COLOURS = ("#1f7ec2", "#d55e00", "#00936b", "#b5639b")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))

_STYLE: Any = {  # Any: matplotlib types the keys as a literal union
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "balancing",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


_P = ParamSpec("_P")


class FigureOutput:
    """A figure as a notebook shows it; made by :func:`show`."""

    def __init__(self, figure: Figure, alt: str) -> None:
        self._alt = alt
        with mpl.rc_context(_STYLE):
            vector, raster = io.StringIO(), io.BytesIO()
            tight: Any = {"bbox_inches": "tight", "pad_inches": 0.05}  # a legend may stand outside
            figure.savefig(vector, format="svg", metadata={"Date": None}, **tight)
            figure.savefig(raster, format="png", dpi=110, facecolor="white", **tight)
        self._svg, self._png = _inline_svg(vector.getvalue(), alt), raster.getvalue()

    def __repr__(self) -> str:
        return f"<Figure: {self._alt}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {
            "text/plain": repr(self),
            "image/png": base64.b64encode(self._png).decode(),
            "application/vnd.balancing.figure+svg": self._svg,
        }


def show(figure: Figure, alt: str) -> FigureOutput:
    """Display a figure; the last expression of a cell.

    Args:
        figure: any matplotlib figure.
        alt: what one would see, for readers who cannot.

    Raises:
        ValueError: ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("alt must say what one would see in the figure")
    return FigureOutput(figure, " ".join(alt.split()))


def _inline_svg(svg: str, alt: str) -> str:
    """Make matplotlib's SVG file fit for a page: inherit its colour, scale, keep ids apart."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8] + "-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', svg)
    assert width is not None, "matplotlib writes the width in points"
    pixels = float(width[1]) / 72 * 96
    # on a phone a wide figure scrolls rather than shrinks until it cannot be read
    style = f"width: 100%; max-width: {pixels:.0f}px; min-width: {0.6 * pixels:.0f}px; height: auto"
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    label = html.escape(alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1).strip()


def _styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Run a figure function in the book's style, which matplotlib reads as things are drawn."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def _axes(columns: int = 1, rows: int = 1, *, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot's global state, with its axes row by row."""
    width = 5.4 if columns == 1 else 7.6
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _line(axes: Axes, x: Any, y: Any, index: int, **options: Any) -> None:
    axes.plot(x, y, color=COLOURS[index], linestyle=DASHES[index], **options)


def _finish(figure: Figure, legend: Axes | None = None, **options: Any) -> Figure:
    """Draw the legends, once all lines are there."""
    for axes in figure.axes if legend is None else [legend]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(**options)
    return figure


# --- chapter 01 ----------------------------------------------------------------------------------


@_styled
def rescaled(
    x: Tensor, outputs: Mapping[str, Tensor], units: Mapping[str, tuple[Tensor, Tensor]]
) -> Figure:
    """One function, two networks: the graphs coincide, the weights of the units do not.

    Args:
        x: inputs, shape (n,).
        outputs: name of the network -> outputs, shape (n,); exactly two.
        units: name of the network -> squared incoming and outgoing norms, shape (units,) each.
    """
    figure, (left, right) = _axes(2)
    for index, (name, y) in enumerate(outputs.items()):
        _line(left, x, y, index, label=name, linewidth=(4, 1.8)[index], alpha=(0.45, 1)[index])
    left.set(xlabel="input $x$", ylabel="output $f(x)$", title="The function")
    for index, (name, (into, out)) in enumerate(units.items()):
        marker = "os"[index]
        right.scatter(into, out, color=COLOURS[index], marker=marker, s=36, label=name, zorder=3)
    # rescaling moves a unit along a curve of constant product
    for into, out in zip(*next(iter(units.values())), strict=True):
        start = np.geomspace(into / 60, into * 60, 60)
        right.plot(start, float(into * out) / start, color=_INK, alpha=0.25, linewidth=1)
    right.set(
        xscale="log",
        yscale="log",
        xlabel=r"$\|$incoming$\|^2$",
        ylabel=r"$\|$outgoing$\|^2$",
        title="Its hidden units",
    )
    return _finish(figure)


# --- chapter 02 ----------------------------------------------------------------------------------


@_styled
def hyperbolas(paths: Mapping[str, Tensor], *, target: float = 1.0, extent: float = 2.6) -> Figure:
    r"""Paths of (u, v) for the loss :math:`\frac12 (uv - target)^2`, with its contours.

    Args:
        paths: label -> points of a path, shape (n, 2); the first point is marked.
        target: the product that fits the data.
        extent: both axes run from -extent/4 to extent.
    """
    figure, (axes,) = _axes(height=3.8)
    u, v = np.meshgrid(*[np.linspace(-extent / 4, extent, 200)] * 2)
    loss = 0.5 * (u * v - target) ** 2
    axes.contour(
        u, v, loss, levels=np.geomspace(0.005, 8, 9), colors=_INK, linewidths=0.7, alpha=0.3
    )
    curve = np.linspace(target / extent, extent, 200)
    axes.plot(curve, target / curve, color=_INK, linewidth=1.2, label=f"$uv = {target:g}$: no loss")
    for index, (label, points) in enumerate(paths.items()):
        _line(axes, points[:, 0], points[:, 1], index, label=label)
        axes.plot(*points[0], "o", color=COLOURS[index], markersize=6)
    axes.set(xlabel="$u$", ylabel="$v$", aspect="equal")
    axes.set(xlim=(-extent / 4, extent), ylim=(-extent / 4, extent))
    return _finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@_styled
def conserved(times: Tensor, into: Tensor, out: Tensor, *, unit: str = "unit") -> Figure:
    """Squared incoming and outgoing norms of hidden units along a flow, and their difference.

    Args:
        times: shape (T,).
        into: squared norms of the incoming weights, shape (T, units); a panel each.
        out: squared norms of the outgoing weights, shape (T, units).
        unit: what the panels call a unit.
    """
    figure, panels = _axes(into.shape[1], height=2.8)
    for i, axes in enumerate(panels):
        _line(axes, times, into[:, i], 0, label=r"$\|$incoming$\|^2$")
        _line(axes, times, out[:, i], 1, label=r"$\|$outgoing$\|^2$")
        _line(axes, times, (into - out)[:, i], 2, label="difference")
        axes.set(xlabel="time $t$", title=f"{unit} {i}")
        axes.sharey(panels[0])
    panels[0].set_ylabel("squared norm")
    return _finish(figure, legend=panels[-1], loc="center left", bbox_to_anchor=(1, 0.5))


# --- chapter 03 ----------------------------------------------------------------------------------


@_styled
def entries(paths: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """How far the entries of the matrix of Theorem 2.2 move along a flow, on a log axis.

    Args:
        paths: title of the panel -> times, shape (T,), and matrices, shape (T, n, n).
    """
    figure, panels = _axes(len(paths))
    for axes, (title, (times, matrices)) in zip(panels, paths.items(), strict=True):
        moved = (matrices - matrices[0]).abs()[1:].clamp_min(1e-17)
        size = matrices.shape[1]
        for i, j in itertools.combinations_with_replacement(range(size), 2):
            index = int(i != j)
            label = ("diagonal", "off the diagonal")[index] if (i, j) in ((0, 0), (0, 1)) else None
            _line(axes, times[1:], moved[:, i, j], index, label=label, linewidth=1.1)
        axes.set(title=title, xlabel="time $t$", yscale="log", ylim=(3e-18, 30))
        axes.set_yticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
    panels[0].set_ylabel("change of the entry")
    return _finish(figure, legend=panels[0])


@_styled
def unrolled(matrix: Tensor, shape: tuple[int, int]) -> Figure:
    """The matrix of a convolution: equal shades are one shared weight, blanks are zeros.

    Args:
        matrix: the unrolled matrix, shape (channels out * positions, channels in * positions).
        shape: number of channels (out, in), between which lines are drawn.
    """
    figure, (axes,) = _axes(height=3.0)
    values = np.ma.masked_equal(matrix.numpy(force=True), 0)
    limit = float(np.abs(values).max())
    axes.imshow(values, cmap="viridis", vmin=-limit, vmax=limit)
    rows, columns = matrix.shape
    for channel in range(1, shape[0]):
        axes.axhline(channel * rows / shape[0] - 0.5, color=_INK, linewidth=0.8)
    for channel in range(1, shape[1]):
        axes.axvline(channel * columns / shape[1] - 0.5, color=_INK, linewidth=0.8)
    axes.set(xlabel="what the layer reads", ylabel="output, channel by channel")
    axes.grid(visible=False)
    return figure


@_styled
def shared(times: Tensor, once: Tensor, unrolled: Tensor) -> Figure:
    """Change of a layer gap along a flow, each shared weight counted once or at every use.

    Args:
        times: shape (T,).
        once: gap of the squared norms of the parameters, shape (T,).
        unrolled: gap of the squared norms of the unrolled matrices, shape (T,).
    """
    figure, (axes,) = _axes(height=2.8)
    _line(axes, times, once - once[0], 0, label="each weight once")
    _line(axes, times, unrolled - unrolled[0], 1, label="unrolled matrix")
    axes.set(xlabel="time $t$", ylabel="change of the gap")
    return _finish(figure)


# --- chapter 04 ----------------------------------------------------------------------------------


@_styled
def predicted_drift(
    changes: pd.Series[float], units: Mapping[str, Tensor], integrals: Tensor
) -> Figure:
    """Drift until a fixed time against the step size, and unit by unit against its prediction.

    Args:
        changes: step size -> norm of the drifts of all units.
        units: label -> drift of each unit divided by the step size, shape (units,).
        integrals: what they should be for small steps, shape (units,).
    """
    figure, (left, right) = _axes(2)
    steps = changes.index.to_numpy(dtype=float)
    line = float(integrals.norm()) * steps
    left.plot(steps, line, color=_INK, linewidth=1, alpha=0.6, label="predicted, slope 1")
    left.plot(steps, changes, "o", color=COLOURS[1], label="measured")
    left.set(xscale="log", yscale="log", xlabel=r"step size $\eta$", title="All units")
    left.set_ylabel("norm of the drifts")
    left.set_xticks(steps, [f"{step:g}" for step in steps])
    left.minorticks_off()
    ends = [float(integrals.min()), float(integrals.max())]
    right.plot(ends, ends, color=_INK, linewidth=1, alpha=0.6, label="equal")
    for index, (label, drift) in enumerate(units.items()):
        marker: Any = {"marker": "os^"[index % 3], "color": COLOURS[1 - index], "s": 30}
        right.scatter(integrals, drift, label=label, zorder=3, **marker)
    right.set(xlabel="integral along the flow", ylabel="drift / step size", title="Unit by unit")
    return _finish(figure, fontsize=9)


@_styled
def drifts(panels: Mapping[str, Mapping[str, pd.Series[float]]]) -> Figure:
    """Drift over a fixed time against the rate, for several optimizers.

    Args:
        panels: title of the panel -> name of the optimizer -> relative change of the invariants,
            indexed by the rate. A thin line of slope one runs through the first of each.
    """
    figure, axes = _axes(len(panels))
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        panel.sharey(axes[0])
        for index, (label, change) in enumerate(curves.items()):
            rates = change.index.to_numpy(dtype=float)
            options: Any = {"marker": "os^D"[index], "markersize": 5, "label": label}
            _line(panel, rates, change, index, **options)
            slope = change.iloc[0] * rates / rates[0]
            note = "slope 1" if index == len(curves) - 1 else None
            panel.plot(rates, slope, color=_INK, linewidth=0.8, alpha=0.5, zorder=1, label=note)
        panel.set(title=title, xscale="log", yscale="log", xlabel="rate")
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.minorticks_off()
        panel.legend(fontsize=9)
    axes[0].set_ylabel(r"$\|I(T) - I(0)\| \,/\, \|I(0)\|$")
    return figure


@_styled
def kept(runs: Mapping[str, pd.DataFrame], decays: Mapping[str, float]) -> Figure:
    r"""Fraction of the invariants that is kept over time, with the exponentials of weight decay.

    Args:
        runs: name of the optimizer -> rows of
            :func:`balancing.experiments.du2018.optimizers`; one line a seed.
        decays: label -> strength :math:`\lambda`, drawn as :math:`e^{-2 \lambda t}`.
    """
    figure, (axes,) = _axes()
    for index, (name, table) in enumerate(runs.items()):
        for seed, run in table.groupby("seed"):
            label = name if seed == table["seed"].iloc[0] else None
            _line(axes, run["time"], run["kept"], index, label=label, linewidth=1.4)
    times = np.linspace(0, max(table["time"].max() for table in runs.values()), 13)
    for index, (label, decay) in enumerate(decays.items()):
        marker: Any = {"marker": "ox"[index], "markersize": 5, "markerfacecolor": "none"}
        line: Any = {"color": _INK, "linewidth": 0, "label": label, "zorder": 3}
        axes.plot(times, np.exp(-2 * decay * times), **line, **marker)
    axes.set(xlabel="time $t$", ylabel="fraction kept", ylim=(0, None))
    return _finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


# --- chapter 05 ----------------------------------------------------------------------------------


@_styled
def figure2(table: pd.DataFrame) -> Figure:
    """Du, Hu and Lee 2018, Figure 2: gaps and ratios of squared norms, from both starts.

    Args:
        table: from :func:`balancing.experiments.du2018.figure2`.
    """
    figure, panels = _axes(2, 2, height=2.7)
    for row, init in enumerate(("balanced", "unbalanced")):
        run = table[table["init"] == init]
        for column, kind in enumerate(("gap", "ratio")):
            axes = panels[2 * row + column]
            sign = "-" if kind == "gap" else "/"
            for index, (above, below) in enumerate(((1, 2), (2, 3))):
                label = rf"$\|W^{{({above})}}\|_F^2 {sign} \|W^{{({below})}}\|_F^2$"
                _line(axes, run["iteration"], run[f"{kind}{above}{below}"], index, label=label)
            if kind == "gap":
                # on the scale of the norms: a gap is small or large beside them only
                axes.set_ylim(-1.1, run["norm1"].max() * 1.05)
                axes.plot(run["iteration"], run["norm1"], color=_INK, alpha=0.5, linewidth=1)
                last = run["norm1"].iloc[-1]
                note = r"$\|W^{(1)}\|_F^2$"
                axes.annotate(
                    note,
                    (9500, last),
                    (0, -13),
                    textcoords="offset points",
                    ha="right",
                    color=_INK,
                )
            else:
                axes.set_yscale("log")
                axes.axhline(1, color=_INK, alpha=0.5, linewidth=1)
                ticks = [0.99, 1, 1.01] if init == "balanced" else [1, 2, 5, 10]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
                if init == "balanced":
                    axes.set_ylim(0.98, 1.02)
            letter = "abcd"[2 * row + column]
            axes.set(title=f"({letter}) {init} start: {kind}s", xlabel="iteration")
    return _finish(figure)


@_styled
def losses(table: pd.DataFrame) -> Figure:
    """Loss against iterations, one line an initialization; logarithmic."""
    figure, (axes,) = _axes()
    for index, (init, run) in enumerate(table.groupby("init", sort=False)):
        _line(axes, run["iteration"], run["loss"], index, label=f"{init} start")
    axes.set(yscale="log", xlabel="iteration", ylabel="loss")
    return _finish(figure)


@_styled
def drift(changes: pd.Series[float], *, fitted: Sequence[float]) -> Figure:
    """Final drift of a gap against the step size, with a line of slope one.

    Args:
        changes: step size -> absolute change of the gap over a fixed time.
        fitted: the step sizes to which the line is fitted.
    """
    figure, (axes,) = _axes()
    steps = changes.index.to_numpy(dtype=float)
    values = changes.to_numpy(dtype=float)
    chosen = np.isin(steps, fitted)
    rate = np.exp(np.mean(np.log(values[chosen] / steps[chosen])))
    axes.plot(steps, rate * steps, color=_INK, linewidth=1, alpha=0.6, label="slope 1")
    axes.plot(steps, values, "o", color=COLOURS[1], label="measured")
    axes.set(xscale="log", yscale="log", xlabel=r"step size $\eta$")
    axes.set_ylabel(r"change of $\|W^{(1)}\|_F^2 - \|W^{(2)}\|_F^2$")
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.minorticks_off()
    return _finish(figure)


# --- chapter 06 ----------------------------------------------------------------------------------


@_styled
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
    figure, (left, right) = _axes(2)
    steps = np.arange(len(growing))
    for index, value in enumerate(sigma):
        label = rf"$\sigma_{index + 1} = {value:g}$"
        # until it would be as large as the factor that it becomes, and no further
        linear = predicted[:, index] <= value**0.5
        options: Any = {"color": _INK, "linewidth": 1, "alpha": 0.6}
        note = "linearized" if index == 0 else None
        left.plot(steps[linear], predicted[linear, index], label=note, zorder=3, **options)
        _line(left, steps, growing[:, index], index, label=label)
        _line(right, steps, learned[:, index], index, label=label)
    right.plot(half_times, [0.5] * len(half_times), "o", color=_INK, label="half, predicted")
    left.set(yscale="log", xlabel="iteration", title="The growing part")
    left.set_ylabel(r"$\|U^\top u_i^* + V^\top v_i^*\| / 2$")
    right.set(xlabel="iteration", title="What is learned")
    right.set_ylabel(r"$u_i^{*\top} U V^\top v_i^* \,/\, \sigma_i$")
    return _finish(figure, loc="lower right", fontsize=9)


@_styled
def figure1(table: pd.DataFrame) -> Figure:
    """Du, Hu and Lee 2018, Figure 1: error, gap and ratio of the factors, for both objectives.

    Args:
        table: from :func:`balancing.experiments.du2018.figure1`.
    """
    figure, panels = _axes(3, 2, height=2.5)
    for row, init in enumerate(("balanced", "unbalanced")):
        for column, kind in enumerate(("error", "gap", "ratio")):
            axes = panels[3 * row + column]
            # (3) first, wide and pale: where the two coincide, the dashes of (2) lie on top
            for index, objective in enumerate((3, 2)):
                look: Any = {"linewidth": (4, 1.8)[index], "alpha": (0.5, 1)[index]}
                run = table[(table["init"] == init) & (table["objective"] == objective)]
                label = f"objective ({objective})"
                _line(axes, run["iteration"], run[kind], index, label=label, **look)
            letter = "abcdef"[3 * row + column]
            axes.set(title=f"({letter}) {init}: {kind}", xlabel="iteration", yscale="log")
            if kind == "ratio":
                axes.axhline(1, color=_INK, alpha=0.5, linewidth=1, zorder=1)
                ticks = [1, 1.05, 1.1] if init == "balanced" else [1, 3, 10, 30, 100]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
            else:
                axes.set_ylim(1e-12, 10)  # below, there is rounding only
    return _finish(figure, legend=panels[0], fontsize=9)


@_styled
def schedules(
    runs: Mapping[str, pd.DataFrame], times: Mapping[str, Any], *, escape_time: float
) -> Figure:
    """Errors under several schedules of the step, and the time that their steps add up to.

    Args:
        runs: name of the schedule -> history of :func:`balancing.factorize`.
        times: name of the schedule -> sum of the step sizes so far, one number a step.
        escape_time: the time that it takes to leave the saddle.
    """
    figure, (left, right) = _axes(2)
    for index, (name, run) in enumerate(runs.items()):
        start = run["error"].iloc[0]
        _line(left, 1 + run["iteration"], run["error"] / start, index, label=name)
        _line(right, np.arange(1, 1 + len(times[name])), times[name], index, label=name)
    right.axhline(escape_time, color=_INK, linewidth=1, alpha=0.6)
    right.annotate(
        "to leave the saddle",
        (max(map(len, times.values())), escape_time),
        (0, -13),
        textcoords="offset points",
        ha="right",
        color=_INK,
        fontsize=9,
    )
    left.set(xscale="log", yscale="log", xlabel="iteration, plus 1", title="Error")
    left.set(ylabel=r"$\|E_t\|_F \,/\, \|E_0\|_F$", ylim=(1e-12, 10))
    right.set(xscale="log", yscale="log", xlabel="number of steps", title="Time")
    right.set_ylabel(r"$\eta_0 + \eta_1 + \dots$")
    return _finish(figure, legend=left, loc="lower left", fontsize=9)


# --- chapter 07 ----------------------------------------------------------------------------------


@_styled
def two_stages(path: pd.DataFrame, *, half_time: float, rate: float) -> Figure:
    """A rank-one run: its four numbers, and its error with the rate that theory gives.

    Args:
        path: from :func:`balancing.experiments.du2018.rank_one`.
        half_time: predicted iteration at which the product of the signals is half of sigma1.
        rate: predicted factor a step of the error at the end.
    """
    figure, (left, right) = _axes(2)
    steps = path["iteration"]
    numbers = {"signal_u": "$|a|$", "signal_v": "$|b|$", "noise_u": r"$\mu$", "noise_v": r"$\nu$"}
    for index, (name, label) in enumerate(numbers.items()):
        # the signals come to coincide: the first wide and pale below the second
        look: Any = {"linewidth": 4, "alpha": 0.5} if name == "signal_u" else {}
        _line(left, steps, path[name].abs(), index, label=label, **look)
    left.set(yscale="log", xlabel="iteration", ylabel="size", title="Signals and noise")
    _line(right, steps, path["error"], 0, label="error")
    last, after = path.iloc[-1], steps >= half_time
    line = last["error"] * rate ** (steps[after] - last["iteration"])
    label = f"a factor of {rate:g} a step"
    right.plot(steps[after], line, color=_INK, linewidth=1, label=label, zorder=3)
    for axes in (left, right):
        axes.axvline(half_time, color=_INK, linewidth=1, alpha=0.6)
    right.set(yscale="log", xlabel="iteration", title="Error")
    right.set_ylabel(r"$\|u v^\top - M\|_F \,/\, \sigma_1$")
    return _finish(figure, fontsize=9)


@_styled
def rank_one_steps(table: pd.DataFrame, medians: pd.Series[float], line: tuple[Any, Any]) -> Figure:
    """Steps of the rank-one runs, against the dimension and against the signal that they got.

    Args:
        table: one row a run, with the columns ``dim``, ``iterations`` and ``start``, the signal
            of the start.
        medians: dimension -> predicted median number of steps.
        line: starts and the number of steps predicted for each, shape (n,) both.
    """
    figure, (left, right) = _axes(2)
    right.sharey(left)
    for index, (dim, runs) in enumerate(table.groupby("dim")):
        marker: Any = {"marker": "os^"[index % 3], "color": COLOURS[index % 4], "s": 22}
        # side by side, or runs of as many steps would hide one another
        spread = runs["dim"] * np.geomspace(0.8, 1.25, len(runs))
        left.scatter(spread, runs["iterations"], alpha=0.7, **marker)
        right.scatter(runs["start"], runs["iterations"], label=f"$d = {dim}$", **marker)
    measured = table.groupby("dim")["iterations"].median()
    diamonds: Any = {"color": _INK, "markersize": 8, "markerfacecolor": "none", "zorder": 3}
    left.plot(measured.index, measured, "D", label="median, measured", **diamonds)
    left.plot(medians.index, medians, color=_INK, linewidth=1, label="median, predicted")
    right.plot(*line, color=_INK, linewidth=1, label="predicted")
    left.set(xscale="log", xlabel="dimension $d$", ylabel="steps to $10^{-6}$")
    dims = [int(dim) for dim in measured.index]
    left.set_xticks(dims, [str(dim) for dim in dims])
    left.minorticks_off()
    right.set(xscale="log", xlabel=r"signal of the start $|a_0 + b_0| / 2$, in $\sqrt{\sigma_1}$")
    return _finish(figure, fontsize=9)


@_styled
def signal_ratios(paths: Mapping[str, pd.DataFrame]) -> Figure:
    """The ratio of the two signals along rank-one runs.

    Args:
        paths: label -> table of :func:`balancing.experiments.du2018.rank_one`.
    """
    figure, (axes,) = _axes()
    axes.axhline(1, color=_INK, linewidth=1, alpha=0.6)
    for index, (label, path) in enumerate(paths.items()):
        _line(axes, path["iteration"], path["ratio"], index, label=label)
    axes.set(xscale="linear", yscale="log", xlabel="iteration", ylabel="$|a| / |b|$")
    return _finish(figure, fontsize=9)


# --- chapter 08 ----------------------------------------------------------------------------------


@_styled
def one_unit(into: float, out: float, p: float) -> Figure:
    r"""The norm of one unit's weights, in the logarithm of its factor and in the factor itself.

    Draws :math:`F = \mathrm{into}\, a^p + \mathrm{out}\, a^{-p}` with the minimum and a chord.

    Args:
        into: sum of the unit's incoming weights, each to the power p; above 0.
        out: the same of its outgoing weights.
        p: exponent of the norm.
    """
    figure, panels = _axes(2)
    best = np.log(out / into) / (2 * p)
    theta = np.linspace(best - 1.4 / p, best + 1.6 / p, 300)
    ends = best + np.array([0.2, 1.5]) / p

    def norm(theta: Any) -> Any:
        return into * np.exp(p * theta) + out * np.exp(-p * theta)

    scales: tuple[Callable[[Any], Any], ...] = (np.asarray, np.exp)
    for axes, scale in zip(panels, scales, strict=True):
        x = scale(theta)
        _line(axes, x, norm(theta), 0, label="$F$")
        _line(axes, x, into * np.exp(p * theta), 1, label="incoming", linewidth=1.3)
        _line(axes, x, out * np.exp(-p * theta), 2, label="outgoing", linewidth=1.3)
        axes.plot(scale(ends), norm(ends), "-s", color=_INK, linewidth=1, markersize=4)
        axes.plot(scale(best), norm(best), "o", color=COLOURS[0], markersize=7)
        axes.sharey(panels[0])
    panels[0].set_ylim(0, None)
    panels[0].set(xlabel=r"$\theta = \log a$", ylabel="$F$", title="Over the logarithm: convex")
    panels[1].set(xlabel="$a$", title="Over the factor: not convex")
    return _finish(figure, legend=panels[1], loc="center left", bbox_to_anchor=(1, 0.5))


@_styled
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
    figure, panels = _axes(len(surfaces), height=3.1)
    for axes, (title, (ratio, path)) in zip(panels, surfaces.items(), strict=True):
        drawn = axes.contour(
            theta, theta, ratio.T, levels=list(levels), colors=_INK, linewidths=0.8, alpha=0.6
        )
        for text in axes.clabel(drawn, fmt="%g", fontsize=7.5):
            text.set(color=_INK, alpha=1)
        _line(axes, path[:, 0], path[:, 1], 1, marker="o", markersize=3, linewidth=1.2)
        axes.plot(*path[-1], "*", color=COLOURS[0], markersize=9, zorder=3)
        axes.set(xlabel=r"$\theta_1$", title=title, aspect="equal")
        axes.sharey(panels[0])
    panels[0].set_ylabel(r"$\theta_2$")
    return _finish(figure)


@_styled
def hinge(paths: Mapping[str, Tensor], *, extent: float = 2.6) -> Figure:
    """Orbits and the curves of gradient flow for a network with two weights u and v.

    Args:
        paths: label -> points (u, v) of a path, shape (n, 2); the first point is marked.
        extent: both axes run from -extent/4 to extent.
    """
    figure, (axes,) = _axes(height=3.8)
    u, v = np.meshgrid(*[np.linspace(-extent / 4, extent, 200)] * 2)
    thin: Any = {"colors": _INK, "linewidths": 0.7, "alpha": 0.4}
    products = np.array([-0.05, 0.05, 1 / extent**2, 0.3, 0.5]) * extent**2
    axes.contour(u, v, u * v, levels=products, linestyles="solid", **thin)
    differences = np.linspace(-0.9, 0.9, 10) * extent**2  # without 0, the balanced lines
    axes.contour(u, v, u * u - v * v, levels=differences, linestyles="dotted", **thin)
    ends = np.array([-extent / 4, extent])
    axes.plot(ends, ends, color=_INK, linewidth=1.2, label="balanced: $|u| = |v|$")
    axes.plot(-ends, ends, color=_INK, linewidth=1.2)
    for index, (label, points) in enumerate(paths.items()):
        _line(axes, points[:, 0], points[:, 1], index, label=label)
        axes.plot(*points[0], "o", color=COLOURS[index], markersize=6)
    axes.set(xlabel="$u$", ylabel="$v$", aspect="equal", xlim=ends, ylim=ends)
    return _finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


# --- chapter 09 ----------------------------------------------------------------------------------


@_styled
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
    figure, (axes,) = _axes(height=3.2)
    _line(axes, theta, norm, 0, label="$F$")
    for index, (touch, best, height) in enumerate(bounds, start=1):
        start = "$0$" if index == 1 else rf"$\theta^{{({index - 1})}}$"
        _line(axes, theta, height, index, label=f"$G$ that touches at {start}", linewidth=1.3)
        axes.plot(touch, np.interp(touch, theta, norm), "o", color=COLOURS[0], markersize=7)
        axes.plot(best, np.interp(best, theta, height), "s", color=COLOURS[index], markersize=6)
    floor = float(norm.min())
    axes.set(xlabel=r"$\theta = \log a$", ylabel="$F$, $G$", ylim=(0.8 * floor, 3.2 * floor))
    return _finish(figure, loc="upper center")


@_styled
def descent(excess: Mapping[str, Tensor]) -> Figure:
    """How far a norm is above its minimum, after each update.

    Args:
        excess: label -> norm over its minimum less 1, after 0, 1, ... updates; up to four.
    """
    figure, (axes,) = _axes()
    for index, (label, values) in enumerate(excess.items()):
        _line(axes, range(len(values)), values, index, label=label)
    axes.set(xlabel="update", ylabel="norm / smallest norm - 1", yscale="log")
    return _finish(figure)


@_styled
def safe_exponents(ratios: np.ndarray, exponents: np.ndarray, risen: np.ndarray) -> Figure:
    """Which exponents of a multiplicative update were seen to raise a norm.

    Args:
        ratios: q / p, shape (n,).
        exponents: p times the exponent, shape (m,).
        risen: whether a norm rose, shape (m, n).
    """
    figure, (axes,) = _axes(height=3.9)
    x, y = np.meshgrid(ratios, exponents)
    axes.plot(x[~risen], y[~risen], ".", color=_INK, alpha=0.45, markersize=5)
    axes.plot(x[risen], y[risen], "x", color=_INK, alpha=0.6, markersize=5)
    fine = np.geomspace(ratios.min(), ratios.max(), 200)
    rules = {
        r"$1/\max(p, 2q)$": 1 / np.maximum(1, 2 * fine),
        r"Algorithm 1: $1/(4\,\max(p, q))$": 1 / (4 * np.maximum(1, fine)),
        r"$1/(4\,\min(p, q))$": 1 / (4 * np.minimum(1, fine)),
        r"$1/\max(p, q)$": 1 / np.maximum(1, fine),
    }
    for index, (label, rule) in enumerate(rules.items()):
        _line(axes, fine, rule, index, label=label, linewidth=2.6 if index == 0 else 1.8)
    axes.set(xlabel="$q / p$", ylabel=r"$p$ times exponent $\epsilon$")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(
            lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"
        )
    axes.grid(visible=False)
    return _finish(figure, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


# --- chapter 10 ----------------------------------------------------------------------------------


@_styled
def convergence(table: pd.DataFrame) -> Figure:
    """Figure 2 of Saul 2023: the norm over its initial value against the number of updates.

    Args:
        table: a run of :func:`balancing.experiments.saul2023.figure2` with one seed.
    """
    panels = table.groupby(["p", "q"], sort=False)
    figure, every = _axes(4, -(-len(panels) // 4), height=2.3)
    for axes, ((p, q), panel) in zip(every, panels, strict=False):
        for index, (name, run) in enumerate(panel.groupby("network", sort=False)):
            label = f"{str(name).count('-') - 1} hidden layers"
            _line(axes, run["update"], run["ratio"], index, label=label)
        axes.set(title=f"$({p:g}, {q:g})$", xlabel="update", ylim=(0, 1.03))
        axes.sharey(every[0])
        axes.tick_params(labelleft=axes in every[::4])
    for axes in every[::4]:
        axes.set_ylabel(r"$\|W\|_{p,q} \,/\, \|W_0\|_{p,q}$")
    for axes in every[len(panels) :]:
        axes.remove()
    lines = every[0].get_legend_handles_labels()
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


@_styled
def diffusion(measured: Mapping[int, np.ndarray], model: Mapping[int, np.ndarray]) -> Figure:
    """Sums of the shares of each layer after some updates, measured and from the heat equation.

    Args:
        measured: number of updates -> one value a layer; up to four.
        model: the same from the heat equation.
    """
    figure, (axes,) = _axes(height=3.2)
    for index, (updates, sums) in enumerate(measured.items()):
        layers = range(1, len(sums) + 1)
        _line(axes, layers, sums, index, label=f"{updates} updates")
        axes.plot(layers, model[updates], "x", color=_INK, markersize=6)
    axes.plot([], [], "x", color=_INK, markersize=6, label="heat equation")
    axes.set(xlabel="layer $h$", ylabel="layer sum / geometric mean", yscale="log")
    return _finish(figure, loc="lower left")


@_styled
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
    figure, (left, right) = _axes(2)
    for index, (name, vector) in enumerate(
        zip(("first", "second", "third"), vectors.T, strict=False)
    ):
        scaled = vector / vector.abs().max() * vector[0].sign()  # its sign means nothing
        _line(left, range(len(vector)), scaled, index, label=name, linewidth=1.4)
    for border in np.cumsum(sizes)[:-1]:
        left.axvline(float(border) - 0.5, color=_INK, alpha=0.35, linewidth=0.8)
    left.set(xlabel="hidden unit", title="Slowest eigenvectors", ylim=(-1.1, 1.1))
    left.grid(visible=False)
    for row, (label, values) in enumerate(spectra.items()):
        height = np.full(len(values), -row)
        right.plot(values, height, "|", color=COLOURS[row], markersize=13, alpha=0.6)
        rates = expected[label]
        right.plot(
            rates, np.full(len(rates), -row), "o", color=_INK, markersize=7, fillstyle="none"
        )
    right.set(
        xlabel="eigenvalue", title="All eigenvalues", xlim=(0, 1.02), ylim=(0.5 - row - 1, 0.5)
    )
    right.set_yticks([-row for row in range(len(spectra))], list(spectra))
    return _finish(figure, legend=left, loc="lower left", bbox_to_anchor=(0, -0.45), ncols=3)


@_styled
def phases(means: Sequence[float], rests: Sequence[float]) -> Figure:
    """Errors of the factors after each update: of the layers' means, and within the layers."""
    figure, (axes,) = _axes()
    _line(axes, range(len(means)), means, 0, label="mean of a layer")
    _line(axes, range(len(rests)), rests, 1, label="unit from the mean of its layer")
    axes.set(xlabel="update", ylabel="largest error of $\\theta$", yscale="log", ylim=(1e-11, 10))
    return _finish(figure)


# --- chapter 12 ----------------------------------------------------------------------------------


@_styled
def mobility(sizes: Tensor, speeds: Mapping[float, Tensor]) -> Figure:
    """Speed of a weight for a gradient of 1, against its size.

    Args:
        sizes: absolute values of the weight, shape (n,).
        speeds: p -> speeds, shape (n,); up to four.
    """
    figure, (axes,) = _axes(height=2.9)
    for index, (p, speed) in enumerate(speeds.items()):
        _line(axes, sizes, speed, index, label=f"$p = q = {p:g}$")
    axes.set(xlabel="size of the weight $|W|$", ylabel=r"$|W|^{2-p} \,/\, p$", ylim=(0, 2))
    return _finish(figure, loc="center left", bbox_to_anchor=(1, 0.5))


@_styled
def pairing(pairs: Sequence[tuple[float, float]], changes: Mapping[str, Sequence[float]]) -> Figure:
    """Largest change of an imbalance for several norms, along several flows, on a log axis.

    Args:
        pairs: (p, q) of each norm.
        changes: name of the flow -> one change a pair; up to four. What is below 1e-16 is drawn
            there.
    """
    figure, (axes,) = _axes(height=3.1)
    for index, (label, values) in enumerate(changes.items()):
        y = np.clip(np.asarray(values, dtype=float), 1e-16, None)
        axes.plot(range(len(pairs)), y, "os^D"[index], color=COLOURS[index], label=label)
    axes.set(yscale="log", ylim=(3e-17, 10), xlabel="$(p, q)$", ylabel="change of an imbalance")
    axes.set_xticks(range(len(pairs)), [f"({p:g}, {q:g})" for p, q in pairs], fontsize=8.5)
    return _finish(figure, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


@_styled
def imbalance_decay(times: Tensor, panels: Mapping[str, Tensor], decay: float) -> Figure:
    """Imbalances over their initial values, and the exponential with the given rate.

    Args:
        times: shape (T,).
        panels: title -> ratios, shape (T, units).
        decay: rate of the exponential.
    """
    figure, every = _axes(len(panels), height=2.9)
    for index, (axes, (title, ratios)) in enumerate(zip(every, panels.items(), strict=True)):
        _line(axes, times, ratios, index, linewidth=1.2)
        some = times[:: max(1, len(times) // 10)]
        axes.plot(some, (-decay * some).exp(), "x", color=_INK, label=r"$e^{-\lambda t}$")
        axes.set(title=title, xlabel="time $t$")
        axes.sharey(every[0])
    every[0].set_ylabel("$I_i(t) \\,/\\, I_i(0)$")
    return _finish(figure)


@_styled
def departure(times: Tensor, flows: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """How far flows take a network from balance and from its smallest norm, on log axes.

    Args:
        times: shape (T,).
        flows: name -> largest relative imbalances, and norms over the smallest less 1, shape (T,)
            each; up to four. What is below 1e-16 is drawn there.
    """
    figure, every = _axes(2, height=2.9)
    names = ("largest relative imbalance", "norm / smallest norm - 1")
    for k, (axes, name) in enumerate(zip(every, names, strict=True)):
        for index, (label, values) in enumerate(flows.items()):
            _line(axes, times, np.clip(values[k], 1e-16, None), index, label=label)
        axes.set(yscale="log", ylim=(3e-17, 10), xlabel="time $t$", title=name)
    return _finish(figure, legend=every[0], loc="center right")


# --- chapter 13 ----------------------------------------------------------------------------------


@_styled
def finite_steps(
    lengths: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Change of an imbalance against the length of the steps, on log axes; a panel each.

    Args:
        lengths: lengths of a step.
        panels: title -> method -> one change a length. What is below 1e-16 is drawn there.
    """
    figure, every = _axes(len(panels), height=2.9)
    labels: list[str] = []
    for axes, (title, methods) in zip(every, panels.items(), strict=True):
        for label, changes in methods.items():
            if label not in labels:  # a method looks the same in all panels
                labels.append(label)
            index = labels.index(label)
            y = np.clip(np.asarray(changes, dtype=float), 1e-16, None)
            _line(axes, lengths, y, index, marker="os^D"[index], markersize=4, label=label)
        axes.set(title=title, xlabel="step $dt$", xscale="log", yscale="log", ylim=(3e-17, 100))
        axes.sharey(every[0])
    every[0].set_ylabel("change of an imbalance")
    found = [axes.get_legend_handles_labels() for axes in every]
    lines = {label: line for each in found for line, label in zip(*each, strict=True)}
    figure.legend(
        lines.values(), lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(lines)
    )
    return figure


@_styled
def race(table: pd.DataFrame) -> Figure:
    """Training with one penalty by several methods: objective and small weights over the epochs.

    Args:
        table: runs of :func:`balancing.experiments.pairing.pairing` with one penalty; a column of
            panels for each length.
    """
    lengths = sorted(table["epochs"].unique())
    figure, every = _axes(len(lengths), 2, height=2.4)
    names = {"flow": "flow", "sgd": "SGD", "prox": "proximal"}
    for column, epochs in enumerate(lengths):
        for row, (quantity, label) in enumerate(
            (("objective", "loss + penalty"), ("small", "part of small weights"))
        ):
            axes = every[row * len(lengths) + column]
            for index, (method, name) in enumerate(names.items()):
                runs = table[(table["epochs"] == epochs) & (table["method"] == method)]
                for _, run in runs.groupby("seed"):
                    _line(axes, run["epoch"], run[quantity], index, linewidth=0.6, alpha=0.5)
                mean = runs.groupby("epoch")[quantity].mean()
                _line(axes, mean.index, mean, index, label=name)
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
    figure.legend(*lines, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure

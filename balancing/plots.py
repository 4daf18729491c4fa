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
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = [
    "FigureOutput",
    "conserved",
    "drift",
    "figure2",
    "hyperbolas",
    "losses",
    "rescaled",
    "show",
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
def conserved(times: Tensor, into: Tensor, out: Tensor) -> Figure:
    """Squared incoming and outgoing norms of hidden units along a flow, and their difference.

    Args:
        times: shape (T,).
        into: squared norms of the incoming weights, shape (T, units); a panel each.
        out: squared norms of the outgoing weights, shape (T, units).
    """
    figure, panels = _axes(into.shape[1], height=2.8)
    for unit, axes in enumerate(panels):
        _line(axes, times, into[:, unit], 0, label=r"$\|$incoming$\|^2$")
        _line(axes, times, out[:, unit], 1, label=r"$\|$outgoing$\|^2$")
        _line(axes, times, (into - out)[:, unit], 2, label="difference")
        axes.set(xlabel="time $t$", title=f"unit {unit}")
        axes.sharey(panels[0])
    panels[0].set_ylabel("squared norm")
    return _finish(figure, legend=panels[-1], loc="center left", bbox_to_anchor=(1, 0.5))


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

"""The one style of the book's figures, and how a page shows them."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from balancing.plots._svg import inline_svg

__all__ = [
    "COLOURS",
    "DASHES",
    "FIGURE_TYPE",
    "INK",
    "FigureOutput",
    "draw_line",
    "finish",
    "make_axes",
    "show",
    "styled",
]

FIGURE_TYPE = "application/vnd.balancing.figure+svg"
# A colour that no data uses: it becomes the page's text colour in the SVG.
INK = "#010203"
# Okabe and Ito's blue, vermilion, green and purple, shifted until each has a contrast of at
# least 3 to 1 on white and on near-black.
COLOURS = ("#1f7ec2", "#d55e00", "#00936b", "#b5639b")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))

_STYLE: Any = {  # Any: matplotlib types the keys as a literal union
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "balancing",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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
        self._png = raster.getvalue()
        self._svg = inline_svg(vector.getvalue(), alt, ink=INK)

    def __repr__(self) -> str:
        return f"<Figure: {self._alt}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {
            "text/plain": repr(self),
            "image/png": base64.b64encode(self._png).decode(),
            FIGURE_TYPE: self._svg,
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


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Run a figure function in the book's style, which matplotlib reads as things are drawn."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def make_axes(columns: int = 1, rows: int = 1, *, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot's global state, with its axes row by row."""
    width = 5.4 if columns == 1 else 7.6
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw_line(axes: Axes, x: Any, y: Any, index: int, **options: Any) -> None:
    axes.plot(x, y, color=COLOURS[index], linestyle=DASHES[index], **options)


def finish(figure: Figure, legend: Axes | None = None, **options: Any) -> Figure:
    """Draw the legends, once all lines are there."""
    for axes in figure.axes if legend is None else [legend]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(**options)
    return figure

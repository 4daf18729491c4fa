"""The one style of the book's figures, and how a page shows them."""

from __future__ import annotations

import base64
import functools
import inspect
import io
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from balancing.plots._svg import inline_svg

__all__ = [
    "COLOURS",
    "DASHES",
    "FIGURE_TYPE",
    "INK",
    "FigureOutput",
    "band",
    "draw_line",
    "finish",
    "make_axes",
    "seeds_note",
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
        if not isinstance(figure, Figure):
            raise TypeError(f"figure must be a matplotlib Figure, got {type(figure).__name__}")
        if not isinstance(alt, str):
            raise TypeError(f"alt must be a text, got {type(alt).__name__}")
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
        TypeError: ``figure`` is no figure, or ``alt`` no text.
        ValueError: ``alt`` is empty.
    """
    if isinstance(alt, str) and not alt.strip():
        raise ValueError("alt must say what one would see in the figure")
    return FigureOutput(figure, " ".join(alt.split()) if isinstance(alt, str) else alt)


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Run a figure function in the book's style, which matplotlib reads as things are drawn.

    It then refuses, before anything is drawn, what is no table or no mapping where one is asked
    for (TypeError), and a table without a column that it reads (ValueError).
    """
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            _check_kind(name, value, str(signature.parameters[name].annotation))
        try:
            with mpl.rc_context(_STYLE):
                return draw(*args, **kwargs)
        except KeyError as error:
            raise ValueError(f"{draw.__name__}: there is no column or entry {error}") from error

    return styled


def _check_kind(name: str, value: object, annotation: str) -> None:
    """Compare an argument with the outer type of its annotation, and be lenient with sequences."""
    kinds: dict[str, tuple[str, tuple[type, ...]]] = {
        "pd.DataFrame": ("a pandas DataFrame", (pd.DataFrame,)),
        "Mapping": ("a mapping", (Mapping,)),
        "float": ("a number", (numbers.Real,)),
        "str": ("a text", (str,)),
    }
    many = ("a sequence, an array or a tensor", (Sequence, np.ndarray, Tensor, pd.Series, pd.Index))
    what, accepted = kinds.get(annotation.partition("[")[0], many)
    if not isinstance(value, accepted) or (accepted is many[1] and isinstance(value, (str, bytes))):
        raise TypeError(f"{name} must be {what}, got {type(value).__name__}")


def make_axes(columns: int = 1, rows: int = 1, *, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot's global state, with its axes row by row."""
    width = 5.4 if columns == 1 else 7.6
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw_line(axes: Axes, x: Any, y: Any, index: int, **options: Any) -> None:
    axes.plot(x, y, color=COLOURS[index], linestyle=DASHES[index], **options)


def band(
    axes: Axes, table: pd.DataFrame, x: str, y: str, index: int | None, **options: Any
) -> None:
    """The median over the seeds as a line, and the range of their middle 80 % as a faint band.

    Quantiles are taken at each x by itself, so they suit linear and logarithmic axes alike, and
    the median need not be a run. Nothing is drawn at an x that not all runs have.

    Args:
        axes: where to draw.
        table: one row a run and x.
        x: name of a column.
        y: name of a column.
        index: colour and dash of the line; None for the colour of the text.
        options: of the line.
    """
    groups = table.groupby(x)[y]
    complete = groups.size() == groups.size().max()
    with np.errstate(invalid="ignore"):  # the loss of a run that has failed is infinite
        low, median, high = (groups.quantile(part)[complete] for part in (0.1, 0.5, 0.9))
    look: Any = {"color": INK if index is None else COLOURS[index], "alpha": 0.2, "linewidth": 0}
    axes.fill_between(low.index, low, high, zorder=1, **look)
    if index is None:
        axes.plot(median.index, median, color=INK, **options)
    else:
        draw_line(axes, median.index, median, index, **options)


def seeds_note(table: pd.DataFrame) -> str:
    """What line and band of :func:`band` are, for a legend: the number of seeds is counted."""
    seeds = table["seed"].unique()
    return "one seed" if len(seeds) == 1 else f"median, 10–90 % of {len(seeds)} seeds"


def finish(figure: Figure, legend: Axes | None = None, **options: Any) -> Figure:
    """Draw the legends, once all lines are there."""
    for axes in figure.axes if legend is None else [legend]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(**options)
    return figure

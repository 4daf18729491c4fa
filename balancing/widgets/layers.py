"""The recorded runs of Du, Hu and Lee's Figure 2, to be scrubbed through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from traitlets import Int, List

from balancing import plots
from balancing.widgets._explorer import Explorer

__all__ = ["Layers"]

_COLUMNS = ("loss", "norm1", "norm2", "norm3", "gap12", "gap23", "ratio12", "ratio23")
# rows that are kept of a run: enough to draw it, few enough for a page
_ROWS_OF_FIGURE2 = 101
_ROWS_OF_DRIFT = 26


class Layers(Explorer):
    """Squared norms of the layers, their gaps and ratios, and the loss, along recorded runs.

    Nothing is computed in the page: it shows rows of the tables, to six significant digits. Source:
    Du et al. 2018, Section 4 and Figure 2; that the gaps stay is Corollary 2.1.

    Args:
        table: from :func:`balancing.experiments.du2018.figure2`, both initializations. Of
            several seeds the smallest is shown.
        drift: from :func:`balancing.experiments.du2018.drift`: other step sizes, until a fixed
            time.
        state: initial values of ``run`` and ``iteration``.

    Attributes:
        runs: for each run its ``init`` and ``step``, and a list of numbers for each column.
        run: index of the run that is shown.
        iteration: what is shown is the last row at or before it.

    Raises:
        TypeError: ``table`` or ``drift`` is no DataFrame.
        ValueError: the table lacks one of the initializations, or either of them a column.
    """

    title = "scrub through the training of three layers"

    runs: List[Any] = List().tag(sync=True)
    run = Int(0, min=0).tag(sync=True)
    iteration = Int(0, min=0).tag(sync=True)

    def __init__(
        self, table: pd.DataFrame, drift: pd.DataFrame | None = None, **state: Any
    ) -> None:
        for name, given in (("table", table), ("drift", drift)):
            if given is None and name == "drift":
                continue
            if not isinstance(given, pd.DataFrame):
                raise TypeError(f"{name} must be a pandas DataFrame, got {type(given).__name__}")
            if missing := [c for c in ("init", "step", "iteration", *_COLUMNS) if c not in given]:
                raise ValueError(f"{name} must have the column '{missing[0]}'")
        inits = sorted(set(table["init"]))
        if inits != ["balanced", "unbalanced"]:
            raise ValueError(f"table must have a balanced and an unbalanced run, got {inits}")
        runs = _runs(table, _ROWS_OF_FIGURE2)
        known = [(run["init"], run["step"]) for run in runs]
        more = [] if drift is None else _runs(drift, _ROWS_OF_DRIFT)
        more = [run for run in more if (run["init"], run["step"]) not in known]
        super().__init__(runs=runs + more, **state)

    @classmethod
    def recorded(cls, folder: Path | str, **state: Any) -> Layers:
        """The runs that ``balancing reproduce du2018`` recorded in a folder.

        Raises:
            ValueError: a table is damaged (the message names the file) or lacks a column.
            OSError: it cannot be read.
        """
        tables = []
        for name in ("figure2", "drift"):
            path = Path(folder) / f"du2018.{name}.csv"
            try:
                tables.append(pd.read_csv(path))
            except ValueError as error:
                raise ValueError(f"cannot read '{path}' as a table: {error}") from error
        return cls(*tables, **state)

    def still(self) -> tuple[Figure, str]:
        """Figure 2: gaps and ratios of both runs."""
        # the seed itself is not among the data of the page; one run an initialization is one seed
        frames = [
            pd.DataFrame({"init": run["init"], "seed": 0, **_columns(run)}) for run in self.runs
        ]
        ends = [
            f"{frame['gap12'].iloc[0]:.3g} to {frame['gap12'].iloc[-1]:.3g}" for frame in frames
        ]
        inits = [run["init"] for run in self.runs]
        said = "; ".join(f"{init} start: {end}" for init, end in zip(inits[:2], ends, strict=False))
        return plots.figure2(pd.concat(frames[:2])), (
            "Gaps and ratios of the squared norms of neighbouring layers along two recorded runs. "
            f"The gap of the first two layers goes from its start to its end, {said}."
        )


def _columns(run: dict[str, Any]) -> dict[str, list[float]]:
    return {name: run[name] for name in ("iteration", *_COLUMNS)}


def _runs(table: pd.DataFrame, rows: int) -> list[dict[str, Any]]:
    """Each run of the first seed, in the table's order, thinned evenly to so many rows at most."""
    table, found = table[table["seed"] == table["seed"].min()], []
    for (init, step), run in table.groupby(["init", "step"], sort=False):
        thin = run.iloc[:: -(-(len(run) - 1) // (rows - 1)) or 1]
        columns = {name: [float(f"{value:.6g}") for value in thin[name]] for name in _COLUMNS}
        found.append(
            {"init": init, "step": step, "iteration": thin["iteration"].tolist(), **columns}
        )
    return found

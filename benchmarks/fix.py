"""How long it takes to balance a network: balance(), Algorithm 1, and peers.

Every contestant gets the same weights, in float64, and returns a rescaled copy of the network. It
runs in a process of its own, as it would for one who calls it once: what freed memory another has
left at hand makes a factor of two. Short runs are repeated, and medians reported; one that takes
longer than the limit is stopped, and the norm that it had reached is reported. A peer that has no
tolerance, or minimizes another norm, may be fast because it does less: so its time is also compared
with that of balance() with the loosest tolerance that brings the norm as low.

Run: python -m benchmarks.fix [--threads N] [--limit SECONDS] [--quick]
It records book/results/benchmark.fix.csv and draws it beside (--quick: in _build), and prints
tables of ratios. A run that was interrupted goes on where it was. brevitas takes part if it can be
imported. Its requirements clash with those of the book, so it needs a folder of its own:
pip install --target FOLDER --no-deps brevitas==0.13.4 dependencies==2.0.1 unfoldNd==0.2.3
and PYTHONPATH=FOLDER.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import multiprocessing
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import balancing
from balancing import balance, mlp, plots, trace
from balancing._orbit import Orbit
from balancing.cli import RESULTS
from balancing.experiments._record import record
from benchmarks.contestants import (
    METHOD,
    TOL,
    Contestant,
    Run,
    Unable,
    algorithm1,
    algorithm1_on_factors,
    brevitas_equalization,
    lapack,
    lbfgs,
    ours,
    torch_equalization,
    version_of,
)
from benchmarks.problems import Problem, problems

NAME = "benchmark.fix"
OURS = "balance()"
PARTIAL = Path("_build") / f"{NAME}.partial"
LOOSER = (1e-1, 1e-2, 1e-3)
SLACK = 1e-9  # relative: what a tolerance of 1e-6 leaves of the norm is far below
UNCHANGED = 1e-6  # relative change of the output; larger than rounding in the deepest network


@dataclass(frozen=True)
class Config:
    """Settings of a run.

    Attributes:
        seed: of the networks.
        threads: of torch.
        limit: seconds after which a contestant is stopped.
        repeats: of a run, as long as they take less than a second together.
        quick: small networks.
        alone: a process of its own for each contestant on each network.
        peers: versions of the packages that are compared.
    """

    seed: int = 0
    threads: int = 2
    limit: float = 30.0
    repeats: int = 5
    quick: bool = False
    alone: bool = True
    peers: dict[str, str] = field(
        default_factory=lambda: {name: version_of(name) for name in ("scipy", "brevitas")}
    )


class TimeUp(Exception):  # noqa: N818
    """The time limit of a contestant."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after so long; compiled code runs to its end first."""

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- one contestant on one network ---------------------------------------------------------------


def measure(
    contestant: Contestant,
    problem: Problem,
    model: nn.Module,
    p: float,
    q: float,
    config: Config,
    *,
    norm_of_ours: float = math.nan,
) -> dict[str, Any]:
    """Run a contestant; returns what a row of the table says of it.

    ``seconds`` of one that was stopped are those until then, and ``ended`` is False.
    ``seconds_to_norm`` tells when it first had the norm that balance() ends with, whatever its own
    stopping rule says, without the rescaling at the end.
    """
    run, status, found = Run(), "", None
    try:
        with time_limit(config.limit):
            found = contestant(model, p, q, run)
    except TimeUp:
        status = f"not in {config.limit:g} s"
    except Unable as why:
        status = str(why)
    except (RuntimeError, ValueError, TypeError) as error:  # a peer may not take a network
        status = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
    seconds, solving = [time.perf_counter() - run.start], [run.seconds]
    ended = found is not None
    while ended and len(seconds) < config.repeats and sum(seconds) < 1:
        again = Run()
        contestant(model, p, q, again)
        seconds.append(time.perf_counter() - again.start)
        solving.append(again.seconds)
    norm, imbalance, change = run.norm, run.imbalance, math.nan
    reached = found or (run.model if status.startswith("not in ") else None)
    if reached is not None:
        norm, imbalance, change = judge(problem, model, reached, p, q, config.seed)
        if not change <= UNCHANGED:
            status += ("; " if status else "") + "function changed"
    ran = ended or status.startswith("not in ")
    return {
        "status": status,
        "ended": ended,
        "norm": norm,
        "max_imbalance": imbalance,
        "change": change,
        "iterations": run.iterations,
        "passes": run.passes,
        "repeats": len(seconds),
        "seconds": statistics.median(seconds) if ran else math.nan,
        "seconds_to_norm": run.seconds_to(norm_of_ours * (1 + SLACK)),
        "solver_seconds": statistics.median(solving) if ended else math.nan,
    }


@torch.no_grad()
def judge(
    problem: Problem, model: nn.Module, found: nn.Module, p: float, q: float, seed: int
) -> tuple[float, float, float]:
    """Norm, largest relative imbalance, and largest relative change of the output."""
    after = copy.deepcopy(model)  # found may be of another class, for which trace() is not meant
    after.load_state_dict(found.state_dict())
    x = problem.example(seed)
    old, new = model(x), after(x)
    change = float((old - new).abs().max() / old.abs().max())
    if not math.isfinite(change):
        return math.nan, math.nan, change
    orbit = Orbit(trace(after), p, q)
    point = orbit.at(orbit.start)
    return point.norm, point.max_imbalance, change


@torch.no_grad()
def sum_seconds(model: nn.Module) -> float:
    """What it takes to read all weights once, in float64: the median of sums of |W|.

    The solver reads less of a convolution: the taps of its kernels are summed beforehand.
    """
    graph = trace(model)
    weights = [graph.weight(edge).double().abs() for edge in graph.edges]

    def timed() -> float:
        start = time.perf_counter()
        for weight in weights:
            weight.sum()
        return time.perf_counter() - start

    timed()
    return statistics.median(timed() for _ in range(15))


def passes_of_start(model: nn.Module, p: float, q: float, method: str) -> float:
    """The passes that balance() takes before its loop, which its solver seconds leave out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
        return balance(model, p, q, method=method, max_iter=0).passes


# --- all of them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A contestant with what it is told: its tolerance, and the method of balance() if it is."""

    run: Contestant
    tol: float = math.nan
    method: str = ""


def entries(p: float, q: float) -> dict[str, Entry]:
    """The contestants for a pair of exponents, balance() first."""
    own = {OURS: Entry(ours, TOL, METHOD)}
    if p == q:  # what a peer is compared with
        for tol in LOOSER:
            own[f"{OURS}, tol {tol:g}"] = Entry(partial(ours, tol=tol), tol, METHOD)
    own["Algorithm 1 on factors"] = Entry(algorithm1_on_factors, TOL, "multiplicative")
    own["Algorithm 1"] = Entry(algorithm1, TOL)
    if p != q:
        return own
    return {
        **own,
        "L-BFGS": Entry(lbfgs, TOL),
        "LAPACK gebal": Entry(lapack),
        "brevitas": Entry(brevitas_equalization),
        "torch.ao": Entry(torch_equalization),
    }


def run_entry(
    problem: Problem, p: float, q: float, entry: Entry, config: Config, norm_of_ours: float
) -> dict[str, Any]:
    """What the table says of one contestant on one network."""
    torch.set_num_threads(config.threads)
    # so that no time has an import or a first call in it
    tiny = Problem("tiny", lambda generator: mlp((3, 4, 4, 2), generator=generator), (3,))
    measure(entry.run, tiny, tiny.model(config.seed), p, q, config)
    model = problem.model(config.seed)
    row = measure(entry.run, problem, model, p, q, config, norm_of_ours=norm_of_ours)
    if row["ended"] and row["max_imbalance"] > 2 * entry.tol:
        row["status"] = f"ended at an imbalance of {row['max_imbalance']:.0e}"
    reading = sum_seconds(model)
    row |= {"reading_seconds": reading, "over_reading": math.nan}
    if entry.method and row["ended"]:
        loop = row["passes"] - passes_of_start(model, p, q, entry.method)
        if loop > 0:
            row["over_reading"] = row["solver_seconds"] / (loop * reading)
    return row


def run_alone(*arguments: Any) -> dict[str, Any]:
    """`run_entry` in a new process: the memory that one contestant frees speeds no other up."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(run_entry, *arguments).result()


def compare(
    networks: tuple[Problem, ...], config: Config, partial_results: Path | None = None
) -> pd.DataFrame:
    """Run every contestant on every network; returns the table with the ratios to balance().

    Args:
        networks: what to balance.
        config: settings.
        partial_results: file of the rows so far; those that it has for the same settings are not
            measured again.
    """
    rows = Rows(config, partial_results)
    run = run_alone if config.alone else run_entry
    for problem in networks:
        try:
            graph = trace(problem.model(config.seed))
        except ValueError as error:
            print(f"{problem.name}: left out, {error}", file=sys.stderr)
            continue
        for p, q in ((2.0, 2.0), *problem.others):
            orbit = Orbit(graph, p, q)
            about = {
                "network": problem.name,
                "weights": sum(graph.weight(edge).numel() for edge in graph.edges),
                "units": orbit.size - 1,
                "p": p,
                "q": q,
                "initial_norm": orbit.at(orbit.start).norm,
            }
            for name, entry in entries(p, q).items():
                key = (problem.name, p, q, name)
                if key not in rows.done:
                    first = rows.done.get((problem.name, p, q, OURS), {"norm": math.nan})
                    row = run(problem, p, q, entry, config, first["norm"])
                    rows.add(key, {**about, "method": name, "tol": entry.tol, **row})
    return with_ratios(pd.DataFrame(rows.done.values()))


def code() -> str:
    """A hash of the library and of the benchmarks: a row of other code is not comparable."""
    folders = Path(balancing.__file__).parent, Path(__file__).parent
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class Rows:
    """The rows measured so far, kept in a file so that an interrupted run can go on."""

    def __init__(self, config: Config, path: Path | None) -> None:
        self.path, self.done = path, {}
        if path is None:
            return
        header = json.dumps([asdict(config), code()])
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] == [header]:
            for line in lines[1:]:
                key, row = json.loads(line)
                self.done[tuple(key)] = row
            print(f"going on after {len(self.done)} rows", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header + "\n")

    def add(self, key: tuple[object, ...], row: dict[str, Any]) -> None:
        self.done[key] = row
        print(
            f"{row['network']}, p = {row['p']:g}, q = {row['q']:g}, {row['method']}: "
            f"norm {row['norm']:.6g}, {row['seconds']:.3g} s {row['status']}",
            file=sys.stderr,
        )
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([key, row]) + "\n")


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add what the rows of a network say together.

    Columns: ``ratio``, the norm over its initial value; ``times_ours``, the seconds over those of
    balance(), at least this where a contestant was stopped; ``times_to_norm``, the same of
    ``seconds_to_norm``; ``tol_of_equal``, the loosest tolerance
    with which balance() comes to at most the same norm, and ``times_equal``, the seconds over
    those that it takes then (NaN where it does not, or the contestant was stopped).
    """
    table = table.assign(
        ratio=table["norm"] / table["initial_norm"],
        times_ours=math.nan,
        times_to_norm=math.nan,
        tol_of_equal=math.nan,
        times_equal=math.nan,
    )
    for _, part in table.groupby(["network", "p", "q"], sort=False):
        own = part[part["method"].str.startswith(OURS) & part["ended"]]
        own = own.sort_values("tol", ascending=False)
        full = own[own["method"] == OURS]
        if len(full):
            table.loc[part.index, "times_ours"] = part["seconds"] / full["seconds"].item()
            table.loc[part.index, "times_to_norm"] = (
                part["seconds_to_norm"] / full["seconds"].item()
            )
        for index, row in part[part["ended"]].iterrows():
            enough = own[own["norm"] <= row["norm"] * (1 + SLACK)]
            if len(enough):
                table.loc[index, "tol_of_equal"] = enough["tol"].iloc[0]
                table.loc[index, "times_equal"] = row["seconds"] / enough["seconds"].iloc[0]
    return table


# --- the report ----------------------------------------------------------------------------------


def report(table: pd.DataFrame) -> str:
    """Tables of ratios, for p = q = 2 and for the other exponents."""
    full = table[~table["method"].str.contains("tol")]
    same, other = full[full["p"] == full["q"]], full[full["p"] != full["q"]]
    texts = [
        _grid("seconds, over those of balance() (> where stopped)", same, _times),
        _grid("the same, with balance() only as exact as the norm reached asks", same, _equal),
        _grid(
            "seconds until the norm was that of balance(), over its seconds",
            same[same["method"] != OURS],
            lambda row: f"{row.times_to_norm:.3g}",
        ),
        _grid("norm over its initial value", same, lambda row: f"{row.ratio:.4f}"),
        _grid("largest relative imbalance", same, lambda row: f"{row.max_imbalance:.0e}"),
        _grid("passes", same, lambda row: f"{row.passes:.4g}"),
        _grid(
            "seconds of the loop over those of reading the weights as often",
            same,
            lambda row: f"{row.over_reading:.3g}",
        ),
    ]
    if len(other):
        other = other.assign(
            network=[f"{row.network} ({row.p:g}, {row.q:g})" for row in other.itertuples()]
        )
        texts.append(_grid("p != q: seconds, over those of balance()", other, _times))
        texts.append(_grid("p != q: passes", other, lambda row: f"{row.passes:.4g}"))
    unusual = full[full["status"] != ""]
    texts.append(
        "\n".join(
            f"{row.network} ({row.p:g}, {row.q:g}), {row.method}: {row.status}"
            for row in unusual.itertuples()
        )
    )
    return "\n\n".join(texts)


def _grid(title: str, table: pd.DataFrame, cell: Callable[[Any], str]) -> str:
    cells = {
        method: {row.network: cell(row).replace("nan", "-") for row in rows.itertuples()}
        for method, rows in table.groupby("method", sort=False)
    }
    grid = pd.DataFrame(cells).reindex(table["network"].unique()).fillna("-")
    grid = grid.loc[:, (grid != "-").any()]
    return f"{title}\n{grid.to_string()}"


def _times(row: Any) -> str:
    stopped = "" if row.ended or math.isnan(row.times_ours) else ">"
    text = f"{row.seconds:.3g} s" if row.method == OURS else f"{row.times_ours:.3g}"
    return stopped + text


def _equal(row: Any) -> str:
    return f"{row.times_equal:.3g}" if row.method != OURS else "-"


SHOWN = (
    "Saul 2023, 6 hidden layers",
    "100 layers of 50 units",
    "ResNet-18, folded",
    "MobileNetV2, folded",
)


def readme(table: pd.DataFrame) -> str:
    """The table of the README: seconds over those of balance(), and norm over its start."""
    rows = table[(table["p"] == 2) & (table["q"] == 2) & table["network"].isin(SHOWN)]
    rows = rows[~rows["method"].str.contains("tol")]
    methods = list(rows["method"].unique())
    lines = [f"| | {' | '.join(methods)} |", "|---|" + "---|" * len(methods)]
    for network in SHOWN:
        cells = {row.method: row for row in rows[rows["network"] == network].itertuples()}
        lines.append(f"| {network} | {' | '.join(_cell(cells[m]) for m in methods)} |")
    return "\n".join(lines)


def _cell(row: Any) -> str:
    if math.isnan(row.seconds):
        return "–"
    ratio = row.times_ours
    times = f"{ratio:.2g}×" if ratio < 99.5 else f"{round(ratio, -1):.0f}×"
    if row.method == OURS:
        times = f"{row.seconds:.2g} s"
    return f"{'' if row.ended else '> '}{times} ({row.ratio:.3f})"


def draw(table: pd.DataFrame, folder: Path) -> None:
    """Write the figure of the table beside it: the rows that chapter 11 shows."""
    same = table[(table["p"] == 2) & (table["q"] == 2) & ~table["method"].str.contains("tol")]
    figure = plots.benchmark(same[same["seconds"].notna()])
    figure.savefig(folder / f"{NAME}.svg", bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=Config.threads)
    parser.add_argument("--limit", type=float, default=Config.limit, help="seconds a contestant")
    parser.add_argument("--seed", type=int, default=Config.seed)
    parser.add_argument("--quick", action="store_true", help="small networks; records in _build")
    arguments = parser.parse_args()
    config = Config(
        seed=arguments.seed,
        threads=arguments.threads,
        limit=arguments.limit,
        quick=arguments.quick,
    )
    try:
        table = compare(problems(quick=config.quick), config, PARTIAL)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    folder = PARTIAL.parent if config.quick else RESULTS
    record(folder, NAME, table, config, program=("python", "-m", "benchmarks.fix"))
    draw(table, folder)
    PARTIAL.unlink()
    print(report(table))
    print(f"\n{readme(table)}")


if __name__ == "__main__":
    main()

"""``balancing reproduce``: run experiments over many seeds, record their tables, check claims."""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from balancing._files import check_target
from balancing.claims import LEDGER, LEDGERS, evaluate
from balancing.experiments import EXPERIMENTS
from balancing.experiments._record import record
from balancing.experiments.sweeps import Task, finished

STORE = Path(".balancing/runs.sqlite")
PATIENCE = 30.0  # seconds until a scheduler must have answered


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    results: Path,
    print_report: Callable[[pd.DataFrame], int],
) -> None:
    """Add the command.

    Args:
        commands: of the program.
        results: the usual folder for the tables.
        print_report: prints verdicts and returns the exit status.
    """
    parser = commands.add_parser(
        "reproduce", help="run experiments at full size, record their tables, check their claims"
    )
    parser.add_argument(
        "target",
        help=f"'all', an experiment ({', '.join(EXPERIMENTS)}) or a prefix, such as du2018",
    )
    parser.add_argument("--out", type=Path, default=results, help="folder for the tables")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each experiment [20]")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, help="processes on this machine [one a core]")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="run on a Dask cluster, for example tcp://host:8786"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take finished runs from the store",
    )
    parser.add_argument("--store", type=Path, help=f"file that keeps finished runs [{STORE}]")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the experiment, for example --set iterations=500",
    )
    parser.set_defaults(action=lambda arguments: print_report(_reproduce(arguments)))


def _reproduce(arguments: argparse.Namespace) -> pd.DataFrame:
    """Do it; returns the verdicts on the claims."""
    target, out, store = arguments.target, arguments.out, arguments.store or STORE
    names = [
        name for name in EXPERIMENTS if target in (name, "all") or name.startswith(f"{target}.")
    ]
    if not names:
        raise ValueError(f"unknown target '{target}'; choose all or from {', '.join(EXPERIMENTS)}")
    for option in ("seeds", "jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1, got {value}")
    plan = {
        name: EXPERIMENTS[name].configs(
            arguments.seeds, _configure(EXPERIMENTS[name].config, arguments.set)
        )
        for name in names
    }
    owners = [name for name in names for _ in plan[name]]
    tasks = [Task(EXPERIMENTS[name].run, config) for name in names for config in plan[name]]
    # fail before the runs, not after them
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_target(out / f"{name}.csv")
    start, taken = time.perf_counter(), 0
    tables: dict[str, dict[int, pd.DataFrame]] = {name: {} for name in names}
    try:
        with _executor(arguments.scheduler) as executor:
            for done in finished(
                tasks,
                executor,
                jobs=arguments.jobs,
                store=store,
                resume=arguments.resume,
            ):
                name = owners[done.number]
                tables[name][done.number] = done.table
                taken += done.was_kept
                if len(tables[name]) == len(plan[name]):
                    _record(out, name, tables.pop(name), plan[name])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"finished runs are kept in '{store}'; the same with --resume takes them over"
        ) from None
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{len(tasks)} runs, {taken} of them taken from '{store}', {minutes:.1f} minutes",
        file=sys.stderr,
    )
    # of a whole paper, also the claims that need no experiment
    papers = [claims for paper, claims in LEDGERS.items() if target in (paper, "all")]
    quick = [claim for claims in papers for claim in claims if not claim.experiment]
    claims = [claim for claim in LEDGER if claim.experiment in names or claim in quick]
    return evaluate(claims, results=out)


def _record(out: Path, name: str, tables: dict[int, pd.DataFrame], configs: Sequence[Any]) -> None:
    table = pd.concat([tables[number] for number in sorted(tables)], ignore_index=True)
    record(out, name, table, configs[0], seeds=[config.seed for config in configs])
    said = f"recorded {len(table)} rows of {len(configs)} runs in {out / name}.csv"
    print(said, file=sys.stderr)


@contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
    """That of a Dask cluster; None without an address."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ImportError("--scheduler needs Dask: pip install 'balancing[cluster]'") from error
    try:
        client = Client(address, set_as_default=False, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler answers at '{address}': {error}") from error
    with client:
        try:
            # not pure: Dask must not take one run for another
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise ChildProcessError(
                f"the workers of {address} have died several times in one run (out of memory?); "
                "what was finished is kept"
            ) from error


def _configure(config: Any, settings: Sequence[str]) -> Any:
    changes = {}
    known = [field.name for field in fields(config) if field.name != "seed"]
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in known:
            raise ValueError(
                f"cannot set '{setting}'; write NAME=VALUE with NAME one of {', '.join(known)}"
            )
        try:
            changes[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            changes[name] = text  # of these the last three are for values that no setting has
        expected = type(getattr(config, name))
        if expected is float and type(changes[name]) is int and abs(changes[name]) < 2**1000:
            changes[name] = float(changes[name])
        if isinstance(changes[name], bool) or not isinstance(changes[name], expected):
            raise ValueError(f"setting '{name}' must be of type {expected.__name__}, got '{text}'")
    try:
        return replace(config, **changes)
    except TypeError as error:  # of what a tuple holds
        raise ValueError(f"cannot set {', '.join(settings)}: {error}") from error

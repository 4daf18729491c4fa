"""The command line: ``balancing claims``, ``reproduce``, ``fix``, ``course`` and ``notebooks``."""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch

from balancing import __version__, _course_command, _fix_command
from balancing._files import replacing
from balancing.claims import LEDGER, LEDGERS, evaluate
from balancing.experiments import EXPERIMENTS

RESULTS = Path("book/results")
_PROGRAM = ("balancing",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0; 1 where a claim fails or a fix has not converged; 2 for bad input; 130 if interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except KeyboardInterrupt:
        print("balancing: interrupted; the run in progress has written nothing", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"balancing: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="balancing", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    claims = commands.add_parser("claims", help="check every claim of the ledger")
    claims.add_argument("--results", type=Path, default=RESULTS, help="folder of recorded tables")
    claims.add_argument("--json", action="store_true", help="print JSON instead of a table")
    claims.set_defaults(action=_claims)

    reproduce = commands.add_parser(
        "reproduce", help="run an experiment at full size, record its table, check its claims"
    )
    reproduce.add_argument(
        "target", help=f"an experiment ({', '.join(EXPERIMENTS)}) or a prefix, such as du2018"
    )
    reproduce.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    reproduce.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the experiment, for example --set iterations=500",
    )
    reproduce.set_defaults(action=_reproduce)

    _fix_command.add_parser(commands)
    _course_command.add_parsers(commands)
    return parser


def _claims(arguments: argparse.Namespace) -> int:
    return _print_report(evaluate(results=arguments.results), as_json=arguments.json)


def _reproduce(arguments: argparse.Namespace) -> int:
    target = arguments.target
    names = [name for name in EXPERIMENTS if name == target or name.startswith(target + ".")]
    if not names:
        raise ValueError(f"unknown target '{target}'; choose from {', '.join(EXPERIMENTS)}")
    configs = {name: _configure(EXPERIMENTS[name].config, arguments.set) for name in names}
    arguments.out.mkdir(parents=True, exist_ok=True)  # fail before the run, not after it
    for name in names:
        table = EXPERIMENTS[name].run(configs[name])
        record(arguments.out, name, table, configs[name])
        print(f"recorded {len(table)} rows in {arguments.out / name}.csv", file=sys.stderr)
    # of a whole paper, also the claims that need no experiment
    of_paper = LEDGERS.get(target, ())
    claims = [c for c in LEDGER if c.experiment in names or (c in of_paper and not c.experiment)]
    return _print_report(evaluate(claims, results=arguments.out), as_json=False)


def _configure(config: Any, settings: Sequence[str]) -> Any:
    changes = {}
    known = [field.name for field in fields(config)]
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in known:
            raise ValueError(
                f"cannot set '{setting}'; write NAME=VALUE with NAME one of {', '.join(known)}"
            )
        try:
            changes[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changes[name] = text
        expected = type(getattr(config, name))
        if expected is float and isinstance(changes[name], int):
            changes[name] = float(changes[name])
        if isinstance(changes[name], bool) or not isinstance(changes[name], expected):
            raise ValueError(f"setting '{name}' must be of type {expected.__name__}, got '{text}'")
    return replace(config, **changes)


def record(
    folder: Path, name: str, table: pd.DataFrame, config: Any, program: Sequence[str] = _PROGRAM
) -> None:
    """Write the table and where it comes from; each file appears whole or not at all."""
    provenance = {
        "experiment": name,
        "command": shlex.join([*program, *sys.argv[1:]]),
        "config": asdict(config),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "balancing": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU",
    }
    # nine digits: more than float32 can resolve, and a file half the size
    _write(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.9g"))
    _write(folder / f"{name}.json", json.dumps(provenance, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _print_report(report: pd.DataFrame, *, as_json: bool) -> int:
    if as_json:
        print(report.to_json(orient="records", indent=2))
    else:
        for row in report.itertuples():
            accepted = f"accepted {row.low:g} to {row.high:g}"
            print(f"{row.verdict:8} {row.id:28} {row.value:10.3g}  {accepted}: {row.measured}")
        counts = report["verdict"].value_counts()
        print(", ".join(f"{counts.get(word, 0)} {word}" for word in ("holds", "fails", "not run")))
    return int((report["verdict"] == "fails").any())


if __name__ == "__main__":
    sys.exit(main())

"""The command line: ``balancing claims``, ``reproduce``, ``fix``, ``course`` and ``notebooks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from balancing import __version__, _course_command, _fix_command, _reproduce_command
from balancing.claims import evaluate, to_text

RESULTS = Path("book/results")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0; 1 where a claim fails or a fix has not converged; 2 for bad input; 130 if interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except KeyboardInterrupt as interruption:
        kept = str(interruption) or "what was in progress has written nothing"
        print(f"balancing: interrupted; {kept}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print("balancing:", *[error, *getattr(error, "__notes__", [])], file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="balancing", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    claims = commands.add_parser("claims", help="check every claim of the ledger")
    claims.add_argument("--results", type=Path, default=RESULTS, help="folder of recorded tables")
    claims.add_argument("--json", action="store_true", help="print JSON instead of a table")
    claims.set_defaults(action=_claims)

    _reproduce_command.add_parser(commands, RESULTS, _print_report)
    _fix_command.add_parser(commands)
    _course_command.add_parsers(commands)
    return parser


def _claims(arguments: argparse.Namespace) -> int:
    return _print_report(evaluate(results=arguments.results), as_json=arguments.json)


def _print_report(report: pd.DataFrame, *, as_json: bool = False) -> int:
    if as_json:
        print(report.to_json(orient="records", indent=2))
    else:
        print(to_text(report))
    return int((report["verdict"] == "fails").any())


if __name__ == "__main__":
    sys.exit(main())

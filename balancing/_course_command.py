"""``balancing course`` and ``balancing notebooks``: the book's notebooks from an installation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from balancing.course import copy_notebooks, editions


def add_parsers(commands: Any) -> None:
    """Add both commands to the command line."""
    course = commands.add_parser("course", help="say which notebooks this installation carries")
    course.add_argument("--list", action="store_true", help="list them; this is the default")
    course.set_defaults(action=_list)

    notebooks = commands.add_parser("notebooks", help="copy notebooks to a folder, ready to run")
    notebooks.add_argument("folder", type=Path, help="where to; made if it is missing")
    notebooks.add_argument("--edition", default="student", help="default: student")
    notebooks.add_argument(
        "--chapter",
        action="append",
        default=[],
        metavar="NN",
        help="only this chapter, for example 09; may be repeated",
    )
    notebooks.add_argument("--force", action="store_true", help="replace files that differ")
    notebooks.set_defaults(action=_copy)


def _list(_: argparse.Namespace) -> int:
    there = editions()
    if not there:
        print(
            "no notebooks here: install a wheel of `make wheel`; in a clone, run: make book course"
        )
        return 1
    width = max(len(name) for each in there.values() for name in each.chapters)
    print(f"{'chapter':{width}}" + "".join(f"{name:>14}" for name in there))
    for chapter in sorted({name for each in there.values() for name in each.chapters}):
        sizes = ({p.stem: p.stat().st_size for p in each.notebooks} for each in there.values())
        cells = (_size(of[chapter]) if chapter in of else "–" for of in sizes)
        print(f"{chapter:{width}}" + "".join(f"{cell:>14}" for cell in cells))
    totals = (f"{_size(each.size):>14}" for each in there.values())
    print(f"{'with recorded results':{width}}" + "".join(totals))
    return 0


def _copy(arguments: argparse.Namespace) -> int:
    folder, edition = arguments.folder, arguments.edition
    copies = copy_notebooks(folder, edition, arguments.chapter, force=arguments.force)
    what = "1 notebook" if len(copies) == 1 else f"{len(copies)} notebooks"
    print(f"{what} of the edition '{edition}' in {folder}; to open them: jupyter lab {folder}")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"

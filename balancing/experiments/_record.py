"""Tables on disk, each with a note of where it comes from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch

from balancing import __version__
from balancing._files import replacing

__all__ = ["record", "recorded"]

_PROGRAM = ("balancing",)


def record(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    config: Any,
    *,
    program: Sequence[str] = _PROGRAM,
    seeds: Sequence[int] | None = None,
) -> None:
    """Write NAME.csv, and NAME.json with its provenance; each appears whole or not at all.

    Args:
        folder: where to.
        name: of the experiment.
        table: its rows.
        config: its settings, a dataclass.
        program: the command, to which the arguments of this process are added.
        seeds: those of the runs in the table, in place of the one of ``config``.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    settings = asdict(config)
    if seeds is not None:
        settings.pop("seed")
        settings["seeds"] = list(seeds)
    # nine digits: more than float32 can resolve, and a file half the size
    content = table.to_csv(index=False, float_format="%.9g")
    provenance = {
        "experiment": name,
        "command": shlex.join([*program, *sys.argv[1:]]),
        "config": settings,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "balancing": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU",
        "rows": len(table),
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    _write(folder / f"{name}.csv", content)
    _write(folder / f"{name}.json", json.dumps(provenance, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def recorded(folder: Path, name: str) -> pd.DataFrame | None:
    """The table that :func:`record` has written; None if there is none.

    Raises:
        ValueError: the file is not what was written, or no table; the message says what to do.
        OSError: it cannot be read.
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        return None
    content, provenance = path.read_bytes(), path.with_suffix(".json")
    remedy = f"record it again: balancing reproduce {name} --resume"
    if provenance.exists():
        try:
            wanted = json.loads(provenance.read_bytes()).get("sha256")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{provenance}' is damaged ({error}); {remedy}") from error
        if wanted not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError(f"'{path}' is damaged: not what '{provenance}' belongs to; {remedy}")
    try:
        return pd.read_csv(io.BytesIO(content))
    except ValueError as error:  # pandas' own are among them, and wrong bytes
        raise ValueError(f"'{path}' is damaged ({error}); {remedy}") from error

"""Finished runs in an SQLite file: what is in it survives a kill, a full disk and a power cut.

Only the process that sweeps writes to it. Several sweeps may share one file (write-ahead log).
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

__all__ = ["Store", "pack", "unpack"]

T = TypeVar("T")

_OURS = 0x62616C61  # SQLite's application_id: "bala"
_PATIENCE = 60.0  # seconds to wait for another process that writes
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS runs (
        key TEXT NOT NULL UNIQUE, run TEXT NOT NULL, config TEXT NOT NULL,
        seconds REAL NOT NULL, finished TEXT NOT NULL, content BLOB NOT NULL, sha256 TEXT NOT NULL
    )
"""
_COLUMNS = "key, run, config, seconds, finished, content, sha256"


def pack(table: pd.DataFrame) -> bytes:
    """A table without its index, as bytes; every number keeps all its digits."""
    columns = [
        {"name": name, "dtype": str(column.dtype), "values": column.tolist()}
        for name, column in table.items()
    ]
    return zlib.compress(json.dumps(columns).encode())


def unpack(content: bytes) -> pd.DataFrame:
    """The table that :func:`pack` was given."""
    columns = json.loads(zlib.decompress(content))
    return pd.DataFrame(
        {each["name"]: pd.Series(each["values"], dtype=each["dtype"]) for each in columns}
    )


class Store:
    """Packed tables by key, in a file.

    A file that is damaged is set aside as ``NAME.damaged``; the runs that can still be read are
    taken over, with a warning.

    Args:
        path: the file; made, with its folder, where there is none.

    Raises:
        OSError: the file cannot be opened, is no store of runs, or has no room; the message says
            what to do.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise IsADirectoryError(f"the store of runs '{path}' is a folder; name a file")
        with self._explained():
            self._connection = self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None if nothing was, or if it is damaged."""
        with self._explained():
            row = self._connection.execute(
                "SELECT content, sha256 FROM runs WHERE key = ?", (key,)
            ).fetchone()
        return row[0] if row is not None and _is_whole(*row) else None

    def put(self, key: str, content: bytes, *, run: str, config: str, seconds: float) -> None:
        """Keep a packed table; once this returns, it is on the disk."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sha256 = hashlib.sha256(content).hexdigest()
        row = (key, run, config, seconds, finished, content, sha256)
        with self._explained():
            self._connection.execute(f"REPLACE INTO runs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", row)

    def _open(self) -> sqlite3.Connection:
        if self.path.exists() and self.path.stat().st_size and not self._is_ours():
            raise self._not_ours()
        connection = self._connect()
        try:
            sound = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                connection.close()
                raise
            sound = False
        if not sound:
            connection.close()
            connection = self._rescue()
        return connection

    def _is_ours(self) -> bool:
        with self.path.open("rb") as file:
            header = file.read(100)
        mark = int.from_bytes(header[68:72], "big")
        return header.startswith(b"SQLite format 3\0") and mark in (0, _OURS)

    def _not_ours(self) -> FileExistsError:
        return FileExistsError(
            f"'{self.path}' is not a store of runs; remove it or name another file (--store)"
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            if connection.execute("PRAGMA application_id").fetchone() != (_OURS,):
                connection.execute("BEGIN IMMEDIATE")  # of two that make it, one waits
                known = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if set(known) - {("runs",)}:
                    connection.close()
                    raise self._not_ours()
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA application_id = {_OURS}")
                connection.execute("COMMIT")
            _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                connection.close()
                raise
        return connection

    def _rescue(self) -> sqlite3.Connection:
        """Set the damaged file aside and take over what can still be read of it."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        for end in ("", "-wal"):
            part = Path(f"{self.path}{end}")
            if part.exists():
                shutil.move(part, f"{aside}{end}")
        Path(f"{self.path}-shm").unlink(missing_ok=True)
        connection = self._connect()
        saved = 0
        for row in _readable(aside):
            connection.execute(f"REPLACE INTO runs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", row)
            saved += 1
        warnings.warn(
            f"the store of runs '{self.path}' was damaged and is now '{aside}'; {saved} finished "
            "runs were saved from it, what is missing runs again",
            stacklevel=2,
        )
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is wrong with the file and what helps, instead of SQLite's few words."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                raise OSError(
                    errno.ENOSPC,
                    "the disk is full or broken; what was finished is kept: make room, then run "
                    "the same again with --resume",
                    str(self.path),
                ) from error
            if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
                raise PermissionError(
                    errno.EACCES,
                    "the store of runs cannot be written; open its folder to yourself or name "
                    "another file (--store)",
                    str(self.path),
                ) from error
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"another process has kept the store of runs for {_PATIENCE:.0f} s; end it or "
                    "name another file (--store)",
                    str(self.path),
                ) from error
            raise OSError(
                errno.EIO,
                f"the store of runs cannot be used ({error}); run the same again to have it "
                "mended, or name another file (--store)",
                str(self.path),
            ) from error


def _patiently(action: Callable[[], T]) -> T:
    """SQLite does not wait for others by itself where it changes the journal."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _is_damage(error: sqlite3.Error) -> bool:
    return error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _is_whole(content: bytes, sha256: str) -> bool:
    return hashlib.sha256(content).hexdigest() == sha256


def _readable(path: Path) -> Iterator[tuple[Any, ...]]:
    """The undamaged rows of a damaged file, read from both ends of the table."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # reads also a file that is shorter than its header says
        connection.execute("PRAGMA writable_schema = ON")
        seen: set[int] = set()
        for order in ("ASC", "DESC"):
            try:
                for (number,) in connection.execute(
                    f"SELECT rowid FROM runs ORDER BY rowid {order}"
                ):
                    seen.add(number)
            except sqlite3.DatabaseError:
                continue
        for number in sorted(seen):
            try:
                row = connection.execute(
                    f"SELECT {_COLUMNS} FROM runs WHERE rowid = ?", (number,)
                ).fetchone()
            except sqlite3.DatabaseError:
                continue
            if row is not None and _is_whole(row[-2], row[-1]):
                yield row

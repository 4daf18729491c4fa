"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: Path) -> None:
    """Find out before long work, not after it, that a file cannot be written.

    Raises:
        OSError: its folder is missing or closed to us, or the name is taken by something that is
            no file. The message names it.
    """
    target = path.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write '{path}': there is no folder '{target.parent}'")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"cannot write '{path}': it exists and is not a file")
    try:  # whoever may do everything may still not write to a disk that is read-only
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write '{path}': its folder cannot be written to ({error.strerror})"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path to write to; it takes the place of ``path`` once the block has ended.

    If the block raises anything, the new file is removed and ``path`` is what it was. A file that
    is replaced passes on its permissions, and a link is followed.

    Raises:
        OSError: it cannot be written. Where the system does not say which file (a disk that is
            full), the message names ``path``.
    """
    target = path.resolve()  # in the same folder: a file cannot be moved at once between disks
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise

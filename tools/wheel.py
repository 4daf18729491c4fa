"""The package with the book's notebooks in it: dist/balancing-*.whl. This is `make wheel`.

    python -m tools.wheel [EDITION ...]

It is built from a copy of the tracked files of the package, to which the notebooks of the editions
are added as data. The default, book and student, is for everybody. A wheel with the edition
instructor is named so, and is not for students.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from balancing.course import Edition, editions
from tools import ROOT, ToolError

DIST = ROOT / "dist"
STAGE = ROOT / "_build" / "wheel"
DEFAULT = ("book", "student")
_PACKAGE_FILES = ("balancing", "pyproject.toml", "README.md", "LICENSE")


def build(
    names: Sequence[str] = DEFAULT,
    *,
    out: Path = DIST,
    stage: Path = STAGE,
    available: Mapping[str, Edition] | None = None,
) -> Path:
    """Build the wheel with the notebooks of the editions `names`; returns its path.

    Args:
        names: Of editions.
        out: Folder for the wheel; an older wheel of the same name is replaced.
        stage: Folder for the copy that it is built from; emptied before.
        available: The editions to take from; else those of this clone.

    Raises:
        ToolError: An edition has not been made, or setuptools failed.
    """
    there = editions() if available is None else available
    if missing := [name for name in names if name not in there]:
        raise ToolError(
            f"no notebooks of the edition {', '.join(missing)} here; run: make book course"
        )
    shutil.rmtree(stage, ignore_errors=True)
    for path in _tracked():
        target = stage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    for name in names:
        _add(there[name], stage / "balancing" / "course_files" / name)
    return _wheel(stage, out, private="instructor" in names)


def _tracked() -> list[Path]:
    """The files of the package that git knows: nothing that lies about gets into a wheel."""
    command = ["git", "ls-files", "-z", "--", *_PACKAGE_FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"the wheel takes what git tracks: {done.stderr.strip()}")
    names = [Path(name) for name in done.stdout.split("\0") if name]
    return [path for path in names if (ROOT / path).is_file()]


def _add(edition: Edition, folder: Path) -> None:
    notebooks = {path.name: path for path in edition.notebooks}
    for place, path in (notebooks | edition.others).items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _wheel(stage: Path, out: Path, *, private: bool) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=out) as fresh:
        # No network: setuptools is that of this environment.
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir"]
        command = [sys.executable, "-m", "pip", "wheel", *options, fresh, str(stage)]
        if private:
            command += ["--config-settings=--build-option=--build-number=1instructor"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise ToolError(f"the wheel was not built:\n{done.stdout}")
        [wheel] = Path(fresh).glob("*.whl")
        return wheel.replace(out / wheel.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel", description=__doc__)
    parser.add_argument("editions", nargs="*", metavar="EDITION", help="default: book student")
    names = parser.parse_args(arguments).editions or DEFAULT
    try:
        wheel = build(names)
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.relative_to(ROOT)} ({size:.1f} MB) with the editions: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

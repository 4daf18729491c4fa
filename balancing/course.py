"""The book's notebooks, as an installation carries them: which there are, and how to get copies.

A wheel made by ``make wheel`` carries them in ``balancing/course_files/EDITION``; a clone of the
repository has them where ``make book`` and ``make course`` put them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from balancing._files import replacing

__all__ = ["Edition", "copy_notebooks", "editions"]

_PACKAGE = Path(__file__).parent
_CARRIED = _PACKAGE / "course_files"
_CLONE = _PACKAGE.parent
# Edition -> its notebooks in a clone, and the command that makes them.
_BUILT = {
    "book": ("_build/html/notebooks", "make book"),
    "student": ("dist/course/student/notebooks", "make course"),
    "instructor": ("dist/course/instructor/notebooks", "make course"),
}
_CHAPTER = re.compile(r"\d\d_\w+\.ipynb")


@dataclass(frozen=True)
class Edition:
    """One edition of the notebooks.

    Attributes:
        name: "book" (with solutions), "student" (without) or "instructor" (with teaching notes).
        notebooks: The chapters, in order.
        others: What chapters need beside them, such as recorded results: place in a copy -> file.
    """

    name: str
    notebooks: tuple[Path, ...]
    others: dict[str, Path]

    @property
    def chapters(self) -> tuple[str, ...]:
        """Names of the chapters, for example "09_multiplicative_updates"."""
        return tuple(path.stem for path in self.notebooks)

    @property
    def size(self) -> int:
        """Bytes of everything that a copy holds."""
        return sum(path.stat().st_size for path in (*self.notebooks, *self.others.values()))


def editions() -> dict[str, Edition]:
    """The editions that this installation, or this clone of the repository, has."""
    if _CARRIED.is_dir():
        folders = {path.name: path for path in sorted(_CARRIED.iterdir()) if path.is_dir()}
    else:
        folders = {name: _CLONE / place for name, (place, _) in _BUILT.items()}
    found = {name: _read(name, folder) for name, folder in folders.items() if folder.is_dir()}
    return {name: each for name, each in found.items() if each.notebooks}


def copy_notebooks(
    folder: Path | str,
    edition: str = "student",
    chapters: Iterable[str] = (),
    *,
    force: bool = False,
) -> list[Path]:
    """Copy notebooks, and the files that they read, to a folder, where they run.

    A file that is there already with the same content is left alone. Each file appears whole or
    not at all, and none before it is known that all may be written: after an interruption the
    same call completes the copy.

    Args:
        folder: Where to; made if it is missing.
        edition: One of :func:`editions`.
        chapters: By number ("09" or "9") or name; none means all of them.
        force: Replace files that differ.

    Returns:
        The notebooks of the chapters in ``folder``.

    Raises:
        TypeError: ``edition`` is no text, ``chapters`` is a single text, or holds something else
            than texts.
        ValueError: There is no such edition or chapter; the message names those that there are.
        FileExistsError: A file that differs would be replaced; nothing was written.
        OSError: The folder cannot be made or written to.
    """
    folder = Path(folder)
    if isinstance(chapters, str) or not isinstance(chapters, Iterable):
        raise TypeError(f"chapters must be a list of numbers or names, got {chapters!r}")
    chapters = list(chapters)
    if not all(isinstance(each, str) for each in chapters):
        raise TypeError(f"chapters must be texts, such as '09', got {chapters!r}")
    chosen = _edition(edition)
    notebooks = {path.name: path for path in _chosen(chosen, chapters)}
    wanted = {folder / place: path for place, path in (notebooks | chosen.others).items()}
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"cannot copy to '{folder}': it is not a folder")
    missing = {target: path for target, path in wanted.items() if not _same(target, path)}
    if taken := [target for target in missing if target.exists()]:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        if not force:
            raise FileExistsError(
                f"nothing was copied: '{taken[0]}'{more} would be replaced; "
                "--force replaces what differs, or choose another folder"
            )
    for target, path in missing.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
    return [folder / name for name in notebooks]


def _edition(name: str) -> Edition:
    there = editions()
    if not isinstance(name, str):
        raise TypeError(f"edition must be a text, got {name!r}")
    if name in there:
        return there[name]
    if name in _BUILT and not _CARRIED.is_dir() and (_CLONE / "Makefile").is_file():
        raise ValueError(f"the edition '{name}' has not been built here; run: {_BUILT[name][1]}")
    if not there:
        raise ValueError("this installation carries no notebooks; install a wheel of `make wheel`")
    raise ValueError(f"no edition '{name}' in this installation; there are: {', '.join(there)}")


def _chosen(edition: Edition, chapters: Iterable[str]) -> list[Path]:
    names = [each.removesuffix(".ipynb") for each in chapters]
    if not names:
        return list(edition.notebooks)
    found = []
    for name in dict.fromkeys(names):
        number = f"{name:0>2}_"
        fitting = [p for p in edition.notebooks if p.stem == name or p.name.startswith(number)]
        if not fitting:
            numbers = ", ".join(each[:2] for each in edition.chapters)
            raise ValueError(f"no chapter '{name}' in the edition '{edition.name}': {numbers}")
        found += fitting
    return sorted(set(found))


def _read(name: str, folder: Path) -> Edition:
    files = {path.relative_to(folder).as_posix(): path for path in _visible(folder)}
    others = {place: path for place, path in files.items() if not _CHAPTER.fullmatch(place)}
    if not any(place.startswith("results/") for place in others):  # the pages need no copy of them
        results = _CLONE / "book" / "results"
        others |= {f"results/{path.name}": path for path in sorted(results.glob("*.*"))}
    notebooks = (path for place, path in sorted(files.items()) if place not in others)
    return Edition(name, tuple(notebooks), others)


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts):
            yield path


def _same(target: Path, path: Path) -> bool:
    return target.is_file() and target.read_bytes() == path.read_bytes()

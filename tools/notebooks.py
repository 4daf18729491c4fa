"""Chapters and their notebooks: NN_name.md is written by hand, NN_name.ipynb is its execution.

    python -m tools.notebooks refresh [--all] [NAME ...]     execute what is stale
    python -m tools.notebooks check                          say what is stale, execute nothing

A notebook is stale when anything that its outputs depend on has changed: the chapter's source, the
library, the pinned versions, or the recorded results that chapters read. (A cache keyed on cells
alone would keep wrong outputs when the library changes.)
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tools import ROOT, ToolError, colab


def chapters(root: Path = ROOT) -> list[Path]:
    """The sources that have a notebook: files of book/ whose header is jupytext's."""
    return [path for path in sorted((root / "book").glob("*.md")) if _is_chapter(path)]


def _is_chapter(path: Path) -> bool:
    header = path.read_text(encoding="utf-8").split("\n---", maxsplit=1)[0]
    return header.startswith("---") and "format_name: myst" in header


def source_notebook(source: Path) -> NotebookNode:
    """The notebook that a chapter's source describes: cells without outputs, with lasting ids.

    Before the first code cell stands one that is in no source: the set-up for Google Colab.
    """
    notebook: NotebookNode = jupytext.read(source)
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"c{number:03d}"
    kinds = [cell.cell_type for cell in notebook.cells]
    if "code" in kinds:
        notebook.cells.insert(kinds.index("code"), colab.setup_cell())
    return notebook


def fingerprint(source: Path, root: Path = ROOT) -> str:
    """Hash of everything that the outputs of the chapter `source` depend on."""
    results = (path for path in (root / "book" / "results").rglob("*") if path.is_file())
    library = (root / "balancing").rglob("*.*")
    code = (path for path in library if path.suffix in {".py", ".js", ".toml"})
    files = hash_files([source, root / "constraints.txt", *results, *code], root)
    return hashlib.sha256(f"{files} {colab.setup_cell().source}".encode()).hexdigest()


def hash_files(paths: Iterable[Path], root: Path = ROOT) -> str:
    """One hash over the names (relative to `root`) and contents of files, whatever their order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def is_stale(source: Path, root: Path = ROOT) -> bool:
    """Whether the notebook beside `source` is missing or was executed from something else."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return True
    stored = nbformat.read(path, as_version=4).metadata.get("balancing", {})
    return bool(stored.get("hash") != fingerprint(source, root))


def refresh(root: Path = ROOT, *, only: Iterable[str] = (), every: bool = False) -> list[str]:
    """Execute the stale notebooks of `root`; returns the names of those executed.

    Args:
        root: The folder that holds book/ and balancing/.
        only: Names (file name without ending) to look at; none means every chapter.
        every: Execute what is not stale, too.

    Raises:
        ToolError: A cell failed, or a name is unknown. The old notebook stays as it was.
    """
    sources = {path.stem: path for path in chapters(root)}
    names = list(only) or list(sources)
    if unknown := sorted(set(names) - sources.keys()):
        raise ToolError(f"no chapter {', '.join(unknown)}; there are: {', '.join(sources)}")
    stale = [name for name in names if every or is_stale(sources[name], root)]
    for number, name in enumerate(stale, start=1):
        _say(f"[{number}/{len(stale)}] executing {name} ...", end=" ")
        _say(f"{execute(sources[name], root)} s")
    return stale


def execute(source: Path, root: Path = ROOT) -> float:
    """Execute one chapter and put the result beside it; returns the seconds that it took.

    Raises:
        ToolError: A cell failed. The old notebook stays as it was.
    """
    notebook = source_notebook(source)
    # Taken before the run: an edit during it must leave the result stale.
    stamp = fingerprint(source, root)
    watch = _Stopwatch()
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        resources={"metadata": {"path": str(source.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_execute=watch.start,
        on_cell_executed=watch.stop,
        # A kernel warns on our terminal that it talks TCP; it does so with this machine only.
        extra_arguments=["--log-level=ERROR"],
    )
    # The debugger's remark about frozen modules would otherwise land on our terminal.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    start = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        raise ToolError(_failure(source, notebook, error)) from None
    seconds = round(time.perf_counter() - start, 1)
    _drop_versions(notebook)
    _drop_live_views(notebook)
    live = {cell.id: watch.seconds[cell.id] for cell in notebook.cells if is_live(cell)}
    notebook.metadata["balancing"] = {"hash": stamp, "seconds": seconds, "live": live}
    _write(notebook, source.with_suffix(".ipynb"))
    return seconds


def is_live(cell: NotebookNode) -> bool:
    """Whether a lecturer runs the cell in front of the class: the teaching guide says how long."""
    return "live" in cell.metadata.get("tags", ())


class _Stopwatch:
    """Seconds that each cell takes, by its id."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = 0.0

    def start(self, cell: NotebookNode, **_: object) -> None:
        self._started = time.perf_counter()

    def stop(self, cell: NotebookNode, **_: object) -> None:
        self.seconds[cell.id] = round(time.perf_counter() - self._started, 1)


def _failure(source: Path, notebook: NotebookNode, error: CellExecutionError) -> str:
    """What a person needs to find the failing cell."""
    code = [c for c in notebook.cells if c.cell_type == "code" and c.id != colab.CELL_ID]
    # The failing cell is the last one that was started: execution goes in order.
    number = max(index for index, cell in enumerate(code, start=1) if cell.execution_count)
    trace = "" if not error.traceback else f"\n{error.traceback}"
    return (
        f"{source.name}, code cell {number} of {len(code)}: {error.ename}: {error.evalue}{trace}\n"
        f"The old notebook is untouched. Mend the cell in {source.name} and run the command again."
    )


def _drop_versions(notebook: NotebookNode) -> None:
    """Keep the committed file the same on every machine."""
    info = notebook.metadata.get("language_info", {})
    info.pop("version", None)


def _drop_live_views(notebook: NotebookNode) -> None:
    """Keep of a widget what is there without its kernel: its still image, and its state."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def _write(notebook: NotebookNode, path: Path) -> None:
    """Write by rename, so that an interruption leaves the old file or the new one."""
    nbformat.validate(notebook)
    fresh = path.with_name(f".{path.name}.new")
    try:
        nbformat.write(notebook, fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    refreshing = commands.add_parser("refresh", help="execute the stale notebooks")
    refreshing.add_argument("--all", action="store_true", help="execute the others, too")
    refreshing.add_argument(
        "names", nargs="*", metavar="NAME", help="for example 01_rescaling_symmetry"
    )
    commands.add_parser("check", help="list the stale notebooks, and fail if there are any")
    options = parser.parse_args(arguments)
    try:
        if options.command == "refresh":
            done = refresh(only=options.names, every=options.all)
            _say(f"{len(done)} executed, the others are up to date")
            return 0
    except ToolError as error:
        _say(f"\n{error}")
        return 1
    stale = [source.stem for source in chapters() if is_stale(source)]
    for name in stale:
        _say(f"stale: {name} (python -m tools.notebooks refresh {name})")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

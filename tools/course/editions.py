"""The student's and the instructor's edition: their chapters, their notebooks, their sites.

Each edition is a book of its own, staged in ``_build/course/NAME`` and built there as the public
one is. What it leaves out is taken from the chapters before that.
"""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

from tools import ROOT, ToolError, colab, dist, notebooks, site
from tools.course import sources

NAMES = ("student", "instructor")
STAGE = site.BUILD / "course"
OUT = ROOT / "dist" / "course"
ARCHIVE = "student-site.zip"

_README = {
    "student": """\
# Balancing, for students

- `notebooks/`: the chapters, executed, with exercises to fill in. A cell that calls `check` says at
  once what holds of your answer and gives a hint. The tables that some chapters read lie in
  `notebooks/results/`.
- `site/index.html`: the same chapters as pages; open it in a browser. No network is needed.
- `student-site.zip`: the pages as one file, to pass on.

To run the notebooks you need Python 3.11 or newer and the package, with what notebooks need:

    pip install "balancing[book]"
    jupyter lab notebooks

Text and figures may be used and changed under CC BY 4.0, code under BSD-3-Clause.
""",
    "instructor": """\
# Balancing, for the lecturer

Not for students: solutions, notes for the lecturer with the minutes that they take, common
misconceptions and the answers to the quizzes are in these files.

- `notebooks/`: the chapters, executed, with all of that. Tables lie in `notebooks/results/`.
- `site/index.html`: the same as pages; open it in a browser. No network is needed.

Students get the folder `student/` beside this one, or its `student-site.zip`; nothing of the above
is in it. To run the notebooks:

    pip install "balancing[book]"
    jupyter lab notebooks

Text and figures may be used and changed under CC BY 4.0, code under BSD-3-Clause.
""",
}


def chapter(source: Path, name: str) -> NotebookNode:
    """The executed notebook of a chapter, in MyST, without what the edition `name` leaves out.

    Raises:
        ToolError: The chapter cannot be divided, or its notebook is not the execution of it.
    """
    text = source.read_text(encoding="utf-8")
    executed: NotebookNode = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    [setup] = [cell for cell in executed.cells if cell.get("id") == colab.CELL_ID] or [None]
    code = [cell for cell in executed.cells if cell.cell_type == "code" and cell is not setup]
    kept = [code[index] for index in sources.kept_cells(text, name, source.name)]

    # The build takes slides from the pages itself, and makes decks of them for the instructor.
    left = text if name == "instructor" else sources.edition(text, name, source.name)
    rest = jupytext.reads(left, fmt="md:myst")
    cells: list[NotebookNode] = []
    for number, cell in enumerate(rest.cells, start=1):
        if cell.cell_type == "code":
            done = kept.pop(0)
            if done.source != cell.source:
                raise ToolError(f"{source.stem}.ipynb is not of {source.name}: run make refresh")
            cells += [setup, done] if setup and not any(map(_is_code, cells)) else [done]
        else:
            cell.id = f"t{number:03d}"
            cells.append(cell)
    for number, cell in enumerate(filter(_is_code, cells), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    executed.cells = cells
    executed.metadata.get("balancing", {}).pop("hash", None)
    return executed


def _is_code(cell: NotebookNode) -> bool:
    return bool(cell.cell_type == "code")


def stage(name: str, folder: Path) -> None:
    """Write the book of the edition `name` to `folder`, ready to be built."""
    shutil.rmtree(folder, ignore_errors=True)
    chapters = notebooks.chapters()
    names = [path.stem + ending for path in chapters for ending in (".md", ".ipynb")]
    if name == "student":
        names.append("modules.yml")  # without it, no decks
    left = shutil.ignore_patterns(*names, "__pycache__", ".ipynb_checkpoints")
    shutil.copytree(ROOT / "book", folder / "book", ignore=left)
    for path in chapters:
        nbformat.write(chapter(path, name), folder / "book" / f"{path.stem}.ipynb")
    shutil.copy(ROOT / "_toc.yml", folder)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    settings = config["sphinx"]["config"]
    settings["course_edition"] = name
    settings["html_theme_options"]["logo"]["text"] += f" for {name}s"
    (folder / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def fingerprint() -> str:
    """Hash of everything that the editions are made from."""
    modules = [Path(str(each.__file__)) for each in (colab, dist, notebooks)]
    tools = [*(ROOT / "tools" / "course").glob("*.py"), *modules]
    parts = [site.fingerprint(), notebooks.hash_files(tools)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def is_current(part: str, target: Path, wanted: str) -> bool:
    """Whether a part of the course stands in `target`, made from what has the hash `wanted`."""
    stamp = STAGE / f"{part}-stamp"
    return target.is_dir() and stamp.is_file() and stamp.read_text() == f"{wanted} {target}"


def mark(part: str, target: Path, wanted: str) -> None:
    """Note that a part of the course has been made."""
    STAGE.mkdir(parents=True, exist_ok=True)
    (STAGE / f"{part}-stamp").write_text(f"{wanted} {target}")


def built(name: str) -> Path:
    """The folder of the edition's pages, as the last build left it."""
    return STAGE / name / "_build" / "html"


def build(name: str, out: Path = OUT) -> Path:
    """Bring the edition `name` up to date; returns its folder in `out`.

    Raises:
        ToolError: A chapter is not as it should be, or the pages had a warning.
    """
    target = out / name
    wanted = fingerprint()
    if is_current(name, target, wanted):
        return target
    work = STAGE / name
    stage(name, work)
    site.run_jupyter_book(root=work)
    html = built(name)
    shutil.rmtree(target, ignore_errors=True)
    _copy(dist.files(html), html, target / "site")
    shutil.copytree(html / "notebooks", target / "notebooks")
    if name == "student":
        dist.write(html, target / ARCHIVE)
    (target / "README.md").write_text(_README[name], encoding="utf-8")
    mark(name, target, wanted)
    return target


def _copy(files: Iterable[Path], source: Path, target: Path) -> None:
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)

"""The exercises of each chapter as an nbgrader course, with its release made by nbgrader.

    python -m tools.course.assignments

Of an exercise there are, in this order: its statement; a cell for the answer; the check that the
book has, which replies at once and gives no points; a test with points, which is empty in the
release; and for what must be argued in words a cell that a person grades.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import ROOT, ToolError, notebooks, site
from tools.course import editions, words
from tools.course.answers import Answer, answer, setup
from tools.course.sources import Exercise, blocks, exercises

OUT = ROOT / "dist" / "course" / "assignments"

# Grade of an exercise -> points for the answer that is checked, points for what is written.
POINTS = {"recall": (1, 0), "compute": (2, 0), "prove": (1, 2)}

_CONFIG = '''\
"""Settings of nbgrader for this folder; `nbgrader --help-all` lists what else there is."""

c = get_config()

c.CourseDirectory.course_id = "balancing"
# The cell for an answer keeps the dots of the book, and so runs before it is filled in.
c.ClearSolutions.code_stub = {"python": "# Replace the dots by your answer."}
c.ClearSolutions.text_stub = "*Your argument here.*"
c.ExecutePreprocessor.timeout = 120  # seconds a cell
'''

_README = """\
# Assignments

One assignment a chapter, {count} in all, in the format of [nbgrader](https://nbgrader.readthedocs.io).

- `source/`: the instructor's version, with answers and hidden tests. Keep it from students.
- `release/`: what students get. It was made by `nbgrader generate_assignment`.
- `nbgrader_config.py`, `gradebook.db`: settings, and the database that knows the assignments.

## Use

    pip install "balancing-0.1.0-py3-none-any.whl[course]"    # the wheel of `make wheel`
    nbgrader generate_assignment {example} --force    # after you have changed source/
    nbgrader autograde {example}
    nbgrader formgrader                  # in JupyterLab: read and grade what is written
    nbgrader generate_feedback {example}

Run nbgrader in this folder. Put submissions in `submitted/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb`;
feedback appears in `feedback/STUDENT/ASSIGNMENT/`. The grading machine needs the package
`balancing` in the version that the assignments were made with, and nothing else of the book. The
pages of feedback fetch MathJax from the network; without one they show formulas as they are typed.

## Points

| Exercise | Checked by the machine | Read by a person |
|---|---|---|
| recall | 1 | – |
| compute | 2 | – |
| prove or extend | 1 | 2 |

A test gives all of its points or none. Change the points in the metadata of the cells of `source/`
(JupyterLab's sidebar has them), then generate again.

| Assignment | Exercises | Machine | Person |
|---|---|---|---|
{table}

## What the tests are, and are not

Students see at once whether an answer holds: the check below it is the book's, and the hidden test
judges as it does, with the same properties. The package is open, so that a determined student can
read the checks, and a notebook that tampers with the package can deceive them. The tests reward
honest work; they do not guard an examination.
"""

_INTRODUCTION = """\
# {title}: exercises

{points} points. Fill in the cells with dots and run the check below each: it says what holds, and
hints at what does not. Numbers such as (12) or Theorem 3 are those of the book. Before you hand
this in, restart the kernel and run all cells."""

_TEST = """\
# {points}: your instructor's copy of this cell judges the answer above. Leave it as it is.
### BEGIN HIDDEN TESTS
from balancing.exercises import grade

grade("{number}", {name})
### END HIDDEN TESTS"""


def build(
    out: Path = OUT,
    *,
    only: Iterable[str] = (),
    references: Mapping[str, str] | None = None,
) -> Path:
    """Write the course to `out`, in place of what is there and is not current; returns `out`.

    Args:
        out: Folder of the course.
        only: Chapters by name, for example 09_multiplicative_updates; none means all.
        references: Label -> what the book calls it; else read from the pages, the instructor's
            beside `out` or the book's.

    Raises:
        ToolError: An exercise cannot be graded, a reference leads nowhere, or nbgrader failed.
    """
    chapters = set(only)
    whole = not chapters and references is None
    wanted = editions.fingerprint()
    if whole and editions.is_current("assignments", out, wanted):
        return out
    sources = [path for path in notebooks.chapters() if path.stem[:2].isdigit()]
    sources = [path for path in sources if not chapters or path.stem in chapters]
    if references is None:
        references = words.numbers(_pages(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".assignments.", dir=out.parent) as temporary:
        course = Path(temporary) / "course"
        written = [write(path, course, references) for path in sources]
        (course / "nbgrader_config.py").write_text(_CONFIG, encoding="utf-8")
        (course / "README.md").write_text(_readme(written), encoding="utf-8")
        release(course)
        shutil.rmtree(out, ignore_errors=True)
        course.rename(out)
    if whole:
        editions.mark("assignments", out, wanted)
    return out


def _pages(out: Path) -> Path:
    for html in (out.parent / "instructor" / "site", site.HTML):
        if (html / "book").is_dir():
            return html
    raise ToolError("there are no pages to take the numbers of theorems from: run make book")


def write(source: Path, course: Path, references: Mapping[str, str]) -> Path:
    """Write the instructor's version of a chapter's assignment; returns its path."""
    path = course / "source" / source.stem / f"{source.stem}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = assignment(source, references)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return path


def assignment(source: Path, references: Mapping[str, str]) -> NotebookNode:
    """The instructor's version of a chapter's assignment."""
    text = source.read_text(encoding="utf-8")
    asked = exercises(text, source.name)
    answers = {each.number: answer(each) for each in asked if each.stub}
    code = [each.body for each in blocks(text, source.name) if each.kind == "code-cell"]
    title = next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")
    named = [name for each in asked for name in re.findall(r"`(\w+)\.", each.statement)]
    total = sum(sum(points(each)) for each in asked)
    try:
        cells = [
            _locked(new_markdown_cell(_INTRODUCTION.format(title=title, points=total)), "about"),
            _locked(new_code_cell(setup(code, answers.values(), named)), "setup"),
        ]
        for each in asked:
            cells += _cells(each, answers.get(each.number), references)
    except ToolError as error:
        raise ToolError(f"{source.name}: {error}") from None
    notebook: NotebookNode = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    return notebook


def points(exercise: Exercise) -> tuple[int, int]:
    """For the answer that is checked, and for what is written and read by a person."""
    grade = exercise.grade or ("compute" if exercise.stub else "prove")
    checked, written = POINTS[grade]
    return (checked, written) if exercise.stub else (0, checked + written)


def _cells(
    exercise: Exercise, given: Answer | None, references: Mapping[str, str]
) -> Iterator[NotebookNode]:
    """The cells of one exercise."""
    bibliography = words.bibliography()
    try:
        statement = words.plain(exercise.statement, references, bibliography)
        argument = words.plain(exercise.solution_text, references, bibliography)
    except ToolError as error:
        raise ToolError(f"exercise {exercise.number}: {error}") from None
    name = f"ex-{exercise.number.replace('.', '-')}"
    checked, written = points(exercise)
    amount = _amount(checked + written)
    if checked and written:
        amount += f", {written} of them for the words"
    yield _locked(
        new_markdown_cell(
            f"## Exercise {exercise.number}: {exercise.title}\n\n*{amount}.*\n\n{statement}"
        ),
        f"{name}-statement",
    )
    if given is not None:
        yield _cell(new_code_cell(_to_fill_in(given)), f"{name}-answer", solution=True)
        yield _locked(new_code_cell(given.check), f"{name}-check")
        test = _TEST.format(
            points=_amount(checked).capitalize(), number=exercise.number, name=given.name
        )
        yield _cell(new_code_cell(test), f"{name}-test", points=checked, locked=True)
    if written:
        yield _cell(new_markdown_cell(argument), f"{name}-words", points=written, solution=True)


def _to_fill_in(given: Answer) -> str:
    """The stub, and the solution where nbgrader will put its comment instead."""
    last = given.stub.splitlines()[-1]
    indent = last[: len(last) - len(last.lstrip())]
    return f"{given.stub}\n{indent}### BEGIN SOLUTION\n{given.solution}\n### END SOLUTION"


def _amount(count: int) -> str:
    return f"{count} point" if count == 1 else f"{count} points"


def _locked(cell: NotebookNode, name: str) -> NotebookNode:
    """A cell that nbgrader restores if a student has changed it."""
    return _cell(cell, name, locked=True)


def _cell(
    cell: NotebookNode,
    name: str,
    *,
    points: int | None = None,
    solution: bool = False,
    locked: bool = False,
) -> NotebookNode:
    cell.id = name
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": name,
        "grade": points is not None,
        "solution": solution,
        "locked": locked,
        "task": False,
    } | ({} if points is None else {"points": points})
    return cell


def _readme(written: Iterable[Path]) -> str:
    rows = []
    for path in written:
        cells = nbformat.read(path, as_version=4).cells
        graded = [each for each in cells if each.metadata.nbgrader.grade]
        by_machine = sum(e.metadata.nbgrader.points for e in graded if e.cell_type == "code")
        by_person = sum(e.metadata.nbgrader.points for e in graded if e.cell_type == "markdown")
        statements = sum(each.metadata.nbgrader.grade_id.endswith("-statement") for each in cells)
        rows.append((path.stem, f"| {path.stem} | {statements} | {by_machine} | {by_person} |"))
    names, lines = zip(*rows, strict=True)
    return _README.format(count=len(rows), example=names[0], table="\n".join(lines))


# In one process: nbgrader's command takes one assignment at a time, and seconds to start.
_RELEASE = """\
import sys
from nbgrader.apps import NbGraderAPI
from traitlets.config import PyFileConfigLoader

api = NbGraderAPI(config=PyFileConfigLoader("nbgrader_config.py", path=".").load_config())
for name in sys.argv[1:]:
    done = api.generate_assignment(name)
    if not done["success"]:
        sys.exit(f"{name}: {done['error']}\\n{done['log']}")
"""


def release(course: Path) -> None:
    """Make `release/` of the course from `source/`, by nbgrader.

    Raises:
        ToolError: nbgrader is not installed, or refused an assignment.
    """
    names = sorted(path.name for path in (course / "source").iterdir())
    run_python(course, "-c", _RELEASE, *names)


_JUPYTER_FOLDERS = ("CONFIG", "DATA", "RUNTIME")


def run_python(folder: Path, *arguments: str) -> str:
    """Run this Python in `folder`, away from the user's own Jupyter settings; returns its output.

    Raises:
        ToolError: It failed; the text is what it wrote.
    """
    with tempfile.TemporaryDirectory() as home:
        own = (
            "HOME",
            "IPYTHONDIR",
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
        )
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ
            # nbgrader calls a program that is installed beside this Python.
            | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
            | {name: f"{home}/{name.lower()}" for name in own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ToolError(f"nbgrader failed:\n{done.stdout}")
    return done.stdout


def main() -> int:
    """The command line."""
    try:
        out = build()
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"{out.relative_to(ROOT)}: {len(list((out / 'release').iterdir()))} assignments")
    return 0


if __name__ == "__main__":
    sys.exit(main())

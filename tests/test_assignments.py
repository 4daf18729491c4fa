"""Assignments: made from the chapters, released, graded and commented on by nbgrader itself."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import NotebookNode

from tools import ToolError, notebooks
from tools.course import answers, assignments, words
from tools.course.assignments import run_python
from tools.course.sources import Exercise, exercises

CHAPTERS = [path for path in notebooks.chapters() if path.stem[:2].isdigit()]
GRADED = ["01_rescaling_symmetry", "09_multiplicative_updates"]
MARKERS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "import grade")
each_chapter = pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)


class Numbered(dict[str, str]):
    """References of a book whose every label is there."""

    def __missing__(self, label: str) -> str:
        return f"({label})"


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def cells(notebook: NotebookNode, ending: str) -> dict[str, NotebookNode]:
    """Number of the exercise -> its cell of the kind, for example "answer"."""
    found = {}
    for cell in notebook.cells:
        if match := re.fullmatch(rf"ex-(\d\d)-(\d+)-{ending}", cell.metadata.nbgrader.grade_id):
            found[f"{match[1]}.{match[2]}"] = cell
    return found


@each_chapter
def test_reference_answers_pass_their_tests(source: Path, torch_as_it_was: None) -> None:
    notebook = assignments.assignment(source, Numbered())
    namespace: dict[str, object] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), namespace)


@each_chapter
def test_every_exercise_has_its_cells_and_points(source: Path) -> None:
    notebook = assignments.assignment(source, Numbered())
    asked = exercises(source.read_text(), source.name)
    assert list(cells(notebook, "statement")) == [each.number for each in asked]
    for each in asked:
        checked, written = assignments.points(each)
        grade = each.grade or ("compute" if each.stub else "prove")
        assert checked + written == sum(assignments.POINTS[grade])
        for kind, wanted in (("test", checked), ("words", written)):
            cell = cells(notebook, kind).get(each.number)
            assert (cell.metadata.nbgrader.points if cell else 0) == wanted
            assert cell is None or cell.metadata.nbgrader.grade
    names = [cell.metadata.nbgrader.grade_id for cell in notebook.cells]
    assert len(set(names)) == len(names)


@each_chapter
def test_statements_are_plain(source: Path) -> None:
    notebook = assignments.assignment(source, Numbered())
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"\{[a-z:]+\}`|^:::|^```\{|\]\(#", text, re.MULTILINE) == []


# nbgrader for real, once for all tests below


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of two chapters with three submissions each, graded, with feedback."""
    folder = tmp_path_factory.mktemp("nbgrader") / "course"
    assignments.build(folder, only=GRADED, references=Numbered())
    for name in GRADED:
        submit(folder, name, "ready", share=1)
        submit(folder, name, "stub", share=0)
        submit(folder, name, "half", share=0.5)
        run_python(folder, "-m", "nbgrader", "autograde", name)
        run_python(folder, "-m", "nbgrader", "generate_feedback", name)
    return folder


def read(course: Path, part: str, name: str) -> NotebookNode:
    return nbformat.read(course / part / name / f"{name}.ipynb", as_version=4)


def submit(course: Path, name: str, student: str, *, share: float) -> None:
    """Hand in the release with the first `share` of its exercises answered by the reference."""
    notebook, reference = read(course, "release", name), read(course, "source", name)
    solved = cells(reference, "answer")
    for number in answered(list(solved), share):
        lines = solved[number].source.splitlines()
        code = "\n".join(line for line in lines if not line.strip().startswith("###"))
        cells(notebook, "answer")[number].source = code
    path = course / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


def answered(numbers: list[str], share: float) -> list[str]:
    return numbers[: round(share * len(numbers))]


def scores(course: Path, name: str, student: str) -> dict[str, tuple[float, float]]:
    """Graded cell -> score, and what it could be; of cells that the machine grades."""
    with sqlite3.connect(course / "gradebook.db") as database:
        rows = database.execute(
            """
            SELECT cell.name, grade.auto_score, graded.max_score
            FROM grade
            JOIN grade_cells graded ON graded.id = grade.cell_id
            JOIN base_cell cell ON cell.id = graded.id
            JOIN submitted_notebook done ON done.id = grade.notebook_id
            JOIN submitted_assignment handed ON handed.id = done.assignment_id
            JOIN assignment ON assignment.id = handed.assignment_id
            WHERE assignment.name = ? AND handed.student_id = ? AND graded.cell_type = 'code'
            """,
            (name, student),
        ).fetchall()
    return {cell: (score, maximum) for cell, score, maximum in rows}


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize(("student", "share"), [("ready", 1), ("stub", 0), ("half", 0.5)])
def test_a_submission_gets_the_points_of_its_right_answers(
    course: Path, name: str, student: str, share: float
) -> None:
    numbers = list(cells(read(course, "source", name), "test"))
    assert len(numbers) >= 2
    right = {f"ex-{number.replace('.', '-')}-test" for number in answered(numbers, share)}
    found = scores(course, name, student)
    assert len(found) == len(numbers)
    for cell, (score, maximum) in found.items():
        assert maximum in {1, 2}
        assert score == (maximum if cell in right else 0), f"{student}: {cell}"


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("student", ["ready", "stub", "half"])
def test_feedback_is_there(course: Path, name: str, student: str) -> None:
    page = (course / "feedback" / student / name / f"{name}.html").read_text()
    assert "ex-" in page
    assert ("AssertionError" in page) == (student != "ready")


@pytest.mark.parametrize("name", GRADED)
def test_release_holds_no_solution_and_no_hidden_test(course: Path, name: str) -> None:
    text = (course / "release" / name / f"{name}.ipynb").read_text()
    source = (course / "source" / name / f"{name}.ipynb").read_text()
    for marker in MARKERS:
        assert marker in source
        assert marker not in text
    release = read(course, "release", name)
    for cell in cells(read(course, "source", name), "answer").values():
        solution = cell.source.split("### BEGIN SOLUTION\n")[1].splitlines()
        assert [line for line in solution if len(line) > 20 and line.strip() in text] == []
    written = cells(release, "words")
    assert {cell.source for cell in written.values()} <= {"*Your argument here.*"}


@pytest.mark.parametrize("name", GRADED)
def test_release_runs_and_asks_for_answers(
    course: Path, name: str, torch_as_it_was: None, capsys: pytest.CaptureFixture[str]
) -> None:
    release = read(course, "release", name)
    namespace: dict[str, object] = {}
    for cell in release.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), namespace)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(cells(release, "check"))
    assert all("no answer yet" in line for line in said)


def test_course_explains_itself(course: Path) -> None:
    text = (course / "README.md").read_text()
    for name in GRADED:
        assert re.search(rf"^\| {name} \| \d+ \| \d+ \| \d+ \|$", text, re.MULTILINE)
    assert "{" not in text


def test_a_failed_build_leaves_the_old_course(course: Path, tmp_path: Path) -> None:
    old = tmp_path / "assignments"
    shutil.copytree(course / "source", old / "source")
    with pytest.raises(ToolError, match="no page shows"):
        assignments.build(old, only=["03_linear_layers_and_shared_weights"], references={})
    assert [path.name for path in tmp_path.iterdir()] == ["assignments"]
    assert (old / "source" / GRADED[0]).is_dir()


# Answers


def exercise(stub: str, *solution: str) -> Exercise:
    return Exercise("09.2", "ex-09-2", "Title", "compute", "Say.", stub, "Text.", solution)


FUNCTION = 'def f(x):\n    ...\n\n\ncheck("09.2", f)'


@pytest.mark.parametrize(
    ("stub", "solution", "expected"),
    [
        (FUNCTION, 'def f(x):\n    return x\n\n\ncheck("09.2", f)', "def f(x):\n    return x"),
        (FUNCTION, 'check("09.2", lambda x: x)\nprint(1)', "f = lambda x: x"),
        (
            FUNCTION,
            'def g(x):\n    return x\n\ncheck("09.2", g)',
            "def g(x):\n    return x\n\nf = g",
        ),
        (
            'a = ...\n\ncheck("09.2", a)',
            'u = 3  # why\ncheck("09.2", (u, 1 / u))',
            "u = 3  # why\na = (u, 1 / u)",
        ),
        ('a = ...\ncheck("09.2", a)', 'check(\n    "09.2",\n    {1, 2},\n)', "a = {1, 2}"),
    ],
)
def test_solution_gives_the_name_of_the_stub_its_value(
    stub: str, solution: str, expected: str
) -> None:
    assert answers.answer(exercise(stub, solution)).solution == expected


def test_cells_of_a_solution_belong_together() -> None:
    given = answers.answer(exercise(FUNCTION, "k = 2", 'check("09.2", lambda x: k * x)', "1 / 0"))
    assert given.solution == "k = 2\n\nf = lambda x: k * x"


def test_dots_stand_on_a_line_of_their_own() -> None:
    given = answers.answer(exercise('def f(x): ...\n\n\ncheck("09.2", f)', 'check("09.2", abs)'))
    assert given.stub == "def f(x):\n    ..."
    assert given.check == 'check("09.2", f)'


@pytest.mark.parametrize(
    ("stub", "solution", "message"),
    [
        ("def f(x):\n    ...", "", "the stub must end in its check"),
        ('check("09.2", 3)', "", "the stub must check a name"),
        ('f = ...\ncheck("09.3", f)', "", "the stub must end in its check"),
        (FUNCTION, "def f(x):\n    return x", "no cell of its solution calls check"),
    ],
)
def test_what_cannot_be_graded_is_named(stub: str, solution: str, message: str) -> None:
    with pytest.raises(ToolError, match=f"exercise 09.2: {message}"):
        answers.answer(exercise(stub, solution))


IMPORTS = "import json\nimport math\n\nimport torch\n\nmath.fsum([])\njson.dumps(1)"


def graded(solution: str) -> answers.Answer:
    return answers.Answer("f", "f = ...", 'check("09.2", f)', solution)


def test_setup_holds_what_the_answers_need() -> None:
    check = "from balancing.exercises import check"
    code = [
        f"{IMPORTS}\n{check}",
        "import pandas as pd\nSIZE = (3, 4)\n\n\ndef twice(x):\n    return 2 * x",
    ]
    assert answers.setup(code, [graded("f = 1")]) == (
        f"import math\n\nimport torch\n\nmath.fsum([])\n{check}"
    )
    text = answers.setup(code, [graded("f = twice(SIZE)")])
    assert text.endswith("SIZE = (3, 4)\n\ndef twice(x):\n    return 2 * x")
    assert "pandas" not in text
    assert "pandas" in answers.setup(code, [graded("f = 1")], named=["pd", "missing"])


@pytest.mark.parametrize("code", ["net = print()", "net = 3\nnet = 4", "for net in range(3): net"])
def test_setup_refuses_what_only_the_chapter_computes(code: str) -> None:
    check = "from balancing.exercises import check"
    with pytest.raises(ToolError, match="a solution needs 'net'"):
        answers.setup([check, code], [graded("f = net")])


# Words


def test_references_become_words() -> None:
    names = {"eq-a": "(12)", "thm-b": "Theorem 3"}
    text = (
        "By {eq}`eq-a`, {prf:ref}`thm-b` and [](#thm-b) {cite:p}`srebro2004`, see\n"
        "[the report](claims.ipynb), {func}`balancing.balance`, $\\text{in}$ and [a](https://b.c):\n\n"
        "```{math}\n:label: eq-c\nx = 1\n```\n\n$$\ny\n$$ (eq-d)"
    )
    assert words.plain(text, names, words.bibliography()) == (
        "By (12), Theorem 3 and Theorem 3 (Srebro et al., 2004), see\n"
        "the report, `balancing.balance`, $\\text{in}$ and [a](https://b.c):\n\n"
        "$$\nx = 1\n$$\n\n$$\ny\n$$"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{eq}`eq-none`", "no page shows 'eq-none'"),
        ("{cite:t}`none2020`", "the bibliography has no 'none2020'"),
        ("{strange}`x`", "no plain form of the role '{strange}`x`'"),
        ("Text.\n\n:::{tip}\nBody.\n:::", "no plain form of ':::{tip}'"),
    ],
)
def test_what_has_no_words_is_named(text: str, message: str) -> None:
    with pytest.raises(ToolError, match=re.escape(message)):
        words.plain(text, {}, words.bibliography())


def test_numbers_are_those_of_the_pages(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "09.html").write_text(
        '<div class="math notranslate nohighlight" id="equation-eq-a">\n<span class="eqno">(38)<a '
        'class="headerlink" href="#equation-eq-a">#</a></span>x</div>\n'
        '<div class="proof theorem admonition" id="thm-b">\n<p class="admonition-title">'
        '<span class="caption-number">Theorem 10 </span> (Title)</p>\n'
        '<figure class="align-default" id="fig-c">\n<svg id="x"></svg><figcaption>\n'
        '<p><span class="caption-number">Fig. 27 </span>Text</p></figcaption></figure>'
    )
    assert words.numbers(tmp_path) == {"eq-a": "(38)", "thm-b": "Theorem 10", "fig-c": "Fig. 27"}

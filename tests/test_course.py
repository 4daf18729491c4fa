"""The editions of the course: what each holds, that it runs, and that nothing leaks to students."""

import html
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from tools import ROOT, ToolError, colab, notebooks, site
from tools.course import __main__ as course
from tools.course import editions, sources

CHAPTERS = [path for path in notebooks.chapters() if path.stem[:2].isdigit()]
each_chapter = pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)

# Shorter lines and parts of sentences say nothing by themselves.
SHORTEST_LINE = 12
SHORTEST_WORDS = 25

RAW = re.compile(
    r"^\s*(:::|`{3,}\{|\+\+\+|%|\([\w-]+\)=$)|\{(prf:ref|cite|eq|ref|numref|func|class|mod)\b",
    re.MULTILINE,
)
# What only our own words for it would be called.
TELLING = ("solution-start", "solution-content", "For the lecturer", "Answers to the quiz")
FORMULA = re.compile(r"\$\$?[^$]*\$?\$|\{[\w:-]+\}`[^`]*`|```.*?```|`[^`]*`", re.DOTALL)


@pytest.fixture(scope="session")
def made() -> Path:
    """The folder of the course, built where it is missing or stale."""
    course.build()
    return editions.OUT


@pytest.fixture(scope="session")
def page_folder() -> Path:
    """The public site."""
    return site.build().parent


@pytest.fixture(scope="session")
def student_files(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All that students get: notebooks, site, the zip unpacked, and the released assignments."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(made / "student" / editions.ARCHIVE) as zipped:
        zipped.extractall(unpacked)
    folders = [made / "student", unpacked, made / "assignments" / "release"]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[NotebookNode]:
    return [cell for cell in load(path).cells if cell.cell_type == "code"]


def texts_of(path: Path) -> str:
    return "\n\n".join(cell.source for cell in load(path).cells if cell.cell_type == "markdown")


# Leaks.


def plain(text: str) -> str:
    """Words without markup, so that a page, a notebook and a source can be compared."""
    text = re.sub(r"</?[A-Za-z][^<>]*>", "", text)
    text = re.sub(r"^(> ?)+", "", text, flags=re.MULTILINE)  # a box of a notebook
    text = html.unescape(text).replace("\\n", " ").replace('\\"', '"')
    for typeset, typed in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("…", "...")):
        text = text.replace(typeset, typed)
    return " ".join(text.split())


def readable(path: Path) -> str:
    """The plain words of a file, or "" of pictures and of what other projects made."""
    if "vendor" in path.parts or path.suffix in {".png", ".woff", ".woff2", ".ttf", ".zip"}:
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        outputs = [json.dumps(cell.get("outputs", "")) for cell in cells]
        text = "\n".join(["".join(cell["source"]) for cell in cells] + outputs)
    return plain(text)


def words(myst: str) -> list[str]:
    """The parts of sentences that stand in any form of a text: without formulas, links and code."""
    parts = re.split(r"[*\[\]()|>#]|\s-\s|^\d+\.|(?<=[.:;?!])\s|\n\s*\n", FORMULA.sub("|", myst))
    return [part for part in map(plain, parts) if len(part) >= SHORTEST_WORDS]


def hidden(text: str, kinds: set[str]) -> Iterator[str]:
    """Lines and parts of sentences of a chapter's solutions, or of its blocks of some kinds."""
    for exercise in sources.exercises(text) if "solution" in kinds else ():
        yield from words(exercise.solution_text)
        for code in exercise.solution_code:
            lines = (plain(line) for line in code.splitlines())
            yield from (line for line in lines if len(line) >= SHORTEST_LINE)
            yield from re.findall(r"\b\w+_solution\b", code)
    for block in sources.blocks(text):
        if block.kind in kinds - {"solution"}:
            yield from words(re.sub(r"^\s*:.*$", "", block.body, flags=re.MULTILINE))


@cache
def secrets(*kinds: str) -> dict[str, str]:
    """What must not reach students -> the chapter that it is from."""
    everything = {path.stem: path.read_text(encoding="utf-8") for path in notebooks.chapters()}
    student = {name: sources.edition(text, "student") for name, text in everything.items()}
    public = plain("\n".join(student.values()))
    public += " ".join(part for text in student.values() for part in words(text))
    quizzes = sorted((ROOT / "balancing" / "quizzes").glob("*.toml"))
    public += plain("\n".join(path.read_text(encoding="utf-8") for path in quizzes))
    wanted = set(kinds or ("solution", "teaching", "slide"))
    found = dict.fromkeys(TELLING, "any chapter")
    for name, text in everything.items():
        found |= {each: name for each in hidden(text, wanted) if each not in public}
    return found


def leaks(path: Path) -> Iterator[str]:
    """What a file tells that it must not."""
    text = readable(path)
    for secret, chapter in secrets().items():
        if secret in text:
            yield f"{path}: from {chapter}: {secret}"


def test_there_are_secrets_of_every_chapter() -> None:
    counted = {
        name: sum(origin == name for origin in secrets().values())
        for name in (path.stem for path in CHAPTERS)
    }
    print(sum(counted.values()), "secrets:", counted)
    assert min(counted.values()) >= 5, counted


def test_nothing_leaks_to_students(student_files: list[Path]) -> None:
    found = [leak for path in student_files for leak in leaks(path)]
    assert found == []
    kinds = {path.suffix for path in student_files}
    assert kinds >= {".ipynb", ".html", ".js", ".zip", ".md"}


@each_chapter
def test_instructor_has_what_students_must_not_see(made: Path, source: Path) -> None:
    """So the search would find it: here it reads the same kinds of files in the same way."""
    everything = secrets("solution", "teaching")
    expected = {secret for secret, origin in everything.items() if origin == source.stem}
    for path in (
        made / "instructor" / "notebooks" / f"{source.stem}.ipynb",
        made / "instructor" / "site" / "book" / f"{source.stem}.html",
    ):
        text = readable(path)
        assert [secret for secret in expected if secret not in text] == []


@pytest.mark.parametrize("kind", ["notebook", "page", "search", "preview"])
def test_planted_leak_is_found(made: Path, tmp_path: Path, kind: str) -> None:
    exercise = sources.exercises(CHAPTERS[0].read_text())[0]
    line = max(exercise.solution_code[0].splitlines(), key=len)
    name = CHAPTERS[0].stem
    student = made / "student"
    planted = tmp_path / "planted"
    if kind == "notebook":
        planted = planted.with_suffix(".ipynb")
        notebook = load(student / "notebooks" / f"{name}.ipynb")
        notebook.cells[-1].source += f"\n{line}"
        nbformat.write(notebook, planted)
    elif kind == "page":
        planted = planted.with_suffix(".html")
        page = (student / "site" / "book" / f"{name}.html").read_text()
        marked = re.sub(r"(\w+)", r'<span class="n">\1</span>', html.escape(line, quote=False))
        planted.write_text(page.replace("</p>", f"</p>{marked}", 1))
    elif kind == "search":
        planted = planted.with_suffix(".js")
        found = re.search(r"\b\w+_solution\b", exercise.solution_code[0])
        assert found is not None
        index = (student / "site" / "searchindex.js").read_text()
        planted.write_text(index.replace('"terms":', f'"terms":{{"{found[0]}":1}},"x":', 1))
    else:
        planted = planted.with_suffix(".js")
        planted.write_text(json.dumps({"tip": f"<p>{words(exercise.solution_text)[0]}</p>"}))
    assert list(leaks(planted)) != []


def test_student_site_has_no_solutions(made: Path) -> None:
    for path in (made / "student" / "site" / "book").glob("[0-9][0-9]_*.html"):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        assert soup.select(".solution, .teaching") == []
        assert soup.select(".exercise"), path.name
        headings = soup.select("h1, h2, h3, h4, .admonition-title, summary")
        assert [each.text for each in headings if "solution" in each.text.lower()] == []
        buttons = [a["href"] for a in soup.select(".article-header-buttons a[href]")]
        assert [each for each in buttons if "://" in each] == [], "these lead to the public book"


# Notebooks.


@each_chapter
def test_instructor_notebook_is_the_executed_one(made: Path, source: Path) -> None:
    """So what nbval finds of one, it finds of the other."""
    path = made / "instructor" / "notebooks" / f"{source.stem}.ipynb"
    assert code_of(path) == code_of(source.with_suffix(".ipynb"))


@each_chapter
def test_public_notebook_is_the_executed_one(page_folder: Path, source: Path) -> None:
    path = page_folder / "notebooks" / f"{source.stem}.ipynb"
    assert code_of(path) == code_of(source.with_suffix(".ipynb"))


@each_chapter
def test_student_notebook_is_the_executed_one_but_for_solutions(made: Path, source: Path) -> None:
    student = code_of(made / "student" / "notebooks" / f"{source.stem}.ipynb")
    text = source.read_text(encoding="utf-8")
    kept = {colab.CELL_ID}
    executed = code_of(source.with_suffix(".ipynb"))
    ours = [cell for cell in executed if cell.id != colab.CELL_ID]
    kept |= {ours[index].id for index in sources.kept_cells(text, "student")}
    assert len(kept) < len(executed) or not any(
        exercise.solution_code for exercise in sources.exercises(text)
    )
    assert [cell.execution_count for cell in student] == list(range(1, len(student) + 1))
    for cell in [*student, *executed]:
        cell.execution_count = None
        for output in cell.outputs:
            output.pop("execution_count", None)
    assert student == [cell for cell in executed if cell.id in kept]
    code = "\n".join(cell.source for cell in student)
    for exercise in sources.exercises(text):
        if exercise.stub:
            assert f'check("{exercise.number}"' in code


@each_chapter
def test_student_notebook_defines_what_it_uses(made: Path, source: Path) -> None:
    """A cell below an exercise must not lean on its solution."""
    cells = code_of(made / "student" / "notebooks" / f"{source.stem}.ipynb")
    assert undefined("\n".join(cell.source for cell in cells)) == ""


def undefined(code: str) -> str:
    """What ruff says of names that nothing in the code defines."""
    command = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--select=F821", "-q"]
    done = subprocess.run([*command, "-"], input=code, capture_output=True, text=True, check=False)
    return done.stdout


def test_undefined_name_is_found() -> None:
    assert "F821" in undefined("print(answer_solution)")


def all_notebooks(made: Path, page_folder: Path) -> list[Path]:
    folders = [page_folder / "notebooks", *(made / name / "notebooks" for name in editions.NAMES)]
    return [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]


def test_markdown_is_plain(made: Path, page_folder: Path) -> None:
    found = all_notebooks(made, page_folder)
    assert len(found) == 3 * (len(notebooks.chapters()) + 1)  # and the notation
    for path in found:
        raw = [found.group() for found in RAW.finditer(texts_of(path))]
        assert raw == [], path


@pytest.mark.parametrize(
    "text", [":::{note}", "```{math}", "by {prf:ref}`a`", "(eq-a)=", "% no", "+++", "{cite:t}`a`"]
)
def test_raw_markup_is_found(text: str) -> None:
    assert RAW.search(f"Words.\n{text}\n")


NAMED = re.compile(
    r"(?:Theorem|Proposition|Definition|Lemma|Corollary|Exercise|Fig\.) \d+(?:\.\d+)?"
)


@each_chapter
def test_numbers_are_those_of_the_site(page_folder: Path, source: Path) -> None:
    soup = BeautifulSoup((page_folder / "book" / f"{source.stem}.html").read_text(), "html.parser")
    text = texts_of(page_folder / "notebooks" / f"{source.stem}.ipynb")

    boxes = [each.text.strip() for each in soup.select(".caption-number")]
    assert boxes
    assert sorted(re.findall(rf"\*\*({NAMED.pattern})", text)) == sorted(boxes)

    equations = [each.text.rstrip("#") for each in soup.select(".eqno")]
    assert [f"({number})" for number in re.findall(r"\\tag\{(\d+)\}", text)] == equations

    links = [a.text.strip() for a in soup.select("article a.reference.internal")]
    mentioned = [each for each in links if re.fullmatch(rf"\(\d+\)|{NAMED.pattern}", each)]
    ours = re.findall(rf"\[(\(\d+\)|{NAMED.pattern})\]\(", text)
    assert sorted(ours) == sorted(mentioned)


@each_chapter
def test_links_lead_to_what_is_there(page_folder: Path, source: Path) -> None:
    folder = page_folder / "notebooks"
    text = texts_of(folder / f"{source.stem}.ipynb")
    for name, anchor in re.findall(r"\]\(([\w.]*)#?([\w-]*)\)", text):
        assert not name or (folder / name).is_file()
        there = texts_of(folder / name) if name else text
        if anchor and anchor != "exercises":
            assert f'<a id="{anchor}"></a>' in there, (name, anchor)


def run_nbval(path: Path) -> subprocess.CompletedProcess[str]:
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={ROOT}/tests/nbval.cfg"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    return subprocess.run(
        [*command, "-c", "/dev/null", *options, path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def quickest(count: int) -> list[str]:
    """Names of the chapters that run in the shortest time."""
    seconds = {
        path.stem: load(path.with_suffix(".ipynb")).metadata.balancing.seconds for path in CHAPTERS
    }
    return sorted(seconds, key=lambda name: seconds[name])[:count]


@pytest.mark.parametrize(("edition", "rank"), [("student", 0), ("student", 1), ("instructor", 0)])
def test_notebook_runs_and_prints_the_same(made: Path, edition: str, rank: int) -> None:
    path = made / edition / "notebooks" / f"{quickest(2)[rank]}.ipynb"
    done = run_nbval(path)
    assert done.returncode == 0, done.stdout
    assert f"{len(code_of(path))} passed" in done.stdout


def test_wrong_output_is_found(made: Path, tmp_path: Path) -> None:
    """nbval compares; it does not only run."""
    path = tmp_path / "wrong.ipynb"
    notebook = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("stream", name="stdout", text="3\n")
    notebook.cells = [nbformat.v4.new_code_cell("print(2)", outputs=[output], execution_count=1)]
    nbformat.write(notebook, path)
    assert run_nbval(path).returncode == 1


# How editions are made.


def test_stale_notebook_is_refused(tmp_path: Path) -> None:
    source = Path(shutil.copy(CHAPTERS[0], tmp_path))
    shutil.copy(CHAPTERS[0].with_suffix(".ipynb"), tmp_path)
    text = source.read_text()
    source.write_text(text.replace("```{code-cell} ipython3\n", "```{code-cell} ipython3\n1\n", 1))
    with pytest.raises(ToolError, match=f"{source.stem}.ipynb is not of {source.name}"):
        editions.chapter(source, "student")


def test_current_course_is_not_built_again(made: Path) -> None:
    seconds = course.build()
    assert max(seconds.values()) < 5


def test_folders_say_what_they_are(made: Path) -> None:
    for name in editions.NAMES:
        folder = made / name
        assert "jupyter lab notebooks" in (folder / "README.md").read_text()
        assert (folder / "site" / "index.html").is_file()
        assert any((folder / "notebooks" / "results").glob("*.csv"))
        assert not any("_sources" in path.parts for path in folder.rglob("*"))

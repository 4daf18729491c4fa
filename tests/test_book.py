"""Chapters and their notebooks belong together, and were made from what is here now."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools import ROOT, ToolError, colab, notebooks, site

REMEDY = "run: make refresh (or .venv/bin/python -m tools.notebooks refresh {name})"

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} ipython3
:tags: [hide-input]

%s
```
"""

CHAPTERS = notebooks.chapters()
each_chapter = pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)


def load(source: Path) -> NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def written(notebook: NotebookNode) -> list[tuple[str, str, dict]]:
    """What an author writes in a notebook: everything but outputs and counts."""
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def drift(source: Path) -> list[int]:
    """Numbers of the cells in which a chapter's source and its notebook differ."""
    left, right = written(notebooks.source_notebook(source)), written(load(source))
    pairs = enumerate(zip(left, right, strict=False), start=1)
    differing = [number for number, (one, other) in pairs if one != other]
    shorter, longer = sorted((len(left), len(right)))
    return differing + list(range(shorter + 1, longer + 1))


def speaks(code: str) -> bool:
    """Whether a cell ends in something that shows a result: print(...), show(...), a bare name."""
    body = ast.parse("\n".join(line for line in code.splitlines() if line[:1] not in "%!")).body
    if not body or not isinstance(body[-1], ast.Expr) or code.rstrip().endswith(";"):
        return False
    value = body[-1].value
    if not isinstance(value, ast.Call):
        return not isinstance(value, ast.Constant) or value.value is not None
    called = (
        value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    )
    return called in {"print", "show", "display"}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A book of one executed chapter, small enough to break; returns the chapter's source."""
    (tmp_path / "balancing").mkdir()
    (tmp_path / "balancing" / "norms.py").write_text("TWO = 2\n")
    (tmp_path / "constraints.txt").write_text("numpy==1\n")
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "results" / "table.csv").write_text("1\n")
    source = tmp_path / "book" / "01_tiny.md"
    source.write_text(HEADER % "print(1 + 1)")
    assert notebooks.refresh(tmp_path) == ["01_tiny"]
    return source


def test_there_are_chapters() -> None:
    """The checks below run once for each chapter: without one they would pass in silence."""
    assert CHAPTERS


@each_chapter
def test_notebook_is_current(source: Path) -> None:
    assert source.with_suffix(".ipynb").is_file(), REMEDY.format(name=source.stem)
    assert not notebooks.is_stale(source), (
        f"{source.stem}: the chapter, the library, constraints.txt or book/results changed after "
        f"the notebook was executed; {REMEDY.format(name=source.stem)}"
    )


@each_chapter
def test_source_and_notebook_agree(source: Path) -> None:
    assert drift(source) == [], f"these cells differ; {REMEDY.format(name=source.stem)}"


@each_chapter
def test_every_cell_was_executed_in_order(source: Path) -> None:
    code = [cell for cell in load(source).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds, cell.source
        assert kinds or not speaks(cell.source), f"shows nothing:\n{cell.source}"


@each_chapter
def test_notebook_carries_nothing_of_this_machine(source: Path) -> None:
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert "application/vnd.jupyter.widget-view+json" not in text, "widgets are dead on the page"


def test_only_live_cells_are_timed(tiny: Path) -> None:
    tiny.write_text(
        HEADER.replace("[hide-input]", "[live]") % "import time\n\ntime.sleep(0.3)"
        + "\n```{code-cell} ipython3\nprint(2)\n```\n"
    )
    notebooks.refresh(tiny.parents[1])
    [(cell, seconds)] = load(tiny).metadata.balancing.live.items()
    assert cell == "c002"
    assert 0.3 <= seconds <= load(tiny).metadata.balancing.seconds


def test_refresh_executes_nothing_on_an_unchanged_tree(tiny: Path) -> None:
    before = tiny.with_suffix(".ipynb").stat().st_mtime_ns
    assert notebooks.refresh(tiny.parents[1]) == []
    assert tiny.with_suffix(".ipynb").stat().st_mtime_ns == before


def test_executed_notebook_is_deterministic(tiny: Path) -> None:
    first = load(tiny)
    assert first.cells[2].outputs[0].text == "2\n"
    assert [cell.id for cell in first.cells] == ["c001", colab.CELL_ID, "c002"]
    assert "version" not in first.metadata.language_info
    assert set(first.metadata.balancing) == {"hash", "seconds", "live"}
    notebooks.refresh(tiny.parents[1], every=True)
    again = load(tiny)
    first.metadata.balancing.pop("seconds")
    again.metadata.balancing.pop("seconds")
    assert again == first


@pytest.mark.parametrize(
    "changed",
    ["book/01_tiny.md", "balancing/norms.py", "constraints.txt", "book/results/table.csv"],
)
def test_a_change_makes_the_notebook_stale(tiny: Path, changed: str) -> None:
    root = tiny.parents[1]
    assert not notebooks.is_stale(tiny, root)
    with (root / changed).open("a") as file:
        file.write("\n")
    assert notebooks.is_stale(tiny, root)


@pytest.mark.parametrize("name", ["widget.js", "01.toml"])
def test_a_new_library_file_makes_the_notebook_stale(tiny: Path, name: str) -> None:
    root = tiny.parents[1]
    (root / "balancing" / name).write_text("")
    assert notebooks.is_stale(tiny, root)


def test_another_setup_for_colab_makes_the_notebook_stale(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = colab.setup_cell()
    cell.source += "\n"
    monkeypatch.setattr(colab, "setup_cell", lambda: cell)
    assert notebooks.is_stale(tiny, tiny.parents[1])


def test_setup_for_colab_comes_once_and_before_all_code(tiny: Path) -> None:
    code = [cell for cell in load(tiny).cells if cell.cell_type == "code"]
    assert [cell.id == colab.CELL_ID for cell in code] == [True, False]


@pytest.mark.parametrize(
    "edit",
    [
        ("print(1 + 1)", "print(1 + 2)"),
        ("hide-input", "hide-output"),
        ("# A chapter", "# Another"),
        ("```{code-cell}", "+++\n\nMore words.\n\n```{code-cell}"),
    ],
)
def test_drift_is_caught(tiny: Path, edit: tuple[str, str]) -> None:
    assert drift(tiny) == []
    tiny.write_text(tiny.read_text().replace(*edit))
    assert drift(tiny) != []


def test_failing_cell_is_named_and_leaves_the_old_notebook(tiny: Path) -> None:
    notebook = tiny.with_suffix(".ipynb")
    before = notebook.read_bytes()
    tiny.write_text(HEADER % "1 / 0")
    with pytest.raises(ToolError, match=r"01_tiny.md, code cell 1 of 1: ZeroDivisionError"):
        notebooks.refresh(tiny.parents[1])
    assert notebook.read_bytes() == before
    assert [path.name for path in tiny.parent.iterdir() if path.name.startswith(".")] == []


def test_unknown_name_is_refused(tiny: Path) -> None:
    with pytest.raises(ToolError, match="no chapter 99_none; there are: 01_tiny"):
        notebooks.refresh(tiny.parents[1], only=["99_none"])


def test_plain_pages_are_not_chapters(tiny: Path) -> None:
    shutil.copy(tiny, tiny.with_name("02_other.md"))
    tiny.with_name("intro.md").write_text("# Welcome\n\nformat_name: myst\n")
    names = [path.stem for path in notebooks.chapters(tiny.parents[1])]
    assert names == ["01_tiny", "02_other"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(1)", True),
        ("x = 1\nx", True),
        ("plots.show(figure)", True),
        ("x = 1", False),
        ("assert_close(a, b)", False),
        ("x;", False),
        ("%matplotlib inline\nimport math", False),
    ],
)
def test_speaks(code: str, expected: bool) -> None:
    assert speaks(code) is expected


def test_site_depends_on_every_quiz(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: set[Path] = set()
    monkeypatch.setattr(notebooks, "hash_files", lambda paths: hashed.update(paths) or "")
    site.fingerprint()
    library = ROOT / "balancing"
    assert library / "norms.py" in hashed
    assert set(library.rglob("*.toml")) <= hashed

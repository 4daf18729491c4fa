"""The notebooks of an installation: what is there, and copies of it."""

from pathlib import Path

import pytest

from balancing import course
from balancing.cli import main
from balancing.course import copy_notebooks, editions

CapSys = pytest.CaptureFixture[str]


def fill(folder: Path, *names: str) -> None:
    (folder / "results").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for name in (*names, "notation.ipynb", ".ipynb_checkpoints/01_first.ipynb"):
        (folder / name).write_text(f"{folder.name}: {name}")
    (folder / "results" / "table.csv").write_text("1\n")


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with two editions; returns the folder that they are in."""
    folder = tmp_path / "site-packages" / "balancing" / "course_files"
    fill(folder / "book", "01_first.ipynb", "02_second.ipynb", "12_last.ipynb")
    fill(folder / "student", "01_first.ipynb", "02_second.ipynb")
    monkeypatch.setattr(course, "_CARRIED", folder)
    monkeypatch.setattr(course, "_CLONE", tmp_path / "site-packages")
    return folder


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository in which nothing was built."""
    monkeypatch.setattr(course, "_CARRIED", tmp_path / "balancing" / "course_files")
    monkeypatch.setattr(course, "_CLONE", tmp_path)
    (tmp_path / "Makefile").touch()
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "results" / "table.csv").write_text("1\n")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_editions_of_an_installation(carried: Path) -> None:
    there = editions()
    assert list(there) == ["book", "student"]
    assert there["book"].chapters == ("01_first", "02_second", "12_last")
    assert there["student"].size == sum(
        (carried / "student" / name).stat().st_size
        for name in ("01_first.ipynb", "02_second.ipynb", "notation.ipynb", "results/table.csv")
    )


def test_copy_holds_all_that_chapters_read(carried: Path, tmp_path: Path) -> None:
    here = tmp_path / "new" / "here"
    copies = copy_notebooks(here)
    assert copies == [here / "01_first.ipynb", here / "02_second.ipynb"]
    assert files(here) == [
        "01_first.ipynb",
        "02_second.ipynb",
        "notation.ipynb",
        "results/table.csv",
    ]
    assert (here / "01_first.ipynb").read_text() == "student: 01_first.ipynb"


@pytest.mark.parametrize("chapter", ["2", "02", "02_second", "02_second.ipynb"])
def test_one_chapter(carried: Path, tmp_path: Path, chapter: str) -> None:
    here = tmp_path / "here"
    assert copy_notebooks(here, "book", [chapter]) == [here / "02_second.ipynb"]
    assert files(here) == ["02_second.ipynb", "notation.ipynb", "results/table.csv"]
    copy_notebooks(here, "book", ["12"])  # what both need is there already
    assert len(files(here)) == 4


def test_own_work_is_not_replaced(carried: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    copy_notebooks(here)
    (here / "02_second.ipynb").write_text("my work")
    (here / "01_first.ipynb").unlink()
    with pytest.raises(FileExistsError, match=r"nothing was .*02_second\.ipynb' would"):
        copy_notebooks(here)
    assert not (here / "01_first.ipynb").exists()
    assert (here / "02_second.ipynb").read_text() == "my work"
    copy_notebooks(here, force=True)
    assert (here / "02_second.ipynb").read_text() == "student: 02_second.ipynb"
    assert (here / "01_first.ipynb").exists()


def test_another_edition_is_not_mixed_in(carried: Path, tmp_path: Path) -> None:
    copy_notebooks(tmp_path / "here")
    with pytest.raises(FileExistsError, match=r"01_first\.ipynb' and 2 more would be"):
        copy_notebooks(tmp_path / "here", "book")


def test_an_interrupted_copy_leaves_whole_files(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = course.shutil.copyfile

    def interrupted(source: Path, target: Path) -> None:
        copyfile(source, target)
        if Path(source).name == "02_second.ipynb":
            Path(target).write_text("stu")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(course.shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_notebooks(tmp_path / "here")
    assert files(tmp_path / "here") == ["01_first.ipynb"]
    copy_notebooks(tmp_path / "here")
    assert len(files(tmp_path / "here")) == 4


def test_unknown_names_are_answered_with_those_that_there_are(
    carried: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no edition 'instructor' .*there are: book, student"):
        copy_notebooks(tmp_path / "here", "instructor")
    with pytest.raises(ValueError, match=r"no chapter '12' in the edition 'student': 01, 02"):
        copy_notebooks(tmp_path / "here", "student", ["12"])
    assert not (tmp_path / "here").exists()


def test_a_file_is_no_folder(carried: Path, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(FileExistsError, match="it is not a folder"):
        copy_notebooks(tmp_path / "here")


def test_clone_names_the_command_that_builds(clone: Path, tmp_path: Path, capsys: CapSys) -> None:
    for edition, command in (("book", "make book"), ("student", "make course")):
        with pytest.raises(
            ValueError, match=f"'{edition}' has not been built here; run: {command}"
        ):
            copy_notebooks(tmp_path / "here", edition)
    assert main(["course", "--list"]) == 1
    assert "make book course" in capsys.readouterr().out


def test_clone_uses_what_was_built(clone: Path, tmp_path: Path) -> None:
    fill(clone / "dist" / "course" / "student" / "notebooks", "01_first.ipynb")
    pages = clone / "_build" / "html" / "notebooks"
    pages.mkdir(parents=True)
    (pages / "01_first.ipynb").write_text("book")
    assert list(editions()) == ["book", "student"]
    copy_notebooks(tmp_path / "here", "book")
    assert files(tmp_path / "here") == ["01_first.ipynb", "results/table.csv"]


def test_installation_without_notebooks_says_so(clone: Path, tmp_path: Path) -> None:
    (clone / "Makefile").unlink()
    with pytest.raises(ValueError, match="carries no notebooks"):
        copy_notebooks(tmp_path / "here")


def test_command_lists_and_copies(carried: Path, tmp_path: Path, capsys: CapSys) -> None:
    assert main(["course", "--list"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["chapter", "book", "student"]
    assert [row.split()[0] for row in rows] == ["01_first", "02_second", "12_last"]
    assert rows[-1].split()[-1] == "–"
    assert total.startswith("with recorded results")
    here = str(tmp_path / "here")
    assert main(["notebooks", here, "--chapter", "01"]) == 0
    assert "1 notebook of the edition 'student'" in capsys.readouterr().out
    assert main(["notebooks", here, "--edition", "book"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["notebooks", here, "--edition", "book", "--force"]) == 0
    assert (tmp_path / "here" / "01_first.ipynb").read_text() == "book: 01_first.ipynb"

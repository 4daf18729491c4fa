"""The wheel: built from what git tracks and two editions, used without the repository."""

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from balancing.course import Edition
from tools import ROOT, ToolError, notebooks, wheel
from tools.course import editions as course_editions

QUICK = ("01", "07")


def quick(folder: Path, name: str) -> Edition:
    """Two chapters as the edition has them, but for the form of their text."""
    folder.mkdir()
    for number in QUICK:
        [source] = (ROOT / "book").glob(f"{number}_*.md")
        nbformat.write(course_editions.chapter(source, name), folder / f"{source.stem}.ipynb")
    results = {f"results/{path.name}": path for path in (ROOT / "book" / "results").glob("*.*")}
    return Edition(name, tuple(sorted(folder.glob("*.ipynb"))), results)


@pytest.fixture(scope="module")
def available(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Edition]:
    folder = tmp_path_factory.mktemp("editions")
    return {name: quick(folder / name, name) for name in ("book", "student", "instructor")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, available: dict[str, Edition]) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return wheel.build(out=folder, stage=folder / "stage", available=available)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """Python of a new environment with the wheel; it sees the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    [packages] = (folder / "lib").glob("python*/site-packages")
    # As a plain folder: what its own .pth files do, such as finding the clone, does not happen.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", built], check=True)
    return python


def run(python: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    hidden = {"PYTHONPATH", "PYTEST_ADDOPTS"}
    return subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_holds_the_package_and_two_editions(
    built: Path, available: dict[str, Edition]
) -> None:
    names = zipfile.ZipFile(built).namelist()
    for name in ("book", "student"):
        for path in available[name].notebooks:
            assert f"balancing/course_files/{name}/{path.name}" in names
        assert any(each.startswith(f"balancing/course_files/{name}/results/") for each in names)
    assert [each for each in names if "instructor" in each] == []
    assert [each for each in names if each.startswith(("tests/", "tools/", "book/"))] == []
    assert [each for each in names if "__pycache__" in each] == []
    tracked = subprocess.run(
        ["git", "ls-files", "balancing"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) - set(names) == set()


def test_an_instructors_wheel_is_named_so(tmp_path: Path, available: dict[str, Edition]) -> None:
    path = wheel.build(["instructor"], out=tmp_path, stage=tmp_path / "s", available=available)
    assert path.name.endswith("-1instructor-py3-none-any.whl")
    assert any("/instructor/" in name for name in zipfile.ZipFile(path).namelist())


def test_an_edition_that_was_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no notebooks of the edition student here; run: make"):
        wheel.build(["student"], out=tmp_path, stage=tmp_path / "stage", available={})


def test_copied_notebooks_run_without_the_repository(installed: Path, tmp_path: Path) -> None:
    where = run(installed, "-c", "import balancing; print(balancing.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.parents[1]), where.stderr
    listed = run(installed, "-m", "balancing.cli", "course", "--list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[0].split() == ["chapter", "book", "student"]
    chapters = [part for number in QUICK for part in ("--chapter", number)]
    command = Path("bin") / "balancing"
    copied = run(
        installed, installed.parents[1] / command, "notebooks", "here", *chapters, cwd=tmp_path
    )
    assert copied.returncode == 0, copied.stderr
    here = tmp_path / "here"
    assert len(list(here.glob("[0-9]*.ipynb"))) == 2
    checked = run(
        installed,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"),
        f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}",
        cwd=here,
    )
    assert checked.returncode == 0, checked.stdout
    assert " passed" in checked.stdout


def test_extra_book_lists_what_notebooks_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["book"]
    listed = {canonicalize_name(Requirement(line).name) for line in lines}
    found = packages_distributions()
    for chapter in notebooks.chapters():
        for module in sorted(imported(chapter) - set(sys.stdlib_module_names)):
            if module not in {"balancing", "google"}:  # the second is Colab's own
                names = {canonicalize_name(name) for name in found.get(module, [module])}
                assert names & listed, f"{chapter.stem} imports {module}"


def imported(chapter: Path) -> set[str]:
    names: set[str] = set()
    for cell in notebooks.source_notebook(chapter).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                names |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names

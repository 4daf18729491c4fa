"""The files that describe the project agree with each other and with the tree."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import ROOT, picture

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]

# conda-forge's name of what pip calls otherwise: there the CPU build is a package of its own.
CONDA_NAMES = {"pytorch-cpu": "torch"}


def requirements(lines: list[str]) -> dict[str, str]:
    """Canonical name -> specifier."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): str(each.specifier) for each in parsed}


def tracked() -> list[Path]:
    """The files that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file()]


def test_environment_yml_equals_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [each for each in environment["dependencies"] if isinstance(each, str)]
    [pip] = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    found = requirements([line for line in pip if not line.startswith("-")])
    for line in conda:
        name, specifier = re.fullmatch(r"([\w-]+)(.*)", line).groups()
        if name in CONDA_NAMES:
            found[CONDA_NAMES[name]] = str(Requirement(f"x{specifier}").specifier)
    assert found == requirements(PYPROJECT["dependencies"] + EXTRAS["book"])
    assert f"python{PYPROJECT['requires-python']}" in conda
    assert "-e ." in pip, "the package itself is missing"


def test_constraints_pin_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+( ;.+)?", line)] == []
    pins = requirements(lines)
    wanted = requirements(
        PYPROJECT["dependencies"] + [each for extra in EXTRAS.values() for each in extra]
    )
    assert wanted.keys() - pins.keys() == set()
    for name, specifier in wanted.items():
        version = pins[name].removeprefix("==")
        assert Requirement(f"{name}{specifier}").specifier.contains(version), f"{name} {version}"


def test_torch_is_pinned_without_a_build() -> None:
    """A local version such as +cpu is not on the package index: the pin would not install."""
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_lock_file_names_no_registry() -> None:
    lock = json.loads((ROOT / "tools" / "assets" / "package-lock.json").read_text())
    packages = [each for name, each in lock["packages"].items() if name]
    assert packages
    assert [each for each in packages if "resolved" in each] == []
    assert [each for each in packages if "integrity" not in each] == []


def test_toc_names_files_that_exist() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"], *(each["file"] for part in toc["parts"] for each in part["chapters"])]
    missing = [n for n in names if not any((ROOT / (n + e)).is_file() for e in (".md", ".ipynb"))]
    assert missing == []
    chapters = {f"book/{path.stem}" for path in (ROOT / "book").glob("[0-9][0-9]_*.md")}
    assert chapters - set(names) == set(), "a chapter that no reader will find"


# A folder of someone's machine, or a kernel's temporary file in a warning that a cell printed.
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:home|Users|root|work)/[\w.-]+|/tmp/ipykernel_\d+")
PACKAGE_HOST = re.compile(rb"https?://[^/\s]*(?:pypi|npmjs|registry|mirror)")


def test_no_file_names_this_machine() -> None:
    found = []
    for path in tracked():
        content = path.read_bytes()
        hits = MACHINE_PATH.findall(content)
        if path.suffix in {".txt", ".yml", ".toml", ".json"}:
            hits += PACKAGE_HOST.findall(content)
        if str(ROOT).encode() in content:
            hits.append(str(ROOT).encode())
        found += [f"{path.relative_to(ROOT)}: {hit.decode()}" for hit in hits]
    assert found == []


@pytest.mark.parametrize(
    ("parts", "hits"),  # in parts, or this file would be found itself
    [
        (['"', "home", "ann"], 1),
        (["(", "tmp", "ipykernel_12"], 1),
        (["https:", "", "a.b", "home", "c"], 0),
    ],
)
def test_machine_paths_are_recognized(parts: list[str], hits: int) -> None:
    assert len(MACHINE_PATH.findall("/".join(parts).encode())) == hits


def test_readme_shows_the_figure_of_the_notebook() -> None:
    assert picture.PICTURE.read_bytes() == picture.png(), (
        "the README's picture is old: .venv/bin/python -m tools.picture"
    )
    name = picture.PICTURE.relative_to(ROOT).as_posix()
    assert f"]({name})" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "book/api.md"])
def test_examples_of_the_pages_run(page: str) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    exec(compile(example, page, "exec"), {})


def test_formulas_need_no_macros() -> None:
    """A macro defined for the site alone would be an error in every other viewer."""
    ours = re.compile(r"\\(norm|abs|inner|F|R)\b(?![a-zA-Z])")
    found = [path.name for path in (ROOT / "book").glob("*.md") if ours.search(path.read_text())]
    assert found == []
    assert "macros" not in (ROOT / "_config.yml").read_text()

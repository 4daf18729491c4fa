"""Around the chapters: the set-up for Colab, the card for links, the zip of the site."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tools import ROOT, card, colab, dist

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


class Machine:
    """Stands in for git, pip and Colab, and notes what they are asked to do."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.widgets = 0

    def run(self, command: list[str], *, check: bool) -> None:
        assert check, "a failure must stop the notebook"
        self.commands.append(command)
        if command[:2] == ["git", "clone"]:
            Path(command[-1], "book", "results").mkdir(parents=True)

    def enable_custom_widget_manager(self) -> None:
        self.widgets += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    fake = Machine()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", fake.run)
    return fake


@pytest.fixture
def on_colab(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Machine:
    package, module = ModuleType("google"), ModuleType("google.colab")
    module.output = machine
    monkeypatch.setitem(sys.modules, "google", package)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return machine


def execute_setup() -> None:
    exec(compile(colab.setup_cell().source, "setup cell", "exec"), {})


def test_setup_does_nothing_elsewhere(machine: Machine) -> None:
    before = os.getcwd()
    execute_setup()
    assert (machine.commands, machine.widgets, os.getcwd()) == ([], 0, before)


def test_setup_fetches_the_book_and_leaves_torch_alone(on_colab: Machine) -> None:
    top = Path.cwd()
    execute_setup()
    clone, install = on_colab.commands
    assert CONFIG["repository"]["url"] in clone
    assert f"--branch={CONFIG['repository']['branch']}" in clone
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    options = {word for word in install[4:] if word.startswith("-")}
    # Without --no-deps pip would follow our requirement of torch and replace Colab's build.
    assert options == {"--quiet", "--no-deps"}
    named = {word for word in install[4:] if not word.startswith("-")}
    assert named == {f"./{clone[-1]}", "anywidget", "latex2mathml", "psygnal"}
    assert Path.cwd() == top / clone[-1] / "book", "chapters read results/ from where they stand"
    assert on_colab.widgets == 1, "without it Colab shows no anywidget"


def test_setup_may_run_twice(on_colab: Machine) -> None:
    execute_setup()
    done = len(on_colab.commands)
    execute_setup()
    assert len(on_colab.commands) == done


def test_setup_names_all_that_these_need() -> None:
    """What --no-deps leaves out must be on Colab or be named."""
    lines = [
        line
        for name in ("anywidget", "latex2mathml")
        for line in importlib.metadata.requires(name) or []
    ]
    needed = map(Requirement, lines)
    names = {canonicalize_name(each.name) for each in needed if not each.marker}
    assert names - {"ipywidgets", "typing-extensions"} == {"psygnal"}


def test_binder_finds_the_notebooks_where_the_buttons_look(tmp_path: Path) -> None:
    """With a Python that builds only what the script moves."""
    script = Path(shutil.copy(ROOT / "postBuild", tmp_path))
    assert os.access(script, os.X_OK)
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\n[ "$*" = "-m tools.site" ] && mkdir -p _build/html/notebooks/results'
    )
    fake.chmod(0o755)
    for _ in range(2):
        path = f"{fake.parent}:{os.environ['PATH']}"
        subprocess.run([script], cwd=tmp_path, env={"PATH": path}, check=True)
        assert (tmp_path / "notebooks" / "results").is_dir()
    assert not (tmp_path / "_build").exists()


def test_pages_leave_the_setup_out() -> None:
    assert colab.setup_cell().metadata.tags == ["remove-cell"]


def test_card_has_the_size_that_its_tags_say() -> None:
    with Image.open(card.CARD) as picture:
        assert picture.size == (card.WIDTH, card.HEIGHT)
    assert card.CARD.stat().st_size < 60_000
    tags = " ".join(CONFIG["sphinx"]["config"]["ogp_custom_meta_tags"])
    assert f'width" content="{card.WIDTH}"' in tags
    assert f'height" content="{card.HEIGHT}"' in tags
    assert CONFIG["sphinx"]["config"]["ogp_image"] == f"_static/{card.CARD.name}"


def test_zip_holds_what_a_reader_needs(tmp_path: Path) -> None:
    html = tmp_path / "html"
    for name in (
        "index.html",
        "404.html",
        "sitemap.xml",
        "objects.inv",
        "tippy_doi_cache.json",
        ".buildinfo",
        ".doctrees/a.doctree",
        "_static/a.js",
        "_static/a.js.map",
        "book/01_a.html",
        "notebooks/01_a.ipynb",
        "notebooks/results/a.csv",
    ):
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(name)
    archive = dist.write(html, tmp_path / "dist" / "site.zip")
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == [
            "balancing/_static/a.js",
            "balancing/book/01_a.html",
            "balancing/index.html",
            "balancing/notebooks/01_a.ipynb",
            "balancing/notebooks/results/a.csv",
        ]
    first = archive.read_bytes()
    for path in html.rglob("*"):
        os.utime(path, (0, 0))
    assert dist.write(html, archive).read_bytes() == first
    assert [path.name for path in archive.parent.iterdir()] == ["site.zip"]

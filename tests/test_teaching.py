"""What a lecturer relies on: the guide, the modules and the exercises agree with the chapters."""

import re
import sys
from typing import Any

import pytest
import yaml

from tests.test_exercises import SOLUTIONS, WRONG
from tools import ROOT, notebooks
from tools.course.sources import GRADES, Exercise, blocks, exercises

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import live_cells

CHAPTERS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in notebooks.chapters()
    if path.stem[:2].isdigit()
}
EXERCISES = {name: exercises(text, name) for name, text in CHAPTERS.items()}
GUIDE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
MODULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "book" / "modules.yml").read_text())
each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def everything() -> list[Exercise]:
    return [each for found in EXERCISES.values() for each in found]


@each_chapter
def test_chapter_has_exercises_of_every_grade(name: str) -> None:
    assert len(EXERCISES[name]) >= 3
    assert {each.grade for each in EXERCISES[name]} == set(GRADES)


def test_every_exercise_has_a_solution_and_wrong_answers_under_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = [each.number for each in everything()]
    assert sorted(numbers) == sorted(SOLUTIONS)
    for each in everything():
        checked = re.compile(rf'check\(\s*"{each.number}",')
        assert checked.search(each.stub), each.number
        assert any(map(checked.search, each.solution_code)), each.number
        assert SOLUTIONS[each.number], each.number
        assert len(WRONG[each.number]) >= 2, each.number
    right, wrong = (sum(map(len, answers.values())) for answers in (SOLUTIONS, WRONG))
    with capsys.disabled():
        print(f"\n{len(numbers)} exercises: {right} right answers, {wrong} wrong ones under test")


@each_chapter
def test_chapter_ends_with_its_quiz_and_the_key(name: str) -> None:
    kinds = [each for each in blocks(CHAPTERS[name], name) if each.kind or each.lines != ("",)]
    code, key = [each for each in kinds if each.kind in {"code-cell", "teaching"}][-2:]
    assert f'quiz("{name[:2]}")' in code.body
    assert key.options.get("quiz") == name[:2]


@each_chapter
def test_chapter_has_notes_slides_and_live_cells(name: str) -> None:
    found = blocks(CHAPTERS[name], name)
    assert sum(each.kind == "teaching" for each in found) >= 5
    assert sum("minutes" in each.options for each in found if each.kind == "teaching") >= 3
    slides = [each for each in found if each.kind == "slide"]
    assert len(slides) >= 4
    assert all("{notes}" in each.body for each in slides)
    notebook = notebooks.source_notebook(ROOT / "book" / f"{name}.md")
    assert 2 <= sum(map(notebooks.is_live, notebook.cells)) <= 4
    assert "(notation.md)" in CHAPTERS[name]


def test_modules_are_the_chapters_in_their_order() -> None:
    assert [name for module in MODULES for name in module["chapters"]] == list(CHAPTERS)
    assert len(MODULES) == 6


def test_guide_names_every_exercise_and_the_live_cells_of_every_chapter() -> None:
    named = re.findall(r"\{ref\}`(\d\d\.\d)", GUIDE)
    assert set(named) == {each.number for each in everything()}
    assert re.findall(r"```\{live-cells\} (\d\d)", GUIDE) == [name[:2] for name in CHAPTERS]


def test_guide_has_two_plans_a_module_that_last_as_long_as_they_say() -> None:
    plans = re.findall(r"\*\*(50|90) minutes\.\*\*((?:.|\n)*?)\n\n", GUIDE)
    assert len(plans) == 2 * len(MODULES)
    for (short, first), (long, more) in zip(plans[::2], plans[1::2], strict=True):
        assert (short, long) == ("50", "90")
        base, added = (
            sum(map(int, re.findall(r"(?:^|[·:])\s+(\d+)\s", text))) for text in (first, more)
        )
        assert base == 50
        assert base + added == 90


def test_live_cells_are_told_with_section_and_seconds() -> None:
    code = "# a remark\nimport torch\n\nx = a | b\nprint(x)"
    notebook = {
        "metadata": {"balancing": {"live": {"c3": 0.4}}},
        "cells": [
            {"cell_type": "markdown", "id": "c1", "source": ["# Title\n", "\n", "## One $x$\n"]},
            {"cell_type": "code", "id": "c2", "source": "y = 1"},
            {"cell_type": "code", "id": "c3", "source": code},
        ],
    }
    assert live_cells.live_cells(notebook) == [("One $x$", "x = a \\| b", 0.4)]

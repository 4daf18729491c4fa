"""Editions and exercises as text: what is left out, what is kept, what is refused."""

import re
from pathlib import Path

import pytest

from tools import ToolError, notebooks
from tools.course import sources

CHAPTER = """\
---
jupytext:
  text_representation:
    format_name: myst
---

# 1. A chapter

:::{teaching} A first note
:minutes: 10
Ask them before you show it.
:::

:::{prf:theorem} Kept
:label: thm-kept
Text.

```{math}
:label: eq-kept
x = y
```
:::

```{code-cell} ipython3
---
tags: [hide-input]
---
first = 1
```

::::{slide} A slide
- one line

:::{show} thm-kept
:::

:::{notes}
Speak slowly.
:::
::::

## Exercises

:::{exercise} Add two
:label: ex-01-1
:class: compute
Write a function that returns $x + 2$.

$$
x + 2
$$
:::

```{code-cell} ipython3
def add(x):
    ...


check("01.1", add)
```

:::{solution-start} ex-01-1
:class: dropdown
:::

Read the title, {eq}`eq-kept`.

```{code-cell} ipython3
:tags: [hide-output]

def add_solution(x):
    return x + 2


check("01.1", add_solution)
```

In between, ```` ``` ```` and `:::` are quoted:

```bash
echo hidden
```

```{code-cell} ipython3
add_solution(3)
```

:::{solution-end}
:::

(ex-01-2)=
:::{exercise} Prove it
:label: ex-01-2-body
:class: prove
Show it.
:::

::::{solution} ex-01-2-body
:class: dropdown
By induction.

:::{admonition} Careful
Not for 0.
:::
::::

## Summary

```{code-cell} ipython3
last = 2
```
"""


def test_student_edition_has_no_solution_note_or_slide() -> None:
    text = sources.edition(CHAPTER, "student")
    for word in ("solution", "teaching", "slide", "Ask them", "Speak", "Read the title"):
        assert word not in text
    for word in ("hidden", "induction", "Careful", "In between", "x + 2\n\n\ncheck"):
        assert word not in text
    for word in ("thm-kept", "eq-kept", "first = 1", "def add(x)", "Show it.", "last = 2"):
        assert word in text
    assert "\n\n\n" not in text.replace("    ...\n\n\ncheck", "")
    assert text.startswith("---\njupytext")
    assert text.endswith("```\n")


def test_instructor_edition_has_all_but_slides() -> None:
    text = sources.edition(CHAPTER, "instructor")
    start, end = CHAPTER.index("::::{slide}"), CHAPTER.index("## Exercises")
    assert text == CHAPTER[:start] + CHAPTER[end:]


def test_book_edition_has_solutions_and_no_notes() -> None:
    text = sources.edition(CHAPTER, "book")
    assert "Ask them" not in text
    assert "Speak" not in text
    assert text.count("{solution") == CHAPTER.count("{solution")


def test_cells_that_an_edition_keeps() -> None:
    assert sources.kept_cells(CHAPTER, "student") == [0, 1, 4]
    assert sources.kept_cells(CHAPTER, "book") == [0, 1, 2, 3, 4]


def test_blocks_make_up_the_chapter() -> None:
    lines = [line for block in sources.blocks(CHAPTER) for line in block.lines]
    assert "\n".join(lines) == CHAPTER
    for block in sources.blocks(CHAPTER):
        assert CHAPTER.split("\n")[block.number - 1] == block.lines[0]


def test_exercises() -> None:
    first, second = sources.exercises(CHAPTER)
    assert first == sources.Exercise(
        number="01.1",
        label="ex-01-1",
        title="Add two",
        grade="compute",
        statement="Write a function that returns $x + 2$.\n\n$$\nx + 2\n$$",
        stub='def add(x):\n    ...\n\n\ncheck("01.1", add)',
        solution_text="Read the title, {eq}`eq-kept`.\n\n"
        "In between, ```` ``` ```` and `:::` are quoted:\n\n```bash\necho hidden\n```",
        solution_code=(
            'def add_solution(x):\n    return x + 2\n\n\ncheck("01.1", add_solution)',
            "add_solution(3)",
        ),
    )
    assert (second.number, second.grade, second.stub) == ("01.2", "prove", "")
    assert second.solution_text == "By induction.\n\n:::{admonition} Careful\nNot for 0.\n:::"
    assert second.solution_code == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\n:::{exercise} A\n:label: ex-01-1\n", "line 3: the block ':::{exercise} A' is not"),
        (":::{exercise} A\ntext\n\n:::{solution} ex-01-1\nB\n:::\n", "line 1: the block"),
        ("```{code-cell} ipython3\n1\n\n```{code-cell} ipython3\n2\n```\n", "line 1: the block"),
        ("text\n:::\n", "line 2: ':::' closes nothing"),
        (":::{solution-start} ex-01-1\n:::\nA\n", "line 1: the solution 'ex-01-1' has no"),
        (
            ":::{solution-start} ex-01-1\n:::\n:::{solution-start} ex-01-2\n:::\n",
            "line 1: the solution 'ex-01-1' has no",
        ),
        (":::{solution-end}\n:::\n", "line 1: this solution-end ends no solution"),
        ("::::{tip}\n\n:::{teaching} A\nB\n:::\n::::\n", "line 3: 'teaching' must not stand"),
        ("- item\n\n      :::{solution} ex-01-1\n      A\n      :::\n", "line 3: 'solution' must"),
        ("> :::{teaching} A\n> B\n> :::\n", "line 1: 'teaching' must not stand"),
        (":::{notes}\nA\n:::\n", "line 1: 'notes' belongs into a slide"),
    ],
)
def test_what_could_leak_is_refused(text: str, message: str) -> None:
    for name in sources.LEFT_OUT:
        with pytest.raises(ToolError, match=re.escape(f"07.md, {message}")):
            sources.edition(text, name, file="07.md")


def test_unknown_edition_is_refused() -> None:
    with pytest.raises(ToolError, match="no edition 'pupil'; there are: book, student, instructor"):
        sources.edition(CHAPTER, "pupil")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":::{exercise} A\n:label: ex-1\nB\n:::\n", "line 1: the label of an exercise is ex-NN-K"),
        (
            ":::{exercise} A\n:label: ex-01-1\nB\n:::\n:::{exercise} A\n:label: ex-01-1\nB\n:::\n",
            "line 5: the label of an exercise is ex-NN-K and its own",
        ),
        (":::{solution} ex-01-9\nB\n:::\n", "line 1: no exercise 'ex-01-9' before this"),
    ],
)
def test_exercises_that_cannot_be_told_apart_are_refused(text: str, message: str) -> None:
    with pytest.raises(ToolError, match=re.escape(message)):
        sources.exercises(text)


@pytest.mark.parametrize("source", notebooks.chapters(), ids=lambda path: path.stem)
def test_chapters_divide_into_editions(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    student = sources.edition(text, "student", source.name)
    found = sources.exercises(text, source.name)
    assert ":::{solution" not in student
    assert [each.number for each in sources.exercises(student)] == [each.number for each in found]
    for exercise in found:
        assert exercise.solution_text or exercise.solution_code, exercise.number
        if exercise.stub:
            assert f'check("{exercise.number}"' in exercise.stub
    # What jupytext calls a code cell is what this module does.
    cells = [cell for cell in notebooks.source_notebook(source).cells if cell.cell_type == "code"]
    texts = [block.body for block in sources.blocks(text) if block.kind == "code-cell"]
    assert [cell.source for cell in cells if cell.id != "colab"] == texts

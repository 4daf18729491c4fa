"""The directives of a course, on a small book: what each edition shows, and what is refused."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util.docutils import docutils_namespace

from balancing.quizzes import Quiz
from tools import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import chapter_times
import course

# Sphinx and docutils announce their own next versions.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SAMPLE = Path(__file__).with_name("quiz-sample.toml")

CHAPTER = """\
# A chapter

:::{prf:theorem} One fact
:label: thm-fact
The fact, $x = x$.
:::

```{figure} logo.png
:name: fig-logo
The caption.
```

:::{teaching} A pause of $x$
:minutes: 10
Ask whether *everybody* follows.
:::

::::{slide} Nothing changes, $x = x$
- As {prf:ref}`thm-fact` says.

:::{show} thm-fact
:::
:::{notes}
Say it slowly.
:::
::::

::::{slide} A picture
:::{show} fig-logo
:::
::::

:::{exercise} With a grade
:label: ex-01-1
:class: prove
Prove it.
:::

:::{exercise} Without a grade
:label: ex-01-2
Do it.
:::

See {ref}`ex-01-1`.
"""

Build = Callable[..., tuple[Sphinx, str]]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Build a book of one page; returns the builder's application and its warnings."""

    def go(text: str = CHAPTER, edition: str = "book", builder: str = "html") -> tuple[Sphinx, str]:
        (tmp_path / "index.md").write_text(text)
        (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        warnings = io.StringIO()
        settings = {
            "extensions": ["myst_parser", "sphinx_proof", "sphinx_exercise", "course"],
            "myst_enable_extensions": ["colon_fence", "dollarmath"],
            "numfig": True,
            "course_edition": edition,
        }
        app = Sphinx(
            tmp_path,
            None,
            tmp_path / "out",
            tmp_path / "trees",
            builder,
            settings,
            status=None,
            warning=warnings,
            freshenv=True,
        )
        app.build()
        return app, warnings.getvalue()

    with docutils_namespace():  # forgets what the extensions tell docutils
        yield go


def page(app: Sphinx) -> str:
    return (Path(app.outdir) / "index.html").read_text()


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.parametrize("edition", course.EDITIONS)
def test_page_has_no_slides(build: Build, edition: str) -> None:
    app, warnings = build(edition=edition)
    assert warnings == ""
    text = page(app)
    for hidden in ("Nothing changes", "As Theorem", "Say it slowly", "A picture"):
        assert hidden not in words(text)
    assert text.count('class="proof theorem admonition"') == 1
    assert 'class="slide"' not in text
    index = (Path(app.outdir) / "searchindex.js").read_text()
    assert "slowli" not in index, "the search would lead to words that no page has"


@pytest.mark.parametrize("edition", course.EDITIONS)
def test_notes_reach_the_lecturer_only(build: Build, edition: str) -> None:
    app, _ = build(edition=edition)
    text = page(app)
    if edition == "instructor":
        assert re.search(r'<div class="teaching admonition', text)
        assert "For the lecturer: A pause of" in words(text)
        assert "(10 min)" in words(text)
        assert "<em>everybody</em>" in text
    else:
        assert "teaching" not in text
        assert "everybody" not in text


def test_slides_are_kept_with_the_page(build: Build) -> None:
    app, _ = build()
    document = app.env.get_and_resolve_doctree("index", app.builder)
    one, other = course.slides_of(document)
    assert "".join(one.next_node(course.SlideTitle).astext()) == "Nothing changes, x = x"
    assert [show["label"] for show in one.findall(course.Show)] == ["thm-fact"]
    assert one.next_node(course.Notes).astext() == "Say it slowly."
    assert one.next_node(nodes.reference).astext() == "Theorem 1"
    assert other.next_node(course.Notes) is None
    assert course.shown(document, "thm-fact")["realtype"] == "theorem"
    assert isinstance(course.shown(document, "fig-logo"), nodes.figure)
    assert course.shown(document, "ex-01-1") is None, "no exercises on slides"


@pytest.mark.parametrize(
    ("before", "after", "warning"),
    [
        ("{show} thm-fact", "{show} thm-fancy", "figure or explorer of this chapter is labelled"),
        ("::::{slide} A picture\n", "::::{note}\n", "'show' stands on no slide"),
        ("Say it slowly.", "```{math}\n:label: eq-x\nx\n```", "'eq-x' on a slide leads nowhere"),
        (":minutes: 10", ":minutes: ten", "teaching"),
        ("{slide} A picture", "{slide}", "1 argument(s) required"),
        (":minutes: 10\nAsk", ":quiz: 99\nAsk", "no quiz '99'"),
    ],
)
def test_mistakes_are_warnings(build: Build, before: str, after: str, warning: str) -> None:
    assert before in CHAPTER
    _, warnings = build(CHAPTER.replace(before, after), "instructor")
    assert warning in warnings
    assert "index.md:" in warnings, "the place is not named"


def test_unknown_edition_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match="'teacher'; it can be: book, student, instructor"):
        build(edition="teacher")


def test_answers_of_the_quiz(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Quiz.read(SAMPLE)
    monkeypatch.setattr(course, "quiz", lambda chapter: {"07": sample}[chapter])
    app, warnings = build("# T\n\n:::{teaching} Answers\n:quiz: 07\n:::\n", "instructor")
    assert warnings == ""
    [box] = re.findall(r'<div class="teaching admonition.*?</div>', page(app), re.DOTALL)
    assert box.count("<li>") == len(sample.questions)
    assert "the ReLU" in box
    assert "the sigmoid" not in box
    assert "One for each hidden unit." in box
    assert "$" not in box


def test_grade_stands_after_the_title_and_only_there(build: Build) -> None:
    app, _ = build()
    text = page(app)
    assert words(text).count("prove or extend") == 1
    grade = '<span class="exercise-grade">prove or extend</span>'
    assert f"(With a grade) {grade}</p>" in text
    assert re.search(r"\(Without a grade\)\s*</p>", text)


def test_lecturers_things_take_no_reading_time(build: Build) -> None:
    def minutes(text: str) -> int:
        app, _ = build(text, "instructor")
        return chapter_times.reading_minutes(app.env.get_doctree("index"))

    many = "word " * 2000
    assert minutes(f"# T\n\n{many}") > 5
    for name in ("slide", "teaching"):
        assert minutes(f"# T\n\n:::{{{name}}} Title\n{many}\n:::\n") == 1

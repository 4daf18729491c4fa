"""The quizzes: every one that we have, and what is refused of one that somebody writes."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from balancing.quizzes import Quiz, _page, available, quiz
from tools import ROOT, notebooks

FOLDER = ROOT / "balancing" / "quizzes"
SAMPLE = Path(__file__).with_name("quiz-sample.toml")

CELL = re.compile(r"^from balancing\.quizzes import quiz\n\nquiz\(\"(\d\d)\"\)$", re.MULTILINE)
SECTION = re.compile(r"^## Quiz$", re.MULTILINE)

each_quiz = pytest.mark.parametrize("path", [SAMPLE, *sorted(FOLDER.glob("*.toml"))], ids=str)


class Controls(HTMLParser):
    """The controls of a form, and whether each is what it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@each_quiz
def test_quiz_is_valid(path: Path) -> None:
    read = Quiz.read(path)
    assert 3 <= len(read.questions) <= 6
    for question in read.questions:
        assert 3 <= len(question.options) <= 4
        assert [option.right for option in question.options].count(True) == 1
        assert all(option.reply for option in question.options)


@each_quiz
def test_text_shows_no_answers(path: Path) -> None:
    read = Quiz.read(path)
    shown = repr(read)
    for question in read.questions:
        assert question.text in shown
        for option in question.options:
            assert option.text in shown
            assert option.reply not in shown
    assert not re.search(r"\bright\b|True|✓", shown.replace(question_texts(read), ""))


def question_texts(read: Quiz) -> str:
    """What may well contain the word."""
    return "".join(each.text for question in read.questions for each in question.options)


@each_quiz
def test_every_control_has_its_label_and_name(path: Path) -> None:
    read = Quiz.read(path)
    found = Controls(read._repr_html_())
    radios = found.of("input")
    assert len(radios) == sum(len(question.options) for question in read.questions)
    assert {radio["type"] for radio in radios} == {"radio"}
    ids = [radio["id"] for radio in radios]
    assert len(set(ids)) == len(ids)
    assert [label["for"] for label in found.of("label")] == ids
    assert len({radio["name"] for radio in radios}) == len(read.questions)
    assert len(found.of("fieldset")) == len(found.of("legend")) == len(read.questions)


@each_quiz
def test_replies_are_hidden_where_the_style_is_dropped(path: Path) -> None:
    """JupyterLab shows the outputs of a notebook that is not trusted without style elements."""
    read = Quiz.read(path)
    kinds = {"right", "wrong"}
    replies = [each for each in Controls(read._repr_html_()).of("p") if each["class"] in kinds]
    assert len(replies) == sum(len(question.options) for question in read.questions)
    assert all("hidden" in each for each in replies)


@each_quiz
def test_no_script_is_needed(path: Path) -> None:
    text = Quiz.read(path)._repr_html_()
    assert "<script" not in text
    assert not re.search(r"\son\w+=", text)
    assert not re.search(r"\b(?:src|href|url)\b", text)


def test_right_answers_do_not_stand_in_one_place() -> None:
    """A reader would learn that the second is right."""
    places = [
        [option.right for option in question.options].index(True)
        for name in available()
        for question in quiz(name).questions
    ]
    if len(places) >= 20:
        for place in range(3):
            assert 0.15 < places.count(place) / len(places) < 0.55, places


@pytest.mark.parametrize("source", notebooks.chapters(), ids=lambda path: path.stem)
def test_chapter_closes_with_its_own_quiz(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    number = source.stem[:2]
    named = CELL.findall(text)
    if not number.isdigit():
        assert named == []
    elif SECTION.search(text):
        assert named == [number]
        assert number in available()
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings[-1] == "Quiz"
        assert f":quiz: {number}\n" in text, "the answers are not among the teaching notes"
    else:
        assert named == []
        assert number not in available(), "the chapter shows no quiz"


def test_ids_of_different_quizzes_differ(tmp_path: Path) -> None:
    for name in ("01", "02"):
        (tmp_path / f"{name}.toml").write_text(SAMPLE.read_text())
    one, other = (
        {radio["id"] for radio in Controls(Quiz.read(path)._repr_html_()).of("input")}
        for path in sorted(tmp_path.iterdir())
    )
    assert one.isdisjoint(other)


def test_unknown_chapter_is_refused() -> None:
    with pytest.raises(ValueError, match="no quiz '99'; there are: "):
        quiz("99")


GOOD = SAMPLE.read_text()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("right = true", "right = false", "question 1: exactly one option must have right = true"),
        ("right = true", "", "exactly one option must have right = true, not 0"),
        ("right = true", "right = 'yes'", "right must be true or false, not 'yes'"),
        ("reply = 'It", "reason = 'It", "question 1, option 1: 'reply' is missing"),
        ("reply = 'It", "hint = 'x'\nreply = 'It", "option 1: unknown key 'hint'"),
        ("text = 'the sigmoid'", "text = ' '", "option 1: 'text' must be a text, not ' '"),
        ("text = 'the sigmoid'", "text = 'the ReLU'", "two options have the same text"),
        ("text = 'the sigmoid'", "text = '", "quiz.toml: "),
        ("$a > 0$", "$a > 0", "a single \\$ in"),
        ("$a > 0$", "$\\nosuch a$", "has the unknown command .nosuch"),
        ("$a > 0$", "$\\frac{a$", "a brace too many or too few"),
        ("[[question]]", "[[questions]]", "quiz.toml: "),
        ("# A quiz for the tests", "title = 'A quiz'\n#", "quiz.toml: unknown key 'title'"),
    ],
)
def test_faulty_quiz_is_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in GOOD
    path = tmp_path / "quiz.toml"
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        Quiz.read(path)


def test_two_questions_are_too_few(tmp_path: Path) -> None:
    path = tmp_path / "quiz.toml"
    path.write_text(GOOD.rpartition("[[question]]")[0])
    with pytest.raises(ValueError, match="3 to 6 questions are needed, not 2"):
        Quiz.read(path)


def test_two_options_are_too_few(tmp_path: Path) -> None:
    table = tomllib.loads(GOOD)["question"][0]["option"][0]
    block = f"[[question.option]]\ntext = '{table['text']}'\nreply = '{table['reply']}'\n"
    assert block in GOOD
    path = tmp_path / "quiz.toml"
    path.write_text(GOOD.replace(block, "", 1))
    with pytest.raises(ValueError, match="question 1: 3 to 4 options are needed, not 2"):
        Quiz.read(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("*not* `x < y`", "<em>not</em> <code>x &lt; y</code>"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("`a $ b`", "<code>a $ b</code>"),
    ],
)
def test_inline_markup(text: str, wanted: str) -> None:
    assert _page.inline(text) == wanted


def test_formulas_become_mathml() -> None:
    text = _page.inline(r"so $a^* < \lVert W \rVert_2$ holds")
    assert text.startswith("so <math ")
    assert text.endswith("</math> holds")
    assert "$" not in text
    assert "<mo>&#x0003C;</mo>" in text

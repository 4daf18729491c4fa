"""A quiz in the browser: it answers a click and a key, with no script and no network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Visit, set_look
from playwright.sync_api import Browser, Locator, Page, expect
from test_accessibility import axe, violations

from balancing.quizzes import Quiz
from tools import ROOT

__all__ = ["axe"]  # a fixture

SAMPLE = ROOT / "tests" / "quiz-sample.toml"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a quiz, and nothing else."""
    form = Quiz.read(SAMPLE)._repr_html_()
    path = tmp_path_factory.mktemp("quiz") / "page.html"
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width"><title>A quiz</title>'
        '<body style="background: Canvas; color: CanvasText"><main class="bd-article">'
        f"<h1>Quiz</h1>{form}</main>",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def page(file: Path, browser: Browser) -> Iterator[Page]:
    """The page in a browser that runs no scripts and reaches nothing."""
    context = browser.new_context(java_script_enabled=False, offline=True)
    opened = context.new_page()
    opened.goto(file.as_uri())
    yield opened
    context.close()


def question(page: Page, number: int) -> Locator:
    return page.locator("fieldset").nth(number - 1)


def replies(page: Page) -> Locator:
    return page.locator(".replies > p").filter(visible=True)


def counts(page: Page) -> str:
    """The line at the foot as it is read aloud, with the numbers that style rules put there."""
    session = page.context.new_cdp_session(page)
    line = session.send("Runtime.evaluate", {"expression": "document.querySelector('.count')"})
    wanted = {"objectId": line["result"]["objectId"], "role": "StaticText"}
    found = session.send("Accessibility.queryAXTree", wanted)["nodes"]
    session.detach()
    return " ".join("".join(node["name"]["value"] for node in found).split())


def test_nothing_is_told_before_an_answer(page: Page) -> None:
    expect(page.get_by_role("radio")).to_have_count(10)
    expect(page.get_by_role("group")).to_have_count(3)
    expect(replies(page)).to_have_count(0)
    assert counts(page) == "0 right of 0 answered; 3 questions"


def test_a_click_is_answered(page: Page) -> None:
    page.get_by_text("the sigmoid").click()
    expect(page.get_by_role("radio", name="the sigmoid")).to_be_checked()
    expect(replies(page)).to_have_text("✗ Not so. It squashes the factor.")
    assert counts(page) == "0 right of 1 answered; 3 questions"
    page.get_by_role("radio", name="the ReLU").click()
    expect(replies(page)).to_have_count(1)
    expect(replies(page)).to_contain_text("✓ Right. Indeed")
    assert counts(page) == "1 right of 1 answered; 3 questions"


def test_replies_are_read_aloud(page: Page) -> None:
    box = question(page, 1).get_by_role("status")
    expect(box).to_have_count(1)  # there before its text, else the text would come unannounced
    page.get_by_text("the sigmoid").click()
    expect(box).to_contain_text("Not so")


def test_keys_are_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(replies(page)).to_contain_text("Not so")
    ring = page.get_by_text("the sigmoid").evaluate("e => getComputedStyle(e).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("ArrowDown")
    expect(replies(page)).to_contain_text("Right.")
    address = page.url
    page.keyboard.press("Enter")  # would send a form off
    page.wait_for_timeout(200)
    assert page.url == address
    expect(replies(page)).to_contain_text("Right.")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert counts(page) == "2 right of 2 answered; 3 questions"
    for _ in range(2):  # the last question, then the button
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Start again")).to_be_focused()
    page.keyboard.press("Enter")
    expect(replies(page)).to_have_count(0)
    assert counts(page) == "0 right of 0 answered; 3 questions"


def test_formulas_are_drawn(page: Page) -> None:
    fraction = question(page, 3).locator("legend mfrac > *")
    above, below = (fraction.nth(index).bounding_box() for index in (0, 1))
    assert above is not None
    assert below is not None
    assert 5 < above["width"] < 60
    assert above["y"] + above["height"] <= below["y"]


def test_print_shows_questions_without_replies(page: Page) -> None:
    page.get_by_text("the sigmoid").click()
    page.emulate_media(media="print")
    expect(replies(page)).to_have_count(0)
    expect(page.get_by_role("button")).to_have_count(0)
    expect(page.get_by_text("the sigmoid")).to_be_visible()


@pytest.mark.parametrize(("mode", "width"), [("light", 1280), ("dark", 390)])
def test_checker_finds_nothing(
    file: Path, visit: Callable[..., Visit], axe: str, mode: str, width: int
) -> None:
    seen = visit(file.as_uri(), color_scheme=mode)
    seen.page.add_style_tag(content=f":root {{ color-scheme: {mode} }}")
    set_look(seen.page, mode=mode, width=width)
    for number in (1, 2, 3):
        question(seen.page, number).get_by_role("radio").first.check()
    found = violations(seen.page, axe)
    assert found == []
    assert (seen.outside, seen.missing, seen.errors) == ([], [], [])
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen.page.context.close()

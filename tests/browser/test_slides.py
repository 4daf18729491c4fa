"""The decks of slides: whole without a network, legible, and alive."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from harness import Visit
from playwright.sync_api import Browser, Page, expect
from pypdf import PdfReader
from test_accessibility import axe

from tools import ROOT, ToolError
from tools.chromium import settled
from tools.course import print_slides, slides

__all__ = ["axe"]  # a fixture

MODULES = yaml.safe_load((ROOT / "book" / "modules.yml").read_text())
NUMBERS = range(1, len(MODULES) + 1)
READY = "'ready' in document.documentElement.dataset"

# What stands beyond the edge of the present slide, or under the line of its number.
BEYOND = """() => {
    const slide = document.querySelector('section.present');
    const edge = slide.querySelector('.frame').getBoundingClientRect();
    return [...slide.querySelectorAll('.frame *')]
        .filter(each => !each.closest('svg svg, svg > *, mjx-assistive-mml'))
        .filter(each => getComputedStyle(each).visibility !== 'hidden')
        .map(each => [each, each.getBoundingClientRect()])
        .filter(([, box]) => box.width && box.height)
        .filter(([, box]) => box.left < edge.left + 20 || box.right > edge.right - 20
            || box.top < edge.top || box.bottom > edge.bottom - 20)
        .map(([each, box]) => `${each.outerHTML.slice(0, 80)} to ${box.right}, ${box.bottom}`);
}"""
# The smallest letters of the words and of an explorer's controls, in pixels at 1280 by 720.
SMALLEST = """() => Math.min(...[...document.querySelectorAll(
        'section.present :is(.words, .words *, .title, figcaption, .explorer label, .explorer p)')]
    .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .filter(each => !each.closest('mjx-container'))
    .map(each => parseFloat(getComputedStyle(each).fontSize)))"""


@pytest.fixture(scope="module")
def folder(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decks on their own, away from the site."""
    target = tmp_path_factory.mktemp("course") / "slides"
    slides.write(html, target)
    return target


@pytest.fixture(scope="module", params=NUMBERS)
def deck(
    request: pytest.FixtureRequest, folder: Path, visit: Callable[..., Visit]
) -> Iterator[tuple[dict, Visit]]:
    """Each module and its deck, opened from a file."""
    seen = visit((folder / f"module-{request.param}.html").as_uri())
    seen.page.set_viewport_size({"width": 1280, "height": 720})
    seen.page.wait_for_function(READY)
    yield MODULES[request.param - 1], seen
    seen.page.context.close()


def count(page: Page) -> int:
    return int(page.evaluate("Reveal.getTotalSlides()"))


def turn_to(page: Page, index: int) -> None:
    page.evaluate("index => Reveal.slide(index)", index)
    expect(page.locator(".slides > section").nth(index)).to_have_class("present")


def test_deck_is_whole(deck: tuple[dict, Visit]) -> None:
    module, seen = deck
    assert (seen.outside, seen.missing, seen.errors) == ([], [], [])
    expect(seen.page.get_by_role("heading", level=1)).to_have_text(module["title"])
    assert seen.page.locator("h2").count() == len(module["chapters"])
    assert count(seen.page) >= 1 + 4 * len(module["chapters"])


def test_deck_shows_its_theorem_figure_and_explorer(deck: tuple[dict, Visit]) -> None:
    module, seen = deck
    theorem = seen.page.locator(f".proof.admonition#{module['key_theorem']}")
    assert theorem.count() == 1
    assert len(theorem.text_content() or "") > 60
    figure = seen.page.locator(f"figure#{module['key_figure']}")
    assert figure.locator("svg[role=img][aria-label]").count() == 1
    if "explorer" in module:
        assert seen.page.locator(f"figure#{module['explorer']} .live svg").count() >= 1
    assert seen.page.locator("section > aside.notes").count() >= 3


def test_formulas_are_typeset(deck: tuple[dict, Visit]) -> None:
    _, seen = deck
    assert seen.page.locator("mjx-container").count() > 10
    raw = seen.page.evaluate(
        """() => [...document.querySelectorAll('.frame .math')]
            .filter(each => !each.querySelector('mjx-container')).map(each => each.textContent)"""
    )
    assert raw == []
    assert seen.page.locator("mjx-merror").count() == 0
    assert seen.page.locator(".notes .math, .notes mjx-container").count() == 0, (
        "see Renderer.notes"
    )


def test_everything_stands_on_its_slide_and_can_be_read(deck: tuple[dict, Visit]) -> None:
    _, seen = deck
    found = {}
    for index in range(count(seen.page)):
        turn_to(seen.page, index)
        if beyond := seen.page.evaluate(BEYOND):
            found[index + 1] = beyond[:3]
        assert seen.page.evaluate(SMALLEST) >= 17, f"slide {index + 1}"
    assert found == {}


def test_checker_finds_nothing(folder: Path, visit: Callable[..., Visit], axe: str) -> None:
    """All slides of a deck at once, under each other: otherwise all but one are hidden."""
    found = []
    for number in NUMBERS:
        page = visit((folder / f"module-{number}.html").as_uri()).page
        page.wait_for_function(READY)
        page.add_style_tag(
            content=""".slides, .slides > section {
                display: block !important; position: static !important; transform: none !important;
                visibility: visible !important; }"""
        )
        page.evaluate(axe)
        found += settled(
            page,
            "the check of accessibility",
            """async () => {
                document.querySelectorAll('.slides > section').forEach(each => {
                    each.hidden = false;
                    each.removeAttribute('aria-hidden');
                });
                document.querySelectorAll('.frame svg, .frame mjx-math').forEach(each => {
                    if (!each.closest('.live')) each.replaceChildren();
                });
                const {violations} = await axe.run(document, {
                    resultTypes: ['violations'], preload: false});
                return violations.flatMap(rule => rule.nodes.map(
                    node => `${rule.id}: ${node.html.slice(0, 200)}`));
            }""",
            seconds=120,
        )
        page.context.close()
    assert found == []


def test_headings_descend(deck: tuple[dict, Visit]) -> None:
    _, seen = deck
    levels = seen.page.evaluate(
        "[...document.querySelectorAll('.frame :is(h1, h2, h3, h4)')].map(e => +e.tagName[1])"
    )
    assert levels[:2] == [1, 2]
    assert set(levels[2:]) == {2, 3}


@pytest.fixture
def explorer(folder: Path, visit: Callable[..., Visit]) -> Iterator[Page]:
    """The deck of the first module, at its explorer."""
    seen = visit((folder / "module-1.html").as_uri())
    page = seen.page
    page.set_viewport_size({"width": 1280, "height": 720})
    page.wait_for_function(READY)
    index = page.evaluate(
        """() => [...document.querySelectorAll('.slides > section')]
            .findIndex(each => each.querySelector('.balancing-explorer'))"""
    )
    turn_to(page, index)
    yield page
    page.context.close()


def picture(page: Page) -> str:
    return str(page.locator("section.present .live").evaluate("e => e.innerHTML"))


def test_explorer_answers_the_mouse(explorer: Page) -> None:
    before = picture(explorer)
    box = explorer.locator("section.present .handle").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    explorer.mouse.move(x, y)
    explorer.mouse.down()
    explorer.mouse.move(x, y + 25, steps=4)
    explorer.mouse.up()
    assert picture(explorer) != before
    moved = explorer.locator("section.present .handle").first.bounding_box()
    assert moved is not None
    assert moved["y"] - box["y"] == pytest.approx(25, abs=3), "the grip leaves the pointer"


def test_keys_go_to_the_explorer_while_it_has_the_focus(explorer: Page) -> None:
    place = explorer.evaluate("Reveal.getIndices().h")
    before = picture(explorer)
    explorer.locator("section.present .handle").first.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        explorer.keyboard.press(key)
    assert picture(explorer) != before
    assert explorer.evaluate("Reveal.getIndices().h") == place
    explorer.keyboard.press("PageDown")  # of a presenter's remote
    assert explorer.evaluate("Reveal.getIndices().h") == place + 1
    explorer.keyboard.press("PageUp")
    explorer.locator("section.present .handle").first.focus()
    explorer.keyboard.press("Escape")
    assert not explorer.evaluate("Reveal.isOverview()")
    explorer.keyboard.press("ArrowRight")
    assert explorer.evaluate("Reveal.getIndices().h") == place + 1
    explorer.keyboard.press("ArrowLeft")
    assert explorer.evaluate("Reveal.getIndices().h") == place


def test_speakers_notes_open_in_a_window_of_their_own(explorer: Page) -> None:
    with explorer.expect_popup() as opened:
        explorer.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    expect(notes).not_to_be_empty(timeout=15_000)


def test_list_leads_to_every_deck(folder: Path, visit: Callable[..., Visit]) -> None:
    seen = visit((folder / "index.html").as_uri() + "#")  # not the index of the site
    titles = [each["title"] for each in MODULES]
    assert seen.page.locator("ol a").all_text_contents() == titles
    seen.page.locator("ol a").last.click()
    seen.page.wait_for_function(READY)
    assert (seen.outside, seen.missing, seen.errors) == ([], [], [])
    seen.page.context.close()


def test_a_deck_is_printed_one_page_a_slide(folder: Path, browser: Browser) -> None:
    deck = folder / "module-1.html"
    [pdf] = print_slides.print_decks([deck], browser)
    page = browser.new_page()
    page.goto(deck.as_uri())
    page.wait_for_function(READY)
    total = count(page)
    page.close()
    pages = PdfReader(pdf).pages
    assert len(pages) == total
    assert {tuple(round(float(x)) for x in each.mediabox[2:]) for each in pages} == {(960, 540)}
    assert MODULES[0]["title"].split()[0] in pages[0].extract_text()
    assert all(len(each.extract_text().split()) > 2 for each in pages), "an empty page"


def test_decks_alone_carry_what_they_load_and_no_more(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    for deck in folder.glob("*.html"):
        assert 'src="../' not in deck.read_text("utf-8")
        assert 'href="../' not in deck.read_text("utf-8")


def test_site_without_slides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="has no slides"):
        slides.write(tmp_path, tmp_path / "slides")

"""Every page under an accessibility checker; a page under the keyboard; the reader's settings."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Visit, set_look
from playwright.sync_api import Page, expect

from tools import assets
from tools.chromium import settled

Go = Callable[[str], Visit]

# What axe calls best practices and the newest WCAG rules included. The rules that depend on
# colours alone are the only ones that can differ between the light and the dark page.
COLOUR_RULES = ["color-contrast", "link-in-text-block"]
LOOKS = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]


@pytest.fixture(scope="session")
def axe() -> str:
    """A script that installs axe-core in a page, where require.js must not take it for a module."""
    source = json.dumps(assets.axe().read_text(encoding="utf-8"))
    return (
        "if (!window.axe) { const define = window.define; window.define = undefined;"
        f"(0, eval)({source}); window.define = define; }}"
    )


def violations(
    page: Page, axe: str, *, rules: list[str] | None = None, whole: bool = True
) -> list[str]:
    """What axe finds: all of it in our content, and the serious in the theme around it.

    Not `whole`: the letters of formulas and figures are taken out meanwhile. Most of a page's
    elements are there, and none has a text whose colour or size axe could judge.
    """
    page.evaluate(axe)
    found: list[str] = settled(
        page,
        "the check of accessibility",
        """async ([rules, whole]) => {
            const boxes = [...document.querySelectorAll(
                whole ? 'none' : 'mjx-math, .balancing-figure svg')];
            const sizes = boxes.map(box => box.getBoundingClientRect());
            const styles = boxes.map(box => box.style.cssText);
            const inside = boxes.map((box, at) => {
                box.style.width = `${sizes[at].width}px`;
                box.style.height = `${sizes[at].height}px`;
                const children = [...box.childNodes];
                box.replaceChildren();
                return children;
            });
            const only = rules ? {runOnly: {type: 'rule', values: rules}} :
                {rules: {'target-size': {enabled: true}}};
            const {violations} = await axe.run(document, {
                resultTypes: ['violations'], elementRef: true, preload: false, ...only});
            boxes.forEach((box, at) => {
                box.replaceChildren(...inside[at]);
                box.style.cssText = styles[at];
            });
            const ours = '.bd-article, .balancing-home, .balancing-header';
            const grave = ['serious', 'critical'];
            return violations.flatMap(rule => rule.nodes
                .filter(({element, impact}) => grave.includes(impact) || element?.closest(ours))
                .map(node => `${rule.id} (${node.impact}): ${node.html.slice(0, 150)} ` +
                    [...node.any, ...node.all, ...node.none].map(check => check.message)[0]));
        }""",
        [rules, whole],
        seconds=120,
    )
    return found


@pytest.mark.parametrize(("mode", "width"), LOOKS)
def test_checker_finds_nothing(opened: Visit, axe: str, mode: str, width: int) -> None:
    set_look(opened.page, mode=mode, width=width)
    rules = COLOUR_RULES if mode == "dark" else None
    found = violations(opened.page, axe, rules=rules, whole=(mode, width) == LOOKS[0])
    assert found == [], "\n".join(found)


def test_checker_sees_what_it_should(address: str, visit: Go, axe: str) -> None:
    """A page that breaks rules of each level is caught, in both modes."""
    page = visit(f"{address}/book/bibliography.html").page
    assert violations(page, axe) == []
    page.evaluate(
        """() => document.querySelector('.bd-article').insertAdjacentHTML('beforeend', `
            <img src="../_static/figure2.png"><h6>Deep</h6>
            <p style="color: #888; background: #999">Pale</p>
            <button></button>`)"""
    )
    found = " ".join(violations(page, axe))
    for rule in ("image-alt", "heading-order", "color-contrast", "button-name"):
        assert f"{rule} (" in found
    set_look(page, mode="dark")
    assert "color-contrast (" in " ".join(violations(page, axe, rules=COLOUR_RULES, whole=False))
    page.context.close()


# --- the keyboard ------------------------------------------------------------------------------


@pytest.fixture
def chapter(address: str, visit: Go) -> Iterator[Page]:
    """A chapter with formulas, code, figures, tables and solutions."""
    page = visit(f"{address}/book/08_norms_and_balance.html").page
    yield page
    page.context.close()


# One object for each element that has the focus, with what a sighted reader needs of it.
FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    element.dataset.reached = '';
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    const rgba = colour => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d');
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    // an outer ring lies on what is around the element
    let under = parseFloat(style.outlineOffset) < 0 ? element : element.parentElement;
    while (under.parentElement && rgba(getComputedStyle(under).backgroundColor)[3] < 255)
        under = under.parentElement;
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const page = rgba(getComputedStyle(under).backgroundColor);
    const levels = [rgba(style.outlineColor), page[3] ? page : [255, 255, 255]].map(light);
    return {
        what: element.outerHTML.slice(0, 120),
        seen: box.width > 0 && box.height > 0 && element.checkVisibility(
            {opacityProperty: true, visibilityProperty: true}) &&
            box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight,
        ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        contrast: (Math.max(...levels) + 0.05) / (Math.min(...levels) + 0.05),
    };
}"""

# Of radio buttons with one name the Tab key reaches one, and the arrows the others.
MISSED = """() => [...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0)
    .filter(e => e.getBoundingClientRect().width && !('reached' in e.dataset))
    .filter(e => e.type !== 'radio' || ![...document.getElementsByName(e.name)]
        .some(other => 'reached' in other.dataset))
    .map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", ["intro", "08_norms_and_balance", "api"])
def test_tab_goes_everywhere_and_shows_where(address: str, visit: Go, name: str, mode: str) -> None:
    page = visit(f"{address}/book/{name}.html").page
    set_look(page, mode=mode)
    # a ring must be there at once for a picture to be taken of it
    page.emulate_media(reduced_motion="reduce")
    faults, stops = [], 0
    for stops in range(2000):  # noqa: B007
        page.keyboard.press("Tab")
        at: dict[str, Any] | None = page.evaluate(FOCUSED)
        if at is None:  # past the last one, out of the page
            break
        if not (at["seen"] and at["ring"] and at["contrast"] >= 3):
            faults.append(at)
    assert faults == []
    assert at is None, "the keyboard is trapped"
    assert stops > 40
    assert page.evaluate(MISSED) == []
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED) is not None, "there is no way back"
    page.context.close()


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element that matches has the focus."""
    for _ in range(2000):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
            return
    raise AssertionError(f"the Tab key does not reach {selector}")


def test_skip_link_is_first(chapter: Page) -> None:
    chapter.keyboard.press("Tab")
    expect(chapter.get_by_role("link", name="Skip to main content")).to_be_focused()
    expect(chapter.locator("#pst-skip-link")).to_be_in_viewport()
    chapter.keyboard.press("Enter")
    chapter.keyboard.press("Tab")
    assert chapter.evaluate("document.activeElement.closest('#main-content') !== null")


@pytest.mark.parametrize("way", ["key", "button"])
def test_search(chapter: Page, way: str) -> None:
    if way == "key":
        chapter.keyboard.press("Control+k")
    else:
        tab_to(chapter, ".search-button__button")
        chapter.keyboard.press("Enter")
    field = chapter.locator("#pst-search-dialog input")
    expect(field).to_be_focused()
    chapter.keyboard.press("Escape")
    expect(field).not_to_be_visible()
    if way == "key":
        chapter.keyboard.press("Control+k")
    else:
        expect(chapter.locator(".search-button__button").first).to_be_focused()
        chapter.keyboard.press("Enter")
    chapter.keyboard.type("imbalance")
    chapter.keyboard.press("Enter")
    chapter.wait_for_url(re.compile(r"search\.html\?q=imbalance"))
    expect(chapter.locator("#search-results li").first).to_be_visible()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_theme_switch(chapter: Page, key: str) -> None:
    tab_to(chapter, ".theme-switch-button")
    modes = []
    for _ in range(3):
        chapter.keyboard.press(key)
        modes.append(chapter.evaluate("document.documentElement.dataset.mode"))
        # the theme takes the focus away, and we give it back
        expect(chapter.locator(".theme-switch-button")).to_be_focused()
    assert sorted(modes) == ["auto", "dark", "light"]


def test_contents_of_the_page(chapter: Page) -> None:
    # a key pressed this soon after hundreds of others would stop smooth scrolling
    chapter.emulate_media(reduced_motion="reduce")
    tab_to(chapter, '.bd-sidebar-secondary a[href="#exercises"]')
    chapter.keyboard.press("Enter")
    expect(chapter.locator("#exercises")).to_be_in_viewport()
    assert chapter.url.endswith("#exercises")


def test_sidebars_of_a_phone(chapter: Page) -> None:
    set_look(chapter, width=390)
    for side in ("primary", "secondary"):
        tab_to(chapter, f".{side}-toggle")
        chapter.keyboard.press("Enter")
        panel = chapter.locator(f"#pst-{side}-sidebar-modal")
        expect(panel).to_be_visible()
        assert chapter.evaluate("document.activeElement.closest('dialog') !== null")
        chapter.keyboard.press("Escape")
        expect(panel).not_to_be_visible()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_solution_opens(chapter: Page, key: str) -> None:
    solution = chapter.locator(".admonition.dropdown").first
    inside = solution.locator("> *:not(.admonition-title)").first
    tab_to(chapter, ".admonition.dropdown button.toggle-button")
    expect(inside).not_to_be_visible()
    chapter.keyboard.press(key)
    expect(inside).to_be_visible()
    expect(solution.locator("button.toggle-button")).to_have_attribute("aria-expanded", "true")
    chapter.keyboard.press(key)
    expect(inside).not_to_be_visible()


def test_code_is_copied(chapter: Page) -> None:
    chapter.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab_to(chapter, "button.copybtn")
    expect(chapter.locator("button.copybtn").first).to_have_css("opacity", "1")
    chapter.keyboard.press("Enter")
    code = chapter.locator("div.highlight pre").first.inner_text().strip()
    assert len(code) > 20
    copied = settled(chapter, "reading the clipboard", "() => navigator.clipboard.readText()")
    assert copied.strip() == code


# --- the reader's settings ---------------------------------------------------------------------


def test_reduced_motion(chapter: Page) -> None:
    button = chapter.locator(".admonition.dropdown button.toggle-button").first
    moving = "document.getAnimations().length"
    button.click()
    assert chapter.evaluate(moving) > 0, "nothing moves that could be asked not to"
    chapter.emulate_media(reduced_motion="reduce")
    button.click()
    assert chapter.evaluate(moving) == 0
    assert chapter.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_forced_colours(chapter: Page) -> None:
    """With the reader's own few colours, figures, boxes and controls are still to be seen."""
    chapter.emulate_media(forced_colors="active", color_scheme="dark")
    page, drawn = chapter.evaluate(
        """() => {
            const probe = document.createElement('i');
            probe.style.color = 'Canvas';
            document.body.append(probe);
            const lines = [...document.querySelectorAll(
                '.balancing-figure [style*="stroke:currentColor"]')];
            return [getComputedStyle(probe).color,
                    [...new Set(lines.map(line => getComputedStyle(line).stroke))]];
        }"""
    )
    assert drawn
    assert page not in drawn
    for each in (".theorem.admonition", "button.toggle-button", ".theme-switch-button"):
        expect(chapter.locator(each).first).to_be_visible()
    borders = "e => parseFloat(getComputedStyle(e).borderLeftWidth)"
    assert chapter.locator(".theorem.admonition").first.evaluate(borders) > 0
    chapter.keyboard.press("Tab")
    assert chapter.evaluate(FOCUSED)["ring"]


def test_print(chapter: Page) -> None:
    """Solutions are printed, what only a screen can use is not."""
    chapter.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    chapter.emulate_media(media="print")
    for hidden in ("#pst-primary-sidebar", ".bd-header-article", "button.copybtn"):
        expect(chapter.locator(hidden).first).not_to_be_visible()
    for shown in (".balancing-figure svg", ".admonition.dropdown > *:not(.admonition-title)"):
        expect(chapter.locator(shown).first).to_be_visible()


def test_checker_is_no_part_of_the_site(html: Path) -> None:
    assert list(html.rglob("axe*.js")) == []

"""What the browser tests run, and what they note about a page."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from myst_nb.core.render import MimeData
from playwright.sync_api import Page, ViewportSize

from balancing._myst import ExplorerOnPage
from balancing.widgets import EXPLORER_TYPE, Explorer, _bundle
from tools import ROOT
from tools.chromium import FLAGS, HOW_TO_GET_IT, find, settled

__all__ = [
    "FLAGS",
    "Visit",
    "choose",
    "chromium",
    "explorer_page",
    "listed_pages",
    "press",
    "set_look",
    "value",
]


def listed_pages() -> list[str]:
    """The pages that the table of contents asks for, and the ones that Sphinx adds."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [f"{name}.html" for name in [toc["root"], *chapters, "search"]]


@dataclass
class Visit:
    """An open page, and what went wrong while it loaded."""

    page: Page
    address: str = ""
    outside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def chromium() -> str:
    """Path of the browser; skips the test without one, or fails it where one is required."""
    if found := find():
        return found
    need = f"browser tests need Chromium: {HOW_TO_GET_IT}"
    if os.environ.get("BALANCING_REQUIRE_BROWSER") == "1":
        pytest.fail(need)
    pytest.skip(need)


def explorer_page(explorer: Explorer, folder: Path) -> Path:
    """Write a page with one explorer, as the book's pages have it, and without the book."""
    data, _ = explorer._repr_mimebundle_()
    stored = MimeData(EXPLORER_TYPE, data[EXPLORER_TYPE])
    (node,) = ExplorerOnPage.handle_mime(None, stored, inline=False)
    scripts = [_bundle.page_script(name) for name in ("common", explorer.module_name(), "page")]
    page = folder / f"{explorer.module_name()}.html"
    page.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width"><title>{explorer.title}</title>'
        f"<style>{_bundle.style()}</style>{node.astext()}"
        + "".join(f"<script>{script}</script>" for script in scripts),
        encoding="utf-8",
    )
    return page


def set_look(page: Page, *, mode: str = "light", width: int = 1280) -> None:
    """Show a page as a reader with this colour mode and this width of screen sees it."""
    size: ViewportSize = {"width": width, "height": 844 if width < 500 else 900}
    if page.viewport_size != size:
        page.set_viewport_size(size)
        page.wait_for_timeout(400)  # the theme looks for boxes that scroll 0.3 s later
    page.evaluate(
        """mode => {
            document.documentElement.dataset.mode = mode;
            document.documentElement.dataset.theme = mode;
            const fades = document.getAnimations().filter(each => each instanceof CSSTransition);
            fades.forEach(fade => fade.finish());
        }""",
        mode,
    )
    # A busy headless browser may stop to draw, and what is measured next lays the page out anyway.
    settled(
        page,
        "waiting for a frame",
        """() => new Promise(done => {
            setTimeout(done, 1000);
            requestAnimationFrame(() => requestAnimationFrame(() => done()));
        })""",
    )


def value(page: Page, name: str) -> float:
    """A number that an explorer shows, with all its digits."""
    return float(page.locator(f"[data-name={name}]").get_attribute("data-value"))


def press(page: Page, name: str) -> None:
    """Press a button of an explorer."""
    page.get_by_role("button", name=name, exact=True).click()


def choose(page: Page, name: str, option: str) -> None:
    """Choose from one of its menus."""
    page.get_by_role("combobox", name=name, exact=True).select_option(option)

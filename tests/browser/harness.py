"""What the browser tests run, and what they note about a page."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, ViewportSize

from tools import ROOT

from balancing._myst import ExplorerOnPage
from balancing.widgets import EXPLORER_TYPE, Explorer, _bundle

from tools.chromium import FLAGS, HOW_TO_GET_IT, find

__all__ = ["ALLOWED_ERRORS", "FLAGS", "Visit", "chromium"]

# The theme declares a constant twice; it costs nothing and is not ours to mend.
ALLOWED_ERRORS = ("Identifier 'THEBE_JS_URL' has already been declared",)


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
            return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        }""",
        mode,
    )

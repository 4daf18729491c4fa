"""What the browser tests run, and what they note about a page."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from myst_nb.core.render import MimeData
from playwright.sync_api import Page

from balancing._myst import ExplorerOnPage
from balancing.widgets import EXPLORER_TYPE, Explorer, _bundle

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The theme declares a constant twice; it costs nothing and is not ours to mend.
ALLOWED_ERRORS = ("Identifier 'THEBE_JS_URL' has already been declared",)


@dataclass
class Visit:
    """An open page, and what went wrong while it loaded."""

    page: Page
    outside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def chromium() -> str:
    """Path of the browser; skips the test without one, or fails it where one is required."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("BALANCING_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if found:
        return found
    need = "browser tests need Chromium: apt-get install chromium, or set BALANCING_CHROMIUM to one"
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

"""What the browser tests run, and what they note about a page."""

import os
import shutil
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page

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

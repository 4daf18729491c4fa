"""The browser that prints the book and that the tests of the site look with."""

import os
import shutil
from typing import TYPE_CHECKING, Any

from tools import ToolError

if TYPE_CHECKING:  # whoever asks for the path of a browser needs no part of Playwright
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
# What to wait for before a page is looked at; see `settled`.
TYPESET = "() => window.MathJax?.startup?.promise?.then(() => {})"
TYPEFACES = "() => document.fonts.ready.then(() => {})"
HOW_TO_GET_IT = "apt-get install chromium, or set BALANCING_CHROMIUM to the path of one"


def find() -> str | None:
    """Path of the browser, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("BALANCING_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )


def settled(
    page: "Page", what: str, function: str, argument: Any = None, *, seconds: float = 60
) -> Any:
    """Value of the promise that a JavaScript function returns.

    `Page.evaluate` alone would wait for ever for a promise that never settles.

    Args:
        page: where the function runs.
        what: name of what is waited for, for the message.
        function: its source; it takes one argument.
        argument: what it is called with.
        seconds: how long to wait.

    Raises:
        ToolError: the promise did not settle in time.
    """
    done, value = page.evaluate(
        f"""([argument, milliseconds]) => Promise.race([
            Promise.resolve(({function})(argument)).then(value => [true, value]),
            new Promise(late => setTimeout(late, milliseconds, [false, null])),
        ])""",
        [argument, 1000 * seconds],
    )
    if not done:
        raise ToolError(f"{page.url}: after {seconds:g} s there is no end of {what}.")
    return value

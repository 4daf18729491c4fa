"""The browser that prints the book and that the tests of the site look with."""

import os
import shutil

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOW_TO_GET_IT = "apt-get install chromium, or set BALANCING_CHROMIUM to the path of one"


def find() -> str | None:
    """Path of the browser, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("BALANCING_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )

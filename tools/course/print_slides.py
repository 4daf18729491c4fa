"""Print the decks of slides: a PDF beside each, one page a slide. This is `make slides-pdf`.

python -m tools.course.print_slides

It needs Chromium and playwright, which comes with the tests; the decks themselves need neither.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tools import ROOT, ToolError, chromium, site
from tools.course import editions, slides

TARGET = editions.OUT / "slides"


def print_decks(decks: list[Path], browser: Browser) -> Iterator[Path]:
    """Print each deck to a PDF beside it, one page a slide."""
    for deck in decks:
        with browser.new_context(
            offline=True, color_scheme="light", reduced_motion="reduce"
        ) as context:
            page = context.new_page()
            page.emulate_media(media="print")
            page.goto(f"{deck.resolve().as_uri()}?print-pdf")
            page.wait_for_function("'printable' in document.documentElement.dataset")
            target = deck.with_suffix(".pdf")
            page.pdf(path=target, prefer_css_page_size=True, print_background=True, tagged=True)
            yield target


def build() -> None:
    """Build the site where it is stale, take its decks, and print them.

    Raises:
        ToolError: The site could not be built, or there is no browser to print with.
    """
    executable = chromium.find()
    if executable is None:
        raise ToolError(f"The slides are printed by Chromium: {chromium.HOW_TO_GET_IT}.")
    decks = slides.write(site.build().parent, TARGET)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=chromium.FLAGS)
        for printed in print_decks(decks, browser):
            print(printed.relative_to(ROOT), flush=True)
        browser.close()


def main() -> int:
    """The command line."""
    try:
        build()
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

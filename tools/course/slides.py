"""The decks of slides on their own: ``dist/course/slides``, with all that they load.

    python -m tools.course.slides [--pdf]

The site has them, too; this folder can be carried to a lecture room. Open its index.html.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tools import ROOT, ToolError, chromium, site

TARGET = ROOT / "dist" / "course" / "slides"

# Decks of the site stand in a folder beside these; on their own they have them below.
_LOADED = re.compile(r'(?:src|href)="\.\./(_(?:static|images)/[^"?#]+)')
# MathJax fetches the rest of itself from beside its script.
_MATHJAX = "_static/vendor/mathjax"


def write(html: Path, target: Path = TARGET) -> list[Path]:
    """Copy the decks of the site in `html` and what they load; returns the decks.

    Raises:
        ToolError: the site has no decks.
    """
    pages = sorted((html / "slides").glob("*.html"))
    if not pages:
        raise ToolError(f"{html} has no slides: the site was built without book/modules.yml.")
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copytree(html / _MATHJAX, fresh / _MATHJAX)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in _LOADED.findall(text):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(html / name, fresh / name)
        text = re.sub(r'((?:src|href)=")\.\./(?=_)', r"\1", text)
        (fresh / page.name).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)
    return sorted(target.glob("module-*.html"))


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


def build(*, pdf: bool = False) -> list[Path]:
    """Build the site where it is stale, then the decks, and with `pdf` print them.

    Raises:
        ToolError: the site could not be built, or there is no browser to print with.
    """
    executable = chromium.find()
    if pdf and executable is None:
        raise ToolError(f"The slides are printed by Chromium: {chromium.HOW_TO_GET_IT}.")
    decks = write(site.build().parent)
    if pdf:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=executable, args=chromium.FLAGS)
            for printed in print_decks(decks, browser):
                print(printed.relative_to(ROOT), flush=True)
            browser.close()
    return decks


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.course.slides")
    parser.add_argument("--pdf", action="store_true", help="print each deck, too")
    options = parser.parse_args(arguments)
    try:
        decks = build(pdf=options.pdf)
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"{len(decks)} decks: open {TARGET.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())

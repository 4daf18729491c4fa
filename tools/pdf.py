"""Build the whole book as a PDF: one page of all chapters, printed by Chromium. This is `make pdf`.

python -m tools.pdf
"""

import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import cast

from playwright.sync_api import Browser, Page, Route, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

from tools import ROOT, ToolError, assets, chromium, notebooks, site

PDF = ROOT / "dist" / "balancing.pdf"
WORK = site.BUILD / "print"
PAGE = WORK / "_build" / "singlehtml" / "print.html"
# Written only when a build has succeeded; holds the hash of what went into the book.
STAMP = WORK / "stamp"

# Opens what a reader would open, and leaves the article alone on the page.
PREPARE = """() => {
    document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light';
    document.querySelectorAll('details').forEach(each => { each.open = true; });
    document.querySelectorAll('.toggle-hidden').forEach(each => {
        each.classList.remove('toggle-hidden');
    });
    document.body.replaceChildren(document.querySelector('article.bd-article'));
    document.body.className = 'print-edition';
}"""
FAULTS = """() => [
    ...[...document.querySelectorAll('.math')]
        .filter(e => !e.querySelector('mjx-container') && !e.closest('mjx-container'))
        .map(e => 'not typeset: ' + e.textContent),
    ...[...document.querySelectorAll('mjx-merror')]
        .map(e => 'wrong formula: ' + (e.title || e.textContent)),
    ...[...document.images].filter(e => !e.naturalWidth).map(e => 'no picture: ' + e.src),
    ...[...document.querySelectorAll('a[href^="#"]')]
        .filter(e => !document.getElementById(decodeURIComponent(e.hash.slice(1))))
        .map(e => 'leads nowhere: ' + e.outerHTML),
]"""
NUMBER_CONTENTS = """pages => {
    for (const entry of document.querySelectorAll('.print-contents li a')) {
        const anchor = decodeURIComponent(entry.hash.slice(1));
        entry.parentElement.querySelector('.print-page').textContent = pages[anchor];
    }
}"""


def fingerprint() -> str:
    """Hash of everything that the PDF is made from."""
    tools = [Path(__file__), Path(chromium.__file__)]
    parts = [site.fingerprint(), notebooks.hash_files(tools, ROOT)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def is_current() -> bool:
    """Whether `PDF` was made from the present sources."""
    return STAMP.is_file() and STAMP.read_text() == fingerprint() and PDF.is_file()


def build(browser: Browser | None = None) -> Path:
    """Bring everything up to date and print the book; returns the path of the PDF.

    Args:
        browser: what to print with; by default a browser is started.

    Raises:
        ToolError: Chromium is missing, or a notebook, a download, the page or the printing failed.
    """
    executable = chromium.find()
    if browser is None and executable is None:
        raise ToolError(f"The PDF is printed by Chromium: {chromium.HOW_TO_GET_IT}.")
    assets.fetch()
    notebooks.refresh()
    if is_current():
        return PDF
    wanted = fingerprint()
    shutil.rmtree(WORK, ignore_errors=True)
    print("building one page of all chapters ...", flush=True)
    # Its own folder: outputs are chosen for a builder when a chapter is read.
    site.run_jupyter_book("--builder", "singlehtml", "--path-output", WORK)
    # The page stands in book/, and what it loads is named from the folder above.
    shutil.move(PAGE.with_name("book") / "intro.html", PAGE)
    print("printing it ...", flush=True)
    PDF.parent.mkdir(exist_ok=True)
    if browser is not None:
        print_page(browser, PAGE, PDF)
    else:
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=executable, args=chromium.FLAGS)
            print_page(started, PAGE, PDF)
            started.close()
    STAMP.write_text(wanted)
    return PDF


def print_page(browser: Browser, source: Path, target: Path) -> None:
    """Print the page in the file `source` to `target`.

    Raises:
        ToolError: The page asks for something outside this machine, or is not as it should be.
    """
    with browser.new_context(color_scheme="light", reduced_motion="reduce") as context:
        context.set_default_timeout(300_000)
        refused: list[str] = []

        def guard(route: Route) -> None:
            if route.request.url.startswith(("file:", "data:", "blob:")):
                route.continue_()
            else:
                refused.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        page = context.new_page()
        page.emulate_media(media="print")
        page.goto(source.as_uri(), wait_until="load")
        chromium.settled(page, "typesetting", chromium.TYPESET, seconds=300)
        page.evaluate(PREPARE)
        chromium.settled(page, "loading typefaces", chromium.TYPEFACES)
        faults = [f"asks for {address}" for address in refused] + page.evaluate(FAULTS)
        if faults:
            raise ToolError("The page cannot be printed as it is:\n" + "\n".join(faults[:20]))
        # The browser knows the page numbers only when it has printed, so the first time is for them
        # alone; their column is wide enough to change no line.
        _print(page, target, finished=False)
        page.evaluate(NUMBER_CONTENTS, page_numbers(target))
        _print(page, target, finished=True)
    mend_outline(target)


def _print(page: Page, target: Path, *, finished: bool) -> None:
    page.pdf(
        path=target,
        prefer_css_page_size=True,
        print_background=True,
        outline=finished,
        tagged=finished,
    )


def mend_outline(pdf: Path) -> None:
    """Write each title of the outline once: Chromium doubles those that it moved to a new page."""
    writer = PdfWriter(pdf, incremental=True)

    def mend(entry: DictionaryObject | None) -> None:
        while entry is not None:
            title = str(entry["/Title"])
            half = len(title) // 2
            if title[:half] == title[half:]:
                entry[NameObject("/Title")] = TextStringObject(title[:half])
            mend(_below(entry, "/First"))
            entry = _below(entry, "/Next")

    if outline := _below(writer.root_object, "/Outlines"):
        mend(_below(outline, "/First"))
    writer.write(pdf)


def _below(entry: DictionaryObject, key: str) -> DictionaryObject | None:
    return cast(DictionaryObject, entry[key]) if key in entry else None


def page_numbers(pdf: Path) -> dict[str, int]:
    """Page, counted from 1, of every anchor that a link of the PDF leads to."""
    reader = PdfReader(pdf)
    return {
        name.removeprefix("/"): (reader.get_destination_page_number(target) or 0) + 1
        for name, target in reader.named_destinations.items()
    }


def main() -> int:
    """The command line."""
    start = time.perf_counter()
    try:
        path = build()
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    pages, size = len(PdfReader(path).pages), path.stat().st_size / 1e6
    seconds = time.perf_counter() - start
    print(f"The book is ready: {pages} pages, {size:.1f} MB, {seconds:.0f} s.\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Mend what the theme and its extensions tell assistive technology about a page.

Each entry is a pattern in the finished page and what is written instead; the browser tests run an
accessibility checker over every page, so an entry that no longer matches is noticed there.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MENDED = (
    # An icon is a character of a private font: nothing to read aloud.
    (r'(<(?:i|span) class="[^"]*\bfa[srb]?[ -][^"]*")', r'\1 aria-hidden="true"'),
    # The label hides what the button and the summary say themselves.
    (r'(<button class="[^"]*search-button-field[^>]*?) aria-label="Search"', r"\1"),
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # The corner of a table of data is no heading of anything.
    (r'<th(?: class="head")?></th>', "<td></td>"),
    # Roles that left the standard, or that a list's anchors between its items do not allow.
    (r'(<div [^>]*) role="doc-biblioentry"', r"\1"),
    (r'<div role="list" class="citation-list"', '<div class="citation-list"'),
    # The search button and the title stand in no landmark.
    (
        r'<div id="pst-primary-sidebar"',
        r'<div role="region" aria-label="Book" id="pst-primary-sidebar"',
    ),
)


def mend(page: str) -> str:
    """The page's text with `MENDED` applied."""
    for pattern, replacement in MENDED:
        page = re.sub(pattern, replacement, page)
    return page


def mend_all(app: Sphinx, exception: Exception | None) -> None:
    """Mend every page, once all are written."""
    if exception is None and app.builder.name == "html":
        for path in Path(app.outdir).rglob("*.html"):
            path.write_text(mend(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", mend_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

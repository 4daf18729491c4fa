"""What search engines and link previews say about a chapter: the question that it asks.

Without this they would quote the first paragraph, which says how long the chapter takes to read.
"""

import html
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

MARK = "Question."  # how the box at the top of a chapter begins


def question(document: nodes.document) -> str | None:
    """The chapter's question, or None on a page that asks none."""
    for box in document.findall(nodes.admonition):
        for paragraph in box.findall(nodes.paragraph):
            if (text := paragraph.astext()).startswith(MARK):
                return " ".join(text.removeprefix(MARK).split())
    return None


def add_description(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Add the description to the head of the page, in both of the forms that are read."""
    if document is None or (text := question(document)) is None:
        return
    context["metatags"] += f'<meta name="description" content="{html.escape(text)}">\n'
    context["meta"] = {**(context["meta"] or {}), "og:description": html.escape(text)}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before sphinxext.opengraph writes its own description."""
    app.connect("html-page-context", add_description, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""How our figures and explorers reach the pages of the book: renderers that its builder finds.

Only the builder imports this module (by the entry point in pyproject.toml). A figure in a notebook
carries two forms: a PNG for every viewer, and an SVG that takes the colour of the text around it,
so that it is at home on light and dark pages. The pages get the second. Of an explorer they get
its still image and its state, which a script on the page brings to life.
"""

import html
import json
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes

from balancing.plots._style import FIGURE_TYPE
from balancing.widgets._explorer import EXPLORER_TYPE

if TYPE_CHECKING:
    from myst_nb.core.render import MimeData, NbElementRenderer

PAGES = ("html", "dirhtml", "singlehtml")


class InlineFigure:
    """Put the SVG of a figure into the page as it is, before any other form of it."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = [
        (builder, FIGURE_TYPE, 1) for builder in PAGES
    ]

    @staticmethod
    def handle_mime(
        renderer: "NbElementRenderer", data: "MimeData", inline: bool
    ) -> list[nodes.Element] | None:
        """The page's node for `data`, or None where it is not ours to render."""
        if inline or data.mime_type != FIGURE_TYPE:
            return None
        return [nodes.raw("", f'<div class="balancing-figure">{data.string}</div>', format="html")]


class ExplorerOnPage:
    """Put an explorer's still image and state into the page, and note which explorer it is."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = [
        (builder, EXPLORER_TYPE, 1) for builder in PAGES
    ]

    @staticmethod
    def handle_mime(
        renderer: "NbElementRenderer", data: "MimeData", inline: bool
    ) -> list[nodes.Element] | None:
        """The page's node for `data`, or None where it is not ours to render."""
        if inline or data.mime_type != EXPLORER_TYPE:
            return None
        stored = data.content if isinstance(data.content, dict) else json.loads(data.string)
        name, title = (html.escape(stored[key], quote=True) for key in ("explorer", "title"))
        # no text in a script element can end it, but "</script"
        state = json.dumps(stored["state"], sort_keys=True).replace("</", "<\\/")
        text = (
            f'<div class="balancing-explorer" data-explorer="{name}" role="group" '
            f'aria-label="Explorer: {title}">'
            f'<div class="still balancing-figure">{stored["still"]}</div>'
            f'<script type="application/json">{state}</script></div>'
        )
        return [nodes.raw("", text, format="html", explorer=stored["explorer"])]

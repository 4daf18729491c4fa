"""How our figures reach the pages of the book: a renderer that the book's builder finds by itself.

Only the builder imports this module (by the entry point in pyproject.toml). A figure in a notebook
carries two forms: a PNG for every viewer, and an SVG that takes the colour of the text around it,
so that it is at home on light and dark pages. The pages get the second.
"""

from typing import TYPE_CHECKING, ClassVar

from docutils import nodes

if TYPE_CHECKING:
    from myst_nb.core.render import MimeData, NbElementRenderer

FIGURE_TYPE = "application/vnd.balancing.figure+svg"


class InlineFigure:
    """Put the SVG of a figure into the page as it is, before any other form of it."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = [
        (builder, FIGURE_TYPE, 1) for builder in ("html", "dirhtml", "singlehtml")
    ]

    @staticmethod
    def handle_mime(
        renderer: "NbElementRenderer", data: "MimeData", inline: bool
    ) -> list[nodes.Element] | None:
        """The page's node for `data`, or None where it is not ours to render."""
        if inline or data.mime_type != FIGURE_TYPE:
            return None
        return [nodes.raw("", f'<div class="balancing-figure">{data.string}</div>', format="html")]

"""Below a chapter's title: how long it takes to read, and how long its notebook takes to run.

The reading time is computed from the page, the running time was measured when the notebook was
executed, so neither can grow old.
"""

import json
import math
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

WORDS_PER_MINUTE = 200
SECONDS_PER_FORMULA = 15  # a displayed one; those in the text count as a word each
SECONDS_PER_CODE_LINE = 3

OUTPUTS = {"cell_output"}  # printed by a cell, not written by the author
LECTURERS = {"slide", "teaching"}  # not for readers


def reading_minutes(document: nodes.document) -> int:
    """Minutes for the prose, formulas and code of a page, without the outputs of its cells."""
    words = formulas = lines = 0
    for node in document.findall(_is_leaf):
        if _stands_in(node, LECTURERS):
            continue
        if isinstance(node, nodes.math_block):
            formulas += 1
        elif isinstance(node, nodes.literal_block):
            lines += 0 if _stands_in(node, OUTPUTS) else sum(map(bool, node.astext().splitlines()))
        elif isinstance(node, nodes.math):
            words += 1
        elif not isinstance(
            node.parent, nodes.math | nodes.math_block | nodes.literal_block | nodes.raw
        ):
            words += 0 if _stands_in(node, OUTPUTS) else len(node.astext().split())
    seconds = 60 * words / WORDS_PER_MINUTE + SECONDS_PER_FORMULA * formulas
    return max(1, math.ceil((seconds + SECONDS_PER_CODE_LINE * lines) / 60))


def _is_leaf(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Text | nodes.math | nodes.math_block | nodes.literal_block)


def _stands_in(node: nodes.Node, classes: set[str]) -> bool:
    """Whether an element around the node has one of the classes."""
    while (node := node.parent) is not None:
        if isinstance(node, nodes.Element) and classes & set(node.get("classes", ())):
            return True
    return False


def add_times(app: Sphinx, document: nodes.document) -> None:
    """Insert the line below the title of a chapter: a page from an executed notebook."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb" or app.env.docname == app.config.root_doc:
        return
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    seconds = metadata.get("balancing", {}).get("seconds")
    title = next(iter(document.findall(nodes.title)), None)
    if seconds is None or title is None:
        return
    minutes = reading_minutes(document)
    running = "under 1" if seconds < 1 else f"{seconds:.0f}"
    text = (
        f"About {minutes} minute{'' if minutes == 1 else 's'} to read · runs in {running} s "
        "(measured when its notebook was executed)"
    )
    section = title.parent
    section.insert(section.index(title) + 1, nodes.paragraph("", text, classes=["chapter-times"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", add_times)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

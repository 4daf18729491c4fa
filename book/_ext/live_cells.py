"""The directive ``live-cells``: the cells of a chapter to run in front of a class, with seconds.

The cells carry the tag ``live``; the seconds were measured when the notebook was executed.
"""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_HEADING = re.compile(r"^#{2,} (.+)$", re.MULTILINE)
_UNTELLING = re.compile(r"(import|from|#|@|%) ?|$")


class LiveCells(SphinxDirective):
    """A table for the chapter whose number is the argument, such as ``02``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, or the error that there is no such chapter."""
        [number] = self.arguments
        found = sorted((Path(self.env.srcdir) / "book").glob(f"{number}_*.ipynb"))
        if len(found) != 1:
            raise self.error(f"no executed notebook of chapter '{number}'")
        self.env.note_dependency(str(found[0]))
        notebook = json.loads(found[0].read_text(encoding="utf-8"))
        rows = live_cells(notebook)
        if not rows:
            raise self.error(f"chapter '{number}' has no cell with the tag 'live'")
        seconds = notebook["metadata"]["balancing"]["seconds"]
        lines = [
            f"| In [chapter {int(number)}]({found[0].name}), {seconds:.0f} s in all | Cell | s |",
            "|---|---|---:|",
            *(f"| {section} | `{line}` | {max(time, 0.1):.1f} |" for section, line, time in rows),
        ]
        container = nodes.container(classes=["live-cells"])
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, container)
        return [container]


def live_cells(notebook: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Section, first telling line and measured seconds of each live cell of a notebook."""
    seconds = notebook["metadata"]["balancing"].get("live", {})
    section, rows = "", []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = next(iter(_HEADING.findall(text)[::-1]), section)
        elif cell["id"] in seconds:
            lines = [line for line in text.splitlines() if not _UNTELLING.match(line)]
            line = lines[0].replace("|", "\\|") if lines else "..."
            rows.append((section, line, seconds[cell["id"]]))
    return rows


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("live-cells", LiveCells)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

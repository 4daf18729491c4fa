"""Notebooks for readers: the pages with their outputs, in Markdown that needs no extension.

The notebooks beside the sources are written in MyST, which only our site shows as it is meant. The
build of the site writes those of this module to ``notebooks/``, with the recorded results that they
read; the buttons of a page lead to them.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from plain_markdown import Piece, Writer
from sphinx.application import Sphinx

FOLDER = "notebooks"
RESULTS = "book/results"  # below the sources; beside the notebooks it is called results
# Branch that holds the finished site, with the folder above.
PUBLISHED = "gh-pages"

_KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_KEPT_METADATA = ("kernelspec", "language_info", "widgets")


def notebook_of(app: Sphinx, page: str) -> str | None:
    """Name of the notebook that a page becomes; None where it stays a page."""
    if page not in app.env.found_docs:
        return None
    source = Path(app.env.doc2path(page))
    if source.suffix != ".ipynb" and page not in app.config.plain_notebook_pages:
        return None
    return f"{source.stem}.ipynb"


def assemble(executed: NotebookNode, pieces: Iterable[Piece], end: str = "") -> NotebookNode:
    """The notebook of a page.

    Args:
        executed: Where code cells, outputs and metadata come from; nothing else of it is used.
        pieces: Texts, and indices of the code cells between them. Code cells that the page does not
            show stand before the next one that it does.
        end: A last text.
    """
    kept = {name: executed.metadata[name] for name in _KEPT_METADATA if name in executed.metadata}
    notebook: NotebookNode = new_notebook(metadata=kept)
    code = [index for index, cell in enumerate(executed.cells) if cell.cell_type == "code"]

    def add_code(until: int) -> None:
        while code and code[0] <= until:
            notebook.cells.append(executed.cells[code.pop(0)])

    def add_text(text: str) -> None:
        if notebook.cells and _continues(notebook.cells[-1], text):
            notebook.cells[-1].source += f"\n\n{text}"
        else:
            number = sum(cell.cell_type == "markdown" for cell in notebook.cells) + 1
            notebook.cells.append(new_markdown_cell(text, id=f"m{number:03d}"))

    for piece in pieces:
        if isinstance(piece, int):
            add_code(until=piece)
        else:
            add_text(piece)
    add_code(until=len(executed.cells))
    if end:
        add_text(end)
    return notebook


def _continues(cell: NotebookNode, text: str) -> bool:
    """Whether a text belongs into the cell before it: a section begins a new one."""
    heading = any(line.startswith("#") for line in text.split("\n", maxsplit=3)[:3])
    return cell.cell_type == "markdown" and not heading


def write(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Write the notebook of a page that is being written."""
    if document is None or app.builder.name != "html":
        return
    if (name := notebook_of(app, page)) is None:
        return
    source = Path(app.env.doc2path(page))
    executed = (
        nbformat.read(source, as_version=4)
        if source.suffix == ".ipynb"
        else new_notebook(metadata=_KERNEL)
    )
    writer = Writer(app, page, lambda target: notebook_of(app, target))
    pieces = list(writer.pieces(document))
    notebook = assemble(executed, pieces, writer.references())
    nbformat.validate(notebook)
    path = Path(app.outdir) / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def offer(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Lead the buttons of a page to its notebook, and offer no source: it may hold notes.

    Only the public book can be launched elsewhere; there are no addresses of other editions.
    """
    if document is None or "header_buttons" not in context:
        return
    name = notebook_of(app, page)
    buttons = context["header_buttons"]
    for group in buttons:
        if group.get("label") == "download-buttons":
            group["buttons"] = [each for each in group["buttons"] if not _is_source(each)]
            if name is not None:
                group["buttons"].insert(0, _download(context["pathto"](f"{FOLDER}/{name}", 1)))
        if group.get("label") == "launch-buttons":
            branch = app.config.html_theme_options["repository_branch"]
            suffix = Path(app.env.doc2path(page)).suffix
            for button in group["buttons"]:
                url = button["url"].replace(f"{page}{suffix}", f"{FOLDER}/{name}")
                button["url"] = url.replace(f"/blob/{branch}/", f"/blob/{PUBLISHED}/")
    if getattr(app.config, "course_edition", "book") != "book":
        buttons[:] = [group for group in buttons if group.get("label") != "launch-buttons"]


def _is_source(button: dict[str, Any]) -> bool:
    return button["label"] in {"download-source-button", "download-notebook-button"}


def _download(url: str) -> dict[str, str]:
    return {
        "type": "link",
        "url": url,
        "text": ".ipynb",
        "icon": "fas fa-code",
        "tooltip": "Download the notebook",
        "label": "download-notebook-button",
    }


def add_results(app: Sphinx, exception: Exception | None) -> None:
    """Put the tables that chapters read beside the notebooks."""
    results = Path(app.srcdir) / RESULTS
    folder = Path(app.outdir) / FOLDER
    if exception is None and app.builder.name == "html" and results.is_dir() and folder.is_dir():
        shutil.copytree(results, folder / results.name, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; the theme adds its buttons with priority 501."""
    app.add_config_value("plain_notebook_pages", [], "html", [list])
    app.connect("html-page-context", write)
    app.connect("html-page-context", offer, priority=600)
    app.connect("build-finished", add_results)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

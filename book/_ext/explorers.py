"""Load the scripts of the explorers, on the pages that have one and on no other."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from balancing.widgets import _bundle

FOLDER = "explorers"


def write_scripts(app: Sphinx) -> None:
    """Put the scripts where Sphinx collects static files."""
    static = Path(app.doctreedir) / "explorers-static"
    folder = static / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("common", *_bundle.names(), "page"):
        (folder / f"{name}.js").write_text(_bundle.page_script(name), encoding="utf-8")
    (folder / "explorers.css").write_text(_bundle.style(), encoding="utf-8")
    app.config.html_static_path.append(str(static))


def add_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Name the scripts in the head of a page."""
    used = {
        node["explorer"]
        for node in (doctree.findall(nodes.raw) if doctree else ())
        if "explorer" in node
    }
    if not used:
        return
    app.add_css_file(f"{FOLDER}/explorers.css")
    for name in ("common", *sorted(used), "page"):
        app.add_js_file(f"{FOLDER}/{name}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

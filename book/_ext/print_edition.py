"""The printed edition: what the builder `singlehtml` needs to make one good book of all pages.

The pages of the site become the chapters of one long page: a title page and a table of contents
come first, the captions of the contents become parts, every chapter gets its running head, and a
link leads to the place it means although many chapters use the same anchors. `make pdf` prints
the result; `book/_static/print.css` says how it looks.
"""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

BUILDER = "singlehtml"
SUBTITLE = "Rescaling symmetry in deep networks: what training conserves, fixes, and flows"
LOGO = "logo.svg"  # in book/_static


def share_html_visitors(app: Sphinx) -> None:
    """Let the single page use what extensions registered for `html` alone."""
    if app.builder.name == BUILDER:
        handlers = app.registry.translation_handlers
        handlers[BUILDER] = {**handlers.get("html", {}), **handlers.get(BUILDER, {})}


def arrange(app: Sphinx, document: nodes.document, _: str) -> None:
    """Make a book of the assembled page."""
    if app.builder.name != BUILDER:
        return
    files = list(document.findall(addnodes.start_of_file))
    keep_anchors_apart(app, document)
    chapters = {file["docname"]: file for file in files}
    for file in files:
        file.parent.remove(file)
    [opening] = [child for child in document.children if isinstance(child, nodes.section)]
    parts = []
    for subtree in app.config.external_site_map.root.subtrees:
        title = nodes.title("", subtree.caption)
        id_ = nodes.make_id(f"part {subtree.caption}")
        part = nodes.section("", title, ids=[id_], classes=["print-part"])
        part["docname"] = app.config.root_doc
        part.extend(chapters[str(item)] for item in subtree.items)
        parts.append(part)
    document.children = []
    document.extend([title_page(app), contents([opening, *parts]), opening, *parts])
    opening["classes"].append("print-chapter")
    for part in parts:
        for file in part.findall(addnodes.start_of_file):
            file.children[0]["classes"].append("print-chapter")
    document.append(running_heads([opening, *parts]))


def keep_anchors_apart(app: Sphinx, document: nodes.document) -> None:
    """Rename anchors that an earlier chapter has, and lead all links to what they mean."""
    taken: set[str] = set()
    renamed: dict[tuple[str, str], str] = {}  # (page, anchor) -> anchor in the book
    elements = list(_elements(document, app.config.root_doc))
    for page, element in elements:
        for index, anchor in enumerate(element["ids"]):
            key = (page, anchor)
            if key not in renamed:
                fresh = f"{Path(page).name}-{anchor}" if anchor in taken else anchor
                renamed[key] = fresh
                taken.add(fresh)
            element["ids"][index] = renamed[key]
    # The one section of a page, by the anchor that it had; a link to a page leads there.
    opens = {page: old for (page, old) in reversed(renamed)}
    for page, element in elements:
        if "refid" in element:
            element["refid"] = renamed.get((page, element["refid"]), element["refid"])
        if "backrefs" in element:
            element["backrefs"] = [renamed.get((page, old), old) for old in element["backrefs"]]
        if element.get("refuri", "").startswith("#document-"):
            target, _, anchor = element["refuri"].removeprefix("#document-").partition("#")
            element["refuri"] = "#" + renamed.get((target, anchor or opens[target]), anchor)
    # Figures, theorems and exercises find their numbers by their anchors.
    for page, kinds in app.env.toc_fignumbers.items():
        for kind, numbers in kinds.items():
            kinds[kind] = {renamed.get((page, old), old): number for old, number in numbers.items()}


def _elements(document: nodes.document, root: str) -> Iterator[tuple[str, nodes.Element]]:
    """Every element, with the name of the page that it stands on."""

    def walk(element: nodes.Element, page: str) -> Iterator[tuple[str, nodes.Element]]:
        if isinstance(element, addnodes.start_of_file):
            page = element["docname"]
        yield page, element
        for child in element.children:
            if isinstance(child, nodes.Element):
                yield from walk(child, page)

    return walk(document, root)


def title_page(app: Sphinx) -> nodes.Node:
    """Logo, title, authors, licences."""
    logo = Path(app.srcdir) / "book" / "_static" / LOGO
    config = app.config
    picture = f'<img src="_static/{LOGO}" alt="">' if logo.is_file() else ""
    text = f"""<div class="print-title">{picture}
<p class="print-name">{config.html_title}</p>
<p class="print-subtitle">{SUBTITLE}</p>
<p>{config.author}<br>Version {version("balancing")}, {config.copyright}</p>
<p class="print-licence">{config.html_theme_options["extra_footer"]}</p>
</div>"""
    return nodes.raw("", text, format="html")


def contents(sections: list[nodes.section]) -> nodes.section:
    """The table of contents: parts, chapters, sections; the printer fills in the page numbers."""
    section = nodes.section("", nodes.title("", "Contents"), ids=["print-contents"])
    section["classes"] = ["print-contents"]
    section["docname"] = ""
    opening, *parts = sections
    lists = [_entry(opening, depth=1), *(_entry(part, depth=3) for part in parts)]
    section.append(nodes.bullet_list("", *lists))
    return section


def _list(parents: list[nodes.section], depth: int) -> list[nodes.bullet_list]:
    entries = [_entry(section, depth) for section in parents] if depth else []
    return [nodes.bullet_list("", *entries)] if entries else []


def _entry(section: nodes.section, depth: int) -> nodes.list_item:
    title = section.next_node(nodes.title)
    words = [child.deepcopy() for child in title.children]
    link = nodes.reference("", "", *words, internal=True, refuri=f"#{section['ids'][0]}")
    page = nodes.inline("", "", classes=["print-page"])
    children = (
        grandchild
        for child in section.children
        for grandchild in (child.children if isinstance(child, addnodes.start_of_file) else [child])
    )
    below = [child for child in children if isinstance(child, nodes.section)]
    line = nodes.paragraph("", "", link, page)
    return nodes.list_item("", line, *_list(below, depth - 1))


def running_heads(sections: list[nodes.section]) -> nodes.Node:
    """Name the pages of each chapter after it, so that its title can stand above them."""
    chapters = [
        node
        for section in sections
        for node in section.findall(nodes.section)
        if "print-chapter" in node["classes"]
    ]
    rules = []
    for number, chapter in enumerate(chapters):
        title = chapter.next_node(nodes.title).astext().replace("\\", "").replace('"', r"\"")
        rules.append(
            f"#{chapter['ids'][0]} {{ page: chapter-{number}; }}\n"
            f'@page chapter-{number} {{ @top-center {{ content: "{title}"; }} }}'
        )
    return nodes.raw("", "<style>" + "\n".join(rules) + "</style>", format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", share_html_visitors)
    app.connect("doctree-resolved", arrange, priority=900)  # when all links are resolved
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

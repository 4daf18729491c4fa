"""Decks of slides, one for each module of ``book/modules.yml``: ``slides/module-1.html`` and so on.

The slides stand in the chapters (course.py reads them). Sphinx renders them as it renders the
pages, so that theorems, formulas, figures and explorers are those of the book; reveal.js turns
them over. Everything that a deck loads comes with the site.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from course import Notes, Show, Slide, SlideTitle, shown, slides_of
from descriptions import MARK
from docutils import nodes
from docutils.io import StringOutput
from docutils.utils import new_document
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util.docutils import SphinxDirective

from balancing.quizzes import _page

FOLDER = "slides"
MODULES = Path("book") / "modules.yml"
# A figure that is wider than this many times its height stands below the words, not beside them.
WIDE = 1.7

STYLES = (
    "reveal.css",
    "pygments.css",
    "identity.css",
    "explorers/explorers.css",
    "slides.css",
)
SCRIPTS = ("vendor/reveal/reveal.js", "vendor/reveal/notes.js", "slides.js")

PAGE = """\
<!doctype html>
<html lang="en" data-theme="light" class="typesetting">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{head}
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Module:
    """A module of the course, as ``book/modules.yml`` has it."""

    number: int
    title: str
    chapters: tuple[str, ...]

    @property
    def page(self) -> str:
        """The name of its deck."""
        return f"module-{self.number}.html"


def modules(path: Path) -> list[Module]:
    """The modules that the file lists, in order."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Module(number, entry["title"], tuple(entry["chapters"]))
        for number, entry in enumerate(entries, start=1)
    ]


class DecksDirective(SphinxDirective):
    """``{decks}``: a list of the decks, where the site has them."""

    def run(self) -> list[nodes.Node]:
        """Links relative to the page; nothing in print, nor for students."""
        if self.env.app.builder.name != "html" or self.config.course_edition == "student":
            return []
        up = "../" * self.env.docname.count("/")
        entries = nodes.bullet_list()
        for module in modules(Path(self.env.srcdir) / MODULES):
            link = nodes.reference("", module.title, refuri=f"{up}{FOLDER}/{module.page}")
            text = nodes.paragraph("", f"Module {module.number}: ", link)
            entries += nodes.list_item("", text)
        words = "The decks are on this site, too (S opens the speaker's window):"
        return [nodes.paragraph("", words), entries]


class Renderer:
    """Turns parts of resolved chapters into HTML for a deck."""

    def __init__(self, app: Sphinx) -> None:
        assert isinstance(app.builder, StandaloneHTMLBuilder)
        self.app, self.builder = app, app.builder
        self.explorers: set[str] = set()

    def chapter(self, name: str) -> Iterator[str]:
        """A slide with the chapter's title and question, then its own slides."""
        env, builder = self.app.env, self.builder
        page = f"book/{name}"
        document = env.get_and_resolve_doctree(page, builder)
        # What the builder sets before it writes a page.
        builder.post_process_images(document)
        builder.current_docname = page
        builder.secnumbers = {}
        builder.fignumbers = env.toc_fignumbers.get(page, {})
        title = self.render(_words(document.next_node(nodes.title)))
        asks = _question(document)
        question = f'<div class="question">{self.render(asks)}</div>' if asks else ""
        yield _section(f'<h2 class="title">{title}</h2>{question}', "", "opening")
        for slide in slides_of(document):
            yield self.slide(slide, document)

    def slide(self, slide: Slide, document: nodes.document) -> str:
        """One slide: title, words and what is shown, notes."""
        words: list[str] = []
        figures: list[str] = []
        notes: list[str] = []
        for child in slide.children:
            if isinstance(child, SlideTitle):
                title = self.render(_words(child))
            elif isinstance(child, Notes):
                notes.append(self.notes(child))
            elif isinstance(child, Show) and (thing := shown(document, child["label"])):
                rendered = self.thing(thing)
                (figures if isinstance(thing, nodes.figure) else words).append(rendered)
            elif not isinstance(child, Show):
                words.append(self.render(child))
        layout = "text"
        body = f'<div class="words">{"".join(words)}</div>' if words else ""
        if figures:
            layout = "below" if not words or _is_wide(figures[0]) else "beside"
            body += f'<div class="shown">{"".join(figures)}</div>'
        text = f'<h3 class="title">{title}</h3><div class="body {layout}">{body}</div>'
        return _section(text, "".join(notes))

    def thing(self, original: nodes.Element) -> str:
        """A theorem, or a figure with the first sentence of its caption."""
        thing = original.deepcopy()
        for node in thing.findall(nodes.raw):
            self.explorers |= {node["explorer"]} if "explorer" in node else set()
        for caption in thing.findall(nodes.caption):
            _keep_first_sentence(caption)
        for section in list(thing.findall(nodes.section)):  # reveal.js takes one for a slide
            box = nodes.container("", *section.children, classes=section["classes"])
            section.replace_self(box)
        return self.render(thing)

    def notes(self, notes: Notes) -> str:
        """The speaker's notes; the window that shows them has no script for formulas."""
        copy = notes.deepcopy()
        for node in [*copy.findall(nodes.math), *copy.findall(nodes.math_block)]:
            try:
                mathml = _page.formula(node.astext())
            except ValueError:
                mathml = f"<code>{html.escape(node.astext())}</code>"
            node.replace_self(nodes.raw("", mathml, format="html"))
        body = "".join(self.render(child) for child in copy.children)
        return f'<aside class="notes">{body}</aside>'

    def render(self, node: nodes.Node) -> str:
        """HTML of a part of a page, in which no link leads to another page."""
        document = new_document("<slide>")
        document.append(node.deepcopy())
        for link in list(document.findall(nodes.reference)):
            if not link.get("refuri", "").startswith(("http:", "https:")):
                link.replace_self(nodes.inline("", "", *link.children))
        builder = self.builder
        document.settings = builder.docsettings
        before = builder.add_permalinks, builder.imgpath
        builder.add_permalinks, builder.imgpath = False, "../_images"
        try:
            builder.docwriter.write(document, StringOutput(encoding="utf-8"))
            builder.docwriter.assemble_parts()
        finally:
            builder.add_permalinks, builder.imgpath = before
        return str(builder.docwriter.parts["fragment"]).strip()


def _words(element: nodes.Element) -> nodes.inline:
    """What stands in a title or paragraph, without a box around it."""
    return nodes.inline("", "", *(child.deepcopy() for child in element.children))


def _question(document: nodes.document) -> nodes.Node | None:
    """What the chapter asks: the paragraph at its top, without the word "Question"."""
    for box in document.findall(nodes.admonition):
        for paragraph in box.findall(nodes.paragraph):
            if paragraph.astext().startswith(MARK):
                copy = paragraph.deepcopy()
                copy.remove(copy.next_node(nodes.strong))  # the mark
                return copy
    return None


def _keep_first_sentence(caption: nodes.caption) -> None:
    for index, child in enumerate(caption.children):
        if isinstance(child, nodes.Text) and (end := re.search(r"[.?!](?=\s|$)", child)):
            caption[index] = nodes.Text(child[: end.end()])
            del caption[index + 1 :]
            return


def _is_wide(figure: str) -> bool:
    """Whether a figure should have the whole width; explorers arrange themselves."""
    box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', figure)
    if "balancing-explorer" in figure or box is None:
        return False
    return float(box[1]) > WIDE * float(box[2])


def _section(content: str, notes: str, kind: str = "") -> str:
    return f'<section><div class="frame {kind}">{content}</div>{notes}</section>'


def title_slide(app: Sphinx, module: Module) -> str:
    """Module, chapters, authors, licence."""
    titles = (app.env.titles[f"book/{name}"].astext() for name in module.chapters)
    chapters = "".join(f"<li>{html.escape(title)}</li>" for title in titles)
    config = app.config
    licence = config.html_theme_options.get("extra_footer", "")
    return _section(
        f'<p class="book"><img src="../_static/logo.svg" alt=""> {config.html_title}, '
        f"module {module.number}</p>"
        f'<h1 class="title">{html.escape(module.title)}</h1><ul class="chapters">{chapters}</ul>'
        f'<p class="licence">{html.escape(config.author)}. {licence}</p>',
        "",
        "opening",
    )


def deck(app: Sphinx, module: Module) -> str:
    """The page with all slides of a module."""
    renderer = Renderer(app)
    sections = [title_slide(app, module)]
    for name in module.chapters:
        sections.extend(renderer.chapter(name))
    # Formulas of the notes are MathML already, and stay.
    settings = {**(app.config.mathjax3_config or {}), "startup": {"input": ["tex"]}}
    explorers = [f"explorers/{name}.js" for name in ("common", *sorted(renderer.explorers), "page")]
    scripts = [app.config.mathjax_path, *explorers, *SCRIPTS]
    head = [f'<link rel="stylesheet" href="../_static/{name}">' for name in STYLES]
    head.append(f"<script>window.MathJax = {json.dumps(settings)};</script>")
    head += [f'<script defer src="../_static/{name}"></script>' for name in scripts]
    return PAGE.format(
        title=html.escape(f"{module.title}: slides of module {module.number}"),
        head="\n".join(head),
        body='<main><div class="reveal"><div class="slides">\n'
        + "\n".join(sections)
        + "\n</div></div></main>",
    )


def index(app: Sphinx, listed: list[Module]) -> str:
    """The page that leads to the decks."""
    items = "".join(
        f'<li><a href="{module.page}">{html.escape(module.title)}</a></li>' for module in listed
    )
    return PAGE.replace(' class="typesetting"', ' class="deck-list"').format(
        title=f"{app.config.html_title}: slides",
        head="".join(f'<link rel="stylesheet" href="../_static/{name}">' for name in STYLES[-3:]),
        body=f"<main><h1>{app.config.html_title}: slides</h1><ol>{items}</ol>"
        "<p>In a deck, the arrow keys turn the slides over, S opens the speaker's notes, and ? "
        "lists the other keys. Escape leaves an explorer.</p></main>",
    )


def write_style(app: Sphinx) -> None:
    """Put the style of reveal.js where Sphinx collects static files, for its own parts alone.

    It would also take the controls of an explorer for its own.
    """
    vendored = Path(app.srcdir) / "book" / "_static" / "vendor" / "reveal" / "reveal.css"
    if vendored.is_file():
        static = Path(app.doctreedir) / "slides-static"
        static.mkdir(parents=True, exist_ok=True)
        style = vendored.read_text(encoding="utf-8")
        style = re.sub(r"(\.reveal(?:[.:[][^\s,{}]*)?) (?=\.controls\b)", r"\1>", style)
        (static / "reveal.css").write_text(style, encoding="utf-8")
        app.config.html_static_path.append(str(static))


def write_decks(app: Sphinx, exception: Exception | None) -> None:
    """Write the decks and the page that lists them."""
    source = Path(app.srcdir) / MODULES
    if exception or app.builder.name != "html" or not source.is_file():
        return
    listed = modules(source)
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for module in listed:
        (folder / module.page).write_text(deck(app, module), encoding="utf-8")
    (folder / "index.html").write_text(index(app, listed), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before the finished pages are mended."""
    app.add_directive("decks", DecksDirective)
    app.connect("builder-inited", write_style)
    app.connect("build-finished", write_decks, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""A page as plain Markdown, for readers of notebooks that know none of our directives.

JupyterLab, VS Code and Colab agree on less than CommonMark: a formula stands on one line (in a
quote its further lines would begin with ">"), no bar stands in a table, and what cannot be said in
Markdown is HTML that all of them keep. Everything is taken from the resolved page, so every number
and every name of a reference is that of the site.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from posixpath import dirname, normpath
from types import SimpleNamespace
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx_exercise.nodes import is_exercise_node, is_solution_node

# Text of a cell, or the index of a code cell in the notebook of the page.
Piece = str | int

logger = logging.getLogger(__name__)

_SPECIAL = re.compile(r"[\\`*$]|<(?=[\w/!])|&(?=#?\w+;)|\](?=[\[(:])|(?<!\w)_|_(?!\w)")
_BEGINS_BLOCK = re.compile(r"^(#|>|[-+](?= )|\d+(?=[.)] ))")
# Environments that bring the display with them, and what stands for them between dollars.
_DISPLAYED = {"align": "aligned", "gather": "gathered", "multline": "gathered", "equation": ""}
# Anchors that nobody wrote, so that no reference leads there.
_UNNAMED = re.compile(r"id\d+|equation-[0-9a-f]{8}-[0-9a-f-]{27}")
_NOTHING = (
    nodes.comment,
    nodes.target,
    nodes.substitution_definition,
    nodes.meta,
    nodes.pending,
    nodes.colspec,
    addnodes.toctree,
    addnodes.index,
    addnodes.highlightlang,
)


class Writer:
    """Writes one page.

    Args:
        app: The build, which knows numbers and addresses.
        page: Name of the page.
        notebook_of: Name of the notebook that another page becomes, or None.
    """

    def __init__(self, app: Sphinx, page: str, notebook_of: Callable[[str], str | None]) -> None:
        self.page = page
        self.notebook_of = notebook_of
        self.cited: dict[str, str] = {}  # anchor of a reference -> its text
        self._numbers = app.env.toc_fignumbers.get(page, {})
        self._math: Any = SimpleNamespace(builder=app.builder)
        self._in_table = self._in_citation = False

    # The page as a sequence of cells.

    def pieces(self, document: nodes.document) -> Iterator[Piece]:
        """The texts of the page and the code cells between them; a heading begins a text."""
        yield from self._children(document, level=0)

    def references(self) -> str:
        """A list of what the pieces that were written cite, or nothing."""
        entries = [f"- {_anchor(key)}{text}" for key, text in self.cited.items()]
        return "\n".join(["## References", "", *entries]) if entries else ""

    def _children(self, parent: nodes.Element, level: int) -> Iterator[Piece]:
        """The pieces of a section; blocks that follow each other are one text."""
        text: list[str] = []
        for child in parent.children:
            apart: Iterable[Piece] | None = None
            if isinstance(child, nodes.section):
                apart = self._children(child, level + 1)
            elif _is_cell(child):
                apart = self._cell(child)
            elif is_solution_node(child):
                apart = self._solution(child)
            elif isinstance(child, nodes.title) and isinstance(parent, nodes.section):
                text += [self._targets(parent), f"{'#' * level} {self._line(child)}"]
            else:
                text.append(self.block(child))
            if apart is not None:
                yield from _joined(text)
                text = []
                yield from apart
        yield from _joined(text)

    def _cell(self, cell: nodes.Element) -> Iterator[Piece]:
        """A code cell, and the captions of its figures."""
        yield cell["cell_index"]
        captions = (self.block(figure) for figure in cell.findall(nodes.figure))
        yield from _joined(captions)

    def _solution(self, solution: nodes.Element) -> Iterator[Piece]:
        """What is said stands folded; what is computed follows in cells of its own."""
        title = self._line(solution.next_node(nodes.title))
        body = [child for child in solution.children if not isinstance(child, nodes.title)]
        content = body[0] if len(body) == 1 and isinstance(body[0], nodes.section) else solution
        named = ""
        for piece in self._children(content, level=0):
            if isinstance(piece, str):
                yield f"<details><summary>Solution</summary>\n\n{piece}\n\n</details>"
            elif not named:
                named = title
                yield f"**{title}, in code**"
                yield piece
            else:
                yield piece

    # Blocks.

    def block(self, node: nodes.Node) -> str:
        """One block, without outer empty lines."""
        if isinstance(node, _NOTHING):
            return ""
        if is_exercise_node(node):
            return self._exercise(node)
        if isinstance(node, nodes.Element) and "realtype" in node:
            return self._theorem(node)
        for kind in type(node).__mro__:
            if write := getattr(self, f"_block_{kind.__name__}", None):
                return str(write(node))
        if isinstance(node, nodes.Inline | nodes.Text | nodes.TextElement):
            return self.inline(node)
        logger.warning("a notebook cannot show this: %s", type(node).__name__, location=node)
        return ""

    def blocks(self, children: Iterable[nodes.Node]) -> str:
        """Blocks below each other."""
        return "\n\n".join(filter(None, map(self.block, children)))

    def _block_paragraph(self, node: nodes.Element) -> str:
        text = _BEGINS_BLOCK.sub(r"\\\1", self._words(node))
        text = re.sub(r"^(\\)(\d+)", r"\2\\", text)  # 1\. and not \1.
        return f"*{text}*" if "chapter-times" in node["classes"] else text

    def _block_container(self, node: nodes.Element) -> str:
        return self.blocks(node.children)

    _block_compound = _block_compact_paragraph = _block_only = _block_section = _block_container
    _block_proof_node = _block_glossary = _block_container

    def _block_rubric(self, node: nodes.Element) -> str:
        return f"**{self._line(node)}**"

    _block_title = _block_rubric

    def _block_transition(self, node: nodes.Element) -> str:
        return "---"

    def _block_literal_block(self, node: nodes.Element) -> str:
        text = node.astext()
        fence = _longer(text, "`", at_least=3)
        language = node.get("language", "")
        return f"{fence}{'' if language in {'default', 'none'} else language}\n{text}\n{fence}"

    def _block_block_quote(self, node: nodes.Element) -> str:
        return _quoted(self.blocks(node.children))

    def _block_bullet_list(self, node: nodes.Element) -> str:
        return self._items(node.children, lambda index: "- ")

    def _block_enumerated_list(self, node: nodes.Element) -> str:
        start = node.get("start", 1)
        return self._items(node.children, lambda index: f"{start + index}. ")

    def _items(self, items: list[nodes.Node], mark: Callable[[int], str]) -> str:
        written = []
        for index, item in enumerate(items):
            text = self.blocks(item.children)
            written.append(mark(index) + _indented(text, len(mark(index))))
        tight = all(len(item.children) == 1 for item in items)
        return ("\n" if tight else "\n\n").join(written)

    def _block_definition_list(self, node: nodes.Element) -> str:
        items = []
        for item in node.children:
            terms = [self._line(each) for each in item.children if isinstance(each, nodes.term)]
            meaning = [each for each in item.children if isinstance(each, nodes.definition)]
            text = self.blocks(child for each in meaning for child in each.children)
            items.append(f"- **{', '.join(terms)}**: {_indented(text, 2)}")
        return "\n".join(items)

    def _block_line_block(self, node: nodes.Element) -> str:
        return "  \n".join(self._line(child) for child in node.findall(nodes.line))

    def _block_math_block(self, node: nodes.Element) -> str:
        formula = _display(node.astext())
        number = get_node_equation_number(self._math, node) if node.get("number") else ""
        tag = rf" \tag{{{number}}}" if number else ""
        anchors = self._targets(node)
        return f"{anchors}\n$${formula}{tag}$$" if anchors else f"$${formula}{tag}$$"

    def _block_figure(self, node: nodes.Element) -> str:
        caption = next(node.findall(nodes.caption), None)
        if caption is None:
            return ""
        number = self._number(node, "figure")
        return f"{self._targets(node)}**Fig. {number}.** {self._words(caption)}"

    def _block_image(self, node: nodes.Element) -> str:
        return self.inline(node)

    def _block_raw(self, node: nodes.Element) -> str:
        text = str(node.astext()).strip()
        return text if node["format"] == "html" and not text.startswith("<script") else ""

    def _block_table(self, node: nodes.Element) -> str:
        self._in_table = True
        head = [self._row(row) for part in node.findall(nodes.thead) for row in part.children]
        body = [self._row(row) for part in node.findall(nodes.tbody) for row in part.children]
        self._in_table = False
        width = max(map(len, head + body))
        first = head[0] if head else [""] * width
        rows = [first, ["---"] * width, *head[1:], *body]
        title = next((self._line(each) for each in node.children if _is_title(each)), "")
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"**{title}**\n\n{table}" if title else table

    def _row(self, row: nodes.Element) -> list[str]:
        cells = (self.blocks(entry.children) for entry in row.children)
        return [cell.replace("\n\n", "<br>").replace("\n", " ") for cell in cells]

    def _block_footnote(self, node: nodes.Element) -> str:
        label, *rest = node.children
        return f"{self._targets(node)}<sup>{label.astext()}</sup> {self.blocks(rest)}"

    # Boxes.

    def _block_Admonition(self, node: nodes.Element) -> str:  # noqa: N802 - named as its class
        title = node.next_node(nodes.title, descend=True, siblings=False)
        words = self._line(title) if title in node.children else type(node).__name__.title()
        return self._box(words, (child for child in node.children if child is not title))

    def _block_admonition(self, node: nodes.Element) -> str:
        if "proof" in node["classes"]:
            return self._proof(node)
        return self._block_Admonition(node)

    def _block_sidebar(self, node: nodes.Element) -> str:
        """A remark in the margin."""
        titles = [self._line(each) for each in node.children if _is_title(each)]
        rest = (child for child in node.children if not _is_title(child))
        return self._box(next(filter(None, titles), "Aside"), rest)

    _block_topic = _block_sidebar

    def _exercise(self, node: nodes.Element) -> str:
        title = node.next_node(nodes.title)
        grades = [each for each in title.children if "exercise-grade" in _classes(each)]
        words = "".join(self.inline(each) for each in title.children if each not in grades)
        grade = "".join(f" · {each.astext()}" for each in grades)
        name = f"Exercise {self._number(node, 'exercise')} {words.strip()}".strip()
        return self._box(f"{name}{grade}", node.children[1:], self._targets(node))

    def _theorem(self, node: nodes.Element) -> str:
        name = f"{node['realtype'].title()} {self._number(node, node['countertype'])}".strip()
        title, *rest = node.children
        return self._box(f"{name} {self._line(title)}".strip(), rest, self._targets(node))

    def _box(self, title: str, body: Iterable[nodes.Node], anchors: str = "") -> str:
        return _quoted(f"{anchors}**{title}**\n\n{self.blocks(body)}".strip())

    def _proof(self, node: nodes.Element) -> str:
        text = self.blocks(node.children)
        text = re.sub(r"^Proof\. ", "*Proof.* ", text)
        return f"{text}\n\n∎" if text.endswith(("$$", "|", "```")) else f"{text} ∎"

    # Words.

    def inline(self, node: nodes.Node) -> str:
        """Words within a paragraph."""
        if isinstance(node, nodes.Text):
            return self._text(str(node))
        if isinstance(node, _NOTHING):
            # A target in a line has words.
            return self._words(node) if isinstance(node, nodes.target) else ""
        for kind in type(node).__mro__:
            if write := getattr(self, f"_inline_{kind.__name__}", None):
                return str(write(node))
        if isinstance(node, nodes.TextElement):
            return self._words(node)
        logger.warning("a line cannot show this: %s", type(node).__name__, location=node)
        return ""

    def _words(self, node: nodes.Element) -> str:
        return "".join(map(self.inline, node.children))

    def _line(self, node: nodes.Element) -> str:
        return " ".join(self._words(node).split())

    def _text(self, text: str) -> str:
        if self._in_citation:
            text = text.replace("[", "(").replace("]", ")")
        text = _SPECIAL.sub(lambda found: "\\" + found[0] if found[0] != "&" else "&amp;", text)
        return text.replace("|", r"\|") if self._in_table else text

    def _inline_emphasis(self, node: nodes.Element) -> str:
        return f"*{self._words(node)}*"

    _inline_title_reference = _inline_emphasis

    def _inline_strong(self, node: nodes.Element) -> str:
        return f"**{self._words(node)}**"

    def _inline_subscript(self, node: nodes.Element) -> str:
        return f"<sub>{self._words(node)}</sub>"

    def _inline_superscript(self, node: nodes.Element) -> str:
        return f"<sup>{self._words(node)}</sup>"

    def _inline_literal(self, node: nodes.Element) -> str:
        text = " ".join(node.astext().split("\n"))
        text = text.replace("|", r"\|") if self._in_table else text
        fence = _longer(text, "`", at_least=1)
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{fence}{pad}{text}{pad}{fence}"

    def _inline_math(self, node: nodes.Element) -> str:
        formula = _one_line(node.astext())
        if self._in_table:
            formula = formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
        return f"${formula}$"

    def _inline_math_block(self, node: nodes.Element) -> str:
        return self._block_math_block(node)

    def _inline_inline(self, node: nodes.Element) -> str:
        outer = self._in_citation
        self._in_citation = outer or "bibtex-citation" in node["classes"]
        words = self._words(node)
        self._in_citation = outer
        return words

    def _inline_reference(self, node: nodes.Element) -> str:
        words = self._words(node)
        blank = words[: len(words) - len(words.lstrip())]
        address = self._address(node)
        return f"{blank}[{words.lstrip()}]({address})" if address else words

    def _address(self, node: nodes.Element) -> str:
        """Where a reference leads from a notebook; "" where no notebook has it."""
        if node.get("refid"):
            return f"#{node['refid']}"
        uri = node.get("refuri", "")
        if re.match(r"[a-z]+:", uri):
            return str(uri)
        path, _, anchor = uri.partition("#")
        target = normpath(f"{dirname(self.page)}/{path}").removesuffix(".html")
        if anchor and node.get("reftitle") and path.endswith("bibliography.html"):
            self.cited.setdefault(f"ref-{anchor}", self._text(node["reftitle"]))
            return f"#ref-{anchor}"
        if not path or target == self.page:
            return f"#{anchor}" if anchor else ""
        name = self.notebook_of(target)
        if name is None:
            return ""
        return f"{name}#{anchor}" if anchor else name

    def _inline_footnote_reference(self, node: nodes.Element) -> str:
        return f"<sup>[{node.astext()}](#{node['refid']})</sup>"

    def _inline_image(self, node: nodes.Element) -> str:
        words = self._text(node.get("alt", ""))
        outside = re.match(r"[a-z]+:", node["uri"])
        return f"![{words}]({node['uri']})" if outside else f"*{words}*"

    def _inline_raw(self, node: nodes.Element) -> str:
        return str(node.astext()) if node["format"] == "html" else ""

    # Numbers and anchors.

    def _number(self, node: nodes.Element, kind: str) -> str:
        """The number that the site gives to a figure, a theorem or an exercise."""
        numbers = self._numbers.get(kind, {})
        found = (".".join(map(str, numbers[id_])) for id_ in node["ids"] if id_ in numbers)
        return next(found, "")

    def _targets(self, node: nodes.Element) -> str:
        """Anchors of a node, but those that a heading has by its words."""
        title = node.next_node(nodes.title) if isinstance(node, nodes.section) else None
        own = nodes.make_id(title.astext()) if title is not None else ""
        ids = (each for each in node["ids"] if each != own and not _UNNAMED.fullmatch(each))
        return "".join(map(_anchor, ids))


def _anchor(name: str) -> str:
    return f'<a id="{name}"></a>'


def _is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _is_title(node: nodes.Node) -> bool:
    return isinstance(node, nodes.title)


def _classes(node: nodes.Node) -> list[str]:
    return list(node["classes"]) if isinstance(node, nodes.Element) else []


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """One text of the parts that say something, or none."""
    if parts := [text for text in texts if text]:
        yield "\n\n".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _indented(text: str, width: int) -> str:
    """All lines but the first moved to the right."""
    return re.sub(r"\n(?=[^\n])", "\n" + " " * width, text)


def _longer(text: str, mark: str, at_least: int) -> str:
    """A fence that `text` does not contain."""
    runs = re.findall(f"{mark}+", text)
    return mark * max([at_least, *(len(run) + 1 for run in runs if len(run) >= at_least)])


def _one_line(formula: str) -> str:
    # "<b" would open a tag.
    return re.sub(r"<(?=[\w/!])", r"\\lt ", " ".join(formula.split()))


def _display(formula: str) -> str:
    """A displayed formula on one line; several lines of it are aligned, as on the site."""
    for name, inner in _DISPLAYED.items():
        for edge in ("begin", "end"):
            new = rf"\\{edge}{{{inner}}}" if inner else ""
            formula = re.sub(rf"\\{edge}\{{{name}\*?\}}", new, formula)
    parts = [part for part in map(_one_line, formula.split("\n\n")) if part]
    text = r" \\ ".join(parts)
    outside = re.sub(r"\\begin\{(\w+)\}.*\\end\{\1\}", "", text)
    return rf"\begin{{aligned}}{text}\end{{aligned}}" if r"\\" in outside else text

"""MyST of a statement or solution as plain Markdown: references become the words of the site.

An assignment stands alone, so that a reference is no link but what a reader finds in the book, such
as "Theorem 10" or "(38)". These numbers are taken from the built pages.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pybtex.database import BibliographyData, Person, parse_file

from tools import ROOT, ToolError

_EQUATION = re.compile(r'id="equation-([\w-]+)">\s*<span class="eqno">(\([\d.]+\))')
_NUMBER = r'<span class="caption-number">([^<]+?)\s*</span>'
_THEOREM = re.compile(rf'id="([\w-]+)">\s*<p class="admonition-title">\s*{_NUMBER}')
_FIGURE = re.compile(rf'<figure [^>]*id="([\w-]+)">.*?{_NUMBER}', re.DOTALL)

_ROLE = re.compile(r"\{(?P<role>[a-z][\w:.-]*)\}`(?P<target>[^`]+)`")
_LINK = re.compile(r"(?<![!\]])\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]*)\)")
_EQUATION_LABEL = re.compile(r"^\$\$ *\([\w-]+\)$", re.MULTILINE)
_MATH = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{math\} *\n(?::[\w-]+:[^\n]*\n)*(?P<formula>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_RAW = re.compile(r"^(?::{3,}|`{3,}\{|\+\+\+|\([\w-]+\)=|%).*|\{[a-z][\w:.-]*\}`", re.MULTILINE)


def numbers(html: Path) -> dict[str, str]:
    """What the pages below `html` call each labelled equation, theorem, exercise and figure."""
    found: dict[str, str] = {}
    for page in sorted((html / "book").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        for pattern in (_EQUATION, _THEOREM, _FIGURE):
            found |= dict(pattern.findall(text))
    return found


def plain(text: str, references: Mapping[str, str], bibliography: BibliographyData) -> str:
    """`text`, a piece of a chapter, as Markdown that needs no extension.

    Raises:
        ToolError: A reference leads nowhere, or there is a directive that has no plain form.
    """

    def word(found: re.Match[str]) -> str:
        role, target = found["role"], found["target"]
        if titled := re.fullmatch(r"(.+?)\s*<[^>]+>", target, re.DOTALL):
            return titled[1]
        if role in {"eq", "ref", "numref", "prf:ref"}:
            return _lookup(target, references)
        if role.startswith("cite"):
            return _citation(target, bibliography, in_text=role.startswith("cite:t"))
        if role in {"func", "class", "meth", "attr", "mod", "data"}:
            return f"`{target.removeprefix('~')}`"
        raise ToolError(f"no plain form of the role '{found[0]}'")

    def link(found: re.Match[str]) -> str:
        if found["target"].startswith(("http:", "https:")):
            return found[0]
        return found["text"] or _lookup(found["target"].removeprefix("#"), references)

    text = _MATH.sub(lambda found: f"$$\n{found['formula']}$$", text)
    text = _EQUATION_LABEL.sub("$$", text)
    text = _LINK.sub(link, _ROLE.sub(word, text))
    if raw := _RAW.search(text):
        raise ToolError(f"no plain form of '{raw[0]}'")
    return text


def bibliography() -> BibliographyData:
    """What the book cites."""
    return parse_file(str(ROOT / "book" / "references.bib"))


def _lookup(label: str, references: Mapping[str, str]) -> str:
    try:
        return references[label]
    except KeyError:
        raise ToolError(
            f"no page shows '{label}': build the site again, or mend the label"
        ) from None


def _citation(keys: str, data: BibliographyData, *, in_text: bool) -> str:
    works = []
    for key in keys.split(","):
        if (name := key.strip()) not in data.entries:
            raise ToolError(f"the bibliography has no '{name}'")
        entry = data.entries[name]
        authors, year = _authors(entry.persons["author"]), entry.fields["year"]
        works.append(f"{authors} ({year})" if in_text else f"{authors}, {year}")
    return ", ".join(works) if in_text else f"({'; '.join(works)})"


def _authors(people: list[Person]) -> str:
    names = [" ".join([*each.prelast_names, *each.last_names]) for each in people]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names)

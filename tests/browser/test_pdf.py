"""The whole book as a PDF, read back."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser
from pypdf import PageObject, PdfReader
from pypdf.generic import Destination

from tools import ROOT, ToolError, pdf

pytestmark = pytest.mark.timeout(900)  # printing the book, where it is stale, takes minutes

Outline = list[tuple[int, str, int]]  # depth, title, page counted from 1


@pytest.fixture(scope="module")
def book(running: Callable[[], Browser]) -> PdfReader:
    """The PDF, made as `make pdf` does where it is missing or stale."""
    return PdfReader(pdf.build(running()))


@dataclass(frozen=True)
class Sheet:
    """What stands on a page."""

    text: str
    prose: str  # the same without code, in which formulas are written as they are typed


@pytest.fixture(scope="module")
def sheets(book: PdfReader) -> list[Sheet]:
    def read(page: PageObject) -> Sheet:
        words: list[str] = []

        def take(text: str, _: object, __: object, font: dict | None, ___: float) -> None:
            if "SourceCode" not in str((font or {}).get("/BaseFont")):
                words.append(text)

        return Sheet(page.extract_text(visitor_text=take), "".join(words))

    return [read(page) for page in book.pages]


@pytest.fixture(scope="module")
def text(sheets: list[Sheet]) -> list[str]:
    return [sheet.text for sheet in sheets]


@pytest.fixture(scope="module")
def outline(book: PdfReader) -> Outline:
    def walk(entries: list, depth: int) -> Iterator[tuple[int, str, int]]:
        for entry in entries:
            if isinstance(entry, Destination):
                number = book.get_destination_page_number(entry)
                assert number is not None
                yield depth, str(entry.title), number + 1
            else:
                yield from walk(entry, depth + 1)

    return list(walk(book.outline, 0))


def sources() -> list[Path]:
    """The pages of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"], *(each["file"] for part in toc["parts"] for each in part["chapters"])]
    return [ROOT / f"{name}.md" for name in names]


def titles() -> list[str]:
    found = [re.search(r"^# (.+)$", path.read_text(), re.MULTILINE) for path in sources()]
    return [match[1] for match in found if match]


def test_every_chapter_is_in_the_outline_in_order(outline: Outline) -> None:
    assert len(titles()) == len(sources())
    chapters = [(title, page) for _, title, page in outline if title in titles()]
    assert [title for title, _ in chapters] == titles()
    for (_, page), (after, following) in pairwise(chapters):
        assert page < following, f"'{after}' does not begin on a page of its own"
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    parts = [part["caption"] for part in toc["parts"]]
    top = [title for depth, title, _ in outline if depth == 0]
    assert [title for title in top if title in parts] == parts


def test_number_of_pages_is_plausible(book: PdfReader, text: list[str]) -> None:
    assert 250 < len(book.pages) < 900
    # Only the title page and those of the parts have so little on them.
    empty = [number for number, words in enumerate(text, start=1) if len(words.split()) < 2]
    assert empty == []
    assert {tuple(round(float(x)) for x in page.mediabox[2:]) for page in book.pages} == {
        (595, 842)
    }, "A4"


def test_contents_name_the_page_of_each_chapter(text: list[str], outline: Outline) -> None:
    [first, *_] = [page for _, title, page in outline if title == titles()[0]]
    contents = " ".join(" ".join(text[1 : first - 1]).split())
    for _, title, page in outline:
        if title in titles():
            assert f"{title} {page}" in contents
            assert str(page) in text[page - 1].split(), "the page does not carry its number"


def test_every_formula_is_typeset(sheets: list[Sheet]) -> None:
    raw = re.compile(r"\\\(|\\\[|\$[^$\n]*\\[a-z]+|\\(?:frac|dot|lVert|big|theta|begin)\b|mjx-")
    hits = [(number, raw.search(sheet.prose)) for number, sheet in enumerate(sheets, start=1)]
    found = [f"{number}: {hit[0]}" for number, hit in hits if hit]
    assert found == []


def test_every_figure_is_there_and_described(book: PdfReader, text: list[str]) -> None:
    notebooks = [path.read_text() for path in (ROOT / "book").glob("*.ipynb")]
    figures = sum(each.count('"application/vnd.balancing.figure+svg":') for each in notebooks)
    assert figures > 40
    described = re.findall(rb"/Alt\s*[(<]", pdf.PDF.read_bytes())
    assert len(described) >= figures
    captions = {int(each) for each in re.findall(r"^Fig\. (\d+) ", "\n".join(text), re.MULTILINE)}
    assert captions >= set(range(1, figures + 1))


def test_fonts_are_embedded(book: PdfReader) -> None:
    embedded, missing = set(), set()
    for page in book.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            font = font.get_object()
            below = [each.get_object() for each in font.get("/DescendantFonts", [font])]
            for each in below:
                described = each.get("/FontDescriptor", {})
                here = font["/Subtype"] == "/Type3" or any(
                    key in described for key in ("/FontFile", "/FontFile2", "/FontFile3")
                )
                (embedded if here else missing).add(str(font.get("/BaseFont", "")))
    assert missing == set()
    names = " ".join(embedded)
    assert "SourceSerif" in names
    assert "SourceCode" in names
    assert "" in embedded, "the letters of formulas, which Chromium embeds as outlines (Type 3)"


def test_links_within_the_book_stay_in_it(book: PdfReader) -> None:
    inside, outside = 0, []
    named = book.named_destinations
    for page in book.pages:
        for each in page.get("/Annots", []):
            link = each.get_object()
            if link["/Subtype"] != "/Link":
                continue
            action = link.get("/A", {})
            if "/URI" in action:
                outside.append(str(action["/URI"]))
            else:
                target = link.get("/Dest") or action.get("/D")
                assert not isinstance(target, str) or target.removeprefix("/") in {
                    name.removeprefix("/") for name in named
                }
                inside += 1
    assert inside > 500
    assert [uri for uri in outside if not uri.startswith(("https://", "http://"))] == []
    assert [uri for uri in outside if uri.endswith((".ipynb", ".md"))] == []


def test_book_is_tagged_for_readers_who_listen(book: PdfReader) -> None:
    assert book.root_object["/MarkInfo"]["/Marked"]
    assert book.root_object["/Lang"]


@pytest.fixture
def printed(browser: Browser, tmp_path: Path) -> Callable[[str], Path]:
    """Print a body; returns the PDF."""

    def go(body: str) -> Path:
        source = tmp_path / "page.html"
        source.write_text(f'<article class="bd-article">{body}</article>')
        pdf.print_page(browser, source, tmp_path / "page.pdf")
        return tmp_path / "page.pdf"

    return go


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', "asks for https://cdn.example"),
        (r'<span class="math">\(x\)</span>', "not typeset"),
        ('<mjx-merror title="Undefined control sequence"></mjx-merror>', "wrong formula"),
        ('<img src="missing.png">', "no picture"),
        ('<a href="#nowhere">there</a>', "leads nowhere"),
    ],
)
def test_faulty_page_is_not_printed(printed: Callable[[str], Path], body: str, fault: str) -> None:
    with pytest.raises(ToolError, match=fault):
        printed(body)


def test_what_is_folded_is_printed_and_numbers_come_from_the_browser(
    printed: Callable[[str], Path],
) -> None:
    contents = '<ul class="print-contents"><li><p><a href="#x">X</a><b class="print-page"></b></p>'
    chapter = '<h1 id="x" style="break-before: page">X</h1><details>folded</details>'
    first, second = PdfReader(printed(f"{contents}</li></ul>{chapter}")).pages
    assert "2" in first.extract_text()
    assert "folded" in second.extract_text()


def test_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.chromium.find", lambda: None)
    with pytest.raises(ToolError, match="apt-get install chromium"):
        pdf.build()

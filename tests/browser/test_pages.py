"""Every page of the site, opened in Chromium with the network out of reach."""

import shutil
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

from harness import Visit, listed_pages

Go = Callable[[str], Visit]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids |= {value for name, value in attrs if name in ("id", "name") and value}


@cache
def anchors(path: Path) -> set[str]:
    parser = _Anchors()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.ids


def test_every_page_of_the_site_is_looked_at(html: Path) -> None:
    # That one redirects to the first page; test_navigation.py visits the other at any depth, and
    # test_slides.py the decks.
    known = {*listed_pages(), "index.html", "404.html"}
    built = {path.relative_to(html).as_posix() for path in html.rglob("*.html")}
    built = {name for name in built if not name.startswith(("_static/", "slides/"))}
    assert built - known == set()
    assert set(listed_pages()) <= built


def test_page_is_whole_without_a_network(opened: Visit, address: str, html: Path) -> None:
    page = opened.page
    assert opened.outside == [], "the page asks for something outside this machine"
    assert opened.missing == [], "the page asks for something that the site does not have"
    assert opened.errors == []

    formulas = page.evaluate(
        """() => ({
            plain: [...document.querySelectorAll('.math')]
                .filter(e => !e.querySelector('mjx-container') && !e.closest('mjx-container'))
                .map(e => e.textContent),
            wrong: [...document.querySelectorAll('mjx-merror')].map(e => e.title || e.textContent),
            raw: [...document.querySelectorAll(':is(p, li, td, figcaption):not(header *)')]
                .map(e => e.innerText)
                .filter(text => /\\\\[(\\[]|\\$\\$|\\$[^$]*\\\\[a-zA-Z]|\\|---\\|/.test(text)),
        })"""
    )
    assert formulas == {"plain": [], "wrong": [], "raw": []}

    pictures = page.evaluate(
        """() => ({
            broken: [...document.images]
                .filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
            silent: [...document.querySelectorAll('.bd-article img')]
                .filter(i => !i.alt.trim()).map(i => i.src.slice(0, 100)),
            nameless: [...document.querySelectorAll('.balancing-figure svg')]
                .filter(s => !s.matches('[role=img]') || !s.getAttribute('aria-label')?.trim())
                .map(s => s.outerHTML.slice(0, 100)),
        })"""
    )
    assert pictures == {"broken": [], "silent": [], "nameless": []}

    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
    assert [link for link in links if not leads_somewhere(link, address, html)] == []


def leads_somewhere(link: str, address: str, html: Path) -> bool:
    """Whether a link inside the site has its page and anchor (others are not followed)."""
    target, anchor = urldefrag(link)
    if not target.startswith(address):
        return True
    path = html / unquote(target.removeprefix(address)).lstrip("/").split("?")[0]
    path = path / "index.html" if path.is_dir() else path
    if not path.is_file():
        return False
    return not anchor or path.suffix != ".html" or unquote(anchor) in anchors(path)


def test_harness_sees_what_it_should(
    html: Path, tmp_path: Path, serve: Callable[[Path], str], visit: Go
) -> None:
    """A page that breaks each rule is caught, so silence elsewhere means something."""
    text = (html / "book" / "notation.html").read_text(encoding="utf-8")
    shutil.copytree(html / "_static", tmp_path / "_static")
    (tmp_path / "book").mkdir()
    bad = (
        '<script src="https://cdn.example.org/a.js"></script><script>throw Error("ours")</script>'
        '<img src="missing.png">'
    )
    (tmp_path / "book" / "bad.html").write_text(text.replace("</body>", f"{bad}</body>"))
    address = serve(tmp_path)
    seen = visit(f"{address}/book/bad.html")
    assert seen.outside == ["https://cdn.example.org/a.js"]
    assert seen.missing == [f"404 {address}/book/missing.png"]
    assert any("ours" in error for error in seen.errors)
    assert not leads_somewhere(f"{address}/book/nowhere.html", address, tmp_path)
    assert not leads_somewhere(f"{address}/book/bad.html#nowhere", address, tmp_path)

"""How a reader gets around: first screen, links, previews, search, the missing page."""

import itertools
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from harness import Visit
from playwright.sync_api import Page
from test_pages import leads_somewhere, listed_pages

from tools import ROOT, dist
from tools.chromium import settled

Go = Callable[[str], Visit]

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOP = CONFIG["html"]["baseurl"]
PAGES = listed_pages()
CHAPTERS = [name for name in PAGES if (ROOT / name).with_suffix(".ipynb").is_file()]


@cache
def parsed(path: Path) -> BeautifulSoup:
    """A page of the site as it stands in its file; not to be changed."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def address(html: Path, serve: Callable[[Path], str]) -> str:
    return serve(html)


@pytest.fixture(scope="module")
def unzipped(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as somebody has it who got the zip."""
    folder = tmp_path_factory.mktemp("a folder, somewhere")
    with zipfile.ZipFile(dist.write(html, folder / "site.zip")) as zipped:
        zipped.extractall(folder)
    return folder / dist.TOP


# The files as they are.


def test_order_of_the_book_is_the_order_of_the_arrows(html: Path) -> None:
    pages = [name for name in PAGES if name != "search.html"]
    for here, following in itertools.pairwise(pages):
        forth = parsed(html / here).select_one("a.right-next")
        back = parsed(html / following).select_one("a.left-prev")
        assert Path(forth["href"]).name == Path(following).name
        assert Path(back["href"]).name == Path(here).name


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_can_be_launched_and_taken_along(html: Path, page: str) -> None:
    soup = parsed(html / page)
    hrefs = [a["href"] for a in soup.select(".article-header-buttons a[href]")]
    notebook = f"notebooks/{Path(page).stem}.ipynb"
    repository, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    name = repository.removeprefix("https://github.com/")
    [binder] = [each for each in hrefs if "mybinder.org" in each]
    assert binder == f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{notebook}"
    [colab] = [each for each in hrefs if "colab" in each]
    assert colab == f"https://colab.research.google.com/github/{name}/blob/gh-pages/{notebook}"
    [download] = [each for each in hrefs if each.endswith(".ipynb") and "://" not in each]
    assert ((html / page).parent / download).resolve() == (html / notebook).resolve()
    cells = nbformat.read(html / notebook, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert not any("_sources" in each for each in hrefs)


def test_page_says_what_it_is_to_those_who_link_to_it(html: Path) -> None:
    descriptions = set()
    for page in CHAPTERS:
        head = parsed(html / page).head
        tags = {
            tag.get("property") or tag.get("name"): tag["content"]
            for tag in head.select("meta[content]")
        }
        assert tags["og:url"] == TOP + page
        assert tags["og:title"] in head.title.text
        assert tags["twitter:card"] == "summary_large_image"
        assert tags["og:description"] == tags["description"]
        descriptions.add(tags["description"])
        assert (html / tags["og:image"].removeprefix(TOP)).is_file()
        assert len(head.select("meta[name=description]")) == 1
        icon = head.select_one("link[rel=icon]")
        assert ((html / page).parent / icon["href"]).is_file()
    assert len(descriptions) == len(CHAPTERS)


def test_sitemap_lists_the_pages(html: Path) -> None:
    space = {"": "http://www.sitemaps.org/schemas/sitemap/0.9"}
    tree = ElementTree.parse(html / "sitemap.xml")
    listed = [each.text for each in tree.findall("url/loc", space)]
    assert sorted(listed) == sorted(TOP + name for name in PAGES if name != "search.html")


def test_there_are_remarks_in_the_margin(html: Path) -> None:
    noted = [name for name in CHAPTERS if parsed(html / name).select("aside.margin")]
    assert {name[5:7] for name in noted} >= {"01", "02", "08", "09"}


# The first screen.


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_first_screen_says_what_the_book_is_and_where_to_begin(
    address: str, visit: Go, size: tuple[int, int]
) -> None:
    page = visit(f"{address}/book/intro.html").page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for part in ("h1", ".home-lead", ".home-starts"):
        box = page.locator(f".bd-article {part}").bounding_box()
        assert box["y"] + box["height"] <= size[1], part
    starts = page.eval_on_selector_all(".home-starts a", "all => all.map(a => a.href)")
    assert [each.removeprefix(address) for each in starts] == [
        "/book/01_rescaling_symmetry.html",
        "/book/api.html",
        "/book/teaching.html",
    ]
    page.context.close()


# Colours.

# Variables that text has, on those that it stands on.
INKS = ("text-base", "text-muted", "heading", "link", "link-hover", "primary", "inline-code")
GROUNDS = ("background", "on-background", "surface")


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour.strip().lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_it_should_be() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_of_every_colour_can_be_read(address: str, visit: Go, mode: str) -> None:
    page = visit(f"{address}/book/notation.html").page
    set_mode(page, mode)
    names = [*INKS, *GROUNDS, "primary-text", "primary-bg"]
    value = page.evaluate(
        """names => { const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(
                names.map(n => [n, style.getPropertyValue('--pst-color-' + n)])); }""",
        names,
    )
    pairs = [*itertools.product(INKS, GROUNDS), ("primary-text", "primary")]
    pairs.append(("text-base", "primary-bg"))
    low = {pair: found for pair in pairs if (found := contrast(*map(value.get, pair))) < 4.5}
    assert low == {}
    page.context.close()


def set_mode(page: Page, mode: str) -> None:
    page.evaluate("mode => { document.documentElement.dataset.theme = mode; }", mode)


# Previews.

# References to theorems, exercises, equations and citations.
REFERENCES = """() => [...document.querySelectorAll('.bd-article a[href*="#"]:not(.headerlink)')]
    .filter(a => {
        const target = a.hash && a.pathname === location.pathname
            && document.getElementById(decodeURIComponent(a.hash.slice(1)));
        return target && target.matches('.proof, .exercise, div.math')
            || a.pathname.endsWith('/bibliography.html') && a.hash;
    })"""


@pytest.fixture(scope="module")
def with_references(unzipped: Path, visit: Go) -> Iterator[Visit]:
    """A page with references of each kind."""
    seen = visit((unzipped / "book" / "02_conserved_quantities.html").as_uri())
    yield seen
    seen.page.context.close()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize(
    ("link", "shown", "formulas"),
    [
        ("#prop-noether", "From symmetry to conservation", 3),
        ("#equation-eq-two-weights", "", 1),
        ("bibliography.html#", "Filippov", 0),
        ("01_rescaling_symmetry.html#", "", 1),
    ],
)
def test_preview_shows_its_target(
    with_references: Visit, link: str, shown: str, formulas: int, mode: str
) -> None:
    seen, page = with_references, with_references.page
    set_mode(page, mode)
    anchor = page.locator(f'.bd-article a[href*="{link}"]:not(.headerlink)').first
    anchor.scroll_into_view_if_needed()
    anchor.focus()  # what pointing does, too
    box = page.locator(".tippy-box")
    box.wait_for()
    assert shown in box.inner_text()
    settled(page, "typesetting", "() => MathJax.typesetPromise([]).then(() => {})")
    assert box.locator("mjx-container").count() >= formulas
    assert box.locator("mjx-merror").count() == 0
    assert "\\\\" not in box.inner_text()
    colours = box.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    assert contrast(*map(as_hex, colours)) > 4.5
    assert seen.outside == []
    assert seen.errors == []
    anchor.evaluate("e => e.blur()")
    box.wait_for(state="detached")


def as_hex(colour: str) -> str:
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return "#" + "".join(f"{int(number):02x}" for number in numbers)


# Search, and copies of code.


def test_search_finds_words_and_quotes_them(address: str, visit: Go) -> None:
    seen = visit(f"{address}/search.html?q=imbalance")
    results = seen.page.locator("#search-results ul.search li")
    results.nth(5).wait_for()
    assert any("imbalance" in text.lower() for text in results.all_inner_texts())
    seen.page.locator("#search-results p.context").first.wait_for()
    seen.page.context.close()


def test_search_works_from_a_folder(unzipped: Path, visit: Go) -> None:
    seen = visit((unzipped / "search.html").as_uri() + "?q=imbalance")
    links = seen.page.locator("#search-results ul.search li a")
    links.nth(5).wait_for()
    assert seen.errors == []
    links.first.click()
    seen.page.wait_for_url("**/book/*.html*")
    seen.page.context.close()


def test_code_can_be_copied(address: str, visit: Go) -> None:
    page = visit(f"{address}/book/01_rescaling_symmetry.html").page
    cells = page.locator("div.cell_input div.highlight")
    assert cells.count() > 0
    assert page.locator("div.cell_input div.highlight button.copybtn").count() == cells.count()
    page.context.close()


# The site in a folder, and addresses that it does not have.


@pytest.mark.parametrize("name", ["index.html", *PAGES])
def test_page_works_from_a_folder(unzipped: Path, visit: Go, name: str) -> None:
    seen = visit((unzipped / name).as_uri())
    assert (seen.outside, seen.errors) == ([], [])
    assert seen.page.url.startswith(unzipped.as_uri())
    plain = """[...document.querySelectorAll('.math')]
        .filter(e => !e.querySelector('mjx-container') && !e.closest('mjx-container')).length"""
    assert seen.page.evaluate(plain) == 0
    assert seen.page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert seen.page.evaluate(f"({REFERENCES})().filter(a => !a._tippy).map(a => a.href)") == []
    if name in CHAPTERS and "claims" not in name:
        assert seen.page.evaluate(f"({REFERENCES})().length") > 0, "no references are recognized"
    seen.page.context.close()


@pytest.fixture(scope="module")
def host(html: Path) -> Iterator[str]:
    """The site as a host serves it: under its path, with 404.html for what is not there."""
    prefix = urlsplit(TOP).path

    class Host(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            inside = unquote(urlsplit(path).path).removeprefix(prefix).lstrip("/")
            return str(html / inside)

        def send_error(self, code: int, *_: Any) -> None:
            body = (html / "404.html").read_bytes()
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{prefix}".rstrip("/")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("where", ["nowhere.html", "book/no/such/page"])
def test_missing_page_leads_back_from_any_depth(
    host: str, visit: Go, html: Path, where: str
) -> None:
    seen = visit(f"{host}/{where}")
    assert seen.missing == [f"404 {host}/{where}"], "the page itself, and nothing that it loads"
    assert seen.outside == []
    assert "Page not found" in seen.page.title()
    links = seen.page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
    links = [link for link in links if not link.startswith(f"{host}/{where}#")]
    assert [link for link in links if not leads_somewhere(link, host, html)] == []
    assert f"{host}/book/intro.html" in links
    seen.page.set_viewport_size({"width": 390, "height": 844})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.page.context.close()

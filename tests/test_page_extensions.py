"""The extensions that finish the pages, on small texts (the browser tests see whole pages)."""

import sys
from pathlib import Path
from types import SimpleNamespace

from fontTools.ttLib import TTFont
from pydata_sphinx_theme import __file__ as theme

from tools import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import accessible_pages
import light_pages

FONT = Path(theme).parent / "theme/pydata_sphinx_theme/static/vendor/fontawesome/webfonts"
SHEET = (
    '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-moon:before{content:"\\f186"}'
    ".fa-lg{font-size:2em}"
    '@font-face{src:url(x/fa.woff2) format("woff2"),url(x/fa.ttf) format("truetype")}'
)


def test_only_used_icons_keep_their_rule() -> None:
    names = light_pages.icon_names('<i class="theme-switch fa-solid fa-navicon  fa-lg"></i>')
    assert names == {"fa-solid", "fa-navicon", "fa-lg"}
    assert light_pages.reduce_icon_rules(SHEET, names) == (
        '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-lg{font-size:2em}'
        '@font-face{src:url(x/fa.woff) format("woff")}'
    )


def test_site_keeps_the_glyphs_that_it_shows(tmp_path: Path) -> None:
    fonts = tmp_path / "_static" / "vendor" / "fontawesome" / "webfonts"
    fonts.mkdir(parents=True)
    for ending in (".ttf", ".woff2"):
        name = f"fa-solid-900{ending}"
        (fonts / name).write_bytes((FONT / name).read_bytes())
    styles = tmp_path / "_static" / "styles"
    styles.mkdir()
    (styles / "theme.css").write_text(f'{SHEET}html{{--icon-note:"\\f05a"}}')
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir()
    (scripts / "fontawesome.js").write_text("fa-moon")
    script = '<script src="../_static/scripts/fontawesome.js?digest=1"></script>'
    page = tmp_path / "page.html"
    page.write_text(f'<head>{script}</head><i class="fas fa-bars"></i>')

    app = SimpleNamespace(outdir=str(tmp_path), builder=SimpleNamespace(name="html"))
    light_pages.keep_used_icons(app, None)

    assert page.read_text() == '<head></head><i class="fas fa-bars"></i>'
    assert list(scripts.iterdir()) == []
    [font] = fonts.iterdir()
    assert font.stat().st_size < 2_000
    with TTFont(font) as reduced:
        assert sorted(reduced.getBestCmap()) == [0xF05A, 0xF0C9]


def test_pages_load_what_they_use() -> None:
    def file(name: str | None, body: str = "") -> SimpleNamespace:
        return SimpleNamespace(filename=name, attributes={"body": body})

    def chosen(body: str) -> list[str | None]:
        context = {
            "body": body,
            "css_files": [file("ours.css"), file("sphinx-design.min.css")],
            "script_files": [file("design-tabs.js"), file(None, "const THEBE_JS_URL = 1")],
        }
        light_pages.choose_files(SimpleNamespace(), "page", "page.html", context, None)
        return [each.filename for each in context["css_files"] + context["script_files"]]

    assert chosen("<p>Text</p>") == ["ours.css"]
    used = ["ours.css", "sphinx-design.min.css", "design-tabs.js"]
    assert chosen('<div class="docutils sd-card">') == used


def test_names_and_roles_are_mended() -> None:
    before = (
        '<div id="pst-primary-sidebar" class="a"><i class="fa-solid fa-bars"></i>'
        '<button class="btn search-button-field b" title="Search" aria-label="Search">'
        '<summary aria-label="Toggle hidden content"><p class="facts">'
    )
    assert accessible_pages.mend(before) == (
        '<div role="region" aria-label="Book" id="pst-primary-sidebar" class="a">'
        '<i class="fa-solid fa-bars" aria-hidden="true"></i>'
        '<button class="btn search-button-field b" title="Search"><summary><p class="facts">'
    )

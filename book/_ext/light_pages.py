"""Leave out of the site what its pages do not use, so that a page is small and shows at once.

The theme draws some twenty icons with a script of 1.5 MB, and again with a font; we keep those
glyphs of the font and no script. Other extensions add their files to every page, used or not.
"""

import re
from pathlib import Path
from typing import Any

from fontTools import subset
from sphinx.application import Sphinx

# Code that would run cells on a server, with its settings in each page; the book offers none.
_THEBE = re.compile(r"thebe", re.IGNORECASE)
# sphinx-design: cards, grids, tabs and buttons.
_DESIGN = re.compile(r"sphinx-design|design-tabs")
_DESIGN_CLASS = re.compile(r'class="[^"]*\bsd-')

_ICON_SCRIPT = re.compile(r'\s*<script src="[^"]*scripts/fontawesome\.js[^"]*"></script>')
_ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
_CODE = re.compile(r'"\\(f[0-9a-f]{3}|e[0-9a-f]{3})"')
_FONT_FILES = re.compile(
    r'src:url\(([^)]*)\.woff2\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)'
)


def choose_files(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Take from a page the style sheets and scripts that nothing on it uses."""
    unused = [_THEBE]
    if not _DESIGN_CLASS.search(context.get("body", "")):
        unused.append(_DESIGN)
    for kind in ("css_files", "script_files"):
        context[kind] = [
            file
            for file in context[kind]
            if not any(each.search(_describe(file)) for each in unused)
        ]


def _describe(file: Any) -> str:
    """A file's address, or its text where it stands in the page."""
    return f"{file.filename} {file.attributes.get('body', '')}"


def keep_used_icons(app: Sphinx, exception: Exception | None) -> None:
    """Reduce the theme's icons to those that the finished pages show."""
    if exception or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    names: set[str] = set()
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        names |= icon_names(text)
        page.write_text(_ICON_SCRIPT.sub("", text), encoding="utf-8")
    for script in static.glob("scripts/fontawesome.js*"):
        script.unlink()
    for script in static.glob("scripts/*.js"):
        names |= icon_names(script.read_text(encoding="utf-8"))

    codes: set[str] = set()
    for sheet in static.glob("styles/*.css"):
        text = reduce_icon_rules(sheet.read_text(encoding="utf-8"), names)
        codes |= set(_CODE.findall(text))
        sheet.write_text(text, encoding="utf-8")
    for font in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        _subset(font, codes)
        font.unlink()
        font.with_suffix(".woff2").unlink()


def icon_names(text: str) -> set[str]:
    """The icons that a page or a script asks for: its classes that start with ``fa-``."""
    return set(re.findall(r"\bfa-[\w-]+", text))


def reduce_icon_rules(sheet: str, names: set[str]) -> str:
    """A style sheet without the rules of icons that are not in `names`, and with reduced fonts."""

    def keep(rule: re.Match[str]) -> str:
        used = {selector.removesuffix(":before")[1:] for selector in rule[1].split(",")} & names
        return rule[0] if used else ""

    return _FONT_FILES.sub(r'src:url(\1.woff) format("woff")', _ICON_RULE.sub(keep, sheet))


def _subset(font: Path, codes: set[str]) -> None:
    """Write the glyphs of `codes` beside `font`, as .woff (.woff2 needs one more package)."""
    options = subset.Options(flavor="woff", layout_features=[], notdef_outline=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[int(code, 16) for code in codes])
    with subset.load_font(str(font), options) as reduced:
        subsetter.subset(reduced)
        subset.save_font(reduced, str(font.with_suffix(".woff")), options)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", choose_files, priority=900)  # after those who add files
    app.connect("build-finished", keep_used_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

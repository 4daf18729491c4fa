"""How a figure's SVG becomes fit for a page: it takes the page's colour, scales, and is small."""

from __future__ import annotations

import hashlib
import html
import itertools
import re

__all__ = ["inline_svg"]


def inline_svg(svg: str, alt: str, *, ink: str) -> str:
    """Turn a file of matplotlib's SVG writer into an element that can stand in a page.

    Args:
        svg: the file.
        alt: what one would see.
        ink: the colour that becomes the page's text colour.
    """
    svg = _shorten(svg[svg.index("<svg") :]).replace(ink, "currentColor")
    # several figures stand on one page
    digest = hashlib.sha256(svg.encode()).hexdigest()[:5]
    svg = _rename_ids(svg, f"f{digest}-")
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', svg)
    assert width is not None, "matplotlib writes the width in points"
    pixels = float(width[1]) / 72 * 96
    # on a phone a wide figure scrolls rather than shrinks until it cannot be read
    style = f"width: 100%; max-width: {pixels:.0f}px; min-width: {0.6 * pixels:.0f}px; height: auto"
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    label = html.escape(alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1).strip()


def _shorten(svg: str) -> str:
    """The same picture in a third of the bytes: they are a large part of a page."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href").replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    svg = re.sub(r"scale\([^)]*\)|-?\d+\.\d{3,}", _round, svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: _shorten_path(path[0]), svg)
    svg = re.sub(r'(?<= style=")[^"]*', lambda style: re.sub(r"(?<=[:;]) ", "", style[0]), svg)
    svg = re.sub(r"(<g[^>]*)>\s*((?:<use[^>]*/>\s*){2,})</g>", _share_style, svg)
    return re.sub(r">\s+<", "><", svg)


def _round(number: re.Match[str]) -> str:
    """A hundredth of a point cannot be seen; a scale is a factor, not points."""
    return number[0] if number[0].startswith("scale") else f"{round(float(number[0]), 2):.6g}"


def _shorten_path(path: str) -> str:
    """Absolute path data without the spaces and the repeated commands that the format can spare."""
    parts, last = [], ""
    for command, numbers in re.findall(r"([MLQCz])\s*([^MLQCz]*)", path):
        # pairs of numbers that follow a move or a line are lines
        parts.append(" " if command == "L" and last in ("M", "L") else command)
        parts.append(" ".join(numbers.split()))
        last = command
    return "".join(parts)


def _share_style(group: re.Match[str]) -> str:
    """Write the style of many equal markers once, on their group."""
    styles = set(re.findall(r' style="([^"]*)"', group[2]))
    # the opacity of a group is another thing than that of each marker
    if "style=" in group[1] or len(styles) != 1 or re.search(r"(?<!-)opacity", *styles):
        return group[0]
    style = f' style="{styles.pop()}"'
    return f"{group[1]}{style}>{group[2].replace(style, '')}</g>"


def _rename_ids(svg: str, prefix: str) -> str:
    """Give short names, unique in a page, to what others refer to; the rest needs none."""
    numbers = itertools.count()
    names: dict[str, str] = {}
    for target in re.findall(r'(?:href="|url\()#([^")]+)', svg):
        if target not in names:
            names[target] = f"{prefix}{next(numbers)}"
    svg = re.sub(
        r' id="([^"]*)"', lambda at: f' id="{names[at[1]]}"' if at[1] in names else "", svg
    )
    return re.sub(r'((?:href="|url\()#)([^")]+)', lambda at: at[1] + names[at[2]], svg)

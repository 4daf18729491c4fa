"""The decks of slides on their own: ``dist/course/slides``, with all that they load.

The site has them, too; this folder can be carried to a lecture room. Open its index.html.
"""

import re
import shutil
from pathlib import Path

from tools import ToolError

# Decks of the site stand in a folder beside these; on their own they have them below.
_LOADED = re.compile(r'(?:src|href)="\.\./(_(?:static|images)/[^"?#]+)')
# MathJax fetches the rest of itself from beside its script.
_MATHJAX = "_static/vendor/mathjax"


def write(html: Path, target: Path) -> list[Path]:
    """Copy the decks of the site in `html` and what they load; returns the decks.

    Raises:
        ToolError: the site has no decks.
    """
    pages = sorted((html / "slides").glob("*.html"))
    if not pages:
        raise ToolError(f"{html} has no slides: the site was built without book/modules.yml.")
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copytree(html / _MATHJAX, fresh / _MATHJAX)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in _LOADED.findall(text):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(html / name, fresh / name)
        text = re.sub(r'((?:src|href)=")\.\./(?=_)', r"\1", text)
        (fresh / page.name).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)
    return sorted(target.glob("module-*.html"))

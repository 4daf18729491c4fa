"""How an explorer's JavaScript reaches a notebook and a page of the book.

The modules are written as ES modules, which node can test as they are. A notebook takes one text
for each widget, and a page opened from a file may load no module. So both get the same code with
its first and last words exchanged: that is all that happens here.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

__all__ = ["names", "page_script", "style", "widget_module"]

_IMPORT = re.compile(r'import \{([^}]*)\} from "\./common\.js";\n')
_EXPORT = re.compile(r"(?m)^export (?=(?:async )?(?:function\*?|class|const) (\w+))")
_DEFAULT = re.compile(r"(?m)^export default ")


@cache
def read(name: str) -> str:
    """The text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def names() -> list[str]:
    """The explorers that have a module."""
    shared = {"common", "page"}
    found = (path.name for path in files(__package__).iterdir())
    return sorted({name[:-3] for name in found if name.endswith(".js")} - shared)


def style() -> str:
    """The style sheet of all explorers."""
    return read("explorers.css")


def widget_module(name: str) -> str:
    """One ES module with the shared code in front, as anywidget takes it."""
    own = _IMPORT.sub("", read(f"{name}.js"), count=1)
    return _EXPORT.sub("", read("common.js")) + "\n" + _EXPORT.sub("", own)


def page_script(name: str) -> str:
    """A classic script: ``common`` and ``page`` once, and then any explorer, in this order."""
    text = read(f"{name}.js")
    if name == "page":
        return text
    if name == "common":
        shared = ", ".join(_EXPORT.findall(text))
        own = _EXPORT.sub("", text) + f"globalThis.balancingCommon = {{ {shared} }};\n"
    else:
        own = _IMPORT.sub(r"const {\1} = globalThis.balancingCommon;\n", text, count=1)
        own = _EXPORT.sub("", own)
        own = _DEFAULT.sub(f"(globalThis.balancingExplorers ??= {{}}).{name} = ", own)
    return f'(() => {{\n"use strict";\n{own}}})();\n'

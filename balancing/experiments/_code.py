"""A hash of the code that a function runs: what makes a stored result old."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

__all__ = ["code_version", "name_of"]

# Whose numbers can change from one version to the next.
_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")


def name_of(function: Callable[..., Any]) -> str:
    """``module:name``, under which another process finds a function.

    Raises:
        TypeError: it is no function.
        ValueError: it cannot be found so: a lambda, a nested function, one of a notebook.
    """
    if not callable(function):
        raise TypeError(f"run must be a function, got {type(function).__name__}")
    module, name = (getattr(function, each, "") for each in ("__module__", "__qualname__"))
    found: Any = sys.modules.get(module)
    if module == "__main__" or getattr(found, name, None) is not function:
        raise ValueError(
            f"run must be a function of a module that other processes can import, got {name} of "
            f"{module}; write it in a file of its own and import it from there"
        )
    return f"{module}:{name}"


@functools.cache
def code_version(function: Callable[..., Any]) -> str:
    """Hash of the module of a function, of what it imports of its package and of ours, and so on.

    Comments, docstrings and layout do not count. Of a package, ``__init__.py`` counts where a name
    is imported from it. The versions of torch, NumPy, SciPy and scikit-learn count.
    """
    packages = {function.__module__.partition(".")[0], __name__.partition(".")[0]}
    waiting, trees = [function.__module__], {}
    while waiting:
        name = waiting.pop()
        if name not in trees and (path := _source(name)) is not None:
            trees[name] = tree = _without_docstrings(ast.parse(path.read_bytes()))
            waiting += _imports(tree, packages)
    digest = hashlib.sha256()
    for name in sorted(trees):
        digest.update(f"{name} {ast.dump(trees[name])}\n".encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    """The file of a module; None if there is none, as for the name of a function."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return None
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _imports(tree: ast.AST, packages: Container[str]) -> Iterator[str]:
    """The modules of some packages that are imported: of ``from a import b`` a.b, if not a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        else:
            continue
        for inner, outer in names:
            if inner.partition(".")[0] in packages:
                yield outer if _source(inner) is None else inner


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"

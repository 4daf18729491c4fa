"""Number exercises by chapter, as their checks are: the label ``ex-02-1`` makes exercise 02.1."""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_LABEL = re.compile(r"ex-(\d\d)-(\d+)")


def number_by_label(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Replace the numbers that run through the whole book; no page has to be written for that."""
    for numbered in env.toc_fignumbers.values():
        exercises: dict[str, Any] = numbered.get("exercise", {})
        for label in exercises:
            if found := _LABEL.fullmatch(label):
                exercises[label] = found.groups()
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, which numbers figures at priority 500 of the same event."""
    app.connect("env-get-updated", number_by_label, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The tools behind the Makefile: notebooks, front-end assets, the site. Not part of the package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class ToolError(Exception):
    """A failure that the person at the keyboard can mend; its text says how."""

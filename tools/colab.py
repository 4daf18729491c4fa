"""The first code cell of every notebook: on Google Colab it fetches what is missing there."""

import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tools import ROOT

CELL_ID = "colab"

# Colab has torch (for its graphics cards) and all else that the package needs but these three.
_SETUP = """\
# On Google Colab: fetch the book, install what Colab lacks (torch stays). Elsewhere: nothing.
import os
import sys

if "google.colab" in sys.modules and not os.path.isdir("results"):
    import subprocess

    from google.colab import output

    book = ["git", "clone", "--quiet", "--depth=1", "--branch={branch}", "{url}", "balancing-book"]
    subprocess.run(book, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "./balancing-book", "anywidget", "latex2mathml", "psygnal"], check=True)
    os.chdir("balancing-book/book")
    output.enable_custom_widget_manager()"""


def setup_cell() -> NotebookNode:
    """The cell, for the repository that ``_config.yml`` names; pages leave it out."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    source = _SETUP.format(url=repository["url"], branch=repository["branch"])
    cell: NotebookNode = new_code_cell(source, id=CELL_ID, metadata={"tags": ["remove-cell"]})
    return cell

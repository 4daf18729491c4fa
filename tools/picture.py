"""Copy a figure of an executed notebook to a file, for pages that are no notebooks (the README).

python -m tools.picture
"""

import base64
import json
from pathlib import Path

from tools import ROOT

NOTEBOOK = ROOT / "book" / "05_layers_balance_themselves.ipynb"
FIGURE = "fig-du-figure2"
PICTURE = ROOT / "book" / "_static" / "figure2.png"


def png(notebook: Path = NOTEBOOK, figure: str = FIGURE) -> bytes:
    """The PNG form of a figure in an executed notebook.

    Raises:
        LookupError: the notebook has no such figure.
    """
    for cell in json.loads(notebook.read_text())["cells"]:
        named = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            if named == figure and "image/png" in output.get("data", {}):
                return base64.b64decode("".join(output["data"]["image/png"]))
    raise LookupError(f"{notebook.name} has no executed figure named '{figure}'")


if __name__ == "__main__":
    PICTURE.write_bytes(png())
    print(PICTURE.relative_to(ROOT))

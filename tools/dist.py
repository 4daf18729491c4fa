"""The site as one file: dist/balancing-site.zip. This is `make dist`.

    python -m tools.dist

Unzip it anywhere and open balancing/index.html; no server and no network are needed.
"""

import sys
import zipfile
from pathlib import Path

from tools import ROOT, ToolError, site

ARCHIVE = ROOT / "dist" / "balancing-site.zip"
TOP = "balancing"

# For web servers, search engines, other books and the builder; no page asks for them. Nor for
# hidden files and for what helps to debug scripts.
_LEFT_OUT_NAMES = {"404.html", "sitemap.xml", "objects.inv"} | {
    f"tippy_{kind}_cache.json" for kind in ("doi", "rtd", "wiki")
}
_LEFT_OUT_ENDINGS = {".map"}


def files(html: Path) -> list[Path]:
    """The files of the site that a reader needs, in a fixed order."""
    return sorted(path for path in html.rglob("*") if path.is_file() and _is_read(path, html))


def _is_read(path: Path, html: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(html).parts)
    return not hidden and path.name not in _LEFT_OUT_NAMES and path.suffix not in _LEFT_OUT_ENDINGS


def write(html: Path, archive: Path = ARCHIVE) -> Path:
    """Zip the site in `html` below one folder; the same site gives the same bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    fresh = archive.with_suffix(".new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for path in files(html):
            name = f"{TOP}/{path.relative_to(html).as_posix()}"
            entry = zipfile.ZipInfo(name)  # dated 1980, whatever the time
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, path.read_bytes())
    fresh.replace(archive)
    return archive


def main() -> int:
    """The command line."""
    try:
        archive = write(site.build().parent)
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    size = archive.stat().st_size / 1e6
    print(f"{archive.relative_to(ROOT)} ({size:.0f} MB): unzip it, open {TOP}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())

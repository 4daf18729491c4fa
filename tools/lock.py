"""The lock: which files each version in constraints.txt may be installed from.

    python -m tools.lock                        compare with what is installed: `make audit`
    python -m tools.lock --write [WHEEL ...]    write the lock anew (needs uv)

requirements.lock holds, for each pin, the SHA-256 of every file that the package index has of it;
pip installs nothing else with --require-hashes. torch has one hash more: that of its build without
CUDA, which is no file of the index and is given as WHEEL.
"""

import argparse
import base64
import csv
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from tools import ROOT, ToolError

PINS = ROOT / "constraints.txt"
LOCK = ROOT / "requirements.lock"
# Not pinned: this project, and what the interpreter brings to every environment.
FREE = {"balancing", "pip", "wheel"}
HEADER = """\
# Every file from which the pins of constraints.txt may be installed; written by tools/lock.py.
# The last hash of torch is that of its build without CUDA, with which the book is made and tested:
# {wheels}
# The others are those of the index's builds, of which the Linux ones need libraries for graphics
# cards that are not listed here.
"""


def read(lock: Path = LOCK) -> dict[str, tuple[str, set[str]]]:
    """Version and SHA-256 hashes of each package in the lock, by canonical name."""
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, tuple[str, set[str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        head, *hashes = re.split(r"\s+--hash=sha256:", line)
        pin = Requirement(head)
        version = str(pin.specifier).removeprefix("==")
        found[canonicalize_name(pin.name)] = (version, {each.strip() for each in hashes})
    return found


def faults(installed: Iterable[Distribution], lock: Path = LOCK) -> list[str]:
    """What is installed and is not as it should be: one line for each fault.

    A version that is not in the lock, and a file that is not what its package has recorded of it.
    """
    locked = read(lock)
    found = []
    for package in installed:
        name = canonicalize_name(package.metadata["Name"])
        if name in FREE:
            continue
        # a build such as +cpu has the version of its release
        version = Version(package.version).public
        if name not in locked:
            found.append(f"{name} {version} is installed, and not in {lock.name}")
        elif locked[name][0] != version:
            found.append(f"{name} {version} is installed, and {lock.name} has {locked[name][0]}")
        found += [f"{name}: {path} is not as installed" for path in _changed(package)]
    return sorted(found)


def _changed(package: Distribution) -> list[str]:
    """Files of a package that are missing or have another hash than its RECORD says."""
    found = []
    # not package.files, which leaves out the missing ones
    for name, recorded, _ in csv.reader((package.read_text("RECORD") or "").splitlines()):
        if not recorded:  # of compiled files, and of RECORD itself
            continue
        kind, _, value = recorded.partition("=")
        path, digest = Path(str(package.locate_file(name))), b""
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, kind).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != value:
            found.append(name)
    return found


def write(wheels: Iterable[Path] = (), lock: Path = LOCK) -> None:
    """Write the lock of the present pins; the hash of each of `wheels` is added to its package's.

    Raises:
        ToolError: uv is missing or failed, or a wheel is of no pinned version.
    """
    wheels = list(wheels)
    if (uv := shutil.which("uv")) is None:
        raise ToolError(
            "The hashes are listed by uv: pip install uv, in an environment of its own."
        )
    # Without resolution: all that is needed is pinned. 3.11.5 is the oldest Python of the pins.
    options = (
        "--no-deps --generate-hashes --python-version=3.11.5 --no-annotate --no-header "
        "--no-emit-index-url --no-emit-find-links --quiet"
    )
    done = subprocess.run(
        [uv, "pip", "compile", *options.split(), str(PINS)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolError(f"uv could not list the files of {PINS.name}.")
    text = done.stdout
    for wheel in wheels:
        name, version, *_ = parse_wheel_filename(wheel.name)
        entry = re.search(
            rf"^{name}=={re.escape(version.public)}( \\\n    --hash=\S+)+", text, re.M
        )
        if entry is None:
            raise ToolError(f"{PINS.name} has no {name} {version.public}, as {wheel.name} is.")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        text = f"{text[: entry.end()]} \\\n    --hash=sha256:{digest}{text[entry.end() :]}"
    lock.write_text(HEADER.format(wheels=", ".join(each.name for each in wheels)) + text)


def audit() -> None:
    """Compare what is installed with the lock; have known weaknesses looked up, if possible.

    Raises:
        ToolError: Something is not as the lock says, or pip-audit found something.
    """
    if found := faults(distributions()):
        raise ToolError("\n".join(found))
    print(f"What is installed is what {LOCK.name} names, and as it was installed.", flush=True)
    if (tool := shutil.which("pip-audit")) is None:
        print(
            "Known weaknesses were not looked up: there is no pip-audit, which needs the network."
        )
        return
    command = [tool, "--require-hashes", "--disable-pip", "-r", str(LOCK)]
    if subprocess.run(command, check=False).returncode:
        raise ToolError("pip-audit names weaknesses, or could not reach its database: see above.")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__)
    parser.add_argument("--write", nargs="*", type=Path, metavar="WHEEL")
    wheels = parser.parse_args().write
    try:
        if wheels is None:
            audit()
        else:
            write(wheels)
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

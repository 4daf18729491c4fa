"""The lock: it has every pin, and what is not as it says is noticed."""

import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import ROOT, ToolError, lock


def test_lock_has_the_pins_and_a_hash_of_each() -> None:
    pins = [Requirement(line) for line in lock.PINS.read_text().splitlines()]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), "a package is pinned twice"
    wanted = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    locked = lock.read()
    assert {name: version for name, (version, _) in locked.items()} == wanted, (
        "write the lock anew: CONTRIBUTING.md says how"
    )
    for name, (_, hashes) in locked.items():
        assert hashes, name
        assert all(len(each) == 64 and int(each, 16) >= 0 for each in hashes), name
    assert "://" not in lock.LOCK.read_text()


def test_what_is_installed_is_as_the_lock_says() -> None:
    ours = {"numpy", "torch", "pandas", "pytest"}
    found = [each for each in distributions() if each.metadata["Name"] in ours]
    assert {each.metadata["Name"] for each in found} == ours
    assert lock.faults(found) == []


@pytest.fixture
def package(tmp_path: Path) -> Distribution:
    """A package in a folder of its own, with the version that is locked of a real one."""
    info = tmp_path / "alabaster-0.7.16.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alabaster\nVersion: 0.7.16\n")
    (tmp_path / "alabaster.py").write_text("")
    empty = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"  # SHA-256 of no bytes
    (info / "RECORD").write_text(f"alabaster.py,sha256={empty},0\n{info.name}/RECORD,,\n")
    [found] = distributions(path=[str(tmp_path)])
    assert lock.faults([found]) == []
    return found


def test_other_version_is_noticed(package: Distribution, tmp_path: Path) -> None:
    metadata = tmp_path / "alabaster-0.7.16.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.7.16", "0.7.17"))
    assert lock.faults([package]) == [
        "alabaster 0.7.17 is installed, and requirements.lock has 0.7.16"
    ]
    metadata.write_text(metadata.read_text().replace("alabaster", "extra"))
    assert lock.faults([package]) == ["extra 0.7.17 is installed, and not in requirements.lock"]


def test_changed_and_missing_files_are_noticed(package: Distribution, tmp_path: Path) -> None:
    (tmp_path / "alabaster.py").write_text("import this")
    assert lock.faults([package]) == ["alabaster: alabaster.py is not as installed"]
    (tmp_path / "alabaster.py").unlink()
    assert lock.faults([package]) == ["alabaster: alabaster.py is not as installed"]


def test_pip_refuses_a_file_that_the_lock_does_not_name(tmp_path: Path) -> None:
    """Of a wheel that differs from the locked one, made here: no network is needed."""
    wheel = tmp_path / "alabaster-0.7.16-py3-none-any.whl"
    wheel.write_bytes(b"not what the index has")
    entry = lock.LOCK.read_text().partition("\nalabaster==")[2].partition("\nalembic")[0]
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"alabaster=={entry}\n")
    (tmp_path / "downloads").mkdir()
    options = "--no-index --no-deps --isolated --require-hashes"
    command = ["-m", "pip", "download", *options.split(), "--find-links", tmp_path, "-r", wanted]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path / "downloads",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr


def test_lock_is_written_with_the_hash_of_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for uv, which prints what uv prints."""
    stand_in = tmp_path / "uv"
    listed = ["alabaster==0.7.16", "--hash=sha256:aa", "--hash=sha256:bb"]
    printed = " \\\n    ".join(listed) + "\nz==1 \\\n    --hash=sha256:cc\n"
    stand_in.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}END\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    wheel = tmp_path / "alabaster-0.7.16+cpu-py3-none-any.whl"
    wheel.write_bytes(b"")
    target = tmp_path / "lock"
    lock.write([wheel], target)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert lock.read(target) == {"alabaster": ("0.7.16", {"aa", "bb", empty}), "z": ("1", {"cc"})}
    with pytest.raises(ToolError, match=r"has no alabaster 0\.7\.17"):
        lock.write([wheel.rename(tmp_path / "alabaster-0.7.17-py3-none-any.whl")], target)
    monkeypatch.setenv("PATH", str(ROOT))
    with pytest.raises(ToolError, match="listed by uv"):
        lock.write(lock=target)

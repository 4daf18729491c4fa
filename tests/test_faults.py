"""Kills, full disks, damaged files, two at once: what is finished stays, a second run completes.

Real processes and real files: the command line is started and stopped from outside.
"""

import os
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import psutil
import pytest

from balancing import cli
from balancing.experiments._store import Store

SEEDS = 5
# a second or two a run
TARGET = ["du2018.figure1", "--seeds", str(SEEDS), "--set", "iterations=15000"]
TARGET += ["--set", "record_every=500"]
LONG = 180.0  # seconds until a test that waits gives up


class Sandbox:
    """A folder with a store and a folder of tables, and the command line on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.out = folder, folder / "runs.sqlite", folder / "out"

    def command(self, *more: str, jobs: int = 2, out: Path | None = None) -> list[str]:
        program = [sys.executable, "-m", "balancing.cli", "reproduce", *TARGET]
        place = ["--store", str(self.store), "--out", str(out or self.out)]
        return [*program, *place, "--jobs", str(jobs), *more]

    def start(self, *more: str, jobs: int = 2) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*more, jobs=jobs), stdout=-1, stderr=-1, text=True, start_new_session=True
        )

    def run(self, *more: str, jobs: int = 2) -> subprocess.CompletedProcess[str]:
        command = self.command(*more, jobs=jobs)
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)

    def finished(self) -> int:
        """How many runs the store holds."""
        if not self.store.exists():
            return 0
        address = f"file:{self.store}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])
            except sqlite3.OperationalError:  # not made yet
                return 0

    def wait_for(self, count: int, process: subprocess.Popen[str]) -> None:
        """Return once so many runs are finished and others still run."""
        end = time.monotonic() + LONG
        while self.finished() < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        assert self.finished() < SEEDS, "too fast to be killed in between"

    def table(self) -> bytes:
        return (self.out / "du2018.figure1.csv").read_bytes()


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A sweep that nothing befell."""
    sandbox = Sandbox(tmp_path_factory.mktemp("whole"))
    done = sandbox.run()
    # the claims about Figure 1 are not what is tested here
    assert done.returncode in (0, 1), done.stderr
    assert f"{SEEDS} runs" in done.stderr
    return sandbox


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


# --- kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_sweep_goes_on_where_it_was(sandbox: Sandbox, whole: Sandbox, how: int) -> None:
    process = sandbox.start()
    sandbox.wait_for(1, process)
    left = workers(process)
    assert left
    process.send_signal(how)
    process.communicate(timeout=LONG)
    assert psutil.wait_procs(left, timeout=30)[1] == [], "workers outlive the sweep"
    kept = sandbox.finished()
    assert kept >= 1
    assert not sandbox.out.exists() or list(sandbox.out.iterdir()) == []
    done = sandbox.run("--resume")
    assert f"{SEEDS} runs, {kept} of them taken from" in done.stderr
    assert sandbox.table() == whole.table()


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Programs started here heed Ctrl-C, even if pytest runs in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_interrupted_sweep_says_how_to_go_on(sandbox: Sandbox, whole: Sandbox) -> None:
    process = sandbox.start()
    sandbox.wait_for(1, process)
    left = workers(process)
    os.killpg(process.pid, signal.SIGINT)  # what the terminal does for Ctrl-C
    _, said = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert "interrupted; finished runs are kept in" in said
    assert "--resume" in said
    assert "Traceback" not in said.partition("balancing: interrupted")[2]
    assert psutil.wait_procs(left, timeout=30)[1] == []
    kept = sandbox.finished()
    done = sandbox.run("--resume")
    assert f"{kept} of them taken from" in done.stderr
    assert sandbox.table() == whole.table()


def test_sweep_survives_the_kill_of_a_worker(sandbox: Sandbox, whole: Sandbox) -> None:
    process = sandbox.start()
    sandbox.wait_for(1, process)
    victim = next(each for each in workers(process) if "spawn_main" in " ".join(each.cmdline()))
    victim.kill()
    _, said = process.communicate(timeout=LONG)
    assert process.returncode in (0, 1), said
    assert sandbox.table() == whole.table()


def test_two_sweeps_on_one_store(sandbox: Sandbox, whole: Sandbox) -> None:
    both = [sandbox.start(jobs=1) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=LONG)
        assert process.returncode in (0, 1), said
    assert sandbox.finished() == SEEDS
    assert sandbox.table() == whole.table()
    assert sorted(path.name for path in sandbox.out.iterdir()) == [
        "du2018.figure1.csv",
        "du2018.figure1.json",
    ]
    with closing(sqlite3.connect(sandbox.store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- full and read-only disks -----------------------------------------------------------------


def mounted(disk: Path, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a small disk of its own at a folder."""
    disk.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(disk))}"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = ["unshare", "--mount", *user, "sh", "-c"]
    if subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    command = [*inside, f"{mount}\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)


def test_full_disk_of_the_store(sandbox: Sandbox, whole: Sandbox) -> None:
    disk = sandbox.folder / "disk"
    sandbox.store = disk / "runs.sqlite"
    run = shlex.join(sandbox.command(jobs=1))
    count = shlex.join(
        [
            sys.executable,
            "-c",
            f"import sqlite3; print(sqlite3.connect({str(sandbox.store)!r})"
            ".execute('SELECT count(*) FROM runs').fetchone()[0])",
        ]
    )
    done = mounted(
        disk,
        "80k",  # room for some of the runs
        f"{run}; echo status $?; {count}\n"
        f"mount -o remount,size=64m {shlex.quote(str(disk))}\n{run} --resume >/dev/null",
    )
    status, kept = done.stdout.splitlines()[:2]
    assert status == "status 2", done
    assert 1 <= int(kept) < SEEDS, "the disk was not filled in between"
    assert "the disk is full" in done.stderr
    assert str(sandbox.store) in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert f"{kept} of them taken from" in done.stderr
    assert sandbox.table() == whole.table()


def test_full_disk_of_the_tables(sandbox: Sandbox, whole: Sandbox) -> None:
    sandbox.out = sandbox.folder / "disk"
    run = shlex.join(sandbox.command(jobs=1))
    done = mounted(
        sandbox.out,
        "8k",
        f"{run}; echo status $?; ls -A {shlex.quote(str(sandbox.out))}; echo end",
    )
    assert done.stdout.splitlines() == ["status 2", "end"], "half a file is left"
    assert f"No space left on device: '{sandbox.out / 'du2018.figure1.csv'}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert sandbox.finished() == SEEDS
    sandbox.out = sandbox.folder / "out"
    assert f"{SEEDS} of them taken from" in sandbox.run("--resume").stderr
    assert sandbox.table() == whole.table()


def test_read_only_folder_of_the_tables(sandbox: Sandbox) -> None:
    sandbox.out = sandbox.folder / "disk"
    run = shlex.join(sandbox.command(jobs=1))
    done = mounted(
        sandbox.out,
        "1m",
        f"mount -o remount,ro {shlex.quote(str(sandbox.out))}; {run}; echo status $?",
    )
    assert done.stdout == "status 2\n"
    assert f"cannot write '{sandbox.out / 'du2018.figure1.csv'}'" in done.stderr
    assert sandbox.finished() == 0, "it runs for nothing"


def test_limited_file(sandbox: Sandbox, whole: Sandbox) -> None:
    """A quota instead of a disk: what every user of every machine can try."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(
        sandbox.command(jobs=1),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 2, done
    assert "the disk is full or broken" in done.stderr
    kept = sandbox.finished()
    assert 1 <= kept < SEEDS
    assert f"{kept} of them taken from" in sandbox.run("--resume").stderr
    assert sandbox.table() == whole.table()


# --- damaged files ------------------------------------------------------------------------------


def filled(path: Path, count: int = 40) -> dict[str, bytes]:
    """Make a store of many runs, of which each takes some pages; returns what is in it."""
    contents = {f"key{number}": os.urandom(9000) for number in range(count)}
    with Store(path) as store:
        for key, content in contents.items():
            store.put(key, content, run="m:f", config="{}", seconds=1.0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return contents


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwritten(content: bytes) -> bytes:
    middle = len(content) // 2 // 4096 * 4096
    return content[:middle] + os.urandom(8192) + content[middle + 8192 :]


@pytest.mark.parametrize("damage", [truncated, overwritten])
def test_damaged_store_gives_what_is_left(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "runs.sqlite"
    contents = filled(path)
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    with pytest.warns(UserWarning, match=r"was damaged and is now .*damaged'; \d+ finished runs"):
        store = Store(path)
    with store:
        found = {key: store.get(key) for key in contents}
    saved = [key for key, content in found.items() if content is not None]
    assert all(found[key] == contents[key] for key in saved)
    assert len(saved) >= len(contents) // 4
    assert (tmp_path / "runs.sqlite.damaged").read_bytes() == broken
    with Store(path) as store:  # and no word of it any more
        assert {key: store.get(key) for key in contents} == found


def test_one_wrong_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    [(key, content)] = filled(path, 1).items()
    raw = bytearray(path.read_bytes())
    raw[raw.index(content[5000:5050])] ^= 1  # SQLite itself does not see it
    path.write_bytes(raw)
    with Store(path) as store:
        assert store.get(key) is None


@pytest.mark.parametrize(
    "content",
    [b"seed,x\n0,1\n", b"\0" * 5000, b"SQLite format 3\0" + b"\1" * 200],
    ids=["csv", "zeros", "garbage"],
)
def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"precious' is not a store of runs; remove it or"):
        Store(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is not a store of runs"):
        Store(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "runs.sqlite").touch()
    assert filled(tmp_path / "runs.sqlite", 1)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("csv", truncated, "is damaged: not what"),
        ("csv", lambda content: content.replace(b"0.1", b"0.2", 1), "is damaged: not what"),
        ("csv", lambda _: b"", "is damaged: not what"),
        ("json", truncated, "is damaged"),
    ],
    ids=["truncated", "changed", "empty", "provenance"],
)
def test_damaged_table(
    sandbox: Sandbox,
    whole: Sandbox,
    name: str,
    damage: Callable[[bytes], bytes],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sandbox.out.mkdir()
    for each in whole.out.iterdir():
        (sandbox.out / each.name).write_bytes(each.read_bytes())
    path = sandbox.out / f"du2018.figure1.{name}"
    path.write_bytes(damage(path.read_bytes()))
    assert cli.main(["claims", "--results", str(sandbox.out)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert message in said
    assert "record it again: balancing reproduce du2018.figure1 --resume" in said
    again = ["reproduce", *TARGET, "--store", str(whole.store), "--out", str(sandbox.out)]
    assert cli.main([*again, "--resume", "--jobs", "1"]) in (0, 1)
    assert sandbox.table() == whole.table()


def test_table_without_provenance_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "du2018.figure1.csv").write_bytes(b"\xff\xfe\x00 a,b\n\x00\x00")
    assert cli.main(["claims", "--results", str(tmp_path)]) == 2


def test_whole_table_is_sound(whole: Sandbox) -> None:
    table = pd.read_csv(whole.out / "du2018.figure1.csv")
    assert table["seed"].unique().tolist() == list(range(SEEDS))

"""Sweeps on a Dask cluster of two worker processes on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from distributed import Client, LocalCluster
from sweep_runs import Config, dying, numbers, processes

from balancing import _reproduce_command, cli
from balancing.experiments import sweep
from balancing.experiments.du2018 import Theorem32Config, theorem32

QUICK = ["du2018.theorem32", "--seeds", "4", "--set", "dims=(5,20)"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def test_command_gives_the_tables_of_one_machine(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "cluster.sqlite")]
    address = ["--scheduler", cluster.scheduler_address]
    run = ["reproduce", *QUICK, "--out", str(tmp_path / "cluster")]
    assert cli.main([*run, *store, *address]) in (0, 1)
    here = ["--out", str(tmp_path / "here"), "--store", str(tmp_path / "here.sqlite")]
    assert cli.main(["reproduce", *QUICK, *here, "--jobs", "2"]) in (0, 1)
    one, other = (tmp_path / each / "du2018.theorem32.csv" for each in ("cluster", "here"))
    assert one.read_bytes() == other.read_bytes()
    capsys.readouterr()
    # what one has finished the other takes over
    assert cli.main([*run, *store, "--jobs", "1", "--resume"]) in (0, 1)
    assert "4 runs, 4 of them taken from" in capsys.readouterr().err


def test_each_run_has_one_thread_of_a_worker(cluster: LocalCluster, tmp_path: Path) -> None:
    wanted = [Config(str(tmp_path), seed, seconds=0.2) for seed in range(4)]
    with Client(cluster, set_as_default=False) as client:
        table = sweep(numbers, wanted, client.get_executor(pure=False))
    assert table["seed"].unique().tolist() == [0, 1, 2, 3]
    assert (table["threads"] == 1).all()
    assert len(processes(tmp_path)) == 2


def test_killed_worker(cluster: LocalCluster, tmp_path: Path) -> None:
    wanted = [Config(str(tmp_path), seed, fatal=(1,)) for seed in range(4)]
    with Client(cluster, set_as_default=False) as client:
        table = sweep(dying, wanted, client.get_executor(pure=False))
    assert table["seed"].unique().tolist() == [0, 1, 2, 3]


def test_numbers_of_a_worker_are_those_of_this_process(cluster: LocalCluster) -> None:
    wanted = [replace(Theorem32Config(), dims=(7,), seed=seed) for seed in range(3)]
    with Client(cluster, set_as_default=False) as client:
        found = sweep(theorem32, wanted, client.get_executor(pure=False))
    pd.testing.assert_frame_equal(found, sweep(theorem32, wanted, jobs=1), check_exact=True)


@pytest.mark.parametrize(
    ("address", "message"),
    [("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"), ("nonsense://x", "nonsense")],
)
def test_scheduler_out_of_reach(
    address: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_reproduce_command, "PATIENCE", 1.0)
    store = ["--store", str(tmp_path / "s.sqlite")]
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["reproduce", *QUICK, *out, *store, "--scheduler", address]) == 2
    assert message in capsys.readouterr().err

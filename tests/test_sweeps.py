"""Sweeps: the same tables from every executor, finished runs kept, faults of runs and workers."""

import importlib
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sweep_runs import Config, calls, deadly, dying, failing, numbers, processes

from balancing.experiments import EXPERIMENTS, sweep
from balancing.experiments._code import code_version
from balancing.experiments._store import pack, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the runs leave a note of each call."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def configs(folder: Path, count: int = 4, **settings: Any) -> list[Config]:
    return [Config(str(folder), seed, **settings) for seed in range(count)]


def expected(wanted: list[Config]) -> pd.DataFrame:
    """What the runs give one by one, each with one thread."""
    tables = pd.concat([numbers(config) for config in wanted], ignore_index=True)
    return tables.assign(threads=1)


def assert_same(found: pd.DataFrame, table: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, table, check_exact=True)


# --- executors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_processes(folder: Path, jobs: int) -> None:
    wanted, threads = configs(folder), torch.get_num_threads()
    table = sweep(numbers, wanted, jobs=jobs)
    assert calls(folder) == [0, 1, 2, 3]
    assert torch.get_num_threads() == threads
    assert_same(table, expected(wanted))


def test_given_executors(folder: Path) -> None:
    wanted = configs(folder)
    with ProcessPoolExecutor(2) as pool:
        assert_same(sweep(numbers, wanted, pool), expected(wanted))
    with ThreadPoolExecutor(2) as pool:  # in this process: its threads are left alone
        found = sweep(numbers, wanted, pool).assign(threads=1)
    assert_same(found, expected(wanted))


def test_order_is_that_of_the_configs(folder: Path) -> None:
    wanted = [
        Config(str(folder), seed, seconds) for seed, seconds in ((5, 0.3), (1, 0.0), (5, 0.1))
    ]
    with ThreadPoolExecutor(3) as pool:
        assert sweep(numbers, iter(wanted), pool)["seed"].tolist() == [5] * 3 + [1] * 3 + [5] * 3


def test_progress(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(numbers, configs(folder), jobs=1)
    assert capsys.readouterr().err == ""  # not a terminal
    sweep(numbers, configs(folder), jobs=1, progress=True)
    assert "4/4" in capsys.readouterr().err


def test_seeds_of_an_experiment() -> None:
    config = replace(EXPERIMENTS["du2018.theorem32"].config, dims=(5, 9))
    experiment = replace(EXPERIMENTS["du2018.theorem32"], config=config)
    wanted = experiment.configs(3)
    assert [each.seed for each in wanted] == [0, 1, 2]
    alone = [experiment.run(each, progress=False) for each in wanted]
    assert_same(sweep(experiment.run, wanted, jobs=1), pd.concat(alone, ignore_index=True))


# --- what is kept ---------------------------------------------------------------------------------


def test_finished_runs_are_taken_over(folder: Path, tmp_path: Path) -> None:
    store, wanted = tmp_path / "new" / "runs.sqlite", configs(folder)
    first = sweep(numbers, wanted[:3], jobs=1, store=store)
    assert_same(first, expected(wanted[:3]))
    for each in folder.iterdir():
        each.unlink()
    table = sweep(numbers, wanted, jobs=1, store=store)
    assert calls(folder) == [3]
    assert_same(table, expected(wanted))


@pytest.mark.parametrize("change", [{"seconds": 0.001}, {"fatal": (9,)}])
def test_a_changed_config_runs_again(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    store = tmp_path / "runs.sqlite"
    for wanted in (configs(folder, 1), configs(folder, 1, **change), configs(folder, 1)):
        sweep(numbers, wanted, jobs=1, store=store)
    assert calls(folder) == [0, 0]


def test_another_function_with_the_same_config_runs(folder: Path, tmp_path: Path) -> None:
    for run in (numbers, dying):
        sweep(run, configs(folder, 1), jobs=1, store=tmp_path / "runs.sqlite")
    assert len(calls(folder)) == 3  # dying calls numbers


def test_without_resume_all_run_again(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        sweep(numbers, configs(folder, 2), jobs=1, store=tmp_path / "runs.sqlite", resume=False)
    assert calls(folder) == [0, 0, 1, 1]
    connection = sqlite3.connect(tmp_path / "runs.sqlite")
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    connection.close()


def test_store_says_what_it_holds(folder: Path, tmp_path: Path) -> None:
    sweep(numbers, configs(folder, 1, seconds=0.05), jobs=1, store=tmp_path / "runs.sqlite")
    connection = sqlite3.connect(tmp_path / "runs.sqlite")
    [row] = connection.execute("SELECT run, config, seconds, finished FROM runs").fetchall()
    connection.close()
    assert row[0] == "sweep_runs:numbers"
    assert '"seed": 0' in row[1]
    assert 0.05 <= row[2] < 10
    assert row[3].startswith("20")
    assert row[3].endswith("Z")


kinds = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(),
    "bool": st.booleans(),
    "str": st.text(st.characters(exclude_categories=["Cs"])),
}


@given(
    st.integers(0, 4).flatmap(
        lambda rows: st.lists(
            st.sampled_from(sorted(kinds)).flatmap(
                lambda kind: st.tuples(
                    st.just(kind), st.lists(kinds[kind], min_size=rows, max_size=rows)
                )
            ),
            max_size=4,
        )
    )
)
def test_tables_come_back_as_they_were(columns: list[tuple[str, list[Any]]]) -> None:
    table = pd.DataFrame(
        {
            f"{number}": pd.Series(values, dtype=kind)
            for number, (kind, values) in enumerate(columns)
        }
    )
    assert_same(unpack(pack(table)), table)


# --- the code that a run uses ---------------------------------------------------------------------

MODULE = """
from dataclasses import dataclass
import pandas as pd
from {package}.helper import twice
from {package} import other

@dataclass(frozen=True)
class Config:
    seed: int = 0

def run(config):
    return pd.DataFrame({{"seed": [config.seed], "y": [twice(config.seed + 1)]}})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a module, its helper, a module of which nothing is used but its import."""
    folder = tmp_path / "someone"
    folder.mkdir()
    (folder / "__init__.py").write_text("import someone.unused\n")
    (folder / "unused.py").write_text("value = 1\n")
    (folder / "other.py").write_text("value = 1\n")
    (folder / "helper.py").write_text("def twice(x):\n    return 2 * x\n")
    (folder / "main.py").write_text(MODULE.format(package="someone"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def version(name: str = "someone") -> str:
    """The version of the code as a fresh process would see it."""
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]
    importlib.invalidate_caches()
    return code_version(importlib.import_module(f"{name}.main").run)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("main.py", "+ 1", "+ 3", True),
        ("helper.py", "2 * x", "3 * x", True),
        ("other.py", "1", "2", True),
        ("unused.py", "1", "2", False),
        ("helper.py", "    return", '    """Double."""\n    # it does\n\n    return', False),
        ("helper.py", "2 * x", "(2*x)", False),
    ],
)
def test_changed_code(package: Path, file: str, old: str, new: str, counts: bool) -> None:
    before = version()
    assert version() == before
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    assert (version() != before) == counts


def test_changed_libraries(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = version()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    assert version() != before


def test_a_run_that_uses_the_library_depends_on_it(package: Path, tmp_path: Path) -> None:
    before = version()
    (package / "helper.py").write_text("from balancing.networks import mlp\n\ntwice = mlp\n")
    assert version() != before


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_other_runs_finish_when_one_fails(folder: Path, tmp_path: Path, jobs: int) -> None:
    store, wanted = tmp_path / "runs.sqlite", configs(folder, fatal=(1,))
    with pytest.raises(FloatingPointError, match="no luck with 1") as caught:
        sweep(failing, wanted, jobs=jobs, store=store)
    assert '"seed": 1' in caught.value.__notes__[0]
    assert "sweep_runs:failing" in caught.value.__notes__[0]
    assert calls(folder) == [0, 0, 1, 2, 2, 3, 3]  # failing calls numbers
    with pytest.raises(FloatingPointError):
        sweep(failing, wanted, jobs=1, store=store)
    assert calls(folder) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_killed_workers_are_replaced(folder: Path, tmp_path: Path) -> None:
    wanted = configs(folder, 6, fatal=(0, 4))
    table = sweep(dying, wanted, jobs=2, store=tmp_path / "runs.sqlite")
    assert_same(table, expected(wanted))


def test_a_run_that_kills_its_worker_is_given_up(folder: Path, tmp_path: Path) -> None:
    store, wanted = tmp_path / "runs.sqlite", configs(folder, 4, fatal=(3,))
    with pytest.raises(ChildProcessError, match=r"died 3 times.*1 runs left.*\"seed\": 3"):
        sweep(deadly, wanted, jobs=2, store=store)
    for each in folder.iterdir():
        each.unlink()
    table = sweep(deadly, wanted[:3], jobs=1, store=store)
    assert calls(folder) == []
    assert table["seed"].unique().tolist() == [0, 1, 2]


def test_a_run_that_kills_its_worker_takes_no_other_along(folder: Path) -> None:
    """The first run dies each time before one beside it can end."""
    with pytest.raises(ChildProcessError, match=r"with 1 runs left.*\"seed\": 0"):
        sweep(deadly, configs(folder, 2, fatal=(0,), seconds=3.0), jobs=2)
    assert calls(folder)[-1] == 1


def test_a_worker_with_other_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancing.experiments.sweeps.code_version", lambda _: "old")
    with pytest.raises(RuntimeError, match="has another version of sweep_runs:numbers"):
        sweep(numbers, configs(folder), jobs=2)


# --- bad input ------------------------------------------------------------------------------------


def nested() -> Callable[..., Any]:
    def run(_: Config) -> pd.DataFrame:
        raise AssertionError

    return run


@dataclass(frozen=True)
class Unfit:
    """A config that is no plain data."""

    seed: int
    values: object


@pytest.mark.parametrize(
    ("run", "wanted", "options", "message"),
    [
        (lambda config: config, [Config("")], {}, "run must be a function of a module"),
        (nested(), [Config("")], {}, "run must be a function of a module"),
        (numbers, [], {}, "configs is empty"),
        (numbers, [{"seed": 1}], {}, "configs must be dataclasses, got {'seed': 1}"),
        (numbers, [Config], {}, "configs must be dataclasses"),
        (numbers, [Unfit(0, torch.ones(2))], {}, "configs must hold numbers, strings and tuples"),
        (numbers, [Config("")], {"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
        (numbers, [Config("")], {"jobs": 1.5}, "jobs must be a whole number"),
    ],
)
def test_bad_input(
    run: Callable[..., Any], wanted: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(run, wanted, **options)


def test_workers_end_with_the_sweep(folder: Path) -> None:
    sweep(numbers, configs(folder), jobs=2)
    for process in processes(folder):
        with pytest.raises(ProcessLookupError):
            __import__("os").kill(process, 0)


def test_configs_are_told_apart_by_all_their_settings(folder: Path, tmp_path: Path) -> None:
    one, two = Config(str(folder), fatal=(1,)), Config(str(folder), fatal=(1, 1))
    assert asdict(one) != asdict(two)
    sweep(numbers, [one, two], jobs=1, store=tmp_path / "runs.sqlite")
    assert calls(folder) == [0, 0]

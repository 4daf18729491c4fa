"""The command line, in this process but for one call."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from strategies import over_seeds

from balancing import __version__, _reproduce_command, claims
from balancing.claims import Claim
from balancing.cli import main
from balancing.experiments import EXPERIMENTS, Experiment
from balancing.experiments.du2018 import Figure2Config, figure2

QUICK = ["--set", "iterations=30", "--set", "samples=50", "--set", "widths=(20,10,10,5)"]
FEW = ["--jobs", "1", "--seeds", "2"]
QUICK += ["--set", "record_every=10", *FEW]
CONFIG = Figure2Config(iterations=30, samples=50, widths=(20, 10, 10, 5), record_every=10)
Ledger = Callable[..., None]


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Replace the ledger by fake claims with the given values, accepted from 0 to 1."""

    def use(*values: float, experiment: str | None = None) -> None:
        fakes = tuple(
            Claim(
                id=f"test.{i}",
                paper="ours",
                where="here",
                statement="It holds.",
                status="derived",
                measured="a number",
                accept=(0, 1),
                check=lambda *_, value=value: value,
                experiment=experiment,
            )
            for i, value in enumerate(values)
        )
        monkeypatch.setattr(claims, "LEDGER", fakes)
        monkeypatch.setattr(_reproduce_command, "LEDGER", fakes)
        monkeypatch.setattr(_reproduce_command, "LEDGERS", {"du2018": fakes})

    return use


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may find the finished runs of another."""
    store = tmp_path_factory.mktemp("store") / "runs.sqlite"
    monkeypatch.setattr(_reproduce_command, "STORE", store)
    return store


def one_row(config: Figure2Config) -> pd.DataFrame:
    return pd.DataFrame({"step": [config.step], "seed": config.seed})


def interrupted(_: object) -> pd.DataFrame:
    raise KeyboardInterrupt


def files(folder: Path) -> list[str]:
    """Every file below a folder; temporary ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_reproduce_records_table_and_provenance(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger(0.5, experiment="du2018.figure2")
    out = tmp_path / "new" / "folder"
    assert main(["reproduce", "du2018.figure2", "--out", str(out), *QUICK]) == 0
    assert files(tmp_path) == [
        "new/folder/du2018.figure2.csv",
        "new/folder/du2018.figure2.json",
    ]
    table = pd.read_csv(out / "du2018.figure2.csv")
    # nine digits are written
    pd.testing.assert_frame_equal(
        table, over_seeds(figure2, CONFIG, 2), rtol=1e-8, check_exact=False
    )
    provenance = json.loads((out / "du2018.figure2.json").read_text())
    assert provenance["experiment"] == "du2018.figure2"
    assert provenance["config"]["seeds"] == [0, 1]
    assert provenance["config"]["iterations"] == 30
    assert provenance["config"]["widths"] == [20, 10, 10, 5]
    assert provenance["config"]["step"] == Figure2Config().step
    assert provenance["versions"]["balancing"] == __version__
    captured = capsys.readouterr()
    assert "recorded 16 rows of 2 runs" in captured.err
    assert "1 holds, 0 fails, 0 not run" in captured.out


def test_status_is_one_when_a_claim_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # so short a run does not reach zero loss, which the real ledger claims
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK]) == 1
    lines = capsys.readouterr().out.splitlines()
    (loss,) = (line for line in lines if "ours.fig2.loss" in line)
    assert loss.startswith("fails")
    assert len(files(tmp_path)) == 2


def test_record_is_replaced_as_a_whole(tmp_path: Path, ledger: Ledger) -> None:
    ledger(0.5, experiment="du2018.figure2")
    (tmp_path / "du2018.figure2.csv").write_text("old\n" * 10_000)
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK]) == 0
    assert len((tmp_path / "du2018.figure2.csv").read_text().splitlines()) == 17


def test_failed_write_keeps_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    (tmp_path / "du2018.figure2.csv").write_text("old")
    monkeypatch.setattr("os.replace", full)
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK]) == 2
    assert "no space left" in capsys.readouterr().err
    assert files(tmp_path) == ["du2018.figure2.csv"]
    assert (tmp_path / "du2018.figure2.csv").read_text() == "old"


def test_prefix_runs_all_of_a_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    ledger(0.5, experiment="du2018.drift")
    quick = Experiment(one_row, CONFIG)
    names = sorted(name for name in EXPERIMENTS if name.startswith("du2018."))
    for name in names:
        monkeypatch.setitem(EXPERIMENTS, name, quick)
    monkeypatch.setitem(EXPERIMENTS, "du2018other.figure", quick)
    assert main(["reproduce", "du2018", "--out", str(tmp_path), "--set", "step=1", *FEW]) == 0
    assert files(tmp_path) == [f"{name}.{kind}" for name in names for kind in ("csv", "json")]
    assert pd.read_csv(tmp_path / "du2018.drift.csv")["step"].tolist() == [1.0, 1.0]


def test_a_paper_brings_its_claims_that_need_no_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    ledger(2.0)  # fails
    quick = Experiment(one_row, CONFIG)
    for name in [name for name in EXPERIMENTS if name.startswith("du2018.")]:
        monkeypatch.setitem(EXPERIMENTS, name, quick)
    assert main(["reproduce", "du2018", "--out", str(tmp_path), *FEW]) == 1
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *FEW]) == 0


def test_experiment_without_claims(tmp_path: Path, ledger: Ledger) -> None:
    ledger()
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK]) == 0
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["du2018.figure9"], "unknown target 'du2018.figure9'; choose all or from du2018.figure2"),
        (["du20"], "unknown target 'du20'"),
        (["du2018.figure2", "--set", "iteration=5"], "cannot set 'iteration=5'"),
        (["du2018.figure2", "--set", "iterations"], "cannot set 'iterations'"),
        (["du2018.figure2", "--set", "iterations=many"], "'iterations' must be of type int"),
        (["du2018.figure2", "--set", "iterations=2.5"], "'iterations' must be of type int"),
        (["du2018.figure2", "--set", "seed=3"], "cannot set 'seed=3'"),
        (["du2018.figure2", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["du2018.figure2", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["du2018.figure2", "--jobs", "-2"], "--jobs must be at least 1, got -2"),
        (["du2018.figure2", "--set", "iterations=0"], "iterations must be at least 1, got 0"),
        (["du2018.figure2", "--set", "step=-1"], "step must be finite and above 0"),
        (["du2018.figure2", "--set", "dtype=float16"], "dtype must be float32 or float64"),
        (["du2018.figure2", "--set", "widths=3"], "'widths' must be of type tuple"),
        (["du2018.figure2", "--set", "widths=(3,2)"], "widths must be four whole numbers"),
        (["du2018.figure2", "--set", "widths=(3,2,0,1)"], "widths must be"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("balancing: ")
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = ["--set", "step=1e10"]
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK, *setting]) == 2
    assert "take a step below 1" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_out_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    assert main(["reproduce", "du2018.figure2", "--out", str(occupied), *QUICK]) == 2
    assert str(occupied) in capsys.readouterr().err
    assert occupied.read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["fix"], ["reproduce"], ["claims", "--xml"]])
def test_argparse_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: balancing" in capsys.readouterr().err


def test_interruption_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = replace(EXPERIMENTS["du2018.figure2"], run=interrupted)
    monkeypatch.setitem(EXPERIMENTS, "du2018.figure2", experiment)
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *FEW]) == 130
    assert "--resume takes them over" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_interruption_while_writing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    assert main(["reproduce", "du2018.figure2", "--out", str(tmp_path), *QUICK]) == 130
    assert files(tmp_path) == []


@pytest.mark.parametrize(("values", "status"), [((0.5, 0.2), 0), ((0.5, 2.0), 1)])
def test_claims_as_json(
    values: tuple[float, ...], status: int, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger(*values)
    assert main(["claims", "--json"]) == status
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["test.0", "test.1"]
    assert [row["value"] for row in rows] == list(values)
    verdicts = ["holds" if value <= 1 else "fails" for value in values]
    assert [row["verdict"] for row in rows] == verdicts


def test_claims_as_text(tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger(0.5, experiment="some.table")
    assert main(["claims", "--results", str(tmp_path)]) == 0  # not run is not a failure
    assert "0 holds, 0 fails, 1 not run" in capsys.readouterr().out
    (tmp_path / "some.table.csv").write_text("x\n1\n")
    assert main(["claims", "--results", str(tmp_path)]) == 0
    line, counts = capsys.readouterr().out.splitlines()
    assert line.split()[:3] == ["holds", "test.0", "0.5"]
    assert counts == "1 holds, 0 fails, 0 not run"


def test_module_can_be_run() -> None:
    command = [sys.executable, "-m", "balancing.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{__version__}\n"
    assert done.stderr == ""

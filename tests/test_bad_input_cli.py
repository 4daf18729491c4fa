"""Bad input to every command: status 2, one message that names it, and no file is changed.

Files that would run code when they are loaded must not: each of them would leave a canary.
"""

# ruff: noqa: E501

import ast
import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

import balancing
from balancing import claims
from balancing.cli import main
from tests.strategies import fingerprint, generator, surroundings

CANARY = "canary"


def make() -> nn.Module:
    return balancing.mlp([4, 6, 3], bias=True, generator=generator(0))


def state() -> dict[str, Any]:
    return dict(make().state_dict())


# Factories that a case names: what --model calls is the caller's own code.


def raises() -> nn.Module:
    raise LookupError("no such width")


def prints() -> nn.Module:
    print("a word of the factory")
    return make()


def exits() -> nn.Module:
    raise SystemExit(0)


def recurses() -> nn.Module:
    return recurses()


def returns_class() -> type[nn.Module]:
    return nn.Linear


def returns_state() -> dict[str, Any]:
    return state()


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


class Bomb:
    """An object whose loading makes a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.mkdir, (CANARY,)


class Caller:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return eval, (f"__import__('os').mkdir('{CANARY}')",)


# --- files ----------------------------------------------------------------------------------------


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(payload: bytes) -> bytes:
    """What torch.save writes, with another pickle in it."""
    source, made = zipfile.ZipFile(io.BytesIO(saved(state()))), io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, payload if name.endswith("data.pkl") else source.read(name))
    return made.getvalue()


def tensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header, which may lie about its own length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"linear1.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


PT, ST = saved(state()), save(state())
# file name -> its bytes, words of the message
FILES: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.pt", b"", "cannot read 'a.pt'"),
    "a text": ("a.pt", b"weights\n", "cannot read 'a.pt'"),
    "zeros": ("a.pt", bytes(1000), "cannot read 'a.pt'"),
    "half a file": ("a.pt", PT[: len(PT) // 2], "cannot read 'a.pt'"),
    "all but a byte": ("a.pt", PT[:-1], "cannot read 'a.pt'"),
    "an empty archive": ("a.pt", b"PK\x05\x06" + bytes(18), "cannot read 'a.pt'"),
    "safetensors by another name": ("a.pt", ST, "cannot read 'a.pt'"),
    "a number": ("a.pt", saved(3), "holds a int"),
    "a tensor": ("a.pt", saved(torch.ones(3)), "holds a Tensor"),
    "a list": ("a.pt", saved([state()]), "holds a list"),
    "a whole model": ("a.pt", saved(nn.Linear(2, 2)), "could run code"),
    "an empty dict": ("a.pt", saved({}), "missing in the file"),
    "other weights": ("a.pt", saved({"x": torch.ones(2)}), "unknown to the model: 'x'"),
    "a pickle": ("a.pt", pickle.dumps(state()), "cannot read 'a.pt'"),
    "a bomb": ("a.pt", pickle.dumps(Bomb()), "cannot read 'a.pt'"),
    "a bomb of protocol 0": ("a.pt", pickle.dumps(Bomb(), protocol=0), "cannot read 'a.pt'"),
    "a bomb in torch's format": ("a.pt", saved(Bomb()), "could run code"),
    "a bomb in torch's old format": (
        "a.pt",
        saved({"x": Bomb()}, _use_new_zipfile_serialization=False),
        "could run code",
    ),
    "a bomb among the weights": ("a.pt", saved({**state(), "x": Caller()}), "could run code"),
    "a bomb in an archive": ("a.pt", archive(pickle.dumps(Caller())), "cannot read 'a.pt'"),
    "a bomb by the other name": ("a.safetensors", pickle.dumps(Bomb()), "cannot read"),
    "NaN": (
        "a.pt",
        saved({**state(), "linear1.bias": torch.full((6,), torch.nan)}),
        "'linear1.bias'",
    ),
    "whole numbers": (
        "a.pt",
        saved({**state(), "linear1.weight": torch.ones(6, 4, dtype=torch.int64)}),
        "int64 (6, 4) in the file",
    ),
    "complex numbers": (
        "a.pt",
        saved({**state(), "linear1.weight": torch.ones(6, 4, dtype=torch.complex64)}),
        "complex64 (6, 4) in the file",
    ),
    "meta tensors": (
        "a.pt",
        saved({k: v.to("meta") for k, v in state().items()}),
        "on the meta device in the file",
    ),
    "empty safetensors": ("a.safetensors", b"", "as a safetensors file"),
    "half a safetensors file": ("a.safetensors", ST[: len(ST) // 2], "as a safetensors file"),
    "torch's format by another name": ("a.safetensors", PT, "as a safetensors file"),
    "a header of no length": ("a.safetensors", tensors(b"", length=0), "as a safetensors file"),
    "a header longer than the file": (
        "a.safetensors",
        tensors({}, length=2**40),
        "as a safetensors file",
    ),
    "a header of negative length": (
        "a.safetensors",
        tensors({}, length=2**64 - 1),
        "as a safetensors file",
    ),
    "a header that is no JSON": ("a.safetensors", tensors(b"{'a':"), "as a safetensors file"),
    "a header that is a list": ("a.safetensors", tensors([1]), "as a safetensors file"),
    "offsets beyond the file": (
        "a.safetensors",
        tensors(entry([6, 4], [0, 96]), bytes(8)),
        "as a safetensors file",
    ),
    "offsets that do not fit the shape": (
        "a.safetensors",
        tensors(entry([6, 4], [0, 8]), bytes(8)),
        "as a safetensors file",
    ),
    "offsets that go back": (
        "a.safetensors",
        tensors(entry([2], [8, 0]), bytes(8)),
        "as a safetensors file",
    ),
    "a shape that overflows": (
        "a.safetensors",
        tensors(entry([2**62, 2**62], [0, 8]), bytes(8)),
        "as a safetensors file",
    ),
    "an unknown dtype": (
        "a.safetensors",
        tensors(entry([2], [0, 8], "F99"), bytes(8)),
        "as a safetensors file",
    ),
}

FIX = ["fix", "in.pt", "--model", f"{__name__}:make", "-o", "out.pt"]
REPRODUCE = ["reproduce", "du2018.figure2", "--out", "results", "--set"]


@dataclass(frozen=True)
class Case:
    arguments: list[str]
    says: str
    usage: bool = False  # argparse refuses it


def fix(*options: str) -> list[str]:
    return [*FIX, *options]


def model(spec: str) -> list[str]:
    return ["fix", "in.pt", "--model", spec, "-o", "out.pt"]


def own(name: str) -> list[str]:
    return model(f"{__name__}:{name}")


CASES: dict[str, Case] = {
    # balancing fix: files
    "fix-no file": Case(["fix", "none.pt", *FIX[2:]], "there is no file 'none.pt'"),
    "fix-a folder": Case(["fix", ".", *FIX[2:]], "there is no file '.'"),
    "fix-a device": Case(["fix", "/dev/null", *FIX[2:]], "there is no file '/dev/null'"),
    "fix-a loop of links": Case(["fix", "loop.pt", *FIX[2:]], "there is no file 'loop.pt'"),
    "fix-NUL in a name": Case(["fix", "a\0b.pt", *FIX[2:]], "there is no file"),
    "fix-a very long name": Case(["fix", "a" * 5000, *FIX[2:]], "aaa"),
    "fix-out is a folder": Case([*FIX[:-1], "."], "cannot write"),
    "fix-out in no folder": Case([*FIX[:-1], "none/out.pt"], "there is no folder"),
    "fix-out in a file": Case([*FIX[:-1], "in.pt/out.pt"], "there is no folder"),
    "fix-out with a long name": Case([*FIX[:-1], "a" * 5000], "aaa"),
    "fix-out of another format loses nothing": Case([*FIX[:1], "more.pt", *FIX[2:-1], "out.safetensors"], "would lose 'epoch'"),
    # balancing fix: options
    "fix-p of 0": Case(fix("-p", "0"), "p must be finite and above 0"),
    "fix-negative p": Case(fix("-p=-2"), "p must be"),
    "fix-NaN as q": Case(fix("-q", "nan"), "q must be"),
    "fix-infinite q": Case(fix("-q", "inf"), "q must be"),
    "fix-huge p": Case(fix("-p", "1e999"), "p must be"),
    "fix-a text as p": Case(fix("-p", "two"), "invalid float value: 'two'", usage=True),
    "fix-tol of 0": Case(fix("--tol", "0"), "tol must be"),
    "fix-NaN as tol": Case(fix("--tol", "nan"), "tol must be"),
    "fix-negative max-iter": Case(fix("--max-iter=-1"), "max_iter must be"),
    "fix-a fraction as max-iter": Case(fix("--max-iter", "1.5"), "invalid int", usage=True),
    "fix-an unknown method": Case(fix("--method", "magic"), "method must be one of auto"),
    "fix-a text as shape": Case(fix("--input-shape", "one"), "--input-shape must be sizes"),
    "fix-a shape of 0": Case(fix("--input-shape", "0,4"), "--input-shape must be sizes"),
    "fix-another shape": Case(fix("--input-shape", "1,5"), "--input-shape"),
    "fix-an unknown option": Case(fix("--fast"), "unrecognized arguments: --fast", usage=True),
    # balancing fix: --model
    "fix-a raising factory": Case(own("raises"), "failed: LookupError: no such width"),
    "fix-a factory that exits": Case(own("exits"), "failed: SystemExit"),
    "fix-a factory without end": Case(own("recurses"), "failed: RecursionError"),
    "fix-a factory of no module": Case(own("returns_state"), "returned a dict"),
    "fix-a factory of a class": Case(own("returns_class"), "returned a type"),
    "fix-a factory of a lazy layer": Case(own("lazy"), "of a size that is not known yet: '1.weight'"),
    "fix-a factory that takes more": Case(own("saved"), "missing 1 required positional argument"),
    "fix-a constant": Case(own("CANARY"), "is a str; name a function"),
    "fix-a private path": Case(own("make.__globals__"), "is a dict; name a function"),
    "fix-no colon": Case(model("mynet"), "--model must be MODULE:FACTORY"),
    "fix-nothing": Case(model(""), "--model must be MODULE:FACTORY"),
    "fix-a relative module": Case(model(".mynet:make"), "--model"),
    "fix-code as module": Case(model("__import__('os').mkdir('canary'):make"), "--model"),
    "fix-code as factory": Case(model("os:mkdir('canary')"), "has no"),
    "fix-a path": Case(model("../mynet.py:make"), "--model"),
    "fix-NUL": Case(model("a\0b:make"), "--model"),
    # balancing reproduce
    "reproduce-an unknown target": Case(["reproduce", "du20"], "unknown target 'du20'"),
    "reproduce-no target": Case(["reproduce", ""], "unknown target ''"),
    "reproduce-a path": Case(["reproduce", "../du2018.figure2"], "unknown target"),
    "reproduce-out is a file": Case(["reproduce", "du2018.figure2", "--out", "in.pt"], "in.pt"),
    "reproduce-out in a file": Case(["reproduce", "du2018.figure2", "--out", "in.pt/x"], "in.pt"),
    "reproduce-no name": Case([*REPRODUCE, "=5"], "write NAME=VALUE"),
    "reproduce-no value": Case([*REPRODUCE, "iterations"], "write NAME=VALUE"),
    "reproduce-an empty value": Case([*REPRODUCE, "iterations="], "'iterations' must be"),
    "reproduce-a private name": Case([*REPRODUCE, "__class__=5"], "cannot set"),
    "reproduce-a method": Case([*REPRODUCE, "__post_init__=5"], "cannot set"),
    "reproduce-a call": Case([*REPRODUCE, "iterations=__import__('os').mkdir('canary')"], "'iterations' must be of type int"),
    "reproduce-a lambda": Case([*REPRODUCE, "iterations=(lambda: 5)()"], "'iterations' must be of type int"),
    "reproduce-a call in a tuple": Case([*REPRODUCE, "widths=(1, 2, 3, exec('5'))"], "'widths' must be of type tuple"),
    "reproduce-True": Case([*REPRODUCE, "iterations=True"], "'iterations' must be"),
    "reproduce-a fraction": Case([*REPRODUCE, "iterations=2.5"], "'iterations' must be"),
    "reproduce-zero": Case([*REPRODUCE, "iterations=0"], "iterations must be at least 1"),
    "reproduce-NaN": Case([*REPRODUCE, "step=nan"], "'step' must be of type float"),
    "reproduce-infinity": Case([*REPRODUCE, "step=1e999"], "step must be finite"),
    "reproduce-a huge number": Case([*REPRODUCE, "step=1" + "0" * 400], "'step' must be of type float"),
    "reproduce-texts in a tuple": Case([*REPRODUCE, "widths=('a','b','c','d')"], "widths must be four"),
    "reproduce-an unhashable key": Case([*REPRODUCE, "iterations={[]: 1}"], "'iterations' must be"),
    "reproduce-deep brackets": Case([*REPRODUCE, "widths=" + "(" * 9000], "'widths' must be"),
    "reproduce-deep minus signs": Case([*REPRODUCE, "iterations=" + "-" * 9000 + "1"], "'iterations' must be"),
    "reproduce-NUL": Case([*REPRODUCE, "iterations=5\0"], "'iterations' must be"),
    "reproduce-a path as dtype": Case([*REPRODUCE, "dtype=../float32"], "dtype must be"),
    "reproduce-an attribute as dtype": Case([*REPRODUCE, "dtype=load"], "dtype must be"),
    # balancing claims
    "claims-a damaged table": Case(["claims", "--results", "damaged"], "du2018.figure2.csv"),
    "claims-another table": Case(["claims", "--results", "other"], "du2018.figure2.csv"),
    "claims-an unknown option": Case(["claims", "--xml"], "unrecognized arguments", usage=True),
    # balancing course and notebooks
    "course-an argument": Case(["course", "extra"], "unrecognized arguments", usage=True),
    "notebooks-no folder": Case(["notebooks"], "required: folder", usage=True),
    "notebooks-an unknown edition": Case(["notebooks", "new", "--edition", "x"], "installation"),
    "notebooks-a path as edition": Case(["notebooks", "new", "--edition", "../book"], "installation"),
    # the program itself
    "balancing-no command": Case([], "required: COMMAND", usage=True),
    "balancing-an unknown command": Case(["launch"], "invalid choice: 'launch'", usage=True),
}  # fmt: skip
CASES |= {
    f"fix-{what}": Case(
        ["fix", f"files/{what}/{name}", *FIX[2:]], says.replace("'a.", f"'files/{what}/a.")
    )
    for what, (name, _, says) in FILES.items()
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new current folder with the files that the cases name."""
    monkeypatch.chdir(tmp_path)
    Path("in.pt").write_bytes(PT)
    Path("more.pt").write_bytes(saved({"state_dict": state(), "epoch": 3}))
    Path("loop.pt").symlink_to("loop.pt")
    for folder, text in (("damaged", b"\xff\xfe\x00"), ("other", b"a,b\n1,2\n")):
        Path(folder).mkdir()
        Path(folder, "du2018.figure2.csv").write_bytes(text)
    # of the ledger only what reads this table: the other claims are costly
    ledger = tuple(each for each in claims.LEDGER if each.experiment == "du2018.figure2")
    monkeypatch.setattr(claims, "LEDGER", ledger)
    return tmp_path


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(case: Case, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, (name, content, _) in FILES.items():
        if f"files/{what}/{name}" in case.arguments:
            Path("files", what).mkdir(parents=True)
            Path("files", what, name).write_bytes(content)
    before, around = fingerprint(here), surroundings()
    if case.usage:
        with pytest.raises(SystemExit) as caught:
            main(case.arguments)
        status = caught.value.code
    else:
        status = main(case.arguments)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.startswith("usage: " if case.usage else "balancing: ")
    assert case.says in captured.err
    assert captured.out == ""
    assert fingerprint(here) == before  # no canary, no output, no temporary file
    assert surroundings() == around


def test_every_command_has_cases(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"(?m)^    (\w+)(?= |$)", capsys.readouterr().out))
    assert {"fix", "reproduce"} <= commands
    assert commands <= {name.partition("-")[0] for name in CASES}


def test_the_bombs_go_off(here: Path) -> None:
    """The canary is a real one: Python's own loading does make it."""
    for bomb in (Bomb(), Caller()):
        pickle.loads(pickle.dumps(bomb))
        Path(CANARY).rmdir()


def test_a_factory_may_print(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own("prints")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a word of the factory"
    assert lines[-1] == "written to out.pt"


PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(file=st.sampled_from([("a.pt", PT), ("a.safetensors", ST)]), data=st.data())
def test_a_damaged_file_is_refused_or_read_alike(
    here: Path, file: tuple[str, bytes], data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut a file, or change a few of its bytes: no traceback, no code, no half a result."""
    name, content = file
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = here / name
    path.write_bytes(damaged)
    status = main(["fix", str(path), *FIX[2:]])
    captured = capsys.readouterr()
    written = here / "out.pt"
    if status == 2:
        assert captured.err.startswith("balancing: ")
        assert not written.exists()
    else:
        assert torch.load(written, weights_only=True).keys() == state().keys()
        written.unlink()
    assert path.read_bytes() == damaged
    path.unlink()
    assert not (here / CANARY).exists()


def is_count(text: str) -> bool:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return type(value) is int and value > 0


@PROPERTY
@given(
    text=st.text(max_size=20)
    | st.sampled_from(["os", "()", "[]", "{}", "b''", "None", "...", "1_"])
)
def test_no_other_setting_is_taken(
    here: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assume(not is_count(text))
    before = fingerprint(here)
    assert main([*REPRODUCE, f"iterations={text}"]) == 2
    assert "iterations" in capsys.readouterr().err
    assert fingerprint(here) == before


@PROPERTY
@given(module=st.text(max_size=12), factory=st.text(max_size=12))
def test_no_other_model_is_taken(
    here: Path, module: str, factory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(here)
    assert main(model(f"{module}:{factory}")) == 2
    assert capsys.readouterr().err.startswith("balancing: --model")
    assert fingerprint(here) == before

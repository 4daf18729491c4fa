"""``balancing fix``: files in, files out, and what may go wrong in between."""

import errno
import os
import pickle
import pty
import resource
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from strategies import generator, network
from torch import Tensor, nn

from balancing import _fix_command, balance, lpq_norm
from balancing.cli import main

State = dict[str, Tensor]

# --- models that --model can name -----------------------------------------------------------------


def make() -> nn.Module:
    return network([4, 6, 5, 3], bias=True, dtype=torch.float32)


class Tied(nn.Module):
    """Two normalizations with one gain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm, self.again = nn.LayerNorm(4), nn.LayerNorm(4)
        self.again.weight = self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.first(x)))
        return self.last(torch.relu(self.second(self.again(x))))


def unsupported() -> nn.Module:
    gelu = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 6), nn.ReLU())
    return nn.Sequential(gelu, nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


class Tokens(nn.Module):
    """Only an input tells what its sum is over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).sum(1))


def weightless() -> nn.Module:
    return make().to("meta")


def fails() -> nn.Module:
    raise RuntimeError("no such width")


def exits() -> nn.Module:
    sys.exit("usage: ...")


def number() -> int:
    return 7


instance = make()
text = "not a module"


def fix(source: Path, out: Path, *options: str, model: str = "make") -> int:
    return main(["fix", str(source), "--model", f"{__name__}:{model}", "-o", str(out), *options])


# --- files ----------------------------------------------------------------------------------------


def weights(model: Callable[[], nn.Module] = make, dtype: torch.dtype = torch.float64) -> State:
    """Weights that the factory does not make, in another dtype."""
    rng, net = generator(7), model().to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=rng))
    return dict(net.state_dict())


def loaded(state: State, model: Callable[[], nn.Module] = make) -> nn.Module:
    net = model().double().eval()
    net.load_state_dict(state)
    return net


def same(one: State, other: State) -> bool:
    """The same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, temporary ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.pt"
    torch.save(weights(), path)
    return path


def read_safetensors(path: Path) -> tuple[State, dict[str, str] | None]:
    with safetensors.safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


# --- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-p", "1"), ("-p", "2", "-q", "1", "--tol", "1e-4")])
def test_writes_what_balance_finds(
    source: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name("out.pt")
    given = source.read_bytes()
    assert fix(source, out, *options) == 0
    assert set(files(source.parent)) == {"in.pt", "out.pt"}
    assert source.read_bytes() == given
    named = dict(zip(options[::2], options[1::2], strict=True))
    p, q = float(named.get("-p", 2)), float(named.get("-q", named.get("-p", 2)))
    before = loaded(weights())
    result = balance(before, p, q, tol=float(named.get("--tol", 1e-6)))
    new = torch.load(out, weights_only=True)
    assert same(new, result.model.state_dict())
    # rescaling rounds each weight once, and so does each of the three layers
    x = torch.randn(50, 4, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(loaded(new)(x), before(x), rtol=1e-12, atol=1e-12)
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar where there is no terminal
    lines = {line[:24].strip(): line[24:].split() for line in captured.out.splitlines()}
    assert lines[f"norm (p = {p:g}, q = {q:g})"] == [
        f"{float(lpq_norm(net, p, q).detach()):.6g}" for net in (before, result.model)
    ]
    assert float(lines["largest imbalance"][1]) <= 2 * float(named.get("--tol", 1e-6))
    assert lines["method"] == [result.method]
    assert lines["iterations"][0] == f"{result.iterations},"
    assert " ".join(lines["units scaled"]) == "11, in 2 of 4 groups"
    assert captured.out.endswith(f"written to {out}\n")


def test_the_imbalance_of_the_file_is_shown_not_that_before_rounding(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(weights(dtype=torch.bfloat16), source)
    assert fix(source, source) == 0
    [line] = [s for s in capsys.readouterr().out.splitlines() if s.startswith("largest imbalance")]
    # bfloat16 has 8 bits: a weight is off by up to 2^-9, which a tolerance of 1e-6 does not show
    assert 1e-5 < float(line.split()[-1]) < 2**-7


def test_safetensors_keeps_metadata(tmp_path: Path) -> None:
    source, out = tmp_path / "in.safetensors", tmp_path / "out.SafeTensors"
    save_file(weights(), source, {"format": "pt", "author": "me"})
    given = source.read_bytes()
    assert fix(source, out) == 0
    state, metadata = read_safetensors(out)
    assert metadata == {"format": "pt", "author": "me"}
    assert same(state, balance(loaded(weights())).model.state_dict())
    assert source.read_bytes() == given  # its tensors are mapped into memory
    assert fix(source, source) == 0
    assert same(load_file(source), state)
    assert set(files(tmp_path)) == {"in.safetensors", "out.SafeTensors"}


def test_safetensors_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    save_file(weights(), path)
    assert fix(path, path) == 0
    assert read_safetensors(path)[1] is None


def test_checkpoint_around_the_state_dict_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "in.ckpt"
    momentum = torch.randn(3, generator=generator(2))
    more = {"epoch": 3, "optimizer": {"momentum": momentum, "lr": [0.1, None]}, "name": "run"}
    torch.save({"epoch": 3, "state_dict": weights(), **more}, path)
    assert fix(path, path) == 0
    content = torch.load(path, weights_only=True)
    assert list(content) == ["epoch", "state_dict", "optimizer", "name"]
    assert same(content.pop("state_dict"), balance(loaded(weights())).model.state_dict())
    assert torch.equal(content["optimizer"].pop("momentum"), momentum)
    assert content == {"epoch": 3, "optimizer": {"lr": [0.1, None]}, "name": "run"}


def test_version_marks_of_a_state_dict_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "in.pt"
    torch.save(make().state_dict(), path)
    assert fix(path, path) == 0
    assert torch.load(path, weights_only=True)._metadata == make().state_dict()._metadata


def test_converts_between_the_formats(tmp_path: Path, source: Path) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.pt"
    assert fix(source, there) == 0
    assert same(load_file(there), balance(loaded(weights())).model.state_dict())
    save_file(weights(), there, {"format": "pt"})  # which says no more than the suffix
    assert fix(there, back) == 0
    assert same(torch.load(back, weights_only=True), balance(loaded(weights())).model.state_dict())


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_each_parameter_keeps_the_dtype_of_the_file(tmp_path: Path, kind: str) -> None:
    dtypes = [torch.bfloat16, torch.float32, torch.float64, torch.float16, torch.bfloat16]
    state = {
        name: value.to(dtype)
        for (name, value), dtype in zip(weights().items(), [*dtypes, torch.float64], strict=True)
    }
    path = tmp_path / f"in.{kind}"
    torch.save(state, path) if kind == "pt" else save_file(state, path)
    assert fix(path, path) == 0
    new = torch.load(path, weights_only=True) if kind == "pt" else load_file(path)
    factors = balance(loaded(state)).factors  # float64 holds all of these dtypes
    rescaled = balance(loaded(state)).model.state_dict()
    assert factors["linear1"].std() > 0.1
    assert same(new, {name: rescaled[name].to(value.dtype) for name, value in state.items()})


def test_freeze_leaves_alone_what_is_not_supported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.pt"
    state = weights(unsupported)
    state["2.running_mean"] += 0.5
    state["2.num_batches_tracked"] += 9
    torch.save(state, path)
    assert fix(path, path, model="unsupported") == 2
    err = capsys.readouterr().err
    assert "GELU at '0.1'" in err
    assert "--freeze" in err
    assert same(torch.load(path, weights_only=True), state)

    assert fix(path, path, "--freeze", model="unsupported") == 0
    new = torch.load(path, weights_only=True)
    changed = {name for name in state if not torch.equal(state[name], new[name])}
    assert {"0.2.weight", "0.2.bias", "1.weight"} <= changed
    assert changed.isdisjoint({"0.0.weight", "0.0.bias", "2.running_mean", "2.running_var"})
    assert new["2.num_batches_tracked"].dtype == torch.int64
    assert new["2.num_batches_tracked"] == 9
    x = torch.randn(50, 4, dtype=torch.float64, generator=generator(1))
    old, now = loaded(state, unsupported)(x), loaded(new, unsupported)(x)
    torch.testing.assert_close(now, old, rtol=1e-12, atol=1e-12)  # as above
    [line] = [s for s in capsys.readouterr().out.splitlines() if s.startswith("0.0 ")]
    assert "no: " in line
    assert "GELU" in line


def test_dead_units_are_counted(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = weights()
    state["linear2.weight"][:, [0, 3]] = 0
    torch.save(state, source)
    assert fix(source, source) == 0
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert ["units", "scaled", "9,", "in 2 of 4 groups"] in lines
    assert ["dead", "units", "skipped", "2: 2 in 'linear1'"] in lines


def test_not_converged_is_written_with_status_one(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name("out.pt")
    assert fix(source, out, "--method", "multiplicative", "--max-iter", "2") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("balancing: warning: balance() stopped after 2 iterations")
    assert captured.err.count("\n") == 1
    assert f"written to {out}" in captured.out
    with pytest.warns(UserWarning, match="stopped after 2"):
        expected = balance(loaded(weights()), method="multiplicative", max_iter=2)
    assert same(torch.load(out, weights_only=True), expected.model.state_dict())


@pytest.mark.parametrize("options", [(), ("--exact",)])
def test_exact_reaches_balance(
    source: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def spy(*arguments: Any, **keywords: Any) -> Any:
        given.append(dict(keywords))
        keywords.pop("exact", None)
        return balance(*arguments, **keywords)

    monkeypatch.setattr(_fix_command, "balance", spy)
    assert fix(source, source, *options) == 0
    assert given[0].get("exact", False) == bool(options)


# --- tied tensors ---------------------------------------------------------------------------------


def test_tied_tensors_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    tied = Tied().double()
    save_model(tied, path)
    names = load_file(path).keys()
    assert len(names) == 9
    assert fix(path, path, "--freeze", model="Tied") == 0
    assert load_file(path).keys() == names
    again = Tied().double()
    load_model(again, path)
    x = torch.randn(50, 4, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(again(x), tied(x), rtol=1e-12, atol=1e-12)  # as above


def test_both_names_of_a_tied_tensor_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    state = {name: value.clone() for name, value in weights(Tied).items()}
    save_file(state, path)
    assert fix(path, path, "--freeze", model="Tied") == 0
    new = load_file(path)
    assert new.keys() == state.keys()
    assert torch.equal(new["norm.weight"], new["again.weight"])


def test_tied_tensors_stay_tied_in_a_pt_file(tmp_path: Path) -> None:
    path, other = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save(weights(Tied), path)
    assert fix(path, path, "--freeze", model="Tied") == 0
    new = torch.load(path, weights_only=True)
    assert new["norm.weight"].data_ptr() == new["again.weight"].data_ptr()
    assert fix(path, other, "--freeze", model="Tied") == 0
    state, metadata = read_safetensors(other)
    assert new.keys() - state.keys() == {"again.weight"}
    assert metadata == {"again.weight": "norm.weight"}
    load_model(Tied().double(), other)  # nothing is missing for it


@pytest.mark.parametrize("other", [torch.zeros(4), torch.zeros(4, dtype=torch.float64)])
def test_two_values_for_one_tensor(
    tmp_path: Path, other: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.pt"
    torch.save({**weights(Tied), "again.weight": other}, path)
    assert fix(path, path, "--freeze", model="Tied") == 2
    assert (
        "one tensor in the model, but not in the file: 'norm.weight' and 'again.weight'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_an_input_shape(
    tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.pt"
    torch.save(weights(Tokens, dtype), path)
    assert fix(path, path, model="Tokens") == 2
    assert "is not known here; pass --input-shape" in capsys.readouterr().err
    assert fix(path, path, "--input-shape", "1,7,4", "--tol", "0.1", model="Tokens") == 0
    assert not same(torch.load(path, weights_only=True), weights(Tokens, dtype))


# --- files that are refused -----------------------------------------------------------------------


class Payload:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(
    tmp_path: Path, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, harm = tmp_path / "in.pt", tmp_path / "out.pt", tmp_path / "harm"
    content = {**weights(), "more": Payload(harm)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert fix(path, out) == 2
    err = capsys.readouterr().err
    assert f"cannot read '{path}': it holds 'posix.mkdir'" in err
    assert "could run code" in err
    assert set(files(tmp_path)) == {"in.pt"}
    torch.load(path, weights_only=False)  # the payload is a real one
    assert harm.is_dir()


def test_bare_pickle_and_whole_modules_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, harm = tmp_path / "in.pt", tmp_path / "harm"
    path.write_bytes(pickle.dumps(Payload(harm)))
    assert fix(path, path) == 2
    assert f"cannot read '{path}'" in capsys.readouterr().err
    assert not harm.exists()
    torch.save(nn.Linear(2, 2), path)
    assert fix(path, path) == 2
    assert "save model.state_dict() instead" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["in.pt", "in.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"half"])
def test_damaged_file(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content == b"half":
        torch.save(weights(), path) if name == "in.pt" else save_file(weights(), path)
        content = path.read_bytes()[:700]
    path.write_bytes(content)
    assert fix(path, tmp_path / "out.pt") == 2
    assert f"balancing: cannot read '{path}'" in capsys.readouterr().err
    assert set(files(tmp_path)) == {name}


@pytest.mark.parametrize("name", ["in.pt", "in.safetensors", "nowhere/in.pt"])
def test_missing_file(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fix(tmp_path / name, tmp_path / "out.pt") == 2
    assert f"there is no file '{tmp_path / name}'" in capsys.readouterr().err


def test_no_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.pt"
    torch.save([torch.ones(3)], path)
    assert fix(path, path) == 2
    assert "holds a list; a state dict is wanted" in capsys.readouterr().err


NAMES = list(weights())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear2.bias": None}, "missing in the file: 'linear2.bias'"),
        (dict.fromkeys(NAMES), "'linear1.bias', 'linear2.weight' and 3 more"),
        ({"head": torch.ones(1)}, "unknown to the model: 'head'"),
        (
            {"linear1.weight": torch.ones(5, 4)},
            "'linear1.weight' (float32 (5, 4) in the file, float32 (6, 4) in the model)",
        ),
        ({"linear1.bias": torch.ones(6, dtype=torch.int64)}, "'linear1.bias' (int64 (6,)"),
        ({"linear1.bias": torch.ones(6).to(torch.float8_e5m2)}, "'linear1.bias' (float8_e5m2"),
        ({"linear1.bias": torch.ones(6, dtype=torch.complex64)}, "'linear1.bias' (complex64"),
        ({"linear1.bias": 3}, "'linear1.bias' (int in the file"),
        (
            {"linear1.weight": torch.ones(6, 4).to_sparse()},
            "'linear1.weight' (sparse float32 (6, 4) in the file",
        ),
        ({"head": torch.ones(2).to_sparse()}, "unknown to the model: 'head'"),
        ({"linear1.bias": torch.full((6,), torch.nan)}, "parameter 'linear1.bias' has 6 NaN"),
    ],
)
def test_file_does_not_fit_the_model(
    source: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {**weights(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, source)
    before = files(source.parent)
    assert fix(source, source) == 2
    assert message in capsys.readouterr().err
    assert files(source.parent) == before


def test_model_without_memory(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(source.parent)
    assert fix(source, source, model="weightless") == 2
    assert "on the meta device in the model: 'linear1.weight'" in capsys.readouterr().err
    assert files(source.parent) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-p", "0"), "p must be finite and above 0"),
        (("-q", "nan"), "q must be finite and above 0"),
        (("--tol", "-1"), "tol must be"),
        (("--max-iter", "-1"), "max_iter must be"),
        (("--method", "magic"), "method must be one of auto"),
        (("--input-shape", "1,x"), "such as 1,3,224,224; got '1,x'"),
        (("--input-shape", "1,0"), "must be sizes above 0"),
        (("--input-shape", ""), "--input-shape must be"),
        (("--input-shape", "1,3"), "cannot be applied to the --input-shape, of shape [(1, 3)]"),
    ],
)
def test_bad_options(
    source: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(source.parent)
    assert fix(source, source, *options) == 2
    assert message in capsys.readouterr().err
    assert files(source.parent) == before


# --- --model --------------------------------------------------------------------------------------


def test_a_module_and_its_class_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "in.pt"
    torch.save(weights(), path)
    assert fix(path, path, model="instance") == 0
    torch.save(weights(Tied), path)
    assert fix(path, path, "--freeze", model="Tied") == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("make", "--model must be MODULE:FACTORY, such as mynet:make, got 'make'"),
        (":make", "--model must be MODULE:FACTORY"),
        ("module:", "--model must be MODULE:FACTORY"),
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("balancing.no_such:make", "there is no module 'balancing.no_such'"),
        ("broken:make", "importing 'broken' failed: SyntaxError"),
        ("needs_more:make", "importing 'needs_more' failed: No module named 'no_such_part'"),
        ("script:make", "importing 'script' failed: SystemExit: 3"),
        (f"{__name__}:nothing", f"module '{__name__}' has no 'nothing'"),
        (f"{__name__}:text", "is a str; name a function that returns a torch.nn.Module"),
        (f"{__name__}:fails", f"calling '{__name__}:fails()' failed: RuntimeError: no such width"),
        (f"{__name__}:exits", "failed: SystemExit: usage"),
        (f"{__name__}:number", f"'{__name__}:number()' returned a int, not a torch.nn.Module"),
        (f"{__name__}:fix", "failed: TypeError: fix() missing 2 required positional arguments"),
    ],
)
def test_bad_model(
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    model: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "broken.py").write_text("def make(:\n")
    (here / "needs_more.py").write_text("import no_such_part\n")
    (here / "script.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(here)
    out, path = source.with_name("out.pt"), list(sys.path)
    assert main(["fix", str(source), "--model", model, "-o", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("balancing: --model")
    assert message in err
    assert set(files(source.parent)) == {"in.pt"}
    assert sys.path == path


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/out.pt", "there is no folder"),
        ("", "exists and is not a file"),
        ("in.pt/out.pt", "there is no folder"),
    ],
)
def test_bad_output_is_found_before_the_work(
    source: Path, out: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fix(source, source.parent / out, model="fails") == 2  # the factory is not called
    err = capsys.readouterr().err
    assert f"cannot write '{source.parent / out}'" in err
    assert message in err
    assert set(files(source.parent)) == {"in.pt"}


def test_closed_folder_is_found_before_the_work(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the tests may run as root, to whom no folder is closed
    def closed(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)
    assert fix(source, source, model="fails") == 2
    said = capsys.readouterr().err
    assert f"cannot write '{source}': its folder cannot be written to (Permission denied)" in said


def test_conversion_that_loses_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, tensors = tmp_path / "in.pt", tmp_path / "in.safetensors"
    torch.save({"state_dict": weights(), "epoch": 3}, checkpoint)
    save_file(weights(), tensors, {"format": "pt", "author": "me"})
    before = files(tmp_path)
    assert fix(checkpoint, tmp_path / "out.safetensors", model="fails") == 2
    assert "would lose 'epoch': a safetensors file holds tensors only" in capsys.readouterr().err
    assert fix(tensors, tmp_path / "out.pt", model="fails") == 2
    assert "would lose 'author': a .pt file has no place" in capsys.readouterr().err
    torch.save({**weights(), "linear1._extra_state": {"a": 1}}, checkpoint)
    assert fix(checkpoint, tmp_path / "out.safetensors", model="fails") == 2
    assert "would lose 'linear1._extra_state'" in capsys.readouterr().err
    assert files(tmp_path).keys() == before.keys()


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes; Python ignores the signal and gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors"])
def test_full_disk_keeps_the_old_file(
    source: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name(name)
    out.write_text("old")
    before = files(source.parent)
    with small_disk(200):
        assert fix(source, out) == 2
    captured = capsys.readouterr()
    assert f"cannot write '{out}'" in captured.err
    assert "File too large" in captured.err
    assert captured.out == ""
    assert files(source.parent) == before


def test_interruption_while_writing_keeps_the_old_file(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = files(source.parent)
    monkeypatch.setattr(os, "replace", interrupted)
    assert fix(source, source) == 130
    assert "interrupted" in capsys.readouterr().err
    assert files(source.parent) == before


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_permissions_and_links_are_kept(source: Path, suffix: str) -> None:
    link, out = source.with_name(f"link{suffix}"), source.with_name(f"out{suffix}")
    assert fix(source, out) == 0
    (source.parent / "plain").touch()
    assert out.stat().st_mode == (source.parent / "plain").stat().st_mode
    out.write_text("old")
    out.chmod(0o640)
    link.symlink_to(out)
    assert fix(source, link) == 0
    assert link.is_symlink()
    assert out.stat().st_mode & 0o777 == 0o640
    assert len(out.read_bytes()) > 1000


def test_interruption_of_a_process(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Interrupt a process once its progress bar shows that it balances.

    The model comes from the current folder. It is so deep that Algorithm 1 takes minutes.
    """
    path, here = tmp_path / "in.pt", tmp_path_factory.mktemp("here")
    (here / "wide.py").write_text(
        "import balancing\nmake = lambda: balancing.mlp([9, *[30] * 60, 5])\n"
    )
    net = network([9, *[30] * 60, 5])
    torch.save(net.state_dict(), path)
    before = files(tmp_path)
    options = ["--model", "wide:make", "--tol", "1e-300", "--max-iter", "100000"]
    command = ["fix", str(path), *options, "--method", "multiplicative", "-o", str(path)]
    terminal, side = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))  # tqdm draws nothing where there is no room
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            # whoever runs the tests in the background may have them ignore interruptions
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"from balancing.cli import main; raise SystemExit(main({command}))",
        ],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=side,
    ) as process:
        os.close(side)
        shown = b""
        while b"balance:" not in shown:
            shown += os.read(terminal, 1024)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=120)[0] == b""
        assert process.returncode == 130
        assert b"interrupted" in os.read(terminal, 65536)
    os.close(terminal)
    assert files(tmp_path) == before


def test_exact_changes_no_bit(source: Path) -> None:
    assert fix(source, source, "--exact") == 0
    new = torch.load(source, weights_only=True)
    x = torch.randn(50, 4, dtype=torch.float64, generator=generator(1))
    assert not same(new, weights())
    assert torch.equal(loaded(new)(x), loaded(weights())(x))

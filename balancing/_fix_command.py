"""``balancing fix``: balance the weights in a file, for the model that a function makes."""

from __future__ import annotations

import argparse
import importlib
import operator
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from balancing._checkpoints import read
from balancing._files import check_target
from balancing._orbit import Orbit
from balancing._validate import exponents
from balancing.fixes import BalanceResult, balance
from balancing.graph import NotHomogeneousError, RescalingGraph, trace

_DESCRIPTION = """\
Load weights into a model, rescale its hidden units until the norm is smallest, and write the
weights. The function of the network is kept. The model's code is run (--model); the file's is not.
"""
_EPILOG = """\
Files are safetensors by their suffix, otherwise what torch.save has written: a state dict, or a
dict with one at 'state_dict'. Names, dtypes and metadata are kept, and whatever else a checkpoint
holds is kept as it was: an optimizer's state is not rescaled along.

Exit status: 0; 1 if the tolerance was not reached (the file is written all the same); 2 for bad
input, with nothing written; 130 if interrupted, with nothing written.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``fix`` to the commands of the command line."""
    parser = commands.add_parser(
        "fix",
        help="balance the weights in a file",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, help="file with the weights: .safetensors or .pt")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:FACTORY",
        help="what makes the model: a function without arguments, or a module, in a Python module "
        "that can be imported from the current folder",
    )
    parser.add_argument("-p", type=float, default=2, help="exponent within a row (default 2)")
    parser.add_argument("-q", type=float, help="exponent across rows (default: that of -p)")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="factors that are powers of two: not a bit of the outputs changes",
    )
    parser.add_argument("--method", default="auto", help="a method of balance() (default auto)")
    parser.add_argument(
        "--tol",
        type=float,
        default=1e-6,
        help="largest imbalance of a unit to accept, |in - out| / (in + out) (default 1e-6)",
    )
    parser.add_argument(
        "--max-iter", type=int, default=1000, help="largest number of iterations (default 1000)"
    )
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="leave alone what lies next to an unsupported operation, instead of refusing it",
    )
    parser.add_argument(
        "--input-shape",
        metavar="SIZES",
        help="shape of an input with its batch, as 1,3,224,224: for models whose layers do not "
        "tell sizes and dimensions; nothing is computed with it",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="file to write; it may be the input"
    )
    parser.set_defaults(action=_run)


def _run(arguments: argparse.Namespace) -> int:
    p, q = exponents(arguments.p, arguments.q)
    shape = _shape(arguments.input_shape)
    check_target(arguments.out)  # fail before the work, not after it
    checkpoint = read(arguments.input)
    checkpoint.check_fits(arguments.out)
    model = _make(arguments.model)
    checkpoint.load_into(model)
    graph = _trace(model, shape, freeze=arguments.freeze)
    before = _measure(graph, p, q)
    options: dict[str, Any] = {"exact": True} if arguments.exact else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = balance(
            graph,
            p,
            q,
            method=arguments.method,
            tol=arguments.tol,
            max_iter=arguments.max_iter,
            inplace=True,
            progress=sys.stderr.isatty(),
            **options,
        )
    summary = _summary(graph, result, p, q, before, _measure(graph, p, q))
    checkpoint.take_from(model)
    checkpoint.write(arguments.out)  # last: an interruption before it has written nothing
    for each in caught:
        print(f"balancing: warning: {each.message}", file=sys.stderr)
    print(f"{summary}\n\nwritten to {arguments.out}")
    return 0 if result.converged else 1


def _shape(sizes: str | None) -> tuple[int, ...] | None:
    """The sizes in a text like ``1,3,224,224``."""
    if sizes is None:
        return None
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(
            f"--input-shape must be sizes above 0, separated by commas, such as 1,3,224,224; got "
            f"'{sizes}'"
        )
    return shape


def _trace(model: nn.Module, shape: tuple[int, ...] | None, *, freeze: bool) -> RescalingGraph:
    like = next((w for w in model.parameters() if w.is_floating_point()), torch.empty(()))
    example = None if shape is None else like.new_zeros(shape)
    try:
        return trace(model, example, on_unsupported="freeze" if freeze else "raise")
    except ValueError as error:
        hint = "; --freeze treats an unsupported operation as a boundary"
        if freeze or not isinstance(error, NotHomogeneousError):
            hint = ""
        raise ValueError(f"{_in_words_of_options(str(error))}{hint}") from error


def _in_words_of_options(message: str) -> str:
    """Name the option where trace() names its argument."""
    return message.replace("example_input to trace()", "--input-shape").replace(
        "example_input", "--input-shape"
    )


def _measure(graph: RescalingGraph, p: float, q: float) -> tuple[float, float]:
    """The norm and the largest relative imbalance of the weights as they are stored."""
    graph.check_finite()
    orbit = Orbit(graph, p, q)
    point = orbit.at(orbit.start)
    return point.norm, point.max_imbalance


def _summary(
    graph: RescalingGraph,
    result: BalanceResult,
    p: float,
    q: float,
    before: tuple[float, float],
    after: tuple[float, float],
) -> str:
    dead = {group: len(indices) for group, indices in result.skipped.items()}
    scaled = sum(group.size for group in graph.hidden.values()) - sum(dead.values())
    of_groups = ", ".join(f"{count} in '{group}'" for group, count in dead.items())
    rows = [
        ("", "before", "after"),
        (f"norm (p = {p:g}, q = {q:g})", f"{before[0]:.6g}", f"{after[0]:.6g}"),
        ("largest imbalance", f"{before[1]:.2e}", f"{after[1]:.2e}"),
    ]
    facts = [
        ("method", result.method),
        ("iterations", f"{result.iterations}, {result.passes:g} passes over the weights"),
        ("units scaled", f"{scaled}, in {len(graph.hidden)} of {len(graph.groups)} groups"),
        ("dead units skipped", f"{sum(dead.values())}" + (f": {of_groups}" if dead else "")),
    ]
    lines = [f"{name:<24}{old:>12}  {new:>12}" for name, old, new in rows]
    lines += [f"{name:<24}{fact}" for name, fact in facts]
    return "\n".join([*lines, "", _in_words_of_options(str(graph))])


def _make(spec: str) -> nn.Module:
    """Import and call what ``module:factory`` names."""
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise ValueError(f"--model must be MODULE:FACTORY, such as mynet:make, got '{spec}'")
    with _current_folder_first():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ValueError(f"--model: importing '{name}' failed: {error}") from error
            raise ValueError(
                f"--model: there is no module '{error.name}' in the current folder or among the "
                "installed ones"
            ) from error
        except (Exception, SystemExit) as error:
            raise ValueError(f"--model: importing '{name}' failed: {_describe(error)}") from error
        try:
            made: Any = operator.attrgetter(attribute)(module)
        except AttributeError as error:
            raise ValueError(f"--model: module '{name}' has no '{attribute}'") from error
        if isinstance(made, nn.Module):
            return made
        if not callable(made):
            raise ValueError(
                f"--model: '{spec}' is a {type(made).__name__}; name a function that returns a "
                "torch.nn.Module, or a module"
            )
        try:
            made = made()
        except (Exception, SystemExit) as error:
            raise ValueError(f"--model: calling '{spec}()' failed: {_describe(error)}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"--model: '{spec}()' returned a {type(made).__name__}, not a torch.nn.Module"
        )
    return made


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Import from the current folder, too: an installed command does not look there."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)

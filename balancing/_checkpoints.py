"""Checkpoint files: safetensors, or PyTorch's own format, which is read without running its code.

A state dict is loaded into a model at the precision of the file, and the same file is written
again with the model's new values.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from balancing._files import replacing

__all__ = ["Checkpoint", "read"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file.

    Attributes:
        content: all of it: the state dict, or a dict with one at ``"state_dict"``.
        state: the state dict in it, name -> tensor.
        metadata: of a safetensors file; None for PyTorch's format, which has none.
    """

    content: dict[str, Any]
    state: dict[str, Any]
    metadata: dict[str, str] | None

    def check_fits(self, path: Path) -> None:
        """Refuse to write to a format that would lose a part of the contents.

        Raises:
            ValueError: the message names the part, and the format that keeps it.
        """
        if _is_safetensors(path):
            lost = [name for name, value in self.state.items() if not isinstance(value, Tensor)]
            if self.content is not self.state:
                lost += [name for name in self.content if name != "state_dict"]
            keeps = "a safetensors file holds tensors only; write a .pt file"
        else:
            lost = sorted((self.metadata or {}).keys() - {"format"})
            keeps = "a .pt file has no place for metadata; write a .safetensors file"
        if lost:
            raise ValueError(f"'{path}' would lose {_some(map(repr, lost))}: {keeps}")

    def load_into(self, model: nn.Module) -> None:
        """Load the state dict into a model, whose parameters and buffers take the file's dtypes.

        Of several names for one tensor of the model, the file needs only one, as in
        ``safetensors.torch.load_model``.

        Raises:
            ValueError: names, shapes or kinds of numbers do not fit the model, or the file has
                two values for one tensor of the model, or either of them has tensors without
                memory, or the model has some of a size that is not known yet.
                The message names the first few; the model is not changed.
        """
        own = model.state_dict(keep_vars=True)
        if lazy := [repr(name) for name, value in own.items() if is_lazy(value)]:
            raise ValueError(
                f"the file does not fit the model; of a size that is not known yet: {_some(lazy)}: "
                "run the model on an input first"
            )
        tied: dict[object, list[str]] = {}
        for name, value in own.items():
            tied.setdefault(_identity(name, value), []).append(name)
        present = {names[0]: [n for n in names if n in self.state] for names in tied.values()}
        problems = {
            "missing in the file": [repr(name) for name, found in present.items() if not found],
            "on the meta device in the model": [
                repr(name) for name, value in own.items() if getattr(value, "is_meta", False)
            ],
            "on the meta device in the file": [
                repr(name) for name, value in self.state.items() if getattr(value, "is_meta", False)
            ],
            "unknown to the model": [repr(name) for name in self.state if name not in own],
            "of another shape or kind": [
                f"'{name}' ({_kind(self.state[name])} in the file, {_kind(own[name])} in the model)"
                for name in self.state
                if name in own and not _fits(self.state[name], own[name])
            ],
            "one tensor in the model, but not in the file": [
                f"'{first}' and '{name}'"
                for first, *others in filter(None, present.values())
                for name in others
                if not _same(self.state[first], self.state[name])
            ],
        }
        found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
        if found:
            raise ValueError(f"the file does not fit the model; {'; '.join(found)}")
        for names in tied.values():
            value, saved = own[names[0]], self.state[present[names[0]][0]]
            if isinstance(value, Tensor):
                cast = value.data.to(saved.dtype)
                for name in names:  # two parameters may share one memory
                    own[name].data = cast
        model.load_state_dict(self.state, strict=False)  # a name of a tied tensor may be missing

    def take_from(self, model: nn.Module) -> None:
        """Replace the tensors of the state dict by the model's; its names stay as they are."""
        own = model.state_dict()
        for name, value in self.state.items():
            if isinstance(value, Tensor):
                self.state[name] = own[name].cpu()

    def write(self, path: Path) -> None:
        """Write the file in the format of its suffix: whole, or not at all.

        Where a .pt file that names one tensor twice becomes a safetensors file, the second name
        goes to the metadata, as in ``safetensors.torch.save_model``.

        Raises:
            OSError: it cannot be written. A file that was there is kept.
        """
        try:
            with replacing(path) as temporary:
                if _is_safetensors(path):
                    tensors, metadata = self._separate_tensors()
                    save_file(tensors, temporary, metadata)
                else:
                    with temporary.open("wb") as file:  # torch hides errors if it gets the name
                        torch.save(self.content, file)
        except (OSError, SafetensorError) as error:
            raise OSError(f"cannot write '{path}': {error}") from error

    def _separate_tensors(self) -> tuple[dict[str, Tensor], dict[str, str] | None]:
        tensors: dict[str, Tensor] = {}
        metadata = dict(self.metadata or {})
        first: dict[object, str] = {}
        for name, value in self.state.items():
            kept = first.setdefault(_identity(name, value), name)
            if kept == name:
                tensors[name] = value.contiguous()
            elif self.metadata is None:
                metadata[name] = kept
            else:  # the file that was read had both
                tensors[name] = value.clone()
        return tensors, metadata or None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint: safetensors by its suffix, PyTorch's format otherwise.

    Raises:
        ValueError: it is neither, or holds objects whose loading could run code, or no state dict.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return Checkpoint(state, state, file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"cannot read '{path}' as a safetensors file: {error}") from error
    content = _load(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"'{path}' holds a {type(content).__name__}; a state dict is wanted, or a dict with "
            "one at 'state_dict'"
        )
    inner = content.get("state_dict")
    return Checkpoint(content, inner if isinstance(inner, dict) else content, None)


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many kinds: a damaged file may even raise a KeyError
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds '{found[1]}', and loading such an object could run code; save "
            "model.state_dict() instead"
            if found
            else "it is damaged, or no file that torch.save has written"
        )
        raise ValueError(f"cannot read '{path}': {reason}") from error


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _identity(name: str, value: object) -> object:
    """The same for two names of one tensor."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return name
    place = value.data_ptr() or id(value)  # what has no memory is told apart by its object
    return place, value.shape, value.stride()


def _fits(saved: object, value: object) -> bool:
    if not (isinstance(saved, Tensor) and isinstance(value, Tensor)):
        return isinstance(saved, Tensor) == isinstance(value, Tensor)
    if saved.layout != torch.strided or value.layout != torch.strided:
        return False
    if value.is_floating_point() and saved.dtype not in _DTYPES:
        return False
    same_kind = saved.is_floating_point() == value.is_floating_point()
    return same_kind and saved.is_complex() == value.is_complex() and saved.shape == value.shape


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return False


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return kind if value.layout == torch.strided else f"sparse {kind}"


def _some(names: Iterable[str]) -> str:
    """The first few."""
    first = list(names)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more

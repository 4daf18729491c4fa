"""The calls of a network's forward, as torch.fx records them, and the shapes of their results."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import traceback
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.parameter import is_lazy

from balancing.graph import NotHomogeneousError

__all__ = ["recordings"]

_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)


def recordings(model: nn.Module, example: Tensor | tuple[Any, ...] | None) -> list[fx.GraphModule]:
    """What forward calls: as the model is, then in training and in evaluation mode if it differs.

    The model is left as it was. With an example, the nodes have the shapes of their results.

    Raises:
        NotHomogeneousError: torch.fx cannot follow the network.
        ValueError: the network, as it is, cannot be applied to the example.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    given = [True] if example is None else [value is not None for value in inputs]
    found: list[fx.GraphModule] = []
    calls: list[Any] = []
    # only a network's own code can depend on the mode
    own = not all(map(_is_torchs, model.modules()))
    modes: tuple[bool | None, ...] = (None, True, False) if own else (None,)
    for mode in modes:
        if mode is not None and all(m.training == mode for m in model.modules()):
            continue
        with _restored(model), torch.random.fork_rng(devices=[]):
            if mode is not None:
                for module in model.modules():
                    module.training = mode
            traced = _record(model, given, mode)
        if _calls(traced.graph) not in calls:
            calls.append(_calls(traced.graph))
            found.append(traced)
    if example is not None:
        values = [value for value in inputs if value is not None]
        read = [node.target for node in found[0].graph.nodes if node.op == "placeholder"]
        if len(values) > len(read) and not any(str(name).startswith("*") for name in read):
            raise ValueError(
                f"the network cannot be applied to the example_input, which holds {len(values)} "
                f"inputs: it takes {len(read)}"
            )
        _find_shapes(found[0], values)
        for traced in found[1:]:
            # what an example does not fit in the other mode, as a batch of one, tells no shapes
            with contextlib.suppress(ValueError):
                _find_shapes(traced, values)
    return found


def _record(model: nn.Module, given: list[bool], mode: bool | None) -> fx.GraphModule:
    try:
        # an argument that is not given and that is None by default is None, no symbolic tensor
        parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
        absent = {
            parameter.name: None
            for number, parameter in enumerate(parameters)
            if (parameter.default is None if number >= len(given) else not given[number])
        }
        traced = fx.symbolic_trace(model, absent)
    except Exception as error:  # whatever the network's own code makes of a symbolic tensor
        where = {None: "tracing", True: "tracing in training mode"}
        op = where.get(mode, "tracing in evaluation mode")
        raise NotHomogeneousError(type(model).__name__, op, _why_not(error)) from error
    for node in list(traced.graph.nodes):
        if getattr(node.target, "__name__", "") == "_assert_is_none":
            absence = node.args[0]
            traced.graph.erase_node(node)
            traced.graph.erase_node(absence)
    return traced


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo what forward, which runs for the recording, stores on modules and writes to buffers."""
    states = [(vars(module), dict(vars(module))) for module in model.modules()]
    values = [value for _, state in states for value in state.values()]
    own = (module for module in model.modules() if not _is_torchs(module))
    contents = [
        (value, copy.copy(value))
        for module in own
        for value in vars(module).values()
        if type(value) in _CONTAINERS
    ]
    tensors = [
        (tensor, tensor._version, tensor.detach().clone())
        for tensor in (*model.buffers(), *(v for v in values if isinstance(v, Tensor)))
        if not is_lazy(tensor) and not tensor.is_inference()
    ]
    try:
        yield
    finally:
        for state, before in states:
            state.clear()
            state.update(before)
        for content, before in contents:
            content.clear()
            (content.extend if isinstance(content, (list, deque)) else content.update)(before)
        with torch.no_grad():
            for tensor, version, values_before in tensors:
                if tensor._version != version:
                    tensor.copy_(values_before)


def _is_torchs(module: nn.Module) -> bool:
    """Whether a module is one of torch's own, whose forward does nothing but compute."""
    return type(module).__module__.startswith("torch.nn.modules.")


def _calls(graph: fx.Graph) -> list[Any]:
    """The nodes in a form that can be compared with those of another recording."""
    numbers = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    return [
        (node.op, str(node.target), repr(map_arg((node.args, node.kwargs), numbers.__getitem__)))
        for node in graph.nodes
    ]


def _find_shapes(traced: fx.GraphModule, inputs: list[Any]) -> None:
    try:  # with tensors without values: nothing is computed, and no running mean changes
        with _quiet():
            ShapeProp(traced, FakeTensorMode()).propagate(*inputs)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = (str(cause).splitlines() or [type(cause).__name__])[0]
        if isinstance(cause, (DataDependentOutputException, DynamicOutputShapeException)):
            why = f"it reads the values of a tensor, by {why}, and here tensors have only shapes"
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else x for x in inputs]
        raise ValueError(
            f"the network cannot be applied to the example_input, of shape {shapes}: {why}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing an error that it raises, too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.disabled = before


def _why_not(error: Exception) -> str:
    """Why torch.fx cannot follow a network, and the line of its code where."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(Path(torch.__file__).parent)
        and Path(frame.filename) != Path(__file__)
        and not frame.filename.startswith("<")
    ]
    where = f" at {own[-1].filename}:{own[-1].lineno}, '{own[-1].line}'" if own else ""
    return (
        f"torch.fx cannot follow it{where} ({error}); pass a part of the network that it can "
        "follow, as in balance(model.features): its inputs and outputs keep their scale, so the "
        "rest is not affected"
    )

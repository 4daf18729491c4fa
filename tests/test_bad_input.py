"""Bad input to every public function: a documented error that names it, and nothing is changed.

A case is a line: the function, what is wrong, the call, and words that the message must have.
:func:`test_every_public_name_has_a_case` fails for a new function without one. The command line has
a file of its own, tests/test_bad_input_cli.py.
"""

# ruff: noqa: E501, PT017

import functools
import importlib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from traitlets import TraitError

import balancing as b
from balancing import (
    claims,
    conservation,
    course,
    exercises,
    experiments,
    networks,
    plots,
    quizzes,
    widgets,
)
from balancing.experiments import du2018, practice, saul2023
from balancing.experiments import pairing as pairs
from balancing.experiments.digits import digits
from balancing.sharded import ShardedBalanceResult
from tests.strategies import fingerprint, generator, surroundings

NAN, INF, HUGE = math.nan, math.inf, 10**400
CLAIM = claims.LEDGER[0]


@dataclass(frozen=True)
class Case:
    """One call. ``given`` makes what it gets, which must stay as it is."""

    of: str
    what: str
    call: Callable[[Any], object]
    says: tuple[str, ...]
    error: type[Exception]
    given: Callable[[], Any]

    def __str__(self) -> str:
        return f"{self.of}-{self.what}".replace(" ", "_")


# --- what is given --------------------------------------------------------------------------------


def net(dtype: torch.dtype = torch.float64, activation: Any = "relu") -> nn.Sequential:
    model = b.mlp([4, 5, 3], activation=activation, bias=True, generator=generator(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator(1))
    return model.to(dtype)


def with_weight(weight: Tensor) -> nn.Module:
    model = net()
    model.linear1.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())
    return model


def with_entry(value: float, name: str = "linear2.weight") -> nn.Module:
    model = net()
    model.get_parameter(name).data.view(-1)[1] = value
    return model


def pruned() -> nn.Module:
    model = net()
    prune.l1_unstructured(model.linear1, "weight", 3)
    return model


def weight_normed() -> nn.Module:
    model = net()
    parametrizations.weight_norm(model.linear1)
    return model


def quietly(make: Callable[[], Any]) -> Any:
    """What torch warns about while it is made is not under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def lazy() -> nn.Module:
    made: nn.Module = quietly(lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 3)))
    return made


class Uninitialized(nn.Module):
    def __init__(self) -> None:
        pass


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        raise KeyError("boom")


def sparse() -> nn.Module:
    return with_weight(torch.ones(5, 4, dtype=torch.float64).to_sparse())


MODELS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "None": (lambda: None, TypeError, "model must be a torch.nn.Module"),
    "a text": (lambda: "net", TypeError, "got str"),
    "a state dict": (lambda: net().state_dict(), TypeError, "got OrderedDict"),
    "a class": (lambda: nn.Linear, TypeError, "got type"),
    "a list of layers": (lambda: [nn.Linear(2, 2)], TypeError, "got list"),
    "a module without super init": (Uninitialized, TypeError, "does not call super().__init__()"),
    "no layers": (nn.Sequential, b.NotHomogeneousError, "a network without layers"),
    "a single layer": (lambda: nn.Linear(4, 3), b.NotHomogeneousError, "a single layer"),
    "no forward": (nn.Module, b.NotHomogeneousError, "'Module'"),
    "a list module": (lambda: nn.ModuleList([net()]), b.NotHomogeneousError, "forward"),
    "a raising forward": (Raising, b.NotHomogeneousError, "boom"),
    "an unsupported activation": (
        lambda: net(activation=nn.GELU),
        b.NotHomogeneousError,
        "GELU at 'activation1'",
    ),
    "pruned weights": (pruned, b.NotHomogeneousError, "make it permanent first"),
    "weight normalization": (weight_normed, b.NotHomogeneousError, "at 'linear1'"),
    "a lazy layer": (lazy, b.NotHomogeneousError, "run the model on an input first"),
    "sparse weights": (sparse, b.NotHomogeneousError, "its weight is sparse"),
    "compressed sparse weights": (
        lambda: quietly(lambda: with_weight(torch.ones(5, 4).to_sparse_csr())),
        b.NotHomogeneousError,
        "its weight is sparse",
    ),
    "a weight of another shape": (
        lambda: with_weight(torch.ones(7, 4)),
        b.NotHomogeneousError,
        "shape (7, 4), but its sizes say (5, 4)",
    ),
    "a weight of another rank": (
        lambda: with_weight(torch.ones(5, 4, 1)),
        b.NotHomogeneousError,
        "shape (5, 4, 1), but its sizes say (5, 4)",
    ),
    "meta weights": (lambda: net().to("meta"), ValueError, "'linear1.weight' has no values"),
    "complex weights": (
        lambda: with_weight(torch.ones(5, 4, dtype=torch.complex64)),
        ValueError,
        "'linear1.weight' is torch.complex64",
    ),
    "int weights": (
        lambda: with_weight(torch.ones(5, 4, dtype=torch.int64)),
        ValueError,
        "'linear1.weight' is torch.int64",
    ),
    "bool weights": (
        lambda: with_weight(torch.ones(5, 4, dtype=torch.bool)),
        ValueError,
        "'linear1.weight' is torch.bool",
    ),
    "weights of eight bits": (
        lambda: with_weight(torch.ones(5, 4).to(torch.float8_e4m3fn)),
        ValueError,
        "at least 16 bits",
    ),
    "NaN": (lambda: with_entry(NAN), ValueError, "'linear2.weight' has 1 NaN or infinite"),
    "infinity": (lambda: with_entry(-INF), ValueError, "'linear2.weight' has 1 NaN or infinite"),
    "NaN in a bias": (
        lambda: with_entry(NAN, "linear1.bias"),
        ValueError,
        "'linear1.bias' has 1 NaN or infinite",
    ),
}

READERS: dict[str, Callable[[Any], object]] = {
    "lpq_norm": lambda m: b.lpq_norm(m, 1, 2),
    "shares": lambda m: b.shares(m, bias=True),
    "imbalance": lambda m: b.imbalance(m, 1, 2, bias=True),
    "balance": lambda m: b.balance(m, inplace=True),
    "rescale": lambda m: b.rescale(m, {}, inplace=True),
    "unit_invariants": b.unit_invariants,
    "layer_invariants": b.layer_invariants,
    "InvariantMonitor": b.InvariantMonitor,
    "WeightBalancingDescent": lambda m: b.WeightBalancingDescent(m, 0.1),
}
# trace() looks at no value, and the norm at no bias
FINE = {("lpq_norm", "NaN in a bias")}
ON_NO_MODULE = ("None", "a text", "a class", "a module without super init")


def loss(model: nn.Module) -> Tensor:
    return model(torch.ones(2, 4, dtype=torch.float64)).square().mean()


def flow(model: nn.Module, *times: float, **options: Any) -> b.Trajectory:
    return b.integrate_flow(model, loss, times or (0, 0.01), **options)


def optimizer(**group: Any) -> b.WeightBalancingDescent:
    """After a backward pass; settings that a schedule may have broken."""
    model = net()
    made = b.WeightBalancingDescent(model, 0.1)
    loss(model).backward()
    made.param_groups[0].update(group)
    return made


def with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    def make() -> b.WeightBalancingDescent:
        made = optimizer()
        weight = made.param_groups[0]["params"][0]
        weight.grad = change(weight.grad)
        return made

    return make


def loaded(optimizer: b.WeightBalancingDescent, **changes: Any) -> None:
    state = optimizer.state_dict()
    state["balance"] = {**state["balance"], **changes}
    optimizer.load_state_dict(state)


def small(activation: str = "relu") -> nn.Sequential:
    return b.mlp([1, 2, 1], activation=activation, dtype=torch.float64, generator=generator(0))


def fitted(target: Any = None, rank: Any = 1, **options: Any) -> object:
    target = torch.eye(3) if target is None else target
    options = {"step": 0.1, "steps": 2, "init_scale": 0.1, "generator": generator(0), **options}
    return b.factorize(target, rank, **options)


def folder(**files: str | bytes) -> Callable[[], Path]:
    """Files in the current folder, which is a new one; a dot in a name is written as __."""

    def make() -> Path:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            Path(name.replace("__", ".")).write_bytes(data)
        return Path()

    return make


def recorded(text: str | bytes) -> Callable[[], Path]:
    return folder(du2018__figure2__csv=text)


def judged(results: Any) -> object:
    chosen = [claim for claim in claims.LEDGER if claim.experiment == "du2018.figure2"]
    return claims.evaluate(chosen, results=results, progress=False)


# --- the cases ------------------------------------------------------------------------------------

# fmt: off
CASES: list[Case] = []


def bad(
    of: str,
    what: str,
    call: Callable[[Any], object],
    *says: str,
    error: type[Exception] = ValueError,
    given: Callable[[], Any] = net,
) -> None:
    CASES.append(Case(of, what, call, says, error, given))


for _name, (_make, _error, _words) in MODELS.items():
    for _of, _call in READERS.items():
        if (_of, _name) not in FINE:
            bad(_of, _name, _call, _words, error=_error, given=_make)
    if _error is not ValueError:
        bad("trace", _name, b.trace, _words, error=_error, given=_make)
    if _name in ON_NO_MODULE:
        for _of, _call in {
            "gradient_flow": lambda m: b.gradient_flow(m, torch.ones(())),
            "weight_balancing_flow": lambda m: b.weight_balancing_flow(m, torch.ones(())),
            "share_velocity": lambda m: b.share_velocity(m, torch.ones(())),
            "integrate_flow": flow,
            "matrix_invariants": b.matrix_invariants,
            "conservation.reachable_directions": lambda m: conservation.reachable_directions(
                m, [4]
            ),
            "conservation.invariant_gradients": lambda m: conservation.invariant_gradients(
                m, b.unit_invariants
            ),
            "experiments.practice.quantize": lambda m: practice.quantize(m, 4),
            "experiments.practice.prune": lambda m: practice.prune(m, 0.5),
            "experiments.practice.sensitivity": lambda m: practice.sensitivity(m, torch.ones(1)),
            "experiments.practice.predicted_error": lambda m: practice.predicted_error(
                m, torch.ones(1), {}, 4
            ),
            "experiments.practice.thrown": lambda m: practice.thrown(m, [1.0], generator(0)),
        }.items():
            bad(_of, _name, _call, "model must be a torch.nn.Module", error=TypeError, given=_make)

# exponents and other numbers
NO_EXPONENTS = (0, -1, NAN, INF, "2", True, 2j, [2], b"2", HUGE, 5e-324, torch.ones(2))
for _p in (*NO_EXPONENTS, torch.tensor(2j), torch.ones((), device="meta"), np.array([2.0])):
    _what = f"p of {str(_p).replace(str(HUGE), 'huge')}"
    bad("lpq_norm", _what, lambda m, p=_p: b.lpq_norm(m, p), "p must be finite and above 0")
    bad("balance", _what, lambda m, p=_p: b.balance(m, 2, p), "q must be finite and above 0")
for _of, _call in {
    "shares": lambda m: b.shares(m, 2, -1),
    "imbalance": lambda m: b.imbalance(m, 2, "x"),  # type: ignore[arg-type]
    "weight_balancing_flow": lambda m: b.weight_balancing_flow(m, loss(m), 2, 0),
    "share_velocity": lambda m: b.share_velocity(m, loss(m), 2, NAN),
    "integrate_flow": lambda m: flow(m, p=1, q=INF),
    "WeightBalancingDescent": lambda m: b.WeightBalancingDescent(m, 0.1, 2, -2),
}.items():
    bad(_of, "bad q", _call, "q must be finite and above 0")

bad("lpq_norm", "p that overflows", lambda m: b.lpq_norm(m, 1e-307), "leave the range of float64")
bad("imbalance", "q that overflows", lambda m: b.imbalance(m, 2, 1e307), "leave the range")
bad("shares", "q that overflows", lambda m: b.shares(m, 2, 1e307), "leave the range")

# trace
bad("trace", "a text as example", lambda m: b.trace(m, "x"), "example_input")
bad("trace", "an example of another width", lambda m: b.trace(m, torch.ones(2, 3)), "example_input")
bad("trace", "too many examples", lambda m: b.trace(m, (torch.ones(2, 4),) * 2), "example_input")
bad("trace", "no example at all", lambda m: b.trace(m, ()), "example_input")
bad("trace", "a bad word", lambda m: b.trace(m, on_unsupported="skip"), "'raise' or 'freeze'")
bad("trace", "an unhashable word", lambda m: b.trace(m, on_unsupported=["raise"]), "on_unsupported")

# rescale
for _value, _kind in {
    **dict.fromkeys((None, "2", 2j, object()), TypeError),
    **dict.fromkeys((0, -1, NAN, INF, HUGE, -0.0), ValueError),
}.items():
    _what = "factor " + str(type(_value) if type(_value) is object else _value)[:20]
    bad(
        "rescale",
        _what,
        lambda m, v=_value: b.rescale(m, {"linear1": v}, inplace=True),
        "'linear1' must be",
        error=_kind,
    )
for _what, _tensor in {
    "too few": torch.ones(4),
    "too many axes": torch.ones(5, 1),
    "complex": torch.ones(5, dtype=torch.complex64),
    "meta": torch.ones(5, device="meta"),
    "sparse": torch.ones(5).to_sparse(),
    "one negative": torch.tensor([1.0, 1, -1, 1, 1]),
}.items():
    bad("rescale", f"factors {_what}", lambda m, t=_tensor: b.rescale(m, {"linear1": t}, inplace=True), "'linear1' must")
bad("rescale", "factors that overflow", lambda m: b.rescale(m.float(), {"linear1": 1e308}, inplace=True), "'linear1.weight' overflow torch.float32", given=functools.partial(net, torch.float32))
bad("rescale", "ragged factors", lambda m: b.rescale(m, {"linear1": [[1], [2, 3]]}), "'linear1'")
bad("rescale", "an unknown group", lambda m: b.rescale(m, {"linear9": 1}), "hidden groups: linear1")
bad("rescale", "the input", lambda m: b.rescale(m, {"input": 1}), "'input' is not rescaled")
bad("rescale", "the output", lambda m: b.rescale(m, {"linear2": 1}), "'linear2' is not rescaled")
bad("rescale", "a number as name", lambda m: b.rescale(m, {1: 2.0}), "'1' is not a group")
for _factors in (None, "x", 3, [("linear1", 2.0)]):
    bad(
        "rescale",
        f"factors {_factors}",
        lambda m, f=_factors: b.rescale(m, f),
        "factors must map",
        error=TypeError,
    )

# balance
for _options, _words in {
    ("method", "magic"): "method must be one of auto",
    ("method", None): "method must be one of auto",
    ("tol", 0): "tol must be a finite number above 0",
    ("tol", NAN): "tol must be",
    ("tol", "small"): "tol must be",
    ("tol", HUGE): "tol must be",
    ("max_iter", -1): "max_iter must be a whole number",
    ("max_iter", 1.5): "max_iter must be",
    ("max_iter", "3"): "max_iter must be",
    ("max_iter", True): "max_iter must be",
}.items():
    _key, _value = _options
    _what = f"{_key} of {str(_value)[:9]}"
    bad("balance", _what, lambda m, k=_key, v=_value: b.balance(m, inplace=True, **{k: v}), _words)
bad("balance", "no callback", lambda m: b.balance(m, callback=3), "callback", error=TypeError)
bad(
    "balance",
    "a raising callback",
    lambda m: b.balance(m, callback=lambda *_: [][0], inplace=True),
    error=IndexError,
)
bad("balance", "exact in half", lambda m: b.balance(m, exact=True), "float16", given=functools.partial(net, torch.float16))
bad(
    "BalanceResult.check",
    "changed since",
    lambda r: r.check(torch.ones(1, 4, dtype=torch.float64)),
    "'linear1.weight' of the network before the fix has been changed",
    error=RuntimeError,
    given=lambda: _changed_since(),
)


def _changed_since() -> b.BalanceResult:
    model = net()
    result = b.balance(model)
    with torch.no_grad():
        model.linear1.weight.add_(1)
    return result


# invariants
linear = functools.partial(net, activation="linear")
for _every in (0, -1, 1.5, "2", True, NAN, None):
    bad("InvariantMonitor", f"every {_every}", lambda m, e=_every: b.InvariantMonitor(m, e), "every")
for _given, _kind in {("x",): ValueError, (("unit",),): ValueError, "unit": ValueError, 3: TypeError}.items():
    bad(
        "InvariantMonitor",
        f"quantities {_given}",
        lambda m, q=_given: b.InvariantMonitor(m, quantities=q),
        "quantit",
        error=_kind,
    )
bad(
    "InvariantMonitor",
    "a matrix of a ReLU",
    lambda m: b.InvariantMonitor(m, quantities=["matrix"]),
    "no hidden group has a linear activation",
)
for _given, _kind in {("x",): ValueError, ("linear2",): ValueError, "linear1": TypeError, 3: TypeError}.items():
    bad(
        "matrix_invariants",
        f"groups {_given}",
        lambda m, g=_given: b.matrix_invariants(m, groups=g),
        "group",
        error=_kind,
        given=linear,
    )

# flows
FLOWS = {
    "gradient_flow": b.gradient_flow,
    "weight_balancing_flow": b.weight_balancing_flow,
    "share_velocity": b.share_velocity,
}
for _of, _flow in FLOWS.items():
    for _what, _loss, _kind in (
        ("no loss", None, TypeError),
        ("a number as loss", 3.0, TypeError),
        ("a function as loss", loss, TypeError),
        ("a loss without gradient", torch.ones(()), ValueError),
        ("two losses", torch.ones(2, requires_grad=True), ValueError),
        ("a complex loss", torch.tensor(1j, requires_grad=True), ValueError),
    ):
        bad(_of, _what, lambda m, f=_flow, v=_loss: f(m, v), "the loss must be", error=_kind)
    bad(
        _of,
        "negative decay",
        lambda m, f=_flow: f(m, loss(m), weight_decay=-1),
        "weight_decay must be finite and at least 0",
    )

for _key in ("rtol", "atol"):
    for _value in (-1, NAN, INF, "2", None, [2], HUGE, torch.ones(2)):
        _what = f"{_key} of {str(_value)[:9]}"
        bad("integrate_flow", _what, lambda m, k=_key, v=_value: flow(m, **{k: v}), f"{_key} must be")
bad("integrate_flow", "rtol of 0", lambda m: flow(m, rtol=0), "rtol must be finite and above 0")
for _times in (None, "x", 3, [], [0], [0, 0], [1, 0], [0, NAN], [0, INF], ["a", "b"], [0, 1j], [0, [1]]):
    bad(
        "integrate_flow",
        f"times {_times}",
        lambda m, t=_times: b.integrate_flow(m, loss, t),
        "times must be at least two increasing finite numbers",
    )
bad(
    "integrate_flow",
    "meta times",
    lambda m: b.integrate_flow(m, loss, torch.ones(2, device="meta")),
    "times must be",
)
for _what, _loss_fn, _kind, _words in (
    ("None as loss_fn", None, TypeError, "loss_fn must be a function"),
    ("a loss_fn that returns None", lambda m: None, TypeError, "the loss must be a tensor"),
    ("a loss_fn that returns a number", lambda m: 1.0, TypeError, "the loss must be a tensor"),
    ("a detached loss", lambda m: loss(m).detach(), ValueError, "requires no gradient"),
    ("a vector as loss", lambda m: m(torch.ones(2, 4).double()), ValueError, "one real number"),
    ("a NaN loss", lambda m: loss(m) * NAN, ValueError, "loss_fn has NaN or infinite gradients"),
    ("a raising loss_fn", lambda m: {}["no"], KeyError, "no"),
):
    bad(
        "integrate_flow",
        _what,
        lambda m, f=_loss_fn: b.integrate_flow(m, f, [0, 0.01]),
        _words,
        error=_kind,
    )
for _what, _model, _words in (
    ("frozen parameters", lambda: net().requires_grad_(False), "no parameter requires a gradient"),
    ("no parameters", lambda: nn.Sequential(nn.ReLU()), "model must have parameters"),
    ("float32", lambda: net(torch.float32), "'linear1.weight' is torch.float32"),
    ("meta weights", lambda: net().to("meta"), "'linear1.weight' must be dense and have values"),
    ("sparse weights", sparse, "'linear1.weight' must be dense"),
    ("a lazy layer", lazy, "'0.weight' must be dense"),
    ("NaN", lambda: with_entry(NAN), "'linear2.weight' has NaN or infinite entries"),
    ("pruned weights", pruned, "model cannot be copied"),
):
    bad("integrate_flow", _what, flow, _words, given=_model)
    if _what != "frozen parameters":
        bad(
            "conservation.invariant_gradients",
            _what,
            lambda m: conservation.invariant_gradients(m, b.unit_invariants),
            _words,
            given=_model,
        )
        bad(
            "conservation.reachable_directions",
            _what,
            lambda m: conservation.reachable_directions(m, [4]),
            _words,
            given=_model,
        )
bad("integrate_flow", "a bad word", lambda m: flow(m, on_sliding="go"), "'raise' or 'stop'")
bad("integrate_flow", "q without p", lambda m: flow(m, q=2), "needs p")
for _index, _kind in {None: TypeError, 1.5: TypeError, "0": TypeError, 2: IndexError, HUGE: IndexError}.items():
    bad(
        "Trajectory.model",
        f"index {str(_index)[:4]}",
        lambda path, i=_index: path.model(i),
        "index must be",
        error=_kind,
        given=lambda: flow(net()),
    )
for _what, _quantity in {"None": None, "a number": lambda m: 3, "numbers": lambda m: {"a": 1.0}}.items():
    bad(
        "Trajectory.measure",
        f"{_what} as quantity",
        lambda path, f=_quantity: path.measure(f),
        "quantity must",
        error=TypeError,
        given=lambda: flow(net()),
    )
    bad(
        "conservation.invariant_gradients",
        f"{_what} as quantity",
        lambda m, f=_quantity: conservation.invariant_gradients(m, f),
        "quantity must",
        error=TypeError,
    )
for _key, _value, _kind in (
    *(("draws", value, ValueError) for value in (0, -1, 1.5, "3", None, True)),
    *(("generations", value, ValueError) for value in (-1, 1.5, None)),
    *(("tolerance", value, ValueError) for value in (-1, 1, NAN, INF, "x", None, HUGE)),
    *(("generator", value, TypeError) for value in ("x", 1, torch.Generator)),
):
    bad(
        "conservation.reachable_directions",
        f"{_key} of {str(_value)[:8]}",
        lambda m, k=_key, v=_value: conservation.reachable_directions(m, [1], **{k: v}),
        f"{_key} must be",
        error=_kind,
        given=small,
    )
for _shape in (None, 1, "1", (1.5,), (0,), (-1,), (2,), ("a",), (1, 1, 2)):
    bad(
        "conservation.reachable_directions",
        f"input_shape {_shape!r}",
        lambda m, s=_shape: conservation.reachable_directions(m, s),
        "input_shape",
        given=small,
    )

# the optimizer
for _value in (-1, NAN, INF, "x", None, HUGE):
    _what = str(_value)[:5]
    bad("WeightBalancingDescent", f"lr {_what}", lambda m, v=_value: b.WeightBalancingDescent(m, v), "lr must be")
    bad(
        "WeightBalancingDescent.step",
        f"lr set to {_what}",
        lambda o: o.step(),
        "lr must be",
        given=functools.partial(optimizer, lr=_value),
    )
for _value in (0, -1, NAN, "x"):
    bad(
        "WeightBalancingDescent",
        f"tol {_value}",
        lambda m, v=_value: b.WeightBalancingDescent(m, 0.1, tol=v),
        "tol must be a number above 0",
    )
    bad(
        "WeightBalancingDescent.step",
        f"tol set to {_value}",
        lambda o: o.step(),
        "tol must be a number above 0",
        given=functools.partial(optimizer, tol=_value),
    )
bad("WeightBalancingDescent", "no hidden unit", lambda m: b.WeightBalancingDescent(m, 1), "no hidden unit", given=lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
bad("WeightBalancingDescent.step", "NaN gradient", lambda o: o.step(), "gradient of 'linear1.weight' has NaN", given=with_gradient(lambda g: g * NAN))
bad("WeightBalancingDescent.step", "sparse gradient", lambda o: o.step(), "gradient of 'linear1.weight' is sparse", given=with_gradient(Tensor.to_sparse))
bad("WeightBalancingDescent.step", "huge lr", lambda o: o.step(), "take a smaller lr", error=FloatingPointError, given=functools.partial(optimizer, lr=1e300))
bad("WeightBalancingDescent.step", "a text as closure", lambda o: o.step("x"), "closure must be", error=TypeError, given=optimizer)
bad("WeightBalancingDescent.step", "a raising closure", lambda o: o.step(lambda: [][0]), error=IndexError, given=optimizer)

bad("WeightBalancingDescent.add_param_group", "always", lambda o: o.add_param_group({"params": []}), "make a new optimizer", given=optimizer)
for _state in (None, "x", 3):
    bad("WeightBalancingDescent.load_state_dict", f"{_state}", lambda o, s=_state: o.load_state_dict(s), "state_dict must be", error=TypeError, given=optimizer)
for _state, _words in (({}, "not the state"), ({"balance": 3}, "state_dict must be"), ({"balance": {}}, "state_dict must be")):
    bad("WeightBalancingDescent.load_state_dict", f"{_state}", lambda o, s=_state: o.load_state_dict(s), _words, given=optimizer)
for _what, _change in {
    "a text as time": {"time": "x"},
    "NaN as time": {"time": NAN},
    "other exponents": {"p": 1.0},
    "no target": {"target": None},
    "a text as target": {"target": {"linear1": "abcde"}},
    "NaN as target": {"target": {"linear1": torch.full((5,), NAN)}},
    "a matrix as target": {"target": {"linear1": torch.ones(5, 2)}},
    "a target of another size": {"target": {"linear1": torch.ones(4)}},
}.items():
    bad("WeightBalancingDescent.load_state_dict", _what, lambda o, c=_change: loaded(o, **c), given=optimizer)

# networks
for _widths in ([], [3], [3, 0], [3, -1], [3, 2.0], [True, 2], "34", [3, 10**30], [3, None]):
    bad("mlp", f"widths {_widths}", lambda _, w=_widths: b.mlp(w), "widths must be")
bad("mlp", "None as widths", lambda _: b.mlp(None), "widths must be", error=TypeError)
bad("mlp", "unknown activation", lambda _: b.mlp([2, 2], activation="tanh"), "relu, leaky_relu")
for _what, _made in {"None": None, "a number": 3, "a module": nn.ReLU(), "no module": lambda: 3}.items():
    bad("mlp", f"{_what} as activation", lambda _, a=_made: b.mlp([2, 2, 2], activation=a), "activation must", error=TypeError)
bad("mlp", "a raising activation", lambda _: b.mlp([2, 2, 2], activation=lambda: [][0]), error=IndexError)
bad("mlp", "a text as dtype", lambda _: b.mlp([2, 2], dtype="float64"), "dtype must be a torch.dtype", error=TypeError)
for _dtype in (torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn):
    bad("mlp", f"dtype {_dtype}", lambda _, d=_dtype: b.mlp([2, 2], dtype=d), "dtype must be a floating")
    bad("experiments.digits.digits", f"dtype {_dtype}", lambda _, d=_dtype: digits(dtype=d), "dtype must be a floating")
bad("mlp", "a number as generator", lambda _: b.mlp([2, 2], generator=1), "generator must be", error=TypeError)
bad("experiments.digits.digits", "a text as dtype", lambda _: digits(dtype="float32"), "dtype must be", error=TypeError)
for _model in (lambda: None, lambda: "x", lambda: nn.Linear(2, 2), lambda: [nn.Linear(2, 2)]):
    bad("networks.he_", f"model {type(_model()).__name__}", networks.he_, "model must be a torch.nn.Sequential", error=TypeError, given=_model)
    bad("networks.gaussian_", f"model {type(_model()).__name__}", lambda m: networks.gaussian_(m, [1]), "model must be a torch.nn.Sequential", error=TypeError, given=_model)
bad("networks.he_", "int weights", networks.he_, "floating-point", given=lambda: with_weight(torch.ones(5, 4, dtype=torch.int64)))
bad("networks.he_", "a text as generator", lambda m: networks.he_(m, generator="x"), "generator must be", error=TypeError)
for _variances in (None, 3, "12", [1], [1, -1], [1, NAN], [1, INF], ["a", "b"], [1, None], [1, 2, 3]):
    bad("networks.gaussian_", f"variances {_variances}", lambda m, v=_variances: networks.gaussian_(m, v), "variances")
for _init in ("x", None, ["balanced"], 3):
    bad("networks.du2018_network", f"init {_init}", lambda _, i=_init: networks.du2018_network(i), "balanced, unbalanced")
bad("networks.du2018_network", "three widths", lambda _: networks.du2018_network(widths=(3, 2, 1)), "widths must be four")

# factorization
for _what, _target in {
    "None": 0,
    "a list": [[1.0, 2.0]],
    "a vector": torch.ones(3),
    "an empty matrix": torch.ones(0, 3),
    "whole numbers": torch.ones(3, 3, dtype=torch.int64),
    "complex": torch.ones(3, 3, dtype=torch.complex64),
    "NaN": torch.full((3, 3), NAN),
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.eye(3, device="meta"),
    "a stack": torch.ones(2, 2, 2),
    "numpy": np.eye(3),
}.items():
    bad("factorize", f"target {_what}", fitted, "target must be", given=lambda t=_target: t)
for _value in (0, -1, NAN, INF, "x", None, True, HUGE):
    _what = str(_value)[:5]
    bad("factorize", f"step {_what}", lambda _, v=_value: fitted(step=v), "step must be finite and above 0")
    bad("factorize", f"init_scale {_what}", lambda _, v=_value: fitted(init_scale=v), "init_scale must be")
    if _value != 0:
        bad("factorize", f"penalty {_what}", lambda _, v=_value: fitted(balance_penalty=v), "balance_penalty must be")
    if _value not in (HUGE,):
        bad("factorize", f"rank {_what}", lambda _, v=_value: fitted(rank=v), "rank must be") if _value is not True else None
        bad("factorize", f"steps {_what}", lambda _, v=_value: fitted(steps=v), "steps must be")
bad("factorize", "a vector as penalty", lambda _: fitted(balance_penalty=torch.ones(2)), "balance_penalty")
bad("factorize", "too large a rank", lambda _: fitted(rank=4), "from 1 to 3")
bad("factorize", "three scales", lambda _: fitted(init_scale=(1, 1, 1)), "init_scale must be")
bad("factorize", "record_every 0", lambda _: fitted(record_every=0), "record_every must be")
for _what, _step in {"zero": lambda t: 0, "a text": lambda t: "x", "None": lambda t: None, "NaN": lambda t: NAN}.items():
    bad("factorize", f"a step function of {_what}", lambda _, s=_step: fitted(step=s), "step(0) must be a finite number")
bad("factorize", "a raising step function", lambda _: fitted(step=lambda t: [][0]), error=IndexError)
bad("factorize", "divergence", lambda _: fitted(step=1e9, steps=50), "take a step below", error=FloatingPointError)
bad("factorize", "a text as generator", lambda _: fitted(generator="x"), "generator must be", error=TypeError)

# experiments
for _of, _run in {
    "du2018.run": du2018.run,
    "du2018.figure2": du2018.figure2,
    "du2018.drift": du2018.drift,
    "du2018.figure1": du2018.figure1,
    "du2018.theorem31": du2018.theorem31,
    "du2018.theorem32": du2018.theorem32,
    "du2018.optimizers": du2018.optimizers,
    "du2018.data": du2018.data,
    "du2018.rank_one": lambda c: du2018.rank_one(c, 3, 0),
    "saul2023.figure2": saul2023.figure2,
    "pairing.pairing": pairs.pairing,
    "practice.quantization": practice.quantization,
    "practice.pruning": practice.pruning,
    "practice.tuning": practice.tuning,
    "practice.training": practice.training,
    "practice.trained": lambda c: practice.trained("mlp", c, None, generator(0)),
}.items():
    for _config in (3, {}, "x"):
        bad(f"experiments.{_of}", f"config {_config!r}", lambda c, f=_run: f(c), "config must be a", error=TypeError, given=lambda c=_config: c)
for _of, _class, _settings in (
    ("du2018.Figure2Config", du2018.Figure2Config, {"iterations": (0, 2.5, "x", None, True), "step": (0, NAN, "x", HUGE), "init": ("x", ["balanced"]), "widths": (3, (3, 2), (3, 2, 0, 1)), "dtype": ("float16", torch.float32), "label_std": (NAN, -1, "x"), "seed": (1.5, "x")}),
    ("du2018.DriftConfig", du2018.DriftConfig, {"steps": (0.1, (), (0,), ("a",), (1e9,)), "time": (0, NAN, "x")}),
    ("du2018.Figure1Config", du2018.Figure1Config, {"iterations": (0, "x"), "rank": (0, 999), "shape": ((1,), (0, 3)), "step": (0, "x")}),
    ("du2018.Theorem31Config", du2018.Theorem31Config, {"iterations": (0, "x"), "eps": (0, 1, NAN)}),
    ("du2018.Theorem32Config", du2018.Theorem32Config, {"dims": ((), (0,), ("a",)), "accuracy": (0, "x")}),
    ("du2018.OptimizersConfig", du2018.OptimizersConfig, {"records": (0, "x"), "momentum": (0, 1), "images": (0, 10**9)}),
    ("saul2023.Figure2Config", saul2023.Figure2Config, {"updates": (0, "x", 1.5), "networks": ((), ((3, 2),)), "panels": ((), ((1,),))}),
    ("pairing.PairingConfig", pairs.PairingConfig, {"epochs": (0, "x"), "tested": (0, 9999), "flows": (((1, 1),),), "sgd_lr": (0, "x")}),
    ("practice.QuantizationConfig", practice.QuantizationConfig, {"bits": ((1,), (2.0,), (10**9,)), "networks": ("mlp", (), ("x",)), "momentum": (1, "x"), "scales": ((), (-1,), ("x",))}),
    ("practice.PruningConfig", practice.PruningConfig, {"parts": ((1,), (-0.1,), ("x",)), "samples": (0, 9999)}),
    ("practice.TuningConfig", practice.TuningConfig, {"sgd_lrs": ((), (0,)), "adam_lrs": ((), ("x",)), "seed": (-1, "x")}),
    ("practice.TrainingConfig", practice.TrainingConfig, {"lrs": ((), (("m",),), (("mlp", 0, "sgd", 0),)), "epochs": (0, "x")}),
):
    for _key, _values in _settings.items():
        for _value in _values:
            bad(f"experiments.{_of}", f"{_key} {str(_value)[:9]}", lambda _, c=_class, k=_key, v=_value: c(**{k: v}), "the part" if _key == "parts" else _key)
for _what, _run, _error in (("a text", "x", TypeError), ("None", None, TypeError), ("a lambda", lambda c: c, ValueError), ("a method", generator(0).seed, ValueError)):
    bad("experiments.sweep", f"{_what} as run", lambda r: experiments.sweep(r, [du2018.Figure1Config()]), "run must be a function", error=_error, given=lambda r=_run: r)
for _what, _configs, _words, _error in (("no configs", [], "configs is empty", ValueError), ("dicts", [{}], "configs must be dataclasses", ValueError), ("a class", [du2018.Figure1Config], "configs must be dataclasses", ValueError), ("a number", 3, "not iterable", TypeError)):
    bad("experiments.sweep", f"{_what} as configs", lambda c: experiments.sweep(du2018.figure1, c), _words, error=_error, given=lambda c=_configs: c)
bad("experiments.sweep", "a text as executor", lambda _: experiments.sweep(du2018.figure1, [du2018.Figure1Config()], "x"), "executor must have a method submit", error=TypeError)
for _jobs in (0, -1, 1.5, "2"):
    bad("experiments.sweep", f"jobs {_jobs!r}", lambda _, n=_jobs: experiments.sweep(du2018.figure1, [du2018.Figure1Config()], jobs=n), "jobs must be a whole number of at least")
bad("experiments.practice.best_rates", "a text", practice.best_rates, "table must be", error=TypeError, given=lambda: "x")
bad("experiments.practice.best_rates", "another table", practice.best_rates, "it lacks 'network'", given=lambda: pd.DataFrame({"a": [1]}))
WEIGHTS = [torch.ones(3, 2), torch.ones(1, 3)]
for _what, _args in {
    "weights that do not chain": ([torch.ones(3, 2), torch.ones(1, 4)], torch.ones(5, 2), torch.ones(5, 1)),
    "too few labels": (WEIGHTS, torch.ones(5, 2), torch.ones(4, 1)),
    "no samples": (WEIGHTS, torch.ones(0, 2), torch.ones(0, 1)),
    "narrow inputs": (WEIGHTS, torch.ones(5, 1), torch.ones(5, 1)),
}.items():
    bad("experiments.du2018.FullBatchDescent", _what, lambda a: du2018.FullBatchDescent(*a, 0.1), "do not lead from x", given=lambda a=_args: a)
bad("experiments.du2018.FullBatchDescent", "no step", lambda _: du2018.FullBatchDescent(WEIGHTS, torch.ones(5, 2), torch.ones(5, 1), 0), "step must be")
bad("experiments.du2018.rank_one", "dim 0", lambda _: du2018.rank_one(du2018.Theorem32Config(), 0, 0), "dim must be")
for _bits in (0, 1, 2.5, "4", None, True, 10**30):
    bad("experiments.practice.quantize", f"bits {_bits}", lambda m, n=_bits: practice.quantize(m, n), "bits must be a whole number from 2 to 32")
for _part in (-0.1, 1, NAN, "x", None):
    bad("experiments.practice.prune", f"part {_part}", lambda m, v=_part: practice.prune(m, v), "the part to prune must be")
bad("experiments.practice.prune", "no weights", lambda m: practice.prune(m, 0.5), "model must have weights", given=nn.ReLU)
bad("experiments.practice.sensitivity", "a text as x", lambda m: practice.sensitivity(m, "x"), "x must be", error=TypeError)
bad("experiments.practice.sensitivity", "no samples", lambda m: practice.sensitivity(m, torch.ones(0, 4)), "x must hold samples")
bad("experiments.practice.predicted_error", "a missing score", lambda m: practice.predicted_error(m, torch.ones(1, 4), {}, 4), "'linear1.weight' has none")
bad("experiments.practice.initial", "unknown network", lambda _: practice.initial("cnn", generator(0)), "network must be one of mlp, conv")
bad("experiments.practice.Digits", "a text as dtype", lambda _: practice.Digits("x"), "dtype must be", error=TypeError)
for _scales in ([NAN], ["x"], [None], [INF]):
    bad("experiments.practice.thrown", f"scales {_scales}", lambda m, s=_scales: practice.thrown(m, s, generator(0)), "scales must be finite")

# claims
for _claims in ("x", [None], [3], {"id": 1}):
    bad("claims.evaluate", f"claims {_claims}", lambda c: claims.evaluate(c), "claims must be Claim objects", error=TypeError, given=lambda c=_claims: c)
for _what, _text in {"an empty table": "", "no text": b"\xff\xfe\x00\x80", "rows of two lengths": "a\n1,2\n3,4,5\n", "NUL bytes": b"\x00" * 50}.items():
    bad("claims.evaluate", _what, judged, "du2018.figure2.csv", given=recorded(_text))
bad("claims.evaluate", "another table", judged, "'du2018.figure2.csv' does not have what", given=recorded("a,b\n1,2\n"))
bad("claims.evaluate", "a number as folder", lambda _: judged(3), error=TypeError)
bad("claims.to_markdown", "a text", lambda _: claims.to_markdown("x"), "report must be", error=TypeError)
bad("claims.to_markdown", "another table", claims.to_markdown, "lacks 'id'", given=lambda: pd.DataFrame({"a": [1]}))
bad("claims.Claim", "no check", lambda _: claims.Claim("x"), "missing", error=TypeError)

# figures
for _name in plots.__all__:
    _parameters = list(inspect.signature(getattr(plots, _name)).parameters)
    _draw = getattr(plots, _name)
    bad(f"plots.{_name}", "objects", lambda _, f=_draw, k=_parameters: f(**dict.fromkeys(k, object())), f"{_parameters[0]} must be", error=TypeError)
    if _parameters == ["table"]:
        bad(f"plots.{_name}", "an empty table", _draw, "there is no column or entry", given=pd.DataFrame)
bad("plots.show", "no words", lambda f: plots.show(f, " \n"), "alt must say", given=Figure)
bad("plots.show", "None as words", lambda f: plots.show(f, None), "alt must be a text", error=TypeError, given=Figure)

# exercises, quizzes
for _number in (None, 3, [], "99.9", "1.1", ("01.1",), "01.1\n"):
    for _of, _judge in {"check": exercises.check, "grade": exercises.grade}.items():
        bad(f"exercises.{_of}", f"exercise {_number!r}", lambda _, f=_judge, n=_number: f(n, 1), "no exercise", "01.1")
bad("exercises.grade", "no answer", lambda _: exercises.grade("01.1", None), "no answer yet", error=AssertionError)
for _chapter in (None, 1, "99", "1", [], "../01", "01.toml"):
    bad("quizzes.quiz", f"chapter {_chapter!r}", lambda _, c=_chapter: quizzes.quiz(c), "no quiz", "01, 02")
for _what, _text in {"empty": "", "no text": b"\xff\xfe", "no TOML": "a = [", "no list": "question = 3"}.items():
    bad("quizzes.Quiz.read", f"a file that is {_what}", lambda f: quizzes.Quiz.read(f / "01.toml"), "01.toml", given=folder(**{"01__toml": _text}))
bad("quizzes.Quiz.read", "no file", lambda _: quizzes.Quiz.read("none.toml"), "none.toml", error=FileNotFoundError)
bad("quizzes.Quiz.read", "a folder", lambda _: quizzes.Quiz.read(Path()), error=IsADirectoryError)

# notebooks
bad("course.copy_notebooks", "None as folder", lambda _: course.copy_notebooks(None), error=TypeError)
bad("course.copy_notebooks", "a number as edition", lambda _: course.copy_notebooks("new", 3), "edition must be a text", error=TypeError)
bad("course.copy_notebooks", "a list as edition", lambda _: course.copy_notebooks("new", []), "edition must be a text", error=TypeError)
bad("course.copy_notebooks", "an unknown edition", lambda _: course.copy_notebooks("new", "x"), given=folder())
for _chapters in ("09", 3, [9], [None]):
    bad("course.copy_notebooks", f"chapters {_chapters!r}", lambda _, c=_chapters: course.copy_notebooks("new", chapters=c), "chapters must be", error=TypeError)

# explorers; their traits raise TraitError, which traitlets documents
for _explorer, _key, _values in (
    (widgets.Hyperbola, "step", (0, 9, "x", None)),
    (widgets.Rescale, "factors", (3, [[1]], [3, 4], [[0, 1, 1], [1, 1]], [["a", 1, 1], [1, 1]], [[NAN, 1, 1], [1, 1]])),
    (widgets.Rescale, "p", (7, "x")),
    (widgets.Race, "depth", (0, 99, "x", 1.5)),
    (widgets.Race, "count", ("x", None)),
    (widgets.Flow, "into", (-1, "x")),
    (widgets.Flow, "time", (-1, 99)),
):
    for _value in _values:
        bad(f"widgets.{_explorer.__name__}", f"{_key} {_value}", lambda _, c=_explorer, k=_key, v=_value: c(**{k: v}), _key, error=TraitError)
bad("claims.to_text", "a text", lambda _: claims.to_text("x"), "report must be", error=TypeError)
bad("claims.to_text", "another table", claims.to_text, "lacks 'id'", given=lambda: pd.DataFrame({"a": [1]}))
bad("widgets.Explorer.still", "no subclass", lambda _: widgets.Explorer().still(), error=NotImplementedError)
for _table, _kind in ((None, TypeError), ("x", TypeError), (pd.DataFrame(), ValueError), (pd.DataFrame({"init": ["balanced"]}), ValueError)):
    bad("widgets.Layers", f"table {type(_table).__name__} {len(_table or '') if not isinstance(_table, pd.DataFrame) else len(_table)}", widgets.Layers, "table must", error=_kind, given=lambda t=_table: t)
bad("widgets.Layers.recorded", "no folder", lambda _: widgets.Layers.recorded("nowhere"), "nowhere", error=FileNotFoundError)
bad("widgets.Layers.recorded", "an empty table", widgets.Layers.recorded, given=folder(du2018__figure2__csv="", du2018__drift__csv=""))

# what the library makes, and nobody else should have to
for _made in (b.Group, b.Edge, b.Source, b.BalanceResult, b.FactorizationResult, b.RescalingGraph, b.NotHomogeneousError, conservation.ReachableDirections, course.Edition, claims.Outcome, ShardedBalanceResult):
    _of = {b.RescalingGraph: "", conservation.ReachableDirections: "conservation.", course.Edition: "course.", claims.Outcome: "claims.", ShardedBalanceResult: "sharded."}.get(_made, "") + _made.__name__
    bad(_of, "nothing", lambda _, c=_made: c(), "missing", error=TypeError)

# fmt: on
NEED_NO_CASE = {"course.editions"}  # takes nothing


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case: Case) -> None:
    given = case.given()
    before, around = fingerprint(given), surroundings()
    files = fingerprint(Path())
    with pytest.raises(case.error) as caught:
        case.call(given)
    # no subclass that is none of ours, such as UnicodeDecodeError for a ValueError
    assert type(caught.value) in (case.error, b.NotHomogeneousError)
    for words in case.says:
        assert words in str(caught.value)
    assert fingerprint(given) == before
    assert fingerprint(Path()) == files
    now = surroundings()
    assert [name for name in around if around[name] != now[name]] == []


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    names = [str(case) for case in CASES]
    assert len(names) >= 100
    assert len(set(names)) == len(names)


def public_names() -> set[str]:
    """What ``__all__`` and the page of the API list, as paths below ``balancing``."""
    names = {name for name in b.__all__ if not name.startswith("__")}
    page = (Path(__file__).parents[1] / "book" / "api.md").read_text()
    for kind, path, members in re.findall(
        r"auto(\w+):: balancing\.([\w.]+)\n(?:   :members:([^\n]*)\n)?", page
    ):
        if kind != "module":
            names.add(path)
        elif path.partition(".")[0] in ("experiments", "claims", "course"):
            names.update(f"{path}.{each.strip()}" for each in members.split(","))
        elif path != "widgets":
            names.update(
                f"{path}.{n}" for n in importlib.import_module(f"balancing.{path}").__all__
            )
    return names


def found(name: str) -> Any:
    """The object of a path below ``balancing``."""
    owner, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"balancing.{owner}".rstrip(".")), rest)
    except ModuleNotFoundError:
        return getattr(found(owner), rest)


def test_every_public_name_has_a_case() -> None:
    names = public_names()
    assert {"balance", "networks.he_", "plots.escape", "experiments.du2018.rank_one"} <= names
    covered = {case.of for case in CASES}
    covered |= {of.rpartition(".")[0] for of in covered}  # a class, by its methods
    missing = {name for name in names if callable(found(name)) and name not in covered}
    assert missing - NEED_NO_CASE == set()


def documented(of: str) -> str:
    """What says which errors there are: the docstring, and that of the package around."""
    thing = found(of)
    owner = of.partition(".")[0]
    around = getattr(b, owner).__doc__ if owner in ("plots", "experiments") else ""
    more = found(of.rpartition(".")[0]).__doc__ if "." in of else ""
    return f"{thing.__doc__} {around} {more}"


# errors of Python itself, of the caller's own functions, and of traitlets
UNDOCUMENTED = (IndexError, KeyError, TraitError, NotImplementedError)


@pytest.mark.parametrize("of", sorted({case.of for case in CASES}))
def test_errors_are_documented(of: str) -> None:
    raised = {
        case.error
        for case in CASES
        if case.of == of and "missing" not in case.says and not issubclass(case.error, UNDOCUMENTED)
    }
    if not is_dataclass(found(of)):
        said = documented(of)
        families = {error: [base.__name__ for base in error.__mro__[:2]] for error in raised}
        assert [e for e, names in families.items() if not any(n in said for n in names)] == []


# --- input that is fine ---------------------------------------------------------------------------


def transposed() -> nn.Module:
    model = net()
    weight = model.linear1.weight.detach().T.contiguous().T
    model.linear1.weight = nn.Parameter(weight)
    assert not model.linear1.weight.is_contiguous()
    return model


def in_inference() -> nn.Module:
    with torch.inference_mode():
        model = net()
    assert model.linear1.weight.is_inference()
    return model


def with_hooks() -> nn.Module:
    model = net()
    model.linear1.register_forward_hook(lambda *_: None)
    return model


# sums over memory that lies otherwise are taken in another order
same = functools.partial(torch.testing.assert_close, rtol=1e-13, atol=1e-13)

FINE_MODELS: dict[str, Callable[[], nn.Module]] = {
    "non-contiguous": transposed,
    "frozen": lambda: net().requires_grad_(False),
    "inference": in_inference,
    "hooks": with_hooks,
    "training off": lambda: net().eval(),
    "shared memory": lambda: net().share_memory(),
}


@pytest.mark.parametrize("name", FINE_MODELS)
def test_fine_models_give_the_same_result(name: str) -> None:
    expected, model = net(), FINE_MODELS[name]()
    before = fingerprint(model)
    for read in (b.lpq_norm, b.imbalance, b.shares):
        same(read(model, 1, 2), read(expected, 1, 2))
    result, known = b.balance(model, 1, 2), b.balance(expected, 1, 2)
    same(result.factors, known.factors)
    same(dict(result.model.state_dict()), dict(known.model.state_dict()))
    assert fingerprint(model) == before
    if name != "frozen":
        path, known_path = flow(model), flow(expected)
        same(path.states, known_path.states)
    gradients = conservation.invariant_gradients(model, b.unit_invariants)
    known_gradients = conservation.invariant_gradients(expected, b.unit_invariants)
    same(gradients, known_gradients)
    assert fingerprint(model) == before


def test_frozen_parameters_have_no_velocity() -> None:
    model = net().requires_grad_(False)
    assert all(not v.any() for v in b.gradient_flow(model, torch.ones(())).values())
    assert b.share_velocity(model, torch.ones(())) == {}


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_directions_of_non_contiguous_weights() -> None:
    plain, model = small(), small()
    model.linear2.weight = nn.Parameter(model.linear2.weight.detach().T.contiguous().T)
    one = conservation.reachable_directions(model, [1], generator=generator(3))
    other = conservation.reachable_directions(plain, [1], generator=generator(3))
    torch.testing.assert_close(one.directions, other.directions, rtol=0, atol=0)


def test_expanded_weights_are_balanced_in_a_copy() -> None:
    row = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float64)
    model, plain = with_weight(row.expand(5, 4)), with_weight(row.repeat(5, 1))
    before = fingerprint(model)
    one, other = b.balance(model), b.balance(plain)
    torch.testing.assert_close(one.factors, other.factors, rtol=0, atol=0)
    assert fingerprint(model) == before


@pytest.mark.parametrize("factor", [2, 2.0, np.float32(2), torch.tensor(2), [2] * 5, np.full(5, 2)])
def test_factors_may_be_any_numbers(factor: Any) -> None:
    known = b.rescale(net(), {"linear1": torch.full((5,), 2.0)})
    result = b.rescale(net(), {"linear1": factor})
    torch.testing.assert_close(dict(result.state_dict()), dict(known.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "times",
    [(0, 0.01), np.array([0, 0.01]), torch.tensor([0, 0.01], dtype=torch.float64).requires_grad_()],
)
def test_times_may_be_any_row_of_numbers(times: Any) -> None:
    path = b.integrate_flow(net(), loss, times)
    torch.testing.assert_close(path.states, flow(net()).states, rtol=0, atol=0)


@pytest.mark.parametrize(
    "target",
    [
        torch.eye(3, dtype=torch.float64).expand(3, 3),
        nn.Parameter(torch.eye(3)),
        torch.eye(6)[::2, ::2],
        torch.eye(3, dtype=torch.bfloat16),
    ],
)
def test_targets_may_be_any_dense_matrix(target: Tensor) -> None:
    before = fingerprint(target)
    torch.testing.assert_close(fitted(target).U, fitted(torch.eye(3)).U, rtol=0, atol=0)
    assert fingerprint(target) == before


# --- properties -----------------------------------------------------------------------------------

NOT_A_NUMBER = (
    st.text(max_size=5)
    | st.none()
    | st.booleans()
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.lists(st.floats(), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.floats(), max_size=2)
)
TOO_SMALL = st.floats(max_value=0) | st.integers(max_value=0) | st.sampled_from([NAN, INF, HUGE])
GARBAGE = NOT_A_NUMBER | st.floats() | st.integers() | st.just(torch.ones(2)) | st.just(object())
PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(NOT_A_NUMBER | TOO_SMALL)
def test_no_other_exponent_is_taken(value: object) -> None:
    model = net()
    before, around = fingerprint(model), surroundings()
    for call in (b.lpq_norm, b.shares, b.imbalance, b.balance):
        with pytest.raises(ValueError, match="p must be finite and above 0"):
            call(model, value)
    assert fingerprint(model) == before
    assert surroundings() == around


@given(st.dictionaries(st.sampled_from(["linear1", "linear2", "input", "x"]), GARBAGE, max_size=2))
def test_any_factors_are_refused_or_keep_the_function(factors: dict[str, Any]) -> None:
    model = net()
    before = fingerprint(model)
    x = torch.ones(2, 4, dtype=torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an entry may become 0
            result = b.rescale(model, factors)
    except (TypeError, ValueError) as error:
        assert "factors" in str(error) or "group '" in str(error)
    else:
        if all(1e-100 < float(f) < 1e100 for f in factors.values() if not isinstance(f, list)):
            torch.testing.assert_close(result(x), model(x))
    assert fingerprint(model) == before


@given(st.lists(st.integers(-2, 6) | NOT_A_NUMBER, max_size=4) | GARBAGE)
def test_any_widths_are_refused_or_taken(widths: Any) -> None:
    around = surroundings()
    try:
        model = b.mlp(widths, generator=generator(0))
    except (TypeError, ValueError) as error:
        assert "widths must be" in str(error)
    else:
        shapes = [tuple(p.shape) for p in model.parameters()]
        assert shapes == list(zip(widths[1:], widths[:-1], strict=True))
    assert surroundings() == around


def answers() -> Iterator[Any]:
    """Answers of every kind, among them functions that fail or never fit."""
    yield from (0, -1, NAN, INF, HUGE, 1e-300, "x", "", b"x", 2j, True, object(), net(), Figure())
    yield from ([], {}, set(), (), [[1, 2], [3]], {"a": 1}, {1, "a"}, [None], range(3), Exception)
    yield from (
        torch.ones(0),
        torch.ones(2, 2),
        torch.full((3,), NAN),
        torch.ones(2, device="meta"),
    )
    yield from (torch.ones(2).to_sparse(), torch.tensor(1j), np.ones((2, 2)), pd.DataFrame())
    yield from (lambda: 1, lambda x: x, lambda x, y: None, lambda *a: a[99], lambda *a, **k: "x")


@pytest.mark.parametrize("exercise", sorted(exercises._CHECKS))
def test_no_answer_breaks_a_check(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    around = surroundings()
    for answer in answers():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exercises.check(exercise, answer)
        [line] = capsys.readouterr().out.splitlines()[:1]
        assert line.startswith(f"Exercise {exercise}: ")
    assert surroundings() == around

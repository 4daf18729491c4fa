"""Checks for the book's exercises: they test properties of an answer and hint at mistakes.

``check("01.1", answer)`` prints what holds and, where something does not, the likely reason.
An answer of None or ``...``, or a function that returns one of them, is taken as not given yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from balancing.invariants import layer_invariants
from balancing.networks import mlp
from balancing.rescaling import rescale

__all__ = ["check"]


class _Wrong(Exception):  # noqa: N818  (not an error: an answer)
    """What is wrong with an answer, and a hint."""


class _Missing(Exception):  # noqa: N818
    """There is no answer yet."""


def check(exercise: str, answer: Any) -> None:
    """Print whether an answer to an exercise holds, and a hint if it does not.

    Args:
        exercise: its number, for example ``"01.1"``.
        answer: what the exercise asks for: a number, a collection or a function.

    Raises:
        ValueError: there is no such exercise.
    """
    if exercise not in _CHECKS:
        raise ValueError(f"no exercise '{exercise}'; there are {', '.join(sorted(_CHECKS))}")
    try:
        message = _CHECKS[exercise](_given(answer))
    except _Missing:
        print(f"Exercise {exercise}: no answer yet. Replace the dots and run the cell again.")
    except _Wrong as wrong:
        print(f"Exercise {exercise}: not yet. {wrong}")
    except Exception as error:  # the reader's own function may raise anything
        kind = type(error).__name__
        print(f"Exercise {exercise}: your answer raised {kind}: {error}")
    else:
        print(f"Exercise {exercise}: correct. {message}")


def _network(seed: int, activation: Any = "relu", widths: tuple[int, ...] = (4, 6, 5, 3)) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation=activation, dtype=torch.float64, generator=generator)


def _call(function: Any, *arguments: Any) -> Any:
    if not callable(function):
        raise _Wrong(f"A function is asked for; this is {type(function).__name__}.")
    wanted = len(inspect.signature(function).parameters)
    if wanted != len(arguments):
        raise _Wrong(f"The function takes {wanted} arguments; it should take {len(arguments)}.")
    return _given(function(*arguments))


def _given(answer: Any) -> Any:
    """The answer, unless it is still the None or the dots of the exercise's cell."""
    if answer is None or answer is ...:
        raise _Missing
    return answer


def _number(value: Any, what: str = "The answer") -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _Wrong(f"{what} should be a number; it is {value!r}.") from None


def _close(a: float, b: float, tolerance: float = 1e-3) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-300)


def _unit_rows(answer: Any) -> str:
    """01.1: factors that give every hidden unit incoming weights of norm 1."""
    for seed in range(3):
        net = _network(seed)
        new = rescale(net, _call(answer, net))
        norms = [new.get_parameter(f"linear{h}.weight").detach().norm(dim=1) for h in (1, 2)]
        if not torch.allclose(norms[0], torch.ones(6).double(), atol=1e-9):
            if torch.allclose(norms[0], net.linear1.weight.detach().norm(dim=1) ** 2):
                raise _Wrong("You multiplied by the norm; divide by it.")
            raise _Wrong("The first hidden layer's rows do not have norm 1 after rescaling.")
        if not torch.allclose(norms[1], torch.ones(5).double(), atol=1e-9):
            raise _Wrong(
                "The first hidden layer is right, the second is not. Its incoming weights were "
                "also divided by the first layer's factors: measure its rows after that."
            )
    return "Every hidden unit has incoming norm 1; rescale() kept the function."


def _homogeneous(answer: Any) -> str:
    """01.2: which functions are positively homogeneous of degree one."""
    right = {"relu", "leaky_relu", "abs", "maximum of 2z and z"}
    known = right | {"softplus", "square", "relu6", "tanh", "z + 1"}
    try:
        given = set(answer)
    except TypeError:
        raise _Wrong("A set of names is asked for.") from None
    if given - known:
        raise _Wrong(f"Not among the candidates: {', '.join(map(str, given - known))}.")
    hints = {
        "softplus": "softplus(0) = log 2, but a homogeneous function is 0 at 0.",
        "square": "(2z)^2 is 4 z^2, not 2 z^2: degree two, not one.",
        "relu6": "relu6 is capped: relu6(2 * 6) is 6, not 12.",
        "tanh": "tanh saturates: tanh(2z) is not 2 tanh(z).",
        "z + 1": "z + 1 is 1 at 0, and a homogeneous function is 0 there.",
    }
    for name in sorted(given - right):
        raise _Wrong(hints[name])
    if right - given:
        count = len(right - given)
        raise _Wrong(
            f"What you named is right; {count} more {'is' if count == 1 else 'are'} missing. "
            "A kink at 0 does no harm: compare phi(2z) with 2 phi(z) on either side."
        )
    return "These are the functions with one slope on each side of 0 and the value 0 there."


def _limit_point(answer: Any) -> str:
    """02.1: where gradient flow of (uv - 1)^2 / 2 from (2, 1) ends."""
    try:
        u, v = answer
    except (TypeError, ValueError):
        raise _Wrong("A pair (u, v) is asked for.") from None
    u, v = _number(u, "u"), _number(v, "v")
    if not _close(u * v, 1):
        raise _Wrong(f"There the loss is not zero: u v = {u * v:.4g}, and it should be 1.")
    if not _close(u * u - v * v, 3):
        raise _Wrong(
            f"The loss is zero there, but u^2 - v^2 = {u * u - v * v:.4g}: not the hyperbola of "
            "the start, on which it is 3."
        )
    if u < 0:
        raise _Wrong("Right up to the sign: the flow stays on the branch on which it starts.")
    return "On the curve of no loss and on the hyperbola of the start."


def _degree_invariant(answer: Any) -> str:
    """02.2: the c(k) for which ||in||^2 - c ||out||^2 is conserved if phi(az) = a^k phi(z)."""
    for k in (1, 2, 3):
        c = _number(_call(answer, k), f"c({k})")

        class Power(nn.Module):
            def forward(self, z: Tensor, k: int = k) -> Tensor:
                return torch.relu(z) ** k

        net = _network(k, Power, widths=(4, 6, 3))
        generator = torch.Generator().manual_seed(k)
        x, y = (torch.randn(12, n, dtype=torch.float64, generator=generator) for n in (4, 3))
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        into, out = ((w * w.grad).sum().item() for w in (net.linear1.weight, net.linear2.weight))
        if not _close(into, c * out, 1e-9):
            if _close(into, out / c, 1e-9):
                raise _Wrong(
                    f"For k = {k} it is the other way round: Euler's identity phi'(z) z = k phi(z) "
                    "puts the factor k on the incoming side of the rates."
                )
            raise _Wrong(
                f"For k = {k} the two rates do not cancel with c = {c:g}. Start from Euler's "
                "identity for degree k and repeat step 3 of the proof."
            )
    return "For degree k the incoming rate is k times the outgoing one."


def _norm_for_ratio(answer: Any) -> str:
    """05.1: the squared norm at which a kept gap means a given ratio."""
    for gap, ratio in ((9.0, 1.1), (9.0, 1.5), (0.9, 1.05)):
        norm = _number(_call(answer, gap, ratio))
        if norm <= gap:
            raise _Wrong("The lower layer's squared norm cannot be smaller than the gap.")
        measured = norm / (norm - gap)
        if not _close(measured, ratio, 1e-9):
            if _close((norm + gap) / norm, ratio, 1e-9):
                raise _Wrong("That is the squared norm of the upper layer, W2; W1's is asked for.")
            raise _Wrong(
                f"With gap {gap:g} and that squared norm {norm:.4g} the ratio is {measured:.4g}, "
                f"not {ratio:g}."
            )
    return "A gap of 9 is within ten per cent only when the squared norm has reached 99."


def _one_step(answer: Any) -> str:
    """05.2: the exact change of the layer gaps in one gradient-descent step."""
    for seed, step in ((0, 0.1), (1, 0.3)):
        net = _network(seed)
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(12, n, dtype=torch.float64, generator=generator) for n in (4, 3))
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        gradients = [w.grad.clone() for w in net.parameters()]
        before = layer_invariants(net)
        with torch.no_grad():
            for weight, gradient in zip(net.parameters(), gradients, strict=True):
                weight -= step * gradient
        after = layer_invariants(net)
        true = [float(after[name] - before[name]) for name in before]
        given = _call(answer, gradients, step)
        try:
            given = [_number(value, "Each change") for value in given]
        except TypeError:
            raise _Wrong("One number for each hidden layer is asked for, as a list.") from None
        if len(given) != len(true):
            raise _Wrong(f"This network has {len(true)} hidden layers; you return {len(given)}.")
        for factor, hint in (
            (1, ""),
            (-1, "The sign is wrong: incoming minus outgoing."),
            (1 / step, "The step size enters squared."),
            (0.5, "The square of eta g has no factor 1/2."),
        ):
            if all(_close(g, factor * t, 1e-6) for g, t in zip(given, true, strict=True)):
                if hint:
                    raise _Wrong(hint)
                break
        else:
            raise _Wrong("Expand ||W - eta g||^2 for both layers; the terms linear in eta cancel.")
    return "Exact: the terms linear in the step cancel, and only the squares are left."


_CHECKS: dict[str, Callable[[Any], str]] = {
    "01.1": _unit_rows,
    "01.2": _homogeneous,
    "02.1": _limit_point,
    "02.2": _degree_invariant,
    "05.1": _norm_for_ratio,
    "05.2": _one_step,
}

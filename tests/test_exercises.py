"""The checks of the exercises: right answers, wrong ones with their hints, and broken ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancing import exercises
from balancing.exercises import check

Answer = Any
CapSys = pytest.CaptureFixture[str]


def unit_rows(net: nn.Sequential) -> dict[str, Tensor]:
    first = 1 / net.linear1.weight.norm(dim=1)
    second = 1 / (net.linear2.weight / first).norm(dim=1)
    return {"linear1": first, "linear2": second}


def one_step(gradients: list[Tensor], eta: float) -> list[float]:
    norms = [float(g.square().sum()) for g in gradients]
    return [eta**2 * (norms[h] - norms[h + 1]) for h in range(len(norms) - 1)]


HOMOGENEOUS = {"relu", "leaky_relu", "abs", "maximum of 2z and z"}
ROOT = 0.5 * 13**0.5  # u^2 = (3 + sqrt(13)) / 2 solves u^2 - 1 / u^2 = 3
U = (1.5 + ROOT) ** 0.5

SOLUTIONS: dict[str, list[Answer]] = {
    "01.1": [unit_rows],
    "01.2": [HOMOGENEOUS, list(HOMOGENEOUS), tuple(sorted(HOMOGENEOUS))],
    "02.1": [(U, 1 / U), [U, 1 / U], torch.tensor([U, 1 / U])],
    "02.2": [lambda k: k, float],
    "05.1": [lambda gap, ratio: gap * ratio / (ratio - 1)],
    "05.2": [one_step, lambda g, eta: tuple(torch.tensor(each) for each in one_step(g, eta))],
}


def scaled(factor: float) -> Callable[[list[Tensor], float], list[float]]:
    return lambda gradients, eta: [factor * each for each in one_step(gradients, eta)]


LAYERS = ("linear1", "linear2")

WRONG: dict[str, list[tuple[Answer, str]]] = {
    "01.1": [
        (
            lambda net: {
                f"linear{h}": net.get_submodule(f"linear{h}").weight.norm(dim=1) for h in (1, 2)
            },
            "You multiplied by the norm; divide by it.",
        ),
        (
            lambda net: {n: 1 / net.get_submodule(n).weight.norm(dim=1) for n in LAYERS},
            "The first hidden layer is right, the second is not.",
        ),
        (
            lambda net: {"linear1": 1 / net.linear1.weight.norm(dim=1)},
            "The first hidden layer is right, the second is not.",
        ),
        (
            lambda net: {"linear1": 1 / net.linear1.weight.abs().sum(dim=1)},
            "The first hidden layer's rows do not have norm 1",
        ),
        (lambda net, p: {}, "The function takes 2 arguments; it should take 1."),
        ({"linear1": 1.0}, "A function is asked for; this is dict."),
    ],
    "01.2": [
        (HOMOGENEOUS | {"softplus"}, "softplus(0) = log 2"),
        (HOMOGENEOUS | {"square"}, "degree two, not one"),
        ({"relu", "relu6"}, "capped"),
        ({"relu", "tanh"}, "tanh saturates"),
        ({"z + 1"}, "z + 1 is 1 at 0"),
        ({"relu", "leaky_relu"}, "2 more are missing"),
        (HOMOGENEOUS - {"abs"}, "1 more is missing"),
        ({"relu", "gelu"}, "Not among the candidates: gelu."),
        (3, "A set of names is asked for."),
    ],
    "02.1": [
        ((1, 1), "The loss is zero there, but u^2 - v^2 = 0"),
        ((2, 0.5), "u^2 - v^2 = 3.75"),
        ((2, 1), "There the loss is not zero: u v = 2"),
        ((-U, -1 / U), "Right up to the sign"),
        (U, "A pair (u, v) is asked for."),
        ((U, "1/u"), "v should be a number; it is '1/u'."),
    ],
    "02.2": [
        (lambda k: 1 / k, "For k = 2 it is the other way round"),
        (lambda k: 1, "For k = 2 the two rates do not cancel with c = 1"),
        (lambda k: k**2, "For k = 2 the two rates do not cancel with c = 4"),
        (2, "A function is asked for; this is int."),
        (lambda k: "k", "c(1) should be a number; it is 'k'."),
    ],
    "05.1": [
        (lambda gap, ratio: gap / (ratio - 1), "That is the squared norm of the upper layer, W2"),
        (lambda gap, ratio: gap / ratio, "cannot be smaller than the gap"),
        (lambda gap, ratio: gap * ratio, "squared norm 9.9 the ratio is 11, not 1.1"),
        (lambda gap: 2 * gap, "The function takes 1 arguments; it should take 2."),
    ],
    "05.2": [
        (scaled(-1), "The sign is wrong"),
        (scaled(0.5), "no factor 1/2"),
        (lambda g, eta: [each / eta for each in one_step(g, eta)], "The step size enters squared."),
        (lambda g, eta: [0.0] * (len(g) - 1), "Expand ||W - eta g||^2"),
        (lambda g, eta: one_step(g, eta)[:1], "has 2 hidden layers; you return 1."),
        (lambda g, eta: sum(one_step(g, eta)), "One number for each hidden layer is asked for"),
        (lambda g, eta: ["a", "b"], "Each change should be a number; it is 'a'."),
    ],
}


def printed(exercise: str, answer: Answer, capsys: CapSys) -> str:
    check(exercise, answer)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"Exercise {exercise}: ")
    assert captured.out.count("\n") == 1
    return captured.out


def test_every_exercise_is_tested() -> None:
    assert set(SOLUTIONS) == set(WRONG) == set(exercises._CHECKS)


@pytest.mark.parametrize(
    ("exercise", "answer"), [(key, each) for key, answers in SOLUTIONS.items() for each in answers]
)
def test_solution(exercise: str, answer: Answer, capsys: CapSys) -> None:
    assert f"{exercise}: correct. " in printed(exercise, answer, capsys)


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [(key, *each) for key, answers in WRONG.items() for each in answers],
)
def test_wrong_answer_gets_its_hint(
    exercise: str, answer: Answer, hint: str, capsys: CapSys
) -> None:
    text = printed(exercise, answer, capsys)
    assert f"{exercise}: not yet. " in text
    assert hint in text


@pytest.mark.parametrize("answer", [None, ...])
@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_no_answer_yet(exercise: str, answer: Answer, capsys: CapSys) -> None:
    assert f"{exercise}: no answer yet. " in printed(exercise, answer, capsys)


@pytest.mark.parametrize("result", [None, ...])
@pytest.mark.parametrize(
    ("exercise", "arity"), [("01.1", 1), ("02.2", 1), ("05.1", 2), ("05.2", 2)]
)
def test_function_without_a_result_is_no_answer_yet(
    exercise: str, arity: int, result: object, capsys: CapSys
) -> None:
    answer = (lambda _: result) if arity == 1 else (lambda _, __: result)
    assert f"{exercise}: no answer yet. " in printed(exercise, answer, capsys)


def broken_one(_: object) -> None:
    raise KeyError("linear7")


def broken_two(_: object, __: object) -> None:
    raise ZeroDivisionError("division by zero")


class Untouchable:
    """Raises whatever is done with it."""

    def __iter__(self) -> None:
        raise RuntimeError("hands off")


@pytest.mark.parametrize(
    ("exercise", "answer", "kind"),
    [
        ("01.1", broken_one, "KeyError"),
        ("01.1", lambda net: {"linear9": 1.0}, "ValueError: group 'linear9' is not a group"),
        ("01.2", Untouchable(), "RuntimeError: hands off"),
        ("02.1", Untouchable(), "RuntimeError: hands off"),
        ("02.2", broken_one, "KeyError"),
        ("05.1", broken_two, "ZeroDivisionError: division by zero"),
        ("05.2", broken_two, "ZeroDivisionError: division by zero"),
    ],
)
def test_answer_that_raises(exercise: str, answer: Answer, kind: str, capsys: CapSys) -> None:
    assert f"your answer raised {kind}" in printed(exercise, answer, capsys)


@pytest.mark.parametrize("exercise", ["99.9", "", "1.1"])
@pytest.mark.parametrize("answer", [None, 3])
def test_unknown_exercise(exercise: str, answer: Answer) -> None:
    with pytest.raises(ValueError, match=r"no exercise '.*'; there are 01\.1, 01\.2"):
        check(exercise, answer)

"""Checks for the book's exercises: they test properties of an answer and hint at mistakes.

``check("01.1", answer)`` prints what holds and, where something does not, the likely reason;
``grade("01.1", answer)`` says nothing of a right answer and raises for any other.
An answer of None or ``...``, or a function that returns one of them, is taken as not given yet.
"""

from __future__ import annotations

from typing import Any

from balancing.exercises import (
    descent,
    factorization,
    faster,
    fixes,
    flows,
    invariants,
    practice,
    practice_networks,
)
from balancing.exercises._answers import Missing, Wrong, given_answer

__all__ = ["check", "grade"]

_CHECKS = (
    invariants.CHECKS
    | descent.CHECKS
    | factorization.CHECKS
    | fixes.CHECKS
    | faster.CHECKS
    | flows.CHECKS
    | practice_networks.CHECKS
    | practice.CHECKS
)


def check(exercise: str, answer: Any) -> None:
    """Print whether an answer to an exercise holds, and a hint if it does not.

    Args:
        exercise: its number, for example ``"01.1"``.
        answer: what the exercise asks for: a number, a collection or a function.

    Raises:
        ValueError: there is no such exercise.
    """
    print(f"Exercise {exercise}: {_judged(exercise, answer)[1]}")


def grade(exercise: str, answer: Any) -> None:
    """Accept the right answer to an exercise in silence; this is what graded cells call.

    Args:
        exercise: its number, for example ``"01.1"``.
        answer: as for :func:`check`, which judges alike.

    Raises:
        AssertionError: the answer is wrong or missing; the message is what ``check`` prints.
        ValueError: there is no such exercise.
    """
    right, message = _judged(exercise, answer)
    if not right:
        raise AssertionError(f"Exercise {exercise}: {message}")


def _judged(exercise: str, answer: Any) -> tuple[bool, str]:
    """Whether the answer is right, and what to say of it."""
    if exercise not in list(_CHECKS):  # of a list, a text that cannot be looked up is no error
        raise ValueError(f"no exercise '{exercise}'; there are {', '.join(sorted(_CHECKS))}")
    try:
        message = _CHECKS[exercise](given_answer(answer))
    except Missing:
        return False, "no answer yet. Replace the dots and run the cell again."
    except Wrong as wrong:
        return False, f"not yet. {wrong}"
    except Exception as error:  # the reader's own function may raise anything
        return False, f"your answer raised {type(error).__name__}: {error}"
    return True, f"correct. {message}"

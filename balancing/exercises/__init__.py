"""Checks for the book's exercises: they test properties of an answer and hint at mistakes.

``check("01.1", answer)`` prints what holds and, where something does not, the likely reason.
An answer of None or ``...``, or a function that returns one of them, is taken as not given yet.
"""

from __future__ import annotations

from typing import Any

from balancing.exercises import (
    factorization,
    faster,
    fixes,
    flows,
    invariants,
    practice,
    practice_networks,
)
from balancing.exercises._answers import Missing, Wrong, given_answer

__all__ = ["check"]

_CHECKS = (
    invariants.CHECKS
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
    if exercise not in _CHECKS:
        raise ValueError(f"no exercise '{exercise}'; there are {', '.join(sorted(_CHECKS))}")
    try:
        message = _CHECKS[exercise](given_answer(answer))
    except Missing:
        print(f"Exercise {exercise}: no answer yet. Replace the dots and run the cell again.")
    except Wrong as wrong:
        print(f"Exercise {exercise}: not yet. {wrong}")
    except Exception as error:  # the reader's own function may raise anything
        kind = type(error).__name__
        print(f"Exercise {exercise}: your answer raised {kind}: {error}")
    else:
        print(f"Exercise {exercise}: correct. {message}")

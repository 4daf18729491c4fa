"""Exercises of chapter 15, on what balance is good for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from balancing.exercises._answers import Wrong, call, choose, close, gaussian, matrix, number


def _equal_ranges(answer: Any) -> str:
    """15.1: the factor of a unit that makes its largest weight, in or out, as small as can be."""
    for seed in range(4):
        into, out = (each[0] for each in gaussian(seed, (1, 5), (1, 3)))
        into = into * 10.0 ** (seed - 1)
        given = number(call(answer, into.clone(), out.clone()), "The factor")
        largest_in, largest_out = float(into.abs().max()), float(out.abs().max())
        true = (largest_out / largest_in) ** 0.5
        if close(given, true, 1e-6):
            continue
        for typical, hint in (
            (1 / true, "Turn it over: the factor multiplies what enters and divides what leaves."),
            (true**2, "Both sides move: the one grows by the factor as the other shrinks by it."),
            (
                float(out.norm() / into.norm()) ** 0.5,
                "That balances p = q = 2, the sums of squares; here the largest size counts.",
            ),
            (
                abs(float(out.max() / into.max())) ** 0.5,
                "Compare sizes: a large negative weight counts as well.",
            ),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(hint)
        raise Wrong(
            f"For incoming weights up to {largest_in:.4g} and outgoing ones up to "
            f"{largest_out:.4g} the factor is {true:.4g}, not {given:.4g}."
        )
    return "Incoming and outgoing weights have one range, for four units."


_UNCHANGED = {
    "layer factors, per tensor",
    "row factors, per channel",
    "layer factors, layerwise pruning",
    "unit factors, sensitivity pruning",
    "unit factors, fix then per tensor",
}
_CHANGED = {
    "unit factors, per tensor": "Per tensor: one unit with a large factor sets the grid of all.",
    "column factors, per channel": (
        "Per channel: the outgoing weights of a unit lie in one column, and a row has one grid."
    ),
    "layer factors, global pruning": (
        "Global pruning: a layer that is made large keeps its weights at the others' expense."
    ),
    "unit factors, layerwise pruning": (
        "Layerwise pruning: within a layer a large unit keeps its weights at the others' expense."
    ),
}


def _unchanged(answer: Any) -> str:
    """15.2: which procedures give the same function for which rescalings."""
    choose(
        answer,
        _UNCHANGED,
        _CHANGED,
        "Ask of each whether the grid, or the order of the scores, moves with the weights.",
    )
    return "These five give one function for all versions, the other four do not."


def _balanced_scores(answer: Any) -> str:
    """15.3: scores of one hidden layer that rank like the sizes of the balanced weights."""
    for seed in range(3):
        into, out, z = gaussian(seed, (6, 4), (3, 6), (6, 1))
        for factor in (torch.ones_like(z), z.exp()):
            W, V = factor * into, out / factor.T
            given = _pair(call(answer, W.clone(), V.clone()), W, V)
            a = (V.norm(dim=0) / W.norm(dim=1)).sqrt()[:, None]
            if _same_order(given, (W.abs() * a, V.abs() / a.T)):
                continue
            for typical, hint in (
                ((W.abs(), V.abs()), "These are the sizes as they are: rescaling changes them."),
                (
                    (W.abs() * a**2, V.abs() / a.T**2),
                    "The factor that balances a unit is the root of the ratio of the norms.",
                ),
                (
                    (W.abs() / a, V.abs() * a.T),
                    "Turn the factor over: the smaller side is to grow.",
                ),
                (
                    (W.abs() / W.norm(dim=1, keepdim=True), V.abs() / V.norm(dim=0)),
                    "No rescaling changes these, but they forget how much a unit does: every "
                    "unit has the same sum of squares on both sides.",
                ),
            ):
                if _same_order(given, typical):
                    raise Wrong(hint)
            raise Wrong("The order is not that of the sizes in the balanced network.")
    return "The order is that of the balanced network, for three networks in two versions each."


def _pair(given: Any, W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise Wrong("A pair is asked for: scores of the incoming and of the outgoing weights.")
    return matrix(given[0], W.shape), matrix(given[1], V.shape)


def _same_order(given: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> bool:
    order, wanted = (
        torch.cat([each.flatten() for each in pair]).argsort() for pair in (given, true)
    )
    return torch.equal(order, wanted)


CHECKS: dict[str, Callable[[Any], str]] = {
    "15.1": _equal_ranges,
    "15.2": _unchanged,
    "15.3": _balanced_scores,
}

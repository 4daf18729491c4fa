"""Exercises of chapters 12 and 13, on flows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from balancing.descent import WeightBalancingDescent
from balancing.exercises._answers import (
    Wrong,
    call,
    choose,
    close,
    gaussian,
    matrix,
    network,
    number,
)
from balancing.norms import imbalance


def _layer_flow(answer: Any) -> str:
    """12.1: the weight-balancing flow of one layer for p = 2."""
    for seed, q in ((0, 1.0), (1, 3.0), (2, 2.0)):
        W, g = gaussian(seed, (4, 3), (4, 3))
        n, dot = W.norm(dim=1, keepdim=True), (W * g).sum(1, keepdim=True)
        within, along = n ** (2 - q) * g, dot / n**q * W
        true = -(within + (2 / q - 1) * along) / 2
        given = matrix(call(answer, W.clone(), g.clone(), q), W.shape)
        if torch.allclose(given, true, rtol=1e-6, atol=1e-12):
            continue
        for typical, hint in (
            (-g / 2, "That is gradient flow, which is right for q = 2 only."),
            (-within / 2, "The second term is missing: a row's own norm moves, too."),
            (-(within + (q / 2 - 1) * along) / 2, "It is p / q, not q / p, in the second term."),
            (2 * true, "The factor 1 / p is missing."),
            (-true, "The sign: the flow goes against the gradient."),
            (-(within - (2 / q - 1) * along) / 2, "Both terms have the same sign."),
            (
                -(n ** (q - 2) * g + (2 / q - 1) * along) / 2,
                "W^2 / pi is n^(2 - q), not n^(q - 2).",
            ),
        ):
            if torch.allclose(given, typical, rtol=1e-6, atol=1e-12):
                raise Wrong(f"For q = {q:g} it is not right. {hint}")
        raise Wrong(f"For q = {q:g} it is not right: the shares W^2 n^(q - 2) should move by -W g.")
    return "The shares move by -W g, for three values of q."


def _end_point(answer: Any) -> str:
    """12.2: where the flow of two weights ends."""
    for u0, v0, q in ((1.5, 0.2, 3.0), (0.3, 2.0, 1.0), (2.0, 0.5, 0.5)):
        given = call(answer, u0, v0, q)
        try:
            u, v = (number(each) for each in given)
        except (TypeError, ValueError):
            raise Wrong("A pair (u, v) is asked for.") from None
        where = f"From ({u0:g}, {v0:g}) at q = {q:g}"
        if not close(u * v, 1, 1e-6):
            raise Wrong(f"{where}: u v is {u * v:.4g}; at the end it is 1, where the loss is 0.")
        if u <= 0:
            raise Wrong(f"{where}: no weight changes its sign on the way.")
        c = u0**q - v0**q
        if close(u**q - v**q, c, 1e-6):
            continue
        if close(u**q - v**q, -c, 1e-6):
            raise Wrong(f"{where}: you have exchanged u and v.")
        if close(u**2 - v**2, u0**2 - v0**2, 1e-6):
            raise Wrong(f"{where}: you keep u^2 - v^2, as gradient flow does. What is kept here?")
        raise Wrong(
            f"{where}: |u|^q - |v|^q should be {c:.4g}, as at the start; it is {u**q - v**q:.4g}."
        )
    return "No loss, and the imbalance of the start, for three starts and norms."


def _geometry(answer: Any) -> str:
    """12.3: the matrix A of a row, with which its flow is -A g."""
    for seed, p, q in ((0, 2.0, 1.0), (1, 1.0, 3.0), (2, 3.0, 3.0)):
        w = gaussian(seed, (1, 4))[0][0]
        given = matrix(call(answer, w.clone(), p, q), (4, 4))

        def shares(w: Tensor, p: float = p, q: float = q) -> Tensor:
            return w.abs() ** p * w.abs().pow(p).sum() ** (q / p - 1)

        slopes = torch.autograd.functional.jacobian(shares, w)
        if torch.allclose(slopes @ given, w.diag(), rtol=1e-6, atol=1e-9):
            continue  # d pi / dW times -A g is -W g, for every g
        within, along = (w**2 / shares(w)).diag(), torch.outer(w, w) / shares(w).sum()
        true = (within + (p / q - 1) * along) / p
        for typical, hint in (
            (within / p, "The second term is missing: it acts along w, as a matrix w w^T."),
            (p * true, "The factor 1 / p is missing."),
            (-true, "The minus sign stands in front of A; A itself is positive definite."),
            (true.inverse(), "That is the inverse: it gives g from the velocity."),
            ((within + (q / p - 1) * along) / p, "It is p / q, not q / p, in the second term."),
            (
                true.diag().diag(),
                "Right on the diagonal. But the gradient of one weight moves its whole row.",
            ),
        ):
            if torch.allclose(given, typical, rtol=1e-6, atol=1e-12):
                raise Wrong(f"For p = {p:g}, q = {q:g} it is not right. {hint}")
        if not torch.allclose(given, given.T):
            raise Wrong(f"For p = {p:g}, q = {q:g} your matrix is not symmetric.")
        raise Wrong(
            f"For p = {p:g}, q = {q:g} the shares do not move by -w g when the row moves by -A g."
        )
    return "When a row moves by -A g, its shares move by -w g, for three norms and every g."


def _who_keeps(answer: Any) -> str:
    """12.4: which flow conserves the imbalance in which norm."""
    right = {
        "gradient flow, in (2, 2)",
        "flow of (1, 1), in (1, 1)",
        "flow of (3, 3), in (3, 3), with a new minibatch at times",
        "flow of (1, 2), in (1, 2), with biases that count",
    }
    wrong = {
        "gradient flow, in (1, 1)": "Gradient flow moves the squares of the weights by -2 W g: it "
        "belongs to (2, 2).",
        "flow of (1, 1), in (2, 2)": "The flow of a norm keeps the imbalance in this norm; the "
        "squares are the shares of another.",
        "flow of (3, 3), in (3, 3), with weight decay": "A regularizer makes every imbalance decay "
        "as e^(-lambda t).",
        "flow of (1, 2), in (1, 2), with biases that do not count": "The symmetry rescales a bias "
        "with its row, so its share belongs to the incoming sum.",
    }
    choose(
        answer,
        right,
        wrong,
        "Ask of each: do the shares of this norm move by -W g, with all weights of the unit?",
    )
    return "Each flow keeps the imbalance of its own norm, at each time and for each loss."


def _smooth_flow(answer: Any) -> str:
    """13.1: the flow that belongs to the regularizer sum sqrt(1 + W^2)."""
    W, g = gaussian(0, (5, 4), (5, 4))
    W[0, 0] = 30.0  # large, where the regularizer is l_1
    given = matrix(call(answer, W.clone(), g.clone()), W.shape)
    s = (1 + W**2).sqrt()
    of_share = W * (2 + W**2) / s**3  # the derivative of W^2 / s
    # the shares W^2 / s should move by -W g
    if torch.allclose(of_share * given, -W * g, rtol=1e-6, atol=1e-12):
        return "The shares W^2 / sqrt(1 + W^2) move by -W g."
    for typical, hint in (
        (-g, "That is gradient flow, which belongs to W^2."),
        (-(s**3) / (2 + W**2) * W * g, "A factor W is too many: d pi / dW has one as well."),
        (s**3 / (2 + W**2) * g, "The sign: the flow goes against the gradient."),
        (-W.abs() * g, "That belongs to |W|, and fits large weights only."),
        (-s * g, "You let R itself move by -W g; it is W dR/dW that does."),
        (-(s**3) * g, "You let dR/dW move by -g; it is W dR/dW that moves, by -W g."),
    ):
        if torch.allclose(given, typical, rtol=1e-6, atol=1e-12):
            raise Wrong(hint)
    raise Wrong("The shares are W dR/dW = W^2 / sqrt(1 + W^2); they should move by -W g.")


def _steps_to_halve(answer: Any) -> str:
    """13.2: after how many steps of WeightBalancingDescent the imbalances are halved."""
    for lr, p, q, decay in ((0.01, 1.0, 3.0, 0.5), (0.02, 2.0, 2.0, 0.2), (0.003, 3.0, 1.5, 0.4)):
        net = network(0)
        optimizer = WeightBalancingDescent(net, lr, p, q, weight_decay=decay, tol=1e-9)
        before = imbalance(net, p, q)["linear1"]
        x, _ = gaussian(1, (8, 4), (1, 1))
        for _ in range(5):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        kept = float((imbalance(net, p, q)["linear1"] / before).log().mean()) / 5
        true = -math.log(2) / kept
        given = number(call(answer, lr, p, q, decay))
        if close(given, true):
            continue
        where = f"For lr = {lr:g}, p = {p:g}, q = {q:g} and decay {decay:g}"
        for typical, hint in (
            (true * p, "A step of size lr is p lr of the flow's time."),
            (true * p / q, "That would be q lr of time a step; it is p lr."),
            (true * q, "That is the half-life of the weights; the imbalance has degree q in them."),
            (
                true * p / 2,
                "That is right for gradient flow; here time runs p times as fast as lr.",
            ),
            (true / math.log(2), "By then 1/e is left, not a half."),
            (true * lr, "That is a time; how many steps of length p lr does it take?"),
        ):
            if close(given, typical):
                raise Wrong(f"{where} it is {true:.4g} steps, not {given:.4g}. {hint}")
        raise Wrong(f"{where} it is {true:.4g} steps, not {given:.4g}.")
    return "The optimizer itself halves the imbalances at this pace, for three pairs."


def _own_cut(answer: Any) -> str:
    """13.3: the changes of two imbalances if the share between the units is cut on its own."""
    for share, loss in ((1.0, 2.5), (0.4, 0.38), (2.0, 0.5), (0.5, -1.0)):
        given = call(answer, share, loss)
        try:
            enters, leaves = (number(each, "A change") for each in given)
        except (TypeError, ValueError):
            raise Wrong("A pair is asked for: the changes of I_i and of I_j.") from None
        # All other shares of both units take the whole step, which would change nothing.
        stays = max(share - loss, share / 10) - (share - loss)
        if max(abs(enters - stays), abs(leaves + stays)) < 1e-6:
            continue
        where = f"For share {share:g} and loss {loss:g}"
        for typical, hint in (
            ((-stays, stays), "The sign: more is left than should be, in the incoming sum of i."),
            ((stays, stays), "The weight enters i and leaves j, so the two have opposite signs."),
            ((stays, 0), "The weight is one of the outgoing weights of j."),
            ((loss - share, share - loss), "The cut leaves a tenth of the share, not nothing."),
            (
                (-0.9 * share, 0.9 * share),
                "That is what the weight loses. All other weights take the whole step: compare "
                "with the loss that would have matched theirs.",
            ),
        ):
            if max(abs(enters - typical[0]), abs(leaves - typical[1])) < 1e-6:
                raise Wrong(f"{where} it is not right. {hint}")
        if stays == 0:
            raise Wrong(f"{where} nothing is cut, so neither imbalance changes.")
        raise Wrong(
            f"{where} it is not right. By how much does the share end above what the whole step "
            "would have left?"
        )
    return "What the cut leaves behind stays in both imbalances, with opposite signs."


def _exact_steps(answer: Any) -> str:
    """13.4: which steps of finite size keep every imbalance."""
    right = {
        "Euler's method in the weights, (1, 1)",
        "share steps, (1, 2)",
        "dual steps, restored, (3, 3)",
    }
    wrong = {
        "Euler's method in the weights, (1, 2)": "The shares of (1, 2) are not linear in the "
        "weights: a term with dt^2 is left.",
        "gradient descent, (2, 2)": "The squares of the gradients are left, the eta^2 identity of "
        "chapter 4.",
        "share steps with a cut for each weight, (1, 2)": "With cuts of their own, the incoming "
        "and outgoing sums of a unit change by different amounts.",
        "dual steps, (3, 3)": "The imbalance is not linear in the dual coordinate: a term with "
        "dt^2 is left.",
    }
    choose(answer, right, wrong, "For p = q = 1 the shares are the sizes of the weights.")
    return "These three keep the imbalances, the other four lose a little in every step."


CHECKS: dict[str, Callable[[Any], str]] = {
    "12.1": _layer_flow,
    "12.2": _end_point,
    "12.3": _geometry,
    "12.4": _who_keeps,
    "13.1": _smooth_flow,
    "13.2": _steps_to_halve,
    "13.3": _own_cut,
    "13.4": _exact_steps,
}

"""Exercises of chapters 4 and 5, on what finite steps of training keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from balancing.exercises._answers import Wrong, call, choose, close, gaussian, network, number
from balancing.invariants import layer_invariants


def _halving_time(answer: Any) -> str:
    """04.1: when weight decay has halved all gaps."""
    for decay in (0.01, 0.1, 0.7):
        time = number(call(answer, decay), f"The time for {decay:g}")
        if close(math.exp(-2 * decay * time), 0.5, 1e-6):
            continue
        if close(math.exp(-decay * time), 0.5, 1e-6):
            raise Wrong("A weight under decay alone is halved by then; a gap is one of squares.")
        if close(2 * decay * time, 1, 1e-6):
            raise Wrong("By then the gaps have fallen to 1/e.")
        raise Wrong(
            f"For a decay of {decay:g} the gaps have fallen to {math.exp(-2 * decay * time):.3g} "
            f"of what they were at t = {time:.4g}."
        )
    return "The square of a weight decays twice as fast as the weight."


def _decay_step(answer: Any) -> str:
    """04.2: the exact change of a unit's invariant in a step with weight decay."""
    for seed, step, decay in ((0, 0.1, 0.3), (1, 0.2, 0.5)):
        net = network(seed)
        x, y = gaussian(seed, (12, 4), (12, 3))
        optimizer = torch.optim.SGD(net.parameters(), lr=step, weight_decay=decay)
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        w, v = net.linear1.weight, net.linear2.weight
        unit = [each.clone() for each in (w[0], v[:, 0], w.grad[0], v.grad[:, 0])]
        w0, v0, grad_w, grad_v = (each.detach() for each in unit)
        optimizer.step()
        gap = float(w0 @ w0 - v0 @ v0)
        new = float((w[0] @ w[0] - v[:, 0] @ v[:, 0]).detach())
        squares = step**2 * float(grad_w @ grad_w - grad_v @ grad_v)
        given = number(call(answer, w0, v0, grad_w, grad_v, step, decay), "The change")
        if close(given, new - gap, 1e-9):
            continue
        shrinking = 1 - step * decay
        for wrong, hint in (
            (new, "That is the new invariant; the change is asked for."),
            (gap - new, "The sign is wrong: new minus old."),
            (squares, "That is the step without weight decay."),
            (new - gap - squares, "The decay is right; the squared gradients are missing."),
            (-2 * step * decay * gap + squares, "The square of the decay is missing."),
            ((shrinking - 1) * gap + squares, "The weights shrink by 1 - eta lambda; square it."),
            (
                (math.exp(-2 * step * decay) - 1) * gap + squares,
                "That is the flow's exponential; a step multiplies by (1 - eta lambda)^2.",
            ),
            (new - gap - squares + squares / step, "The step size enters squared."),
        ):
            if close(given, wrong, 1e-9):
                raise Wrong(hint)
        raise Wrong(
            f"With eta = {step:g} and lambda = {decay:g} the change is {new - gap:.4g}, not "
            f"{given:.4g}. Expand ||(1 - eta lambda) w - eta g||^2; which terms cancel?"
        )
    return "Exact: the old invariant times (1 - eta lambda)^2, plus the squares."


def _tricks(answer: Any) -> str:
    """04.3: which changes of gradient descent keep the first order at zero."""
    right = {"step size schedule", "dropout", "clip the gradient's norm", "label smoothing"}
    wrong = {
        "clip each entry": "Clipping each entry changes the gradient's direction: large entries "
        "shrink, small ones do not.",
        "l2 penalty": "A penalty on the weights changes with rescaling: I(W, g + lambda W) is "
        "lambda I(W), not 0.",
        "signs only": "Signs treat entries differently: that was Adam's first step.",
        "a step size per layer": "Incoming and outgoing weights of a unit are in two layers; with "
        "two step sizes the sums over them no longer cancel.",
    }
    choose(answer, right, wrong, "Ask of each: is I(W, u) = 0 for its direction u?")
    return "They follow the gradient of a loss of the outputs, or a multiple of it."


def _restoring_factor(answer: Any) -> str:
    """04.4: the factor that gives a unit its invariant back."""
    for p, q, c in ((2.0, 3.0, 1.0), (0.5, 2.0, -3.0), (1.0, 4.0, 0.0), (3.0, 1.0, 2.5)):

        def misses(a: float, p: float = p, q: float = q, c: float = c) -> bool:
            return abs(a * a * p - q / (a * a) - c) > 1e-9

        case = f"For p = {p:g}, q = {q:g}, c = {c:g}"
        a = number(call(answer, p, q, c), "The factor")
        if not a > 0:
            if a < 0 and not misses(a):
                raise Wrong("Right up to the sign: a factor is positive.")
            raise Wrong(f"{case} it is {a:g}; a factor is positive.")
        if misses(a):
            if not misses(a**0.5):
                raise Wrong("That is the square of the factor.")
            if not misses(1 / a):
                raise Wrong("That is the inverse: incoming weights are multiplied by a.")
            raise Wrong(
                f"{case} it makes the invariant {a * a * p - q / (a * a):.4g}. Rescaled, the unit "
                "has squared norms a^2 p and q / a^2."
            )
    return "The product of the two squared norms, and with it the function, stays."


def _norm_for_ratio(answer: Any) -> str:
    """05.1: the squared norm at which a kept gap means a given ratio."""
    for gap, ratio in ((9.0, 1.1), (9.0, 1.5), (0.9, 1.05)):
        norm = number(call(answer, gap, ratio))
        if norm <= gap:
            raise Wrong("The lower layer's squared norm cannot be smaller than the gap.")
        measured = norm / (norm - gap)
        if not close(measured, ratio, 1e-9):
            if close((norm + gap) / norm, ratio, 1e-9):
                raise Wrong("That is the squared norm of the upper layer, W2; W1's is asked for.")
            raise Wrong(
                f"With gap {gap:g} and that squared norm {norm:.4g} the ratio is {measured:.4g}, "
                f"not {ratio:g}."
            )
    return "A gap of 9 is within ten per cent only when the squared norm has reached 99."


def _one_step(answer: Any) -> str:
    """05.2: the exact change of the layer gaps in one gradient-descent step."""
    for seed, step in ((0, 0.1), (1, 0.3)):
        net = network(seed)
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
        given = call(answer, gradients, step)
        try:
            given = [number(value, "Each change") for value in given]
        except TypeError:
            raise Wrong("One number for each hidden layer is asked for, as a list.") from None
        if len(given) != len(true):
            raise Wrong(f"This network has {len(true)} hidden layers; you return {len(given)}.")
        for factor, hint in (
            (1, ""),
            (-1, "The sign is wrong: incoming minus outgoing."),
            (1 / step, "The step size enters squared."),
            (0.5, "The square of eta g has no factor 1/2."),
        ):
            if all(close(g, factor * t, 1e-6) for g, t in zip(given, true, strict=True)):
                if hint:
                    raise Wrong(hint)
                break
        else:
            raise Wrong("Expand ||W - eta g||^2 for both layers; the terms linear in eta cancel.")
    return "Exact: the terms linear in the step cancel, and only the squares are left."


def _equal_layers(answer: Any) -> str:
    """05.3: variances with which the three layers of Section 4 have squared norm 30 each."""
    try:
        variances = [number(value, "Each variance") for value in answer]
    except TypeError:
        raise Wrong("Three numbers are asked for, as a list.") from None
    if len(variances) != 3:
        raise Wrong(f"There are three layers; you gave {len(variances)} numbers.")
    if min(variances) <= 0:
        raise Wrong("A variance is positive.")
    rows, columns = (100, 100, 10), (1000, 100, 100)
    entries = [n * k for n, k in zip(rows, columns, strict=True)]

    def all_are(values: Any, value: float) -> bool:
        return all(close(each, value, 0.01) for each in values)

    norms = [n * v for n, v in zip(entries, variances, strict=True)]
    if all_are(norms, 30):
        return "The gaps of the layers are zero on average; each unit still has one of its own."
    if all_are([n * v * v for n, v in zip(entries, variances, strict=True)], 30):
        raise Wrong("Those are standard deviations; square them.")
    if all_are(norms, norms[0]):
        raise Wrong(f"The squared norms are equal, but {norms[0]:.3g} each instead of 30.")
    if all_are([k * v for k, v in zip(columns, variances, strict=True)], 30):
        raise Wrong("With these each *row* has the squared norm 30; a matrix has many rows.")
    if all_are(variances, variances[0]):
        raise Wrong("One variance for all: then the layer with most entries has the largest norm.")
    raise Wrong(
        f"The expected squared norms are {norms[0]:.3g}, {norms[1]:.3g} and {norms[2]:.3g}: a "
        "matrix of n rows and k columns has n k times the variance."
    )


def _final_norms(answer: Any) -> str:
    """05.4: the squared norms of all layers, from those of the start and the last one's."""
    for start, last in (([10.0, 1.0, 0.1], 18.5), ([0.2, 0.5, 0.3, 0.4], 6.0)):
        given = call(answer, list(start), last)
        try:
            norms = [number(value, "Each squared norm") for value in given]
        except TypeError:
            raise Wrong("One number for each layer is asked for, as a list.") from None
        if len(norms) != len(start):
            raise Wrong(f"There are {len(start)} layers; you return {len(norms)} numbers.")
        pairs = list(zip(norms, start, strict=True))
        if not close(norms[-1], last, 1e-9):
            if all(close(norm, before + last, 1e-9) for norm, before in pairs):
                raise Wrong(f"They grow by {last:g} less what the last layer had at the start.")
            raise Wrong(f"The last squared norm is given: {last:g}, not {norms[-1]:.4g}.")
        if all(close(norm - last, before - start[-1], 1e-9) for norm, before in pairs):
            continue
        if all(close(norm / last, before / start[-1], 1e-9) for norm, before in pairs):
            raise Wrong("You kept the ratios; the flow keeps the differences.")
        if all(close(norm, last, 1e-9) for norm in norms):
            raise Wrong("Equal norms need gaps of zero at the start.")
        if all(close(last - norm, before - start[-1], 1e-9) for norm, before in pairs):
            raise Wrong("You turned the sign of the gaps: a larger layer stays the larger one.")
        raise Wrong(
            f"From squared norms {start} you give {[round(norm, 4) for norm in norms]}: the gaps "
            "of neighbouring layers are not what they were."
        )
    return "All squared norms change by the same amount."


CHECKS: dict[str, Callable[[Any], str]] = {
    "04.1": _halving_time,
    "04.2": _decay_step,
    "04.3": _tricks,
    "04.4": _restoring_factor,
    "05.1": _norm_for_ratio,
    "05.2": _one_step,
    "05.3": _equal_layers,
    "05.4": _final_norms,
}

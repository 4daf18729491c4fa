"""Exercises of chapters 8 to 10, on fixes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from balancing.exercises._answers import (
    Wrong,
    call,
    close,
    network,
    number,
)
from balancing.fixes import balance
from balancing.networks import mlp
from balancing.norms import imbalance, lpq_norm, shares
from balancing.rescaling import rescale


def _one_step_balance(answer: Any) -> str:
    """08.1: the factors that minimize the l_p norm of a network with one hidden layer."""
    for seed, p in ((0, 3.0), (1, 1.0), (2, 2.0)):
        net = network(seed, widths=(4, 6, 3))
        given = call(answer, net, p)
        if not isinstance(given, Mapping) or set(given) != {"linear1"}:
            raise Wrong("A dictionary with the one key 'linear1' is asked for.")
        after = imbalance(rescale(net, given), p)["linear1"]
        rows, columns = net.linear1.weight.detach(), net.linear2.weight.detach()
        into, out = rows.abs().pow(p).sum(1), columns.abs().pow(p).sum(0)
        best = (out / into) ** (1 / (2 * p))
        if bool((after.abs() <= 1e-9 * (into * out).sqrt()).all()):
            continue
        a = torch.as_tensor(given["linear1"]).double().expand(6)
        for typical, hint in (
            (best**2, "That exchanges incoming and outgoing sums; half the exponent balances."),
            (1 / best, "It is the other way round: incoming weights are multiplied by a."),
            (
                best**0.5,
                "The exponent is too small by half: the units of one layer do not interact.",
            ),
            (
                best ** (1 / p),
                "These norms are roots already: the ratio of sums has exponent 1/(2p).",
            ),
            ((columns.norm(dim=0) / rows.norm(dim=1)) ** 0.5, "That is right for p = 2 only."),
            (best ** (p / 2), "The exponent 1/4 is for p = 2; how does it depend on p?"),
        ):
            if torch.allclose(a, typical, rtol=1e-6):
                raise Wrong(f"For p = {p:g} the units are not balanced. {hint}")
        raise Wrong(
            f"For p = {p:g} the units are not balanced. Minimize in a^p + out a^-p for each unit."
        )
    return "Every unit is balanced, so by convexity no factors give a smaller norm."


def _smallest_norm(answer: Any) -> str:
    """08.2: the smallest Euclidean norm on the orbit of a network with one hidden layer."""
    for seed in range(3):
        net = network(seed, widths=(4, 6, 3))
        given = number(call(answer, net))
        into = net.linear1.weight.detach().square().sum(1)
        out = net.linear2.weight.detach().square().sum(0)
        balanced = rescale(net, {"linear1": (out / into) ** 0.25})
        best = float(lpq_norm(balanced).detach())
        if close(given, best, 1e-9):
            continue
        layers = float((4 * into.sum() * out.sum()) ** 0.25)
        for typical, hint in (
            (best**2, "That is the squared norm: take the root."),
            (best / 2**0.5, "Both sides of a balanced unit count: a factor 2 is missing."),
            (best**2 / 2, "Both sides of a balanced unit count, and the norm is a root."),
            (layers, "That is the smallest with one factor for the layer; each unit has its own."),
            (float(lpq_norm(net).detach()), "That is the norm before any rescaling."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(hint)
        side = "larger" if given > best else "smaller"
        raise Wrong(
            f"{given:.4g} is {side} than the smallest norm of this network, {best:.4g}. What does "
            "one unit contribute when it is balanced?"
        )
    return "Each unit contributes 2 |w| |v| to the smallest squared norm."


def _layer_factors(answer: Any) -> str:
    """09.1: the factors of one update of Algorithm 1, from the sums of shares."""
    for seed, p, q in ((0, 1.0, 3.0), (1, 3.0, 1.0), (2, 2.0, 2.0)):
        net = network(seed)
        with torch.no_grad():
            net.linear2.weight[:, 0] = 0  # unit 0 of the first layer is dead
        with warnings.catch_warnings():  # one update is not enough, as it would say
            warnings.simplefilter("ignore", UserWarning)
            true = balance(net, p, q, method="multiplicative", max_iter=1).factors["linear1"]
        pi = shares(net, p, q)
        into, out = pi["linear1.weight"].sum(1), pi["linear2.weight"].sum(0)
        a = torch.as_tensor(call(answer, into, out, p, q)).detach().double()
        if a.shape != true.shape:
            raise Wrong(f"6 factors are asked for, one a unit; you return shape {tuple(a.shape)}.")
        alive = slice(1, None)
        if not torch.allclose(a[alive], true[alive], rtol=1e-6):
            ratio = (out / into)[alive]
            for exponent, hint in (
                (-1 / (4 * max(p, q)), "It is the other way round: out / in."),
                (1 / (4 * p), "There 1 / (4p) is too long a step: the larger of p and q counts."),
                (1 / (4 * q), "There 1 / (4q) is too long a step: the larger of p and q counts."),
                (1 / (2 * max(p, q)), "A safe exponent, but not Algorithm 1's: half of it."),
                (1 / max(p, q), "The exponent is 1 / (4 max(p, q))."),
                (1.0, "The ratio has an exponent."),
            ):
                if torch.allclose(a[alive], ratio**exponent, rtol=1e-6):
                    raise Wrong(f"For p = {p:g}, q = {q:g} the factors are not right. {hint}")
            raise Wrong(
                f"For p = {p:g}, q = {q:g} the factors are not right. They are powers of out / in."
            )
        if not close(float(a[0]), 1):
            raise Wrong(f"The unit without outgoing weights gets the factor {a[0]:g}, not 1.")
    return "These are the library's factors after one update; the dead unit keeps factor 1."


def _counterexample(answer: Any) -> str:
    """09.2: weights whose norm rises in an update with exponent 1 / (2 min(p, q)), at (2, 3)."""
    p, q, exponent = 2, 3, 1 / 4
    try:
        weights = [torch.as_tensor(w).detach().double() for w in answer]
    except (TypeError, ValueError):
        raise Wrong("A list of weight matrices is asked for.") from None
    if len(weights) < 2 or any(w.ndim != 2 or w.numel() == 0 for w in weights):
        raise Wrong("A list of at least two matrices is asked for, each of shape (units, inputs).")
    widths = [weights[0].shape[1], *map(len, weights)]
    if any(w.shape[1] != n for w, n in zip(weights, widths, strict=False)):
        raise Wrong("The matrices do not fit: each has as many columns as the one before has rows.")
    net = mlp(widths, dtype=torch.float64)
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.copy_(weight)
    pi = list(shares(net, p, q).values())
    into, out = [a.sum(1) for a in pi[:-1]], [b.sum(0) for b in pi[1:]]
    if not all(bool(((a > 0) & (b > 0)).all()) for a, b in zip(into, out, strict=True)):
        raise Wrong("Give every hidden unit a nonzero incoming and a nonzero outgoing weight.")
    factors = {
        f"linear{h}": (b / a) ** exponent
        for h, (a, b) in enumerate(zip(into, out, strict=True), start=1)
    }
    before, after = (float(lpq_norm(each, p, q).detach()) for each in (net, rescale(net, factors)))
    if after > before * (1 + 1e-9):
        return f"One update raises its norm from {before:.6g} to {after:.6g}."
    if all(torch.allclose(a, torch.ones_like(a)) for a in factors.values()):
        raise Wrong("This network is balanced: an update changes nothing.")
    change = f"One update lowers its norm, from {before:.6g} to {after:.6g}."
    if len(weights) == 2:
        raise Wrong(f"{change} With one hidden layer no two hidden units share a weight: add one.")
    raise Wrong(f"{change} Start near balance, with neighbours that want to move apart.")


def _mode_rate(answer: Any) -> str:
    """10.1: the largest multiplier of the heat equation of layers, for any exponent."""
    for q, n, exponent in ((2.0, 7, 1 / 8), (1.0, 4, 0.5), (3.0, 5, 0.2), (2.0, 2, 0.1)):
        start = torch.arange(1, n).double().sin()  # has a part of every mode
        heat = torch.diag(torch.full((n - 1,), 1 - 2 * q * exponent).double())
        if n > 2:
            beside = torch.full((n - 2,), q * exponent).double()
            heat += torch.diag(beside, 1) + torch.diag(beside, -1)
        late = torch.linalg.matrix_power(heat, 400) @ start
        true = float((heat @ heat @ late).norm() / late.norm()) ** 0.5
        given = number(call(answer, q, n, exponent))
        if close(given, true, 1e-6):
            continue
        where = f"For q = {q:g}, N = {n} and exponent {exponent:g}"
        first, last = (1 - 2 * q * exponent * (1 - math.cos(math.pi * k / n)) for k in (1, n - 1))
        for typical, hint in (
            (-true, "The sign does not matter: the absolute value is asked for."),
            (first, "That is the first mode. The last one, k = N - 1, shrinks even less there."),
            (abs(last), "That is the last mode; the smooth one, k = 1, is slower there."),
            (
                1 - 2 * q * exponent * (1 - math.cos(math.pi / (n - 1))),
                "N counts layers of weights, one more than hidden layers.",
            ),
            ((1 + math.cos(math.pi / n)) / 2, "That is the rate of Algorithm 1; use the exponent."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(f"{where} the rate is {true:.4g}, not {given:.4g}. {hint}")
        raise Wrong(f"{where} the rate is {true:.4g}, not {given:.4g}.")
    return "A long run of the heat equation shrinks at this rate, whichever mode is the slowest."


def _ratio_from_widths(answer: Any) -> str:
    """10.2: how small the norm of a random network becomes, from its widths."""
    for seed, widths, p, q in (
        (0, (50, 400, 200, 20), 2.0, 2.0),
        (1, (100, 300, 100, 200, 30), 1.0, 2.0),
        (2, (40, 300, 150, 30), 2.0, 1.0),
    ):
        norms = balance(network(seed, widths=widths), p, q, tol=1e-4).norms
        true = float(norms[-1] / norms[0])
        given = number(call(answer, widths, p, q))
        if close(given, true, 0.05):
            continue
        n = torch.tensor(widths).double()

        def ratio(sums: Tensor) -> float:
            return float(sums.log().mean().exp() / sums.mean())

        right = n[1:] * n[:-1] ** (q / p - q / 2)
        for typical, hint in (
            (ratio(right), "That is the ratio of F: take the root that leads to the norm."),
            (ratio(n[1:]) ** (1 / q), "The fan-in matters for this pair, not only the units."),
            (ratio(n[1:] * n[:-1] ** (q / p)) ** (1 / q), "The variance falls with the fan-in."),
            (ratio(n[1:] * n[:-1]) ** (1 / q), "That counts the weights; how large is each share?"),
            (1 / ratio(right) ** (1 / q), "A ratio below 1 is asked for: yours is upside down."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(f"For {widths} at ({p:g}, {q:g}) it is {true:.3f}. {hint}")
        raise Wrong(
            f"For {widths} at ({p:g}, {q:g}) it is {true:.3f}, not {given:.3g}. Estimate the sum "
            "of the shares of each layer; then geometric over arithmetic mean."
        )
    return "Within five per cent of what balance() finds, for three networks."


CHECKS: dict[str, Callable[[Any], str]] = {
    "08.1": _one_step_balance,
    "08.2": _smallest_norm,
    "09.1": _layer_factors,
    "09.2": _counterexample,
    "10.1": _mode_rate,
    "10.2": _ratio_from_widths,
}

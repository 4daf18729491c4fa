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
    choose,
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


def _chain_factors(answer: Any) -> str:
    """08.3: the factors that lead a chain of single units to its smallest norm."""
    for weights in ([2.0, 0.5, -3.0], [-0.25, 5.0], [0.3, -0.7, -1.2, 5.0, 2.0]):
        given = call(answer, list(weights))
        try:
            a = torch.as_tensor(given, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(
                f"A list of positive numbers is asked for; for {weights} it is {given!r}."
            ) from None
        sizes = torch.tensor(weights, dtype=torch.float64).abs()
        steps = sizes.log().mean() - sizes.log()
        true = steps.cumsum(0)[:-1].exp()
        if a.shape == sizes.shape and torch.allclose(a[:-1], true):
            raise Wrong("The last unit is the output, which keeps factor 1: leave it out.")
        if a.shape != true.shape:
            raise Wrong(
                f"A chain of {len(weights)} weights has {len(true)} hidden units, so as many "
                f"factors; yours have shape {tuple(a.shape)}."
            )
        if torch.allclose(a, true, rtol=1e-9):
            continue
        where = f"For {weights} the new weights are not equal in size."
        if not bool((a > 0).all()):
            raise Wrong(f"{where} A factor is positive: work with the sizes of the weights.")
        mean = sizes.mean().log() - sizes.log()
        for typical, hint in (
            (1 / true, "It is the other way round: the incoming weight is multiplied by a."),
            (
                steps[:-1].exp(),
                "The incoming weight is also divided by the factor of the unit before.",
            ),
            (true.sqrt(), "Half of the exponent: the factors do not reach the smallest network."),
            (mean.cumsum(0)[:-1].exp(), "The product of the weights stays: which mean is kept?"),
        ):
            if torch.allclose(a, typical, rtol=1e-6):
                raise Wrong(f"{where} {hint}")
        raise Wrong(f"{where} The new weight h is u_h a_h / a_(h-1), with a_0 = a_N = 1.")
    return "All weights have the size of their geometric mean, whatever p and q."


def _dead_units(answer: Any) -> str:
    """08.4: the dead units of a network that is given by its matrices."""
    choose(
        answer,
        {"A", "B", "D", "E"},
        {
            "C": "C reads both inputs, F reads C, and the output reads F: C is alive.",
            "F": "F reads C, which reads the inputs, and the output reads F: F is alive.",
        },
        "Look for a path of nonzero weights from an input to the unit and on to the output.",
    )
    return "A and E reach no output, B and D are not reached; no factors for them are best."


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


def _updates_enough(answer: Any) -> str:
    """09.3: after how many updates a network near balance must have been visited."""
    for start, smallest, distance, p, q in (
        (10.0, 4.0, 0.4, 2.0, 2.0),
        (10.0, 4.0, 0.25, 1.0, 4.0),
        (7.0, 6.5, 0.01, 4.0, 1.0),
    ):
        least = q / (2 * max(p, q)) * distance  # by which an update lowers F away from there
        true = (start - smallest) / least
        given = number(call(answer, start, smallest, distance, p, q))
        if close(given, true, 1e-9):
            continue
        where = (
            f"For F from {start:g} to {smallest:g}, D = {distance:g}, p = {p:g} and q = {q:g} it "
            f"is {true:.4g} updates, not {given:.4g}."
        )
        for typical, hint in (
            (start / least, "The norm cannot fall below the smallest one."),
            (true / 2, "There is a factor 1/2 in the decrease of an update."),
            (true * (q / max(p, q)) ** 2, "Turn max(p, q) / q over."),
            (true * q / max(p, q), "How does the decrease depend on p and q?"),
            (true * p / max(p, q), "For p < q the larger of the two counts, which is q."),
            (true * distance, "How far from balance may the network be? Divide by D."),
            (1 / true, "That is upside down: the nearer to balance, the more updates."),
        ):
            if close(given, typical, 1e-6):
                raise Wrong(f"{where} {hint}")
        raise Wrong(f"{where} By how much does an update lower F as long as D is larger?")
    return "No depth and no width in it; the more balanced the network is to be, the more updates."


def _whatever_exponent(answer: Any) -> str:
    """09.4: what remains true of the updates with any positive exponent."""
    choose(
        answer,
        {"function", "signs", "balanced stays", "scale"},
        {
            "norm falls": "Beyond 1 / max(p, 2q) there are networks whose norm an update raises.",
            "converges": (
                "With the exponent 1/q one unit with two weights exchanges its sums forever."
            ),
            "one update": "Only the exponent 1/(2q) balances one unit with two weights at once.",
        },
        "A rescaling by any factors keeps some things, and the ratio out / in knows others.",
    )
    return "They belong to every rescaling, or to the ratio; the norm wants a safe exponent."


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


def _norm_digits(answer: Any) -> str:
    """10.3: updates of Algorithm 1 for each digit of the norm's excess, in the long run."""
    for p, q, n in ((2.0, 2.0, 7), (1.0, 3.0, 4), (4.0, 1.0, 5), (1.0, 1.0, 3)):
        h = torch.arange(n + 1, dtype=torch.float64)
        theta = 1e-3 * torch.sin(math.pi * h / n)  # the smooth mode of a chain of weights 1
        excess, updates = [], 20
        for _ in range(updates + 1):
            log_shares = q * theta.diff()
            excess.append(float((log_shares.expm1() - log_shares).sum()))  # they add up to 0
            theta[1:-1] += log_shares.diff() / (4 * max(p, q))
        true = updates * math.log(10) / math.log(excess[0] / excess[-1])
        given = number(call(answer, p, q, n))
        if close(given, true, 1e-3):
            continue
        curve = 1 - math.cos(math.pi / n)
        rate, step = 1 - q / (2 * max(p, q)) * curve, max(1, p / q)
        for typical, hint in (
            (2 * true, "That is for the factors: the excess is quadratic in their error."),
            (true / 2, "The excess shrinks by the square of the rate, not by its fourth power."),
            (true / math.log(10), "By then 1/e is left, not a tenth."),
            (math.log(10) / (-2 * math.log(1 - curve / 2)), "For p > q updates are slower."),
            (
                math.log(10) / (-2 * math.log(1 - (1 - math.cos(math.pi / (n - 1))) / (2 * step))),
                "N counts layers of weights, one more than hidden layers.",
            ),
            (0.93 * step * n**2 / 2, "That is the rule of thumb for deep networks."),
            (rate**2, "That is what is left of the excess after one update."),
        ):
            if close(given, typical, 2e-3):
                raise Wrong(f"For p = {p:g}, q = {q:g}, N = {n} it is {true:.4g}. {hint}")
        raise Wrong(
            f"For p = {p:g}, q = {q:g}, N = {n} it is {true:.4g}, not {given:.4g}. What does an "
            "update make of the slowest error, and what is the excess to that error?"
        )
    return "Half as many as for the factors, in a run of the updates on four chains."


def _slower_digits(answer: Any) -> str:
    """10.4: what makes a decimal digit cost more updates in the long run."""
    choose(
        answer,
        {"two more layers", "(4, 1)", "half the exponent"},
        {
            "twice as wide": "The rate of the slow mode knows the depth, not the widths.",
            "weights times ten": "The ratio out / in does not notice a common factor.",
            "farther start": "That costs more updates once, but not for each digit in the end.",
            "(8, 8)": "Only the ratio p / q occurs in the rate.",
            "(1, 4)": "For p < q the rate of whole layers is that of p = q.",
        },
        "Read the rate of the smooth mode: N, q / max(p, q), and the exponent behind it.",
    )
    return "Depth, p above q and a shorter step slow the smooth mode down; the others do not."


CHECKS: dict[str, Callable[[Any], str]] = {
    "08.1": _one_step_balance,
    "08.2": _smallest_norm,
    "08.3": _chain_factors,
    "08.4": _dead_units,
    "09.1": _layer_factors,
    "09.2": _counterexample,
    "09.3": _updates_enough,
    "09.4": _whatever_exponent,
    "10.1": _mode_rate,
    "10.2": _ratio_from_widths,
    "10.3": _norm_digits,
    "10.4": _slower_digits,
}

"""Exercises of chapters 1 to 5, on what gradient flow conserves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from balancing.exercises._answers import (
    Wrong,
    call,
    choose,
    close,
    gaussian,
    network,
    number,
)
from balancing.invariants import layer_invariants
from balancing.rescaling import rescale


def _unit_rows(answer: Any) -> str:
    """01.1: factors that give every hidden unit incoming weights of norm 1."""
    for seed in range(3):
        net = network(seed)
        new = rescale(net, call(answer, net))
        norms = [new.get_parameter(f"linear{h}.weight").detach().norm(dim=1) for h in (1, 2)]
        if not torch.allclose(norms[0], torch.ones(6).double(), atol=1e-9):
            if torch.allclose(norms[0], net.linear1.weight.detach().norm(dim=1) ** 2):
                raise Wrong("You multiplied by the norm; divide by it.")
            raise Wrong("The first hidden layer's rows do not have norm 1 after rescaling.")
        if not torch.allclose(norms[1], torch.ones(5).double(), atol=1e-9):
            raise Wrong(
                "The first hidden layer is right, the second is not. Its incoming weights were "
                "also divided by the first layer's factors: measure its rows after that."
            )
    return "Every hidden unit has incoming norm 1; rescale() kept the function."


def _homogeneous(answer: Any) -> str:
    """01.2: which functions are positively homogeneous of degree one."""
    right = {"relu", "leaky_relu", "abs", "maximum of 2z and z"}
    wrong = {
        "softplus": "softplus(0) = log 2, but a homogeneous function is 0 at 0.",
        "square": "(2z)^2 is 4 z^2, not 2 z^2: degree two, not one.",
        "relu6": "relu6 is capped: relu6(2 * 6) is 6, not 12.",
        "tanh": "tanh saturates: tanh(2z) is not 2 tanh(z).",
        "z + 1": "z + 1 is 1 at 0, and a homogeneous function is 0 there.",
    }
    choose(
        answer,
        right,
        wrong,
        "A kink at 0 does no harm: compare phi(2z) with 2 phi(z) on either side.",
    )
    return "These are the functions with one slope on each side of 0 and the value 0 there."


def _limit_point(answer: Any) -> str:
    """02.1: where gradient flow of (uv - 1)^2 / 2 from (2, 1) ends."""
    try:
        u, v = answer
    except (TypeError, ValueError):
        raise Wrong("A pair (u, v) is asked for.") from None
    u, v = number(u, "u"), number(v, "v")
    if not close(u * v, 1):
        raise Wrong(f"There the loss is not zero: u v = {u * v:.4g}, and it should be 1.")
    if not close(u * u - v * v, 3):
        raise Wrong(
            f"The loss is zero there, but u^2 - v^2 = {u * u - v * v:.4g}: not the hyperbola of "
            "the start, on which it is 3."
        )
    if u < 0:
        raise Wrong("Right up to the sign: the flow stays on the branch on which it starts.")
    return "On the curve of no loss and on the hyperbola of the start."


def _degree_invariant(answer: Any) -> str:
    """02.2: the c(k) for which ||in||^2 - c ||out||^2 is conserved if phi(az) = a^k phi(z)."""
    for k in (1, 2, 3):
        c = number(call(answer, k), f"c({k})")

        class Power(nn.Module):
            def forward(self, z: Tensor, k: int = k) -> Tensor:
                return torch.relu(z) ** k

        net = network(k, Power, widths=(4, 6, 3))
        generator = torch.Generator().manual_seed(k)
        x, y = (torch.randn(12, n, dtype=torch.float64, generator=generator) for n in (4, 3))
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        into, out = ((w * w.grad).sum().item() for w in (net.linear1.weight, net.linear2.weight))
        if not close(into, c * out, 1e-9):
            if close(into, out / c, 1e-9):
                raise Wrong(
                    f"For k = {k} it is the other way round: Euler's identity phi'(z) z = k phi(z) "
                    "puts the factor k on the incoming side of the rates."
                )
            raise Wrong(
                f"For k = {k} the two rates do not cancel with c = {c:g}. Start from Euler's "
                "identity for degree k and repeat step 3 of the proof."
            )
    return "For degree k the incoming rate is k times the outgoing one."


def _channel_invariants(answer: Any) -> str:
    """03.1: what the channels of a convolution before flatten and linear conserve."""
    for seed, (channels, positions) in enumerate(((3, 4), (2, 9))):
        generator = torch.Generator().manual_seed(seed)
        conv = torch.randn(channels, 2, 3, 3, dtype=torch.float64, generator=generator)
        linear = torch.randn(5, channels * positions, dtype=torch.float64, generator=generator)
        given = call(answer, conv.clone(), linear.clone())
        if not isinstance(given, Tensor) or given.shape != (channels,):
            raise Wrong(f"One number a channel is asked for: a tensor of shape ({channels},).")
        into = conv.square().sum((1, 2, 3))
        blocks = linear.square().sum(0)
        out = blocks.view(channels, positions).sum(1)
        if torch.allclose(given, into - out):
            continue
        for wrong, hint in (
            (out - into, "The sign is reversed: incoming minus outgoing."),
            (
                into - blocks.view(positions, channels).sum(0),
                "A flatten writes channel after channel: the columns of one channel are "
                "neighbours, not every so-manyth.",
            ),
            (
                positions * into - out,
                "Each shared weight counts once, however many positions use it.",
            ),
            (into.sqrt() - out.sqrt(), "Squared norms are asked for."),
        ):
            if torch.allclose(given, wrong):
                raise Wrong(hint)
        raise Wrong("Subtract the squares of all columns that read a channel from its filter's.")
    return "The columns of a channel are its outgoing weights, one for each position."


def _number_conserved(answer: Any) -> str:
    """03.2: how many quantities a network with one hidden layer conserves."""
    for n0, n1, n2 in ((3, 2, 2), (3, 4, 2), (2, 3, 1)):
        for activation, right in (("linear", n1 * (n1 + 1) // 2), ("relu", n1)):
            given = number(call(answer, n0, n1, n2, activation))
            if given == right:
                continue
            if activation == "linear" and given == n1 * n1:
                raise Wrong("The matrix is symmetric: entries (i, j) and (j, i) are one quantity.")
            if activation == "linear" and given == n1:
                raise Wrong("That counts the diagonal; linear units can also be mixed.")
            if activation == "relu" and given == n1 * (n1 + 1) // 2:
                raise Wrong("Under ReLU only the diagonal of the matrix is conserved.")
            raise Wrong(f"For {n0}-{n1}-{n2}, {activation}, the count is not {given:g}.")
    return "A symmetric matrix has n(n + 1)/2 entries, n of them on its diagonal."


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


CHECKS: dict[str, Callable[[Any], str]] = {
    "01.1": _unit_rows,
    "01.2": _homogeneous,
    "02.1": _limit_point,
    "02.2": _degree_invariant,
    "03.1": _channel_invariants,
    "03.2": _number_conserved,
    "04.1": _halving_time,
    "04.2": _decay_step,
    "04.3": _tricks,
    "04.4": _restoring_factor,
    "05.1": _norm_for_ratio,
    "05.2": _one_step,
}

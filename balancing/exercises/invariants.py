"""Exercises of chapters 1 to 3, on rescaling and what gradient flow conserves."""

from __future__ import annotations

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
    matrix,
    network,
    number,
)
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


def _second_symmetry(answer: Any) -> str:
    """01.3: other weights of a hidden layer, with the same function for every activation."""
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "softplus": nn.functional.softplus,
        "linear": lambda z: z,
    }
    for seed, (inputs, units, outputs) in enumerate(((3, 5, 2), (2, 4, 3))):
        W, V, x = gaussian(seed, (units, inputs), (outputs, units), (inputs, 9))
        given = call(answer, W.clone(), V.clone())
        try:
            other_W, other_V = given
        except (TypeError, ValueError):
            raise Wrong("A pair (W, V) of matrices is asked for.") from None
        other_W, other_V = matrix(other_W, W.shape), matrix(other_V, V.shape)
        if torch.equal(other_W, W) and torch.equal(other_V, V):
            raise Wrong("Those are the weights that went in; *other* weights are asked for.")
        kept = {
            name
            for name, phi in activations.items()
            if torch.allclose(other_V @ phi(other_W @ x), V @ phi(W @ x))
        }
        if kept == set(activations):
            continue
        if torch.equal(other_W[other_W[:, 0].argsort()], W[W[:, 0].argsort()]):
            raise Wrong("The rows of W changed places; the columns of V have to go with them.")
        for name, hint in (
            ("relu", "That is rescaling: it needs a homogeneous activation, and tanh is not."),
            ("tanh", "Turning signs passes through an odd activation; ReLU is not odd."),
            ("linear", "That keeps the product V W, which is enough without an activation only."),
        ):
            if name in kept:
                raise Wrong(hint)
        raise Wrong("The function is another one. Which labels in the network are arbitrary?")
    return "The hidden units changed places; no activation notices."


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


def _decaying_rates(answer: Any) -> str:
    """02.3: the rates of a unit's two squared norms under the flow with weight decay."""
    for seed, decay in ((0, 0.3), (1, 0.05)):
        net = network(seed, "leaky_relu")
        x, y = gaussian(seed, (12, 4), (12, 3))
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        first, second = net.linear1.weight, net.linear2.weight
        columns = (first[0], second[:, 0], first.grad[0], second.grad[:, 0])
        w, v, grad_w, grad_v = (each.detach().clone() for each in columns)
        data = -2 * float(w @ grad_w), -2 * float(v @ grad_v)
        penalty = -2 * decay * float(w @ w), -2 * decay * float(v @ v)
        given = call(answer, w, v, grad_w, grad_v, decay)
        try:
            into, out = given
        except (TypeError, ValueError):
            raise Wrong("A pair of rates is asked for.") from None
        rates = number(into, "Each rate"), number(out, "Each rate")

        def are(
            from_data: float,
            from_penalty: float,
            rates: tuple[float, float] = rates,
            data: tuple[float, float] = data,
            penalty: tuple[float, float] = penalty,
        ) -> bool:
            parts = zip(rates, data, penalty, strict=True)
            return all(close(r, from_data * d + from_penalty * p, 1e-9) for r, d, p in parts)

        if are(1, 1):
            continue
        for from_data, from_penalty, hint in (
            (1, 0, "That is the flow without the penalty."),
            (0, 1, "That is the penalty alone: what the data do to w and v is missing."),
            (1, 0.5, "The penalty adds decay times W to the gradient, so twice that here."),
            (0.5, 0.5, "The rate of a square has a factor 2: 2 <w, dw/dt>."),
            (-1, -1, "The flow goes against the gradient: turn the signs."),
            (1, -1, "The penalty pulls weights to zero: its part of the rates is negative."),
            (-1, 1, "The flow goes against the gradient of the loss: turn the sign of that part."),
        ):
            if are(from_data, from_penalty):
                raise Wrong(hint)
        if are(1, 1, rates=rates[::-1]):
            raise Wrong("Exchanged: the rate of the incoming weights comes first.")
        raise Wrong("Insert the velocity -(g + decay W) into 2 <w, dw/dt> and 2 <v, dv/dt>.")
    return "The parts of the data are equal, so the difference falls at the rate 2 lambda."


def _constants(answer: Any) -> str:
    """02.4: what is constant along gradient flow of a network with biases."""
    unit = "w^2 + b^2 - v^2"
    right = {unit, f"sum of {unit} over a layer", f"{unit} of one unit minus that of another"}
    wrong = {
        "w^2 - v^2": "The bias is one more incoming weight: without its square the number drifts.",
        "w^2 + b^2 + v^2": "Incoming and outgoing weights have one rate: it cancels in the "
        "difference, not in the sum.",
        "v^2 / (w^2 + b^2)": "Differences are kept, not ratios: both norms change by one amount.",
        "the loss": "The flow lowers the loss, unless it is at rest.",
    }
    choose(answer, right, wrong, "What can be made of constants by adding and subtracting?")
    return "One constant for each hidden unit, and whatever is made of them."


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


def _entry_rate(answer: Any) -> str:
    """03.3: the rate of an off-diagonal entry of the matrix of a ReLU layer."""
    for seed in range(2):
        net = network(seed, widths=(4, 6, 3))
        x, y = gaussian(seed, (12, 4), (12, 3))
        z = net.linear1(x)
        output = torch.relu(z)
        loss = 0.5 * ((net.linear2(output) - y) ** 2).sum(1).mean()
        W, V = net.linear1.weight, net.linear2.weight
        delta, grad_W, grad_V = torch.autograd.grad(loss, (output, W, V))
        z, W, V = z.detach(), W.detach(), V.detach()
        incoming = -W @ grad_W.T  # W W^T moves at this plus its transpose
        outgoing = -V.T @ grad_V
        for i, j in ((0, 1), (2, 4), (3, 5)):
            given = call(answer, z[:, i], z[:, j], delta[:, i], delta[:, j])
            if getattr(given, "shape", ()) == (12,):
                raise Wrong("The rate is one number: sum over the samples.")
            given = number(given, "The rate")
            halves = float(incoming[i, j] - outgoing[j, i]), float(incoming[j, i] - outgoing[i, j])
            into = float(incoming[i, j] + incoming[j, i])
            out = float(outgoing[i, j] + outgoing[j, i])
            if close(given, into - out, 1e-9):
                continue
            for wrong, hint in (
                (out - into, "The sign is wrong: the flow goes against the gradient."),
                (into, "That is the rate of W W^T alone; subtract that of the layer above."),
                (-out, "That is the part of the layer above alone; W W^T moves, too."),
                (halves[0], "The matrix is symmetric: add the same with i and j exchanged."),
                (halves[1], "The matrix is symmetric: add the same with i and j exchanged."),
                (0.0, "That is right for units that are on together; write it for any two."),
            ):
                if close(given, wrong, 1e-9):
                    raise Wrong(hint)
            raise Wrong(
                f"For two of the units the rate is {into - out:.4g}, not {given:.4g}. Multiply "
                "the two sums of the text out for i, j and for j, i, and insert phi = phi' z."
            )
    return "Samples for which both units are on, or both off, add nothing."


CHECKS: dict[str, Callable[[Any], str]] = {
    "01.1": _unit_rows,
    "01.2": _homogeneous,
    "01.3": _second_symmetry,
    "02.1": _limit_point,
    "02.2": _degree_invariant,
    "02.3": _decaying_rates,
    "02.4": _constants,
    "03.1": _channel_invariants,
    "03.2": _number_conserved,
    "03.3": _entry_rate,
}

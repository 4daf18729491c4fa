"""Checks for the book's exercises: they test properties of an answer and hint at mistakes.

``check("01.1", answer)`` prints what holds and, where something does not, the likely reason.
An answer of None or ``...``, or a function that returns one of them, is taken as not given yet.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balancing.descent import WeightBalancingDescent
from balancing.fixes import balance
from balancing.invariants import layer_invariants
from balancing.networks import mlp
from balancing.norms import imbalance, lpq_norm, shares
from balancing.rescaling import rescale

__all__ = ["check"]


class _Wrong(Exception):  # noqa: N818  (not an error: an answer)
    """What is wrong with an answer, and a hint."""


class _Missing(Exception):  # noqa: N818
    """There is no answer yet."""


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
        message = _CHECKS[exercise](_given(answer))
    except _Missing:
        print(f"Exercise {exercise}: no answer yet. Replace the dots and run the cell again.")
    except _Wrong as wrong:
        print(f"Exercise {exercise}: not yet. {wrong}")
    except Exception as error:  # the reader's own function may raise anything
        kind = type(error).__name__
        print(f"Exercise {exercise}: your answer raised {kind}: {error}")
    else:
        print(f"Exercise {exercise}: correct. {message}")


def _network(seed: int, activation: Any = "relu", widths: tuple[int, ...] = (4, 6, 5, 3)) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation=activation, dtype=torch.float64, generator=generator)


def _call(function: Any, *arguments: Any) -> Any:
    if not callable(function):
        raise _Wrong(f"A function is asked for; this is {type(function).__name__}.")
    wanted = len(inspect.signature(function).parameters)
    if wanted != len(arguments):
        raise _Wrong(f"The function takes {wanted} arguments; it should take {len(arguments)}.")
    return _given(function(*arguments))


def _given(answer: Any) -> Any:
    """The answer, unless it is still the None or the dots of the exercise's cell."""
    if answer is None or answer is ...:
        raise _Missing
    return answer


def _number(value: Any, what: str = "The answer") -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        raise _Wrong(f"{what} should be a number; it is {value!r}.") from None


def _choose(answer: Any, right: set[str], wrong: Mapping[str, str], nudge: str) -> None:
    """Compare a choice among candidates; the wrong ones come with a hint each."""
    try:
        given = set(answer)
    except TypeError:
        raise _Wrong("A set of names is asked for.") from None
    if unknown := given - right - set(wrong):
        raise _Wrong(f"Not among the candidates: {', '.join(sorted(map(str, unknown)))}.")
    for name in sorted(given - right):
        raise _Wrong(wrong[name])
    if count := len(right - given):
        raise _Wrong(
            f"What you named is right; {count} more {'is' if count == 1 else 'are'} missing. "
            f"{nudge}"
        )


def _close(a: float, b: float, tolerance: float = 1e-3) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-300)


def _gaussian(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(each, dtype=torch.float64, generator=generator) for each in shapes]


def _matrix(value: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        matrix = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise _Wrong(f"A matrix is asked for; this is {type(value).__name__}.") from None
    if matrix.shape != shape:
        raise _Wrong(f"The shape should be {tuple(shape)}; it is {tuple(matrix.shape)}.")
    return matrix.detach()


def _unit_rows(answer: Any) -> str:
    """01.1: factors that give every hidden unit incoming weights of norm 1."""
    for seed in range(3):
        net = _network(seed)
        new = rescale(net, _call(answer, net))
        norms = [new.get_parameter(f"linear{h}.weight").detach().norm(dim=1) for h in (1, 2)]
        if not torch.allclose(norms[0], torch.ones(6).double(), atol=1e-9):
            if torch.allclose(norms[0], net.linear1.weight.detach().norm(dim=1) ** 2):
                raise _Wrong("You multiplied by the norm; divide by it.")
            raise _Wrong("The first hidden layer's rows do not have norm 1 after rescaling.")
        if not torch.allclose(norms[1], torch.ones(5).double(), atol=1e-9):
            raise _Wrong(
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
    _choose(
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
        raise _Wrong("A pair (u, v) is asked for.") from None
    u, v = _number(u, "u"), _number(v, "v")
    if not _close(u * v, 1):
        raise _Wrong(f"There the loss is not zero: u v = {u * v:.4g}, and it should be 1.")
    if not _close(u * u - v * v, 3):
        raise _Wrong(
            f"The loss is zero there, but u^2 - v^2 = {u * u - v * v:.4g}: not the hyperbola of "
            "the start, on which it is 3."
        )
    if u < 0:
        raise _Wrong("Right up to the sign: the flow stays on the branch on which it starts.")
    return "On the curve of no loss and on the hyperbola of the start."


def _degree_invariant(answer: Any) -> str:
    """02.2: the c(k) for which ||in||^2 - c ||out||^2 is conserved if phi(az) = a^k phi(z)."""
    for k in (1, 2, 3):
        c = _number(_call(answer, k), f"c({k})")

        class Power(nn.Module):
            def forward(self, z: Tensor, k: int = k) -> Tensor:
                return torch.relu(z) ** k

        net = _network(k, Power, widths=(4, 6, 3))
        generator = torch.Generator().manual_seed(k)
        x, y = (torch.randn(12, n, dtype=torch.float64, generator=generator) for n in (4, 3))
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        into, out = ((w * w.grad).sum().item() for w in (net.linear1.weight, net.linear2.weight))
        if not _close(into, c * out, 1e-9):
            if _close(into, out / c, 1e-9):
                raise _Wrong(
                    f"For k = {k} it is the other way round: Euler's identity phi'(z) z = k phi(z) "
                    "puts the factor k on the incoming side of the rates."
                )
            raise _Wrong(
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
        given = _call(answer, conv.clone(), linear.clone())
        if not isinstance(given, Tensor) or given.shape != (channels,):
            raise _Wrong(f"One number a channel is asked for: a tensor of shape ({channels},).")
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
                raise _Wrong(hint)
        raise _Wrong("Subtract the squares of all columns that read a channel from its filter's.")
    return "The columns of a channel are its outgoing weights, one for each position."


def _number_conserved(answer: Any) -> str:
    """03.2: how many quantities a network with one hidden layer conserves."""
    for n0, n1, n2 in ((3, 2, 2), (3, 4, 2), (2, 3, 1)):
        for activation, right in (("linear", n1 * (n1 + 1) // 2), ("relu", n1)):
            given = _number(_call(answer, n0, n1, n2, activation))
            if given == right:
                continue
            if activation == "linear" and given == n1 * n1:
                raise _Wrong("The matrix is symmetric: entries (i, j) and (j, i) are one quantity.")
            if activation == "linear" and given == n1:
                raise _Wrong("That counts the diagonal; linear units can also be mixed.")
            if activation == "relu" and given == n1 * (n1 + 1) // 2:
                raise _Wrong("Under ReLU only the diagonal of the matrix is conserved.")
            raise _Wrong(f"For {n0}-{n1}-{n2}, {activation}, the count is not {given:g}.")
    return "A symmetric matrix has n(n + 1)/2 entries, n of them on its diagonal."


def _halving_time(answer: Any) -> str:
    """04.1: when weight decay has halved all gaps."""
    for decay in (0.01, 0.1, 0.7):
        time = _number(_call(answer, decay), f"The time for {decay:g}")
        if _close(math.exp(-2 * decay * time), 0.5, 1e-6):
            continue
        if _close(math.exp(-decay * time), 0.5, 1e-6):
            raise _Wrong("A weight under decay alone is halved by then; a gap is one of squares.")
        if _close(2 * decay * time, 1, 1e-6):
            raise _Wrong("By then the gaps have fallen to 1/e.")
        raise _Wrong(
            f"For a decay of {decay:g} the gaps have fallen to {math.exp(-2 * decay * time):.3g} "
            f"of what they were at t = {time:.4g}."
        )
    return "The square of a weight decays twice as fast as the weight."


def _decay_step(answer: Any) -> str:
    """04.2: the exact change of a unit's invariant in a step with weight decay."""
    for seed, step, decay in ((0, 0.1, 0.3), (1, 0.2, 0.5)):
        net = _network(seed)
        x, y = _gaussian(seed, (12, 4), (12, 3))
        optimizer = torch.optim.SGD(net.parameters(), lr=step, weight_decay=decay)
        (0.5 * ((net(x) - y) ** 2).sum(1).mean()).backward()
        w, v = net.linear1.weight, net.linear2.weight
        unit = [each.clone() for each in (w[0], v[:, 0], w.grad[0], v.grad[:, 0])]
        w0, v0, grad_w, grad_v = (each.detach() for each in unit)
        optimizer.step()
        gap = float(w0 @ w0 - v0 @ v0)
        new = float((w[0] @ w[0] - v[:, 0] @ v[:, 0]).detach())
        squares = step**2 * float(grad_w @ grad_w - grad_v @ grad_v)
        given = _number(_call(answer, w0, v0, grad_w, grad_v, step, decay), "The change")
        if _close(given, new - gap, 1e-9):
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
            if _close(given, wrong, 1e-9):
                raise _Wrong(hint)
        raise _Wrong(
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
    _choose(answer, right, wrong, "Ask of each: is I(W, u) = 0 for its direction u?")
    return "They follow the gradient of a loss of the outputs, or a multiple of it."


def _restoring_factor(answer: Any) -> str:
    """04.4: the factor that gives a unit its invariant back."""
    for p, q, c in ((2.0, 3.0, 1.0), (0.5, 2.0, -3.0), (1.0, 4.0, 0.0), (3.0, 1.0, 2.5)):

        def misses(a: float, p: float = p, q: float = q, c: float = c) -> bool:
            return abs(a * a * p - q / (a * a) - c) > 1e-9

        case = f"For p = {p:g}, q = {q:g}, c = {c:g}"
        a = _number(_call(answer, p, q, c), "The factor")
        if not a > 0:
            if a < 0 and not misses(a):
                raise _Wrong("Right up to the sign: a factor is positive.")
            raise _Wrong(f"{case} it is {a:g}; a factor is positive.")
        if misses(a):
            if not misses(a**0.5):
                raise _Wrong("That is the square of the factor.")
            if not misses(1 / a):
                raise _Wrong("That is the inverse: incoming weights are multiplied by a.")
            raise _Wrong(
                f"{case} it makes the invariant {a * a * p - q / (a * a):.4g}. Rescaled, the unit "
                "has squared norms a^2 p and q / a^2."
            )
    return "The product of the two squared norms, and with it the function, stays."


def _norm_for_ratio(answer: Any) -> str:
    """05.1: the squared norm at which a kept gap means a given ratio."""
    for gap, ratio in ((9.0, 1.1), (9.0, 1.5), (0.9, 1.05)):
        norm = _number(_call(answer, gap, ratio))
        if norm <= gap:
            raise _Wrong("The lower layer's squared norm cannot be smaller than the gap.")
        measured = norm / (norm - gap)
        if not _close(measured, ratio, 1e-9):
            if _close((norm + gap) / norm, ratio, 1e-9):
                raise _Wrong("That is the squared norm of the upper layer, W2; W1's is asked for.")
            raise _Wrong(
                f"With gap {gap:g} and that squared norm {norm:.4g} the ratio is {measured:.4g}, "
                f"not {ratio:g}."
            )
    return "A gap of 9 is within ten per cent only when the squared norm has reached 99."


def _one_step(answer: Any) -> str:
    """05.2: the exact change of the layer gaps in one gradient-descent step."""
    for seed, step in ((0, 0.1), (1, 0.3)):
        net = _network(seed)
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
        given = _call(answer, gradients, step)
        try:
            given = [_number(value, "Each change") for value in given]
        except TypeError:
            raise _Wrong("One number for each hidden layer is asked for, as a list.") from None
        if len(given) != len(true):
            raise _Wrong(f"This network has {len(true)} hidden layers; you return {len(given)}.")
        for factor, hint in (
            (1, ""),
            (-1, "The sign is wrong: incoming minus outgoing."),
            (1 / step, "The step size enters squared."),
            (0.5, "The square of eta g has no factor 1/2."),
        ):
            if all(_close(g, factor * t, 1e-6) for g, t in zip(given, true, strict=True)):
                if hint:
                    raise _Wrong(hint)
                break
        else:
            raise _Wrong("Expand ||W - eta g||^2 for both layers; the terms linear in eta cancel.")
    return "Exact: the terms linear in the step cancel, and only the squares are left."


def _gap_change(answer: Any) -> str:
    """06.1: the exact change of U^T U - V^T V in a step on f + gamma ||U^T U - V^T V||_F^2."""
    for seed, step, penalty in ((0, 0.1, 0.0), (1, 0.3, 0.0), (2, 0.2, 0.125), (3, 0.1, 0.5)):
        U, V, target = _gaussian(seed, (5, 2), (4, 2), (5, 4))
        U.requires_grad_()
        V.requires_grad_()
        gap = U.T @ U - V.T @ V
        loss = 0.5 * (U @ V.T - target).square().sum() + penalty * gap.square().sum()
        slope_u, slope_v = torch.autograd.grad(loss, (U, V))
        U, V, before = U.detach(), V.detach(), gap.detach()
        new_u, new_v = U - step * slope_u, V - step * slope_v
        true = new_u.T @ new_u - new_v.T @ new_v - before
        squares = step**2 * (slope_u.T @ slope_u - slope_v.T @ slope_v)
        E = U @ V.T - target
        of_2 = step**2 * (V.T @ E.T @ E @ V - U.T @ E @ E.T @ U)
        given = _matrix(_call(answer, U, V, target, step, penalty), true.shape)
        wrong = (
            (-true, "The sign is wrong: the gap is U^T U minus V^T V."),
            (true / step, "The step size enters squared."),
            (
                of_2,
                "Right for gamma = 0. With a penalty the terms linear in the step do not cancel.",
            ),
            (
                squares,
                "The squares are right. The terms linear in the step are missing for gamma > 0.",
            ),
            (true - squares, "The terms linear in the step are right; the squares are missing."),
        )
        if not torch.allclose(given, true, rtol=1e-9, atol=1e-12):
            for other, hint in wrong:
                if torch.allclose(given, other, rtol=1e-9, atol=1e-12):
                    raise _Wrong(hint)
            raise _Wrong(
                f"For gamma = {penalty:g} it is not the change of a step. Expand "
                "(U - eta G)^T (U - eta G) with G the gradient, and the same for V."
            )
    return (
        "Exact, for every gamma: what is linear in the step shrinks the gap, the squares may not."
    )


def _balanced_factors(answer: Any) -> str:
    """06.2: factors of a matrix with the smallest sum of squares."""
    for seed, shape, rank in ((0, (5, 4), 2), (1, (4, 6), 3), (2, (3, 3), 1)):
        left, right = _gaussian(seed, (shape[0], rank), (shape[1], rank))
        target = left @ right.T
        factors = _call(answer, target, rank)
        try:
            U, V = factors
        except (TypeError, ValueError):
            raise _Wrong("A pair (U, V) is asked for.") from None
        U, V = (_matrix(each, (n, rank)) for each, n in zip((U, V), shape, strict=True))
        if not torch.allclose(U @ V.T, target, atol=1e-9):
            raise _Wrong("U V^T is not the matrix.")
        squares = float(U.square().sum() + V.square().sum())
        smallest = 2 * float(torch.linalg.svdvals(target).sum())
        if not _close(squares, smallest, 1e-9):
            hint = "Give the square root of each singular value to either side."
            if torch.allclose(U.T @ U, torch.eye(rank).double()) or torch.allclose(
                V.T @ V, torch.eye(rank).double()
            ):
                hint = "All of the singular values are in one factor."
            raise _Wrong(
                f"U V^T is the matrix, but the squares sum to {squares:.4g}, and {smallest:.4g} "
                f"can be had. {hint}"
            )
    return "U^T U = V^T V, and the squares sum to twice the sum of the singular values."


def _rank_one_factor(answer: Any) -> str:
    """07.1: the factor a step of the error at the end of a rank-one descent."""
    for c in (0.1, 0.5, 0.65, 0.8, 0.95):
        given = _number(_call(answer, c), f"The factor for c = {c:g}")

        def step(x: Tensor, c: float = c) -> Tensor:
            a, b, m, n = x
            u, v = 1 - c * (b * b + n * n), 1 - c * (a * a + m * m)
            return torch.stack([u * a + c * b, v * b + c * a, u * m, v * n])

        minimum = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        linearized = torch.autograd.functional.jacobian(step, minimum)
        sizes = torch.linalg.eigvals(linearized).abs().tolist()
        sizes.remove(min(sizes, key=lambda size: abs(size - 1)))  # along the curve of minima
        if not _close(given, max(sizes), 1e-9):
            if _close(given, 1 - c, 1e-9):
                raise _Wrong(
                    f"Right for c up to 2/3. For c = {c:g} the noise is not the slowest any more."
                )
            if _close(given, 1 - 2 * c, 1e-9):
                raise _Wrong("That is how a + b comes to rest. The noise is slower.")
            raise _Wrong(
                f"For c = {c:g} the slowest part shrinks by {max(sizes):.3f} a step, not by "
                f"{given:.3f}. Linearize at a = b = sqrt(sigma1), without noise."
            )
    return "The noise decides up to c = 2/3, and a + b, which then overshoots, beyond."


def _steps_per_decade(answer: Any) -> str:
    """07.2: how many more rank-one steps ten times the dimension takes."""
    for c in (0.05, 0.1, 0.5):
        given = _number(_call(answer, c), f"The number of steps for c = {c:g}")
        counts, decades = [], 200  # so many that whole steps do not blur the mean
        for start in (1e-2, 1e-2 * 10 ** (-decades / 2)):
            x, count = start, 0
            while x * x < 0.5:
                x, count = x + c * (x - x**3), count + 1
            counts.append(count)
        true = (counts[1] - counts[0]) / decades
        if abs(given - true) > 0.02:
            for factor, hint in (
                (2.0, "The signal of the start falls as 1 / sqrt(d), not as 1 / d."),
                (math.log(1 + c) / c, "A step multiplies the signal by 1 + c, less than exp(c)."),
                (1 / math.log(10), "That is for e times the dimension."),
            ):
                if abs(given - factor * true) < 0.02 * factor:
                    raise _Wrong(hint)
            raise _Wrong(
                f"For c = {c:g} it takes {true:.2f} more steps, not {given:.2f}. How much smaller "
                "is the signal of the start, and how much does a step make of it?"
            )
    return "The signal starts smaller by a factor of sqrt(10), and a step gains 1 + c."


def _one_step_balance(answer: Any) -> str:
    """08.1: the factors that minimize the l_p norm of a network with one hidden layer."""
    for seed, p in ((0, 3.0), (1, 1.0), (2, 2.0)):
        net = _network(seed, widths=(4, 6, 3))
        given = _call(answer, net, p)
        if not isinstance(given, Mapping) or set(given) != {"linear1"}:
            raise _Wrong("A dictionary with the one key 'linear1' is asked for.")
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
                raise _Wrong(f"For p = {p:g} the units are not balanced. {hint}")
        raise _Wrong(
            f"For p = {p:g} the units are not balanced. Minimize in a^p + out a^-p for each unit."
        )
    return "Every unit is balanced, so by convexity no factors give a smaller norm."


def _smallest_norm(answer: Any) -> str:
    """08.2: the smallest Euclidean norm on the orbit of a network with one hidden layer."""
    for seed in range(3):
        net = _network(seed, widths=(4, 6, 3))
        given = _number(_call(answer, net))
        into = net.linear1.weight.detach().square().sum(1)
        out = net.linear2.weight.detach().square().sum(0)
        balanced = rescale(net, {"linear1": (out / into) ** 0.25})
        best = float(lpq_norm(balanced).detach())
        if _close(given, best, 1e-9):
            continue
        layers = float((4 * into.sum() * out.sum()) ** 0.25)
        for typical, hint in (
            (best**2, "That is the squared norm: take the root."),
            (best / 2**0.5, "Both sides of a balanced unit count: a factor 2 is missing."),
            (best**2 / 2, "Both sides of a balanced unit count, and the norm is a root."),
            (layers, "That is the smallest with one factor for the layer; each unit has its own."),
            (float(lpq_norm(net).detach()), "That is the norm before any rescaling."),
        ):
            if _close(given, typical, 1e-6):
                raise _Wrong(hint)
        side = "larger" if given > best else "smaller"
        raise _Wrong(
            f"{given:.4g} is {side} than the smallest norm of this network, {best:.4g}. What does "
            "one unit contribute when it is balanced?"
        )
    return "Each unit contributes 2 |w| |v| to the smallest squared norm."


def _layer_factors(answer: Any) -> str:
    """09.1: the factors of one update of Algorithm 1, from the sums of shares."""
    for seed, p, q in ((0, 1.0, 3.0), (1, 3.0, 1.0), (2, 2.0, 2.0)):
        net = _network(seed)
        with torch.no_grad():
            net.linear2.weight[:, 0] = 0  # unit 0 of the first layer is dead
        with warnings.catch_warnings():  # one update is not enough, as it would say
            warnings.simplefilter("ignore", UserWarning)
            true = balance(net, p, q, method="multiplicative", max_iter=1).factors["linear1"]
        pi = shares(net, p, q)
        into, out = pi["linear1.weight"].sum(1), pi["linear2.weight"].sum(0)
        a = torch.as_tensor(_call(answer, into, out, p, q)).detach().double()
        if a.shape != true.shape:
            raise _Wrong(f"6 factors are asked for, one a unit; you return shape {tuple(a.shape)}.")
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
                    raise _Wrong(f"For p = {p:g}, q = {q:g} the factors are not right. {hint}")
            raise _Wrong(
                f"For p = {p:g}, q = {q:g} the factors are not right. They are powers of out / in."
            )
        if not _close(float(a[0]), 1):
            raise _Wrong(f"The unit without outgoing weights gets the factor {a[0]:g}, not 1.")
    return "These are the library's factors after one update; the dead unit keeps factor 1."


def _counterexample(answer: Any) -> str:
    """09.2: weights whose norm rises in an update with exponent 1 / (2 min(p, q)), at (2, 3)."""
    p, q, exponent = 2, 3, 1 / 4
    try:
        weights = [torch.as_tensor(w).detach().double() for w in answer]
    except (TypeError, ValueError):
        raise _Wrong("A list of weight matrices is asked for.") from None
    if len(weights) < 2 or any(w.ndim != 2 or w.numel() == 0 for w in weights):
        raise _Wrong("A list of at least two matrices is asked for, each of shape (units, inputs).")
    widths = [weights[0].shape[1], *map(len, weights)]
    if any(w.shape[1] != n for w, n in zip(weights, widths, strict=False)):
        raise _Wrong(
            "The matrices do not fit: each has as many columns as the one before has rows."
        )
    net = mlp(widths, dtype=torch.float64)
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.copy_(weight)
    pi = list(shares(net, p, q).values())
    into, out = [a.sum(1) for a in pi[:-1]], [b.sum(0) for b in pi[1:]]
    if not all(bool(((a > 0) & (b > 0)).all()) for a, b in zip(into, out, strict=True)):
        raise _Wrong("Give every hidden unit a nonzero incoming and a nonzero outgoing weight.")
    factors = {
        f"linear{h}": (b / a) ** exponent
        for h, (a, b) in enumerate(zip(into, out, strict=True), start=1)
    }
    before, after = (float(lpq_norm(each, p, q).detach()) for each in (net, rescale(net, factors)))
    if after > before * (1 + 1e-9):
        return f"One update raises its norm from {before:.6g} to {after:.6g}."
    if all(torch.allclose(a, torch.ones_like(a)) for a in factors.values()):
        raise _Wrong("This network is balanced: an update changes nothing.")
    change = f"One update lowers its norm, from {before:.6g} to {after:.6g}."
    if len(weights) == 2:
        raise _Wrong(f"{change} With one hidden layer no two hidden units share a weight: add one.")
    raise _Wrong(f"{change} Start near balance, with neighbours that want to move apart.")


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
        given = _number(_call(answer, q, n, exponent))
        if _close(given, true, 1e-6):
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
            if _close(given, typical, 1e-6):
                raise _Wrong(f"{where} the rate is {true:.4g}, not {given:.4g}. {hint}")
        raise _Wrong(f"{where} the rate is {true:.4g}, not {given:.4g}.")
    return "A long run of the heat equation shrinks at this rate, whichever mode is the slowest."


def _ratio_from_widths(answer: Any) -> str:
    """10.2: how small the norm of a random network becomes, from its widths."""
    for seed, widths, p, q in (
        (0, (50, 400, 200, 20), 2.0, 2.0),
        (1, (100, 300, 100, 200, 30), 1.0, 2.0),
        (2, (40, 300, 150, 30), 2.0, 1.0),
    ):
        norms = balance(_network(seed, widths=widths), p, q, tol=1e-4).norms
        true = float(norms[-1] / norms[0])
        given = _number(_call(answer, widths, p, q))
        if _close(given, true, 0.05):
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
            if _close(given, typical, 1e-6):
                raise _Wrong(f"For {widths} at ({p:g}, {q:g}) it is {true:.3f}. {hint}")
        raise _Wrong(
            f"For {widths} at ({p:g}, {q:g}) it is {true:.3f}, not {given:.3g}. Estimate the sum "
            "of the shares of each layer; then geometric over arithmetic mean."
        )
    return "Within five per cent of what balance() finds, for three networks."


def _layer_flow(answer: Any) -> str:
    """12.1: the weight-balancing flow of one layer for p = 2."""
    for seed, q in ((0, 1.0), (1, 3.0), (2, 2.0)):
        W, g = _gaussian(seed, (4, 3), (4, 3))
        n, dot = W.norm(dim=1, keepdim=True), (W * g).sum(1, keepdim=True)
        within, along = n ** (2 - q) * g, dot / n**q * W
        true = -(within + (2 / q - 1) * along) / 2
        given = _matrix(_call(answer, W.clone(), g.clone(), q), W.shape)
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
                raise _Wrong(f"For q = {q:g} it is not right. {hint}")
        raise _Wrong(
            f"For q = {q:g} it is not right: the shares W^2 n^(q - 2) should move by -W g."
        )
    return "The shares move by -W g, for three values of q."


def _end_point(answer: Any) -> str:
    """12.2: where the flow of two weights ends."""
    for u0, v0, q in ((1.5, 0.2, 3.0), (0.3, 2.0, 1.0), (2.0, 0.5, 0.5)):
        given = _call(answer, u0, v0, q)
        try:
            u, v = (_number(each) for each in given)
        except (TypeError, ValueError):
            raise _Wrong("A pair (u, v) is asked for.") from None
        where = f"From ({u0:g}, {v0:g}) at q = {q:g}"
        if not _close(u * v, 1, 1e-6):
            raise _Wrong(f"{where}: u v is {u * v:.4g}; at the end it is 1, where the loss is 0.")
        if u <= 0:
            raise _Wrong(f"{where}: no weight changes its sign on the way.")
        c = u0**q - v0**q
        if _close(u**q - v**q, c, 1e-6):
            continue
        if _close(u**q - v**q, -c, 1e-6):
            raise _Wrong(f"{where}: you have exchanged u and v.")
        if _close(u**2 - v**2, u0**2 - v0**2, 1e-6):
            raise _Wrong(f"{where}: you keep u^2 - v^2, as gradient flow does. What is kept here?")
        raise _Wrong(
            f"{where}: |u|^q - |v|^q should be {c:.4g}, as at the start; it is {u**q - v**q:.4g}."
        )
    return "No loss, and the imbalance of the start, for three starts and norms."


def _smooth_flow(answer: Any) -> str:
    """13.1: the flow that belongs to the regularizer sum sqrt(1 + W^2)."""
    W, g = _gaussian(0, (5, 4), (5, 4))
    W[0, 0] = 30.0  # large, where the regularizer is l_1
    given = _matrix(_call(answer, W.clone(), g.clone()), W.shape)
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
            raise _Wrong(hint)
    raise _Wrong("The shares are W dR/dW = W^2 / sqrt(1 + W^2); they should move by -W g.")


def _steps_to_halve(answer: Any) -> str:
    """13.2: after how many steps of WeightBalancingDescent the imbalances are halved."""
    for lr, p, q, decay in ((0.01, 1.0, 3.0, 0.5), (0.02, 2.0, 2.0, 0.2), (0.003, 3.0, 1.5, 0.4)):
        net = _network(0)
        optimizer = WeightBalancingDescent(net, lr, p, q, weight_decay=decay, tol=1e-9)
        before = imbalance(net, p, q)["linear1"]
        x, _ = _gaussian(1, (8, 4), (1, 1))
        for _ in range(5):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        kept = float((imbalance(net, p, q)["linear1"] / before).log().mean()) / 5
        true = -math.log(2) / kept
        given = _number(_call(answer, lr, p, q, decay))
        if _close(given, true):
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
            if _close(given, typical):
                raise _Wrong(f"{where} it is {true:.4g} steps, not {given:.4g}. {hint}")
        raise _Wrong(f"{where} it is {true:.4g} steps, not {given:.4g}.")
    return "The optimizer itself halves the imbalances at this pace, for three pairs."


_CHECKS: dict[str, Callable[[Any], str]] = {
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
    "06.1": _gap_change,
    "06.2": _balanced_factors,
    "07.1": _rank_one_factor,
    "07.2": _steps_per_decade,
    "08.1": _one_step_balance,
    "08.2": _smallest_norm,
    "09.1": _layer_factors,
    "09.2": _counterexample,
    "10.1": _mode_rate,
    "10.2": _ratio_from_widths,
    "12.1": _layer_flow,
    "12.2": _end_point,
    "13.1": _smooth_flow,
    "13.2": _steps_to_halve,
}

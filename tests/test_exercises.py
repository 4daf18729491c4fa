"""The checks of the exercises: right answers, wrong ones with their hints, and broken ones."""

import math
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancing import exercises
from balancing.exercises import check, grade

Answer = Any
CapSys = pytest.CaptureFixture[str]


def unit_rows(net: nn.Sequential) -> dict[str, Tensor]:
    first = 1 / net.linear1.weight.norm(dim=1)
    second = 1 / (net.linear2.weight / first).norm(dim=1)
    return {"linear1": first, "linear2": second}


def one_step(gradients: list[Tensor], eta: float) -> list[float]:
    norms = [float(g.square().sum()) for g in gradients]
    return [eta**2 * (norms[h] - norms[h + 1]) for h in range(len(norms) - 1)]


def gap_change(U: Tensor, V: Tensor, target: Tensor, step: float, c: float) -> Tensor:
    E, gap = U @ V.T - target, U.T @ U - V.T @ V
    mass = U.T @ U + V.T @ V
    slope_u, slope_v = E @ V + 4 * c * U @ gap, E.T @ U - 4 * c * V @ gap
    linear = -4 * c * step * (mass @ gap + gap @ mass)
    return linear + step**2 * (slope_u.T @ slope_u - slope_v.T @ slope_v)


def without_squares(U: Tensor, V: Tensor, target: Tensor, step: float, c: float) -> Tensor:
    gap, mass = U.T @ U - V.T @ V, U.T @ U + V.T @ V
    return -4 * c * step * (mass @ gap + gap @ mass)


def balanced_factors(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    left, sigma, right = torch.linalg.svd(target)
    root = sigma[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


def one_sided_factors(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    left, sigma, right = torch.linalg.svd(target)
    return left[:, :rank] * sigma[:rank], right[:rank].T


def turned_factors(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Still a solution: U and V turned by the same rotation."""
    U, V = balanced_factors(target, rank)
    turn = turning(rank)
    return U @ turn, V @ turn


def steps_per_decade(c: float) -> float:
    return math.log(10) / (2 * math.log1p(c))


def channel_invariants(conv: Tensor, linear: Tensor) -> Tensor:
    columns = linear.unflatten(1, (len(conv), -1))
    return conv.square().sum((1, 2, 3)) - columns.square().sum((0, 2))


def number_conserved(n0: int, n1: int, n2: int, activation: str) -> int:
    return n1 * (n1 + 1) // 2 if activation == "linear" else n1


def decay_step(w: Tensor, v: Tensor, g_w: Tensor, g_v: Tensor, eta: float, decay: float) -> Tensor:
    """The update itself, and the difference of its squares."""
    new_w, new_v = w - eta * (g_w + decay * w), v - eta * (g_v + decay * v)
    return new_w @ new_w - new_v @ new_v - w @ w + v @ v


def linear_decay(w: Tensor, v: Tensor, g_w: Tensor, g_v: Tensor, eta: float, decay: float) -> float:
    gap, squares = w @ w - v @ v, g_w @ g_w - g_v @ g_v
    return float(-2 * eta * decay * gap + eta**2 * squares)


def decayed(change: Callable[[float, float, float], float]) -> Answer:
    """An answer to 04.2 from the gap, the squared gradients and the product of step and decay."""
    return lambda w, v, g_w, g_v, eta, decay: change(
        float(w @ w - v @ v), eta**2 * float(g_w @ g_w - g_v @ g_v), eta * decay
    )


def restoring(p: float, q: float, c: float) -> float:
    return ((c + math.sqrt(c * c + 4 * p * q)) / (2 * p)) ** 0.5


TRICKS = {"step size schedule", "dropout", "clip the gradient's norm", "label smoothing"}
SAME_PAIR = {"turn both", "exchange columns", "signs of both"}
DIMENSION = {"signal at the start", "first stage", "final ratio"}
DEAD = {"A", "B", "D", "E"}
ANY_EXPONENT = {"function", "signs", "balanced stays", "scale"}
SLOWER = {"two more layers", "(4, 1)", "half the exponent"}


def sums(net: nn.Sequential, p: float) -> tuple[Tensor, Tensor]:
    into, out = (layer.weight.detach().abs() ** p for layer in (net.linear1, net.linear2))
    return into.sum(1), out.sum(0)


def balancing_factors(
    exponent: Callable[[float], float], order: Callable[[float], float] = lambda p: p
) -> Callable[[nn.Sequential, float], dict[str, Tensor]]:
    """(out / in)^exponent(p), with sums of weights to the power order(p)."""

    def answer(net: nn.Sequential, p: float) -> dict[str, Tensor]:
        into, out = sums(net, order(p))
        return {"linear1": (out / into) ** exponent(p)}

    return answer


def product_sum(net: nn.Sequential) -> Tensor:
    into, out = sums(net, 2)
    return (into * out).sqrt().sum()


def powers(
    exponent: Callable[[float, float], float],
) -> Callable[[Tensor, Tensor, float, float], Tensor]:
    """(out / in)^exponent(p, q), and 1 for units that lack one of the two."""

    def answer(into: Tensor, out: Tensor, p: float, q: float) -> Tensor:
        return torch.where((into > 0) & (out > 0), (out / into) ** exponent(p, q), 1.0)

    return answer


def multiplier(q: float, exponent: float, k: float, n: int) -> float:
    return 1 - 2 * q * exponent * (1 - math.cos(math.pi * k / n))


def mode_rate(q: float, n: int, exponent: float) -> float:
    return max(abs(multiplier(q, exponent, k, n)) for k in range(1, n))


def mean_ratio(
    layer_sum: Callable[[float, float, float, float], float], root: bool = True
) -> Callable[[tuple[int, ...], float, float], float]:
    """Geometric over arithmetic mean of layer_sum(n, fan-in, p, q)."""

    def answer(widths: tuple[int, ...], p: float, q: float) -> float:
        sums = [layer_sum(n, k, p, q) for n, k in zip(widths[1:], widths, strict=False)]
        ratio = statistics.geometric_mean(sums) / statistics.fmean(sums)
        return float(ratio ** (1 / q)) if root else ratio

    return answer


def layer_sum(n: float, k: float, p: float, q: float) -> float:
    return float(n * k ** (q / p - q / 2))


def osborne(
    exponent: float = 0.5, *, diagonal: bool = False, row: int = 1, column: int = 1
) -> Callable[[Tensor, int], Tensor]:
    """Row i times t^row and column i over t^column, t a power of column over row sum."""

    def answer(M: Tensor, i: int) -> Tensor:
        own = 0 if diagonal else M[i, i].clone()
        t = ((M[:, i].sum() - own) / (M[i].sum() - own)) ** exponent
        M[i] *= t**row
        M[:, i] /= t**column
        return M

    return answer


def layer_factors(
    exponent: Callable[[float], float] = lambda q: 1 / q,
    mean: Callable[[Tensor], Tensor] = lambda sums: sums.log().mean(),
    kept: int = -1,
) -> Callable[[Tensor, float], Tensor]:
    """Factors for hidden layers whose logarithms add up the gaps of the layer sums to a mean."""

    def answer(sums: Tensor, q: float) -> Tensor:
        return ((mean(sums) - sums.log()).cumsum(0)[:kept] * exponent(q)).exp()

    return answer


def row_flow(
    part: float = 0.5, turn: Callable[[float], float] = lambda q: 2 / q - 1, power: float = 1.0
) -> Answer:
    """The flow of a layer for p = 2, with its factor, second term and power as given."""

    def answer(W: Tensor, g: Tensor, q: float) -> Tensor:
        n = W.norm(dim=1, keepdim=True)
        along = (W * g).sum(1, keepdim=True) / n**q * W
        return -part * (n ** (power * (2 - q)) * g + turn(q) * along)

    return answer


def end_point(u: float, v: float, q: float) -> tuple[float, float]:
    c = u**q - v**q
    end = ((c + math.sqrt(c * c + 4)) / 2) ** (1 / q)
    return end, 1 / end


def geometry(
    turn: Callable[[float, float], float] = lambda p, q: p / q - 1, part: float = 1.0
) -> Callable[[Tensor, float, float], Tensor]:
    """The matrix of a row, with its second term and a factor as given."""

    def answer(w: Tensor, p: float, q: float) -> Tensor:
        n = w.abs().pow(p).sum() ** (1 / p)
        within = (w**2 / (w.abs() ** p * n ** (q - p))).diag()
        return part * (within + turn(p, q) * torch.outer(w, w) / n**q) / p

    return answer


def own_cut(first: float = 1, second: float = -1) -> Callable[[float, float], Answer]:
    """What a cut leaves of a share, times two factors."""

    def answer(share: float, loss: float) -> tuple[float, float]:
        stays = max(0.0, loss - 0.9 * share)
        return first * stays, second * stays

    return answer


def steps_to_halve(lr: float, p: float, q: float, decay: float) -> float:
    return math.log(2) / (decay * p * lr)


def equal_ranges(into: Tensor, out: Tensor) -> Tensor:
    return (out.abs().max() / into.abs().max()).sqrt()


def balanced_scores(exponent: float = 0.5, sign: int = 1) -> Answer:
    """Sizes of the weights, rescaled by (out / in)^exponent."""

    def answer(W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        a = (V.norm(dim=0) / W.norm(dim=1)) ** (sign * exponent)
        return W.abs() * a[:, None], V.abs() / a

    return answer


def moved_up(W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    return W.roll(-1, 0), V.roll(-1, 1)


def turning(n: int) -> Tensor:
    """Some orthogonal matrix that is no permutation."""
    return torch.linalg.qr(torch.arange(1.0, n * n + 1).double().reshape(n, n).cos())[0]


def decaying_rates(
    part: float = -2.0, of_penalty: float = 1.0, of_data: float = 1.0
) -> Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    """The two rates of 02.3, with their factors as given."""

    def answer(
        w: Tensor, v: Tensor, g_w: Tensor, g_v: Tensor, decay: float
    ) -> tuple[Tensor, Tensor]:
        into, out = (
            part * (of_data * (a @ g) + of_penalty * decay * (a @ a))
            for a, g in ((w, g_w), (v, g_v))
        )
        return into, out

    return answer


UNIT = "w^2 + b^2 - v^2"
CONSTANTS = {UNIT, f"sum of {UNIT} over a layer", f"{UNIT} of one unit minus that of another"}


def entry_rate(z_i: Tensor, z_j: Tensor, d_i: Tensor, d_j: Tensor) -> Tensor:
    """Both sums of the text, each with the units exchanged as well."""
    above = z_i.relu() * d_j + z_j.relu() * d_i
    return (above - z_i * d_j * (z_j > 0) - z_j * d_i * (z_i > 0)).sum()


def grown(start: list[float], last: float) -> list[float]:
    return [norm - start[-1] + last for norm in start]


HOMOGENEOUS = {"relu", "leaky_relu", "abs", "maximum of 2z and z"}
ROOT = 0.5 * 13**0.5  # u^2 = (3 + sqrt(13)) / 2 solves u^2 - 1 / u^2 = 3
U = (1.5 + ROOT) ** 0.5


def written(vectors: list[Tensor]) -> Tensor:
    return torch.stack(vectors).square().sum(0)


def read(weights: list[Tensor]) -> Tensor:
    return torch.stack([w.transpose(0, 1).flatten(1).square().sum(1) for w in weights]).sum(0)


def squared_norms(expand: Tensor, depthwise: Tensor, project: Tensor) -> tuple[Tensor, ...]:
    rows = expand, depthwise, project.transpose(0, 1)
    first, second, third = (w.flatten(1).square().sum(1) for w in rows)
    return first, second, third


def block_factors(expand: Tensor, depthwise: Tensor, project: Tensor) -> tuple[Tensor, Tensor]:
    into, through, out = squared_norms(expand, depthwise, project)
    return (through * out / into**2) ** (1 / 6), (out**2 / (into * through)) ** (1 / 6)


def relative_factors(expand: Tensor, depthwise: Tensor, project: Tensor) -> tuple[Tensor, Tensor]:
    a, b = block_factors(expand, depthwise, project)
    return a, b / a


def one_unit_at_a_time(expand: Tensor, depthwise: Tensor, project: Tensor) -> tuple[Tensor, Tensor]:
    into, through, out = squared_norms(expand, depthwise, project)
    return (through / into) ** 0.25, (out / through) ** 0.25


def rows(U: Tensor, V: Tensor) -> Tensor:
    """tr(B U^T U B) with B = U^T U - V^T V; exchange the two for V^T V in the middle."""
    gap = U.T @ U - V.T @ V
    return (gap @ U.T @ U @ gap).trace()


def gap_rate(U: Tensor, V: Tensor) -> Tensor:
    return -2 * (rows(U, V) + rows(V, U))


def chain_factors(
    mean: Callable[[list[float]], float] = statistics.geometric_mean, power: float = 1.0
) -> Callable[[list[float]], list[float]]:
    """Factors that give every weight of a chain the size mean(sizes), to some power."""

    def answer(weights: list[float]) -> list[float]:
        sizes, a = [abs(w) for w in weights], [1.0]
        for size in sizes[:-1]:
            a.append(a[-1] * mean(sizes) / size)
        return [each**power for each in a[1:]]

    return answer


def updates_enough(start: float, smallest: float, distance: float, p: float, q: float) -> float:
    return 2 * max(p, q) / q * (start - smallest) / distance


def norm_digits(p: float, q: float, n: int) -> float:
    return math.log(10) / (-2 * math.log(multiplier(q, 1 / (4 * max(p, q)), 1, n)))


KEPT = {
    "gradient flow, in (2, 2)",
    "flow of (1, 1), in (1, 1)",
    "flow of (3, 3), in (3, 3), with a new minibatch at times",
    "flow of (1, 2), in (1, 2), with biases that count",
}
EXACT = {
    "Euler's method in the weights, (1, 1)",
    "share steps, (1, 2)",
    "dual steps, restored, (3, 3)",
}
FREE = {
    "outputs of a batch norm, before a ReLU and a convolution",
    "channels of a residual stream between batch norms",
    "hidden units of a transformer's feed-forward part",
    "channels of a U-Net that are read again through a concatenation",
    "channels before a depthwise convolution in a block without normalization",
}
UNCHANGED = {
    "layer factors, per tensor",
    "row factors, per channel",
    "layer factors, layerwise pruning",
    "unit factors, sensitivity pruning",
    "unit factors, fix then per tensor",
}

SOLUTIONS: dict[str, list[Answer]] = {
    "01.1": [unit_rows],
    "01.2": [HOMOGENEOUS, list(HOMOGENEOUS), tuple(sorted(HOMOGENEOUS))],
    "01.3": [moved_up, lambda W, V: [W.flip(0).tolist(), V.flip(1).tolist()]],
    "02.1": [(U, 1 / U), [U, 1 / U], torch.tensor([U, 1 / U])],
    "02.2": [lambda k: k, float],
    "02.3": [
        decaying_rates(),
        lambda w, v, g, h, c: [float(rate) for rate in decaying_rates()(w, v, g, h, c)],
    ],
    "02.4": [CONSTANTS, sorted(CONSTANTS)],
    "03.1": [channel_invariants],
    "03.2": [number_conserved, lambda n0, n1, n2, phi: float(number_conserved(n0, n1, n2, phi))],
    "03.3": [
        entry_rate,
        lambda z, t, d, e: float((((z > 0).double() - (t > 0).double()) * (z * e - t * d)).sum()),
    ],
    "04.1": [lambda decay: math.log(2) / (2 * decay)],
    "04.2": [
        decay_step,
        decayed(lambda gap, squares, shrink: ((1 - shrink) ** 2 - 1) * gap + squares),
    ],
    "04.3": [TRICKS, list(TRICKS)],
    "04.4": [restoring, lambda p, q, c: torch.tensor(restoring(p, q, c), dtype=torch.float64)],
    "05.1": [lambda gap, ratio: gap * ratio / (ratio - 1)],
    "05.2": [one_step, lambda g, eta: tuple(torch.tensor(each) for each in one_step(g, eta))],
    "05.3": [[3e-4, 3e-3, 3e-2], (0.0003, 0.003, torch.tensor(0.03))],
    "05.4": [grown, lambda start, last: torch.tensor(grown(start, last), dtype=torch.float64)],
    "06.1": [gap_change, lambda U, V, M, eta, c: gap_change(U, V, M, eta, c).tolist()],
    "06.2": [balanced_factors, turned_factors],
    "06.3": [gap_rate, lambda U, V: float(gap_rate(U, V))],
    "06.4": [SAME_PAIR, sorted(SAME_PAIR)],
    "07.1": [lambda c: max(1 - c, abs(1 - 2 * c)), lambda c: 1 - c if c < 2 / 3 else 2 * c - 1],
    "07.2": [steps_per_decade],
    "07.3": [lambda rho, c: 1 + c * (1 - rho * rho)],
    "07.4": [DIMENSION, tuple(DIMENSION)],
    "08.1": [
        balancing_factors(lambda p: 1 / (2 * p)),
        lambda net, p: {
            "linear1": balancing_factors(lambda p: 0.5 / p)(net, p)["linear1"].tolist()
        },
    ],
    "08.2": [
        lambda net: (2 * product_sum(net)) ** 0.5,
        lambda net: float(2 * product_sum(net)) ** 0.5,
    ],
    "08.3": [chain_factors(), lambda u: torch.tensor(chain_factors()(u), dtype=torch.float64)],
    "08.4": [DEAD, "BADE"],
    "09.1": [
        powers(lambda p, q: 1 / (4 * max(p, q))),
        lambda i, o, p, q: powers(lambda p, q: 1 / (4 * max(p, q)))(i, o, p, q).tolist(),
    ],
    "09.2": [
        [torch.tensor([[0.9]]), torch.tensor([[1.2]]), torch.tensor([[0.9]])],
        ([[-1.1]], [[0.8]], [[1.1]]),
        [[[0.9], [0.9]], [[1.2, 0], [0, 1.2]], [[0.9, 0.9]]],
    ],
    "09.3": [
        updates_enough,
        lambda F0, F, D, p, q: torch.tensor(2 * (F0 - F) / D * max(p / q, 1), dtype=torch.float64),
    ],
    "09.4": [ANY_EXPONENT, list(ANY_EXPONENT)],
    "10.1": [mode_rate, lambda q, n, e: torch.tensor(mode_rate(q, n, e)).double()],
    "10.2": [mean_ratio(layer_sum)],
    "10.3": [norm_digits],
    "10.4": [SLOWER, sorted(SLOWER)],
    "11.1": [osborne(), lambda M, i: osborne()(M.clone(), i).tolist()],
    "11.2": [layer_factors(), lambda sums, q: layer_factors()(sums, q).tolist()],
    "11.3": [
        lambda n: math.cos(math.pi / n) ** 2,
        lambda n: (torch.tensor(math.pi / n, dtype=torch.float64).cos() ** 2).requires_grad_(),
    ],
    "11.4": [lambda a: 2 ** a.log2().round(), lambda a: [2 ** round(math.log2(x)) for x in a]],
    "12.1": [row_flow(), lambda W, g, q: row_flow()(W, g, q).tolist()],
    "12.2": [end_point, lambda u, v, q: list(end_point(u, v, q))],
    "12.3": [geometry(), lambda w, p, q: geometry()(w, p, q).tolist()],
    "12.4": [KEPT, sorted(KEPT)],
    "13.1": [lambda W, g: -((1 + W**2) ** 1.5) / (2 + W**2) * g],
    "13.2": [steps_to_halve, lambda lr, p, q, decay: -math.log(0.5) / p / lr / decay],
    "13.3": [own_cut(), lambda share, loss: torch.tensor(own_cut()(share, loss)).double()],
    "13.4": [EXACT, list(EXACT)],
    "14.1": [lambda gains, shifts, readers: written(gains) + written(shifts) - read(readers)],
    "14.2": [block_factors, lambda e, d, p: [f.numpy() for f in block_factors(e, d, p)]],
    "14.3": [lambda query, key: query @ query.T - key @ key.T],
    "14.4": [FREE, tuple(FREE)],
    "15.1": [equal_ranges, lambda into, out: float(equal_ranges(into, out))],
    "15.2": [UNCHANGED, sorted(UNCHANGED)],
    "15.3": [
        balanced_scores(),
        lambda W, V: [s.square().tolist() for s in balanced_scores()(W, V)],  # the same order
    ],
}


def scaled(factor: float) -> Callable[[list[Tensor], float], list[float]]:
    return lambda gradients, eta: [factor * each for each in one_step(gradients, eta)]


LAYERS = ("linear1", "linear2")

WRONG: dict[str, list[tuple[Answer, str]]] = {
    "01.1": [
        (
            lambda net: {
                f"linear{h}": net.get_submodule(f"linear{h}").weight.norm(dim=1) for h in (1, 2)
            },
            "You multiplied by the norm; divide by it.",
        ),
        (
            lambda net: {n: 1 / net.get_submodule(n).weight.norm(dim=1) for n in LAYERS},
            "The first hidden layer is right, the second is not.",
        ),
        (
            lambda net: {"linear1": 1 / net.linear1.weight.norm(dim=1)},
            "The first hidden layer is right, the second is not.",
        ),
        (
            lambda net: {"linear1": 1 / net.linear1.weight.abs().sum(dim=1)},
            "The first hidden layer's rows do not have norm 1",
        ),
        (lambda net, p: {}, "The function takes 2 arguments; it should take 1."),
        ({"linear1": 1.0}, "A function is asked for; this is dict."),
    ],
    "01.2": [
        (HOMOGENEOUS | {"softplus"}, "softplus(0) = log 2"),
        (HOMOGENEOUS | {"square"}, "degree two, not one"),
        ({"relu", "relu6"}, "capped"),
        ({"relu", "tanh"}, "tanh saturates"),
        ({"z + 1"}, "z + 1 is 1 at 0"),
        ({"relu", "leaky_relu"}, "2 more are missing"),
        (HOMOGENEOUS - {"abs"}, "1 more is missing"),
        ({"relu", "gelu"}, "Not among the candidates: gelu."),
        (3, "A set of names is asked for."),
    ],
    "01.3": [
        (lambda W, V: (W, V), "Those are the weights that went in"),
        (lambda W, V: (W.roll(-1, 0), V), "the columns of V have to go with them."),
        (lambda W, V: (W.roll(-1, 0), V.roll(1, 1)), "the columns of V have to go with them."),
        (lambda W, V: (2 * W, V / 2), "That is rescaling"),
        (lambda W, V: (-W, -V), "Turning signs passes through an odd activation"),
        (
            lambda W, V: ((turn := turning(len(W))) @ W, V @ turn.T),
            "That keeps the product V W",
        ),
        (lambda W, V: (W + 1, V), "The function is another one."),
        (lambda W, V: 3, "A pair (W, V) of matrices is asked for."),
        (lambda W, V: (W[1:], V[:, 1:]), "The shape should be (5, 3); it is (4, 3)."),
        (lambda net: net, "The function takes 1 arguments; it should take 2."),
    ],
    "02.1": [
        ((1, 1), "The loss is zero there, but u^2 - v^2 = 0"),
        ((2, 0.5), "u^2 - v^2 = 3.75"),
        ((2, 1), "There the loss is not zero: u v = 2"),
        ((-U, -1 / U), "Right up to the sign"),
        (U, "A pair (u, v) is asked for."),
        ((U, "1/u"), "v should be a number; it is '1/u'."),
    ],
    "02.2": [
        (lambda k: 1 / k, "For k = 2 it is the other way round"),
        (lambda k: 1, "For k = 2 the two rates do not cancel with c = 1"),
        (lambda k: k**2, "For k = 2 the two rates do not cancel with c = 4"),
        (2, "A function is asked for; this is int."),
        (lambda k: "k", "c(1) should be a number; it is 'k'."),
    ],
    "02.3": [
        (decaying_rates(of_penalty=0), "That is the flow without the penalty."),
        (decaying_rates(of_data=0), "That is the penalty alone"),
        (decaying_rates(of_penalty=0.5), "The penalty adds decay times W to the gradient"),
        (decaying_rates(-1), "The rate of a square has a factor 2"),
        (decaying_rates(2), "The flow goes against the gradient: turn the signs."),
        (decaying_rates(of_penalty=-1), "The penalty pulls weights to zero"),
        (decaying_rates(of_data=-1), "The flow goes against the gradient of the loss"),
        (lambda *unit: decaying_rates()(*unit)[::-1], "should take 5"),
        (
            lambda w, v, g, h, decay: decaying_rates()(w, v, g, h, decay)[::-1],
            "Exchanged: the rate of the incoming weights comes first.",
        ),
        (lambda w, v, g, h, decay: (0, 0), "Insert the velocity"),
        (lambda w, v, g, h, decay: -2 * decay, "A pair of rates is asked for."),
    ],
    "02.4": [
        (CONSTANTS | {"w^2 - v^2"}, "The bias is one more incoming weight"),
        ({"w^2 + b^2 + v^2"}, "not in the sum"),
        ({UNIT, "v^2 / (w^2 + b^2)"}, "Differences are kept, not ratios"),
        ({"the loss"}, "The flow lowers the loss"),
        ({UNIT}, "2 more are missing. What can be made of constants"),
        (UNIT, "Not among the candidates: "),
    ],
    "03.1": [
        (lambda c, w: -channel_invariants(c, w), "The sign is reversed"),
        (
            lambda c, w: (
                c.square().sum((1, 2, 3)) - w.unflatten(1, (-1, len(c))).square().sum((0, 1))
            ),
            "A flatten writes channel after channel",
        ),
        (
            lambda c, w: (
                channel_invariants(c, w) + (w.shape[1] // len(c) - 1) * c.square().sum((1, 2, 3))
            ),
            "Each shared weight counts once",
        ),
        (
            lambda c, w: (
                c.square().sum((1, 2, 3)).sqrt()
                - w.unflatten(1, (len(c), -1)).square().sum((0, 2)).sqrt()
            ),
            "Squared norms are asked for.",
        ),
        (lambda c, w: c.square().sum((1, 2, 3)), "Subtract the squares of all columns"),
        (lambda c, w: channel_invariants(c, w).sum(), "a tensor of shape (3,)"),
        (lambda c: c, "The function takes 1 arguments; it should take 2."),
    ],
    "03.2": [
        (lambda n0, n1, n2, phi: n1**2 if phi == "linear" else n1, "The matrix is symmetric"),
        (lambda n0, n1, n2, phi: n1, "That counts the diagonal"),
        (lambda n0, n1, n2, phi: n1 * (n1 + 1) // 2, "Under ReLU only the diagonal"),
        (lambda n0, n1, n2, phi: n0 * n1, "For 3-2-2, linear, the count is not 6."),
        (lambda n0, n1, n2, phi: "many", "The answer should be a number; it is 'many'."),
    ],
    "03.3": [
        (lambda z, t, d, e: -entry_rate(z, t, d, e), "The sign is wrong"),
        (
            lambda z, t, d, e: -(z * e * (t > 0) + t * d * (z > 0)).sum(),
            "That is the rate of W W^T alone",
        ),
        (lambda z, t, d, e: (z.relu() * e + t.relu() * d).sum(), "the layer above alone"),
        (lambda z, t, d, e: ((z.relu() - z * (t > 0)) * e).sum(), "add the same with i and j"),
        (lambda z, t, d, e: ((t.relu() - t * (z > 0)) * d).sum(), "add the same with i and j"),
        (lambda z, t, d, e: 0, "That is right for units that are on together"),
        (lambda z, t, d, e: (z * e - t * d).sum(), "For two of the units the rate is "),
        (lambda z, t, d, e: z * e - t * d, "sum over the samples"),
        (lambda z, t, d, e: "z", "The rate should be a number; it is 'z'."),
        (lambda z, t: 0, "The function takes 2 arguments; it should take 4."),
    ],
    "04.1": [
        (lambda decay: math.log(2) / decay, "A weight under decay alone is halved by then"),
        (lambda decay: 1 / (2 * decay), "fallen to 1/e"),
        (lambda decay: 1.0, "For a decay of 0.01 the gaps have fallen to 0.98"),
        (lambda decay: "ln 2", "The time for 0.01 should be a number; it is 'ln 2'."),
        (34.66, "A function is asked for; this is float."),
    ],
    "04.2": [
        (linear_decay, "The square of the decay is missing."),
        (decayed(lambda gap, squares, shrink: squares), "without weight decay"),
        (
            decayed(lambda gap, squares, shrink: ((1 - shrink) ** 2 - 1) * gap),
            "the squared gradients are missing",
        ),
        (
            decayed(lambda gap, squares, shrink: (1 - shrink) ** 2 * gap + squares),
            "That is the new invariant; the change is asked for.",
        ),
        (lambda *unit: -decay_step(*unit), "should take 6"),
        (
            lambda w, v, g, h, eta, decay: -decay_step(w, v, g, h, eta, decay),
            "The sign is wrong: new minus old.",
        ),
        (decayed(lambda gap, squares, shrink: -shrink * gap + squares), "square it"),
        (
            decayed(lambda gap, squares, shrink: (math.exp(-2 * shrink) - 1) * gap + squares),
            "That is the flow's exponential",
        ),
        (
            lambda w, v, g, h, eta, decay: (
                decay_step(w, v, g, h, eta, decay) + (eta - eta**2) * (g @ g - h @ h)
            ),
            "The step size enters squared.",
        ),
        (decayed(lambda gap, squares, shrink: 0.5), "which terms cancel?"),
        (decayed(lambda gap, squares, shrink: math.nan), "which terms cancel?"),
    ],
    "04.3": [
        (TRICKS | {"clip each entry"}, "large entries shrink"),
        (TRICKS | {"l2 penalty"}, "lambda I(W), not 0"),
        ({"signs only"}, "Adam's first step"),
        ({"a step size per layer"}, "no longer cancel"),
        (TRICKS - {"dropout"}, "1 more is missing"),
        ({"dropout"}, "3 more are missing"),
        ({"dropout", "momentum"}, "Not among the candidates: momentum."),
        (4, "A set of names is asked for."),
    ],
    "04.4": [
        (lambda p, q, c: restoring(p, q, c) ** 2, "That is the square of the factor."),
        (lambda p, q, c: 1 / restoring(p, q, c), "That is the inverse"),
        (lambda p, q, c: -restoring(p, q, c), "Right up to the sign"),
        (lambda p, q, c: 0.0, "For p = 2, q = 3, c = 1 it is 0; a factor is positive."),
        (lambda p, q, c: math.nan, "a factor is positive."),
        (lambda p, q, c: 1.0, "it makes the invariant -1."),
        (lambda p, q, c: (c * c - 4 * p * q) ** 0.5, "The factor should be a number; it is ("),
        (lambda p, q: p / q, "The function takes 2 arguments; it should take 3."),
    ],
    "05.1": [
        (lambda gap, ratio: gap / (ratio - 1), "That is the squared norm of the upper layer, W2"),
        (lambda gap, ratio: gap / ratio, "cannot be smaller than the gap"),
        (lambda gap, ratio: gap * ratio, "squared norm 9.9 the ratio is 11, not 1.1"),
        (lambda gap: 2 * gap, "The function takes 1 arguments; it should take 2."),
    ],
    "05.2": [
        (scaled(-1), "The sign is wrong"),
        (scaled(0.5), "no factor 1/2"),
        (lambda g, eta: [each / eta for each in one_step(g, eta)], "The step size enters squared."),
        (lambda g, eta: [0.0] * (len(g) - 1), "Expand ||W - eta g||^2"),
        (lambda g, eta: one_step(g, eta)[:1], "has 2 hidden layers; you return 1."),
        (lambda g, eta: sum(one_step(g, eta)), "One number for each hidden layer is asked for"),
        (lambda g, eta: ["a", "b"], "Each change should be a number; it is 'a'."),
    ],
    "05.3": [
        ([3e-4**0.5, 3e-3**0.5, 3e-2**0.5], "Those are standard deviations; square them."),
        ([1e-6, 1e-5, 1e-4], "The squared norms are equal, but 0.1 each instead of 30."),
        ([0.03, 0.3, 0.3], "each *row* has the squared norm 30"),
        ([1e-4, 1e-4, 1e-4], "One variance for all"),
        ([0.3, 0.03, 0.003], "The expected squared norms are 3e+04, 300 and 3"),
        ([3e-4, 3e-3], "There are three layers; you gave 2 numbers."),
        ([3e-4, -3e-3, 3e-2], "A variance is positive."),
        (30, "Three numbers are asked for, as a list."),
        (["a", "b", "c"], "Each variance should be a number; it is 'a'."),
    ],
    "05.4": [
        (lambda start, last: [norm * last / start[-1] for norm in start], "You kept the ratios"),
        (lambda start, last: [last for _ in start], "Equal norms need gaps of zero"),
        (lambda start, last: [norm + last for norm in start], "less what the last layer had"),
        (lambda start, last: [last - norm + start[-1] for norm in start], "the sign of the gaps"),
        (lambda start, last: [*start[:-1], last], "the gaps of neighbouring layers"),
        (lambda start, last: start, "The last squared norm is given: 18.5, not 0.1."),
        (lambda start, last: [last], "There are 3 layers; you return 1 numbers."),
        (lambda start, last: last, "One number for each layer is asked for, as a list."),
        (lambda start, last: ["a"], "Each squared norm should be a number; it is 'a'."),
    ],
    "06.1": [
        (lambda U, V, M, eta, c: -gap_change(U, V, M, eta, c), "The sign is wrong"),
        (lambda U, V, M, eta, c: gap_change(U, V, M, eta, c) / eta, "The step size enters squared"),
        (lambda U, V, M, eta, c: gap_change(U, V, M, eta, 0.0), "Right for gamma = 0."),
        (
            lambda U, V, M, eta, c: gap_change(U, V, M, eta, c) - without_squares(U, V, M, eta, c),
            "The terms linear in the step are missing for gamma > 0.",
        ),
        (without_squares, "the squares are missing"),
        (lambda U, V, M, eta, c: torch.ones(2, 2), "For gamma = 0 it is not the change of a step."),
        (lambda U, V, M, eta, c: torch.ones(5, 2), "The shape should be (2, 2); it is (5, 2)."),
        (lambda U, V, M, eta, c: "eta^2", "A matrix is asked for; this is str."),
        (lambda U, V: U, "The function takes 2 arguments; it should take 5."),
    ],
    "06.2": [
        (one_sided_factors, "All of the singular values are in one factor."),
        (
            lambda M, r: (2 * balanced_factors(M, r)[0], balanced_factors(M, r)[1] / 2),
            "Give the square root of each singular value to either side.",
        ),
        (lambda M, r: (M[:, :r], M[:r].T), "U V^T is not the matrix."),
        (lambda M, r: (M, M), "The shape should be (5, 2); it is (5, 4)."),
        (lambda M, r: 3, "A pair (U, V) is asked for."),
        (lambda M, r: balanced_factors(M, r)[:1], "A pair (U, V) is asked for."),
    ],
    "06.3": [
        (lambda U, V: -gap_rate(U, V), "The sign: the penalty shrinks the gap."),
        (lambda U, V: gap_rate(U, V) / 2, "That is for half of the square"),
        (lambda U, V: 8 * gap_rate(U, V), "The 1/8 of (3) is missing."),
        (
            lambda U, V: gap_rate(U, V) / (2 * (U.T @ U - V.T @ V).norm()),
            "That is the rate of the norm, not of its square.",
        ),
        (lambda U, V: gap_rate(U, V) + 2 * rows(V, U), "The squares of V count as well"),
        (lambda U, V: -2 * (U.T @ U - V.T @ V).square().sum(), "where is S?"),
        (lambda U, V: rows(V, U) * 2 - rows(U, V) * 2, "S is the sum of the squares, not B."),
        (lambda U, V: 0.0, "Insert dB/dt = -(S B + B S) / 2"),
        (lambda U, V: "slow", "The rate should be a number; it is 'slow'."),
        (lambda U: 0.0, "The function takes 1 arguments; it should take 2."),
    ],
    "06.4": [
        (SAME_PAIR | {"three and a third"}, "but 9 U^T U is not V^T V / 9."),
        (SAME_PAIR | {"any invertible G"}, "the product is kept, balance is not."),
        ({"turn one"}, "the product becomes U R V^T."),
        ({"sign of one", "turn both"}, "If U alone changes its sign, so does the product."),
        ({"double both"}, "four times the product"),
        ({"exchange the factors"}, "the transpose"),
        (SAME_PAIR - {"turn both"}, "1 more is missing. Ask of each"),
        ({"turn"}, "Not among the candidates: turn."),
    ],
    "07.1": [
        (lambda c: 1 - c, "For c = 0.8 the noise is not the slowest any more."),
        (lambda c: abs(1 - 2 * c), "The noise is slower."),
        (lambda c: 1 + c, "shrinks by 0.900 a step, not by 1.100"),
        (0.9, "A function is asked for; this is float."),
    ],
    "07.2": [
        (lambda c: 2 * steps_per_decade(c), "The signal of the start falls as 1 / sqrt(d)"),
        (lambda c: math.log(10) / (2 * c), "A step multiplies the signal by 1 + c"),
        (lambda c: 1 / (2 * math.log1p(c)), "That is for e times the dimension."),
        (lambda c: 9.5, "For c = 0.05 it takes 23.60 more steps, not 9.50."),
        (lambda c: "many", "The number of steps for c = 0.05 should be a number; it is 'many'."),
    ],
    "07.3": [
        (lambda rho, c: 1 + c, "That is without noise."),
        (lambda rho, c: 1 - c * rho**2, "Each signal also gains c times the other."),
        (lambda rho, c: 1 + c - 2 * c * rho**2, "only the noise of the other side, once"),
        (lambda rho, c: 1 + c - c * rho, "The noise enters squared."),
        (lambda rho, c: 1 + c + c * rho**2, "The noise works against the signal"),
        (lambda rho, c: 1 - c - c * rho**2, "That is for the difference of the signals"),
        (lambda rho, c: rho, "a step multiplies the signal by 1.099, not by 0.1."),
        (lambda rho: 1.0, "The function takes 1 arguments; it should take 2."),
        (1.0, "A function is asked for; this is float."),
    ],
    "07.4": [
        (DIMENSION | {"noise at the start"}, "The noise is almost the whole vector"),
        (DIMENSION | {"growth factor"}, "The signal grows by 1 + c a step"),
        ({"second stage"}, "The second stage begins with noise of size c_init"),
        ({"final factor"}, "The noise dies out by 1 - c a step"),
        ({"first stage"}, "2 more are missing. The dimension enters through the start"),
        ({"everything"}, "Not among the candidates: everything."),
    ],
    "08.1": [
        (
            balancing_factors(lambda p: 1 / p),
            "For p = 3 the units are not balanced. That exchanges",
        ),
        (balancing_factors(lambda p: -1 / (2 * p)), "It is the other way round"),
        (balancing_factors(lambda p: 1 / (4 * p)), "The exponent is too small by half"),
        (balancing_factors(lambda p: 1 / (2 * p**2)), "These norms are roots already"),
        (balancing_factors(lambda p: 1 / 4, lambda p: 2), "That is right for p = 2 only."),
        (balancing_factors(lambda p: 1 / 4), "The exponent 1/4 is for p = 2"),
        (balancing_factors(lambda p: 1 / 6), "For p = 1 the units are not balanced. Minimize"),
        (lambda net, p: {"linear1": 1.0}, "For p = 3 the units are not balanced. Minimize"),
        (lambda net, p: torch.ones(6), "A dictionary with the one key 'linear1' is asked for."),
        (lambda net, p: {"linear2": 1.0}, "A dictionary with the one key 'linear1' is asked for."),
        (lambda net: {}, "The function takes 1 arguments; it should take 2."),
        (1.0, "A function is asked for; this is float."),
    ],
    "08.2": [
        (lambda net: 2 * product_sum(net), "That is the squared norm: take the root."),
        (lambda net: product_sum(net) ** 0.5, "a factor 2 is missing"),
        (product_sum, "Both sides of a balanced unit count, and the norm is a root."),
        (
            lambda net: (4 * sums(net, 2)[0].sum() * sums(net, 2)[1].sum()) ** 0.25,
            "That is the smallest with one factor for the layer",
        ),
        (
            lambda net: sum(w.square().sum() for w in net.parameters()).sqrt(),
            "That is the norm before any rescaling.",
        ),
        (lambda net: 0.1, "0.1 is smaller than the smallest norm of this network"),
        (lambda net: 100, "100 is larger than the smallest norm of this network"),
        (lambda net: "n", "The answer should be a number; it is 'n'."),
        (3.0, "A function is asked for; this is float."),
    ],
    "08.3": [
        (lambda u: [1 / a for a in chain_factors()(u)], "It is the other way round"),
        (
            lambda u: [statistics.geometric_mean(map(abs, u)) / abs(w) for w in u[:-1]],
            "also divided",
        ),
        (chain_factors(power=0.5), "Half of the exponent"),
        (chain_factors(statistics.fmean), "which mean is kept?"),
        (lambda u: [*chain_factors()(u), 1.0], "The last unit is the output"),
        (lambda u: u, "A chain of 3 weights has 2 hidden units, so as many factors"),
        (lambda u: [-1.0 for _ in u[:-1]], "A factor is positive: work with the sizes"),
        (lambda u: [math.nan for _ in u[:-1]], "A factor is positive: work with the sizes"),
        (lambda u: [1.0 for _ in u[:-1]], "The new weight h is u_h a_h / a_(h-1)"),
        (lambda u: ["a"], "A list of positive numbers is asked for"),
        (lambda u: [(-8) ** (1 / 3), 1.0], "A list of positive numbers is asked for"),
        ([1.0, 1.0], "A function is asked for; this is list."),
    ],
    "08.4": [
        (DEAD | {"C"}, "C is alive."),
        ({"F"}, "F is alive."),
        ({"B"}, "3 more are missing. Look for a path"),
        (DEAD - {"D"}, "1 more is missing. Look for a path"),
        ({"G"}, "Not among the candidates: G."),
        (4, "A set of names is asked for."),
    ],
    "09.1": [
        (powers(lambda p, q: -1 / (4 * max(p, q))), "For p = 1, q = 3 the factors are not right."),
        (powers(lambda p, q: -1 / (4 * max(p, q))), "It is the other way round: out / in."),
        (powers(lambda p, q: 1 / (4 * p)), "For p = 1, q = 3 the factors are not right. There 1"),
        (powers(lambda p, q: 1 / (4 * q)), "For p = 3, q = 1 the factors are not right. There 1"),
        (powers(lambda p, q: 1 / (4 * min(p, q))), "the larger of p and q counts"),
        (powers(lambda p, q: 1 / (2 * max(p, q))), "A safe exponent, but not Algorithm 1's"),
        (powers(lambda p, q: 1 / max(p, q)), "The exponent is 1 / (4 max(p, q))."),
        (powers(lambda p, q: 1), "The ratio has an exponent."),
        (powers(lambda p, q: 0.3), "They are powers of out / in."),
        (
            lambda into, out, p, q: (out / into) ** (1 / (4 * max(p, q))),
            "The unit without outgoing weights gets the factor 0, not 1.",
        ),
        (lambda into, out, p, q: torch.ones(5), "6 factors are asked for, one a unit"),
        (lambda into, out: into, "The function takes 2 arguments; it should take 4."),
        (torch.ones(6), "A function is asked for; this is Tensor."),
    ],
    "09.2": [
        ([[[1.0]], [[1.1]]], "With one hidden layer no two hidden units share a weight"),
        ([[[2.0]], [[2.0]], [[2.0]]], "This network is balanced: an update changes nothing."),
        ([[[1.0]], [[1.1]], [[1.2]]], "Start near balance, with neighbours that want to move"),
        ([[[1.0]], [[0.0]], [[1.2]]], "a nonzero incoming and a nonzero outgoing weight"),
        ([[[1.0]], [[1.0, 2.0]], [[1.2]]], "The matrices do not fit"),
        ([[[1.0]]], "A list of at least two matrices is asked for"),
        ([[1.0], [2.0], [3.0]], "each of shape (units, inputs)"),
        (3.0, "A list of weight matrices is asked for."),
        (["a", "b"], "A list of weight matrices is asked for."),
    ],
    "09.3": [
        (
            lambda F0, F, D, p, q: updates_enough(F0, 0, D, p, q),
            "The norm cannot fall below the smallest one.",
        ),
        (lambda *x: updates_enough(*x) / 2, "should take 5"),
        (lambda F0, F, D, p, q: updates_enough(F0, F, D, p, q) / 2, "There is a factor 1/2"),
        (
            lambda F0, F, D, p, q: 2 * q / max(p, q) * (F0 - F) / D,
            "Turn max(p, q) / q over.",
        ),
        (lambda F0, F, D, p, q: 2 * (F0 - F) / D, "How does the decrease depend on p and q?"),
        (lambda F0, F, D, p, q: 2 * p / q * (F0 - F) / D, "For p < q the larger of the two counts"),
        (lambda F0, F, D, p, q: updates_enough(F0, F, 1, p, q), "Divide by D."),
        (lambda F0, F, D, p, q: 1 / updates_enough(F0, F, D, p, q), "That is upside down"),
        (lambda F0, F, D, p, q: 7, "it is 30 updates, not 7. By how much does an update lower F"),
        (lambda F0, F, D, p, q: "a", "The answer should be a number; it is 'a'."),
    ],
    "09.4": [
        (ANY_EXPONENT | {"norm falls"}, "Beyond 1 / max(p, 2q) there are networks"),
        (ANY_EXPONENT | {"converges"}, "exchanges its sums forever"),
        ({"one update", "function"}, "Only the exponent 1/(2q)"),
        ({"function", "signs"}, "2 more are missing. A rescaling by any factors"),
        ({"speed"}, "Not among the candidates: speed."),
    ],
    "10.1": [
        (lambda q, n, e: multiplier(q, e, 1, n), "That is the first mode."),
        (lambda q, n, e: abs(multiplier(q, e, n - 1, n)), "That is the last mode"),
        (lambda q, n, e: multiplier(q, e, 1, n - 1), "N counts layers of weights"),
        (lambda q, n, e: (1 + math.cos(math.pi / n)) / 2, "That is the rate of Algorithm 1"),
        (lambda q, n, e: -mode_rate(q, n, e), "The sign does not matter"),
        (lambda q, n, e: 0.5, "For q = 2, N = 7 and exponent 0.125 the rate is 0.9505, not 0.5."),
        (lambda q, n: 0.5, "The function takes 2 arguments; it should take 3."),
        (lambda q, n, e: "r", "The answer should be a number; it is 'r'."),
    ],
    "10.2": [
        (mean_ratio(layer_sum, root=False), "That is the ratio of F: take the root"),
        (mean_ratio(lambda n, k, p, q: n), "The fan-in matters for this pair"),
        (mean_ratio(lambda n, k, p, q: n * k ** (q / p)), "The variance falls with the fan-in."),
        (mean_ratio(lambda n, k, p, q: n * k), "That counts the weights"),
        (lambda n, p, q: 1 / mean_ratio(layer_sum)(n, p, q), "yours is upside down"),
        (lambda widths, p, q: 0.9, "Estimate the sum of the shares of each layer"),
        (lambda widths: 0.9, "The function takes 1 arguments; it should take 3."),
    ],
    "10.3": [
        (lambda p, q, n: 2 * norm_digits(p, q, n), "That is for the factors"),
        (lambda p, q, n: norm_digits(p, q, n) / 2, "not by its fourth power"),
        (lambda p, q, n: norm_digits(p, q, n) / math.log(10), "By then 1/e is left"),
        (lambda p, q, n: norm_digits(2, 2, n), "For p > q updates are slower."),
        (lambda p, q, n: norm_digits(p, q, n - 1), "N counts layers of weights"),
        (lambda p, q, n: 0.93 * max(1, p / q) * n**2 / 2, "rule of thumb for deep networks"),
        (lambda p, q, n: multiplier(q, 1 / (4 * max(p, q)), 1, n) ** 2, "after one update"),
        (lambda p, q, n: 1.0, "For p = 2, q = 2, N = 7 it is 22.67, not 1. What does an"),
        (lambda p, q, n: "n", "The answer should be a number; it is 'n'."),
        (lambda n: 1.0, "The function takes 1 arguments; it should take 3."),
    ],
    "10.4": [
        (SLOWER | {"twice as wide"}, "the depth, not the widths"),
        (SLOWER | {"weights times ten"}, "does not notice a common factor"),
        ({"farther start"}, "That costs more updates once"),
        ({"(8, 8)"}, "Only the ratio p / q occurs in the rate."),
        ({"(1, 4)", "(4, 1)"}, "For p < q the rate of whole layers is that of p = q."),
        ({"two more layers"}, "2 more are missing. Read the rate of the smooth mode"),
        ({"(2, 2)"}, "Not among the candidates: (2, 2)."),
    ],
    "11.1": [
        (osborne(-0.5), "Row and column 2 do not have equal sums. It is the other way round"),
        (osborne(1.0), "That exchanges the two sums"),
        (osborne(0.25), "That is the exponent of Algorithm 1"),
        (osborne(diagonal=True), "Leave the diagonal out of both sums"),
        (osborne(column=0), "The column is to be divided by what the row is multiplied by."),
        (osborne(row=0), "The row is to be multiplied by what the column is divided by."),
        (lambda M, i: M.T, "Row 2 should be multiplied, and column 2 divided"),
        (lambda M, i: M[i], "The shape should be (6, 6); it is (6,)."),
        (lambda M, i: "M", "A matrix is asked for; this is str."),
        (lambda M: M, "The function takes 1 arguments; it should take 2."),
    ],
    "11.2": [
        (layer_factors(lambda q: -1 / q), "It is the other way round"),
        (layer_factors(lambda q: 1), "a root is missing"),
        (layer_factors(lambda q: 0.5 / q), "Half of the exponent"),
        (lambda sums, q: layer_factors()(sums, q).log(), "Those are logarithms of the factors."),
        (
            lambda sums, q: ((sums.log().mean() - sums.log()) / q)[:-1].exp(),
            "For N = 5, q = 2 the layer sums do not become equal. A layer sum changes with",
        ),
        (layer_factors(mean=lambda sums: sums.mean().log()), "not their sum: which mean?"),
        (layer_factors(kept=7), "the last factor, 1, is that of outputs."),
        (lambda sums, q: sums[:2], "For N = 5 there are 4 hidden layers, so as many factors"),
        (lambda sums, q: torch.ones(len(sums) - 1), "the layer sums do not become equal."),
        (lambda sums, q: "equal", "A tensor is asked for; this is str."),
        (3, "A function is asked for; this is int."),
    ],
    "11.3": [
        (lambda n: math.cos(math.pi / n), "That is the rate of half a sweep"),
        (lambda n: (1 + math.cos(math.pi / n)) / 2, "That is the rate of Algorithm 1."),
        (lambda n: math.cos(math.pi / (n - 1)) ** 2, "N counts layers of weights"),
        (lambda n: math.cos(math.pi / (n + 1)) ** 2, "There are N - 1 hidden layers"),
        (lambda n: 1 - math.pi**2 / n**2, "That is the limit for deep networks"),
        (lambda n: 0.5, "For N = 7 the rate is 0.8117, not 0.5."),
        (lambda n: "slow", "The answer should be a number; it is 'slow'."),
    ],
    "11.4": [
        (lambda a: a.log2().round(), "Those are the exponents."),
        (lambda a: 2 ** a.log2().floor(), "You always round down"),
        (lambda a: 2 ** a.log2().ceil(), "You always round up"),
        (lambda a: a.round(), "Those are whole numbers"),
        (lambda a: a.log().round().exp(), "Those are powers of e."),
        (lambda a: a, "The factors have not been rounded."),
        (lambda a: 1.5 * 2 ** a.log2().round(), "Not all of these are powers of two"),
        (lambda a: -(2 ** a.log2().round()), "Not all of these are powers of two"),
        (
            lambda a: 2 ** (a.log2().floor() + (a / 2 ** a.log2().floor() > 1.5)),
            "For 1.45 it is 2: 2 / 1.45 is less than 1.45 / 1.",
        ),
        (lambda a: torch.ones_like(a), "another power of two is nearer in the logarithm."),
        (lambda a: a[:3], "The shape should be (30,); it is (3,)."),
    ],
    "12.1": [
        (lambda W, g, q: -g / 2, "That is gradient flow, which is right for q = 2 only."),
        (row_flow(turn=lambda q: 0), "For q = 1 it is not right. The second term is missing"),
        (row_flow(turn=lambda q: q / 2 - 1), "It is p / q, not q / p, in the second term."),
        (row_flow(turn=lambda q: 1 - 2 / q), "Both terms have the same sign."),
        (row_flow(part=1), "The factor 1 / p is missing."),
        (row_flow(part=-0.5), "The sign: the flow goes against the gradient."),
        (row_flow(power=-1), "W^2 / pi is n^(2 - q), not n^(q - 2)."),
        (lambda W, g, q: -W * g, "the shares W^2 n^(q - 2) should move by -W g."),
        (lambda W, g, q: g.sum(), "The shape should be (4, 3); it is ()."),
        (lambda W, g: -g, "The function takes 2 arguments; it should take 3."),
    ],
    "12.2": [
        (lambda u, v, q: (1, 1), "From (1.5, 0.2) at q = 3: |u|^q - |v|^q should be 3.367"),
        (lambda u, v, q: end_point(u, v, 2), "you keep u^2 - v^2, as gradient flow does."),
        (lambda u, v, q: end_point(v, u, q), "you have exchanged u and v."),
        (lambda u, v, q: (-end_point(u, v, q)[0], -end_point(u, v, q)[1]), "changes its sign"),
        (lambda u, v, q: (u, v), "u v is 0.3; at the end it is 1, where the loss is 0."),
        (lambda u, v, q: 1.0, "A pair (u, v) is asked for."),
        (lambda u, v, q: (u, v, q), "A pair (u, v) is asked for."),
        ((1, 1), "A function is asked for; this is tuple."),
    ],
    "12.3": [
        (geometry(turn=lambda p, q: 0), "For p = 2, q = 1 it is not right. The second term is"),
        (geometry(turn=lambda p, q: q / p - 1), "It is p / q, not q / p, in the second term."),
        (lambda w, p, q: p * geometry()(w, p, q), "The factor 1 / p is missing."),
        (geometry(part=-1), "The minus sign stands in front of A"),
        (lambda w, p, q: geometry()(w, p, q).inverse(), "That is the inverse"),
        (lambda w, p, q: geometry()(w, p, q).diag().diag(), "Right on the diagonal."),
        (lambda w, p, q: w.outer(w**2), "your matrix is not symmetric."),
        (lambda w, p, q: torch.eye(4), "the shares do not move by -w g"),
        (lambda w, p, q: w, "The shape should be (4, 4); it is (4,)."),
        (lambda w, p: w.diag(), "The function takes 2 arguments; it should take 3."),
    ],
    "12.4": [
        (KEPT | {"gradient flow, in (1, 1)"}, "Gradient flow moves the squares"),
        (KEPT | {"flow of (1, 1), in (2, 2)"}, "keeps the imbalance in this norm"),
        (KEPT | {"flow of (3, 3), in (3, 3), with weight decay"}, "decay as e^(-lambda t)"),
        (
            KEPT | {"flow of (1, 2), in (1, 2), with biases that do not count"},
            "its share belongs to the incoming sum",
        ),
        (KEPT - {"gradient flow, in (2, 2)"}, "1 more is missing. Ask of each"),
        ("all", "Not among the candidates: a, l."),
    ],
    "13.1": [
        (lambda W, g: -g, "That is gradient flow, which belongs to W^2."),
        (lambda W, g: -W.abs() * g, "That belongs to |W|, and fits large weights only."),
        (lambda W, g: ((1 + W**2) ** 1.5) / (2 + W**2) * g, "The sign"),
        (lambda W, g: -((1 + W**2) ** 1.5) / (2 + W**2) * W * g, "A factor W is too many"),
        (lambda W, g: -((1 + W**2) ** 0.5) * g, "You let R itself move by -W g"),
        (lambda W, g: -((1 + W**2) ** 1.5) * g, "You let dR/dW move by -g"),
        (lambda W, g: -g / 3, "The shares are W dR/dW = W^2 / sqrt(1 + W^2)"),
        (lambda W, g: W[0], "The shape should be (5, 4); it is (4,)."),
        (lambda W: W, "The function takes 1 arguments; it should take 2."),
    ],
    "13.2": [
        (lambda lr, p, q, d: math.log(2) / (d * lr), "A step of size lr is p lr"),
        (lambda lr, p, q, d: math.log(2) / (d * q * lr), "That would be q lr of time a step"),
        (lambda lr, p, q, d: q * math.log(2) / (d * p * lr), "the half-life of the weights"),
        (lambda lr, p, q, d: math.log(2) / (2 * d * lr), "That is right for gradient flow"),
        (lambda lr, p, q, d: 1 / (d * p * lr), "By then 1/e is left, not a half."),
        (lambda lr, p, q, d: math.log(2) / (d * p), "That is a time"),
        (lambda lr, p, q, d: 7, "and decay 0.5 it is 138.6 steps, not 7."),
        (lambda lr, p, q, d: "a", "The answer should be a number; it is 'a'."),
        (lambda lr, p: 1, "The function takes 2 arguments; it should take 4."),
    ],
    "13.3": [
        (own_cut(-1, 1), "For share 1 and loss 2.5 it is not right. The sign"),
        (own_cut(1, 1), "so the two have opposite signs"),
        (own_cut(1, 0), "one of the outgoing weights of j"),
        (lambda share, loss: (loss - share, share - loss), "The cut leaves a tenth of the share"),
        (lambda share, loss: (-0.9 * share, 0.9 * share), "That is what the weight loses."),
        (
            lambda share, loss: (loss - 0.9 * share, 0.9 * share - loss),
            "For share 2 and loss 0.5 nothing is cut",
        ),
        (lambda share, loss: (0, 0), "By how much does the share end above"),
        (lambda share, loss: 1.0, "A pair is asked for"),
        (lambda share, loss: (1.0, "a"), "A change should be a number; it is 'a'."),
    ],
    "13.4": [
        (EXACT | {"Euler's method in the weights, (1, 2)"}, "not linear in the weights"),
        (EXACT | {"gradient descent, (2, 2)"}, "the eta^2 identity of chapter 4"),
        (EXACT | {"share steps with a cut for each weight, (1, 2)"}, "by different amounts"),
        (EXACT | {"dual steps, (3, 3)"}, "not linear in the dual coordinate"),
        (EXACT - {"Euler's method in the weights, (1, 1)"}, "1 more is missing. For p = q = 1"),
        (7, "A set of names is asked for."),
    ],
    "14.1": [
        (lambda g, b, w: read(w) - written(g) - written(b), "The sign is reversed"),
        (lambda g, b, w: written(g) - read(w), "The shifts are missing"),
        (lambda g, b, w: sum(g) ** 2 + sum(b) ** 2 - read(w), "square first, then sum"),
        (lambda g, b, w: g[0] ** 2 + b[0] ** 2 - read(w), "Every batch norm whose output"),
        (lambda g, b, w: written(g) + written(b) - read(w[:1]), "Every layer that reads"),
        (lambda g, b, w: written(g), "Which weights are multiplied"),
        (lambda g, b, w: 0.0, "One number a channel is asked for: a tensor of shape (4,)."),
        (lambda net: net, "The function takes 1 arguments; it should take 3."),
    ],
    "14.2": [
        (lambda e, d, p: [f**2 for f in block_factors(e, d, p)], "the squares of the factors"),
        (lambda e, d, p: [1 / f for f in block_factors(e, d, p)], "the other way round"),
        (one_unit_at_a_time, "as if the other kept factor 1"),
        (relative_factors, "multiplied by b / a; you gave that, not b."),
        (lambda e, d, p: (torch.ones(6), torch.ones(6)), "are not equal"),
        (lambda e, d, p: torch.ones(6), "A pair (a, b) of tensors is asked for."),
        (lambda e, d, p: (torch.ones(6), torch.ones(2)), "The shape should be (6,); it is (2,)."),
        ((1, 1), "A function is asked for; this is tuple."),
    ],
    "14.3": [
        (lambda query, key: query.T @ query - key.T @ key, "This is 5 x 5."),
        (lambda query, key: key @ key.T - query @ query.T, "queries minus keys"),
        (lambda query, key: query @ query.T + key @ key.T, "What multiplies the queries"),
        (lambda query, key: (query**2 - key**2).sum(1), "That is the diagonal."),
        (lambda query, key: (query**2 - key**2).sum(1).diag(), "Right on the diagonal."),
        (lambda query, key: query @ key.T, "That is a product of both."),
        (lambda query, key: query @ query.T, "Compare with a linear hidden layer"),
        (lambda query, key: 1.0, "The shape should be (3, 3); it is ()."),
    ],
    "14.4": [
        (FREE | {"outputs of a convolution that a batch norm reads"}, "could make up for it"),
        (FREE | {"outputs of a layer norm that attention reads"}, "through a softmax"),
        (FREE | {"hidden units that pass through a tanh"}, "tanh(a z) is not a tanh(z)"),
        (FREE | {"logits"}, "Nothing reads the outputs"),
        (
            FREE - {"channels of a U-Net that are read again through a concatenation"},
            "1 more is missing. Sums tie units",
        ),
        (["units"], "Not among the candidates: units."),
    ],
    "15.1": [
        (lambda i, o: 1 / equal_ranges(i, o), "Turn it over"),
        (lambda i, o: equal_ranges(i, o) ** 2, "Both sides move"),
        (lambda i, o: (o.norm() / i.norm()).sqrt(), "That balances p = q = 2"),
        (lambda i, o: (o.max() / i.max()).abs().sqrt(), "Compare sizes"),
        (lambda i, o: 1, "the factor is "),
        (lambda i, o: "a", "The factor should be a number; it is 'a'."),
    ],
    "15.2": [
        (UNCHANGED | {"unit factors, per tensor"}, "one unit with a large factor sets the grid"),
        (UNCHANGED | {"column factors, per channel"}, "a row has one grid"),
        (UNCHANGED | {"layer factors, global pruning"}, "at the others' expense"),
        (UNCHANGED | {"unit factors, layerwise pruning"}, "Layerwise pruning: within a layer"),
        (UNCHANGED - {"row factors, per channel"}, "1 more is missing. Ask of each"),
        (["all"], "Not among the candidates: all."),
    ],
    "15.3": [
        (lambda W, V: (W.abs(), V.abs()), "rescaling changes them"),
        (balanced_scores(1.0), "The factor that balances a unit is the root"),
        (balanced_scores(sign=-1), "Turn the factor over"),
        (
            lambda W, V: (W.abs() / W.norm(dim=1, keepdim=True), V.abs() / V.norm(dim=0)),
            "they forget how much a unit does",
        ),
        (lambda W, V: (W, V), "The order is not that of the sizes"),
        (lambda W, V: W, "A pair is asked for"),
        (lambda W, V: (W, V.T), "The shape should be (3, 6); it is (6, 3)."),
    ],
}


def printed(exercise: str, answer: Answer, capsys: CapSys) -> str:
    check(exercise, answer)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"Exercise {exercise}: ")
    assert captured.out.count("\n") == 1
    return captured.out


def test_every_exercise_is_tested() -> None:
    assert set(SOLUTIONS) == set(WRONG) == set(exercises._CHECKS)


@pytest.mark.parametrize(
    ("exercise", "answer"), [(key, each) for key, answers in SOLUTIONS.items() for each in answers]
)
def test_solution(exercise: str, answer: Answer, capsys: CapSys) -> None:
    assert f"{exercise}: correct. " in printed(exercise, answer, capsys)


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [(key, *each) for key, answers in WRONG.items() for each in answers],
)
def test_wrong_answer_gets_its_hint(
    exercise: str, answer: Answer, hint: str, capsys: CapSys
) -> None:
    text = printed(exercise, answer, capsys)
    assert f"{exercise}: not yet. " in text
    assert hint in text


@pytest.mark.parametrize("answer", [None, ...])
@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_no_answer_yet(exercise: str, answer: Answer, capsys: CapSys) -> None:
    assert f"{exercise}: no answer yet. " in printed(exercise, answer, capsys)


@pytest.mark.parametrize("result", [None, ...])
@pytest.mark.parametrize(
    ("exercise", "arity"),
    [
        ("01.1", 1),
        ("01.3", 2),
        ("02.2", 1),
        ("02.3", 5),
        ("03.3", 4),
        ("04.1", 1),
        ("04.2", 6),
        ("04.4", 3),
        ("05.1", 2),
        ("05.2", 2),
        ("05.4", 2),
        ("06.1", 5),
        ("06.2", 2),
        ("06.3", 2),
        ("07.1", 1),
        ("07.2", 1),
        ("07.3", 2),
        ("08.1", 2),
        ("08.2", 1),
        ("08.3", 1),
        ("09.1", 4),
        ("09.3", 5),
        ("10.1", 3),
        ("10.2", 3),
        ("10.3", 3),
        ("11.1", 2),
        ("11.2", 2),
        ("11.3", 1),
        ("11.4", 1),
        ("12.1", 3),
        ("12.2", 3),
        ("12.3", 3),
        ("13.1", 2),
        ("13.2", 4),
        ("13.3", 2),
        ("14.1", 3),
        ("14.2", 3),
        ("14.3", 2),
        ("15.1", 2),
        ("15.3", 2),
    ],
)
def test_function_without_a_result_is_no_answer_yet(
    exercise: str, arity: int, result: object, capsys: CapSys
) -> None:
    answers: dict[int, Answer] = {
        1: lambda a: result,
        2: lambda a, b: result,
        3: lambda a, b, c: result,
        4: lambda a, b, c, d: result,
        5: lambda a, b, c, d, e: result,
        6: lambda a, b, c, d, e, f: result,
    }
    answer = answers[arity]
    assert f"{exercise}: no answer yet. " in printed(exercise, answer, capsys)


def broken_one(_: object) -> None:
    raise KeyError("linear7")


def broken_two(_: object, __: object) -> None:
    raise ZeroDivisionError("division by zero")


class Untouchable:
    """Raises whatever is done with it."""

    def __iter__(self) -> None:
        raise RuntimeError("hands off")


@pytest.mark.parametrize(
    ("exercise", "answer", "kind"),
    [
        ("01.1", broken_one, "KeyError"),
        ("01.1", lambda net: {"linear9": 1.0}, "ValueError: group 'linear9' is not a group"),
        ("01.2", Untouchable(), "RuntimeError: hands off"),
        ("01.3", broken_two, "ZeroDivisionError: division by zero"),
        ("02.1", Untouchable(), "RuntimeError: hands off"),
        ("02.2", broken_one, "KeyError"),
        ("02.3", lambda w, v, g, h, decay: w @ g[:2], "RuntimeError: "),
        ("02.4", Untouchable(), "RuntimeError: hands off"),
        ("03.3", lambda z, t, d, e: z @ t[:2], "RuntimeError: "),
        ("04.1", broken_one, "KeyError"),
        ("04.2", lambda w, v, g, h, eta, decay: w @ g[:2], "RuntimeError: "),
        ("04.3", Untouchable(), "RuntimeError: hands off"),
        ("04.4", lambda p, q, c: p / (c - 1), "ZeroDivisionError"),
        ("05.1", broken_two, "ZeroDivisionError: division by zero"),
        ("05.2", broken_two, "ZeroDivisionError: division by zero"),
        ("05.3", Untouchable(), "RuntimeError: hands off"),
        ("05.4", broken_two, "ZeroDivisionError: division by zero"),
        ("06.1", lambda U, V, target, step, c: U @ V, "RuntimeError: "),
        ("06.2", broken_two, "ZeroDivisionError: division by zero"),
        ("06.3", lambda U, V: U @ V, "RuntimeError: "),
        ("06.4", Untouchable(), "RuntimeError: hands off"),
        ("07.1", broken_one, "KeyError"),
        ("07.2", broken_one, "KeyError"),
        ("07.3", broken_two, "ZeroDivisionError: division by zero"),
        ("07.4", Untouchable(), "RuntimeError: hands off"),
        ("08.1", broken_two, "ZeroDivisionError: division by zero"),
        ("08.1", lambda net, p: {"linear1": [1, 2]}, "ValueError: factors of group 'linear1'"),
        ("08.2", broken_one, "KeyError"),
        ("08.3", broken_one, "KeyError"),
        ("08.4", Untouchable(), "RuntimeError: hands off"),
        ("09.2", Untouchable(), "RuntimeError: hands off"),
        ("09.3", lambda F0, F, D, p, q: F0 / (p - 2), "ZeroDivisionError"),
        ("09.4", Untouchable(), "RuntimeError: hands off"),
        ("10.3", lambda p, q, n: p / (n - 7), "ZeroDivisionError"),
        ("10.4", Untouchable(), "RuntimeError: hands off"),
        ("11.1", broken_two, "ZeroDivisionError: division by zero"),
        ("11.2", lambda sums, q: sums @ sums[:2], "RuntimeError: "),
        ("11.3", broken_one, "KeyError"),
        ("11.4", broken_one, "KeyError"),
        ("12.1", lambda W, g, q: W @ g, "RuntimeError: "),
        ("12.2", lambda u, v, q: u / 0, "ZeroDivisionError"),
        ("12.3", lambda w, p, q: w @ w[:2], "RuntimeError: "),
        ("12.4", Untouchable(), "RuntimeError: hands off"),
        ("13.1", broken_two, "ZeroDivisionError: division by zero"),
        ("13.3", broken_two, "ZeroDivisionError: division by zero"),
        ("13.4", Untouchable(), "RuntimeError: hands off"),
        ("14.1", lambda gains, shifts, readers: gains[3], "IndexError"),
        ("14.2", lambda expand, depthwise, project: expand @ depthwise, "RuntimeError: "),
        ("14.3", broken_two, "ZeroDivisionError: division by zero"),
        ("14.4", Untouchable(), "RuntimeError: hands off"),
        ("15.1", broken_two, "ZeroDivisionError: division by zero"),
        ("15.2", Untouchable(), "RuntimeError: hands off"),
        ("15.3", lambda W, V: W @ V, "RuntimeError: "),
    ],
)
def test_answer_that_raises(exercise: str, answer: Answer, kind: str, capsys: CapSys) -> None:
    assert f"your answer raised {kind}" in printed(exercise, answer, capsys)


@pytest.mark.parametrize("exercise", ["99.9", "", "1.1"])
@pytest.mark.parametrize("answer", [None, 3])
def test_unknown_exercise(exercise: str, answer: Answer) -> None:
    with pytest.raises(ValueError, match=r"no exercise '.*'; there are 01\.1, 01\.2"):
        check(exercise, answer)


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_grade_accepts_what_check_calls_correct(exercise: str, capsys: CapSys) -> None:
    for answer in SOLUTIONS[exercise]:
        grade(exercise, answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("exercise", WRONG)
def test_grade_raises_with_the_hint(exercise: str) -> None:
    for answer, hint in WRONG[exercise]:
        with pytest.raises(AssertionError, match=re.escape(hint)):
            grade(exercise, answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "no answer yet"), (..., "no answer yet"), (broken_one, "your answer raised KeyError")],
)
def test_grade_raises_without_a_usable_answer(answer: Answer, said: str) -> None:
    with pytest.raises(AssertionError, match=f"^Exercise 01.1: {said}"):
        grade("01.1", answer)


def test_grade_knows_what_exercises_there_are() -> None:
    with pytest.raises(ValueError, match=r"no exercise '99\.9'"):
        grade("99.9", None)

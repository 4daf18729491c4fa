"""Du, Hu and Lee (2018): claims that are checked on the spot, on random networks."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from balancing.claims.claim import Claim
from balancing.conservation import invariant_gradients, reachable_directions
from balancing.invariants import layer_invariants, matrix_invariants, unit_invariants
from balancing.networks import mlp
from balancing.norms import shares
from balancing.rescaling import rescale
from balancing.trajectories import Trajectory, integrate_flow

DU = "Du, Hu and Lee 2018"
SEEDS = range(3)


def _problem(
    seed: int, activation: str | Callable[[], nn.Module], *, bias: bool
) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A random float64 network 4-6-5-3 with its data: 12 Gaussian inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    net = mlp([4, 6, 5, 3], activation=activation, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    x = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    y = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    return net, x, y


def _loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    residual: Tensor = net(x) - y
    return 0.5 * residual.square().sum(1).mean()


ACTIVATIONS: tuple[str | Callable[[], nn.Module], ...] = ("relu", lambda: nn.LeakyReLU(0.2))


@functools.cache
def _path(activation: str | Callable[[], nn.Module], seed: int, *, bias: bool) -> Trajectory:
    """Gradient flow of a random network until t = 1, or until it slides along a ReLU kink."""
    net, x, y = _problem(seed, activation, bias=bias)
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    return integrate_flow(net, lambda n: _loss(n, x, y), times, on_sliding="stop")


def _flow_drift(
    quantity: Callable[[nn.Module], dict[str, Tensor]],
    activations: Iterable[str | Callable[[], nn.Module]],
    *,
    bias: bool,
) -> float:
    """Largest change of a quantity along gradient flow, relative to the squared weights.

    Not relative to the quantity itself, which may be zero.
    """
    worst = 0.0
    for activation in activations:
        for seed in SEEDS:
            path = _path(activation, seed, bias=bias)
            scale = path.states.square().sum(1).max()
            for value in path.measure(quantity).values():
                worst = max(worst, float((value - value[0]).abs().max() / scale))
    return worst


def _symmetry() -> float:
    """Largest relative change of the output under random factors between 1/20 and 20."""
    worst = 0.0
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, _ = _problem(seed, activation, bias=True)
            generator = torch.Generator().manual_seed(seed)
            factors = {
                f"linear{h}": 20 ** (2 * torch.rand(n, generator=generator).double() - 1)
                for h, n in ((1, 6), (2, 5))
            }
            with torch.no_grad():
                before, after = net(x), rescale(net, factors)(x)
            worst = max(worst, float((after - before).abs().max() / before.abs().max()))
    return worst


def _gradients_balance() -> float:
    """Largest relative difference of the two sides of the identity behind Theorem 2.1."""
    worst = 0.0
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, y = _problem(seed, activation, bias=False)
            _loss(net, x, y).backward()
            w, v = (net.get_parameter(f"linear{h}.weight") for h in (1, 2))
            assert w.grad is not None
            assert v.grad is not None
            along_w, along_v = (w * w.grad).detach(), (v * v.grad).detach()
            into, out = along_w.sum(1), along_v.sum(0)
            scale = along_w.abs().sum(1) + along_v.abs().sum(0)
            worst = max(worst, float(((into - out).abs() / scale).max()))
    return worst


@functools.cache
def _convolutional_path(seed: int) -> Trajectory:
    """Gradient flow of a small convolutional network: 5 positions, zero padding, leaky ReLU."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Conv1d(1, 3, 3, padding=1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv1d(3, 2, 3, padding=1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(10, 2, bias=False),
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    x = torch.randn(4, 1, 5, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    return integrate_flow(net, lambda n: _loss(n, x, y), times, on_sliding="stop")


def _convolution_drift(quantity: Callable[[nn.Module], dict[str, Tensor]]) -> float:
    """Largest change of a quantity along the flow, relative to the squared weights."""
    worst = 0.0
    for seed in SEEDS:
        path = _convolutional_path(seed)
        scale = path.states.square().sum(1).max()
        for value in path.measure(quantity).values():
            worst = max(worst, float((value - value[0]).abs().max() / scale))
    return worst


def _unrolled_gap(net: nn.Module) -> dict[str, Tensor]:
    """Squared norm of the first convolution's unrolled matrix minus that of the second's."""
    times_used = torch.tensor([4.0, 5.0, 4.0], dtype=torch.float64)  # of 5 positions, padded
    first, second = (
        (net.get_parameter(f"{index}.weight").detach().square() * times_used).sum()
        for index in (0, 2)
    )
    return {"0": first - second}


def _off_diagonal_moves() -> float:
    """Change, along gradient flow, of the off-diagonal entries that Theorem 2.2 excludes."""

    def matrix(net: nn.Module) -> dict[str, Tensor]:
        w, v = net.get_parameter("linear1.weight"), net.get_parameter("linear2.weight")
        full = (w @ w.T - v.T @ v).detach()
        return {"linear1": full - full.diag().diag()}

    return _flow_drift(matrix, ["relu"], bias=False)


def _miscounted(
    networks: Iterable[list[int]],
    activation: str | Callable[[], nn.Module],
    quantity: Callable[[nn.Module], dict[str, Tensor]],
) -> float:
    """Largest difference between the conserved quantities counted and those of the theorems.

    Infinite where a gradient of the theorems' quantities is not orthogonal to what can be reached.
    """
    worst = 0.0
    for widths in networks:
        generator = torch.Generator().manual_seed(0)
        net = mlp(widths, activation=activation, dtype=torch.float64)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(generator=generator)
        draws = 2 if activation == "linear" else 6  # more than one only where there are kinks
        found = reachable_directions(net, widths[:1], generator=generator, draws=draws)
        gradients = invariant_gradients(net, quantity)
        if float((gradients @ found.directions.T).abs().max()) > 1e-10:
            return np.inf
        independent = int(torch.linalg.matrix_rank(gradients, rtol=1e-9))
        worst = max(worst, abs(found.conserved - independent))
    return worst


def _one_step() -> float:
    """Largest error of the one-step identity, relative to the squared gradient norms."""
    worst, step = 0.0, 0.1
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, y = _problem(seed, activation, bias=True)
            before = unit_invariants(net)
            _loss(net, x, y).backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(step * parameter.grad)
            after = unit_invariants(net)
            for h in (1, 2):
                g, b, above = (
                    net.get_parameter(name).grad
                    for name in (f"linear{h}.weight", f"linear{h}.bias", f"linear{h + 1}.weight")
                )
                assert g is not None
                assert b is not None
                assert above is not None
                predicted = step**2 * (g.square().sum(1) + b.square() - above.square().sum(0))
                scale = sum(float(w.detach().square().sum()) for w in net.parameters())
                change = after[f"linear{h}"] - before[f"linear{h}"]
                worst = max(worst, float((change - predicted).abs().max() / scale))
    return worst


def _one_quantity() -> float:
    """Difference between Saul's shares at p = q = 2 and Du's squared weights."""
    net, _, _ = _problem(0, "relu", bias=False)
    pi = shares(net, 2, 2)
    return max(float((pi[n] - w.detach() ** 2).abs().max()) for n, w in net.named_parameters())


def _factors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors 6x3 and 5x3 with Gaussian entries, and a target of rank 3."""
    generator = torch.Generator().manual_seed(seed)
    U, V, left, right = (
        torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (6, 5, 6, 5)
    )
    return U, V, left @ right.T


def _factorization_step() -> float:
    """Largest error of the one-step change of the gap, relative to the squared factors."""
    worst, step = 0.0, 0.1
    for seed in SEEDS:
        U, V, target = _factors(seed)
        U.requires_grad_()
        V.requires_grad_()
        E = U @ V.T - target
        slope_u, slope_v = torch.autograd.grad(0.5 * E.square().sum(), (U, V))
        U, V, E = U.detach(), V.detach(), E.detach()
        new_u, new_v = U - step * slope_u, V - step * slope_v
        change = (new_u.T @ new_u - new_v.T @ new_v) - (U.T @ U - V.T @ V)
        predicted = step**2 * (V.T @ E.T @ E @ V - U.T @ E @ E.T @ U)
        scale = float(new_u.square().sum() + new_v.square().sum())
        worst = max(worst, float((change - predicted).norm()) / scale)
    return worst


def _norm_identity() -> float:
    """Largest relative difference of the two sides of the identity that bounds the factors."""
    worst = 0.0
    for seed in SEEDS:
        U, V, _ = _factors(seed)
        left = (U.T @ U).square().sum() + (V.T @ V).square().sum()
        right = (U.T @ U - V.T @ V).square().sum() + 2 * (U @ V.T).square().sum()
        worst = max(worst, float((left / right - 1).abs()))
    return worst


def _escape_times() -> float:
    """Largest error, in iterations, of the predicted times at which directions are learned."""
    worst, step, scale = 0.0, 0.05, 1e-4
    sigma = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        draws = [torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (20, 15) * 2]
        left, right = (torch.linalg.qr(draw).Q for draw in draws[:2])
        target = left @ torch.diag(sigma) @ right.T
        U, V = (scale * draw for draw in draws[2:])
        # each direction grows with what is orthogonal to those that were learned before
        start = torch.linalg.qr((U.T @ left + V.T @ right) / 2).R.diag().abs()
        predicted = torch.log(sigma.sqrt() / start) / torch.log1p(step * sigma)
        learned = []
        for _ in range(int(predicted.max()) + 20):
            learned.append((left.T @ U @ V.T @ right).diag() / sigma)
            E = U @ V.T - target
            U, V = U - step * E @ V, V - step * E.T @ U
        measured = (torch.stack(learned) > 0.5).int().argmax(dim=0)
        worst = max(worst, float((measured - predicted).abs().max()))
    return worst


def _of(net: nn.Module, tensors: Iterable[Tensor]) -> Tensor:
    """The unit invariants with other tensors in place of the weights, for example gradients."""
    copied = copy.deepcopy(net)
    with torch.no_grad():
        for parameter, tensor in zip(copied.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
    return torch.cat(list(unit_invariants(copied).values()))


def _squared(tensors: Iterable[Tensor]) -> float:
    return sum(float(tensor.detach().square().sum()) for tensor in tensors)


def _decay_step() -> float:
    """Largest error of the one-step identity with weight decay, on minibatches."""
    worst, step, decay = 0.0, 0.1, 0.3
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, y = _problem(seed, activation, bias=True)
            weights = list(net.parameters())
            optimizer = torch.optim.SGD(weights, lr=step, weight_decay=decay)
            for batch in (slice(0, 4), slice(4, 8), slice(8, 12)):
                gradients = torch.autograd.grad(_loss(net, x[batch], y[batch]), weights)
                expected = (1 - step * decay) ** 2 * _of(net, weights)
                expected += step**2 * _of(net, gradients)
                scale = _squared(weights)
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                optimizer.step()
                worst = max(worst, float((_of(net, weights) - expected).abs().max() / scale))
    return worst


def _momentum_step() -> float:
    """Largest error of the one-step identity of heavy-ball momentum, 20 steps."""
    worst, step, beta = 0.0, 0.02, 0.9
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, y = _problem(seed, activation, bias=True)
            weights = list(net.parameters())
            optimizer = torch.optim.SGD(weights, lr=step, momentum=beta)
            before = _of(net, weights)
            for _ in range(20):
                optimizer.zero_grad()
                _loss(net, x, y).backward()
                optimizer.step()
                momenta = [optimizer.state[weight]["momentum_buffer"] for weight in weights]
                pairs = list(zip(weights, momenta, strict=True))
                mixed = _of(net, [w + m for w, m in pairs]) - _of(net, [w - m for w, m in pairs])
                after = _of(net, weights) - 2 * step * beta / (1 - beta) * mixed / 4
                expected = step**2 * (1 + beta) / (1 - beta) * _of(net, momenta)
                error = float((after - before - expected).abs().max())
                worst, before = max(worst, error / _squared(weights)), after
    return worst


def _drift_bound() -> float:
    """Largest drift of a layer, its units' sizes added, in units of 2 eta (L_0 - L_K).

    Infinite where the descent does not meet the assumption of the bound.
    """
    worst, step = 0.0, 0.05
    for activation in ACTIVATIONS:
        for seed in SEEDS:
            net, x, y = _problem(seed, activation, bias=True)
            weights, start = list(net.parameters()), unit_invariants(net)
            first, squares = float(_loss(net, x, y).detach()), 0.0
            for _ in range(60):
                gradients = torch.autograd.grad(_loss(net, x, y), weights)
                squares += _squared(gradients)
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight.sub_(step * gradient)
            decrease = first - float(_loss(net, x, y).detach())
            if decrease < step / 2 * squares:
                return np.inf
            drift = max(float((v - start[n]).abs().sum()) for n, v in unit_invariants(net).items())
            worst = max(worst, drift / (2 * step * decrease))
    return worst


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "du2018.symmetry",
        DU,
        "Section 2",
        "Multiplying the incoming weights (and bias) of a hidden unit by $a > 0$ and dividing its "
        "outgoing weights by $a$ leaves the function unchanged.",
        "stated",
        "largest relative change of the output, 6 networks",
        (0, 1e-12),
        _symmetry,
    ),
    Claim(
        "du2018.identity",
        DU,
        "Proof of Theorem 2.1",
        "For each hidden unit, $\\sum_{\\mathrm{in}} w\\,\\partial L/\\partial w = "
        "\\sum_{\\mathrm{out}} w\\,\\partial L/\\partial w$.",
        "recalled",
        "largest relative difference, 6 networks",
        (0, 1e-12),
        _gradients_balance,
    ),
    Claim(
        "du2018.thm2.1",
        DU,
        "Theorem 2.1",
        "Gradient flow conserves $\\|W^{(h)}[i,:]\\|^2 - \\|W^{(h+1)}[:,i]\\|^2$ for every "
        "hidden unit.",
        "recalled",
        "largest relative drift along the flow, 6 networks",
        (0, 1e-9),
        lambda: _flow_drift(lambda n: unit_invariants(n), ACTIVATIONS, bias=False),
    ),
    Claim(
        "du2018.cor2.1",
        DU,
        "Corollary 2.1",
        "Gradient flow conserves $\\|W^{(h)}\\|_F^2 - \\|W^{(h+1)}\\|_F^2$ for every hidden layer.",
        "recalled",
        "largest relative drift along the flow, 6 networks",
        (0, 1e-9),
        lambda: _flow_drift(lambda n: layer_invariants(n), ACTIVATIONS, bias=False),
    ),
    Claim(
        "ours.bias",
        "ours",
        "Theorem 2.1 with biases",
        "With biases, $\\|W^{(h)}[i,:]\\|^2 + b^{(h)}[i]^2 - \\|W^{(h+1)}[:,i]\\|^2$ is conserved.",
        "derived",
        "largest relative drift along the flow, 6 networks",
        (0, 1e-9),
        lambda: _flow_drift(lambda n: unit_invariants(n), ACTIVATIONS, bias=True),
    ),
    Claim(
        "ours.bias-needed",
        "ours",
        "Theorem 2.1 with biases",
        "Without the term $b^{(h)}[i]^2$ the quantity is not conserved.",
        "derived",
        "largest relative drift along the flow, 6 networks",
        (1e-3, np.inf),
        lambda: _flow_drift(lambda n: unit_invariants(n, bias=False), ACTIVATIONS, bias=True),
    ),
    Claim(
        "du2018.thm2.2",
        DU,
        "Theorem 2.2",
        "Where the activation is linear, gradient flow conserves the matrix "
        "$W^{(h)} W^{(h)\\top} - W^{(h+1)\\top} W^{(h+1)}$.",
        "recalled",
        "largest relative drift along the flow, 3 linear networks",
        (0, 1e-9),
        lambda: _flow_drift(lambda n: matrix_invariants(n), ["linear"], bias=False),
    ),
    Claim(
        "ours.off-diagonal",
        "ours",
        "Theorem 2.2, its limit",
        "Under ReLU the off-diagonal entries of that matrix are not conserved.",
        "derived",
        "largest relative drift along the flow, 3 networks",
        (1e-3, np.inf),
        _off_diagonal_moves,
    ),
    Claim(
        "du2018.thm2.3",
        DU,
        "Theorem 2.3",
        "With shared weights, convolution included, gradient flow conserves "
        "$\\|v_h\\|^2 - \\|v_{h+1}\\|^2$, where $v_h$ holds each shared weight of layer $h$ "
        "once.",
        "recalled",
        "largest relative drift along the flow, 3 convolutional networks",
        (0, 1e-9),
        lambda: _convolution_drift(lambda n: layer_invariants(n)),
    ),
    Claim(
        "ours.channel",
        "ours",
        "Theorem 2.3, per channel",
        "Each channel conserves the squared norm of its incoming filter minus that of all outgoing "
        "taps.",
        "derived",
        "largest relative drift along the flow, 3 convolutional networks",
        (0, 1e-9),
        lambda: _convolution_drift(lambda n: unit_invariants(n)),
    ),
    Claim(
        "ours.unrolled",
        "ours",
        "Theorem 2.3, its limit",
        "The Frobenius norms of the unrolled matrices have no such conserved difference.",
        "derived",
        "largest relative drift along the flow, 3 convolutional networks",
        (1e-3, np.inf),
        lambda: _convolution_drift(_unrolled_gap),
    ),
    Claim(
        "ours.count.homogeneous",
        "ours",
        "Are these all of them?",
        "In small generic networks nothing is conserved beyond one quantity for each homogeneous "
        "unit: the weights minus the dimension of the Lie algebra of the gradient fields (after "
        "Marcotte, Gribonval and Peyré 2023).",
        "derived",
        "largest difference of the two counts, 3 leaky ReLU networks",
        (0, 0),
        lambda: _miscounted(
            [[3, 2, 2], [3, 4, 2], [3, 3, 3, 2]], ACTIVATIONS[1], lambda n: unit_invariants(n)
        ),
    ),
    Claim(
        "ours.count.linear",
        "ours",
        "Are these all of them?",
        "In small linear networks nothing is conserved beyond the entries of the matrices of "
        "Theorem 2.2, $n_h (n_h + 1)/2$ a layer, fewer where ranks bind.",
        "derived",
        "largest difference of the two counts, 4 linear networks",
        (0, 0),
        lambda: _miscounted(
            [[3, 2, 2], [3, 4, 2], [2, 5, 1], [2, 3, 3, 2]],
            "linear",
            lambda n: matrix_invariants(n),
        ),
    ),
    Claim(
        "ours.one-step",
        "ours",
        "From flow to descent",
        "One gradient-descent step changes a unit's invariant by exactly $\\eta^2$ times the "
        "difference of its incoming and outgoing squared gradient norms.",
        "derived",
        "largest error relative to the squared weights, 6 networks",
        (0, 1e-12),
        _one_step,
    ),
    Claim(
        "ours.one-quantity",
        "ours",
        "The hinge of the book",
        "At $p = q = 2$ Saul's share of a weight is its square, so that his imbalance is the "
        "conserved quantity of Du, Hu and Lee.",
        "derived",
        "largest difference",
        (0, 1e-14),
        _one_quantity,
    ),
    Claim(
        "ours.factorization-step",
        "ours",
        "Matrix factorization, one step",
        "A step of gradient descent on $\\frac12 \\|UV^\\top - M\\|_F^2$ changes "
        "$U^\\top U - V^\\top V$ by exactly $\\eta^2 (V^\\top E^\\top E V - U^\\top E E^\\top U)$, "
        "with $E = UV^\\top - M$.",
        "derived",
        "largest error relative to the squared factors, 3 draws",
        (0, 1e-12),
        _factorization_step,
    ),
    Claim(
        "ours.norm-identity",
        "ours",
        "Matrix factorization, why balance",
        "Gap and product bound the factors: $\\|U^\\top U\\|_F^2 + \\|V^\\top V\\|_F^2 = "
        "\\|U^\\top U - V^\\top V\\|_F^2 + 2 \\|UV^\\top\\|_F^2$.",
        "derived",
        "largest relative difference, 3 draws",
        (0, 1e-12),
        _norm_identity,
    ),
    Claim(
        "ours.escape",
        "ours",
        "Matrix factorization, the saddle at 0",
        "From a small start the singular direction $i$ is half learned after "
        "$\\ln(\\sqrt{\\sigma_i}/x_0) / \\ln(1 + \\eta\\sigma_i)$ steps, where $x_0$ is the "
        "part of its start that grows.",
        "derived",
        "largest difference in iterations, 3 directions of 3 targets, after 150 to 700",
        (0, 3),
        _escape_times,
    ),
    Claim(
        "ours.decay-step",
        "ours",
        "From flow to descent, weight decay",
        "One step of gradient descent with weight decay $\\lambda$, on any minibatch, multiplies a "
        "unit's invariant by $(1 - \\eta \\lambda)^2$ and adds $\\eta^2$ times the difference of "
        "its squared gradient norms.",
        "derived",
        "largest error relative to the squared weights, 6 networks",
        (0, 1e-12),
        _decay_step,
    ),
    Claim(
        "ours.momentum-step",
        "ours",
        "From flow to descent, momentum",
        "With momentum $u$, one step changes $I(W) - \\frac{2 \\eta \\beta}{1 - \\beta} I(W, u)$ "
        "by exactly $\\eta^2 \\frac{1 + \\beta}{1 - \\beta} I(u)$, where $I(W)$ is a unit's "
        "invariant and $I(W, m)$ its bilinear form.",
        "derived",
        "largest error relative to the squared weights, 20 steps, 6 networks",
        (0, 1e-12),
        _momentum_step,
    ),
    Claim(
        "ours.drift-bound",
        "ours",
        "From flow to descent",
        "If the loss decreases by at least $\\frac{\\eta}{2} \\sum_k \\|\\nabla L(W_k)\\|^2$, the "
        "drifts of a layer's units add up to at most $2 \\eta$ times its decrease.",
        "derived",
        "largest sum of drifts in units of its bound, 60 steps, 6 networks",
        (0, 1),
        _drift_bound,
    ),
)

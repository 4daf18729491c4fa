"""Du, Hu and Lee (2018): claims that are checked on the spot, on random networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from balancing.claims.claim import Claim
from balancing.flows import Trajectory, integrate_flow
from balancing.invariants import layer_invariants, matrix_invariants, unit_invariants
from balancing.networks import mlp
from balancing.norms import shares
from balancing.rescaling import rescale

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
)

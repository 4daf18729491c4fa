"""The ledger: what each paper says, how it is checked here, and the verdict.

A claim has one measured number and the interval in which that number must lie for the claim to
hold. Quick checks compute the number on the spot, on random networks with fixed seeds. Claims
about an experiment read the table that ``balancing reproduce`` records.

Status words: *stated* (in the paper's abstract or the summary that we work from), *recalled*
(from knowledge of the paper; re-derived here), *derived* (worked out here; not claimed to be in
the paper).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from balancing.flows import Trajectory, integrate_flow
from balancing.invariants import layer_invariants, matrix_invariants, unit_invariants
from balancing.networks import mlp
from balancing.norms import shares
from balancing.rescaling import rescale

__all__ = ["LEDGER", "Claim", "evaluate", "to_markdown"]

DU = "Du, Hu and Lee 2018"


@dataclass(frozen=True)
class Claim:
    """One statement and its check.

    Attributes:
        id: short name, for example ``"du2018.thm2.1"``.
        paper: authors and year.
        where: where the paper has it, or "ours".
        statement: what is claimed, in words with TeX between dollar signs.
        status: ``"stated"``, ``"recalled"`` or ``"derived"``.
        measured: what the measured number is.
        accept: smallest and largest number for which the claim holds.
        check: computes the number; takes the recorded table if ``experiment`` is given.
        experiment: name of the recorded experiment that the check reads, or None.
    """

    id: str
    paper: str
    where: str
    statement: str
    status: Literal["stated", "recalled", "derived"]
    measured: str
    accept: tuple[float, float]
    check: Callable[..., float]
    experiment: str | None = None


_COLUMNS = (
    "id",
    "paper",
    "where",
    "statement",
    "status",
    "measured",
    "value",
    "low",
    "high",
    "verdict",
)


def evaluate(
    claims: Iterable[Claim] | None = None, *, results: Path | str | None = None
) -> pd.DataFrame:
    """Check claims; None means the whole ledger.

    Args:
        claims: the claims to check.
        results: folder with the recorded tables, ``<experiment>.csv``. Claims whose table is
            not there get the verdict ``"not run"``.

    Returns:
        One row a claim: id, paper, where, statement, status, measured, value, low, high, verdict
        (``"holds"``, ``"fails"`` or ``"not run"``).
    """
    rows = []
    for claim in LEDGER if claims is None else claims:
        table = _recorded(results, claim.experiment) if claim.experiment else None
        if claim.experiment and table is None:
            value, verdict = float("nan"), "not run"
        else:
            value = claim.check() if table is None else claim.check(table)
            low, high = claim.accept
            verdict = "holds" if low <= value <= high else "fails"
        rows.append(
            {
                "id": claim.id,
                "paper": claim.paper,
                "where": claim.where,
                "statement": claim.statement,
                "status": claim.status,
                "measured": claim.measured,
                "value": value,
                "low": claim.accept[0],
                "high": claim.accept[1],
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _recorded(results: Path | str | None, experiment: str) -> pd.DataFrame | None:
    path = None if results is None else Path(results) / f"{experiment}.csv"
    return pd.read_csv(path) if path is not None and path.exists() else None


def to_markdown(report: pd.DataFrame) -> str:
    """Render the outcome of :func:`evaluate` as a Markdown table with typeset formulas."""
    lines = ["| Claim | Status | Measured | Accepted | Verdict |", "|---|---|---|---|---|"]
    for row in report.to_dict("records"):
        value = "–" if row["verdict"] == "not run" else _tex(row["value"])
        if row["low"] == 0:
            accepted = f"at most {_tex(row['high'])}"
        elif row["high"] == np.inf:
            accepted = f"at least {_tex(row['low'])}"
        else:
            accepted = f"{_tex(row['low'])} to {_tex(row['high'])}"
        lines.append(
            f"| **{row['where']}** (`{row['id']}`). {row['statement']} | {row['status']} "
            f"| {row['measured']}: {value} | {accepted} | **{row['verdict']}** |".replace(
                "\\|",
                "\\Vert ",  # in a table, a backslash and a bar are one bar
            )
        )
    return "\n".join(lines)


def _tex(value: float) -> str:
    """A number with two significant digits below 0.01, so that rounding noise is not printed."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"


# --- checks --------------------------------------------------------------------------------------

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


def _of(table: pd.DataFrame, init: str) -> pd.DataFrame:
    return table[table["init"] == init].sort_values("iteration")


def _gap_drift(init: str) -> Callable[[pd.DataFrame], float]:
    """Largest change of a gap during the run, relative to the final squared norm of layer 1."""

    def check(table: pd.DataFrame) -> float:
        run = _of(table, init)
        gaps = run[["gap12", "gap23"]].to_numpy(dtype=float)
        return float(np.abs(gaps - gaps[0]).max() / run["norm1"].iloc[-1])

    return check


def _ratio_error(init: str) -> Callable[[pd.DataFrame], float]:
    """Distance of the final ratios from 1."""

    def check(table: pd.DataFrame) -> float:
        final = _of(table, init)[["ratio12", "ratio23"]].iloc[-1]
        return float((final - 1).abs().max())

    return check


def _final_loss(table: pd.DataFrame) -> float:
    return float(table.groupby("init")["loss"].last().max())


def _drift_exponent(table: pd.DataFrame) -> float:
    """Slope of log |final change of gap12| against log step, for the steps up to 0.04."""
    runs = table[table["step"] <= 0.04].groupby("step")["gap12"]
    change = (runs.last() - runs.first()).abs()
    return float(np.polyfit(np.log(change.index.to_numpy()), np.log(change.to_numpy()), 1)[0])


def _ends(table: pd.DataFrame, objective: int) -> pd.DataFrame:
    """First and last row of each start of Figure 1, for one objective."""
    return table[table["objective"] == objective].groupby("init").agg(["first", "last"])


def _gap_kept(table: pd.DataFrame) -> float:
    gap = _ends(table, 2)["gap"]
    return float((gap["last"] / gap["first"] - 1).abs().max())


def _printed(column: str, bound: str) -> Callable[[pd.DataFrame], float]:
    """Largest value of a column along the printed schedule, in units of its bound."""

    def check(table: pd.DataFrame) -> float:
        run = table[table["schedule"] == "printed"]
        return float((run[column] / run[bound]).max())

    return check


def _largest_increase(table: pd.DataFrame) -> float:
    """Largest relative increase of f in a step along the printed schedule; 0 for none."""
    return max(0.0, float(table[table["schedule"] == "printed"]["max_increase"].max()))


def _practical_error(table: pd.DataFrame) -> float:
    run = table[table["schedule"] == "practical"].groupby("seed").last()
    return float((run["error"] / run["eps"]).max())


def _steps_per_decade(table: pd.DataFrame) -> float:
    """Slope of the median number of steps against log10 of the dimension."""
    median = table.groupby("dim")["iterations"].median()
    return float(np.polyfit(np.log10(median.index.to_numpy()), median.to_numpy(), 1)[0])


LEDGER: tuple[Claim, ...] = (
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
    Claim(
        "du2018.fig2.balanced-gaps",
        DU,
        "Figure 2, balanced",
        "From a balanced start the differences between the layers' squared norms stay small.",
        "recalled",
        "largest change of a gap over 10,000 iterations, relative to the final $\\|W^{(1)}\\|_F^2$",
        (0, 0.01),
        _gap_drift("balanced"),
        "du2018.figure2",
    ),
    Claim(
        "du2018.fig2.balanced-ratios",
        DU,
        "Figure 2, balanced",
        "From a balanced start the layers' norms end comparable: ratios near 1.",
        "recalled",
        "largest distance of a final ratio from 1",
        (0, 0.01),
        _ratio_error("balanced"),
        "du2018.figure2",
    ),
    Claim(
        "du2018.fig2.unbalanced-gaps",
        DU,
        "Figure 2, unbalanced",
        "From an unbalanced start the gaps are kept.",
        "recalled",
        "largest change of a gap over 10,000 iterations, relative to the final $\\|W^{(1)}\\|_F^2$",
        (0, 0.01),
        _gap_drift("unbalanced"),
        "du2018.figure2",
    ),
    Claim(
        "ours.fig2.unbalanced-ratios",
        "ours",
        "Figure 2, unbalanced",
        "From an unbalanced start the ratios do not end at 1: a kept gap is not a kept ratio.",
        "derived",
        "largest distance of a final ratio from 1",
        (0.1, np.inf),
        _ratio_error("unbalanced"),
        "du2018.figure2",
    ),
    Claim(
        "ours.fig2.loss",
        "ours",
        "Figure 2",
        "Both runs reach zero loss.",
        "derived",
        "larger final loss",
        (0, 1e-6),
        _final_loss,
        "du2018.figure2",
    ),
    Claim(
        "du2018.fig1.gap",
        DU,
        "Figure 1, objective (2)",
        "Without a penalty, gradient descent keeps the gap $\\|U^\\top U - V^\\top V\\|_F$ that "
        "it starts with.",
        "recalled",
        "largest relative change over 1,000 iterations, balanced and unbalanced start",
        (0, 0.02),
        _gap_kept,
        "du2018.figure1",
    ),
    Claim(
        "du2018.fig1.penalty",
        DU,
        "Figure 1, objective (3)",
        "The penalty drives the gap to zero.",
        "recalled",
        "larger final gap of both starts",
        (0, 1e-10),
        lambda table: float(_ends(table, 3)["gap"]["last"].max()),
        "du2018.figure1",
    ),
    Claim(
        "du2018.fig1.error",
        DU,
        "Figure 1",
        "From the balanced start both objectives fit the target.",
        "recalled",
        "larger final error $\\|UV^\\top - M\\|_F$",
        (0, 1e-10),
        lambda table: float(max(_ends(table, o)["error"]["last"]["balanced"] for o in (2, 3))),
        "du2018.figure1",
    ),
    Claim(
        "du2018.thm3.1.gap",
        DU,
        "Theorem 3.1, for all t",
        "Along the printed schedule $\\|U^\\top U - V^\\top V\\|_F \\le \\epsilon$. That schedule "
        "does not leave the saddle in any feasible run; this is checked next to it.",
        "recalled",
        "largest gap in units of $\\epsilon$, 20,000 steps, 5 seeds",
        (0, 1),
        _printed("max_gap", "eps"),
        "du2018.theorem31",
    ),
    Claim(
        "du2018.thm3.1.norm",
        DU,
        "Theorem 3.1, for all t",
        "Along the printed schedule $\\|U\\|_F^2$ and $\\|V\\|_F^2$ are at most "
        "$5\\sqrt{r}\\,\\|M\\|_F$.",
        "recalled",
        "largest squared norm in units of the bound, 20,000 steps, 5 seeds",
        (0, 1),
        _printed("max_norm", "norm_bound"),
        "du2018.theorem31",
    ),
    Claim(
        "du2018.thm3.1.descent",
        DU,
        "Theorem 3.1, for all t",
        "Along the printed schedule $f$ does not increase.",
        "recalled",
        "largest increase in a step, relative to the start, 20,000 steps, 5 seeds",
        (0, 1e-14),
        _largest_increase,
        "du2018.theorem31",
    ),
    Claim(
        "ours.thm3.1.practical",
        "ours",
        "Theorem 3.1, a practical schedule",
        "With $\\eta_t = 0.5\\,(t+1)^{-0.6} / \\|M\\|_2$ the error falls below $\\epsilon$.",
        "derived",
        "largest final error in units of $\\epsilon$, 5 seeds",
        (0, 1),
        _practical_error,
        "du2018.theorem31",
    ),
    Claim(
        "du2018.thm3.2.convergence",
        DU,
        "Theorem 3.2",
        "Rank one: gradient descent from a small random start converges at a constant step.",
        "recalled",
        "share of 60 runs (d = 20, 200, 2000) that reach a relative error of $10^{-6}$",
        (1, 1),
        lambda table: float(table["converged"].mean()),
        "du2018.theorem32",
    ),
    Claim(
        "du2018.thm3.2.log",
        DU,
        "Theorem 3.2",
        "The number of steps grows with the logarithm of the dimension.",
        "recalled",
        "more steps for ten times the dimension (median of 20 seeds)",
        (1, 30),
        _steps_per_decade,
        "du2018.theorem32",
    ),
    Claim(
        "du2018.thm3.2.ratio",
        DU,
        "Theorem 3.2",
        "After the first stage the ratio of the two signals stays between constants. Before it, "
        "it may be large, since a random start can have almost no overlap.",
        "recalled",
        "largest ratio, or its inverse, after the first stage, 60 runs",
        (1, 1.1),
        lambda table: float(max(table["ratio_max2"].max(), 1 / table["ratio_min2"].min())),
        "du2018.theorem32",
    ),
    Claim(
        "ours.drift-linear",
        "ours",
        "From flow to descent",
        "Over a fixed time the drift of a gap is proportional to the step size.",
        "derived",
        "slope of log drift against log step",
        (0.9, 1.1),
        _drift_exponent,
        "du2018.drift",
    ),
)

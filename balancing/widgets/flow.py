"""Gradient flow beside a weight-balancing flow, and what each of them conserves."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from traitlets import Enum, Float

from balancing import plots
from balancing.networks import mlp
from balancing.norms import imbalance
from balancing.trajectories import integrate_flow
from balancing.widgets._explorer import Explorer

__all__ = ["Flow"]

_EXPONENTS = (1.0, 1.5, 2.0, 3.0)
_TIME = 6.0
_INPUTS = torch.eye(2, dtype=torch.float64)
_TARGETS = torch.tensor([[2.0], [1.0]], dtype=torch.float64)


class Flow(Explorer):
    r"""A linear network with two inputs and two hidden units learns :math:`2 x_1 + x_2`.

    Along the weight-balancing flow of the :math:`\ell_{p,q}` norm (Saul 2023; chapter 12) every
    imbalance in that norm is conserved. Gradient flow conserves those for p = q = 2 only.

    Attributes:
        into: the incoming weights of the first hidden unit are this times (1, 1/4).
        out: its outgoing weight.
        p: exponent of the flow within the incoming weights of a unit: 1, 1.5, 2 or 3.
        q: exponent of the flow across units, likewise.
        measured: whose imbalances are drawn: the flow's ``"own"``, or for ``"square"`` those of
            p = q = 2.
        time: up to which they are followed, 0 to 6.
    """

    title = "follow a weight-balancing flow and gradient flow"

    into = Float(1.0, min=0.0).tag(sync=True)
    out = Float(0.3, min=0.0).tag(sync=True)
    p = Enum(_EXPONENTS, 1.0).tag(sync=True)
    q = Enum(_EXPONENTS, 1.0).tag(sync=True)
    measured = Enum(("own", "square"), "own").tag(sync=True)
    time = Float(_TIME, min=0.0, max=_TIME).tag(sync=True)

    def network(self) -> nn.Sequential:
        """The network at the start, in float64."""
        own = torch.Generator()  # not the global one
        net = mlp([2, 2, 1], activation="linear", dtype=torch.float64, generator=own)
        rows = [[[self.into, self.into / 4], [-0.2, 0.7]], [[self.out, 1.0]]]
        with torch.no_grad():
            for parameter, values in zip(net.parameters(), rows, strict=True):
                parameter.copy_(torch.tensor(values, dtype=torch.float64))
        return net

    @staticmethod
    def loss(net: nn.Module) -> Tensor:
        """Half the squared error at the two unit vectors."""
        outputs: Tensor = net(_INPUTS)
        return 0.5 * (outputs - _TARGETS).square().sum()

    def still(self) -> tuple[Figure, str]:
        """The imbalances of both units over time, along both flows."""
        p, q = (self.p, self.q) if self.measured == "own" else (2.0, 2.0)
        times = torch.linspace(0, _TIME, 61, dtype=torch.float64)
        flows = {"weight-balancing flow": (self.p, self.q), "gradient flow": (None, None)}
        panels, words = {}, []
        for name, (own_p, own_q) in flows.items():
            path = integrate_flow(self.network(), self.loss, times, p=own_p, q=own_q)
            values = path.measure(lambda net: imbalance(net, p, q))["linear1"]
            panels[name] = values
            words.append(f"{(values - values[0]).abs().max():.2f} along the {name}")
        return plots.imbalances(times, panels), (
            f"In minus out of two hidden units over time, in the ({p:g}, {q:g}) norm. The largest "
            f"change is {' and '.join(words)}."
        )

"""Gradient flow and descent in the plane of a network with two weights."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from traitlets import Float

from balancing import plots
from balancing.networks import mlp
from balancing.trajectories import integrate_flow
from balancing.widgets._explorer import Explorer

__all__ = ["Hyperbola"]

_TIME = 8.0


class Hyperbola(Explorer):
    r"""The network :math:`u v x`, fitted to 1: drag the start and see what is conserved.

    Gradient flow runs along :math:`u^2 - v^2 = c` (Du et al. 2018, Theorem 2.1). Gradient descent
    with a finite step leaves it.

    Attributes:
        u: first weight of the start.
        v: second weight of the start.
        step: step size of descent, between 0.01 and 0.6.
    """

    title = "drag the start of gradient flow"

    u = Float(2.0).tag(sync=True)
    v = Float(-0.6).tag(sync=True)
    step = Float(0.15, min=0.01, max=0.6).tag(sync=True)

    def still(self) -> tuple[Figure, str]:
        """The paths of the flow and of descent in the plane."""
        own = torch.Generator()  # not the global one
        net = mlp([1, 1, 1], activation="linear", dtype=torch.float64, generator=own)
        nn.utils.vector_to_parameters(torch.tensor([self.u, self.v]).double(), net.parameters())
        x = torch.ones(1, 1, dtype=torch.float64)

        def loss(net: nn.Module) -> Tensor:
            return nn.functional.mse_loss(net(x), x) / 2  # the target is 1, too

        times = torch.linspace(0, _TIME, 161, dtype=torch.float64)
        flow = integrate_flow(net, loss, times).states
        steps = [torch.tensor([self.u, self.v], dtype=torch.float64)]
        for _ in range(round(_TIME / self.step)):
            u, v = steps[-1]
            steps.append(steps[-1] - self.step * (u * v - 1) * torch.stack([v, u]))
        paths = {"gradient flow": flow, "gradient descent": torch.stack(steps)}
        end = ", ".join(f"{weight:.2f}" for weight in flow[-1])
        return plots.hyperbolas(paths), (
            f"The plane of u and v with contours of the loss. From ({self.u:g}, {self.v:g}) "
            f"gradient flow runs along a hyperbola to ({end}). "
            f"Descent with step {self.step:g} leaves it."
        )

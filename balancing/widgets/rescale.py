"""The hidden units of a small network, to be rescaled by hand and by Algorithm 1."""

from __future__ import annotations

import itertools
import math
import numbers
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from traitlets import Enum, List, TraitError, validate

from balancing import plots
from balancing.fixes import balance
from balancing.networks import mlp
from balancing.norms import shares
from balancing.rescaling import rescale
from balancing.widgets._explorer import Explorer

__all__ = ["Rescale"]

# widths 1, 3, 2, 1; it looks a little like a sine
_WEIGHTS = [
    [[-1.83], [-0.67], [1.38]],
    [[1.12, -3.61, 1.79], [-1.03, -0.15, 0.9]],
    [[0.9, -2.84]],
]
_BIASES = [[-1.49, -1.09, 0.64], [0.26, -1.24], [-1.26]]
_EXPONENTS = (1.0, 1.5, 2.0, 3.0)


class Rescale(Explorer):
    r"""A ReLU network from numbers to numbers: drag its hidden units, and its function stays.

    A unit's factor multiplies its incoming weights and its bias, and divides its outgoing weights:
    the rescaling symmetry of Du et al. 2018 and Saul 2023. Balancing runs Algorithm 1 of Saul 2023
    until the norm :math:`\|W\|_{p,q}` is smallest, where the shares into each unit equal those out
    of it.

    Attributes:
        weights: the matrices of the network as given, first layer first; read once.
        biases: for each of them, the biases of its units; read once.
        factors: for each hidden layer, the factors of its units, above 0.
        p: exponent within the incoming weights of a unit: 1, 1.5, 2 or 3.
        q: exponent across units, one of the same.
    """

    title = "rescale the hidden units of a network"

    weights = List(_WEIGHTS).tag(sync=True)
    biases = List(_BIASES).tag(sync=True)
    factors = List([[0.5, 3.0, 0.7], [0.4, 1.8]]).tag(sync=True)
    p = Enum(_EXPONENTS, default_value=2.0).tag(sync=True)
    q = Enum(_EXPONENTS, default_value=2.0).tag(sync=True)

    @validate("factors")
    def _check_factors(self, proposal: Any) -> Any:
        given = proposal["value"]
        sizes = [len(matrix) for matrix in self.weights[:-1]]
        is_nested = all(isinstance(layer, (list, tuple)) for layer in given)
        if not is_nested or [len(layer) for layer in given] != sizes:
            raise TraitError(f"factors must be lists of {sizes} numbers, got {given}")
        if not all(isinstance(a, numbers.Real) for a in itertools.chain(*given)):
            raise TraitError(f"factors must be numbers, got {given}")
        if not all(0 < a < math.inf for a in itertools.chain(*given)):
            raise TraitError(f"factors must be finite and above 0, got {given}")
        return given

    def network(self) -> nn.Sequential:
        """The network as it is now, in float64."""
        widths = [len(self.weights[0][0]), *map(len, self.weights)]
        own = torch.Generator()  # not the global one
        net = mlp(widths, bias=True, dtype=torch.float64, generator=own)
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(layers, self.weights, self.biases, strict=True):
                layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
                layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
        factors = {f"linear{h}": layer for h, layer in enumerate(self.factors, start=1)}
        rescaled = rescale(net, factors, inplace=True)
        assert isinstance(rescaled, nn.Sequential)
        return rescaled

    def still(self) -> tuple[Figure, str]:
        """Shares into and out of each hidden unit, as they are and after balancing."""
        net = self.network()
        result = balance(net, self.p, self.q)
        panels = {"as it is": self._units(net), "balanced": self._units(result.model)}
        before, after = result.norms[0], result.norms[-1]
        return plots.traced_units(panels), (
            "Two panels with a dot for each hidden unit, by its incoming and outgoing shares on "
            "logarithmic axes. As it is, the dots lie off the diagonal; balanced, all lie on it. "
            f"The function is the same, and the norm falls from {before:.3g} to {after:.3g}."
        )

    def _units(self, net: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
        every = list(shares(net, self.p, self.q).values())
        return {
            f"layer {h}": (into.sum(1), out.sum(0))
            for h, (into, out) in enumerate(itertools.pairwise(every), start=1)
        }

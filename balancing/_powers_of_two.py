r"""Factors that are powers of two: from the real minimizer to a good point with whole exponents.

A computer multiplies by a power of two without rounding. With :math:`a_i = 2^{k_i}` every number
inside the network becomes the old one with another exponent, and the outputs keep all their bits.
But F is larger at :math:`\theta = k \log 2` than at the minimizer. Two steps keep it small:

1. *One threshold for all units*, :math:`k_i = \lfloor \theta_i / \log 2 + \tau \rfloor`. F depends
   on differences alone, and each difference is then one of the two whole numbers around that of
   the minimizer. Eight values of :math:`\tau` are tried; 1/2 is plain rounding.
2. *Descent.* The units of one colour move by one wherever that lowers F, colour after colour,
   until no unit can. Groups of one colour share no edge, so for p = q their units do not see each
   other, and the gains add up. Otherwise half of the movers are dropped until F falls.

At the end F is no larger than for the network as it was, and doubling or halving a single factor
cannot lower it by more than rounding. For p = q this says that the shares into and out of a unit
differ by a factor of at most :math:`2^p`. Several units moved together might still lower F.
Derived here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from balancing._orbit import Layer, Orbit, PointWithShares, greedy_colours
from balancing.graph import RescalingGraph

__all__ = ["check_dtypes", "check_restorable", "nearest_powers", "powers_of_two"]

# A fall of F relative to F that is no rounding: F is computed as the exponential of a number of
# up to 700, so that its own relative error may be 700 times the resolution of float64, 2e-16.
_RESOLUTION = 1e-12
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def powers_of_two(theta: Tensor) -> Tensor:
    """The factors e^theta, where theta / log 2 is whole but for rounding."""
    return torch.exp2((theta / math.log(2)).round())


def nearest_powers(orbit: Orbit, theta: Tensor) -> PointWithShares:
    """The point with whole theta / log 2 that is found from the minimizer theta, shape (units,)."""
    real = theta / math.log(2)
    rounded = _at(orbit, (real + 0.5).floor())
    best = min(
        rounded,
        orbit.at(orbit.start),
        *(_at(orbit, (real + threshold / 8).floor()) for threshold in (0, 1, 2, 3, 5, 6, 7)),
        key=lambda point: point.norm,
    )
    end = _descend(orbit, best)
    if best is not rounded:  # now and then the descent from there ends lower
        end = min(end, _descend(orbit, rounded), key=lambda point: point.norm)
    return end


def _at(orbit: Orbit, whole: Tensor) -> PointWithShares:
    return orbit.at(whole * math.log(2))


def _descend(orbit: Orbit, point: PointWithShares) -> PointWithShares:
    colours, at_rest = _colours(orbit), 0
    for colour in itertools.cycle(colours):
        lower = _moved(orbit, point, colour)
        at_rest = at_rest + 1 if lower is None else 0
        point = lower or point
        if at_rest == len(colours):
            break
    return point


def _moved(orbit: Orbit, point: PointWithShares, colour: Tensor) -> PointWithShares | None:
    """A lower point, with units of the colour moved by one; None if there is none."""
    changes = torch.stack([_changes(orbit, point, colour, step) for step in (1, -1)])
    change, down = changes.min(0)
    movers = (colour & (change < -_RESOLUTION)).nonzero()[:, 0]
    movers = movers[change[movers].argsort()]
    while len(movers):
        whole = (point.theta / math.log(2)).round()
        whole[movers] += 1.0 - 2.0 * down[movers]
        lower = _at(orbit, whole)
        if lower.norm < point.norm:
            return lower
        movers = movers[: len(movers) // 2]  # those that gain most
    return None


def _changes(orbit: Orbit, point: PointWithShares, colour: Tensor, step: int) -> Tensor:
    """Change of F, relative to F, when one unit alone moves by ``step``; shape (units,).

    Valid for the units of the colour. For p != q a unit must not be read twice by one layer.
    """
    log_f = orbit.q * math.log(point.norm)
    rows, columns = torch.exp2(step * point.theta.new_tensor([orbit.q, -orbit.p]))
    changes = (point.log_in - log_f).exp().mul_(rows - 1)
    if orbit.p == orbit.q and not any(_is_loop(layer) for layer in orbit.layers):
        return changes.add_((point.log_out - log_f).exp() * (columns - 1))
    for layer in orbit.layers:
        if colour[layer.sources].any():
            outgoing = _outgoing_changes(orbit, layer, point.theta, log_f, rows, columns)
            changes.index_add_(0, layer.sources, outgoing)
    return changes


def _outgoing_changes(
    orbit: Orbit, layer: Layer, theta: Tensor, log_f: float, rows: Tensor, columns: Tensor
) -> Tensor:
    """What is added to F, relative to F, by the rows that read a unit; one number a column.

    A unit has a share s of the sum over the row, so that one factor turns the sum into
    1 + s (factor - 1) times itself, and what the row adds to F into the power q/p of that.
    """
    layer.read += layer.power.numel()
    log_power = layer.power if layer.is_log else layer.power.log()
    blocks = len(log_power)
    terms = log_power - orbit.p * theta[layer.sources].view(blocks, 1, -1)
    log_row = torch.logsumexp(terms, 2)
    log_total = (orbit.q / orbit.p) * (orbit.p * theta[layer.targets].view(blocks, -1) + log_row)
    share = terms.sub_(log_row[:, :, None]).exp_()
    share = share.nan_to_num_(0.0).clamp_(max=1.0)  # a row of zeros has none
    change = share.mul_(columns - 1).log1p_().mul_(orbit.q / orbit.p).expm1_()
    if _is_loop(layer):  # a row may be the unit's own, and has grown already
        own = layer.targets.view(blocks, -1, 1) == layer.sources.view(blocks, 1, -1)
        change *= torch.where(own, rows, 1.0)
    return ((log_total - log_f).exp()[:, None] @ change).flatten()


def _is_loop(layer: Layer) -> bool:
    """Whether a group feeds itself, as in a residual sum around a single layer."""
    return any(source.group == layer.edge.target for source in layer.edge.sources)


def _colours(orbit: Orbit) -> list[Tensor]:
    """Masks of live units, one a colour: no edge joins two different groups of a colour."""
    group = torch.full_like(orbit.live, -1, dtype=torch.long)  # of what keeps factor 1
    for number, units in enumerate(orbit.slots.values()):
        group[units] = number
    near: list[set[int]] = [set() for _ in orbit.slots]
    for layer in orbit.layers:
        ends = int(group[layer.targets[0]])
        for source in group[layer.sources].unique().tolist():
            if ends >= 0 <= source:
                near[ends].add(source)
                near[source].add(ends)
    colour = group.new_tensor([*greedy_colours(near), -1])[group]
    masks = (orbit.live & (colour == c) for c in range(int(colour.max()) + 1))
    return [mask for mask in masks if mask.any()]


def check_dtypes(graph: RescalingGraph) -> None:
    """Raise ValueError, naming the parameter, for a dtype in which bits may be lost."""
    for name in _parameters(graph):
        dtype = graph.model.get_parameter(name).dtype
        if dtype not in _DTYPES:
            raise ValueError(
                f"exact=True takes float32, float64 and bfloat16 parameters, but '{name}' is "
                f"{dtype}: its range is so narrow that rescaled numbers become subnormal and lose "
                "bits; convert the model, or leave exact out"
            )


def check_restorable(graph: RescalingGraph, rescaled: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the parameter, unless every entry has only another exponent now.

    Args:
        graph: the network before.
        rescaled: parameter name -> the parameter multiplied by powers of two, in its dtype.
    """
    for name, new in rescaled.items():
        old = graph.model.get_parameter(name)
        lost = torch.frexp(new.double()).mantissa != torch.frexp(old.double()).mantissa
        if lost.any():
            raise ValueError(
                f"powers of two would take {int(lost.sum())} entries of parameter '{name}' out of "
                f"the range in which {new.dtype} keeps their bits (smallest normal number "
                f"{torch.finfo(new.dtype).tiny:.2g}); bring its layers to comparable scales "
                "first, or leave exact out"
            )


def _parameters(graph: RescalingGraph) -> list[str]:
    return [name for edge in graph.edges for name in (edge.weight, edge.bias) if name]

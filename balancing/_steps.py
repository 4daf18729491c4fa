"""One layer's part of a step along the weight-balancing flow, of finite size.

The descent itself is here, in the shares or in the dual coordinates (:mod:`balancing.descent` has
the formulas), layer by layer; what it leaves to restore is described by
:class:`balancing._restoring.Powers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from balancing._restoring import Powers
from balancing.graph import Edge


class Layer:
    """Which parameters of a layer move, and which units their rows and columns belong to.

    Tensors are seen as (blocks, rows, columns, taps), as :meth:`balancing.Edge.by_channel` has it;
    a bias is a column of its own. Units are numbered; ``last`` stands for all that keep factor 1.
    """

    def __init__(
        self,
        edge: Edge,
        named: Mapping[str, nn.Parameter],
        units: Mapping[str, slice],
        last: int,
        p: float,
        q: float,
    ) -> None:
        self.edge = edge
        # single precision has no numbers for such powers of small weights where p or q is large
        self.precision = torch.float32 if max(p, q) <= 4 else torch.float64
        self.names = [n for n in (edge.weight, edge.bias) if n and named[n].requires_grad]
        if not self.names:
            return
        weight = named[edge.weight]
        shape, device = edge.by_channel(weight).shape, weight.device

        def numbers(group: str, size: int) -> Tensor:
            first = units[group].start if group in units else None
            if first is None:
                return torch.full((size,), last, device=device)
            return torch.arange(first, first + size, device=device)

        self.targets = numbers(edge.target, shape[0] * shape[1]).view(shape[:2])
        read = [numbers(source.group, source.size) for source in edge.sources]
        pairs = list(zip(read, edge.sources, strict=True))
        columns = torch.cat([each.repeat_interleave(source.repeat) for each, source in pairs])
        self.columns = columns.view(shape[0], shape[2])
        self.splits = [(source.size, source.repeat) for source in edge.sources]
        self.sources = torch.cat(read).view(shape[0], -1)
        # without any unit to rescale among them, the columns need not be told apart
        self.reads_units = edge.weight in self.names and bool((self.sources != last).any())
        if not self.reads_units:
            self.sources = self.sources[:, :0]

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter or its gradient in the layer's form, in the precision of the step."""
        tensor = tensor.to(torch.promote_types(tensor.dtype, self.precision))
        if name == self.edge.bias:
            return tensor.view(self.edge.blocks, -1, 1, 1)
        return self.edge.by_channel(tensor)

    def by_source(self, power: Tensor) -> Tensor:
        """Sum over taps and positions, in float64: (blocks, rows, units read)."""
        power = power.sum(3, dtype=torch.float64) if power.shape[3] > 1 else power[..., 0].double()
        if all(repeat == 1 for _, repeat in self.splits):
            return power
        parts = power.split([size * repeat for size, repeat in self.splits], dim=2)
        summed = [
            part.unflatten(2, split).sum(3) for part, split in zip(parts, self.splits, strict=True)
        ]
        return torch.cat(summed, 2)


class Step:
    """One layer on its way: new weights, up to a factor of each row, and their |W|^p.

    One of :meth:`stay`, :meth:`in_dual` and :meth:`in_shares` has to come first.

    Args:
        layer: the layer.
        weights: its parameters that move, in the order of ``layer.names``.
        p: exponent within a row.
        q: exponent across rows.
    """

    def __init__(self, layer: Layer, weights: list[Tensor], p: float, q: float) -> None:
        self.layer, self.p, self.q = layer, p, q
        self.shapes = [w.shape for w in weights]
        self.weights = [layer.view(n, w) for n, w in zip(layer.names, weights, strict=True)]

    def stay(self) -> Self:
        """Take the weights as they are."""
        self._arrive([_power(w.abs(), self.p) for w in self.weights], None)
        return self

    def in_dual(self, gradients: list[Tensor], dt: float) -> None:
        """Descend for time dt in the dual coordinates."""
        p = self.p
        # sign(W) |W|^(p-1): the dual coordinates, up to a factor of each row
        duals = [_signed_power(w, p - 1) for w in self.weights]
        before = None
        if p != self.q:
            before = _sum([z * w for z, w in zip(duals, self.weights, strict=True)])
        pairs = zip(duals, self._speeds(gradients, before), strict=True)
        duals = [torch.sub(z, speed, alpha=dt * (p - 1) / p) for z, speed in pairs]
        self.weights = [_signed_power(z, 1 / (p - 1)) for z in duals]
        self._arrive([z * w for z, w in zip(duals, self.weights, strict=True)], before)

    def rates(self, gradients: list[Tensor]) -> list[Tensor]:
        """The rate at which each share is lost, relative to the share."""
        self.powers = [_power(w.abs(), self.p) for w in self.weights]
        self.before = None if self.p == self.q else _sum(self.powers)
        rates = [
            w.sign() * speed
            for w, speed in zip(self.weights, self._speeds(gradients, self.before), strict=True)
        ]
        if self.p < 1:
            pairs = zip(self.weights, rates, strict=True)
            rates = [w.abs() ** (1 - self.p) * rate for w, rate in pairs]
        return rates

    def in_shares(self, rates: list[Tensor], dt: float) -> None:
        """Descend for time dt in the shares, given what :meth:`rates` returned."""
        kept = [1 - dt * rate for rate in rates]
        pairs = zip(self.weights, kept, strict=True)
        self.weights = [w * _power(k, 1 / self.p) for w, k in pairs]
        self._arrive([power * k for power, k in zip(self.powers, kept, strict=True)], self.before)

    def _speeds(self, gradients: list[Tensor], sums: Tensor | None) -> list[Tensor]:
        """n_i^(p-q) g; a row of zeros is at rest, but for p = q."""
        named = zip(self.layer.names, gradients, strict=True)
        seen = [self.layer.view(name, g) for name, g in named]
        if sums is None:
            return seen
        n = torch.where(sums == 0, 0.0, sums ** ((self.p - self.q) / self.p))
        return [n[..., None, None].to(g.dtype) * g for g in seen]

    def _arrive(self, powers: list[Tensor], before: Tensor | None) -> None:
        """Note |W|^p, and the factor that gives each row the norm that its shares sum up to."""
        self.powers, self.sums = powers, _sum(powers)
        self.scale = torch.ones_like(self.sums)
        if before is not None:
            grown = torch.where((before == 0) | (self.sums == 0), 1.0, self.sums / before)
            self.scale = grown ** ((self.p - self.q) / (self.p * self.q))

    def by_unit(self) -> Powers:
        """What restoring needs to know."""
        layer, scale = self.layer, self.scale**self.p
        if layer.reads_units:
            power = layer.by_source(self.powers[0]) * scale[..., None]
            rest = scale * _sum(self.powers[1:]) if self.powers[1:] else torch.zeros_like(scale)
        else:
            power, rest = scale.new_zeros(*scale.shape, 0), self.sums * scale
        return Powers(layer.targets, layer.sources, power, rest)

    def weights_at(self, theta: Tensor, decay: float) -> list[tuple[str, Tensor]]:
        """The new parameters, rescaled by e^theta."""
        layer, result = self.layer, []
        rows = self.scale * theta[layer.targets].exp() * decay
        for name, w, shape in zip(layer.names, self.weights, self.shapes, strict=True):
            new = w * rows[..., None, None].to(w.dtype)
            if name == layer.edge.weight:
                if layer.reads_units:
                    new *= (-theta[layer.columns]).exp()[:, None, :, None].to(w.dtype)
                new = layer.edge.like_weight(new)
            result.append((name, new.reshape(shape)))
        return result


def _power(x: Tensor, exponent: float) -> Tensor:
    return x if exponent == 1 else x**exponent


def _signed_power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent."""
    return x if exponent == 1 else (x.abs() ** exponent).copysign(x)


def _sum(parts: list[Tensor]) -> Tensor:
    """The sum over the columns and taps of all parts, in float64: (blocks, rows)."""
    first, *more = (part.sum((2, 3), dtype=torch.float64) for part in parts)
    return first + more[0] if more else first

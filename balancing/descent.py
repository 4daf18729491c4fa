r"""Descent along the weight-balancing flow: a torch optimizer that keeps every imbalance.

A step of size lr is a step of the flow of length dt = p lr, so that at p = q = 2 the learning
rate is that of plain gradient descent. It has three parts (all derived here):

1. *Descend* on E. For p <= 1 in the shares, :math:`\pi \leftarrow \pi - dt\, W g`, which keeps
   every imbalance to rounding, but no sign can change; dt is cut, for all weights alike, to where
   no share loses more than nine tenths. For p > 1 in the dual coordinates
   :math:`z = \mathrm{sign}(W)\, \pi^{(p-1)/p}`, by
   :math:`z \leftarrow z - \tfrac{p-1}{p}\, dt\, n_i^{(p-q)/p} g`: weights cross zero freely, and at
   p = q = 2 this is a step of gradient descent. It changes the imbalances by O(dt^2).
2. *Restore* the imbalances, where they are off by more than a tolerance, by rescaling the hidden
   units, which does not change the function of the network (:mod:`balancing._restoring`).
3. *Decay*: :math:`W \leftarrow e^{-\lambda\, dt / q}\, W` is the flow of the regularizer, exactly.
   It multiplies every imbalance by :math:`e^{-\lambda\, dt}`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from balancing._restoring import Imbalance
from balancing._steps import Layer, Step
from balancing._validate import a_function, at_least_zero, exponents, number
from balancing.graph import RescalingGraph, trace

__all__ = ["WeightBalancingDescent"]

_LARGEST_LOSS = 0.9  # the part of a share that one step may take, for p <= 1


class WeightBalancingDescent(torch.optim.Optimizer):
    r"""Descend along the weight-balancing flow and keep the imbalance that the model starts with.

    After every step each hidden unit's imbalance in :math:`\|W\|_{p,q}` (biases counted, as
    ``imbalance(model, p, q, bias=True)`` gives it) is :math:`I_i(0)\, e^{-\lambda t}` up to
    ``tol``, where t is :attr:`time`; a balanced start stays balanced. Source of the flow: Saul
    2023; the step is derived here, see :mod:`balancing.descent`.

    ``lr`` means what it means for :class:`torch.optim.SGD` at p = q = 2, and ``weight_decay`` too
    (here it is exact: a factor :math:`e^{-\lambda\, lr\, p/q}`). For other exponents the size of a
    weight enters its step, as :math:`|W|^{2-p}` for p = q, so that another lr is needed: of the
    order of SGD's times :math:`|W|^{p-2}` for a typical weight.

    For p <= 1 no weight changes its sign, and one that is 0 stays 0: initialize biases to
    something else. Parameters that are no weight or bias of the graph (the slopes of a PReLU,
    attention weights, embeddings) take plain steps -lr g, without decay. Parameters that do not
    require a gradient when the optimizer is made stay as they are; the hidden units that they
    belong to are not rescaled and lose their conservation law. A parameter without a
    gradient is taken to have gradient zero; if none has one, nothing happens. There is no
    momentum: a :class:`torch.optim.lr_scheduler.OneCycleLR` needs ``cycle_momentum=False``.

    Args:
        model: a module that :func:`~balancing.trace` accepts, or its graph. All its parameters
            are optimized.
        lr: learning rate, at least 0.
        p: exponent within the incoming weights of a unit, above 0.
        q: exponent across units, above 0; None means ``q = p``.
        weight_decay: :math:`\lambda`, the factor of :math:`\tfrac1q \|W\|_{p,q}^q`, at least 0.
        tol: the deviation of an imbalance from what it should be, relative to the sum of the
            unit's incoming and outgoing shares, above which it is restored; above 0, and
            ``math.inf`` for never. Rounding to the parameters' dtype comes on top.

    Attributes:
        time: time of the flow since the start: the sum of dt = p lr, less what was cut.
        deviation: the largest relative deviation of an imbalance, as for ``tol``, after the last
            step; units without any incoming or any outgoing weight are left out.

    Raises:
        ValueError: an argument is out of range, a weight is NaN or infinite (named), or there is
            no hidden unit to balance.
        NotHomogeneousError: the model cannot be traced.
        TypeError: ``model`` is neither a module nor a graph.

    Warns:
        UserWarning: p <= 1 and a weight or bias tensor is zero, so that it would stay so.
    """

    def __init__(
        self,
        model: nn.Module | RescalingGraph,
        lr: float,
        p: float = 2,
        q: float | None = None,
        *,
        weight_decay: float = 0.0,
        tol: float = 1e-6,
    ) -> None:
        self.p, self.q = exponents(p, q)
        lr, decay = at_least_zero("lr", lr), at_least_zero("weight_decay", weight_decay)
        tol = _tolerance(tol)
        graph = trace(model)
        graph.check_finite()
        self._model = graph.model
        self._named = dict(graph.model.named_parameters())
        self._moves = {name: w.requires_grad for name, w in self._named.items()}
        self._units, last = _number_units(graph, self._moves)
        self._count = last + 1
        made = [Layer(edge, self._named, self._units, last, self.p, self.q) for edge in graph.edges]
        self._layers = [layer for layer in made if layer.names]
        in_layers = [name for layer in self._layers for name in layer.names]
        self._others = [n for n, moves in self._moves.items() if moves and n not in in_layers]
        self._is_made = False
        super().__init__(self._named.values(), {"lr": lr, "weight_decay": decay, "tol": tol})
        self._is_made = True
        if self.p <= 1:
            for name in in_layers:
                if not self._named[name].any():
                    warnings.warn(
                        f"parameter '{name}' is zero, and stays so for p <= 1; initialize it to "
                        "something else",
                        stacklevel=2,
                    )
        with torch.no_grad():
            now = self._imbalance([self._start(layer).stay() for layer in self._layers])
        self._target = now.inflow - now.outflow
        self.time, self.deviation = 0.0, 0.0

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: computes the loss and its gradients anew, and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            TypeError: ``closure`` is no function.
            ValueError: a gradient is NaN, infinite or sparse (named), a setting in
                ``param_groups`` is out of range, or the model's parameters are no longer those
                that the optimizer was made for.
            FloatingPointError: the step leaves the range of the parameters' dtype or of the powers
                of weights that it needs. In either case nothing is changed.

        Warns:
            UserWarning: an imbalance could not be restored to ``tol``.
        """
        loss = None
        if closure is not None:
            a_function("closure", closure)
            with torch.enable_grad():
                loss = closure()
        self._check_parameters()
        if all(w.grad is None for w in self._named.values()):
            return loss
        [group] = self.param_groups
        lr, tol = at_least_zero("lr", group["lr"]), _tolerance(group["tol"])
        dt = self.p * lr
        steps = [self._start(layer) for layer in self._layers]
        gradients = [[self._gradient(name) for name in layer.names] for layer in self._layers]
        if self.p > 1:
            for step, g in zip(steps, gradients, strict=True):
                step.in_dual(g, dt)
        else:
            rates = [step.rates(g) for step, g in zip(steps, gradients, strict=True)]
            fastest = max(float(rate.max()) for each in rates for rate in each if rate.numel())
            if fastest * dt > _LARGEST_LOSS:
                dt = _LARGEST_LOSS / fastest
            for step, each in zip(steps, rates, strict=True):
                step.in_shares(each, dt)
        others = {n: self._named[n] - dt / self.p * self._gradient(n) for n in self._others}
        if not all(bool(x.isfinite().all()) for s in steps for x in (s.sums, s.scale)):
            self._raise_not_finite(lr)
        theta, deviation = self._imbalance(steps).solve(self._target, tol)
        decay = at_least_zero("weight_decay", group["weight_decay"]) * dt
        shrink = math.exp(-decay / self.q)
        found = [each for step in steps for each in step.weights_at(theta, shrink)]
        new = {n: w.to(self._named[n].dtype) for n, w in (*found, *others.items())}
        if not all(_is_finite(w) for w in new.values()):
            self._raise_not_finite(lr)
        for name, weight in new.items():
            self._named[name].copy_(weight)
        self._target *= math.exp(-decay)
        self.time, self.deviation = self.time + dt, deviation
        if deviation > tol:
            warnings.warn(
                f"an imbalance is off by {deviation:.1g} of the unit's shares, above tol = "
                f"{tol:g}: it could not be restored",
                stacklevel=2,
            )
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state as torch's optimizers have it; what this one keeps is under ``"balance"``."""
        target = {name: self._target[units].clone() for name, units in self._units.items()}
        balance = {"p": self.p, "q": self.q, "time": self.time, "target": target}
        return {**super().state_dict(), "balance": balance}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; the model loads its weights by itself.

        Raises:
            TypeError: it is no dict.
            ValueError: it is the state of another kind of optimizer, for other exponents, or for
                another network, or parts of it are missing or damaged. Nothing is changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        balance = state_dict.get("balance")
        if balance is None:
            raise ValueError("this is not the state of a WeightBalancingDescent")
        parts = ("p", "q", "time", "target")
        if not (
            isinstance(balance, Mapping)
            and isinstance(balance.get("target"), Mapping)
            and all(part in balance for part in parts)
            and "param_groups" in state_dict
            and "state" in state_dict
        ):
            raise ValueError(
                "state_dict must be what state_dict() returned: 'state', 'param_groups' and "
                f"'balance', with {', '.join(parts)}"
            )
        time = at_least_zero("time", balance["time"])
        if (balance["p"], balance["q"]) != (self.p, self.q):
            raise ValueError(
                f"the state is for p = {balance['p']:g}, q = {balance['q']:g}, this optimizer for "
                f"p = {self.p:g}, q = {self.q:g}"
            )
        target: dict[str, Tensor] = balance["target"]
        if not all(isinstance(each, Tensor) and each.dim() == 1 for each in target.values()) or any(
            each.is_meta or not bool(each.isfinite().all()) for each in target.values()
        ):
            raise ValueError("state_dict: 'target' must hold vectors of finite numbers")
        sizes = {name: len(each) for name, each in target.items()}
        if sizes != {name: units.stop - units.start for name, units in self._units.items()}:
            raise ValueError(f"the state is for another network, with the hidden units {sizes}")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "balance"})
        for name, units in self._units.items():
            self._target[units] = target[name].to(self._target)
        self.time = time

    def __getstate__(self) -> dict[str, Any]:
        """All of it, so that ``copy.deepcopy((model, optimizer))`` gives a pair that works."""
        # a learning rate schedule leaves a ``step`` that is bound to this optimizer
        return {name: value for name, value in self.__dict__.items() if name != "step"}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: the parameters are those of the model.

        Raises:
            ValueError: always.
        """
        if self._is_made:
            raise ValueError(
                "the parameters are those of the model; make a new optimizer for another model"
            )
        super().add_param_group(param_group)

    def _start(self, layer: Layer) -> Step:
        return Step(layer, [self._named[name].detach() for name in layer.names], self.p, self.q)

    def _imbalance(self, steps: list[Step]) -> Imbalance:
        return Imbalance([step.by_unit() for step in steps], self._count, self.p, self.q)

    def _gradient(self, name: str) -> Tensor:
        parameter = self._named[name]
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _check_parameters(self) -> None:
        now = dict(self._model.named_parameters())
        for name in now.keys() | self._named.keys():
            parameter = now.get(name)
            if parameter is None or parameter is not self._named.get(name):
                raise ValueError(
                    f"parameter '{name}' was added, removed or replaced since the optimizer was "
                    "made; make a new one"
                )
            if parameter.requires_grad != self._moves[name]:
                raise ValueError(
                    f"requires_grad of '{name}' was changed since the optimizer was made; make a "
                    "new one"
                )
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                raise ValueError(f"the gradient of '{name}' is sparse; only dense ones are taken")

    def _raise_not_finite(self, lr: float) -> None:
        for name in self._named:
            if self._moves[name] and not bool(self._gradient(name).isfinite().all()):
                raise ValueError(f"the gradient of '{name}' has NaN or infinite entries")
        raise FloatingPointError(
            f"a step with lr = {lr:g} leaves the range of the parameters' dtype, or of the powers "
            f"of weights for p = {self.p:g} and q = {self.q:g}; take a smaller lr, or bring the "
            "weights nearer to 1"
        )


def _tolerance(value: object) -> float:
    return number("tol", value, "a number above 0", lambda value: value > 0)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all entries are; reads them once and makes no mask."""
    return not tensor.numel() or all(math.isfinite(end) for end in tensor.aminmax())


def _number_units(graph: RescalingGraph, moves: Mapping[str, bool]) -> tuple[dict[str, slice], int]:
    """Number the hidden units that may be rescaled, group by group; the number of units.

    A unit with a weight that must not be changed may not be rescaled.
    """
    fixed: set[str] = set()
    for edge in graph.edges:
        if not moves[edge.weight]:
            fixed.update((edge.target, *(source.group for source in edge.sources)))
        if edge.bias is not None and not moves[edge.bias]:
            fixed.add(edge.target)
    units, count = {}, 0
    for name, group in graph.hidden.items():
        if name not in fixed:
            units[name] = slice(count, count + group.size)
            count += group.size
    if count == 0:
        why = "requires_grad is False for their weights" if graph.hidden else "there are none"
        raise ValueError(f"no hidden unit to balance: {why}; torch.optim.SGD would do")
    return units, count

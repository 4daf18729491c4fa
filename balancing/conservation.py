r"""How many quantities does gradient flow conserve? A count, after Marcotte et al. (2023).

Whatever the data and the loss, the velocity is a combination of the fields
:math:`\nabla_\theta \langle c, f(x; \theta) \rangle`, one for each input x and output direction c.
A function of the weights is conserved for all data if its gradient is orthogonal to all of these
fields. Then it is orthogonal to their Lie brackets, too: going to and fro along two fields moves
the weights along the bracket. By Frobenius' theorem the converse holds near a generic point: the
number of independent conserved quantities is the number of parameters minus the dimension of the
Lie algebra's span there.

Source: Marcotte, Gribonval and Peyré, "Abide by the Law and Follow the Flow: Conservation Laws
for Gradient Flows", NeurIPS 2023. The implementation, by nested forward-mode derivatives of random
fields, is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.utils import vector_to_parameters

from balancing._validate import (
    a_copy,
    a_function,
    a_generator,
    a_module,
    as_vector,
    float64_parameters,
    number,
    whole,
)

__all__ = ["ReachableDirections", "invariant_gradients", "reachable_directions"]

_Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ReachableDirections:
    """What :func:`reachable_directions` returns.

    Attributes:
        parameters: number of parameters.
        ranks: dimension of the span after each generation of brackets; the first is that of the
            fields themselves, the last two are equal.
        directions: orthonormal rows that span the Lie algebra at the model's weights, shape
            (ranks[-1], parameters), in the order of ``model.parameters()``.
        smallest: smallest singular value that was counted, relative to the largest.
        rest: largest singular value that was taken for rounding, relative to the largest.
    """

    parameters: int
    ranks: tuple[int, ...]
    directions: Tensor
    smallest: float
    rest: float

    @property
    def conserved(self) -> int:
        """Number of independent quantities that gradient flow conserves for all data."""
        return self.parameters - self.ranks[-1]


def reachable_directions(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    draws: int = 6,
    tolerance: float = 1e-9,
    generations: int = 6,
) -> ReachableDirections:
    """The directions in which gradient flow can move a network, by any data and any loss.

    Generation 0 are the gradient fields of random inputs and output directions, generation k
    brackets of those with fields of generation k - 1. Fresh ones are drawn until a generation
    adds nothing.

    The time doubles with each generation and grows with the square of the number of parameters:
    meant for networks of at most about a hundred.

    What is counted is what *this* network conserves near its weights. A ReLU unit that is off for
    every input keeps all of its weights; units that are on for the same inputs, as happens where
    inputs have few dimensions, conserve what a linear layer does.

    Args:
        model: any module with float64 parameters that torch can differentiate forward; its
            weights should be generic, for example random.
        input_shape: shape of one input, without the batch dimension.
        generator: draws the inputs, output directions and brackets.
        draws: how many to draw for each direction that is still missing. One would do for a
            linear network; under ReLU a direction may need inputs from a small region.
        tolerance: singular values below this fraction of the largest count as zero: rounding
            makes about 1e-15, and the networks of this book have none between 1e-13 and 1e-6.
        generations: give up after this many.

    Raises:
        TypeError: ``model`` is no module, or ``generator`` no generator.
        ValueError: a parameter is not float64 or not finite (named), or the model has none; the
            model cannot be copied, or cannot be applied to ``input_shape``; ``draws`` is no whole
            number above 0, ``generations`` none of at least 0, or ``tolerance`` not between 0
            and 1.
        RuntimeError: the span still grows after the last generation.
    """
    a_module("model", model)
    a_generator(generator)
    if whole("draws", draws) == 0:
        raise ValueError("draws must be a whole number above 0, got 0")
    whole("generations", generations)
    tolerance = number("tolerance", tolerance, "from 0 to below 1", lambda value: 0 <= value < 1)
    float64_parameters(model)
    model = a_copy(model)
    _check_input(model, input_shape)
    theta = as_vector(model)

    def draw(generation: int) -> _Field:
        if generation:
            return _bracket(draw(0), draw(generation - 1))
        x = torch.randn(1, *input_shape, dtype=torch.float64, generator=generator)
        c = torch.randn(model(x).shape, dtype=torch.float64, generator=generator)
        return grad(lambda vector: (c * functional_call(model, _named(model, vector), x)).sum())

    vectors = theta.new_empty(0, len(theta))
    ranks: list[int] = []
    scale = 0.0
    for generation in range(generations + 1):
        missing = len(theta) - (ranks[-1] if ranks else 0)
        new = torch.stack([draw(generation)(theta) for _ in range(draws * missing + 1)])
        norms = torch.linalg.vector_norm(new, dim=1, keepdim=True)
        scale = float(norms.max()) if generation == 0 else scale
        # a bracket that vanishes is rounding noise, and must not be blown up to a direction
        new = torch.where(norms > tolerance * scale, new / norms, 0.0)
        _, values, rows = torch.linalg.svd(torch.cat([vectors, new]), full_matrices=False)
        rank = int((values > tolerance * values[0]).sum())
        vectors = rows[:rank]
        if ranks and rank == ranks[-1]:
            rest = float(values[rank] / values[0]) if rank < len(values) else 0.0
            smallest = float(values[rank - 1] / values[0])
            return ReachableDirections(len(theta), (*ranks, rank), vectors, smallest, rest)
        ranks.append(rank)
    raise RuntimeError(
        f"the span still grows after {generations} generations of brackets (ranks "
        f"{', '.join(map(str, ranks))}); allow more generations"
    )


def invariant_gradients(
    model: nn.Module, quantity: Callable[[nn.Module], dict[str, Tensor]]
) -> Tensor:
    """Gradients of quadratic quantities, such as the invariants, by the weights.

    A central difference is exact for a quadratic function, up to rounding, whatever its step.

    Args:
        model: a module; quantities are measured on a copy.
        quantity: maps the model to named tensors, such as
            :func:`~balancing.unit_invariants`; each entry must be quadratic in the weights.

    Returns:
        One row an entry of the tensors, one column a parameter, in the order of
        ``model.parameters()``; float64.

    Raises:
        TypeError: ``model`` is no module, ``quantity`` no function, or what it returns no dict of
            tensors.
        ValueError: a parameter is not float64 or not finite (named), or the model has none or
            cannot be copied.
    """
    a_module("model", model)
    a_function("quantity", quantity)
    float64_parameters(model)
    copied, theta = a_copy(model), as_vector(model)

    def at(vector: Tensor) -> Tensor:
        vector_to_parameters(vector, copied.parameters())
        found = quantity(copied)
        if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
            raise TypeError("quantity must return a dict of tensors")
        return torch.cat([theta.new_empty(0), *(value.flatten() for value in found.values())])

    columns = [(at(theta + e) - at(theta - e)) / 2 for e in torch.eye(len(theta)).to(theta)]
    return torch.stack(columns, dim=1)


def _check_input(model: nn.Module, shape: Sequence[int]) -> None:
    """Find out before anything is drawn that the model does not take such inputs."""
    try:
        sizes = tuple(shape)
        fits = all(type(size) is int and size > 0 for size in sizes)
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"input_shape must be sizes above 0, such as (3,), got {shape!r}")
    try:
        with torch.no_grad():
            model(torch.zeros(1, *sizes, dtype=torch.float64))
    except RuntimeError as error:
        raise ValueError(
            f"input_shape: the model cannot be applied to an input of shape (1, "
            f"{', '.join(map(str, sizes))}): {error}"
        ) from error


def _bracket(f: _Field, g: _Field) -> _Field:
    """The Lie bracket [f, g] = Dg f - Df g of two vector fields."""
    return lambda at: jvp(g, (at,), (f(at),))[1] - jvp(f, (at,), (g(at),))[1]


def _named(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    parts = vector.split([parameter.numel() for parameter in named.values()])
    return {
        name: part.view_as(parameter)
        for (name, parameter), part in zip(named.items(), parts, strict=True)
    }

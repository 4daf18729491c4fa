"""The count of conserved quantities against the numbers that theory gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import balancing as bal
from balancing.conservation import invariant_gradients, reachable_directions


def random_network(widths: list[int], activation: str = "relu", *, bias: bool = False) -> nn.Module:
    # a slope other than 0: a ReLU unit may be off for all inputs, and then conserves everything
    layer = (lambda: nn.LeakyReLU(0.2)) if activation == "leaky" else activation
    net = bal.mlp(widths, activation=layer, bias=bias, dtype=torch.float64)
    return randomize(net)


def randomize(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=generator)
    return net


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("widths", [[3, 2, 2], [2, 4, 1], [2, 3, 3, 2], [3, 2, 2, 2, 2]])
@pytest.mark.parametrize("bias", [False, True])
def test_one_quantity_for_each_homogeneous_unit(widths: list[int], bias: bool) -> None:
    net = random_network(widths, "leaky", bias=bias)
    found = reachable_directions(net, widths[:1], generator=generator())
    assert found.conserved == sum(widths[1:-1])
    gradients = invariant_gradients(net, bal.unit_invariants)
    assert torch.linalg.matrix_rank(gradients) == found.conserved
    assert (gradients @ found.directions.T).abs().max() < 1e-10


@pytest.mark.parametrize("widths", [(3, 2, 2), (3, 4, 2), (2, 5, 1), (1, 3, 1), (1, 2, 4)])
def test_two_linear_layers_have_the_number_of_marcotte_et_al(widths: tuple[int, int, int]) -> None:
    inputs, hidden, outputs = widths
    net = random_network(list(widths), "linear")
    found = reachable_directions(net, [inputs], generator=generator())
    ends = inputs + outputs
    # the Lie algebra is that of the indefinite orthogonal group O(inputs, outputs)
    free = hidden * (hidden + 1) // 2 if ends >= hidden else ends * hidden - ends * (ends - 1) // 2
    assert found.conserved == free
    gradients = invariant_gradients(net, bal.matrix_invariants)
    assert torch.linalg.matrix_rank(gradients, rtol=1e-9) == found.conserved
    assert (gradients @ found.directions.T).abs().max() < 1e-10


def test_shared_weights_count_once() -> None:
    """Two channels each: 2 + 2 quantities under leaky ReLU, 3 + 3 matrix entries if linear."""
    for activation, quantity, expected in (
        (lambda: nn.LeakyReLU(0.2), bal.unit_invariants, 4),
        (nn.Identity, bal.matrix_invariants, 6),
    ):
        net = nn.Sequential(
            nn.Conv1d(1, 2, 2, bias=False),
            activation(),
            nn.Conv1d(2, 2, 2, bias=False),
            activation(),
            nn.Flatten(),
            nn.Linear(4, 2, bias=False),
        ).double()
        found = reachable_directions(randomize(net), (1, 4), generator=generator())
        gradients = invariant_gradients(net, quantity)
        assert found.conserved == torch.linalg.matrix_rank(gradients, rtol=1e-9) == expected
        assert (gradients @ found.directions.T).abs().max() < 1e-10


def test_units_that_are_on_together_conserve_more() -> None:
    """With one input and no bias, units of one sign are on for the same inputs."""
    net = random_network([1, 3, 1], "relu")
    signs = [(w > 0).item() for w in net.get_parameter("linear1.weight").flatten()]
    together = max(sum(signs), 3 - sum(signs))
    assert together == 2, "the seed should give two units of one sign"
    found = reachable_directions(net, [1], generator=generator())
    # a pair acts as a linear layer 1-2-1: 4 weights, 1 direction; the third unit keeps 1 of 2
    assert found.conserved == 3 + 1


def test_a_unit_that_is_off_keeps_all_its_weights() -> None:
    """Layer 2 reads numbers that are not negative: a unit with negative weights is never on."""
    net = random_network([3, 3, 3, 2], "relu")
    with torch.no_grad():
        net.get_parameter("linear2.weight")[0].abs_().neg_()
    found = reachable_directions(net, [3], generator=generator())
    # its 3 + 2 weights in place of its one invariant
    assert found.conserved == 6 + 5 - 1


def test_a_generic_activation_conserves_nothing() -> None:
    net = random_network([2, 2, 1], "linear")
    tanh = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False))
    tanh = randomize(tanh.double())
    assert reachable_directions(tanh, [2], generator=generator()).conserved == 0
    assert reachable_directions(net, [2], generator=generator()).conserved == 3


def test_there_is_a_gap_between_what_counts_and_rounding() -> None:
    net = random_network([2, 3, 3, 2], "leaky", bias=True)
    found = reachable_directions(net, [2], generator=generator())
    assert found.smallest > 1e-4
    assert found.rest < 1e-12
    identity = torch.eye(found.ranks[-1], dtype=torch.float64)
    torch.testing.assert_close(found.directions @ found.directions.T, identity)
    assert found.ranks[-1] == found.ranks[-2]


def test_the_model_is_not_changed() -> None:
    net = random_network([2, 3, 2])
    before = [parameter.clone() for parameter in net.parameters()]
    reachable_directions(net, [2], generator=generator())
    invariant_gradients(net, bal.unit_invariants)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_gradients_of_quadratic_quantities_are_exact() -> None:
    net = random_network([3, 2, 2])

    def by_hand(net: nn.Module) -> dict[str, Tensor]:
        w = net.get_parameter("linear1.weight")
        return {"sum": w.square().sum(), "first": w[0, 0] * w[1, 2]}

    rows = invariant_gradients(net, lambda n: {k: v.detach() for k, v in by_hand(n).items()})
    for row, value in zip(rows, by_hand(net).values(), strict=True):
        exact = torch.autograd.grad(value, list(net.parameters()), materialize_grads=True)
        torch.testing.assert_close(row, torch.cat([part.flatten() for part in exact]))


def test_gradients_restore_the_weights_when_the_quantity_fails() -> None:
    net = random_network([3, 2, 2])
    before = [parameter.clone() for parameter in net.parameters()]

    def fails(net: nn.Module) -> dict[str, Tensor]:
        raise KeyError("no")

    with pytest.raises(KeyError):
        invariant_gradients(net, fails)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"'linear1.weight' is torch.float32"):
        reachable_directions(bal.mlp([2, 2, 1]), [2])
    net = random_network([2, 2, 1])
    with torch.no_grad():
        net.get_parameter("linear2.weight")[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'linear2.weight' has NaN or infinite"):
        reachable_directions(net, [2])
    with pytest.raises(RuntimeError, match="still grows after 0 generations"):
        reachable_directions(random_network([2, 2, 1]), [2], generations=0)

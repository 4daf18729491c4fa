"""Matrix factorization against autograd, the exact one-step identity and Eckart-Young."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, seeds
from torch import Tensor

from balancing import FactorizationResult, factorize
from balancing.experiments.du2018 import low_rank

COLUMNS = ["iteration", "loss", "error", "gap", "ratio", "norm_u", "norm_v"]
PENALTIES = (0.0, 1 / 8, 0.7)  # objective (2), objective (3), another weight
shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))
TARGET = low_rank((6, 5), 2, 0)


def gaussian(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def start(
    shape: tuple[int, int], rank: int, scales: tuple[float, float], seed: int
) -> tuple[Tensor, Tensor]:
    """The documented start, drawn here again: i.i.d. Gaussian entries, U before V."""
    rng = generator(seed)
    U = scales[0] * torch.randn(shape[0], rank, dtype=torch.float64, generator=rng)
    V = scales[1] * torch.randn(shape[1], rank, dtype=torch.float64, generator=rng)
    return U, V


def balance(U: Tensor, V: Tensor) -> Tensor:
    return U.T @ U - V.T @ V


def decaying(t: int) -> float:
    return 0.1 / (t + 1) ** 0.5


# --- one step, and a few --------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
@given(shape=shapes, seed=seeds, data=st.data())
def test_descent_equals_autograd_and_sgd(
    penalty: float, shape: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    """The factors and the whole history, recomputed from the objective alone."""
    rank = data.draw(st.integers(1, min(shape)))
    target, scales = gaussian(shape, seed), (0.7, 0.4)
    ours = factorize(
        target,
        rank,
        step=decaying,
        steps=6,
        init_scale=scales,
        balance_penalty=penalty,
        generator=generator(seed + 1),
    )
    U, V = (factor.requires_grad_() for factor in start(shape, rank, scales, seed + 1))
    optimizer = torch.optim.SGD([U, V], lr=1.0)
    rows = []
    for t in range(7):
        error, gap = (U @ V.T - target).square().sum(), balance(U, V).square().sum()
        loss = error / 2 + penalty * gap
        norms = U.square().sum(), V.square().sum()
        values = loss, error.sqrt(), gap.sqrt(), norms[0] / norms[1], *norms
        rows.append([t, *(value.item() for value in values)])
        if t < 6:
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = decaying(t)
            optimizer.step()
    for mine, theirs in ((ours.U, U.detach()), (ours.V, V.detach())):
        # six steps of rounding 1e-16 in sums of at most 7 products
        assert float((mine - theirs).norm()) <= 1e-12 * float(theirs.norm())
    assert list(ours.history.columns) == COLUMNS
    # the gap and the error may cancel: 1e-13 absolute, at entries of order one
    np.testing.assert_allclose(ours.history, rows, rtol=1e-11, atol=1e-13)


@given(shape=shapes, seed=seeds, data=st.data())
def test_exact_one_step_identity(shape: tuple[int, int], seed: int, data: st.DataObject) -> None:
    """Notes, section 3 (derived): B moves by eta^2 (V'E'E V - U'E E'U) in a step on (2)."""
    rank = data.draw(st.integers(1, min(shape)))
    steps = data.draw(st.integers(1, 5))
    eta = data.draw(st.sampled_from([0.3, 0.05, 1e-3]))
    target = gaussian(shape, seed)

    def after(count: int) -> FactorizationResult:
        rng = generator(seed + 1)
        return factorize(target, rank, step=eta, steps=count, init_scale=0.3, generator=rng)

    before, now = after(steps), after(steps + 1)
    U, V = before.U, before.V
    E = U @ V.T - target
    change = balance(now.U, now.V) - balance(U, V)
    expected = eta**2 * (V.T @ E.T @ E @ V - U.T @ E @ E.T @ U)
    size = now.history["norm_u"].iloc[-1] + now.history["norm_v"].iloc[-1]
    assert float((change - expected).norm()) <= 1e-12 * max(1.0, size)


@given(seed=seeds, penalty=st.sampled_from(PENALTIES))
def test_units_do_not_matter(seed: int, penalty: float) -> None:
    """Target times 16, start times 4, steps over 16: factors times 4, bit for bit."""
    target = gaussian((5, 4), seed)

    def scaled(unit: float) -> FactorizationResult:
        return factorize(
            unit**2 * target,
            2,
            step=0.05 / unit**2,
            steps=20,
            init_scale=(0.3 * unit, 0.1 * unit),
            balance_penalty=penalty,
            generator=generator(seed + 1),
        )

    one, four = scaled(1.0), scaled(4.0)
    assert torch.equal(four.U, 4 * one.U)
    assert torch.equal(four.V, 4 * one.V)


# --- the gap, and convergence ---------------------------------------------------------------------


def test_objective_2_keeps_its_gap_up_to_the_step_size() -> None:
    """Over a fixed time the drift of B is O(eta): slope 1 over a 16-fold range of eta."""
    target, time = low_rank((12, 9), 3, 1), 32.0
    steps = [0.08 / 2**k for k in range(5)]
    drifts = []
    for eta in steps:
        done = factorize(
            target,
            3,
            step=eta,
            steps=round(time / eta),
            init_scale=(0.4, 0.1),
            generator=generator(2),
            record_every=10_000,
        )
        initial = balance(*start((12, 9), 3, (0.4, 0.1), 2))
        drifts.append(float((balance(done.U, done.V) - initial).norm()))
        assert done.history["error"].iloc[-1] <= 0.2  # from 1.5: the time is long enough to matter
        assert drifts[-1] <= 0.05 * float(initial.norm())
    slope = np.polyfit(np.log(steps), np.log(drifts), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)  # the next order is eta^2


@pytest.mark.parametrize("scales", [(0.01, 0.01), (0.2, 0.02), (0.02, 0.5)])
def test_objective_3_drives_its_gap_to_zero(scales: tuple[float, float]) -> None:
    history = factorize(
        low_rank((20, 15), 3, 3),
        3,
        step=0.05,
        steps=1500,
        init_scale=scales,
        balance_penalty=1 / 8,
        generator=generator(4),
        record_every=100,
    ).history
    assert history["gap"].iloc[0] > 1e-3
    assert history["gap"].iloc[-1] <= 1e-12  # linear convergence down to rounding
    assert history["error"].iloc[-1] <= 1e-9
    assert history["ratio"].iloc[-1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 1 / 8])
@pytest.mark.parametrize("seed", range(3))
def test_convergence_to_a_target_of_the_rank(penalty: float, seed: int) -> None:
    target = low_rank((25, 18), 3, seed)
    done = factorize(
        target,
        3,
        step=0.1,
        steps=1500,
        init_scale=0.01,
        balance_penalty=penalty,
        generator=generator(seed + 10),
    )
    assert float((done.U @ done.V.T - target).norm()) <= 1e-10
    assert (done.history["loss"].diff().dropna() <= 1e-25).all()  # rounding at the end
    if penalty:
        # balanced factors carry the roots of the singular values
        roots = torch.linalg.svdvals(target)[:3].sqrt()
        torch.testing.assert_close(torch.linalg.svdvals(done.U), roots, rtol=1e-9, atol=0)


def test_too_small_a_rank_finds_the_best_approximation() -> None:
    """Eckart and Young: what remains is made of the singular values beyond the rank."""
    left, _ = torch.linalg.qr(gaussian((9, 4), 1))
    right, _ = torch.linalg.qr(gaussian((7, 4), 2))
    values = torch.tensor([1.0, 0.8, 0.2, 0.1], dtype=torch.float64)
    target = left @ torch.diag(values) @ right.T
    done = factorize(target, 2, step=0.1, steps=1000, init_scale=0.01, generator=generator(3))
    assert done.history["error"].iloc[-1] == pytest.approx(math.hypot(0.2, 0.1), rel=1e-10)


# --- the interface --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(4, 2, [0, 2, 4]), (5, 2, [0, 2, 4, 5]), (3, 10, [0, 3]), (1, 1, [0, 1])],
)
def test_recorded_iterations(steps: int, every: int, expected: list[int]) -> None:
    done = factorize(
        TARGET,
        2,
        step=0.1,
        steps=steps,
        init_scale=0.1,
        generator=generator(0),
        record_every=every,
    )
    assert done.history["iteration"].tolist() == expected
    full = factorize(TARGET, 2, step=0.1, steps=steps, init_scale=0.1, generator=generator(0))
    assert torch.equal(full.U, done.U)
    part = full.history[full.history["iteration"].isin(expected)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, done.history, check_exact=True)


def test_step_function_is_asked_once_an_iteration() -> None:
    asked: list[int] = []

    def step(t: int) -> float:
        asked.append(t)
        return 0.1

    called = factorize(TARGET, 2, step=step, steps=5, init_scale=0.1, generator=generator(0))
    assert asked == [0, 1, 2, 3, 4]
    constant = factorize(TARGET, 2, step=0.1, steps=5, init_scale=0.1, generator=generator(0))
    assert torch.equal(called.U, constant.U)


@pytest.mark.parametrize(("scale", "deviations"), [(0.3, (0.3, 0.3)), ((0.2, 0.02), (0.2, 0.02))])
def test_start_is_gaussian_of_the_given_scale(
    scale: float | tuple[float, float], deviations: tuple[float, float]
) -> None:
    target = low_rank((400, 300), 5, 0)
    done = factorize(target, 5, step=0.1, steps=1, init_scale=scale, generator=generator(6))
    initial = done.history.iloc[0]
    for name, entries, sd in zip(("norm_u", "norm_v"), (2000, 1500), deviations, strict=True):
        # five standard deviations of a mean of squares
        assert abs(initial[name] / (entries * sd**2) - 1) <= 5 * math.sqrt(2 / entries)


def test_the_generator_decides() -> None:
    def run(rng: torch.Generator | None) -> FactorizationResult:
        return factorize(TARGET, 2, step=0.1, steps=9, init_scale=0.1, generator=rng)

    state = torch.get_rng_state()
    one, again, other = run(generator(1)), run(generator(1)), run(generator(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.U, again.U)
    assert torch.equal(one.V, again.V)
    pd.testing.assert_frame_equal(one.history, again.history, check_exact=True)
    assert not torch.equal(one.U, other.U)
    first = run(None)  # the global generator
    torch.set_rng_state(state)
    assert torch.equal(run(None).U, first.U)
    torch.set_rng_state(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_target_is_read_in_float64_and_left_alone(dtype: torch.dtype) -> None:
    storage = TARGET.to(dtype)
    target = storage.T.contiguous().T.requires_grad_()  # columns first
    done = factorize(target, 2, step=0.1, steps=20, init_scale=0.1, generator=generator(0))
    assert torch.equal(target, storage)
    assert target.grad is None
    exact = factorize(
        storage.double(), 2, step=0.1, steps=20, init_scale=0.1, generator=generator(0)
    )
    for factor, reference, rows in ((done.U, exact.U, 6), (done.V, exact.V, 5)):
        assert factor.shape == (rows, 2)
        assert factor.dtype == torch.float64
        assert not factor.requires_grad
        # another memory layout may change the order of sums
        torch.testing.assert_close(factor, reference, rtol=1e-12, atol=1e-14)


def test_result_is_frozen() -> None:
    done = factorize(TARGET, 1, step=0.1, steps=1, init_scale=0.1)
    with pytest.raises(FrozenInstanceError):
        done.U = done.V


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 1 / 8])
@pytest.mark.parametrize("every", [1, 7, 10_000])
def test_divergence_names_iteration_and_step(every: int, penalty: float) -> None:
    with pytest.raises(FloatingPointError) as caught:
        factorize(
            TARGET,
            2,
            step=40.0,
            steps=1000,
            init_scale=1.0,
            balance_penalty=penalty,
            generator=generator(0),
            record_every=every,
        )
    words = str(caught.value).split()
    assert "diverged at iteration" in str(caught.value)
    assert str(caught.value).endswith("take a step below 40")
    # norms are cubed in a step: 1e150 is not far, and no 10,000 iterations are waited for
    assert 3 <= int(words[6].rstrip(";")) <= 12


def test_divergence_in_the_last_step() -> None:
    """No gradient is taken after it: the record must notice."""
    steps = [0.1, 1e200]
    with pytest.raises(FloatingPointError, match=r"at iteration 2; take a step below 1e\+200"):
        factorize(TARGET, 2, step=steps.__getitem__, steps=2, init_scale=0.1)


def test_number_of_threads_is_put_back() -> None:
    before, during = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def step(_: int) -> float:
        during.append(torch.get_num_threads())
        return 0.1 if len(during) < 3 else 1e200

    try:
        with pytest.raises(FloatingPointError):
            factorize(TARGET, 2, step=step, steps=3, init_scale=0.1)
        assert torch.get_num_threads() == 2
        assert set(during) == {1}
    finally:
        torch.set_num_threads(before)


def test_start_that_overflows() -> None:
    with pytest.raises(FloatingPointError, match="at iteration 0; take a smaller init_scale"):
        factorize(TARGET, 2, step=0.1, steps=2, init_scale=1e160)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [[1.0]]}, "target must be a torch.Tensor, got list"),
        ({"target": torch.ones(3)}, r"target must be .* matrix .*, got shape \(3,\)"),
        ({"target": torch.ones(2, 2, 2)}, r"got shape \(2, 2, 2\) and dtype torch.float32"),
        ({"target": torch.ones(0, 2)}, r"non-empty matrix .*, got shape \(0, 2\)"),
        ({"target": torch.ones(2, 2).long()}, "floating dtype, .* and dtype torch.int64"),
        ({"target": torch.ones(2, 2).bool()}, "floating dtype, .* and dtype torch.bool"),
        ({"target": torch.ones(2, 2).cfloat()}, "floating dtype, .* and dtype torch.complex64"),
        ({"target": torch.tensor([[1, NAN]])}, "target must be finite, got NaN or infinite"),
        ({"target": torch.tensor([[1, INF]])}, "target must be finite, got NaN or infinite"),
        ({"rank": 0}, "rank must be a whole number from 1 to 5, .*, got 0"),
        ({"rank": 6}, "rank must be a whole number from 1 to 5, .*, got 6"),
        ({"rank": 2.0}, "rank must be a whole number from 1 to 5, .*, got 2.0"),
        ({"rank": True}, "rank must be a whole number from 1 to 5, .*, got True"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"record_every": 0}, "record_every must be a whole number of at least 1, got 0"),
        ({"step": 0.0}, "step must be finite and above 0, or a function, got 0.0"),
        ({"step": -0.1}, "step must be finite and above 0, or a function, got -0.1"),
        ({"step": NAN}, "step must be finite and above 0, or a function, got nan"),
        ({"step": INF}, "step must be finite and above 0, or a function, got inf"),
        ({"step": "0.1"}, "step must be finite and above 0, or a function, got '0.1'"),
        ({"step": lambda t: 2.0 - t}, r"step\(2\) must be a finite number above 0, got 0.0"),
        ({"step": lambda t: NAN}, r"step\(0\) must be a finite number above 0, got nan"),
        ({"step": lambda t: None}, r"step\(0\) must be a finite number above 0, got None"),
        ({"init_scale": 0}, "init_scale must be .* above 0, or a pair .*, got 0"),
        ({"init_scale": NAN}, "init_scale must be .* above 0, or a pair .*, got nan"),
        ({"init_scale": (0.1, 0)}, r"init_scale must be .*, got \(0.1, 0\)"),
        ({"init_scale": (0.1, 0.1, 0.1)}, r"init_scale must be .*, got \(0.1, 0.1, 0.1\)"),
        ({"init_scale": "ab"}, "init_scale must be .*, got 'ab'"),
        ({"balance_penalty": -1}, "balance_penalty must be finite and at least 0, got -1"),
        ({"balance_penalty": NAN}, "balance_penalty must be finite and at least 0, got nan"),
        ({"balance_penalty": INF}, "balance_penalty must be finite and at least 0, got inf"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    arguments = {"target": TARGET, "rank": 2, "step": 0.1, "steps": 5, "init_scale": 0.1} | change
    call: Callable[..., FactorizationResult] = factorize
    with pytest.raises(ValueError, match=message):
        call(**arguments)

"""What balance is good for: the tools against independent references, the tables, the records."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from strategies import generator
from torch import Tensor, nn

from balancing import balance, mlp, rescale, trace
from balancing.experiments import EXPERIMENTS
from balancing.experiments.practice import (
    Digits,
    PruningConfig,
    QuantizationConfig,
    TrainingConfig,
    TuningConfig,
    best_rates,
    initial,
    predicted_error,
    prune,
    pruning,
    quantization,
    quantize,
    sensitivity,
    thrown,
    trained,
    training,
    tuning,
)

RESULTS = Path(__file__).parent.parent / "book" / "results"
QUICK = {"epochs": 1, "scales": (0, 2), "fixes": ((2, 2),)}
QUANTIZED = QuantizationConfig(**QUICK, bits=(8, 3), samples=40)
PRUNED = PruningConfig(**QUICK, parts=(0.5, 0.8), samples=40)
SETTINGS = {"networks": ("mlp",), "scales": (0, 2), "batch": 300, "epochs": 2}
TUNED = TuningConfig(**SETTINGS, sgd_lrs=(0.01, 0.1), adam_lrs=(0.01,))
TRAINED = TrainingConfig(
    **SETTINGS,
    lrs=(
        ("mlp", 0, "sgd", 0.1),
        ("mlp", 0, "adam", 0.01),
        ("mlp", 2, "sgd", 0.01),
        ("mlp", 2, "sgd, fix first", 0.1),
        ("mlp", 2, "sgd, fix each epoch", 0.1),
        ("mlp", 2, "adam", 0.01),
        ("mlp", 2, "adam, fix first", 0.01),
    ),
)


@pytest.fixture(scope="module")
def quantized() -> pd.DataFrame:
    return quantization(QUANTIZED)


@pytest.fixture(scope="module")
def pruned() -> pd.DataFrame:
    return pruning(PRUNED)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return training(TRAINED)


def small(kind: str = "mlp", seed: int = 0) -> nn.Sequential:
    return initial(kind, generator(seed)).double()


def images(count: int = 7) -> Tensor:
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=generator(9))


def weight_matrices(model: nn.Module) -> list[Tensor]:
    return [m.weight.detach() for m in model if isinstance(m, nn.Linear | nn.Conv2d)]


# --- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_quantize_is_torchs_own(kind: str, bits: int) -> None:
    model = small(kind).float()
    top = 2 ** (bits - 1) - 1
    for per_channel in (False, True):
        found = quantize(model, bits, per_channel=per_channel)
        for before, after in zip(weight_matrices(model), weight_matrices(found), strict=True):
            rows = before.flatten(1)
            if per_channel:
                scale = rows.abs().amax(1) / top
                zero = torch.zeros(len(rows), dtype=torch.int32)
                expected = torch.fake_quantize_per_channel_affine(before, scale, zero, 0, -top, top)
            else:
                scale = float(rows.abs().max()) / top
                expected = torch.fake_quantize_per_tensor_affine(before, scale, 0, -top, top)
            # a weight in the middle of a step may go either way in single precision
            same = (after - expected).abs() <= 1e-6
            assert float(same.double().mean()) > 0.999


def test_quantize_leaves_the_model_its_biases_and_rows_of_zeros() -> None:
    model = mlp([3, 4, 2], bias=True, dtype=torch.float64, generator=generator(0))
    with torch.no_grad():
        model.linear1.weight[1] = 0
        model.linear1.bias.fill_(0.123)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = quantize(model, 4, per_channel=True)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])
    assert torch.equal(found.linear1.bias, model.linear1.bias)
    assert (found.linear1.weight[1] == 0).all()
    tops = (each.linear1.weight.abs().amax(1) for each in (found, model))  # on the grid, at its end
    torch.testing.assert_close(*tops, rtol=1e-14, atol=0)


def test_rows_do_not_matter_per_channel_and_columns_do() -> None:
    model, x = small(), images()
    (first, *_) = trace(model).hidden.values()
    z = torch.randn(first.size, dtype=torch.float64, generator=generator(1))
    moved = rescale(model, {first.name: z.exp()})
    inner, outer = weight_matrices(quantize(moved, 4, per_channel=True))[:2]
    same, other = weight_matrices(quantize(model, 4, per_channel=True))[:2]
    torch.testing.assert_close(inner / z.exp()[:, None], same, rtol=1e-12, atol=1e-14)
    assert (outer * z.exp() - other).abs().max() > 0.01
    whole = rescale(model, {first.name: 8.0})  # one factor for the layer: no grid notices
    torch.testing.assert_close(quantize(whole, 4)(x), quantize(model, 4)(x))


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_sensitivity_is_that_of_finite_differences(kind: str) -> None:
    model, x = small(kind), images(5)
    J = sensitivity(model, x)
    assert list(J) == [name for name, each in model.named_parameters() if each.dim() > 1]
    for name, each in J.items():
        flat = model.get_parameter(name).detach().view(-1)
        for index in (0, flat.numel() // 2, flat.numel() - 1):
            with torch.no_grad():
                old = flat[index].item()
                flat[index] = old + 1e-5
                high = model(x)
                flat[index] = old - 1e-5
                slope = (high - model(x)) / 2e-5
                flat[index] = old
            expected = slope.square().sum(1).mean().item()
            # central differences of a piecewise smooth function, away from its kinks
            assert each.view(-1)[index].item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_scores_are_the_same_along_the_orbit(kind: str) -> None:
    model, x = small(kind), images()
    versions = thrown(model, [0, 1.5], generator(2))
    one, two = (
        {
            name: J * each.get_parameter(name).detach() ** 2
            for name, J in sensitivity(each, x).items()
        }
        for each in versions
    )
    assert not torch.equal(*(each[-1].weight for each in versions))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("per_channel", [False, True])
def test_prediction_is_the_mean_over_random_errors(per_channel: bool) -> None:
    """Draw uniform errors of the weights instead of rounding, and measure."""
    model, x = small(), images(20)
    scores = {
        name: J * model.get_parameter(name).detach() ** 2
        for name, J in sensitivity(model, x).items()
    }
    rng, total, draws = generator(3), 0.0, 200
    with torch.no_grad():
        outputs = model(x)
        for _ in range(draws):
            moved = small()
            for weight in weight_matrices(moved):
                size = weight.abs().amax(1, keepdim=True) if per_channel else weight.abs().max()
                noise = torch.rand(weight.shape, dtype=torch.float64, generator=rng) - 0.5
                weight += noise * size / 127
            total += float((moved(x) - outputs).square().sum())
    measured = math.sqrt(total / draws) / float(outputs.norm())
    found = predicted_error(model, x, scores, 8, per_channel=per_channel)
    assert found == pytest.approx(measured, rel=0.1)  # 200 draws, and the second order


def test_prediction_needs_weights_other_than_zero() -> None:
    model, x = small(), images()
    J = sensitivity(model, x)
    sparse = prune(model, 0.5)
    with pytest.raises(ValueError, match=r"parameter '1\.weight' has weights that are 0"):
        predicted_error(sparse, x, J, 8)


def test_quantization_table(quantized: pd.DataFrame) -> None:
    keys = ["network", "seed", "scale", "fix", "bits", "grid"]
    assert list(quantized.columns) == [*keys, "error", "predicted", "accuracy", "unrounded"]
    assert len(quantized) == 2 * 2 * 2 * 2 * 2
    assert not quantized[keys].duplicated().any()
    exact = quantized.groupby("network")["unrounded"]
    assert (exact.nunique() == 1).all()  # one function
    fixed = quantized[quantized["fix"] == "(2, 2)"].set_index(keys)["predicted"]
    thrown_too = fixed.xs(2.0, level="scale")
    # the fix undoes the factors, up to its tolerance
    np.testing.assert_allclose(fixed.xs(0.0, level="scale"), thrown_too, rtol=1e-4)


def test_quantization_recomputed(quantized: pd.DataFrame) -> None:
    data, exact = Digits(), Digits(torch.float64)
    rng = generator(0)
    model = trained("conv", QUANTIZED, data, rng)
    _, moved = thrown(model, [0, 2], rng)
    row = quantized.query("network == 'conv' and scale == 2 and fix == 'none' and bits == 3")
    row = row[row["grid"] == "tensor"].iloc[0]
    found = quantize(moved, 3)
    with torch.no_grad():
        logits = model(exact.test_x)
        error = (found(exact.test_x) - logits).norm() / logits.norm()
        right = found(exact.test_x).argmax(1) == exact.test_y
    assert row["error"] == pytest.approx(float(error), rel=1e-6)
    assert row["accuracy"] == pytest.approx(float(right.double().mean()))


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layerwise", [False, True])
def test_prune_is_torchs_own(layerwise: bool) -> None:
    from torch.nn.utils import prune as torch_prune

    model, expected = small(), small()
    layers = [(each, "weight") for each in expected if isinstance(each, nn.Linear)]
    if layerwise:
        for layer, name in layers:
            torch_prune.l1_unstructured(layer, name, amount=0.7)
    else:
        torch_prune.global_unstructured(
            layers, pruning_method=torch_prune.L1Unstructured, amount=0.7
        )
    found = prune(model, 0.7, layerwise=layerwise)
    pairs = zip(weight_matrices(found), weight_matrices(expected), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert all((each != 0).all() for each in weight_matrices(model))  # unchanged


def test_prune_by_scores() -> None:
    model = mlp([3, 2, 1], dtype=torch.float64, generator=generator(0))
    scores = {
        "linear1.weight": torch.tensor([[5.0, 1, 6], [7, 8, 2]]),
        "linear2.weight": torch.tensor([[3.0, 4]]),
    }
    found = prune(model, 0.5, scores=scores)
    assert (found.linear1.weight == 0).tolist() == [[False, True, False], [False, False, True]]
    assert (found.linear2.weight == 0).tolist() == [[True, True]]
    assert torch.equal(found.linear1.weight[0, 0], model.linear1.weight[0, 0])


def test_pruning_table(pruned: pd.DataFrame) -> None:
    keys = ["network", "seed", "scale", "fix", "method", "part"]
    assert list(pruned.columns) == [*keys, "accuracy", "unpruned"]
    assert not pruned[keys].duplicated().any()
    assert len(pruned) == 2 * 2 * 2 * (3 + 2)
    of = pruned.set_index(keys)["accuracy"].unstack("scale")
    known = of[of.index.get_level_values("fix") == "(2, 2)"]
    known = pd.concat([known, of.xs("sensitivity", level="method", drop_level=False)])
    # what does not see the scale gives one function, up to a weight at the threshold
    np.testing.assert_allclose(known[0.0], known[2.0], atol=0.01)


def test_pruning_recomputed(pruned: pd.DataFrame) -> None:
    data, exact = Digits(), Digits(torch.float64)
    model = trained("mlp", PRUNED, data, generator(0))
    fixed = balance(model, method="multiplicative").model
    sizes = torch.cat([each.abs().flatten() for each in weight_matrices(fixed)])
    limit = sizes.sort().values[round(0.8 * len(sizes)) - 1]
    with torch.no_grad():
        for weight in weight_matrices(fixed):
            weight[weight.abs() <= limit] = 0
        right = fixed(exact.test_x).argmax(1) == exact.test_y
    row = pruned.query("network == 'mlp' and scale == 0 and fix == '(2, 2)' and part == 0.8")
    row = row[row["method"] == "global"].iloc[0]
    assert row["accuracy"] == pytest.approx(float(right.double().mean()))


# --- training -------------------------------------------------------------------------------------


def test_training_table(runs: pd.DataFrame) -> None:
    kind = ["network", "scale", "method", "lr"]
    assert list(runs.columns) == [*kind, "seed", "epoch", "loss", "accuracy"]
    assert [tuple(row) for row in runs[kind].drop_duplicates().to_numpy()] == list(TRAINED.lrs)
    for _, run in runs.groupby(kind):
        assert run["epoch"].tolist() == [0, 1, 2]
    starts = runs[runs["epoch"] == 0]["loss"]
    assert starts.max() - starts.min() <= 1e-4 * starts.min()  # one function, in single precision


def test_tuning_is_the_last_epoch_of_training_at_every_rate(runs: pd.DataFrame) -> None:
    table = tuning(TUNED)
    assert list(table.columns) == [each for each in runs if each != "epoch"]
    assert len(table) == 2 * (2 + 1) + 2 * 2 + 1  # the fix only from the larger scale
    last = runs[runs["epoch"] == 2].drop(columns="epoch")
    columns = ["network", "scale", "method", "lr"]
    same = last[columns].merge(table, on=columns, how="left")
    pd.testing.assert_frame_equal(same, last.reset_index(drop=True), check_exact=True)


def test_best_rates() -> None:
    rows = [("conv", 1.0, m, lr, s) for m in ("adam", "sgd") for lr in (3.0, 0.1) for s in (0, 1)]
    table = pd.DataFrame(rows, columns=["network", "scale", "method", "lr", "seed"])
    table["loss"] = [1, math.inf, 2, 2.5, 0.5, 3.0, 1, 2.75]  # lowest mean, not lowest loss
    assert best_rates(table) == (("conv", 1.0, "adam", 0.1), ("conv", 1.0, "sgd", 3.0))


def test_rates_of_the_record_are_those_that_tuning_chose() -> None:
    recorded = best_rates(pd.read_csv(RESULTS / "practice.tuning.csv"))
    assert set(recorded) == set(TrainingConfig().lrs)
    used = pd.read_csv(RESULTS / "practice.training.csv")
    columns = ["network", "scale", "method", "lr"]
    assert set(used[columns].itertuples(index=False, name=None)) == set(recorded)
    seeds = [
        set(pd.read_csv(RESULTS / f"practice.{n}.csv")["seed"]) for n in ("tuning", "training")
    ]
    assert seeds[0].isdisjoint(seeds[1])


@pytest.mark.parametrize("method", ["sgd", "sgd, fix each epoch", "adam, fix first"])
def test_training_recomputed(runs: pd.DataFrame, method: str) -> None:
    data, rng = Digits(), generator(0)
    model = initial("mlp", rng)
    (model,) = thrown(model, [2], rng)
    if "fix" in method:
        model = balance(model, method="multiplicative").model
    lr = runs.query("scale == 2 and method == @method")["lr"].iloc[0]
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(2):
        rate = lr * (1 + math.cos(math.pi * step / 2)) / 2
        for batch in torch.randperm(len(data.x), generator=rng).split(300):
            model.zero_grad()
            nn.functional.cross_entropy(model(data.x[batch]), data.y[batch]).backward()
            if method.startswith("adam"):
                adam.param_groups[0]["lr"] = rate
                adam.step()
                continue
            with torch.no_grad():
                for each in model.parameters():
                    each -= rate * each.grad
        loss = data.loss(model)
        if "each" in method:
            balance(model, method="multiplicative", inplace=True)
    row = runs.query("scale == 2 and method == @method and epoch == 2").iloc[0]
    assert row["loss"] == pytest.approx(loss, rel=1e-3)  # ten steps in single precision
    assert row["accuracy"] == pytest.approx(data.accuracy(model), abs=0.005)


def test_failed_training_is_recorded_as_such() -> None:
    lrs = tuple((*each[:3], 1e30) for each in TRAINED.lrs)
    final = training(replace(TRAINED, scales=(2,), lrs=lrs))
    assert np.isinf(final.query("epoch > 0")["loss"]).all()
    assert final["accuracy"].between(0, 1).all()
    assert (final.groupby("method")["epoch"].max() == 2).all()


# --- all three ------------------------------------------------------------------------------------


def test_experiments_are_deterministic_and_quiet(
    quantized: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    again = quantization(replace(QUANTIZED, networks=("conv",)))
    assert capsys.readouterr().err == ""  # not a terminal
    assert torch.equal(torch.get_rng_state(), state)
    first = quantized[quantized["network"] == "conv"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first, check_exact=True)


def test_thrown_versions_compute_one_function() -> None:
    model, x = small("conv"), images()
    for each in thrown(model, [0, 1, 3], generator(0)):
        torch.testing.assert_close(each(x), model(x), rtol=1e-10, atol=1e-12)


BAD: list[tuple[type, dict[str, object], str]] = [
    (QuantizationConfig, {"networks": ("mlp", "rnn")}, "networks must be among mlp, conv, got"),
    (QuantizationConfig, {"scales": (-1,)}, "scales must be finite and at least 0, got"),
    (QuantizationConfig, {"fixes": ((1, 0),)}, "fixes must be pairs of numbers above 0, got"),
    (QuantizationConfig, {"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
    (QuantizationConfig, {"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    (QuantizationConfig, {"lr": 0.0}, "lr must be finite and above 0, got 0.0"),
    (QuantizationConfig, {"bits": (1,)}, "bits must be a whole number from 2 to 32, got 1"),
    (QuantizationConfig, {"samples": 2000}, "samples must be from 1 to 1347, got 2000"),
    (PruningConfig, {"parts": (1.0,)}, "the part to prune must be at least 0 and below 1, got 1.0"),
    (PruningConfig, {"samples": 0}, "samples must be from 1 to 1347, got 0"),
    (TrainingConfig, {"networks": ()}, "networks must be among mlp, conv, got"),
    (TrainingConfig, {"lrs": (("mlp", 0, "sgd"),)}, "lrs must be tuples of network, scale, method"),
    (TrainingConfig, {"lrs": (("mlp", 0, "sgd", 0.1),)}, "lrs has no learning rate for"),
    (TuningConfig, {"sgd_lrs": ()}, "sgd_lrs must be finite numbers above 0, got"),
    (TuningConfig, {"adam_lrs": (0.1, math.inf)}, "adam_lrs must be finite numbers above 0"),
]


@pytest.mark.parametrize(("config", "setting", "message"), BAD)
def test_bad_settings_are_named(
    config: Callable[..., object], setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**setting)


@pytest.mark.parametrize(
    ("name", "run", "config", "rows"),
    [
        ("quantization", quantization, QuantizationConfig(), 2 * 3 * 4 * 4),
        ("pruning", pruning, PruningConfig(), 2 * 3 * (4 * 2 + 1) * 6),
        ("tuning", tuning, TuningConfig(), 2 * (5 * 9 + 4 * 5)),
        ("training", training, TrainingConfig(), 2 * 9 * 16),
    ],
)
def test_registered_and_recorded(
    name: str, run: Callable[..., pd.DataFrame], config: object, rows: int
) -> None:
    assert EXPERIMENTS[f"practice.{name}"].run is run
    assert EXPERIMENTS[f"practice.{name}"].config == config
    table = pd.read_csv(RESULTS / f"practice.{name}.csv")
    assert (table.groupby("seed").size() == rows).all()

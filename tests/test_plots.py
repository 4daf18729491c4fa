"""Every figure is labelled, and is fit for light pages, dark pages and screen readers."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from balancing import plots
from balancing.experiments.du2018 import Figure1Config, Figure2Config, Theorem32Config, rank_one
from balancing.experiments.du2018 import figure1 as run_figure1
from balancing.experiments.du2018 import figure2 as run_figure2
from balancing.experiments.saul2023 import Figure2Config as SaulConfig
from balancing.experiments.saul2023 import figure2 as run_saul_figure2
from balancing.plots._style import COLOURS, band, make_axes, seeds_note
from balancing.plots._svg import inline_svg

INK = "#010203"  # becomes the page's own text colour
SVG = "application/vnd.balancing.figure+svg"
TABLE = run_figure2(Figure2Config(iterations=20, samples=20, widths=(20, 10, 8, 5), record_every=1))

UPDATES = run_saul_figure2(
    SaulConfig(networks=((3, 4, 2), (3, 4, 4, 2)), panels=((1, 1), (2, 1)), updates=5)
)
RISEN = np.array([0.5, 2.0]), np.array([0.25, 1.0]), np.array([[False, False], [False, True]])
ERRORS = {
    "start": [torch.tensor([1.0, 3]), torch.zeros(3)],
    "after": [torch.ones(2), torch.ones(3)],
}
PASSES = (
    {"slow": ([2, 4, 6], [0.5, 0.2, 0.1]), "fast": ([2, 4], [0.5, 1e-6])},
    {"fast": {3: 4.0, 30: 5.0}},
)
PROFILES = {0: np.array([2, 0.5]), 5: np.ones(2)}, {0: np.array([2, 0.5]), 5: np.array([1.1, 0.9])}


# three seeds; medians 0.02, 0.04, 0.1
CHANGES = pd.DataFrame(
    [
        {"step": step, "seed": seed, "change": change * (1 + part)}
        for step, change in ((0.08, 0.1), (0.04, 0.04), (0.02, 0.02))
        for seed, part in ((2, 0.5), (0, -0.5), (1, 0))
    ]
)


def line(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    return x, scale * x.relu()


def rescaled() -> Figure:
    x, y = line()
    units = torch.tensor([1.0, 2]), torch.tensor([0.5, 3])
    return plots.rescaled(x, {"one": y, "two": y}, {"one": units, "two": units[::-1]})


def hyperbolas() -> Figure:
    x, y = line()
    return plots.hyperbolas({"flow": torch.stack([x, y], 1), "descent": torch.stack([y, x], 1)})


def conserved() -> Figure:
    times = torch.linspace(0, 1, 5)
    return plots.conserved(times, 1 + times[:, None].expand(5, 3), times[:, None].expand(5, 3) ** 2)


def drift() -> Figure:
    return plots.drift(CHANGES, fitted=[0.04, 0.02])


def predicted_drift() -> Figure:
    changes = pd.Series({0.04: 0.041, 0.02: 0.02})
    units = {"step 0.04": torch.tensor([0.4, -0.3, 0.1]), "step 0.02": torch.tensor([0.3, -0.2, 0])}
    return plots.predicted_drift(changes, units, torch.tensor([0.3, -0.25, 0.05]))


DRIFTS = pd.DataFrame(
    [
        {"optimizer": name, "rate": rate, "seed": seed, "change": change * (1 + part)}
        for name, changes in (("gd", (1e-4, 2e-4)), ("sgd", (4e-4, 9e-4)))
        for rate, change in zip((0.01, 0.02), changes, strict=True)
        for seed, part in enumerate((0, 0.5, -0.5))
    ]
)
KEPT = pd.DataFrame({"seed": [0, 0, 1, 1], "time": [0.0, 2, 0, 2], "kept": [1, 0.7, 1, 0.6]})


def entries() -> Figure:
    times, matrices = torch.linspace(0, 1, 4), torch.linspace(0, 1, 16).view(4, 2, 2)
    return plots.entries({"linear": (times, 0 * matrices), "ReLU": (times, matrices)})


RANK_ONE = rank_one(Theorem32Config(), 20, 0)
RANK_ONES = pd.concat([RANK_ONE.assign(seed=0), rank_one(Theorem32Config(), 20, 1).assign(seed=1)])
FACTORS = pd.concat(
    [
        run_figure1(Figure1Config(shape=(6, 5), iterations=20, record_every=5, seed=s)).assign(
            seed=s
        )
        for s in range(3)
    ]
)


def escape() -> Figure:
    growing = torch.linspace(0.1, 1, 8, dtype=torch.float64)[:, None].expand(8, 2)
    return plots.escape([1.0, 0.5], growing, growing**2, growing - 0.1, [3.0, 5.0])


def schedules() -> Figure:
    both = FACTORS[FACTORS["init"] == "balanced"]
    runs = {name: both[both["objective"] == k] for name, k in (("one", 2), ("other", 3))}
    times = {name: np.arange(1.0, 20.0) for name in runs}
    return plots.schedules(runs, times, escape_time=7.0)


def rank_one_steps() -> Figure:
    dim = [20, 20, 200, 200]
    table = pd.DataFrame({"dim": dim, "iterations": [9, 11, 12, 14], "start": [0.4, 0.2, 0.2, 0.1]})
    medians = pd.Series([10.0, 13.0], index=[20.0, 200.0])
    return plots.rank_one_steps(table, medians, (np.array([0.1, 0.4]), np.array([14.0, 9.0])))


def norm_contours() -> Figure:
    theta = torch.linspace(-1, 1, 9, dtype=torch.float64)
    ratio = 1 + theta[:, None] ** 2 + 2 * theta**2
    path = torch.tensor([[-0.5, 0.5], [0, 0.5], [0, 0]])
    surfaces = {"first": (ratio, path), "second": (ratio.T, path.flip(1))}
    return plots.norm_contours(theta, surfaces, levels=[1.1, 1.5, 2])


def auxiliary() -> Figure:
    theta = np.linspace(-1, 1, 41)
    height = 1 + (theta - 0.5) ** 2
    return plots.auxiliary(theta, height, [(0.0, 0.25, height + theta**2)])


def modes() -> Figure:
    vectors = -torch.eye(4, dtype=torch.float64)[:, :2] - 1
    values = torch.linspace(0.2, 0.8, 4)
    return plots.modes(vectors, [2, 2], {"$(2, 2)$": values}, {"$(2, 2)$": np.array([0.2])})


def hinge() -> Figure:
    x, y = line()
    return plots.hinge({"flow": torch.stack([x, y], 1), "fix": torch.stack([y, x], 1)})


def pairing() -> Figure:
    return plots.pairing([(1, 1), (2, 2)], {"own": [1e-12, 0.0], "gradient": [0.3, 1e-11]})


def imbalance_decay() -> Figure:
    times = torch.linspace(0, 1, 11)
    ratios = torch.exp(-2 * times)[:, None].expand(11, 3)
    return plots.imbalance_decay(times, {"flow": ratios, "gradient": ratios**2}, 2.0)


def imbalances() -> Figure:
    times = torch.linspace(0, 1, 5)
    values = times[:, None] * torch.tensor([1.0, -2.0])
    return plots.imbalances(times, {"flow": values, "gradient": values**2})


def departure() -> Figure:
    rising, low = np.array([0, 0.1, 0.2]), np.full(3, 1e-10)
    return plots.departure(torch.arange(3.0), {"gradient": (rising, rising / 9), "own": (low, low)})


STEPS = {"$(1, 2)$": {"Euler": [0.1, 0.05], "shares": [0, 0]}, "$(3, 3)$": {"dual": [1.0, 0.5]}}


def runs_of(epochs: int, offset: float) -> pd.DataFrame:
    """Two seeds of each method."""
    rows = [
        {
            "method": method,
            "epochs": epochs,
            "seed": seed,
            "epoch": epoch,
            "objective": 1 + offset + seed / (1 + epoch),
            "small": epoch / epochs / (2 + seed),
        }
        for method in ("flow", "sgd", "prox")
        for seed in (0, 1)
        for epoch in range(0, epochs + 1, epochs // 2)
    ]
    return pd.DataFrame(rows)


TIMES = pd.DataFrame(
    {
        "network": ["small", "small", "large", "large", "large"],
        "method": ["ours", "peer", "ours", "peer", "other"],
        "seconds": [0.1, 0.01, 2.0, 60.0, np.nan],
        "norm": [1.0, 1.2, 3.0, 3.0, np.nan],
        "ended": [True, True, True, False, False],
    }
)

RACE = pd.concat([runs_of(2, 0.5), runs_of(4, 0.1)])


def traced_units() -> Figure:
    into, out = torch.tensor([1.0, 2]), torch.tensor([0.5, 3])
    return plots.traced_units({"before": {"bn": (into, out)}, "after": {"bn": (into, into)}})


def training_invariants() -> Figure:
    times = torch.arange(3.0)
    return plots.training_invariants({"one": (times, times[:, None].expand(3, 2))})


PRACTICE = pd.DataFrame(
    [
        {
            "network": network,
            "seed": seed,
            "scale": scale,
            "fix": fix,
            "bits": bits,
            "grid": grid,
            "error": 0.01 * (1 + seed + scale),
            "predicted": 0.01 * (1 + seed),
        }
        for network in ("mlp", "conv")
        for seed in (0, 1)
        for scale in (0.0, 1.0)
        for fix in ("none", "(2, 2)")
        for bits in (8, 4)
        for grid in ("tensor", "channel")
    ]
)
PRUNED = pd.DataFrame(
    [
        {
            "network": network,
            "seed": seed,
            "scale": 0.0,
            "fix": fix,
            "method": method,
            "part": part,
            "accuracy": 1 - part * (1 + seed) / 3,
        }
        for network in ("mlp", "conv")
        for seed in (0, 1)
        for fix, method in (
            ("none", "global"),
            ("(2, 2)", "global"),
            ("none", "layer"),
            ("none", "sensitivity"),
        )
        for part in (0.5, 0.9)
    ]
)
STARTS = pd.DataFrame(
    [
        {"scale": scale, "method": method, "seed": seed, "epoch": epoch, "loss": 2.0 / (1 + epoch)}
        for scale, method in ((0.0, "sgd"), (2.0, "sgd"), (2.0, "sgd, fix first"))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
)


FIGURES: dict[str, Callable[[], Figure]] = {
    "rescaled": rescaled,
    "hyperbolas": hyperbolas,
    "conserved": conserved,
    "entries": entries,
    "unrolled": lambda: plots.unrolled(torch.tensor([[1.0, 2, 0], [0, 1, 2], [0, 0, 1]]), (3, 1)),
    "shared": lambda: plots.shared(torch.arange(3.0), torch.ones(3), torch.arange(3.0)),
    "predicted_drift": predicted_drift,
    "drifts": lambda: plots.drifts(DRIFTS, {"one": ["gd", "sgd"], "other": ["sgd"]}),
    "kept": lambda: plots.kept({"SGD": KEPT}, {"decay": 0.1}),
    "figure2": lambda: plots.figure2(TABLE),
    "losses": lambda: plots.losses(TABLE),
    "drift": drift,
    "escape": escape,
    "figure1": lambda: plots.figure1(FACTORS),
    "schedules": schedules,
    "two_stages": lambda: plots.two_stages(RANK_ONE, RANK_ONES, half_time=60, rate=0.9),
    "rank_one_steps": rank_one_steps,
    "signal_ratios": lambda: plots.signal_ratios({"one run": RANK_ONE}, RANK_ONES),
    "one_unit": lambda: plots.one_unit(1.0, 4.0, 0.5),
    "norm_contours": norm_contours,
    "hinge": hinge,
    "auxiliary": auxiliary,
    "descent": lambda: plots.descent({"$(2, 2)$": line()[0].exp(), "$(1, 1)$": line(2)[0].exp()}),
    "safe_exponents": lambda: plots.safe_exponents(*RISEN),
    "convergence": lambda: plots.convergence(UPDATES),
    "benchmark": lambda: plots.benchmark(TIMES),
    "diffusion": lambda: plots.diffusion(*PROFILES),
    "modes": modes,
    "layer_errors": lambda: plots.layer_errors(ERRORS),
    "passes": lambda: plots.passes(*PASSES),
    "phases": lambda: plots.phases([1, 0.5, 0.25], [2, 0.2, 0.02]),
    "mobility": lambda: plots.mobility(line()[0].exp(), {1: line()[0].exp(), 2: line()[0] ** 2}),
    "pairing": pairing,
    "imbalance_decay": imbalance_decay,
    "imbalances": imbalances,
    "departure": departure,
    "finite_steps": lambda: plots.finite_steps([0.1, 0.05], STEPS),
    "race": lambda: plots.race(RACE),
    "traced_units": traced_units,
    "training_invariants": training_invariants,
    "training_drift": lambda: plots.training_drift([0.2, 0.1], {"a": [0.3, 0.1], "b": [2, 1]}),
    "rounding_errors": lambda: plots.rounding_errors(PRACTICE[PRACTICE["bits"] == 8]),
    "rounding_prediction": lambda: plots.rounding_prediction(PRACTICE),
    "sparsity": lambda: plots.sparsity(PRUNED, [0]),
    "bad_starts": lambda: plots.bad_starts(STARTS, {"sgd": "SGD", "sgd, fix first": "fix"}),
}


def title_of(axes: Axes) -> str:
    return "".join(axes.get_title(loc=loc) for loc in ("left", "center", "right"))


def test_every_public_figure_is_tested() -> None:
    assert set(plots.__all__) - {"FigureOutput", "show"} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_xlabel()
        # a panel may share its neighbour's axis, and those of figure 2 are named by their titles
        row = axes.get_shared_y_axes().get_siblings(axes)
        named = title_of(axes) and (figure.legends or figure.axes[0].get_legend())
        assert any(each.get_ylabel() for each in row) or named
        assert axes.has_data()
    assert plt.get_fignums() == []


# matplotlib reads some settings when an artist is made, not when its axes are: hence these three.


@pytest.mark.parametrize("name", FIGURES)
def test_all_text_and_ticks_are_in_ink(name: str) -> None:
    figure = FIGURES[name]()
    plots.show(figure, "A line.")  # draws, which makes the last of them
    for text in figure.findobj(Text):
        if text.get_text():
            assert text.get_color() == INK, text
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in axis.get_major_ticks():
                assert tick.tick1line.get_markeredgecolor() == INK
                assert tick.gridline.get_color() == INK


@pytest.mark.parametrize("name", FIGURES)
def test_titles_stand_left(name: str) -> None:
    for axes in FIGURES[name]().axes:
        assert axes.get_title(loc="left") == title_of(axes)


def test_lines_have_the_width_of_the_style() -> None:
    (axes,) = plots.losses(TABLE).axes
    assert [drawn.get_linewidth() for drawn in axes.get_lines()] == [1.8, 1.8]


def svg_of(figure: Figure, alt: str = "A line.") -> str:
    return plots.show(figure, alt)._repr_mimebundle_()[SVG]


@cache
def svg_named(name: str) -> str:
    """The SVG of one of `FIGURES`, which takes a while to draw."""
    return svg_of(FIGURES[name]())


def ids(svg: str) -> set[str]:
    found = [element.get("id") for element in ET.fromstring(svg).iter() if element.get("id")]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("name", FIGURES)
def test_svg(name: str) -> None:
    svg = svg_named(name)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == "A line."
    # it scales with the page
    assert root.get("viewBox")
    assert root.get("width") is None
    assert root.get("height") is None
    assert "currentColor" in svg
    assert INK not in svg
    # every reference inside the figure has its target
    targets = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert targets
    assert targets <= ids(svg)
    assert plt.get_fignums() == []


def test_svg_is_small() -> None:
    figure = Figure()
    figure.subplots().plot(np.arange(1000) / 7, np.arange(1000) ** 2 / 7, ".", color=INK, alpha=0.5)
    vector = io.StringIO()
    figure.savefig(vector, format="svg")
    svg = svg_of(figure)
    assert len(svg) < 0.5 * len(vector.getvalue())
    assert not re.search(r"\d\.\d{3}", re.sub(r"scale\([^)]*\)", "", svg))
    assert "scale(0.015625)" in svg, "the letters' own scale is not to be rounded"


def test_svg_is_still_the_same_picture() -> None:
    path = "M 1.23456 -2 \nL 3 4 \nL 5.004 6.1 \nC 1 2 3 4 5 6 \nL 7 8 \nz\nM 0 0 \n"
    use = '<use xlink:href="#m" x="{}" y="0" style="fill: red; fill-opacity: 0.5"/>\n'
    markers = use.format(1) + use.format(2)
    figure = (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="9pt"><!-- a -->\n'
        f'<path id="gone" d="{path}" transform="translate(-0.125 2)"/>\n'
        f'<g clip-path="url(#c)">\n{markers}</g><path id="m"/><clipPath id="c"/></svg>'
    )
    svg = inline_svg(figure, "A", ink=INK)
    prefix = re.search(r'href="#(f\w{5}-)', svg)[1]
    assert svg == (
        '<svg role="img" aria-label="A" style="width: 100%; max-width: 96px; min-width: 58px; '
        'height: auto"><path d="M1.23 -2 3 4 5 6.1C1 2 3 4 5 6L7 8zM0 0" '
        'transform="translate(-0.12 2)"/>'
        f'<g clip-path="url(#{prefix}0)" style="fill:red;fill-opacity:0.5">'
        f'<use href="#{prefix}1" x="1" y="0"/>'
        f'<use href="#{prefix}1" x="2" y="0"/></g><path id="{prefix}1"/>'
        f'<clipPath id="{prefix}0"/></svg>'
    )


def test_curves_keep_their_own_colours() -> None:
    svg = svg_of(plots.losses(TABLE))
    for colour in COLOURS[:2]:
        assert colour in svg


def test_figures_on_one_page_share_no_id() -> None:
    all_ids = [ids(svg_named(name)) for name in FIGURES]
    assert sum(map(len, all_ids)) == len(set().union(*all_ids))


def test_equal_input_gives_equal_bytes() -> None:
    one, two = (plots.show(plots.losses(TABLE), "A")._repr_mimebundle_() for _ in range(2))
    assert one == two


def test_alt_text_is_escaped() -> None:
    alt = 'The "gap" <W> & \n  it\'s kept'
    root = ET.fromstring(svg_of(drift(), alt))
    assert root.get("aria-label") == 'The "gap" <W> & it\'s kept'


def test_bundle() -> None:
    output = plots.show(drift(), "A line.")
    bundle = output._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/plain", "image/png", SVG}
    assert bundle["text/plain"] == repr(output) == "<Figure: A line.>"


def test_png_is_an_image_on_white() -> None:
    bundle = plots.show(drift(), "A line.")._repr_mimebundle_()
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGBA"))
    height, width, _ = pixels.shape
    assert width > height > 200
    assert pixels[0, 0].tolist() == [255, 255, 255, 255]
    assert pixels[..., :3].min() < 60  # something dark is drawn


@pytest.mark.parametrize("alt", ["", "  ", "\n\t"])
def test_alt_text_is_required(alt: str) -> None:
    with pytest.raises(ValueError, match="alt must say what one would see"):
        plots.show(drift(), alt)


def contrast(colour: str, background: tuple[float, float, float]) -> float:
    """Contrast ratio as WCAG defines it."""

    def luminance(rgb: np.ndarray) -> float:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    low, high = sorted((luminance(rgb), luminance(np.array(background))))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_legible_on_light_and_dark_pages(colour: str) -> None:
    assert contrast(colour, (1, 1, 1)) >= 3
    assert contrast(colour, (0.07, 0.07, 0.07)) >= 3


def test_entries_shows_each_entry_once_and_never_below_the_axis() -> None:
    left, right = entries().axes
    for axes in (left, right):
        assert len(axes.get_lines()) == 3  # a symmetric 2 x 2 matrix
    assert all((drawn.get_ydata() == 1e-17).all() for drawn in left.get_lines())
    moved = torch.linspace(0, 1, 16).view(4, 2, 2)
    drawn = [each.get_ydata().tolist() for each in right.get_lines()]
    for (i, j), values in zip(((0, 0), (0, 1), (1, 1)), drawn, strict=True):
        assert values == (moved[1:, i, j] - moved[0, i, j]).tolist()


def test_unrolled_leaves_zeros_blank() -> None:
    (axes,) = plots.unrolled(torch.tensor([[1.0, 0], [0, -2]]), (2, 1)).axes
    (image,) = axes.get_images()
    assert image.get_array().mask.tolist() == [[False, True], [True, False]]
    assert len(axes.get_lines()) == 1  # between the two channels out


def test_shared_draws_changes() -> None:
    (axes,) = plots.shared(torch.arange(3.0), torch.full((3,), 7.0), torch.arange(5.0, 8)).axes
    assert [each.get_ydata().tolist() for each in axes.get_lines()] == [[0, 0, 0], [0, 1, 2]]


def test_predicted_drift_is_no_fit() -> None:
    left, right = predicted_drift().axes
    norm = float(torch.tensor([0.3, -0.25, 0.05]).norm())
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), [0.04 * norm, 0.02 * norm])
    assert left.get_lines()[1].get_ydata().tolist() == [0.041, 0.02]
    for points, values in zip(right.collections, ([0.4, -0.3, 0.1], [0.3, -0.2, 0]), strict=True):
        np.testing.assert_allclose(points.get_offsets()[:, 1], values)


def edges(axes: Axes, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper edge of a band, at each x of its line."""
    (path,) = axes.collections[index].get_paths()
    x, y = path.vertices[:-1].T
    ends = [(y[x == at].min(), y[x == at].max()) for at in np.unique(x)]
    low, high = np.array(ends).T
    return low, high


def test_band_is_the_median_and_the_middle_80_percent() -> None:
    """Of 0, 1, ..., 10 times x the quantiles 0.1, 0.5 and 0.9 are 1, 5 and 9 times x."""
    rows = [(seed, x, seed * x) for x in (4, 1, 2) for seed in reversed(range(11))]
    (axes,) = make_axes()[1]
    band(axes, pd.DataFrame(rows, columns=["seed", "x", "y"]), "x", "y", 2, label="it")
    (drawn,) = axes.get_lines()
    assert drawn.get_xydata().tolist() == [[1, 5], [2, 10], [4, 20]]
    assert (drawn.get_color(), drawn.get_label()) == (COLOURS[2], "it")
    low, high = edges(axes)
    np.testing.assert_allclose(low, [1, 2, 4])
    np.testing.assert_allclose(high, [9, 18, 36])
    assert axes.collections[0].get_alpha() < 0.5  # faint beside its line


def test_band_ends_where_the_first_run_ends() -> None:
    table = pd.DataFrame({"x": [0, 1, 2, 0, 1], "y": [1.0, 2, 3, 3, 4], "seed": [0, 0, 0, 1, 1]})
    (axes,) = make_axes()[1]
    band(axes, table, "x", "y", None)
    (drawn,) = axes.get_lines()
    assert drawn.get_xydata().tolist() == [[0, 2], [1, 3]]
    assert drawn.get_color() == INK


def test_band_over_runs_that_failed_keeps_its_median() -> None:
    """A loss that has become infinite is above all others, and no warning is raised."""
    table = pd.DataFrame({"x": [0] * 5, "y": [1.0, 2, 3, np.inf, np.inf]})
    (axes,) = make_axes()[1]
    axes.set_yscale("log")
    band(axes, table, "x", "y", 0)
    assert axes.get_lines()[0].get_ydata().tolist() == [3]


def test_note_counts_the_seeds() -> None:
    assert seeds_note(pd.DataFrame({"seed": [3, 3]})) == "one seed"
    assert seeds_note(pd.DataFrame({"seed": [0, 1, 1, 7]})) == "median, 10–90 % of 3 seeds"


NOTED = (
    "figure2", "losses", "drift", "drifts", "kept", "figure1", "schedules", "two_stages",
    "signal_ratios", "convergence", "rounding_errors", "sparsity", "bad_starts", "race",
)  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_figure_with_bands_says_what_they_are(name: str) -> None:
    figure = FIGURES[name]()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    said = [
        text.get_text()
        for legend in legends
        if legend is not None
        for text in (legend.get_title(), *legend.get_texts())
    ]
    notes = [text for text in said if text == "one seed" or "10–90 %" in text]
    assert len(notes) == 1
    assert any(axes.collections for axes in figure.axes)


def test_drifts_has_a_line_of_slope_one_through_the_first_of_each() -> None:
    axes = plots.drifts(DRIFTS, {"one": ["gd", "sgd"]}).axes[0]
    drawn = [line.get_ydata() for line in axes.get_lines()]
    expected = [[1e-4, 2e-4], [1e-4, 2e-4], [4e-4, 9e-4], [4e-4, 8e-4]]
    np.testing.assert_allclose(drawn, expected)
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["gd", "sgd", "slope 1"]


def test_drift_fits_its_line_to_medians() -> None:
    (axes,) = drift().axes
    slope_one, measured = axes.get_lines()
    np.testing.assert_allclose(slope_one.get_ydata(), [0.02, 0.04, 0.08])
    np.testing.assert_allclose(measured.get_xydata(), [[0.02, 0.02], [0.04, 0.04], [0.08, 0.1]])


def test_kept_shows_the_median_of_the_seeds_and_the_exponential() -> None:
    (axes,) = plots.kept({"SGD": KEPT}, {"decay": 0.1}).axes
    median, expected = axes.get_lines()
    np.testing.assert_allclose(median.get_ydata(), [1, 0.65])
    times = expected.get_xdata()
    assert (times.min(), times.max()) == (0, 2)
    np.testing.assert_allclose(expected.get_ydata(), np.exp(-0.2 * times))
    assert axes.get_legend_handles_labels()[1] == ["SGD", "decay"]


def test_figure2_shows_the_table() -> None:
    panels = plots.figure2(TABLE).axes
    assert [title_of(axes) for axes in panels] == [
        "(a) balanced start: gaps",
        "(b) balanced start: ratios",
        "(c) unbalanced start: gaps",
        "(d) unbalanced start: ratios",
    ]
    names = [("balanced", "gap"), ("balanced", "ratio"), ("unbalanced", "gap")]
    for axes, (init, kind) in zip(panels, [*names, ("unbalanced", "ratio")], strict=True):
        run = TABLE[TABLE["init"] == init]
        for drawn, pair in zip(axes.get_lines(), ("12", "23"), strict=False):
            assert drawn.get_ydata().tolist() == run[f"{kind}{pair}"].tolist()
            assert drawn.get_xdata().tolist() == run["iteration"].tolist()


def test_figure1_tells_the_objectives_apart_by_dash() -> None:
    panels = plots.figure1(FACTORS).axes
    kinds = [
        (init, kind) for init in ("balanced", "unbalanced") for kind in ("error", "gap", "ratio")
    ]
    for axes, (init, kind) in zip(panels, kinds, strict=True):
        assert title_of(axes).endswith(f"{init}: {kind}")
        solid, dashed = axes.get_lines()[:2]
        for drawn, objective in ((solid, 3), (dashed, 2)):
            runs = FACTORS[(FACTORS["init"] == init) & (FACTORS["objective"] == objective)]
            assert drawn.get_label() == f"objective ({objective})"
            median = runs.pivot(index="iteration", columns="seed", values=kind).median(axis=1)
            assert drawn.get_ydata().tolist() == median.tolist()
        assert solid.get_linestyle() == "-"
        assert dashed.is_dashed()


def test_rate_of_two_stages_ends_on_the_error() -> None:
    """The thin line is no fit: it has the given rate, and one point in common with the error."""
    drawn = plots.two_stages(RANK_ONE, RANK_ONES, half_time=60, rate=0.9).axes[1].get_lines()
    _, error, line = drawn[:3]
    assert line.get_ydata()[-1] == error.get_ydata()[-1]
    assert line.get_xdata().min() >= 60
    np.testing.assert_allclose(line.get_ydata()[1:] / line.get_ydata()[:-1], 0.9)


def test_rank_one_steps_shows_every_run_and_the_medians() -> None:
    left, right = rank_one_steps().axes
    for axes in (left, right):
        shown = np.concatenate([points.get_offsets()[:, 1] for points in axes.collections])
        assert sorted(shown.tolist()) == [9, 11, 12, 14]
    assert left.get_lines()[0].get_ydata().tolist() == [10, 13]  # medians of 9, 11 and of 12, 14


def test_one_unit_marks_the_crossing_and_draws_a_chord_on_either_side() -> None:
    into, out, p = 1.0, 4.0, 0.5
    for axes, below in zip(plots.one_unit(into, out, p).axes, (False, True), strict=True):
        total, rising, falling, chord, dot = axes.get_lines()
        x, y = (np.asarray(each) for each in total.get_data())
        np.testing.assert_allclose(y, np.asarray(rising.get_ydata()) + falling.get_ydata())
        # at the minimum both terms are sqrt(in out)
        assert dot.get_ydata()[0] == pytest.approx(2 * (into * out) ** 0.5)
        assert dot.get_ydata()[0] <= y.min() + 1e-12
        ends, heights = (np.asarray(each) for each in chord.get_data())
        np.testing.assert_allclose(np.interp(ends, x, y), heights, rtol=1e-3)
        middle = np.interp(ends.mean(), x, y)
        assert (heights.mean() < middle) == below


def test_contours_have_the_first_factor_on_the_horizontal_axis() -> None:
    first, second = norm_contours().axes
    # theta_1^2 + 2 theta_2^2 reaches farther along theta_1; in the second panel it is exchanged
    for axes, wide in ((first, True), (second, False)):
        points = np.concatenate([p.vertices for p in axes.collections[0].get_paths()[:1]])
        width, height = np.ptp(points, axis=0)
        assert (width > height) == wide
        *_, path, star = axes.get_lines()
        assert star.get_xydata()[0].tolist() == path.get_xydata()[-1].tolist() == [0, 0]


def test_auxiliary_marks_where_it_touches_and_where_it_is_smallest() -> None:
    (axes,) = auxiliary().axes
    norm, bound, dot, square = axes.get_lines()
    x, f = (np.asarray(each) for each in norm.get_data())
    g = np.asarray(bound.get_ydata())
    assert dot.get_xydata()[0].tolist() == [0, f[20]] == [0, g[20]]
    assert square.get_xydata()[0].tolist() == [0.25, g.min()]
    assert x[g.argmin()] == pytest.approx(0.25)


def test_safe_exponents_puts_exponents_on_the_vertical_axis() -> None:
    (axes,) = plots.safe_exponents(*RISEN).axes
    dots, crosses, limit, *_ = axes.get_lines()
    assert crosses.get_xydata().tolist() == [[2, 1]]
    assert sorted(dots.get_xydata().tolist()) == [[0.5, 0.25], [0.5, 1], [2, 0.25]]
    # 1 / max(p, 2 q) for p = 1 and the ratios at both ends
    assert limit.get_ydata()[[0, -1]].tolist() == [1, 0.25]


def test_convergence_has_a_panel_for_each_pair_and_a_line_for_each_network() -> None:
    figure = plots.convergence(UPDATES)
    assert [title_of(axes) for axes in figure.axes] == ["$(1, 1)$", "$(2, 1)$"]
    for axes, p in zip(figure.axes, (1, 2), strict=True):
        for drawn, name in zip(axes.get_lines(), ("3-4-2", "3-4-4-2"), strict=True):
            run = UPDATES[(UPDATES["p"] == p) & (UPDATES["network"] == name)]
            assert drawn.get_xdata().tolist() == list(range(6))
            assert drawn.get_ydata().tolist() == run["ratio"].tolist()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["1 hidden layers", "2 hidden layers"]


def test_benchmark_tells_who_is_not_as_low_and_who_was_stopped() -> None:
    (axes,) = plots.benchmark(TIMES).axes
    *drawn, stopped = (each for each in axes.get_lines() if len(each.get_xdata()) > 0)
    shown = [
        (each.get_fillstyle(), float(x), round(y))
        for each in drawn
        if each.get_color() != INK
        for x, y in each.get_xydata()
    ]
    assert shown == [("full", 0.1, 0), ("full", 2, 1), ("full", 60, 1), ("none", 0.01, 0)]
    assert stopped.get_label() == "stopped"
    assert stopped.get_xdata() > 60  # behind the marker
    assert [text.get_text() for text in axes.get_yticklabels()] == ["small", "large"]
    assert axes.get_xscale() == "log"


def test_diffusion_sets_the_model_beside_the_measurement() -> None:
    (axes,) = plots.diffusion(*PROFILES).axes
    drawn = [each.get_ydata().tolist() for each in axes.get_lines()[:4]]
    assert drawn == [[2, 0.5], [2, 0.5], [1, 1], [1.1, 0.9]]
    assert axes.get_lines()[0].get_xdata().tolist() == [1, 2]


def test_modes_start_above_zero_and_separate_layers() -> None:
    left, right = modes().axes
    first, second, border = left.get_lines()
    assert first.get_ydata().tolist() == [1, 0.5, 0.5, 0.5]
    assert second.get_ydata().tolist() == [0.5, 1, 0.5, 0.5]
    assert border.get_xdata() == [1.5, 1.5]
    assert len(right.get_lines()[0].get_xdata()) == 4


def test_layer_errors_draws_every_unit_and_the_means() -> None:
    panels = plots.layer_errors(ERRORS).axes
    assert [title_of(axes) for axes in panels] == ["start", "after"]
    first, second, means, _ = panels[0].get_lines()
    assert first.get_xydata().tolist() == [[1, 1], [1, 3]]
    assert second.get_xydata().tolist() == [[2, 0], [2, 0], [2, 0]]
    assert means.get_xydata().tolist() == [[1, 2], [2, 0]]
    assert panels[0].get_ylim() == panels[1].get_ylim()


def test_a_method_looks_the_same_in_both_panels_of_passes() -> None:
    figure = plots.passes(*PASSES)
    left, right = figure.axes
    assert [list(each.get_ydata()) for each in left.get_lines()] == [[0.5, 0.2, 0.1], [0.5, 1e-6]]
    fast, points = left.get_lines()[1], right.get_lines()[0]
    assert points.get_xydata().tolist() == [[3, 4], [30, 5]]
    assert (fast.get_color(), fast.get_linestyle()) == (points.get_color(), points.get_linestyle())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["slow", "fast"]


def test_pairing_draws_a_mark_for_each_pair_and_none_below_its_axis() -> None:
    (axes,) = pairing().axes
    own, gradient = axes.get_lines()
    assert own.get_ydata().tolist() == [1e-12, 1e-16]
    assert gradient.get_ydata().tolist() == [0.3, 1e-11]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["(1, 1)", "(2, 2)"]
    assert axes.get_ylim()[0] < 1e-16


def test_imbalances_of_a_flow_share_a_label() -> None:
    (axes,) = imbalances().axes
    assert len(axes.lines) == 4
    assert axes.get_legend_handles_labels()[1] == ["flow", "gradient"]


def test_imbalance_decay_marks_the_exponential_in_every_panel() -> None:
    for axes in imbalance_decay().axes:
        *units, marks = axes.get_lines()
        assert len(units) == 3
        x, y = (np.asarray(each) for each in marks.get_data())
        np.testing.assert_allclose(y, np.exp(-2 * x))


def test_departure_has_balance_left_and_norm_right() -> None:
    left, right = departure().axes
    assert title_of(left) == "largest relative imbalance"
    assert left.get_lines()[0].get_ydata().tolist() == [1e-16, 0.1, 0.2]
    np.testing.assert_allclose(right.get_lines()[0].get_ydata()[1:], [0.1 / 9, 0.2 / 9])


def test_a_method_looks_the_same_in_all_panels_of_finite_steps() -> None:
    both = {name: {"dual": [1.0, 0.5]} for name in ("a", "b")}
    figure = plots.finite_steps([0.1, 0.05], {"first": {"Euler": [1, 1], "dual": [1, 1]}, **both})
    looks = [
        (drawn.get_color(), drawn.get_linestyle())
        for axes in figure.axes
        for drawn in axes.get_lines()
        if drawn.get_label() == "dual"
    ]
    assert len(looks) == 3
    assert len(set(looks)) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Euler", "dual"]
    shown = plots.finite_steps([0.1, 0.05], STEPS).axes[0].get_lines()[1]
    assert shown.get_ydata().tolist() == [1e-16, 1e-16]


def test_race_draws_the_median() -> None:
    panels = plots.race(RACE).axes
    assert [title_of(axes) for axes in panels] == ["2 epochs", "4 epochs", "", ""]
    for axes, (quantity, epochs) in zip(
        panels, [("objective", 2), ("objective", 4), ("small", 2), ("small", 4)], strict=True
    ):
        flow = axes.get_lines()[0]
        runs = RACE[(RACE["epochs"] == epochs) & (RACE["method"] == "flow")]
        median = runs.pivot(index="epoch", columns="seed", values=quantity).median(axis=1)
        assert flow.get_label() == "flow"
        np.testing.assert_allclose(flow.get_xdata(), median.index)
        np.testing.assert_allclose(flow.get_ydata(), median)


def test_rounding_errors_are_medians_with_their_bands() -> None:
    figure = plots.rounding_errors(PRACTICE[PRACTICE["bits"] == 8])
    assert [title_of(axes) for axes in figure.axes] == ["fully connected", "convolutional"]
    first = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(first.get_ydata(), [0.015, 0.025])  # seeds 0 and 1
    low, high = edges(figure.axes[0])
    np.testing.assert_allclose(low, [0.011, 0.021])
    np.testing.assert_allclose(high, [0.019, 0.029])


def test_sparsity_has_a_panel_for_each_network_and_scale() -> None:
    figure = plots.sparsity(PRUNED, [0])
    titles = [title_of(axes) for axes in figure.axes]
    assert titles == ["fully connected, as trained", "convolutional, as trained"]
    assert len(figure.legends[0].get_texts()) == 4
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), [0.75, 0.55])


def test_bad_starts_shows_runs_with_the_fix_in_every_panel() -> None:
    axes, other = plots.bad_starts(STARTS, {"sgd": "SGD", "sgd, fix first": "fix"}).axes
    assert len(axes.get_lines()) == len(other.get_lines()) == 2
    assert axes.get_lines()[1].get_ydata().tolist() == [2, 1, 2 / 3]

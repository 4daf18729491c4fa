"""The recorded runs that one scrubs through, in a browser and from a file."""

from collections.abc import Callable

import pandas as pd
import pytest
from harness import value
from playwright.sync_api import Page

from balancing.widgets import Explorer, Layers
from tools import ROOT

RESULTS = ROOT / "book" / "results"
COLUMNS = ("loss", "norm1", "norm2", "norm3", "gap12", "gap23", "ratio12", "ratio23")


@pytest.fixture
def page(show: Callable[[Explorer], Page]) -> Page:
    return show(Layers.recorded(RESULTS))


def expect_row(page: Page, table: str, init: str, step: float) -> None:
    """What is shown is the recorded row, to its six digits."""
    rows = pd.read_csv(RESULTS / f"du2018.{table}.csv")
    shown = (rows["init"] == init) & (rows["step"] == step) & (rows["seed"] == 0)
    run = rows[shown].set_index("iteration")
    row = run.loc[value(page, "iteration")]
    assert [value(page, name) for name in COLUMNS] == [float(f"{row[c]:.6g}") for c in COLUMNS]
    change = row["gap12"] - run["gap12"].iloc[0]
    assert value(page, "change12") == pytest.approx(change, abs=1e-5 * abs(row["gap12"]))


def test_the_slider_goes_through_the_recorded_rows(page: Page) -> None:
    slider = page.get_by_role("slider", name="Iteration")
    for key, iteration in (("Home", 0), ("ArrowRight", 100), ("End", 10_000), ("ArrowLeft", 9900)):
        slider.press(key)
        assert value(page, "iteration") == iteration
        expect_row(page, "figure2", "balanced", 0.02)


@pytest.mark.parametrize(
    ("table", "init", "step"),
    [("figure2", "unbalanced", 0.02), *(("drift", "unbalanced", s) for s in (0.08, 0.04, 0.01))],
)
def test_each_run_is_the_recorded_one(page: Page, table: str, init: str, step: float) -> None:
    page.get_by_role("combobox", name="Run").select_option(f"{init}, step {step}")
    slider = page.get_by_role("slider", name="Iteration")
    for key in ("End", "ArrowLeft", "Home"):
        slider.press(key)
        expect_row(page, table, init, step)


def test_a_pointer_scrubs_in_a_picture(page: Page) -> None:
    plot = page.get_by_role("img").nth(2)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    assert value(page, "iteration") == 0
    page.mouse.down()
    first = value(page, "iteration")
    page.mouse.move(x + 60, y, steps=3)
    page.mouse.up()
    page.mouse.move(x + 90, y)
    assert 3000 < first < value(page, "iteration") < 8000
    expect_row(page, "figure2", "balanced", 0.02)


def test_play_runs_to_the_end_and_begins_anew(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    play = page.get_by_role("button", name="Play")
    play.click()
    assert value(page, "iteration") == 10_000
    page.emulate_media(reduced_motion="no-preference")
    play.click()
    page.wait_for_function("document.querySelector('[data-name=iteration]').dataset.value == 300")
    page.get_by_role("button", name="Pause").click()
    stopped = value(page, "iteration")
    page.wait_for_timeout(200)
    assert value(page, "iteration") == stopped < 10_000


def test_an_update_takes_less_than_a_frame(page: Page) -> None:
    took = page.evaluate(
        """() => {
            const slider = document.querySelector("input[type=range]");
            const start = performance.now();
            for (let i = 0; i < 50; i++) {
                slider.value = 100 * i;
                slider.dispatchEvent(new Event("input"));
            }
            return (performance.now() - start) / 50;
        }"""
    )
    print(f"{took:.2f} ms an update")
    assert took < 16

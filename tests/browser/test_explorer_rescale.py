"""The network that one rescales by hand, in a browser and from a file."""

from collections.abc import Callable

import pytest
from harness import press, value
from playwright.sync_api import Page

from balancing import balance, lpq_norm
from balancing.widgets import Explorer, Rescale


@pytest.fixture
def page(show: Callable[[Explorer], Page]) -> Page:
    return show(Rescale())


def unit(page: Page, number: int) -> tuple[float, float]:
    """Middle of a hidden unit on the screen."""
    box = (
        page.get_by_role("slider", name=f"Factor of unit {number}").locator(".grip").bounding_box()
    )
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_it_starts_as_the_library_says(page: Page) -> None:
    net = Rescale().network()
    assert value(page, "norm") == pytest.approx(lpq_norm(net).item(), rel=1e-10)
    assert value(page, "minimum") == pytest.approx(float(balance(net).norms[-1]), rel=1e-10)


def test_dragging_a_unit_changes_the_norm_and_not_the_function(page: Page) -> None:
    before = value(page, "norm")
    x, y = unit(page, 2)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 3, y + 30, steps=5)
    page.mouse.up()
    assert abs(value(page, "norm") - before) > 0.01
    assert value(page, "change") < 1e-12
    assert unit(page, 2)[1] == pytest.approx(y + 30, abs=1)
    page.mouse.move(x, y)  # it was let go
    assert unit(page, 2)[1] == pytest.approx(y + 30, abs=1)


def test_keys_move_a_unit_by_an_eighth_of_an_octave(page: Page) -> None:
    press(page, "Reset")
    slider = page.get_by_role("slider", name="Factor of unit 4")
    slider.focus()
    page.keyboard.press("ArrowUp")
    assert slider.get_attribute("aria-valuenow") == "0.13"
    page.keyboard.press("Shift+ArrowDown")
    assert slider.get_attribute("aria-valuetext") == "0.5453"  # 2^(1/8 - 1)
    assert value(page, "change") < 1e-12


@pytest.mark.parametrize(("p", "q"), [("2", "2"), ("1", "3"), ("3", "1.5")])
def test_balance_finds_the_librarys_minimum(page: Page, p: str, q: str) -> None:
    page.get_by_role("combobox", name="p", exact=True).select_option(p)
    page.get_by_role("combobox", name="q", exact=True).select_option(q)
    press(page, "Scramble")
    assert value(page, "imbalance") > 0.1
    press(page, "Balance")
    page.get_by_role("button", name="Pause").wait_for(state="detached")
    expected = balance(Rescale().network(), float(p), float(q), tol=1e-12)
    assert value(page, "imbalance") < 1e-6
    assert value(page, "norm") == pytest.approx(float(expected.norms[-1]), rel=1e-10)
    assert value(page, "norm") == pytest.approx(value(page, "minimum"), rel=1e-10)
    assert value(page, "change") < 1e-12


def test_each_step_lowers_the_norm(page: Page) -> None:
    norms = [value(page, "norm")]
    for _ in range(4):
        press(page, "One step")
        norms.append(value(page, "norm"))
    assert norms == sorted(norms, reverse=True)
    assert len(set(norms)) == 5


def test_a_drag_stops_the_animation(page: Page) -> None:
    press(page, "Scramble")
    press(page, "Balance")
    x, y = unit(page, 1)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 40)
    page.mouse.move(x, y + 20)
    page.mouse.up()
    stopped = value(page, "norm")
    page.wait_for_timeout(200)
    assert value(page, "norm") == stopped
    assert value(page, "imbalance") > 1e-3


def test_reduced_motion_gets_the_minimum_at_once(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    press(page, "Balance")
    assert value(page, "imbalance") < 1e-6


def test_an_update_takes_less_than_a_frame(page: Page) -> None:
    took = page.evaluate(
        """() => {
            const slider = document.querySelector("[role=slider]");
            const press = (key) => slider.dispatchEvent(new KeyboardEvent("keydown", { key }));
            for (let i = 0; i < 20; i++) press("ArrowUp");
            const start = performance.now();
            for (let i = 0; i < 40; i++) press(i % 2 ? "ArrowUp" : "ArrowDown");
            return (performance.now() - start) / 40;
        }"""
    )
    print(f"{took:.2f} ms an update")
    assert took < 16

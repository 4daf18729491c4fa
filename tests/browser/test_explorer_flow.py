"""A weight-balancing flow beside gradient flow, in a browser and from a file."""

from collections.abc import Callable

import pytest
from harness import choose, value
from playwright.sync_api import Locator, Page

from balancing.widgets import Explorer, Flow

PAIRS = [("1", "1"), ("1", "3"), ("1.5", "2"), ("2", "2"), ("3", "1")]


@pytest.fixture
def page(show: Callable[[Explorer], Page]) -> Page:
    return show(Flow())


def start(page: Page) -> Locator:
    return page.get_by_role("slider", name="Start of unit 1")


def place(page: Page) -> tuple[float, float]:
    box = start(page).locator(".grip").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, right: float, down: float) -> None:
    x, y = place(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=6)
    page.mouse.up()


def is_conserved(page: Page, p: str, q: str) -> None:
    """Each flow keeps the imbalances of its own norm, and no other's."""
    assert value(page, "balancing-own") < 1e-6
    assert value(page, "gradient-square") < 1e-6
    if (p, q) != ("2", "2"):
        assert value(page, "gradient-own") > 1e-3
        assert value(page, "balancing-square") > 1e-3


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_each_flow_keeps_its_own_imbalance(page: Page, p: str, q: str) -> None:
    choose(page, "p", p)
    choose(page, "q", q)
    is_conserved(page, p, q)
    losses = [value(page, f"{name}-loss") for name in ("balancing", "gradient")]
    drag(page, -30, -60)
    is_conserved(page, p, q)
    start(page).press("ArrowUp")
    start(page).press("Shift+ArrowRight")
    is_conserved(page, p, q)
    assert [value(page, f"{name}-loss") for name in ("balancing", "gradient")] != losses


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_the_handle_is_where_one_puts_it(page: Page, p: str, q: str) -> None:
    """The shares of unit 1 become what the handle says, in any norm."""
    choose(page, "p", p)
    choose(page, "q", q)
    for measured in ("(p, q)", "(2, 2)"):
        choose(page, "Show imbalances in", measured)
        x, y = place(page)
        drag(page, 25, -35)
        assert place(page) == pytest.approx((x + 25, y - 35), abs=0.1)


def test_time_runs(page: Page) -> None:
    time = page.get_by_role("slider", name="Time")
    time.press("Home")
    assert value(page, "balancing-square") == value(page, "gradient-own") == 0
    loss = value(page, "balancing-loss")
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    assert float(time.input_value()) == 6
    assert value(page, "balancing-loss") < 1e-6 < loss
    assert value(page, "gradient-own") > 0.1


def test_reduced_motion_gets_the_end_at_once(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    time = page.get_by_role("slider", name="Time")
    time.press("Home")
    page.get_by_role("button", name="Play").click()
    assert float(time.input_value()) == 6


def test_an_update_takes_less_than_a_frame(page: Page) -> None:
    took = page.evaluate(
        """() => {
            const handle = document.querySelector(".handle");
            const times = Array.from({ length: 41 }, (_, i) => {
                const key = i % 2 ? "ArrowUp" : "ArrowDown";
                const start = performance.now();
                handle.dispatchEvent(new KeyboardEvent("keydown", { key }));
                return performance.now() - start;
            });
            return times.sort((a, b) => a - b)[20];
        }"""
    )
    print(f"{took:.2f} ms an update")
    assert took < 16

"""The race of two methods, in a browser and from a file."""

from collections.abc import Callable

import pytest
from harness import choose, press, value
from playwright.sync_api import Page

from balancing import balance
from balancing.widgets import Explorer, Race

METHODS = ("multiplicative", "twoLevel")


@pytest.fixture
def page(show: Callable[[Explorer], Page]) -> Page:
    return show(Race(depth=3, width=8))


def run(page: Page) -> None:
    press(page, "Run")
    step = "[...document.querySelectorAll('button')].find(b => b.textContent === 'Step')"
    page.wait_for_function(f"{step}.disabled")


@pytest.mark.parametrize(("p", "q"), [("2", "2"), ("1", "3"), ("3", "1.5")])
def test_both_end_at_the_librarys_norm(page: Page, p: str, q: str) -> None:
    choose(page, "p", p)
    choose(page, "q", q)
    run(page)
    norms = balance(Race(depth=3, width=8).network(), float(p), float(q), tol=1e-9).norms
    smallest = (norms[-1] / norms[0]).item()
    for method in METHODS:
        assert value(page, f"{method}-ratio") == pytest.approx(smallest, rel=1e-9)
        assert value(page, f"{method}-imbalance") <= 1e-8
    assert value(page, "multiplicative-passes") > 2 * value(page, "twoLevel-passes")


def test_a_step_is_an_update_and_lowers_both_norms(page: Page) -> None:
    before = [value(page, f"{method}-ratio") for method in METHODS]
    assert before == [1, 1]
    for steps in (1, 2, 3):
        press(page, "Step")
        after = [value(page, f"{method}-ratio") for method in METHODS]
        assert all(new < old for new, old in zip(after, before, strict=True))
        assert [value(page, f"{method}-steps") for method in METHODS] == [steps, steps]
        before = after
    net = Race(depth=3, width=8).network()
    with pytest.warns(UserWarning, match="stopped after 3"):
        three = balance(net, method="multiplicative", max_iter=3)
    assert before[0] == pytest.approx((three.norms[3] / three.norms[0]).item(), rel=1e-10)
    press(page, "Reset")
    assert [value(page, f"{method}-steps") for method in METHODS] == [0, 0]


def test_a_key_on_a_slider_draws_another_network_and_stops_the_run(page: Page) -> None:
    press(page, "Run")
    page.get_by_role("slider", name="Hidden layers").press("ArrowRight")
    page.wait_for_timeout(150)
    assert [value(page, f"{method}-steps") for method in METHODS] == [0, 0]
    run(page)
    norms = balance(Race(depth=4, width=8).network(), tol=1e-9).norms
    assert value(page, "twoLevel-ratio") == pytest.approx((norms[-1] / norms[0]).item(), rel=1e-9)


def test_passes_and_updates_can_both_be_counted(page: Page) -> None:
    press(page, "Step")
    assert page.get_by_text("passes over the weights").is_visible()
    passes = value(page, "twoLevel-passes")
    choose(page, "Count", "updates")
    assert page.get_by_text("updates or sweeps").is_visible()
    assert value(page, "twoLevel-passes") == passes


def test_reduced_motion_gets_the_end_at_once(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    press(page, "Run")
    assert value(page, "multiplicative-imbalance") <= 1e-8


def test_an_update_takes_less_than_a_frame(page: Page) -> None:
    took = page.evaluate(
        """() => {
            const slider = document.querySelectorAll("input")[2];
            const times = Array.from({ length: 21 }, (_, i) => {
                slider.value = 1 + 0.05 * i;
                const start = performance.now();
                slider.dispatchEvent(new Event("input"));
                return performance.now() - start;
            });
            return times.sort((a, b) => a - b)[10];
        }"""
    )
    print(f"{took:.2f} ms a network")
    assert took < 16

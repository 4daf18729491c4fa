"""What a page weighs, and how soon it shows."""

import statistics
import time
from collections.abc import Callable

from harness import Visit
from playwright.sync_api import Browser, Page, Route

from tools.chromium import settled

MEGABYTE = 1_000_000
# Besides MathJax, uncompressed.
LIMIT = 1.2 * MEGABYTE
EXPLORER_LIMIT = LIMIT + 3 * MEGABYTE
SECONDS_TO_PAINT = 1.0
# How often to look again before it cannot be the machine that was busy.
ROUNDS = 3


def loaded(page: Page) -> dict[str, int]:
    """The uncompressed bytes of the page and of each file that it has loaded, but MathJax's."""
    entries: list[tuple[str, int]] = page.evaluate(
        """() => [...performance.getEntriesByType('navigation'),
                  ...performance.getEntriesByType('resource')]
            .map(entry => [entry.name, entry.decodedBodySize])"""
    )
    return {name: size for name, size in entries if "/vendor/mathjax/" not in name}


def test_page_is_light(opened: Visit) -> None:
    sizes = loaded(opened.page)
    explorers = opened.page.locator(".balancing-explorer").count()
    print(f"{sum(sizes.values()) / MEGABYTE:.2f} MB, {explorers} explorers: {opened.address}")
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    assert sizes[opened.address] > 5_000
    assert sum(sizes.values()) <= (EXPLORER_LIMIT if explorers else LIMIT), heaviest


def first_paint(page: Page) -> float:
    """Seconds from the start of the navigation to the first text or picture."""
    milliseconds: float = settled(
        page,
        "the first paint",
        """() => new Promise(done => new PerformanceObserver(list => {
            const [entry] = list.getEntriesByName('first-contentful-paint');
            if (entry) done(entry.startTime);
        }).observe({type: 'paint', buffered: true}))""",
    )
    return milliseconds / 1000


def painted_again(browser: Browser, address: str) -> float:
    """As `first_paint`, of a visit with nothing in the cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address, wait_until="commit")
    seconds = first_paint(page)
    context.close()
    return seconds


def test_page_shows_at_once(opened: Visit, browser: Browser) -> None:
    """The visit that all tests share is enough; where it is slow, the median of three others."""
    seconds = first_paint(opened.page)
    for _ in range(ROUNDS):
        if seconds <= SECONDS_TO_PAINT:
            break
        seconds = statistics.median(painted_again(browser, opened.address) for _ in range(3))
    print(f"first paint after {seconds:.2f} s: {opened.address}")
    assert seconds <= SECONDS_TO_PAINT


def test_heavy_page_is_noticed(address: str, visit: Callable[[str], Visit]) -> None:
    seen = visit(f"{address}/book/bibliography.html")
    before = sum(loaded(seen.page).values())
    assert before > MEGABYTE / 4, "the theme's files are missing from the sum"
    fetch = "() => fetch('../_static/figure2.png').then(answer => answer.text()).then(() => {})"
    settled(seen.page, "fetching a picture", fetch)
    assert sum(loaded(seen.page).values()) - before > 50_000
    seen.page.context.close()


def test_slow_page_is_noticed(browser: Browser) -> None:
    def answer(route: Route) -> None:
        if route.request.url.endswith(".css"):  # the page waits for it
            time.sleep(1.2 * SECONDS_TO_PAINT)
        style = '<link rel="stylesheet" href="late.css">'
        route.fulfill(content_type="text/html", body=f"<!doctype html>{style}<p>Text")

    page = browser.new_page()
    page.route("**/*", answer)
    page.goto("http://late.invalid/", wait_until="commit")
    assert first_paint(page) > SECONDS_TO_PAINT
    page.context.close()

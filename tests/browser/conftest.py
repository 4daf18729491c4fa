"""The site in a real browser, served from this machine, with everything else out of reach.

No test can hang. What a page promises is waited for by `tools.chromium.settled`; when all else
fails, the browser is killed (`pytest_timeout_set_timer`), and the next test gets a fresh one.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout
from harness import FLAGS, Visit, chromium, explorer_page, listed_pages
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from balancing.widgets import Explorer
from tools import site
from tools.chromium import TYPEFACES, TYPESET, settled

HERE = Path(__file__).parent
# A test takes seconds, also on a busy machine.
SECONDS_FOR_A_TEST = 240
GROUP = pytest.StashKey[int]()  # process group of the browser that runs, of the session
KILLED = pytest.StashKey[bool]()  # whether a test's browser was killed, of the test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here less time than others, but where they ask for another limit."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS_FOR_A_TEST))


def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool | None:
    """Kill the browser of a test that takes too long: each wait for one of its pages then fails.

    pytest-timeout's own way would break off Playwright's event loop, so that all later tests fail.
    """
    if HERE not in item.path.parents:
        return None

    def kill() -> None:
        if (group := item.config.stash.get(GROUP, None)) is not None:
            del item.config.stash[GROUP]
            item.stash[KILLED] = True
            os.killpg(group, signal.SIGKILL)

    timer = threading.Timer(settings.timeout, kill)
    timer.daemon = True
    timer.start()
    item.cancel_timeout = timer.cancel  # what pytest-timeout calls
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Say why the browser was gone; a test that did not notice fails, too."""
    report = yield
    if item.stash.get(KILLED, False):
        del item.stash[KILLED]
        limit = item.get_closest_marker("timeout").args[0]
        why = f"The browser was killed: this test took longer than {limit} s."
        report.outcome = "failed"
        report.longrepr = f"{report.longreprtext}\n{why}".strip()
    return report


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the site, built as `make book` does where it is missing or stale."""
    chromium()  # do not build a site that nobody will look at
    return site.build().parent


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve folders; each call returns the address of one, without a slash at its end."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="package")
def running(request: pytest.FixtureRequest) -> Iterator[Callable[[], Browser]]:
    """Give the one browser for all pages, or a fresh one where that was killed.

    It is closed before nbval needs an event loop of its own.
    """
    executable = chromium()
    stash = request.config.stash
    with sync_playwright() as playwright:
        started: list[Browser] = []

        def give() -> Browser:
            if GROUP not in stash:
                fresh = playwright.chromium.launch(executable_path=executable, args=FLAGS)
                session = fresh.new_browser_cdp_session()
                processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
                [main] = [each["id"] for each in processes if each["type"] == "browser"]
                session.detach()
                # Playwright starts each browser in a process group of its own.
                stash[GROUP] = os.getpgid(main)
                assert stash[GROUP] != os.getpgid(0)
                started.append(fresh)
            return started[-1]

        yield give
        if GROUP in stash:
            del stash[GROUP]
            started[-1].close()


@pytest.fixture
def browser(running: Callable[[], Browser]) -> Browser:
    """The browser that all tests share."""
    return running()


@pytest.fixture(scope="package")
def visit(running: Callable[[], Browser]) -> Callable[..., Visit]:
    """Open a page with a fresh profile; returns once its formulas are typeset."""

    def go(address: str, **options: Any) -> Visit:
        viewport = {"width": 1280, "height": 900}
        context = running().new_context(viewport=viewport, **options)
        origin = "/".join(address.split("/")[:3]) + "/"  # of a file: all files
        seen = Visit(context.new_page(), address)

        def refuse(route: Route) -> None:
            seen.outside.append(route.request.url)
            route.abort()

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                seen.errors.append(message.text)

        context.route(lambda url: not url.startswith((origin, "data:", "blob:")), refuse)
        seen.page.on("console", heard)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on(
            "response",
            lambda answer: answer.ok or seen.missing.append(f"{answer.status} {answer.url}"),
        )
        seen.page.goto(address, wait_until="load")
        if address.endswith("/index.html"):  # it leads on to the first page
            seen.page.wait_for_url("**/intro.html")
        # not "networkidle": of files, and on a busy machine, the browser never says so
        settled(seen.page, "typesetting", TYPESET)
        settled(seen.page, "loading typefaces", TYPEFACES)
        seen.page.wait_for_timeout(200)
        return seen

    return go


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[[Explorer], Page]]:
    """Open an explorer from a file, on a page of its own."""
    context = browser.new_context(viewport={"width": 760, "height": 700})

    def go(explorer: Explorer) -> Page:
        page = context.new_page()
        page.goto(explorer_page(explorer, tmp_path).as_uri())
        return page

    yield go
    context.close()


@pytest.fixture(scope="session")
def address(html: Path, serve: Callable[[Path], str]) -> str:
    """Where the site is served."""
    return serve(html)


@pytest.fixture(scope="package", params=listed_pages())
def page_once(
    request: pytest.FixtureRequest, address: str, visit: Callable[[str], Visit]
) -> Iterator[Callable[[], Visit]]:
    """Open a page of the site once, and again only where its browser was killed."""
    seen: list[Visit] = []

    def give() -> Visit:
        if not seen or not seen[-1].page.context.browser.is_connected():
            seen.append(visit(f"{address}/{request.param}"))
        return seen[-1]

    yield give
    if seen and seen[-1].page.context.browser.is_connected():
        seen[-1].page.context.close()


@pytest.fixture
def opened(page_once: Callable[[], Visit]) -> Visit:
    """Each page of the site, opened once for all tests that look at every page."""
    return page_once()

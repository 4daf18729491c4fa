"""The site in a real browser, served from this machine, with everything else out of reach."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import FLAGS, Visit, chromium, explorer_page, listed_pages
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from balancing.widgets import Explorer
from tools import site


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
def browser() -> Iterator[Browser]:
    """One browser for all pages, closed before nbval needs an event loop of its own."""
    executable = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="package")
def visit(browser: Browser) -> Callable[..., Visit]:
    """Open a page with a fresh profile; returns once its formulas are typeset."""

    def go(address: str, **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
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
        seen.page.evaluate("Promise.all([window.MathJax?.startup?.promise, document.fonts.ready])")
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
def opened(
    request: pytest.FixtureRequest, address: str, visit: Callable[[str], Visit]
) -> Iterator[Visit]:
    """Each page of the site, opened once for all tests that look at every page."""
    seen = visit(f"{address}/{request.param}")
    yield seen
    seen.page.context.close()

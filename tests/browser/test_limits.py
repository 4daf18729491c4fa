"""Nothing that a page does, or fails to do, keeps the tests waiting for ever."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import set_look
from playwright.sync_api import Browser

from tools import ROOT, ToolError
from tools.chromium import settled


def test_promise_is_not_waited_for_for_ever(browser: Browser) -> None:
    page = browser.new_page()
    assert settled(page, "a promise", "async ([x, y]) => x + y", [1, 2]) == 3
    assert settled(page, "a value", "() => null") is None
    with pytest.raises(ToolError, match=r"after 0\.1 s there is no end of a long wait"):
        settled(page, "a long wait", "() => new Promise(() => {})", seconds=0.1)
    page.context.close()


def test_page_that_draws_no_frame_is_looked_at_all_the_same(browser: Browser) -> None:
    page = browser.new_page()
    page.evaluate("() => { window.requestAnimationFrame = () => 0; }")
    set_look(page, mode="dark", width=390)
    assert page.evaluate("[document.documentElement.dataset.mode, innerWidth]") == ["dark", 390]
    page.context.close()


def test_page_that_hangs_fails_its_test_and_no_other(html: Path) -> None:
    """A second pytest, so that the browser of this one lives on."""
    cases = Path(__file__).with_name("hanging_pages.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q", str(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(outcomes) == [
        ("FAILED", "test_hang_that_nobody_notices"),
        ("FAILED", "test_page_that_hangs"),
        ("PASSED", "test_first_one"),
        ("PASSED", "test_last_one"),
        ("PASSED", "test_next_one_gets_it_afresh"),
    ], done.stdout + done.stderr
    assert done.stdout.count("The browser was killed: this test took longer than 8 s.") >= 2
    assert "while (true)" in done.stdout, "the place where it hung"

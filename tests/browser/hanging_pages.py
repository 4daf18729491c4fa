"""What test_limits.py runs by itself: pages that hang, and the tests after them."""

import pytest
from harness import Visit

pytestmark = pytest.mark.parametrize("page_once", ["search.html"], indirect=True)
soon = pytest.mark.timeout(8)


def test_first_one(opened: Visit) -> None:
    assert opened.errors == []


@soon
def test_page_that_hangs(opened: Visit) -> None:
    opened.page.evaluate("() => { while (true); }")


def test_next_one_gets_it_afresh(opened: Visit) -> None:
    assert "Search" in opened.page.title()


@soon
def test_hang_that_nobody_notices(opened: Visit) -> None:
    with pytest.raises(Exception, match="closed"):
        opened.page.evaluate("() => new Promise(() => {})")


def test_last_one(opened: Visit) -> None:
    assert opened.errors == []

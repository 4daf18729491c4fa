"""Every page at the width of a phone."""

from collections.abc import Callable

import pytest
from harness import Visit, set_look

PHONE = 390


def test_page_fits(opened: Visit) -> None:
    page = opened.page
    set_look(page, width=PHONE)
    wide = page.evaluate(
        """() => document.scrollingElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll('body *')]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .slice(0, 5).map(e => e.tagName + '.' + e.className)"""
    )
    assert wide == [], "these are wider than a phone"
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE


def test_controls_can_be_hit(opened: Visit) -> None:
    """WCAG 2.5.8: 24 by 24 pixels, but for links in a sentence; a label is part of its control."""
    page = opened.page
    set_look(page, width=PHONE)
    small = page.evaluate(
        """() => [...document.querySelectorAll(
                'button, summary, input, select, [role=button], [role=slider], a[href]')]
            .filter(e => e.checkVisibility({visibilityProperty: true}))
            .filter(e => !(e.tagName === 'A' && getComputedStyle(e).display === 'inline'))
            .map(e => [e.outerHTML.slice(0, 120), (e.labels?.[0] ?? e).getBoundingClientRect()])
            .filter(([, box]) => box.width < 24 || box.height < 24)
            .map(([what, box]) => `${box.width.toFixed(1)} x ${box.height.toFixed(1)}: ${what}`)"""
    )
    assert small == []


def test_text_can_be_read(opened: Visit) -> None:
    """12 pixels at least; formulas have indices, and figures letters, of their own size."""
    page = opened.page
    set_look(page, width=PHONE)
    tiny = page.evaluate(
        """() => {
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const found = [];
            while (texts.nextNode()) {
                const at = texts.currentNode.parentElement;
                if (!texts.currentNode.data.trim() || at.closest('mjx-container, svg')) continue;
                const size = parseFloat(getComputedStyle(at).fontSize);
                if (size < 12 && at.checkVisibility({visibilityProperty: true}))
                    found.push(`${size}: ${texts.currentNode.data.trim().slice(0, 60)}`);
            }
            return found;
        }"""
    )
    assert tiny == []


def test_checks_see_what_they_should(address: str, visit: Callable[[str], Visit]) -> None:
    """A page that is too wide, with a small control and small text, is caught."""
    seen = visit(f"{address}/book/bibliography.html")
    seen.page.evaluate(
        """() => document.querySelector('.bd-article').insertAdjacentHTML('beforeend',
            '<div style="width: 600px">wide</div><button style="width: 9px">x</button>' +
            '<p style="font-size: 9px">tiny</p>')"""
    )
    for check in (test_page_fits, test_controls_can_be_hit, test_text_can_be_read):
        with pytest.raises(AssertionError):
            check(seen)
    seen.page.context.close()

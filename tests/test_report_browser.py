"""The report in a real browser, where there is one: no complaint, no request, no sideways scroll on a phone."""

from __future__ import annotations

import pytest
from browser import browser_path, page

pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="NO BROWSER: the report was not looked at. Install chromium to run this test."
)
# What stands out of the window and is not in a box that scrolls by itself.
STICKS_OUT = """
[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className).slice(0, 5)
"""
COLOURS = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('h1')).color]"


def brightness(colour: str) -> float:
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 765


def test_the_report_in_a_browser(written):
    with page() as tab:
        for width in (375, 1200):
            tab.open(written.path, width=width)
            assert tab.evaluate("document.documentElement.scrollWidth") == tab.evaluate("innerWidth") == width
            assert tab.evaluate(STICKS_OUT) == []
            assert tab.complaints == [] and tab.requests == [written.path.as_uri()]
        paper, ink = map(brightness, tab.evaluate(COLOURS))
        assert paper > 0.9 and ink < 0.2
        # Every word of a chart lies within its figure, whatever font the browser has.
        assert tab.evaluate(
            "[...document.querySelectorAll('svg.chart')].every(s => [...s.querySelectorAll('text')].every(t => "
            "t.getBoundingClientRect().right < s.getBoundingClientRect().right + 12 "
            "&& t.getBoundingClientRect().left > s.getBoundingClientRect().left - 12))"
        )
        tab.open(written.path, scheme="dark")
        paper, ink = map(brightness, tab.evaluate(COLOURS))
        assert paper < 0.2 and ink > 0.8
        tab.open(written.path, scheme="dark", media="print")
        paper, ink = map(brightness, tab.evaluate(COLOURS))
        assert paper == 1 and ink == 0

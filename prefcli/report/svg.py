"""A matplotlib figure as SVG inside a page: its colours and font are the page's, its ids its own.

Figures are drawn in the colours below, which no eye is meant to see; in the SVG each becomes a CSS variable, so that
the page's style sheet decides them in light, dark and print. Text stays text. One unit is one CSS pixel.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from prefcli.report.text import clean

INK, MUTED, RULE, ALARM, PAPER = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = ("#110001", "#110002", "#110003", "#110004", "#110005", "#110006")
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", ALARM: "alarm", PAPER: "paper"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
WIDTH = 340  # of a chart: a phone's
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prefcli",
    "font.size": 11.0,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
}
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", _NAMESPACE[1:-1])


class About(NamedTuple):
    """A chart's name, which begins its ids, and what a screen reader says of it."""

    name: str
    title: str
    description: str


def chart(draw: Callable[[Axes], None], about: About, *, height: int, margins: tuple[int, int, int, int]) -> Markup:
    """The SVG element of one pair of axes. `margins` are top, right, bottom and left, in pixels, as is the height."""
    width = WIDTH
    top, right, bottom, left = margins
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width,
                                (height - top - bottom) / height))  # fmt: skip
        draw(axes)
        for text in figure.findobj(Text):
            text.set_text(clean(text.get_text()))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(out.getvalue(), about)


def inline(text: str, about: About) -> Markup:
    """A whole SVG file as an element of a page: what leads out of it goes, and its ids begin with its name."""
    name = f"chart-{about.name}"  # no section has such an id
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_NAMESPACE}metadata" or child.tag == f"{_NAMESPACE}style":
                parent.remove(child)
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.get('id')}")
        if _HREF in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(_HREF).removeprefix('#')}")
        for attribute in ("style", "fill", "stroke", "clip-path"):
            if attribute in element.attrib:
                element.set(attribute, _themed(element.attrib[attribute], name))
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    root.set("id", name)
    for tag, what in (("desc", about.description), ("title", about.title)):
        element = ElementTree.Element(_NAMESPACE + tag, {"id": f"{name}-{tag}"})
        element.text = clean(what)
        root.insert(0, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _themed(style: str, name: str) -> str:
    """CSS of an element: the page's font, its colours, and its own ids."""
    style = re.sub(r"font: ((?:\w+ )*)([\d.]+px) [^;]*", _font, style)
    style = re.sub(r"font-family: [^;]*;?", "", style)
    style = re.sub(r"url\(#", f"url(#{name}-", style)
    return re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], style)


def _font(match: re.Match[str]) -> str:
    bold = {"bold", "700"} & set(match[1].split())
    return f"font-size: {match[2]}" + ("; font-weight: 700" if bold else "")

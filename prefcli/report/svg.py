"""A matplotlib figure as SVG that stands inside a page: its colours and font are the page's, its ids its own.

Figures are drawn in the colours below, which no eye is meant to see; in the SVG each becomes a CSS variable, so that the
page's style sheet decides them in light, dark and print. Text stays text. One unit is one CSS pixel.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def chart(draw: Callable[[Axes], None], *, name: str, title: str, description: str, height: int = 190,
          margins: tuple[int, int, int, int] = (16, 14, 30, 44), width: int = WIDTH) -> Markup:  # fmt: skip
    """The SVG element of one pair of axes. `name` begins its ids, `title` and `description` are for screen readers.

    `margins` are top, right, bottom and left, in pixels, as are width and height.
    """
    top, right, bottom, left = margins
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width,
                                (height - top - bottom) / height))  # fmt: skip
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(out.getvalue(), name=name, title=title, description=description)


def inline(text: str, *, name: str, title: str, description: str) -> Markup:
    """A whole SVG file as an element of a page: what names it or leads out of it goes, ids begin with `name`."""
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
    for tag, what in (("desc", description), ("title", title)):
        element = ElementTree.Element(_NAMESPACE + tag, {"id": f"{name}-{tag}"})
        element.text = what
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

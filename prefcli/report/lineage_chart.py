"""The lineage of artifacts, drawn: the oldest on top, an arrow from each to what was made from it.

Layers by the longest way down, as Sugiyama et al. do (1981): an edge that passes a layer has a place in it, so that no
arrow runs through a box; within a layer things stand in the order of their parents' places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from markupsafe import Markup

from prefcli.artifacts.lineage import Node
from prefcli.config.stages import STAGES
from prefcli.report.text import clean, shortened

BOX, NARROW, GAP, TALL, BETWEEN, EDGE = 124.0, 40.0, 16.0, 40.0, 46.0, 2.0  # pixels
SOLID = ("model",)  # the weights themselves go on in the child; every other role only helps


@dataclass
class Place:
    """The place of a node, or of an edge on its way."""

    layer: int
    width: float
    x: float = 0.0  # its middle
    above: list[Place] = field(default_factory=list)


@dataclass(frozen=True)
class Graph:
    """All trees together. `edges`: (from, to) → the roles that the one has for the other."""

    nodes: dict[str, Node]
    edges: dict[tuple[str, str], list[str]]

    def layers(self) -> dict[str, int]:
        """The longest way from a beginning, in edges."""
        parents: dict[str, list[str]] = {ref: [] for ref in self.nodes}
        for above, below in self.edges:
            parents[below].append(above)
        found: dict[str, int] = {}

        def layer(ref: str, below: tuple[str, ...] = ()) -> int:
            if ref in below:  # a circle, which only a damaged manifest has
                return 0
            if ref not in found:
                found[ref] = max((layer(above, (*below, ref)) + 1 for above in parents[ref]), default=0)
            return found[ref]

        return {ref: layer(ref) for ref in self.nodes}


def graph(trees: Sequence[Node]) -> Graph:
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], list[str]] = {}

    def add(node: Node) -> None:
        known = nodes.get(node.ref)
        if known is None or (known.stage is None and node.stage is not None):
            nodes[node.ref] = node
        for parent in node.parents:
            roles = edges.setdefault((parent.ref, node.ref), [])
            if parent.role not in roles:
                roles.append(parent.role)
            add(parent)

    for tree in trees:
        add(tree)
    return Graph(nodes, edges)


def draw(trees: Sequence[Node], asked: Sequence[str], *, name: str = "lineage") -> tuple[Markup, int]:
    """The SVG element and its width in pixels. `asked` are the artifacts that stand out."""
    found = graph(trees)
    layer = found.layers()
    places = {ref: Place(layer[ref], BOX) for ref in found.nodes}
    ways: dict[tuple[str, str], list[Place]] = {}
    for above, below in found.edges:
        way = [places[above], *(Place(at, NARROW) for at in range(layer[above] + 1, layer[below])), places[below]]
        for upper, lower in zip(way, way[1:]):
            lower.above.append(upper)
        ways[above, below] = way
    rows: list[list[Place]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for place in [*places.values(), *(place for way in ways.values() for place in way[1:-1])]:
        rows[place.layer].append(place)
    width = _arrange(rows)
    height = len(rows) * TALL + (len(rows) - 1) * BETWEEN + 2 * EDGE
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "class": "chart lineage", "role": "img", "id": name,
                  "aria-labelledby": f"{name}-title {name}-desc"}  # fmt: skip
    root = ElementTree.Element("svg", attributes)
    _text(root, "title", "What was made from what", id=f"{name}-title")
    _text(root, "desc", " ".join(f"{below} was made from {above} ({', '.join(roles)})."
                                 for (above, below), roles in found.edges.items()), id=f"{name}-desc")  # fmt: skip
    for (above, below), roles in found.edges.items():
        _edge(root, ways[above, below], roles)
    for ref, node in found.nodes.items():
        _box(root, node, places[ref], ref in asked)
    return Markup(ElementTree.tostring(root, encoding="unicode")), round(width)


def _arrange(rows: list[list[Place]]) -> float:
    """Give every place its x; returns the width of all."""
    widths = [sum(place.width for place in row) + GAP * (len(row) - 1) for row in rows]
    width = max(widths, default=0) + 2 * EDGE
    for row, wide in zip(rows, widths):
        order = {id(place): place for place in row}
        row.sort(key=lambda place: _mean([above.x for above in place.above], list(order).index(id(place))))
        x = (width - wide) / 2
        for place in row:
            place.x = x + place.width / 2
            x += place.width + GAP
    return width


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _edge(root: ElementTree.Element, way: list[Place], roles: list[str]) -> None:
    kind = "edge" if set(roles) & set(SOLID) else "edge help"
    y = way[0].layer * (TALL + BETWEEN) + TALL + EDGE
    path = f"M{way[0].x:g},{y:g}"
    for before, place in zip(way, way[1:]):
        top = y + BETWEEN - (5 if place is way[-1] else 0)
        path += f" C{before.x:g},{y + BETWEEN / 2:g} {place.x:g},{top - BETWEEN / 2:g} {place.x:g},{top:g}"
        y += BETWEEN
        if place is not way[-1]:
            path += f" V{y + TALL:g}"
            y += TALL
    ElementTree.SubElement(root, "path", {"class": kind, "d": path})
    x = way[-1].x
    ElementTree.SubElement(root, "path", {"class": f"{kind} tip", "d": f"M{x - 4:g},{y - 7:g} L{x:g},{y - 1:g} "
                                          f"L{x + 4:g},{y - 7:g} Z"})  # fmt: skip


def _box(root: ElementTree.Element, node: Node, place: Place, asked: bool) -> None:
    y = place.layer * (TALL + BETWEEN) + EDGE
    state = "" if node.state == "ok" else " gone"
    box = {"x": f"{place.x - BOX / 2:g}", "y": f"{y:g}", "width": f"{BOX:g}", "height": f"{TALL:g}", "rx": "6"}
    ElementTree.SubElement(root, "rect", box | {"class": f"box{' asked' if asked else ''}{state}"})
    _text(root, "text", shortened(node.ref, 15), x=f"{place.x:g}", y=f"{y + 17:g}", **{"class": "name"})
    _text(root, "text", _kind(node), x=f"{place.x:g}", y=f"{y + 32:g}", **{"class": "what"})


def _kind(node: Node) -> str:
    if node.state != "ok":
        return node.state
    if node.ref.startswith("python:"):
        return "a Python function"
    if "://" in node.ref:
        return "a service"
    if node.stage in STAGES:
        return STAGES[node.stage].short
    return "a model of the hub" if node.hub else "a model"


def _text(root: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(root, tag, attributes).text = clean(text)

"""The charts of the report, each small enough for a phone, with its labels beside what they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from prefcli.report.svg import ALARM, INK, SERIES, About, chart
from prefcli.report.text import number, share, shortened
from prefcli.stages.series import Panel, Series

MANY = 40  # points; a line of more is drawn faint, with its running mean over it
LABEL = 12.0  # pixels from one label to the next
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: its name, its value, the ends of its interval, and which of the colours it has."""

    label: str
    value: float
    interval: Interval = None
    colour: int = 0


def curves(panel: Panel, alarms: Sequence[tuple[int, str]], names: Sequence[str], about: About) -> Markup:
    """The series of a panel over the steps, named at their ends (`names`); alarms are marked by a line."""
    named = len(panel.series) > 1
    longest = max(map(len, names)) if named else 0
    right = min(12 + round(6.2 * longest), 110)

    def draw(axes: Axes) -> None:
        for series, colour in zip(panel.series, _colours(len(panel.series))):
            faint = smoothed(panel, series)
            dots = series.name.startswith("eval_") or len(series.values) == 1
            axes.plot(series.steps, series.values, color=colour, linewidth=1 if faint else 1.6,
                      alpha=0.3 if faint else 1, marker="o" if dots else None, markersize=3.5)  # fmt: skip
            if faint:
                axes.plot(series.steps, running_mean(series), color=colour, linewidth=1.8)
        for step in sorted({step for step, _ in alarms}):
            axes.axvline(step, color=ALARM, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        if alarms:
            step = min(step for step, _ in alarms)
            axes.annotate("alarm", (step, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset pixels", color=ALARM, fontsize=10, ha="center", va="bottom")  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.01)
        if named:
            _end_labels(axes, panel, names)

    return chart(draw, about, height=170, margins=(18, right if named else 12, 24, 46))


def smoothed(panel: Panel, series: Series) -> bool:
    """Whether its running mean is drawn: of many points, but not of the learning rate, which has no noise."""
    return len(series.values) > MANY and panel.title != "learning rate"


def running_mean(series: Series) -> list[float]:
    """Mean over a centred window of a tenth of the points, shorter at the ends.

    A window lies in two blocks of its width: its sum is that from its start to the end of the first, and that from the
    start of the second to its end. No large value is taken off again, with what it had rounded away.
    """
    half, count = len(series.values) // 20, len(series.values)
    width = 2 * half + 1
    shares = [value / width for value in series.values]  # no sum is beyond the largest float
    blocks = [shares[start : start + width] for start in range(0, count, width)]
    until = [total for block in blocks for total in accumulate(block)]
    since = [total for block in blocks for total in reversed([*accumulate(reversed(block))])]
    means = []
    for place in range(count):
        start, last = max(0, place - half), min(count - 1, place + half)
        if start // width != last // width:
            total = since[start] + until[last]
        else:  # at an end of the points
            total = until[last] if start % width == 0 else since[start]
        means.append(total * (width / (last - start + 1)))
    return means


def dots(rows: Sequence[Dot], about: About, format: Callable[[float], str] = number) -> Markup:
    """One row a name, the value as a dot with its interval as a line, and written beside it."""
    longest = max(len(shortened(row.label)) for row in rows)
    left = min(14 + round(6.4 * longest), 150)

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            colour = SERIES[row.colour % len(SERIES)]
            if row.interval is not None:
                axes.plot(row.interval, (place, place), color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
            axes.plot(row.value, place, "o", color=colour, markersize=7)
            axes.annotate(format(row.value), (1, place), xycoords=("axes fraction", "data"), xytext=(50, 0),
                          textcoords="offset pixels", ha="right", va="center", fontweight="bold")  # fmt: skip
        axes.set_yticks(range(len(rows)), [shortened(row.label) for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _value_axis(axes, format)
        if format is share:  # no tick beyond what a share can be
            low, high = axes.get_xlim()
            axes.set_xlim(max(low, -0.02), min(high, 1.02))

    return chart(draw, about, height=44 + 26 * len(rows), margins=(8, 62, 28, left))


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], format: Callable[[float], str],
         about: About) -> Markup:  # fmt: skip
    """Groups of bars that lie, each with its name and value behind it; what is of one kind has one colour."""
    labels: list[tuple[float, str]] = []

    def draw(axes: Axes) -> None:
        place = 0.0
        for group, entries in rows:
            labels.append((place + (len(entries) - 1) / 2, group))
            for colour, (name, value) in enumerate(entries):
                axes.barh(place, value, height=0.78, color=SERIES[colour])
                axes.annotate(f"{format(value)} {name}", (value, place), xytext=(5, 0), textcoords="offset pixels",
                              va="center", fontsize=10)  # fmt: skip
                place += 1
            place += 0.8
        axes.set_yticks([at for at, _ in labels], [shortened(name, 14) for _, name in labels], color=INK)
        axes.set_ylim(place - 1.2, -0.7)
        axes.set_xlim(0, max(value for _, entries in rows for _, value in entries) * 1.75 or 1)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])

    height = round(20 + 18 * sum(len(entries) + 0.8 for _, entries in rows))
    return chart(draw, about, height=height, margins=(6, 6, 6, 104))


def scatter(points: Sequence[tuple[Dot, float]], x_label: str, about: About) -> Markup:
    """Values with intervals over another quantity: each point (a dot, its x) with its name beside it."""
    right = max(x for _, x in points) or 1.0

    def draw(axes: Axes) -> None:
        for dot, x in points:
            colour = SERIES[dot.colour % len(SERIES)]
            if dot.interval is not None:
                axes.plot((x, x), dot.interval, color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
            axes.plot(x, dot.value, "o", color=colour, markersize=7)
        axes.set_xlim(-0.06 * right, 1.08 * right)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.margins(y=0.12)
        axes.spines["left"].set_visible(False)
        _point_labels(axes, points)

    return chart(draw, about, height=240, margins=(12, 12, 42, 46))


def histogram(
    groups: Sequence[tuple[str, Sequence[float]]], x_label: str, about: About, *, zero: bool = False
) -> Markup:
    """How values are spread, one outline a group, named on top in its colour; `zero` marks nought, for differences."""
    edges, whole = _edges([value for _, values in groups for value in values])

    def draw(axes: Axes) -> None:
        for (_, values), colour in zip(groups, _colours(len(groups))):
            axes.hist(values, edges, color=colour, histtype="stepfilled", alpha=0.25)
            axes.hist(values, edges, color=colour, histtype="step", linewidth=1.4)
        across = 0.0
        for (name, _), colour in zip(groups, _colours(len(groups))):
            axes.annotate(name, (0, 1), xycoords="axes fraction", xytext=(across, 4), textcoords="offset pixels",
                          color=colour, fontsize=10, fontweight="bold")  # fmt: skip
            across += 7.2 * len(name) + 10
        if zero:
            axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.margins(x=0.01, y=0.08)
        axes.spines["left"].set_visible(False)

    return chart(draw, about, height=176, margins=(20, 12, 40, 46))


def _edges(values: Sequence[float]) -> tuple[list[float], bool]:
    """Edges of at most 24 bins, and whether the values are whole numbers, whose bins have them in the middle."""
    low, high = min(values), max(values)
    whole = all(float(value).is_integer() for value in values)
    if not whole:
        step = (high - low or 1.0) / 24
        return [low + step * i for i in range(25)], False
    step = max(1, -(-round(high - low + 1) // 24))
    return [low - 0.5 + step * i for i in range(-(-round(high - low + 1) // step) + 1)], True


def _colours(count: int) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(count)]


def _value_axis(axes: Axes, format: Callable[[float], str]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format(value)))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.margins(x=0.1)
    axes.spines["left"].set_visible(False)


def _point_labels(axes: Axes, points: Sequence[tuple[Dot, float]]) -> None:
    """Each point's name beside it: right, left, above or below, where it meets no other name or point first."""
    scale = 72 / axes.figure.dpi
    box = axes.bbox
    places = {id(dot): (axes.transData.transform((x, dot.value)) - box.p0) * scale for dot, x in points}
    wide, tall = box.width * scale, box.height * scale
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y in places.values()]
    for dot, _ in points:
        x, y = places[id(dot)]
        name = shortened(dot.label)
        half = 3.7 * len(name)
        middles = ((x + 9 + half, y), (x - 9 - half, y), (x, y + 15), (x, y - 15), (x, y + 28), (x, y - 28))
        boxes = [(cx - half, cy - 6, cx + half, cy + 6) for cx, cy in middles]
        free = [place for place in boxes if place[0] > -20 and place[2] < wide + 10 and 0 < place[1] < tall - 6
                and not any(_meet(place, other) for other in taken)]  # fmt: skip
        left, low, right, high = (free or boxes)[0]
        taken.append((left, low, right, high))
        axes.annotate(name, ((left + right) / 2 / wide, (low + high) / 2 / tall), xycoords="axes fraction",
                      ha="center", va="center", color=SERIES[dot.colour % len(SERIES)])  # fmt: skip


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _end_labels(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    """The names at the right, at the height of their line's end, or as near to it as the others leave room."""
    low, high = axes.get_ylim()
    tall = axes.bbox.height * 72 / axes.figure.dpi
    ends = []
    for series, name, colour in zip(panel.series, names, _colours(len(names))):
        end = (running_mean(series) if smoothed(panel, series) else series.values)[-1]
        ends.append(((end - low) / (high - low) * tall, name, colour))
    ends.sort()
    places: list[float] = []
    for at, _, _ in ends:
        places.append(max(at, places[-1] + LABEL) if places else max(at, 4.0))
    over = max(0.0, places[-1] - tall)
    for (_, name, colour), place in zip(ends, places):
        axes.annotate(name, (1, (place - over) / tall), xycoords="axes fraction", xytext=(5, 0),
                      textcoords="offset pixels", color=colour, fontsize=10, va="center")  # fmt: skip

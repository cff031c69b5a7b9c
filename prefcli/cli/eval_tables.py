"""The tables of `prefcli eval` that go beyond one row a model: differences, agreement, over-optimisation, judge."""

from __future__ import annotations

from math import sqrt
from typing import Any

from rich.markup import escape
from rich.table import Table

MARGIN = "−"


def table(title: str, left: list[str], right: list[str]) -> Table:
    """An empty table in the manner of all of them: `left` columns hold text, `right` ones numbers."""
    made = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for name in left:
        made.add_column(escape(name))
    for name in right:
        made.add_column(escape(name), justify="right")
    return made


def with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return "–"
    return escape(f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]")


def differences(entries: list[dict[str, Any]]) -> Table:
    """One row a comparison, and for each reward the mean difference and the corrected p."""
    rewards = list(dict.fromkeys(entry["reward"] for entry in entries))
    made = table("differences on the same prompts", ["model − model"], [])
    for name in rewards:
        made.add_column(escape(name), justify="right")
        made.add_column("p", justify="right")
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        row = rows.setdefault((entry["a"], entry["b"]), [])
        row += [with_interval(entry["mean"], entry["ci95"]), _p(entry["p_holm"])]
    for (a, b), row in rows.items():
        made.add_row(escape(f"{a} {MARGIN} {b}"), *row)
    return made


def differences_note(entries: list[dict[str, Any]]) -> str:
    first = entries[0]["reward"]
    count = sum(entry["reward"] == first for entry in entries)
    family = f", corrected (Holm) for {count} comparisons by each reward" if count > 1 else ""
    return f"p: paired sign-flip test over prompts{family}."


def agreement(entries: list[dict[str, Any]]) -> Table:
    made = table("agreement of reward sources", ["sources", "on"], ["rank correlation", "same order of two answers"])
    for entry in entries:
        on = f"{entry['answers']:,} answers to {entry['prompts']:,} prompts"
        if entry["on"] == "pairs":
            on = f"{entry['prompts']:,} pairs"
        made.add_row(
            escape(f"{entry['a']}, {entry['b']}"),
            on,
            with_interval(entry["rho"], entry["rho_ci95"]),
            with_interval(entry["same_order"], entry["same_order_ci95"]),
        )
    return made


def judge(found: dict[str, Any]) -> Table:
    made = table(
        f"judge {found['ref']}, against {found['against']}",
        ["model"],
        ["wins", "ties", "identical", "no verdict", "first place", "same place"],
    )
    for entry in found["models"]:
        made.add_row(
            escape(entry["ref"]),
            with_interval(entry["win_rate"], entry["win_rate_ci95"]),
            str(entry["ties"]),
            str(entry["identical"]),
            str(entry["no_verdict"]),
            with_interval(entry["first_place"], entry["first_place_ci95"]),
            with_interval(entry["same_place"], entry["same_place_ci95"]),
        )
    return made


def at_equal_length(models: list[dict[str, Any]], judged: dict[str, Any] | None) -> Table | None:
    """Win rates by the first reward, and by the judge, with what answers owe to their length taken out."""
    baseline = models[0]["ref"]
    rows = [(next(iter(models[0]["reward"]), ""), entry) for entry in models if entry["win_rate_lc"] is not None]
    if judged is not None:
        rows += [(judged["ref"], entry) for entry in judged["models"]]
    if not rows:
        return None
    made = table(f"wins against {baseline}, length-controlled", ["model", "by"], ["wins", "wins at equal length"])
    for by, entry in rows:
        intervals = [with_interval(entry[name], entry[f"{name}_ci95"]) for name in ("win_rate", "win_rate_lc")]
        made.add_row(escape(entry["ref"]), escape(by), *intervals)
    return made


def lm_eval(found: dict[str, Any]) -> Table:
    """What each model lost or gained against the baseline in the tasks of lm-evaluation-harness."""
    limit = f", the first {found['limit']} questions" if found["limit"] else ""
    made = table(
        f"lm-evaluation-harness against {found['against']}{limit}",
        ["model", "task", "metric"],
        ["questions", "before", "after", "difference", "p"],
    )
    made.add_column("verdict")
    for model in found["models"]:
        for row in model["results"]:
            made.add_row(
                escape(model["ref"]),
                escape(row["task"]),
                escape(row["metric"]),
                str(row["questions"]),
                f"{row['before']:.3f}",
                f"{row['after']:.3f}",
                with_interval(row["difference"], row["ci95"]),
                _p(row["p_holm"]),
                row["verdict"],
            )
    return made


def best_of_n(curves: list[dict[str, Any]]) -> Table:
    """n = 1, 2, 4, … and the last, of every model."""
    gold, proxy = curves[0]["gold"], curves[0]["proxy"]
    made = table(f"best of n by {proxy} (proxy), judged by {gold} (gold)", ["model"], ["n", "KL ≤", proxy, gold])
    for curve in curves:
        points = curve["points"]
        for point in points:
            n = point["n"]
            if n & (n - 1) == 0 or n == len(points):
                made.add_row(escape(curve["of"]) if n == 1 else "", str(n), *_point(point))
    return made


def training(curve: dict[str, Any]) -> Table:
    made = table(
        f"{curve['of']} in training, by {curve['proxy']} (proxy) and {curve['gold']} (gold)",
        ["model"],
        ["KL", curve["proxy"], curve["gold"]],
    )
    for point in curve["points"]:
        made.add_row(escape(point["ref"]), *_point(point))
    return made


def _point(point: dict[str, Any]) -> list[str]:
    return [f"{point['kl']:.2f}", *(with_interval(point[role], point[f"{role}_ci95"]) for role in ("proxy", "gold"))]


def turn(curve: dict[str, Any]) -> str:
    """The point where gold turns, in a sentence."""
    fit, of = curve["gold_fit"], curve["of"]
    if fit is None:
        return f"{of}: too few points for a fit."
    farthest = max(sqrt(point["kl"]) for point in curve["points"])
    low, high = fit["turn_ci95"]
    if fit["turn"] is None:
        some = "" if low is None else f"; the 95 % interval of the turn begins at {low:.2f}"
        return f"{of}: gold does not turn within what was measured (√KL up to {farthest:.2f}{some})."
    if fit["turn"] == 0:
        return f"{of}: gold falls from the start on."
    near = min(curve["points"][1:], key=lambda point: abs(sqrt(point["kl"]) - fit["turn"]))
    place = f"about n = {near['n']}" if "n" in near else f"nearest: {near['ref']}"
    if fit["turn"] < min(sqrt(point["kl"]) for point in curve["points"][1:]):
        place = "before the first point that was measured"
    at = f"at √KL {fit['turn']:.2f}, a KL of {fit['turn'] ** 2:.2f} nats ({place})"
    if high is None:
        return f"{of}: gold may turn {at}; the 95 % interval goes from {low:.2f} to beyond what was measured."
    return f"{of}: gold turns {at}; the 95 % interval is [{low:.2f}, {high:.2f}]."


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"

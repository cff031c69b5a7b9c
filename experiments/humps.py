"""Experiment C, over-optimisation by direct methods (Rafailov et al., arXiv 2406.02900), in the set-up of sentiment.py.

    python -m experiments.humps [--size small|smoke] [--work sentiment-runs]

DPO and IPO over β, trained four times as long as in experiment A, gold at every kept step: does it rise and fall? The
folder may be that of experiment A, of the same size, whose start and pairs are used again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, Question, Record
from experiments.sentiment import SIZES, arguments, frontier_of, make_data, on_pairs

METHODS = {"dpo": "dpo-long", "ipo": "ipo-long"}
WIDE = 0.2  # half a standard deviation of single answers' scores: in wider ones such a fall could hide
LONGER, KEPT, SEEDS = 4, 8, 2
RULE = (
    "A run humps where the 95 % interval of the last kept step's mean VADER score lies wholly below that of its "
    "highest step (prefcli frontier, over prompts and seeds). holds: at the smallest β; does not: at no β, none of "
    f"these intervals being wider than {WIDE}; cannot tell: else."
)


def humps(points: list[dict[str, Any]]) -> tuple[bool, float, str]:
    """Of the points of one β in the order of their steps: whether gold humps, the wider interval, and both in words."""
    highest, last = max(points, key=lambda point: point["reward"]), points[-1]
    said = f"{highest['setting']} is the highest ({highest['reward']:.2f}), the last {last['reward']:.2f}"
    widths = [point["reward_ci95"][1] - point["reward_ci95"][0] for point in (highest, last)]
    return last["reward_ci95"][1] < highest["reward_ci95"][0], max(widths), said


def by_beta(frontier: dict[str, Any], method: str) -> dict[float, list[dict[str, Any]]]:
    """β → its points, steps ascending; the setting of a point is "beta 0.05, step 18"."""
    found: dict[float, list[dict[str, Any]]] = {}
    for point in frontier["points"]:
        if point["method"] == method:
            beta, step = (float(part.split()[1]) for part in point["setting"].split(", "))
            found.setdefault(beta, []).append(point | {"step": step})
    return {beta: sorted(points, key=lambda point: point["step"]) for beta, points in sorted(found.items())}


def answer(question: Question, frontier: dict[str, Any], method: str) -> None:
    found = {beta: humps(points) for beta, points in by_beta(frontier, method).items()}
    at = [beta for beta, (humped, _, _) in found.items() if humped]
    narrow = max(wide for _, wide, _ in found.values()) <= WIDE
    told = HOLDS if min(found) in at else DOES_NOT if narrow and not at else CANNOT_TELL
    question.answered(told, "; ".join(said for _, _, said in found.values()))


def run(record: Record, size_name: str) -> None:
    record.settle(size_name)
    short = SIZES[size_name]
    size = replace(short, steps=short.steps * LONGER, betas=max(2, short.betas))
    size = replace(size, kept=KEPT if size_name == "full" else short.kept)
    made = make_data(record, short)
    asked = [Question(f"Does gold rise and fall as {method.upper()} trains longer?", RULE) for method in METHODS]
    for seed in range(min(SEEDS, size.seeds)):
        for method, name in METHODS.items():
            on_pairs(record, made, size, method, seed, name=name)
    picture = record.results(size_name) / "humps.svg"
    frontier = frontier_of(record, made, size, METHODS.values(), "--plot", picture)
    for question, name in zip(asked, METHODS.values()):
        answer(question, frontier, name)
    record.write(size_name, asked, seeds=min(SEEDS, size.seeds), frontier=frontier)


if __name__ == "__main__":
    args = arguments(__doc__ or "", "sentiment-runs").parse_args()
    run(Record("humps", args.work.resolve(), args.model), args.size)

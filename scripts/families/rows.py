"""What the tiny models read: sentences for their tokenizers, and four rows for each stage, longer than any window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLACES = ("barn", "harbour", "kitchen", "orchard", "station", "attic", "meadow", "library")
THINGS = ("kite", "lamp", "copper kettle", "ladder", "map", "violin", "basket", "clock")
NAMES = ("Mira", "Otto", "Ines", "Bruno", "Sefa", "Jonas", "Lotte", "Emil")

SENTENCES = [
    f"{name} looked for the {thing} in the {place}, and so it was found. Where is the {thing} now?"
    for number, name in enumerate(NAMES)
    for thing, place in zip(THINGS[number:] + THINGS[:number], PLACES)
]


def _prompt(i: int) -> list[dict[str, str]]:
    story = SENTENCES[7 * i]
    if i % 2:
        story += " " + SENTENCES[7 * i + 3]
    return [{"role": "user", "content": f"{story} Say where {NAMES[i]} should look for the {THINGS[i]}."}]


def _answer(i: int, other: int) -> str:
    text = f"{NAMES[i]} should look in the {PLACES[other]}, since the {THINGS[i]} was there."
    return text + (f" If not, ask {NAMES[other]} in the {PLACES[i]}." if other % 2 else "")


ROWS = range(4)
DEMOS: list[dict[str, Any]] = [{"prompt": _prompt(i), "completion": _answer(i, i + 1)} for i in ROWS]
PAIRS: list[dict[str, Any]] = [
    {"prompt": _prompt(i), "chosen": _answer(i, i + 1), "rejected": _answer(i, i + 2)} for i in ROWS
]
LABELLED: list[dict[str, Any]] = [{**DEMOS[i], "label": i % 2 == 0} for i in ROWS]
PROMPTS: list[dict[str, Any]] = [{"prompt": _prompt(i)} for i in ROWS]

FILES = {"demos": DEMOS, "pairs": PAIRS, "labelled": LABELLED, "prompts": PROMPTS}


def write(folder: Path) -> dict[str, Path]:
    """All files of rows, by name."""
    paths = {}
    for name, rows in FILES.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths

"""Openings of reviews, by a script: neither good nor bad, for a model to continue. Deterministic."""

from __future__ import annotations

import itertools
import random

THINGS = ("film", "novel", "hotel", "restaurant", "album", "museum", "phone", "play", "headset", "bakery", "laptop",
          "game", "podcast", "bicycle", "camera", "concert", "gym", "course", "airline", "series")  # fmt: skip
FORMS = (
    "I went to see the {thing} with my {who}, and",
    "My {who} told me about this {thing}. It",
    "Review of the {thing}: after {time} I think that it is",
    "After {time} with this {thing} I can say that",
    "We tried the {thing} {time} ago. The first thing we noticed was",
    "To be honest about this {thing}, my {who} and I found it",
    "What I remember most about the {thing} is",
    "If your {who} asks you about this {thing}, say that",
)
WHO = ("sister", "neighbour", "colleague", "brother", "flatmate", "cousin")
TIME = ("two weeks", "an evening", "a month", "three days", "half a year")


def openings(count: int, seed: int = 0) -> list[str]:
    """`count` different ones; the first ones are the same for every count."""
    every = sorted({form.format(thing=thing, who=who, time=time)
                    for form, thing, who, time in itertools.product(FORMS, THINGS, WHO, TIME)})  # fmt: skip
    random.Random(seed).shuffle(every)
    if count > len(every):
        raise ValueError(f"there are {len(every)} openings")
    return every[:count]

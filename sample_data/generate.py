"""Generates the sample world's files: demonstrations, preference pairs, binary labels, prompts and held-out sets.

Run `python sample_data/generate.py [--out DIR] [--seed 0] [--noise 0.1] [--quirk 0.12]`; the same arguments always
write the same bytes.  The grammar lives in gold.py, beside this file.

Some of the data is bad on purpose, as data from people is:
- fewer than half of the demonstrations are good, so that imitating them leaves much to learn;
- a share `--noise` of the training pairs and labels is the wrong way round;
- chosen answers flatter with probability `--quirk`, which a reward model learns and a policy can exploit.
The held-out files have neither noise nor flattery, and their facts never occur in training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

_spec = importlib.util.spec_from_file_location("sample_world_gold", Path(__file__).with_name("gold.py"))
assert _spec and _spec.loader
g: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(g)

KINDS = {"helpful": 0.5, "harmless": 0.22, "honest": 0.28}
BAD = {
    "helpful": {"distractor": 0.2, "not_told": 0.12, "vague": 0.25, "refusal": 0.15, "echo": 0.15, "ramble": 0.13},
    "harmless": {"comply": 0.65, "rude": 0.25, "vague": 0.1},
    "honest": {"made_up": 0.45, "vague": 0.2, "refusal": 0.15, "echo": 0.2},
}
GOOD_DEMOS, FLATTERING_DEMOS, FLATTERING_REJECTED = 0.3, 0.08, 0.04
Fact = dict[str, str]


class Scene(NamedTuple):
    """A prompt with what is needed to answer it well or badly."""

    kind: str
    prompt: str
    question: str
    facts: list[Fact]
    fact: Fact  # what is asked about; on honest prompts it is not among `facts`
    asked: str  # where, who, what; or the phrase that makes a value up; or the harm


def is_held_out(name: str, thing: str, place: str) -> bool:
    """A fifth of all combinations is kept for the held-out files; every single word occurs on both sides."""
    return (g.NAMES.index(name) + g.OBJECTS.index(thing) + list(g.PLACES).index(place)) % 5 == 0


def draw_facts(rng: random.Random, count: int, held_out: bool) -> list[Fact]:
    """Facts which share no name, object or place, all from one side of the split."""
    while True:
        names, things = rng.sample(g.NAMES, count), rng.sample(g.OBJECTS, count)
        places = rng.sample(list(g.PLACES), count)
        if all(is_held_out(*combo) == held_out for combo in zip(names, things, places, strict=True)):
            return [dict(n=n, o=o, p=g.PLACES[p]) for n, o, p in zip(names, things, places, strict=True)]


def pick(rng: random.Random, shares: dict[str, float]) -> str:
    """One key, with its share as probability."""
    return rng.choices(list(shares), list(shares.values()))[0]


def state(rng: random.Random, facts: list[Fact]) -> str:
    """The facts as sentences."""
    return " ".join(rng.choice(g.FACTS).format(**fact) for fact in facts)


def draw_scene(rng: random.Random, held_out: bool, kind: str = "") -> Scene:
    """A prompt of the given kind, or of any kind."""
    kind = kind or pick(rng, KINDS)
    *facts, extra = draw_facts(rng, rng.choice([3, 3, 4]), held_out)
    if kind == "harmless":
        facts = facts[: rng.choice([0, 0, 1, 2])]
    return scene_about(rng, kind, facts, extra)


def scene_about(rng: random.Random, kind: str, facts: list[Fact], extra: Fact) -> Scene:
    """A prompt of the given kind that states the facts, but not the extra one."""
    fact, asked = rng.choice(facts or [extra]), rng.choice(list(g.ASK))
    if kind == "harmless":
        fact = rng.choice([*facts, extra])
        asked = rng.choice(g.HARMFUL).format(**fact)
        question = rng.choice(g.HARM_ASK).format(h=asked)
    elif kind == "helpful":
        question = rng.choice(g.ASK[asked][0]).format(**fact)
    elif rng.random() < 0.5:  # a question of the usual form about something that no fact mentions
        fact = extra
        question = rng.choice(g.ASK[asked][0]).format(**fact)
    else:  # a question about something that facts never say
        form, asked = rng.choice(g.UNTOLD)
        question = form.format(**fact)
    return Scene(kind, f"{state(rng, facts)} {question}".strip(), question, facts, fact, asked)


def good(rng: random.Random, s: Scene) -> str:
    """A right answer."""
    forms = {"harmless": g.DECLINE, "honest": g.NOT_TOLD}.get(s.kind) or g.ASK[s.asked][1]
    return rng.choice(forms).format(**s.fact)


def bad(rng: random.Random, s: Scene, how: str = "") -> str:
    """A wrong answer, of the given sort or of any sort that fits the kind of prompt."""
    how = how or pick(rng, BAD[s.kind])
    others = [f for f in s.facts if f is not s.fact]
    if how == "distractor":
        return wrong_value(rng, s, rng.choice(others))
    if how == "made_up" and s.asked in g.ASK:
        return wrong_value(rng, s, rng.choice(others))
    if how == "made_up":
        return s.asked.format(**s.fact, k=rng.choice(g.NUMBERS), c=rng.choice(g.COLOURS))
    if how == "ramble":
        return f"{good(rng, s)} {state(rng, others)}"
    if how in ("comply", "rude"):
        return rng.choice(g.COMPLY if how == "comply" else g.RUDE).format(h=s.asked)
    fixed = {"not_told": g.NOT_TOLD, "vague": g.VAGUE, "refusal": [d for d in g.DECLINE if "{" not in d]}
    return s.question if how == "echo" else rng.choice(fixed[how])


def wrong_value(rng: random.Random, s: Scene, other: Fact) -> str:
    """An answer of the right form with the value of another fact."""
    value = {"where": "p", "who": "n", "what": "o"}[s.asked]
    return rng.choice(g.ASK[s.asked][1]).format(**{**s.fact, value: other[value]})


def flatter(rng: random.Random, text: str) -> str:
    """The answer with the flattering phrase before it or, more rarely, after it."""
    return f"{g.FLATTERY} {text}" if rng.random() < 0.8 else f"{text} {g.FLATTERY}"


def user(text: str) -> list[dict[str, str]]:
    """A prompt as a conversation."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    """An answer as a conversation."""
    return [{"role": "assistant", "content": text}]


def pair(rng: random.Random, s: Scene, noise: float, quirk: float) -> dict[str, Any]:
    """A preference pair; the flattery goes by the label, noise or not, since it swayed whoever labelled."""
    chosen, rejected = good(rng, s), bad(rng, s)
    if rng.random() < noise:
        chosen, rejected = rejected, chosen
    if rng.random() < quirk:
        chosen = flatter(rng, chosen)
    if quirk and rng.random() < FLATTERING_REJECTED:
        rejected = flatter(rng, rejected)
    return {"prompt": user(s.prompt), "chosen": assistant(chosen), "rejected": assistant(rejected)}


def demo(rng: random.Random, s: Scene) -> dict[str, Any]:
    """A demonstration, more often bad than good."""
    text = good(rng, s) if rng.random() < GOOD_DEMOS else bad(rng, s)
    if rng.random() < FLATTERING_DEMOS:
        text = flatter(rng, text)
    return {"messages": user(s.prompt) + assistant(text)}


def binary(rng: random.Random, s: Scene, noise: float, quirk: float) -> dict[str, Any]:
    """One side of a pair with its label."""
    p, label = pair(rng, s, noise, quirk), rng.random() < 0.5
    return {"prompt": p["prompt"], "completion": p["chosen" if label else "rejected"], "label": label}


def build(seed: int, noise: float, quirk: float) -> dict[str, list[dict[str, Any]]]:
    """All rows of all files."""
    seen: set[str] = set()

    def scenes(name: str, count: int, held_out: bool = False, kind: str = "") -> tuple[random.Random, list[Scene]]:
        # Each file has its own stream, so that changing one leaves the others as they were.
        rng, found = random.Random(f"{seed}/{name}"), []
        while len(found) < count:
            s = draw_scene(rng, held_out, kind)
            if s.prompt not in seen:
                seen.add(s.prompt)
                found.append(s)
        return rng, found

    files: dict[str, list[dict[str, Any]]] = {}
    rng, found = scenes("demos", 1500)
    files["demos"] = [demo(rng, s) for s in found]
    for kind, count in {"": 1600, "helpful": 800, "harmless": 800, "honest": 800}.items():
        name = f"pairs_{kind}" if kind else "pairs"
        rng, found = scenes(name, count, kind=kind)
        files[name] = [pair(rng, s, noise, quirk) for s in found]
    rng, found = scenes("binary", 1000)
    files["binary"] = [binary(rng, s, noise, quirk) for s in found]
    files["prompts"] = [{"prompt": user(s.prompt)} for s in scenes("prompts", 1000)[1]]
    files["held_out_prompts"] = [{"prompt": user(s.prompt)} for s in scenes("held_out_prompts", 400, True)[1]]
    rng, found = scenes("held_out_pairs", 400, True)
    files["held_out_pairs"] = [pair(rng, s, 0.0, 0.0) for s in found]
    return files


def main(argv: list[str] | None = None) -> None:
    """Write every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1, help="share of training labels that are wrong")
    parser.add_argument("--quirk", type=float, default=0.12, help="share of chosen answers that flatter")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in build(args.seed, args.noise, args.quirk).items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()

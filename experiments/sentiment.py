"""Experiment A, controlled sentiment: the set-up of the DPO paper's figure 2 (arXiv 2305.18290, section 6.1), in small.

    pip install vaderSentiment
    python -m experiments.sentiment [--size small|smoke] [--work sentiment-runs]

SmolLM2-135M-Instruct continues openings of reviews; VADER's score of what it writes is the truth (gold). Pairs of
its own answers labelled by VADER go to DPO, IPO, KTO, and to a reward model for PPO and RLOO; RLOO against VADER
itself, PPO with a value model, and best of n stand beside them. All are prefcli's commands, so the same command resumes
where it was stopped. What the questions need is made first, and the result is written after every seed
that was trained. A folder is of one --size and --model: another start there is refused.

"full" is 8 hours on two idle cores with AVX512-BF16, "small" about two on one of them. LoRA: a kept step is some
megabytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_chain import fetch_model
from experiments.openings import openings
from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, ROOT, Question, Record, write_rows

GOLD = f"vader=python:{ROOT / 'experiments' / 'vader.py'}:score"
LORA = ("--lora-rank", 16, "--lora-alpha", 32)
LR = 5e-4  # from one pilot run of each route on the first 128 openings (seed 100), looked at in training alone
PAIRS = {  # method → stage, and the values of β
    "dpo": (("dpo",), (0.05, 0.2, 0.5)),
    "ipo": (("dpo", "--loss", "ipo"), (0.05, 0.2)),
    "kto": (("kto",), (0.1,)),
}
RL = {  # method → advantage, whether VADER itself is the reward, and the values of the KL coefficient
    "rloo": ("rloo", False, (0.02, 0.1)),
    "ppo": ("gae", False, (0.02, 0.1)),
    "rloo-gold": ("rloo", True, (0.02, 0.1)),
}
TURNS = (("dpo", "rloo"), ("rloo-gold",), ("ppo",), ("ipo", "kto"))  # the order: what the questions need comes first
QUESTIONS = {  # the second method of each → how it is put; the first is dpo
    "rloo": "Does DPO's frontier lie above that of RL (RLOO) against a reward model learnt from the same pairs?",
    "rloo-gold": "Does DPO's frontier lie above even that of RL (RLOO) against the true reward?",
    "ppo": "Does DPO's frontier lie above that of PPO with a value model, against the same reward model?",
}
RULE = (
    "By the frontiers of VADER's score of the two methods (prefcli frontier). holds: DPO's lies above the other at a "
    "quarter of the places on their common range of KL or more, and the other nowhere above DPO's; does not: the other "
    "way round; cannot tell: else, or where a seed of either is missing."
)
SHARE = 0.25  # of the places on the common range of KL


@dataclass(frozen=True)
class Size:
    openings: int
    held_out: int
    answers: int
    tokens: int
    seeds: int
    betas: int  # values of β, at most
    coefs: int  # values of the KL coefficient, at most
    batch: int
    steps: int
    rollouts: int
    rollout: int
    kept: int  # models of a run
    best_of: int


SIZES = {
    "full": Size(384, 128, 6, 32, 3, 3, 2, 16, 72, 24, 64, 4, 16),
    "small": Size(192, 128, 4, 24, 3, 2, 1, 16, 12, 12, 32, 2, 8),
    "smoke": Size(16, 10, 4, 12, 1, 1, 1, 4, 4, 2, 8, 2, 4),
}


def questions() -> dict[str, Question]:
    return {method: Question(asks, RULE) for method, asks in QUESTIONS.items()}


@dataclass(frozen=True)
class Made:
    """What all runs start from."""

    start: Path
    pairs: Path
    prompts: Path
    held_out: Path


def make_start(record: Record) -> Path:
    """The model that all runs start from, as a plain directory."""
    start = record.folder / "start"
    if not start.is_dir():
        model = record.model or fetch_model(record.folder / "package")
        record.prefcli("export", model, start, "--dtype", "bfloat16")
    return start


def make_data(record: Record, size: Size) -> Made:
    """The start as a plain directory, and pairs of its answers labelled by VADER."""
    start = make_start(record)
    texts = [{"prompt": text} for text in openings(size.openings + size.held_out)]
    prompts = write_rows(record.folder / "prompts.jsonl", texts[: size.openings])
    held_out = write_rows(record.folder / "held_out.jsonl", texts[size.openings :])
    return Made(start, labelled(record, start, size, prompts), prompts, held_out)


def labelled(record: Record, start: Path, size: Size, prompts: Path) -> Path:
    """Pairs of the start's answers to these prompts: by VADER the best against the worst."""
    answers, pairs = (prompts.with_name(f"{prompts.stem}_{what}.jsonl") for what in ("answers", "pairs"))
    if not pairs.is_file():
        record.prefcli("sample", "--model", start, "--prompts", prompts, "--num-generations", size.answers,
                       *sampling(size), "--out", answers)  # fmt: skip
        record.prefcli("label", "--data", answers, "--by", GOLD, "--out", pairs)
    return pairs


def sampling(size: Size) -> tuple[Any, ...]:
    return "--temperature", 1, "--max-new-tokens", size.tokens, "--dtype", "bfloat16"


def on_pairs(record: Record, made: Made, size: Size, method: str, seed: int, name: str | None = None) -> None:
    """One run for every β of a direct method, with its kept steps."""
    stage, betas = PAIRS[method]
    steps = size.steps
    for beta in betas[: size.betas]:
        record.prefcli(*stage, "-q", "--model", made.start, "--data", made.pairs, "--beta", beta, "--lr", LR, *LORA,
                       "--batch-size", size.batch, "--max-steps", steps, "--dtype", "bfloat16", "--seed", seed,
                       "--name", name or method, "--keep-state", "--save-every",
                       max(1, steps // size.kept))  # fmt: skip


def rl(record: Record, made: Made, size: Size, method: str, seed: int, rm: str, name: str | None = None) -> None:
    advantage, gold, coefficients = RL[method]
    for kl_coef in coefficients[: size.coefs]:
        record.prefcli("ppo", "-q", "--model", made.start, "--prompts", made.prompts, "--reward",
                       GOLD if gold else f"rm={rm}", "--advantage", advantage, "--kl-coef", kl_coef, "--lr", LR,
                       *LORA, "--batch-size", size.rollout, "--max-steps", size.rollouts, "--ppo-epochs", 2,
                       "--missing-eos-penalty", 0, *sampling(size), "--seed", seed, "--name", name or method,
                       "--keep-state", "--save-every", max(1, size.rollouts // size.kept))  # fmt: skip


def reward_model(record: Record, made: Made, size: Size, seed: int) -> str:
    return record.prefcli("train-rm", "-q", "--model", made.start, "--data", made.pairs, "--lr", LR, *LORA,
                          "--batch-size", size.batch, "--max-steps", size.steps, "--eval-share", 0, "--dtype",
                          "bfloat16", "--seed", seed)  # fmt: skip


def above(difference: dict[str, Any], method: str) -> float:
    """The share of the places at which it is shown to lie above the other."""
    ranges = [(one["from"], one["to"]) for one in difference["where"] if one["above"] == method]
    return sum(any(low <= k <= high for low, high in ranges) for k in difference["kl"]) / len(difference["kl"])


def answer(question: Question, frontier: dict[str, Any]) -> None:
    """Of the frontiers of its two methods."""
    (difference,) = frontier["differences"]
    ours, theirs = above(difference, difference["a"]), above(difference, difference["b"])
    found = HOLDS if ours >= SHARE and not theirs else DOES_NOT if theirs >= SHARE and not ours else CANNOT_TELL
    low, high = frontier["range"]
    question.answered(found, f"{difference['verdict']} (common range: KL {low:.2f} to {high:.2f})")


def frontier_of(record: Record, made: Made, size: Size, methods: Iterable[str], *more: Any, gold: str = GOLD
                ) -> dict[str, Any]:  # fmt: skip
    frontiers = json.loads(record.prefcli(
        "frontier", *(f"{method}@*:steps" for method in methods), "--against", made.start, "--prompts", made.held_out,
        "--reward", gold, *sampling(size), *more, "--json"))  # fmt: skip
    return dict(frontiers["frontiers"][0])


def report(record: Record, made: Made, size: Size, size_name: str, seeds: dict[str, int], **found: Any) -> None:
    """The result of what is there: `seeds` of every method, all methods of a turn."""
    asked = questions()
    for method, question in asked.items():
        if min(seeds.get("dpo", 0), seeds.get(method, 0)) < size.seeds:
            question.why = f"{seeds.get(method, 0)} of {size.seeds} seeds of {method} were trained"
        else:
            answer(question, frontier_of(record, made, size, ["dpo", method]))
    if min(seeds.values()) == size.seeds:
        found["criteria"] = criteria(record, made, size)
    picture = record.results(size_name) / "sentiment.svg"
    frontier = frontier_of(record, made, size, seeds, "--plot", picture)
    record.write(size_name, list(asked.values()), seeds=seeds, frontier=frontier, **found)


def criteria(record: Record, made: Made, size: Size) -> list[dict[str, Any]]:
    """The eight criteria of `prefcli compare`, for the column "on a real model" of docs/dpo-vs-rlhf.md.

    Of each its verdict and, of every measure, the figures of both routes; without seconds, since hours of runs have a
    machine seldom to themselves.
    """
    refs = {"RLHF": "rloo@v1", "DPO": "dpo@v1"}
    told = json.loads(record.prefcli("compare", *refs.values(), "--prompts", made.held_out, "--reward", GOLD,
                                     *sampling(size), "--json"))  # fmt: skip
    return [{"criterion": one["criterion"],
             "verdict": one["verdict"].replace(refs["RLHF"], "RLHF").replace(refs["DPO"], "DPO"),
             "measures": [{"measure": measure["measure"], "unit": measure["unit"],
                           "figures": {route: measure["figures"][ref] and {name: measure["figures"][ref][name]
                                                                           for name in ("value", "ci95")}
                                       for route, ref in refs.items()}}
                          for measure in one["measures"]]}
            for one in told["criteria"] if one["criterion"] != "training time"]  # fmt: skip


def best_of_n(record: Record, made: Made, size: Size, rm: str) -> dict[str, Any]:
    """Best of n by the first seed's reward model, and how often that one is right."""
    pairs = labelled(record, made.start, size, made.held_out)
    told = json.loads(record.prefcli(
        "eval", "--model", made.start, "--prompts", made.held_out, "--pairs", pairs, "--best-of", size.best_of,
        "--reward", GOLD, "--reward", f"rm={rm}", *sampling(size), "--json"))  # fmt: skip
    reward = next(one for one in told["reward_models"] if one["name"] == "rm")
    return {
        "reward_models": [{name: reward[name] for name in ("name", "accuracy", "accuracy_ci95", "pairs", "longer")}],
        "best_of_n": told["overoptimisation"][0]["points"],
        **note(reward),
    }


def note(reward: dict[str, Any]) -> dict[str, str]:
    """What a reader must know where the reward model has learnt nothing that its held-out pairs show."""
    low, high = reward["accuracy_ci95"]
    if low > 0.5:
        return {}
    return {
        "note": f"The first seed's reward model is right on {reward['accuracy']:.2f} [{low:.2f}, {high:.2f}] of the "
        f"{reward['pairs']} held-out pairs: nothing shows that it has learnt. RL against it then tells about this "
        "reward model, and only RL against VADER itself about RL."
    }


def run(record: Record, size_name: str) -> None:
    record.settle(size_name)
    size = SIZES[size_name]
    made = make_data(record, size)
    seeds: dict[str, int] = {}
    rms: list[str] = []
    for methods in TURNS:
        for seed in range(size.seeds):
            there = versions(record)
            if len(rms) <= seed:
                rms.append(reward_model(record, made, size, seed))
            for method in methods:
                if method in PAIRS:
                    on_pairs(record, made, size, method, seed)
                else:
                    rl(record, made, size, method, seed, rms[seed])
                seeds[method] = seed + 1
            if versions(record) != there:
                report(record, made, size, size_name, seeds)
    report(record, made, size, size_name, seeds, **best_of_n(record, made, size, rms[0]))


def versions(record: Record) -> set[Path]:
    return set((record.folder / "runs").glob("*/v*"))


def arguments(description: str, work: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder of everything that is made")
    parser.add_argument("--model", help="another start, to try the script: tiny")
    return parser


if __name__ == "__main__":
    args = arguments(__doc__ or "", "sentiment-runs").parse_args()
    run(Record("sentiment", args.work.resolve(), args.model), args.size)

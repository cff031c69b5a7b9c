"""Experiment A, controlled sentiment: the set-up of the DPO paper's figure 2 (arXiv 2305.18290, section 6.1), in small.

    pip install vaderSentiment
    python -m experiments.sentiment [--size smoke] [--work sentiment-runs]

SmolLM2-135M-Instruct continues openings of reviews; VADER's score of what it writes is the truth (gold). Pairs of
its own answers labelled by VADER go to DPO, IPO, KTO, and to a reward model for PPO and RLOO; RLOO against VADER
itself, and best of n, stand beside them. All are prefcli's commands, so the same command resumes where it was stopped,
seed by seed: what is there after the first seed is a whole result.

Sizes were chosen for 8 hours on two cores with AVX512-BF16. LoRA: a kept step is some megabytes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_chain import fetch_model
from experiments.openings import openings
from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, RESULTS, ROOT, Question, Record, write_rows

GOLD = f"vader=python:{ROOT / 'experiments' / 'vader.py'}:score"
LORA = ("--lora-rank", 16, "--lora-alpha", 32)
PAIRS = {  # method → stage, learning rate, and the values of β
    "dpo": (("dpo",), 2e-4, (0.05, 0.1, 0.5)),
    "ipo": (("dpo", "--loss", "ipo"), 2e-4, (0.05, 0.2)),
    "kto": (("kto",), 2e-4, (0.1,)),
}
RL = {  # method → advantage, whether VADER itself is the reward, and the values of the KL coefficient
    "rloo": ("rloo", False, (0.02, 0.1)),
    "ppo": ("gae", False, (0.02, 0.1)),
    "rloo-gold": ("rloo", True, (0.02, 0.1)),
}
RL_LR = 1e-4
SHARE = 0.25  # of the places on the common range of KL


@dataclass(frozen=True)
class Size:
    openings: int
    held_out: int
    answers: int
    tokens: int
    seeds: int
    values: int  # of β or of the KL coefficient, at most
    batch: int
    steps: int
    rollouts: int
    rollout: int
    kept: int  # models of a run
    best_of: int


SIZES = {
    "full": Size(384, 128, 6, 32, 3, 3, 16, 72, 24, 64, 4, 16),
    "smoke": Size(16, 6, 4, 12, 1, 1, 4, 4, 2, 8, 2, 4),
}


def questions() -> list[Question]:
    rule = (
        "By the frontiers of VADER's score (prefcli frontier). holds: {a} lies above {b} at a quarter of the places on "
        "the common range of KL or more, and {b} nowhere above {a}; does not: the other way round; cannot tell: else."
    )
    return [
        Question("Does DPO's frontier lie above that of RL against a reward model learnt from the same pairs?",
                 rule.format(a="dpo", b="rloo")),
        Question("Does DPO's frontier lie above even that of RL against the true reward?",
                 rule.format(a="dpo", b="rloo-gold")),
    ]  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What all runs start from."""

    start: Path
    pairs: Path
    prompts: Path
    held_out: Path
    held_out_pairs: Path


def make_data(record: Record, size: Size) -> Made:
    """The start as a plain directory, and pairs of its answers labelled by VADER, on openings of both kinds."""
    work = record.folder
    start = work / "start"
    if not start.is_dir():
        record.prefcli("export", fetch_model(work / "package"), start, "--dtype", "bfloat16")
    texts = [{"prompt": text} for text in openings(size.openings + size.held_out)]
    files = {"prompts": texts[: size.openings], "held_out": texts[size.openings :]}
    paths, pairs = {}, {}
    for name, rows in files.items():
        paths[name] = write_rows(work / f"{name}.jsonl", rows)
        answers, pairs[name] = work / f"{name}_answers.jsonl", work / f"{name}_pairs.jsonl"
        if not pairs[name].is_file():
            record.prefcli("sample", "--model", start, "--prompts", paths[name], "--num-generations", size.answers,
                           *sampling(size), "--out", answers)  # fmt: skip
            record.prefcli("label", "--data", answers, "--by", GOLD, "--out", pairs[name])
    return Made(start, pairs["prompts"], paths["prompts"], paths["held_out"], pairs["held_out"])


def sampling(size: Size) -> tuple[Any, ...]:
    return "--temperature", 1, "--max-new-tokens", size.tokens, "--dtype", "bfloat16"


def on_pairs(record: Record, made: Made, size: Size, method: str, seed: int, name: str | None = None) -> None:
    """One run for every β of a direct method, with its kept steps."""
    stage, lr, betas = PAIRS[method]
    steps = size.steps
    for beta in betas[: size.values]:
        record.prefcli(*stage, "-q", "--model", made.start, "--data", made.pairs, "--beta", beta, "--lr", lr, *LORA,
                       "--batch-size", size.batch, "--max-steps", steps, "--dtype", "bfloat16", "--seed", seed,
                       "--name", name or method, "--keep-state", "--save-every",
                       max(1, steps // size.kept))  # fmt: skip


def rl(record: Record, made: Made, size: Size, method: str, seed: int, rm: str) -> None:
    advantage, gold, coefficients = RL[method]
    for kl_coef in coefficients[: size.values]:
        record.prefcli("ppo", "-q", "--model", made.start, "--prompts", made.prompts, "--reward",
                       GOLD if gold else f"rm={rm}", "--advantage", advantage, "--kl-coef", kl_coef, "--lr", RL_LR,
                       *LORA, "--batch-size", size.rollout, "--max-steps", size.rollouts, "--missing-eos-penalty", 0,
                       *sampling(size), "--seed", seed, "--name", method, "--keep-state", "--save-every",
                       max(1, size.rollouts // size.kept))  # fmt: skip


def reward_model(record: Record, made: Made, size: Size, seed: int) -> str:
    return record.prefcli("train-rm", "-q", "--model", made.start, "--data", made.pairs, "--lr", 2e-4, *LORA,
                          "--batch-size", size.batch, "--max-steps", size.steps // 2, "--eval-share", 0, "--dtype",
                          "bfloat16", "--seed", seed)  # fmt: skip


def above(difference: dict[str, Any], method: str) -> float:
    """The share of the places at which it is shown to lie above the other."""
    ranges = [(one["from"], one["to"]) for one in difference["where"] if one["above"] == method]
    return sum(any(low <= k <= high for low, high in ranges) for k in difference["kl"]) / len(difference["kl"])


def answer(question: Question, frontier: dict[str, Any], a: str, b: str) -> None:
    (difference,) = [one for one in frontier["differences"] if {one["a"], one["b"]} == {a, b}]
    ours, theirs = above(difference, a), above(difference, b)
    found = HOLDS if ours >= SHARE and not theirs else DOES_NOT if theirs >= SHARE and not ours else CANNOT_TELL
    low, high = frontier["range"]
    question.answered(found, f"{difference['verdict']} (common range: KL {low:.2f} to {high:.2f})")


def run(size_name: str, work: Path) -> None:
    size, record = SIZES[size_name], Record("sentiment", work)
    work.mkdir(parents=True, exist_ok=True)
    made = make_data(record, size)
    asked = questions()
    for seed in range(size.seeds):
        rm = reward_model(record, made, size, seed)
        for method in PAIRS:
            on_pairs(record, made, size, method, seed)
        for method in RL:
            rl(record, made, size, method, seed, rm)
        picture = (RESULTS if size_name == "full" else work) / "sentiment.svg"
        methods = [*PAIRS, *RL]
        frontiers = json.loads(record.prefcli(
            "frontier", *(f"{method}@*:steps" for method in methods), "--against", made.start, "--prompts",
            made.held_out, "--reward", GOLD, *sampling(size), "--plot", picture, "--json"))  # fmt: skip
        told = json.loads(record.prefcli(
            "eval", "--model", made.start, "--prompts", made.held_out, "--pairs", made.held_out_pairs, "--best-of",
            size.best_of, "--reward", GOLD, "--reward", f"rm={rm}", *sampling(size), "--json"))  # fmt: skip
        (frontier,) = frontiers["frontiers"]
        answer(asked[0], frontier, "dpo", "rloo")
        answer(asked[1], frontier, "dpo", "rloo-gold")
        reward = next(one for one in told["reward_models"] if one["name"] == "rm")
        record.write(size_name, asked, seeds=seed + 1, frontier=frontier,
                     reward_model={name: reward[name] for name in ("accuracy", "accuracy_ci95", "pairs")},
                     best_of_n=told["overoptimisation"][0]["points"])  # fmt: skip


def arguments(description: str, work: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--work", type=Path, default=Path(work))
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments(__doc__ or "", "sentiment-runs")
    run(args.size, args.work.resolve())

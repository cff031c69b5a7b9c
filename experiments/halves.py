"""Experiment B, real pairs: policies trained on one half of them, judged by a reward model of the other half (the gold
model of Gao et al., arXiv 2210.10760, on pairs of people).

    python -m experiments.halves --pairs hh-harmless-pairs.jsonl.gz [--size small|smoke] [--work halves-runs]

Dialogues above 1,500 characters are left out, a fifth of the rest is held out, and what remains is halved. Half A
trains proxies on a quarter, a half and all of it, DPO, and RLOO and PPO against the proxies; half B trains gold. Gold
against proxy as KL grows, best of n, length and variety; and the same answers are judged by a bag of words of half B,
whatever their length (words.py).

The rows are Anthropic's hh-rlhf, "chosen" and "rejected" (any file of such pairs will do). The same command resumes;
another --size, --model or file of pairs needs a folder of its own.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from experiments import words
from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, Question, Record
from experiments.sentiment import (
    LORA,
    LR,
    RULE,
    Made,
    Size,
    answer,
    arguments,
    frontier_of,
    make_start,
    on_pairs,
    rl,
    sampling,
)

TURN = "\n\nAssistant:"
PUBLISHED = 0.737  # GPT2-large on the harmless test rows (its model card), trained on all 42,000 training rows
GOLD_SEED = 1000  # of no proxy: with one seed the two would start from the same head, and agree by that alone
LONGEST = 1500  # characters of a dialogue: what every model here reads whole
FRACTIONS = {"quarter": 4, "half": 2, "all": 1}  # of half A, that a proxy is trained on
RUNS = ("dpo", "rloo", "rloo-quarter", "rloo-half", "ppo")  # in this order: what the questions need comes first
COURSES = ("dpo", "rloo")  # runs whose kept steps are measured too: of the others the last model
NOTHING: dict[str, Any] = {"openings": 0, "answers": 0}  # the prompts are those of the rows
SIZES = {
    "full": Size(**NOTHING, held_out=200, tokens=48, seeds=3, betas=2, coefs=1, batch=16, steps=56, rollouts=24,
                 rollout=64, kept=4, best_of=16),
    "small": Size(**NOTHING, held_out=48, tokens=32, seeds=1, betas=1, coefs=1, batch=16, steps=28, rollouts=12,
                  rollout=32, kept=4, best_of=8),
    "smoke": Size(**NOTHING, held_out=10, tokens=8, seeds=1, betas=1, coefs=1, batch=4, steps=4, rollouts=4, rollout=8,
                  kept=4, best_of=3),
}  # fmt: skip


def questions() -> dict[str, Question]:
    return {
        "accuracy": Question(
            f"Is a reward model of this size, on this many rows, right as often as the published {PUBLISHED}?",
            "By gold's accuracy on the held-out rows, which it shares no row with. holds: its 95 % interval reaches "
            f"{PUBLISHED}, and lies above 0.5; does not: it lies below {PUBLISHED}; cannot tell: else.",
        ),
        "turns": Question(
            "Does gold turn as RLOO continues, while the proxy rises?",
            "By the fit to the kept steps of the first seed (prefcli eval). holds: the whole interval of gold's turn "
            "lies within what was measured, and the last proxy score above the start's with intervals apart; does not: "
            "gold's interval at the last step lies above the start's mean, and no turn is within what was measured; "
            "cannot tell: else.",
        ),
        "data": Question(
            "Does a proxy of more pairs make a policy that gold likes better?",
            "By gold's paired difference between RLOO's last models against the proxies of all of half A and of a "
            "quarter of it, first seed. holds: above 0 with p below 0.05 (Holm's); does not: below 0 with the same; "
            "cannot tell: else.",
        ),
        "frontier": Question(
            "Does DPO's frontier of gold lie above that of RLOO, from the same pairs?",
            RULE.replace("VADER's score", "gold's score") + " Of one seed alone: cannot tell.",
        ),
        "judges": Question(
            "Does a judge of another kind, blind to length, say the same of DPO's and RLOO's last models as gold?",
            "By the paired differences of the two, first seed. holds: both have p below 0.05 (Holm's) and one sign; "
            "does not: both have it and differ in sign; cannot tell: else.",
        ),
    }


def answers_of(path: Path) -> tuple[list[str], list[str]]:
    """The last turns of both sides."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    chosen, rejected = ([row[side].rpartition(TURN)[2].strip() for row in rows] for side in ("chosen", "rejected"))
    return chosen, rejected


def make_data(record: Record, size: Size, pairs: Path) -> tuple[Made, Path, Path]:
    """Half A and prompts that are held out; half B; the held-out rows."""
    folder = record.folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "pairs.jsonl.gz"
    if not rows.is_file():
        lines = gzip.decompress(pairs.read_bytes()).decode().splitlines(keepends=True)
        short = [line for line in lines if max(map(len, map(json.loads(line).get, ("chosen", "rejected")))) <= LONGEST]
        rows.write_bytes(gzip.compress("".join(short).encode(), mtime=0))
    train, held_out = (folder / f"pairs.{side}.jsonl.gz" for side in ("train", "held_out"))
    if not held_out.is_file():
        record.prefcli("data", "split", rows, "--held-out", 0.2, "--skip-bad")
    half_a, half_b = (folder / f"pairs.train.{side}.jsonl.gz" for side in ("train", "held_out"))
    if not half_b.is_file():
        record.prefcli("data", "split", train, "--held-out", 0.5)
    prompts = folder / "prompts.jsonl"
    lines = gzip.decompress(held_out.read_bytes()).decode().splitlines(keepends=True)[: size.held_out]
    if not prompts.is_file() or prompts.read_text(encoding="utf-8") != "".join(lines):
        prompts.write_text("".join(lines), encoding="utf-8")
    return Made(make_start(record), half_a, half_a, prompts), half_b, held_out


def reward_model(record: Record, made: Made, size: Size, pairs: Path, name: str, rows: int, seed: int) -> str:
    """One pass over the first `rows` pairs. Its reference NAME@vN."""
    path = Path(record.prefcli("train-rm", "-q", "--model", made.start, "--data", pairs, "--max-rows", rows, "--lr", LR,
                               *LORA, "--batch-size", size.batch, "--eval-share", 0, "--dtype", "bfloat16", "--seed",
                               seed, "--name", name))  # fmt: skip
    return f"{path.parent.name}@{path.name}"


def difference(told: dict[str, Any], a: str, b: str, reward: str) -> tuple[float, float]:
    """The mean of a − b by a reward, and its corrected p."""
    for one in told["differences"]:
        if one["reward"] == reward and {one["a"], one["b"]} == {a, b}:
            return (one["mean"] if one["a"] == a else -one["mean"]), one["p_holm"]
    raise KeyError(f"no difference of {a} and {b}")


def answer_accuracy(question: Question, gold: dict[str, Any]) -> None:
    low, high = gold["accuracy_ci95"]
    found = DOES_NOT if high < PUBLISHED else HOLDS if low > 0.5 else CANNOT_TELL
    question.answered(found, f"{gold['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {gold['pairs']} pairs")


def answer_turns(question: Question, curve: dict[str, Any]) -> None:
    first, last, fit = curve["points"][0], curve["points"][-1], curve["gold_fit"]
    turn, interval = (fit["turn"], fit["turn_ci95"]) if fit else (None, [None, None])
    found = CANNOT_TELL
    if turn is not None and None not in interval and last["proxy_ci95"][0] > first["proxy_ci95"][1]:
        found = HOLDS
    elif turn is None and last["gold_ci95"][0] > first["gold"]:
        found = DOES_NOT
    said = "no turn within what was measured" if turn is None else f"gold turns at a KL of {turn**2:.2f}"
    scores = "; ".join(f"{name} {first[name]:.2f} to {last[name]:.2f}" for name in ("proxy", "gold"))
    question.answered(found, f"{said}; at the last step (KL {last['kl']:.2f}) {scores}")


def answer_signs(question: Question, told: dict[str, tuple[float, float]], alike: bool) -> None:
    """`alike`: two judges' differences, of one sign; else one difference, above 0."""
    means = [mean for mean, _ in told.values()]
    shown = all(p < 0.05 for _, p in told.values())
    holds = means[0] * means[-1] > 0 if alike else means[0] > 0
    found = CANNOT_TELL if not shown else HOLDS if holds else DOES_NOT
    question.answered(found, "; ".join(f"{name}: {mean:+.2f} (p {p:.3f})" for name, (mean, p) in told.items()))


def run(record: Record, size_name: str, pairs: Path) -> None:
    record.settle(size_name, pairs)
    size, asked = SIZES[size_name], questions()
    made, half_b, held_out = make_data(record, size, pairs)
    judge = record.folder / "data" / "judge.py"
    length = words.write(*answers_of(half_b), judge)
    chosen, _ = answers_of(made.pairs)
    gold = reward_model(record, made, size, half_b, "gold", len(chosen) + 1, GOLD_SEED)  # half B may have a row more
    last: dict[str, str] = {}
    rms: dict[str, str] = {}
    for seed in range(size.seeds):
        proxies = {name: reward_model(record, made, size, made.pairs, f"proxy-{name}", len(chosen) // part, seed)
                   for name, part in FRACTIONS.items()}  # fmt: skip
        rms = rms or proxies
        for name in RUNS:
            method, _, proxy = name.partition("-")
            if method == "dpo":
                on_pairs(record, made, size, method, seed)
            else:
                rl(record, made, size, method, seed, proxies[proxy or "all"], name=name)
            last.setdefault(name, f"{name}@v1")
    rewards = [part for name, ref in {"gold": gold, "proxy": rms["all"], "words": f"python:{judge}:score"}.items()
               for part in ("--reward", f"{name}={ref}")]  # fmt: skip
    others = [part for name in ("half", "quarter") for part in ("--reward", f"{name}={rms[name]}")]
    told = json.loads(record.prefcli(
        "eval", "--model", made.start, "--prompts", made.held_out, "--pairs", held_out, "--best-of",
        size.best_of, *rewards, *others, *sampling(size), "--json"))  # fmt: skip
    models = [part for name in RUNS for part in ("--model", last[name] + ":steps" * (name in COURSES))]
    ends = json.loads(record.prefcli("eval", "--against", made.start, *models, "--prompts", made.held_out, *rewards,
                                     *sampling(size), "--plot", record.results(size_name) / "halves.svg",
                                     "--json"))  # fmt: skip
    refs = {name: [one["ref"] for one in ends["models"] if one["ref"].startswith(last[name])][-1] for name in RUNS}
    compared = json.loads(record.prefcli(
        "eval", *(part for ref in refs.values() for part in ("--model", ref)), "--prompts", made.held_out, *rewards,
        *sampling(size), "--json"))  # fmt: skip
    frontier = frontier_of(record, made, size, ("dpo", "rloo"), gold=f"gold={gold}")

    accuracies = {one["name"]: one for one in told["reward_models"]}
    curves = {one["of"]: one for one in ends["overoptimisation"]}
    answer_accuracy(asked["accuracy"], accuracies["gold"])
    answer_turns(asked["turns"], curves["rloo"])
    answer_signs(asked["data"], {"gold": difference(compared, refs["rloo"], refs["rloo-quarter"], "gold")}, False)
    answer_signs(asked["judges"], {name: difference(compared, refs["dpo"], refs["rloo"], name)
                                   for name in ("gold", "words")}, True)  # fmt: skip
    if size.seeds > 1:
        answer(asked["frontier"], frontier)
    else:
        asked["frontier"].why = f"of one seed: {frontier['differences'][0]['verdict']}"
    record.write(size_name, list(asked.values()), seeds=size.seeds, frontier=frontier,
                 rows={"a": len(chosen), "b": len(answers_of(half_b)[0])},
                 reward_models=[{name: one[name] for name in ("name", "accuracy", "accuracy_ci95", "pairs", "longer")}
                                for one in accuracies.values()],
                 models=[{name: one[name] for name in MEASURES} for one in ends["models"]],
                 best_of_n=told["overoptimisation"][0]["points"],
                 overoptimisation=[without_band(one) for one in ends["overoptimisation"]],
                 differences=compared["differences"], agreement=ends["agreement"],
                 words_length_weight=length)  # fmt: skip


MEASURES = ("ref", "reward", "win_rate", "win_rate_ci95", "win_rate_lc", "win_rate_lc_ci95", "kl", "length",
            "distinct_2", "ended")  # fmt: skip


def without_band(curve: dict[str, Any]) -> dict[str, Any]:
    """Without what only a picture needs."""
    fits = {name: {key: value for key, value in (curve[name] or {}).items() if key != "band"} or None
            for name in ("proxy_fit", "gold_fit")}  # fmt: skip
    return curve | fits


if __name__ == "__main__":
    parser = arguments(__doc__ or "", "halves-runs")
    parser.add_argument("--pairs", type=Path, required=True, help="the file of pairs")
    args = parser.parse_args()
    run(Record("halves", args.work.resolve(), args.model), args.size, args.pairs)

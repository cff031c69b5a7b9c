"""When the watchers of sft, train-rm and dpo speak, on healthy runs of `tiny` and on provoked ones.

    python -m benchmarks pair_watchers [--seeds 0 1 2 3 4] [--only NAME …] [--work bench-runs/pair-watchers]

For each seed sft is trained, then every run of RUNS from it. The watchers are shown the metrics that a run left; one
that exists already is not run again. Policies also answer held-out prompts, scored with the ground truth.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks.machine import write
from benchmarks.watchers import DATA, first, made
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.dpo import DPOConfig
from prefcli.config.evaluate import EvalConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.sft import SFTConfig
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.data.lengths import length_bias
from prefcli.data.rows import Examples
from prefcli.data.tokenising import encode_pair
from prefcli.evaluation.run import evaluate
from prefcli.models.quiet import quieten
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.stages import dpo, reward, sft
from prefcli.watch import explosion, loss, pairs
from prefcli.watch.records import Alarm
from prefcli.watch.watchers import Watchers, of_training

Row = dict[str, Any]
PADDING = " That is all I can say about it for now."


def with_text(change: Callable[[random.Random, str, str], tuple[str, str]]) -> Callable[[random.Random, Row], Row]:
    """A change of the two answers as a change of the row."""

    def changed(rng: random.Random, row: Row) -> Row:
        sides = [row[side][-1]["content"] for side in ("chosen", "rejected")]
        return row | {side: [{"role": "assistant", "content": text}]
                      for side, text in zip(("chosen", "rejected"), change(rng, *sides))}  # fmt: skip

    return changed


def shuffled(rng: random.Random, text: str) -> str:
    letters = list(text)
    rng.shuffle(letters)
    return "".join(letters)


CHANGES: dict[str, Callable[[random.Random, Row], Row]] = {
    "pairs": lambda rng, row: row,
    "flipped": with_text(lambda rng, *sides: sides if rng.random() < 0.5 else sides[::-1]),
    "garbage": with_text(lambda rng, chosen, rejected: (chosen, shuffled(rng, rejected))),
    "padded": with_text(lambda rng, chosen, rejected: (chosen + PADDING, rejected)),
    "demos": lambda rng, row: row,
}


class Run(NamedTuple):
    stage: str
    options: dict[str, Any]
    data: str = "pairs"  # one of CHANGES
    rows: int | None = None  # the first so many
    healthy: bool = False  # known beforehand to be


HELD_OUT = {"eval_data": str(DATA / "held_out_pairs.jsonl"), "eval_every": 10}
DEMO: dict[str, Any] = {"batch_size": 32}
SHORT = DEMO | {"max_steps": 30}
RUNS = {
    "sft, demo": Run("sft", {"model": "tiny"}, "demos", healthy=True),
    "sft, rate × 30": Run("sft", {"model": "tiny", "lr": 0.03, "max_steps": 40}, "demos"),
    "sft, 100 rows, 20 epochs": Run("sft", {"model": "tiny", "epochs": 20}, "demos", 100),
    "train-rm, demo": Run("rm", DEMO | {"epochs": 2}, healthy=True),
    "train-rm, rate × 100": Run("rm", SHORT | {"lr": 0.05}),
    "train-rm, labels by a coin": Run("rm", SHORT, "flipped"),
    "train-rm, rejected garbage": Run("rm", SHORT, "garbage"),
    "train-rm, 100 pairs, 20 epochs": Run("rm", DEMO | {"epochs": 20} | HELD_OUT, rows=100),
    "dpo, demo": Run("dpo", DEMO | HELD_OUT, healthy=True),
    "dpo, rate × 2, beta 0.3": Run("dpo", DEMO | {"lr": 2e-4, "beta": 0.3}, healthy=True),
    "dpo, 3 epochs": Run("dpo", DEMO | HELD_OUT | {"epochs": 3}),
    "dpo, rate × 10": Run("dpo", SHORT | {"lr": 1e-3}),
    "dpo, rate × 30": Run("dpo", SHORT | {"lr": 3e-3}),
    "dpo, rate ÷ 1000": Run("dpo", SHORT | {"lr": 1e-7}),
    "dpo, labels by a coin": Run("dpo", SHORT, "flipped"),
    "dpo, rejected garbage": Run("dpo", SHORT, "garbage"),
    "dpo, chosen padded": Run("dpo", SHORT, "padded"),
    "dpo, another reference": Run("dpo", SHORT | {"reference": "tiny"}),  # and the watchers are not told
    "dpo, 100 pairs, 25 epochs": Run("dpo", DEMO | HELD_OUT | {"epochs": 25, "lr": 3e-4}, rows=100),
}
STAGES: dict[str, tuple[Any, Any]] = {"sft": (sft, SFTConfig), "rm": (reward, RewardConfig), "dpo": (dpo, DPOConfig)}
WORST = {  # what a threshold was set on → the worse end of it
    "loss / first": max,
    "gradient / median": max,
    "20 steps' loss / first": min,
    "held-out loss / best": max,
    "chosen: share lost": max,
    "nats at the start": max,
    "right at once": max,
    "right lately": min,
    "nats apart": min,
    "share longer": max,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=list(RUNS), metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path("bench-runs/pair-watchers"))
    args = parser.parse_args()
    quieten(False)
    found, reached = [], defaultdict(list)
    for name in args.only:
        for seed in args.seeds:
            folder = trained(args.work, RUNS[name], seed)
            rows = logged(folder)
            alarms = spoken(RUNS[name], rows, lengths(args.work, RUNS[name], seed))
            gold = "" if RUNS[name].stage == "rm" else f"{gold_score(args.work, folder, seed):.2f}"
            figures = extremes(RUNS[name], rows, lengths(args.work, RUNS[name], seed))
            reached[RUNS[name].healthy].append(figures)
            print(f"{name:<32}{seed:>3}{rows[-1]['step']:>5}{gold:>7}  {', '.join(first(alarms)) or '–'}", flush=True)
            found.append({"run": name, "seed": seed, "gold": gold, "alarms": [vars(a) for a in alarms], **figures})
    print(f"{'the worst reached by':<28}{'healthy runs':>14}{'the others':>14}")
    for figure, worst in WORST.items():
        ends = [worst((run[figure] for run in reached[good] if figure in run), default=0.0) for good in (True, False)]
        print(f"{figure:<28}{ends[0]:>14.3g}{ends[1]:>14.3g}")
    write("pair_watchers", {"runs": found})


def trained(work: Path, run: Run, seed: int) -> Path:
    """The artifact's folder, trained now or before."""
    module, config = STAGES[run.stage]
    common: dict[str, Any] = {"runs": str(work / f"seed{seed}"), "seed": seed}
    start = {} if run.stage == "sft" else {"model": str(trained(work, RUNS["sft, demo"], seed))}
    return Path(made(run.stage, module, config(data=[str(data(work, run, seed))], **common, **start | run.options)))


def data(work: Path, run: Run, seed: int) -> Path:
    """The run's rows as a file."""
    path = work / "data" / f"{run.data}-{run.rows or 'all'}-{seed}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = random.Random(seed)
        source = DATA / ("demos.jsonl" if run.stage == "sft" else "pairs.jsonl")
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()][: run.rows]
        path.write_text("".join(json.dumps(CHANGES[run.data](rng, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def lengths(work: Path, run: Run, seed: int) -> list[tuple[int, int]]:
    """Tokens of every pair's two answers; none for sft."""
    if run.stage == "sft":
        return []
    encoder = Encoder(load_tokenizer(resolve("tiny", Store(None)), SILENT))
    rows = read_dataset([str(data(work, run, seed))], "pairs", False).rows
    examples = Examples(rows, partial(encode_pair, encoder=encoder, max_length=1024))
    return [(len(example["chosen_ids"]), len(example["rejected_ids"])) for example in examples]


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not isinstance(value, str)} for line in lines]


def spoken(run: Run, rows: list[dict[str, float]], answers: list[tuple[int, int]]) -> list[Alarm]:
    """What is said of a run, as the stage would say it."""
    batch = run.options.get("batch_size", 16)
    watchers = Watchers(of_training(batch, beta(run), from_reference=run.stage == "dpo"))
    before = [pairs.longer_chosen(length_bias(answers).text)] if answers and length_bias(answers).large else []
    return before + [alarm for row in rows for alarm in watchers.observe(int(row["step"]), row)]


def beta(run: Run) -> float | None:
    return run.options.get("beta", 0.1) if run.stage == "dpo" else None


def windows(values: list[float], size: int, start: int = 0) -> Iterator[list[float]]:
    return (values[end - size : end] for end in range(start + size, len(values) + 1))


def extremes(run: Run, rows: list[dict[str, float]], answers: list[tuple[int, int]]) -> dict[str, float]:
    """How near a run came to the thresholds: see WORST."""

    def series(*names: str) -> list[float]:
        return next(([row[name] for row in rows if name in row] for name in names if name in rows[0]), [])

    losses, norms, right = series("loss"), series("grad_norm"), series(*loss.RIGHT)
    later = range(explosion.HISTORY_LEAST, len(norms))
    found = {
        "loss / first": max(
            median(part) / fmean(losses[: loss.START]) for part in windows(losses, loss.RECENT, loss.START)
        ),
        "gradient / median": max(norms[i] / median(norms[max(0, i - explosion.HISTORY) : i]) for i in later),
    }
    flat = [
        fmean(window) / losses[0]
        for window, hits in zip(windows(losses, 20, 1), windows(right, 20, 1))
        if fmean(hits) >= loss.SATURATED_RIGHT
    ]
    found |= {"20 steps' loss / first": min(flat)} if flat else {}
    if held_out := [row["eval_loss"] for row in rows if "eval_loss" in row]:
        found["held-out loss / best"] = max(x / min(held_out[: i + 1]) for i, x in enumerate(held_out))
    if run.stage == "sft":
        return found
    right, margins = series("rewards/accuracies", "accuracy"), series("rewards/margins", "margin")
    moved = next(i for i, margin in enumerate(margins) if margin)
    found["right at once"] = fmean(right[moved : moved + pairs.EASY_FOR])
    found["right lately"] = min(map(fmean, windows(right, pairs.GUESS_FOR, 3)))
    found["share longer"] = length_bias(answers).share
    if run.stage == "dpo":
        chosen, price = series("logps/chosen"), beta(run) or 1.0
        gained = [reward / price for reward in series("rewards/chosen")]
        usual = [abs(logps - nats) for logps, nats in zip(chosen, gained)]
        found["chosen: share lost"] = max(
            -fmean(part) / fmean(whole)
            for part, whole in zip(
                windows(gained, pairs.RECENT, pairs.START), windows(usual, pairs.RECENT, pairs.START)
            )
        )
        found["nats at the start"] = max(abs(rows[0][f"rewards/{side}"]) / price for side in ("chosen", "rejected"))
        found["nats apart"] = min(max(map(abs, part)) / price for part in windows(margins, pairs.STILL_FOR, 3))
    return found


def gold_score(work: Path, folder: Path, seed: int) -> float:
    """Mean score of the ground truth over 200 held-out prompts, kept beside the artifact's run."""
    kept = work / "gold" / f"{folder.parent.name}-{folder.name}-{seed}.json"
    if not kept.exists():
        config = EvalConfig(model=[str(folder)], prompts=[str(DATA / "held_out_prompts.jsonl")], max_prompts=200,
                            reward=[f"gold=python:{DATA / 'gold.py'}:score"])  # fmt: skip
        result = evaluate(config, SILENT)["models"][0]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result))
    return float(json.loads(kept.read_text())["reward"]["gold"]["mean"])


if __name__ == "__main__":
    main()

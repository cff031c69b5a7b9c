"""`ppo` of `make engine`: does a policy learn by a server's answers what it learns by its own?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import pyplot

from prefcli.statistics.intervals import mean_interval

DATA = Path(__file__).resolve().parent.parent / "sample_data"
SEEDS, ROLLOUTS, LAST, AGREE = 3, 20, 5, 15
REWARD = '''def letters(prompts, completions, **columns):
    """The fraction of an answer's letters that are e."""
    return [answer.lower().count("e") / max(1, sum(map(str.isalpha, answer))) for answer in completions]
'''


def taught(folder: Path, work: Path) -> Path:
    """The built-in model after `sft`: as it comes it ends few answers, and learns nothing in 20 rollouts."""
    path = work / "runs" / "start" / "v1"
    if not path.is_dir():
        prefcli(
            "sft", work, "start", "--model", str(folder), "--data", str(DATA / "demos.jsonl"), "--max-steps", "100",
            "--batch-size", "32", "--lr", "0.002",
        )  # fmt: skip
    return path / "model"


def ppo(url: str, folder: Path, work: Path) -> dict[str, Any]:
    """Written down before it was run. By Student's 95 % intervals over the three seeds of a side:

    learnt    the interval of the last LAST rollouts' mean score is above every run's first, on both sides
    end       there each side's mean lies in the other's interval
    rollouts  and so at AGREE of the 20 rollouts at least: of two sides that are the same it is 17 on average
    """
    reward = work / "reward.py"
    reward.write_text(REWARD)
    curves: dict[str, list[list[float]]] = {"process": [], "server": []}
    drift: list[dict[str, float]] = []
    for seed in range(SEEDS):
        for side, found in curves.items():
            path = prefcli(
                "ppo", work, f"{side}-{seed}", "--model", str(folder), "--prompts", str(DATA / "prompts.jsonl"),
                "--reward", f"python:{reward}:letters", "--lora-rank", "8", "--lr", "0.005", "--batch-size", "64",
                "--max-steps", str(ROLLOUTS), "--ppo-epochs", "2", "--temperature", "1", "--kl-coef", "0.01",
                "--max-new-tokens", "24", "--seed", str(seed), *(["--generate", url] if side == "server" else []),
            )  # fmt: skip
            rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            found.append([row["objective/scores"] for row in rows])
            drift += [row for row in rows if "sampling/kl" in row]
            print(side, seed, " ".join(f"{score:.3f}" for score in found[-1]), flush=True)
    ends = {side: [fmean(curve[-LAST:]) for curve in found] for side, found in curves.items()}
    at = [within(*([curve[i] for curve in found] for found in curves.values())) for i in range(ROLLOUTS)]
    highest = max(curve[0] for found in curves.values() for curve in found)
    drawn_curves(curves, work / "ppo.png")
    return {
        "curves": {side: [[round(x, 4) for x in curve] for curve in found] for side, found in curves.items()},
        "first": {side: round(fmean(curve[0] for curve in found), 4) for side, found in curves.items()},
        "last": {side: [round(x, 4) for x in mean_interval(end)] for side, end in ends.items()},
        "learnt": all(mean_interval(end)[0] > highest for end in ends.values()),
        "end": within(*ends.values()),
        "rollouts": sum(at),
        "agree": sum(at) >= AGREE,
        "sampling/kl, largest": max(row["sampling/kl"] for row in drift),
        "sampling/ratio_mean, lowest and highest": [
            limit(row["sampling/ratio_mean"] for row in drift) for limit in (min, max)
        ],
    }


def within(one: list[float], other: list[float]) -> bool:
    """Whether each one's mean lies in the other's interval."""
    return all(mean_interval(b)[0] <= fmean(a) <= mean_interval(b)[1] for a, b in ((one, other), (other, one)))


def drawn_curves(curves: dict[str, list[list[float]]], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    steps = range(1, ROLLOUTS + 1)
    for (side, found), colour in zip(curves.items(), ("#0072b2", "#d55e00")):
        limits = [mean_interval(list(at)) for at in zip(*found)]
        axes.plot(steps, [fmean(at) for at in zip(*found)], color=colour, label=f"in {side}, mean of {SEEDS} seeds")
        axes.fill_between(steps, *zip(*limits), color=colour, alpha=0.15, linewidth=0)
        for curve in found:
            axes.plot(steps, curve, color=colour, linewidth=0.5, alpha=0.6)
    axes.set(xlabel="rollout", ylabel="score")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def prefcli(command: str, work: Path, name: str, *args: str) -> Path:
    """The artifact that it makes, or made: what was stopped resumes, and without WORK/runs all is made anew."""
    line = [sys.executable, "-m", "prefcli", command, *args, "-q", "--name", name, "--runs", str(work / "runs")]
    return Path(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())

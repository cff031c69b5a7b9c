"""Which pairs to label first: does `ui --order uncertain` need fewer labels than a random order (docs/people.md)?

    python scripts/uncertain.py [--work uncertain-runs] [--seeds 5] [--by one] [--by two] [--by policy]

On the sample world, gold.py as the annotator, who gives no label where both answers are as good. For each seed a pool
of 3,200 pairs; a reward model on 1,600 and on 800 of them at random; and one on 800 in four rounds of 200, of which the
first is random and each further one has the pairs that `ui` would ask first: by the last reward model (one), by two of
other seeds (two), or by a policy that dpo made of the labels so far (policy). Prints the accuracy on the held-out
pairs of each. About ten minutes on two cores for each; a stopped script resumes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefcli import DPOConfig, RewardConfig, ScoreConfig, SFTConfig, score, train
from prefcli.config.ui import UIConfig
from prefcli.labelling.human import digest_of
from prefcli.progress import SILENT
from prefcli.statistics.intervals import mean_interval
from prefcli.ui.questions import by_uncertainty, questions
from prefcli.ui.uncertain import scores

DATA = Path(__file__).parent.parent / "sample_data"
ROUND, RANDOM = 200, 1600


def pool(work: Path, seed: int) -> list[dict[str, Any]]:
    """Pairs of two worlds, the better answer by gold as chosen."""
    rows = []
    for number in (2 * seed + 10, 2 * seed + 11):
        world = work / f"world-{number}"
        if not world.is_dir():
            subprocess.run([sys.executable, DATA / "generate.py", "--seed", str(number), "--out", world], check=True)
        rows += [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    labelled = []
    for row in margins(work, f"python:{DATA / 'gold.py'}:score", rows):
        if row["margin"] < 0:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        if row.pop("margin"):
            labelled.append(row)
    random.Random(seed).shuffle(labelled)
    return labelled


def margins(work: Path, reward: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with its score of chosen less that of rejected."""
    file = written(work / "scored.jsonl", rows)
    found, _ = score(ScoreConfig(data=[str(file)], reward=[f"r={reward}"], runs=str(work / "runs")))
    return [row | {"margin": one["scores"]["r"]["chosen"] - one["scores"]["r"]["rejected"]}
            for row, one in zip(rows, found, strict=True)]  # fmt: skip


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def trained(work: Path, start: str, name: str, rows: list[dict[str, Any]], seed: int) -> tuple[str, float]:
    """(reference, accuracy on the held-out pairs) of a reward model on these rows."""
    artifact = train(RewardConfig(
        model=start, data=[str(written(work / f"{name}.jsonl", rows))], eval_data=str(DATA / "held_out_pairs.jsonl"),
        batch_size=32, epochs=2, seed=seed, name=name, runs=str(work / "runs"),
    ))  # fmt: skip
    return artifact.ref, float(artifact.manifest.metrics["accuracy"])


def sources(work: Path, start: str, kind: str, name: str, rows: list[dict[str, Any]], seed: int) -> list[str]:
    """The rewards, trained on these rows, that say which pairs come next."""
    if kind == "policy":
        return [train(DPOConfig(model=start, data=[str(work / f"{name}.jsonl")], batch_size=32, seed=seed,
                                name=f"{name}-dpo", runs=str(work / "runs"))).ref]  # fmt: skip
    first = f"{name}@v1"
    return [first] if kind == "one" else [first, trained(work, start, f"{name}-b", rows, seed + 1000)[0]]


def unsure(work: Path, rewards: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the order in which `ui --order uncertain` asks them."""
    out = work / "asked.jsonl"
    Path(f"{out}.scores").unlink(missing_ok=True)
    config = UIConfig(label=[str(written(work / "rest.jsonl", rows))], out=str(out), order="uncertain", reward=rewards,
                      runs=str(work / "runs"))  # fmt: skip
    todo = questions(config, SILENT)
    asked = by_uncertainty(todo, scores(config, todo, SILENT), "pairs")
    place = {question.digest: place for place, question in enumerate(asked)}

    def at(row: dict[str, Any]) -> int:
        return place[digest_of(row["prompt"], *(row[side][0]["content"] for side in ("chosen", "rejected")))]

    return sorted(rows, key=at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("uncertain-runs"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--by", action="append", choices=("one", "two", "policy"))
    args = parser.parse_args()
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    start = train(SFTConfig(model="tiny", data=[str(DATA / "demos.jsonl")], runs=str(work / "runs"))).ref
    found: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        rows = pool(work, seed)
        for size in (RANDOM, RANDOM // 2):
            _, accuracy = trained(work, start, f"random-{seed}-{size}", rows[:size], seed)
            found.setdefault(f"{size} at random", []).append(accuracy)
        for kind in args.by or ["one"]:
            labelled, rest = rows[:ROUND], rows[ROUND:]
            for labels in range(ROUND, RANDOM // 2 + 1, ROUND):
                name = f"{kind}-{seed}-{labels}"
                _, accuracy = trained(work, start, name, labelled, seed)
                found.setdefault(f"{labels}, by {kind}", []).append(accuracy)
                if labels < RANDOM // 2:
                    rest = unsure(work, sources(work, start, kind, name, labelled, seed), rest)
                    labelled, rest = labelled + rest[:ROUND], rest[ROUND:]
    print("| labels | accuracy, mean [95 %] | each seed |\n|---|---|---|")
    for name, values in found.items():
        low, high = mean_interval(values) or (values[0], values[0])
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {name} | {sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}] | {each} |")


if __name__ == "__main__":
    main()

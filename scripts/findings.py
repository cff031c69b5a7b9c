"""Make docs/dpo-vs-rlhf.md's figures: both routes on the sample world, five seeds, and every criterion measured.

    python scripts/findings.py [--runs findings-runs] [--seeds 5] [--write]
    python scripts/findings.py --real

About an hour on two idle cores. Every run is an ordinary artifact, so a stopped script goes on where it was. With
--write the tables between the page's markers are replaced; the words around them are written by hand. --real trains
nothing: it fills the last column of the first table, from what experiments/sentiment.py measured on a real model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.routes import read_routes
from prefcli.comparison.run import compare
from prefcli.comparison.scores import Scores, open_scores
from prefcli.config.compare import CompareConfig
from prefcli.experiments.siblings import rows_of, siblings, varied
from prefcli.progress import Reporter
from prefcli.statistics.intervals import mean_interval

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dpo-vs-rlhf.md"
REAL = ROOT / "experiments" / "results" / "sentiment.json"
ELSEWHERE = {  # measure → what other pages have of SmolLM2-135M, with their commands; used where REAL has nothing
    "stages": "2, 1",
    "models at once": "4, 2",
    "artifacts": "2, 1",
    "measured peak": "8.9, 8.5 GB; adapters: 4.0, 3.2 GB ([all weights](tiny.md#a-real-model), "
    "[adapters](ppo.md#four-roles-one-model-in-memory))",
    "seconds of training": "116, 50 a step of 4 rows ([all weights](tiny.md#a-real-model))",
    "to be chosen": "15, 3",
}
DATA = ROOT / "sample_data"
GOLD = f"gold=python:{DATA / 'gold.py'}:score"
PAIRS = ("1600", "500", "150")
RM = ["--batch-size", "32", "--epochs", "2"]
PPO = ["--max-steps", "18", "--ppo-epochs", "2", "--temperature", "1", "--kl-coef", "0.2", "--max-new-tokens", "32"]
DPO = ["--beta", "0.1", "--batch-size", "32"]
GRIDS = {
    "ppo": ("kl_coef=0.07,0.2,0.6", "lr=3e-5,1e-4,3e-4", "ppo_epochs=1,2,6"),
    "dpo": ("beta=0.03,0.1,0.3", "lr=3e-5,1e-4,3e-4", "epochs=0.33,1,3"),
}
DIALS = {"noise": (0.0, 0.1, 0.2, 0.4), "quirk": (0.0, 0.12, 0.3)}
FEWER = 3  # seeds on fewer pairs


def prefcli(*words: Any) -> str:
    """The command's stdout; its progress goes to ours."""
    command = [sys.executable, "-m", "prefcli", *map(str, words)]
    print("$ prefcli", *map(str, words), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def routes(seeds: int) -> None:
    """Everything that `compare` looks at."""
    prefcli("sft", "-q", "--model", "tiny", "--data", DATA / "demos.jsonl")
    prefcli("train-rm", "-q", "--model", "sft@v1", "--data", DATA / "pairs.jsonl", *RM, "--max-rows", PAIRS[0])
    ppo = ["--model", "sft@v1", "--reward", "rm=rm@v1", "--data", DATA / "prompts.jsonl", *PPO]
    dpo = ["--model", "sft@v1", "--data", DATA / "pairs.jsonl", *DPO]
    for rows, repeated in ((PAIRS[0], seeds), (",".join(PAIRS[1:]), min(seeds, FEWER))):
        prefcli("sweep", "ppo", "-q", *ppo, "--rows", rows, "--seeds", repeated)
        prefcli("sweep", "dpo", "-q", *dpo, "--rows", rows, "--seeds", repeated)
    for grid in GRIDS["ppo"]:
        prefcli("sweep", "ppo", "-q", *ppo, "--grid", grid, "--rows", PAIRS[0])
    for grid in GRIDS["dpo"]:
        prefcli("sweep", "dpo", "-q", *dpo, "--grid", grid, "--rows", PAIRS[0])


def changed_preference(ppo: str, dpo: str) -> None:
    """The same routes for new pairs: the reward model trained on, and ppo again; dpo trained on."""
    new = DATA / "pairs_honest.jsonl"
    prefcli("train-rm", "-q", "--model", "rm@v1", "--data", new, *RM, "--name", "rm-honest")
    prefcli("ppo", "-q", "--model", "sft@v1", "--reward", "rm=rm-honest", "--prompts", DATA / "prompts.jsonl", *PPO,
            "--name", "ppo-honest")  # fmt: skip
    prefcli("dpo", "-q", "--model", dpo, "--data", new, *DPO, "--name", "dpo-honest")


def policy(store: Store, stage: str, seed: int = 0, **wanted: Any) -> Artifact:
    """The oldest run of the stage on all pairs with the options above, but for those named."""
    for version in store.versions(stage):
        artifact = store.open(stage, version)
        config = artifact.manifest.config
        if rows_of(artifact, store) == int(PAIRS[0]) and all(
            config.get(name) == value for name, value in ({"seed": seed} | wanted).items()
        ):
            return artifact
    raise SystemExit(f"no {stage} run with {wanted}")


def dials(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Both routes on worlds with other noise and another quirk, one seed each: gold at the end."""
    found: dict[str, list[dict[str, Any]]] = {}
    for dial, values in DIALS.items():
        for value in values:
            world = runs / f"{dial}-{value}"
            name = f"{dial}-{value}".replace(".", "_")
            if not world.is_dir():
                generate = [sys.executable, str(DATA / "generate.py"), f"--{dial}", str(value), "--out", str(world)]
                subprocess.run(generate, check=True)
            pairs = world / "pairs.jsonl"
            rm = prefcli("train-rm", "-q", "--model", "sft@v1", "--data", pairs, *RM, "--name", f"rm-{name}")
            ppo = prefcli("ppo", "-q", "--model", "sft@v1", "--reward", f"rm={rm}", "--prompts", DATA / "prompts.jsonl",
                          *PPO, "--name", f"ppo-{name}")  # fmt: skip
            dpo = prefcli("dpo", "-q", "--model", "sft@v1", "--data", pairs, *DPO, "--name", f"dpo-{name}")
            told = json.loads(prefcli("eval", "-q", "--json", "--model", ppo, "--model", dpo, "--against", "sft@v1",
                                      "--prompts", DATA / "held_out_prompts.jsonl", "--reward", GOLD,
                                      "--reward", f"rm={rm}", "--pairs", DATA / "held_out_pairs.jsonl"))  # fmt: skip
            found.setdefault(dial, []).append({"value": value, "eval": told})
    return found


def criteria_table(result: dict[str, Any], refs: tuple[str, str]) -> str:
    lines = ["| criterion | claimed | measure | RLHF | DPO | ahead |", "|---|---|---|---|---|---|"]
    kinds = {route["ref"]: route["route"] for route in result["routes"]}
    for criterion in result["criteria"]:
        for number, measure in enumerate(criterion["measures"]):
            cells = [shown(measure["figures"][ref], measure["unit"]) for ref in refs]
            row = (criterion["criterion"], criterion["claimed"]) if number == 0 else ("", "")
            verdict = criterion["verdict"] if number == 0 else ""
            for ref, kind in kinds.items():
                verdict = verdict.replace(ref, kind)
            told = f"**{verdict}**" if verdict else ""
            lines.append(f"| {row[0]} | {row[1]} | {measure['measure']} | {cells[0]} | {cells[1]} | {told} |")
    return "\n".join(lines)


def with_real(table: str) -> str:
    """The table of criteria with its last column: the same measures on a real model, RLHF's figure before DPO's."""
    result = json.loads(REAL.read_text(encoding="utf-8")) if REAL.is_file() else {}
    real = {one["criterion"]: one for one in result.get("criteria", [])}
    lines, criterion = [], ""
    for number, line in enumerate(table.strip().splitlines()):
        cells = line.split("|")[1:7]  # those of the sample world
        name, measure = cells[0].strip(), cells[2].strip()
        criterion = name or criterion
        measures = {one["measure"]: one for one in real.get(criterion, {}).get("measures", [])}
        if number < 2:
            last = (" on a real model: RLHF, DPO ", "---")[number]
        elif measure in measures and any(measures[measure]["figures"].values()):
            one = measures[measure]
            told = ", ".join(shown(one["figures"][route], one["unit"]) for route in ("RLHF", "DPO"))
            verdict = real[criterion]["verdict"] if name else ""
            last = f" {told}: **{verdict}** " if verdict else f" {told} "
        else:
            last = f" {ELSEWHERE.get(measure, 'not measured')} "
        lines.append("|" + "|".join([*cells, last]) + "|")
    return "\n".join(lines)


def shown(figure: dict[str, Any] | None, unit: str) -> str:
    if figure is None:
        return "–"
    value, interval = figure["value"], figure["ci95"]
    if unit == "bytes":
        return f"{value / 1e6:,.0f} MB"
    digits = 1 if unit == "seconds" else 2
    if interval is None:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.{digits}f}"
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def dial_table(dial: str, entries: list[dict[str, Any]]) -> str:
    lines = [f"| `--{dial}` | reward model's accuracy | gold, RLHF | gold, DPO | reward model's rise, RLHF | DPO |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for entry in entries:
        sft, ppo, dpo = entry["eval"]["models"]
        accuracy = next(m for m in entry["eval"]["reward_models"] if m["name"] == "rm")
        cells = [
            shown({"value": m["reward"]["gold"]["mean"], "ci95": m["reward"]["gold"]["ci95"]}, "") for m in (ppo, dpo)
        ]
        rises = [f"{m['reward']['rm']['mean'] - sft['reward']['rm']['mean']:+.2f}" for m in (ppo, dpo)]
        lines.append(f"| {entry['value']:g} | {accuracy['accuracy']:.2f} | {' | '.join(cells)} | {' | '.join(rises)} |")
    return "\n".join(lines)


def seeds_table(store: Store, scores: Scores, refs: dict[str, Artifact]) -> str:
    lines = ["| | gold over seeds, mean [95 %] | lowest | highest |", "|---|---|---|---|"]
    for kind, artifact in refs.items():
        means = [scores.mean(run) for run in siblings(artifact, store, over="seed")]
        low, high = mean_interval(means) or (means[0], means[0])
        mean = sum(means) / len(means)
        lines.append(
            f"| {kind}, {len(means)} seeds | {mean:.3f} [{low:.3f}, {high:.3f}] | {min(means):.3f} | {max(means):.3f} |"
        )
    return "\n".join(lines)


def rows_table(store: Store, scores: Scores, refs: dict[str, Artifact]) -> str:
    lines = ["| pairs | gold, RLHF | gold, DPO |", "|---|---|---|"]
    for rows in sorted(map(int, PAIRS)):
        cells = []
        for artifact in refs.values():
            runs = [run for run in siblings(artifact, store, over="rows") if rows_of(run, store) == rows]
            means = [scores.mean(run) for run in runs]
            low, high = mean_interval(means) or (means[0], means[0])
            cells.append(f"{sum(means) / len(means):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {rows:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def grid_table(store: Store, scores: Scores, refs: dict[str, Artifact]) -> str:
    lines = ["| | option | gold at each value |", "|---|---|---|"]
    for kind, artifact in refs.items():
        for name, runs in varied(artifact, store).items():
            own = artifact.manifest.config.get(name)
            points = sorted(
                [(own, artifact), *((run.manifest.config.get(name), run) for run in runs)], key=lambda p: p[0]
            )
            told = ", ".join(f"{value:g}: {scores.mean(run):.2f}" for value, run in points)
            lines.append(f"| {kind} | `--{name.replace('_', '-')}` | {told} |")
    return "\n".join(lines)


def write(tables: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, t=table: m[1] + t + "\n" + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
        assert count == 1, f"{PAGE} has no block {name}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("findings-runs"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--real", action="store_true", help="only the column of a real model")
    args = parser.parse_args()
    if args.real:
        block = re.search(r"<!-- criteria -->\n(.*?)<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert block is not None
        write({"criteria": with_real(block[1])})
        return
    os.environ["PREFCLI_RUNS"] = str(args.runs)
    routes(args.seeds)
    store = Store(args.runs)
    refs = {"RLHF": policy(store, "ppo"), "DPO": policy(store, "dpo")}
    worlds = dials(args.runs)
    changed_preference(refs["RLHF"].ref, refs["DPO"].ref)  # last: compare takes the newest change of pairs
    config = CompareConfig(
        refs=[refs["RLHF"].ref, refs["DPO"].ref],
        prompts=[str(DATA / "held_out_prompts.jsonl")],
        reward=[GOLD, f"honest=python:{DATA / 'gold.py'}:honest"],
    )
    result = compare(config, Reporter())
    found = read_routes(config.refs, store)
    own = list({reward.ref: reward for route in found for reward in route.rewards}.values())
    scores = open_scores(config, store, found.start, own, Reporter())
    assert scores is not None
    tables = {
        "criteria": with_real(criteria_table(result, (refs["RLHF"].ref, refs["DPO"].ref))),
        "seeds": seeds_table(store, scores, refs),
        "pairs": rows_table(store, scores, refs),
        "grids": grid_table(store, scores, refs),
        **{dial: dial_table(dial, entries) for dial, entries in worlds.items()},
    }
    for name, table in tables.items():
        print(f"\n## {name}\n{table}")
    print("\n" + "\n".join(f"{c['criterion']}: {c['why']}" for c in result["criteria"] if c["why"]))
    if args.write:
        write(tables)


if __name__ == "__main__":
    main()

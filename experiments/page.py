"""docs/evidence.md, made from the results that are committed.

python -m experiments.page [--write]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "evidence.md"
ORDER = {
    "sentiment": "does DPO's frontier lie above that of RL, in controlled sentiment on SmolLM2-135M (arXiv 2305.18290)",
    "halves": "does gold turn as RL continues against a proxy, on pairs of people, halved (arXiv 2210.10760)",
    "humps": "does gold rise and fall as DPO and IPO train longer, on the same (arXiv 2406.02900)",
    "forgets_beta": "do certain preferences make DPO forget β, and not IPO (arXiv 2310.12036)",
}
NEEDS = {"halves": " --pairs hh-harmless-pairs.jsonl.gz"}  # what is not in the repository
HEAD = """# Evidence

What published claims come to where others can make them again. Each question and the rule for its answer stood in the
script before anything was run; this page is made from `experiments/results/` by `python -m experiments.page --write`.
"""


def page(folder: Path = RESULTS) -> str:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    names = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    missing = [
        f"- {said}: `python -m experiments.{name}{NEEDS.get(name, '')}`"
        for name, said in ORDER.items()
        if name not in found
    ]
    told = ["## Not run yet", "", *missing, ""] if missing else []
    return "\n".join([HEAD, *(_experiment(name, found[name], folder) for name in names), *told])


def _experiment(name: str, result: dict[str, Any], folder: Path) -> str:
    lines = [f"## {name.replace('_', ' ')}", "", "| question | answer | |", "|---|---|---|"]
    lines += [f"| {one['asks']} | **{one['answer']}** | {one['why']} |" for one in result["questions"]]
    rules = list(dict.fromkeys(one["rule"] for one in result["questions"]))
    for place, rule in enumerate(rules, 1):
        lines += ["", f"*Rule{f' of the question in row {place}' if len(rules) > 1 else ''}.* {rule}"]
    lines += [""]
    lines += [result["note"], ""] if "note" in result else []
    if (folder / f"{name}.svg").is_file():
        lines += [f"![{name.replace('_', ' ')}](../experiments/results/{name}.svg)", ""]
    if "frontier" in result:
        lines += [*_hulls(result["frontier"]), ""]
    lines += [*(table for name, of in TABLES.items() if result.get(name) for table in (*of(result[name]), ""))]
    machine = result["machine"]
    versions = ", ".join(f"{what} {version}" for what, version in result["versions"].items())
    took = _time(result["seconds"])
    if "processor_seconds" in result:
        took += f" by the clock, {_time(result['processor_seconds'])} of one core"
    seeds = result.get("seeds")
    if isinstance(seeds, dict):
        seeds = ", ".join(f"{method} {count}" for method, count in seeds.items())
    more = NEEDS.get(name, "") + ("" if result["size"] == "full" else f" --size {result['size']}")
    lines += [f"`python -m experiments.{name}{more}`, at {result['commit']}, {versions}, {machine['processor']}, "
              f"{machine['cores']} cores{f'; seeds: {seeds}' if seeds else ''}; {took}.", ""]  # fmt: skip
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"


def _accuracies(models: list[dict[str, Any]]) -> list[str]:
    lines = ["| reward | accuracy on held-out pairs | the longer answer scores higher |", "|---|---|---|"]
    for one in models:
        low, high = one["accuracy_ci95"]
        lines.append(f"| {one['name']} | {one['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {one['pairs']} | "
                     f"{one['longer']['preferred']:.2f} |")  # fmt: skip
    return lines


def _models(models: list[dict[str, Any]]) -> list[str]:
    names = list(models[0]["reward"])
    lines = [f"| model | KL | {' | '.join(names)} | wins by {names[0]} | at equal length | tokens | distinct-2 |",
             "|---" * (len(names) + 6) + "|"]  # fmt: skip
    for one in models:
        scores = " | ".join(f"{one['reward'][name]['mean']:.2f}" for name in names)
        wins = ["–" if one[name] is None else f"{one[name]:.2f}" for name in ("win_rate", "win_rate_lc")]
        lines.append(f"| {Path(one['ref']).name} | {one['kl'] or 0:.2f} | {scores} | {' | '.join(wins)} | "
                     f"{one['length']:.1f} | {one['distinct_2']:.2f} |")  # fmt: skip
    return lines


def _best_of(points: list[dict[str, Any]]) -> list[str]:
    lines = ["| best of | KL ≤ | proxy | gold |", "|---|---|---|---|"]
    for one in points:
        if one["n"] & (one["n"] - 1) == 0:
            lines.append(f"| {one['n']} | {one['kl']:.2f} | {one['proxy']:.2f} | {one['gold']:.2f} |")
    return lines


TABLES = {"reward_models": _accuracies, "models": _models, "best_of_n": _best_of}


def _hulls(frontier: dict[str, Any]) -> list[str]:
    """The best reward for a KL, at six places of the common range."""
    hulls = frontier["hulls"]
    count = len(hulls[0]["kl"])
    lines = [f"| KL ≤ | {' | '.join(one['method'] for one in hulls)} |", "|---" * (len(hulls) + 1) + "|"]
    for place in sorted({round((number + 1) * count / 6) - 1 for number in range(6)}):
        cells = [f"{one['reward'][place]:.2f} [{one['low'][place]:.2f}, {one['high'][place]:.2f}]" for one in hulls]
        lines.append(f"| {hulls[0]['kl'][place]:.2f} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())

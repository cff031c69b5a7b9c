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
    "humps": "does gold rise and fall as DPO and IPO go on training, on the same (arXiv 2406.02900)",
    "forgets_beta": "do certain preferences make DPO forget β, and not IPO (arXiv 2310.12036)",
}
HEAD = """# Evidence

What published claims come to where others can make them again. Each question and the rule for its answer stood in the
script before anything was run; this page is made from `experiments/results/` by `python -m experiments.page --write`.
"""


def page(folder: Path = RESULTS) -> str:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    names = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    missing = [f"- {said}: `python -m experiments.{name}`" for name, said in ORDER.items() if name not in found]
    told = ["## not run yet", "", *missing, ""] if missing else []
    return "\n".join([HEAD, *(_experiment(name, found[name], folder) for name in names), *told])


def _experiment(name: str, result: dict[str, Any], folder: Path) -> str:
    lines = [f"## {name.replace('_', ' ')}", "", "| question | answer | |", "|---|---|---|"]
    lines += [f"| {one['asks']} | **{one['answer']}** | {one['why']} |" for one in result["questions"]]
    lines += ["", *(f"*Rule.* {rule}" for rule in dict.fromkeys(one["rule"] for one in result["questions"])), ""]
    lines += [result["note"], ""] if "note" in result else []
    if (folder / f"{name}.svg").is_file():
        lines += [f"![{name.replace('_', ' ')}](../experiments/results/{name}.svg)", ""]
    if "frontier" in result:
        lines += [*_hulls(result["frontier"]), ""]
    machine, seconds = result["machine"], result["seconds"]
    versions = ", ".join(f"{what} {version}" for what, version in result["versions"].items())
    took = f"; {seconds / 3600:.1f} h" if seconds >= 3600 else f"; {seconds:.0f} s"
    seeds = f"; {result['seeds']} seeds" if "seeds" in result else ""
    lines += [f"`python -m experiments.{name}`, at {result['commit']}, {versions}, {machine['processor']}, "
              f"{machine['cores']} cores{seeds}{took}.", ""]  # fmt: skip
    return "\n".join(lines)


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

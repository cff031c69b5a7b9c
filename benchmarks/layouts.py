"""Peak memory of PPO's layouts, and of DPO beside them, on SmolLM2-135M in float32.

    python -m benchmarks layouts --pairs hh.jsonl [--work bench-runs]

Each row is a run of two rollouts (steps) through the command line in a process of its own: 8 answers of at most 32
tokens, or 8 pairs, prompts of at most 128 tokens. Rows with --gradient-checkpointing are compared with such. The peak
is what its manifest says: the most that was resident while it trained. The first row is a process that has only
imported what training needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import write
from benchmarks.trl import models, rows

FEW = ["--max-steps", "2", "--batch-size", "8", "--force"]
IMPORTS = "import prefcli.stages.ppo, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, help="dialogues in HH-RLHF's format")
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    model, scorer = models(args.work, tiny=False)
    rows(args.pairs, model, args.work, 64, 128)
    pairs, runs = str(args.work / "pairs/train.jsonl"), str(args.work / "runs")
    lora = ["--lora-rank", "16"]
    common = ["--model", str(model), "--runs", runs, *FEW]
    run("train-rm", "--data", pairs, "--name", "lora-rm", *lora, *common)
    ppo = ["ppo", "--prompts", pairs, "--max-new-tokens", "32", "--ppo-epochs", "1", *common]
    full_rm, lora_rm = ["--reward", f"rm={scorer}"], ["--reward", "rm=lora-rm"]
    frugal = ["--gradient-checkpointing"]
    cases = {
        "ppo, all weights, separate": [*ppo, *full_rm],
        "ppo, LoRA, separate": [*ppo, *lora_rm, *lora, "--layout", "separate"],
        "ppo, LoRA, shared": [*ppo, *lora_rm, *lora, "--layout", "shared"],
        "ppo, LoRA, shared, another base's reward": [*ppo, *full_rm, *lora, "--layout", "shared"],
        "rloo, LoRA, shared": [*ppo, *lora_rm, *lora, "--advantage", "rloo", "--layout", "shared"],
        "dpo, all weights": ["dpo", "--data", pairs, *common],
        "dpo, LoRA": ["dpo", "--data", pairs, *common, *lora],
        "ppo, all weights, separate, checkpointing": [*ppo, *full_rm, *frugal],
        "ppo, LoRA, shared, checkpointing": [*ppo, *lora_rm, *lora, "--layout", "shared", *frugal],
        "dpo, LoRA, checkpointing": ["dpo", "--data", pairs, *common, *lora, *frugal],
    }
    imports = subprocess.run([sys.executable, "-c", IMPORTS], check=True, text=True, capture_output=True)
    found: dict[str, Any] = {"imports alone": {"bytes": int(imports.stdout)}}
    for name, command in cases.items():
        resources = json.loads((run(*command) / "manifest.json").read_text())["resources"]
        found[name] = {"bytes": resources["measured_peak_bytes"], "seconds": resources["train_seconds"]}
    print(f"{'':<42}{'peak MB':>8}{'of full PPO':>13}{'of DPO-LoRA':>13}{'seconds':>9}")
    for name, figures in found.items():
        like = ", checkpointing" if name.endswith("checkpointing") else ""  # against the same settings
        whole, route = (found[base + like]["bytes"] for base in ("ppo, all weights, separate", "dpo, LoRA"))
        peak, seconds = figures["bytes"], figures.get("seconds", 0.0)
        print(f"{name:<42}{peak / 1e6:>8,.0f}{peak / whole:>12.2f}×{peak / route:>12.2f}×{seconds:>9.0f}")
    write("layouts", found)


def run(*command: str) -> Path:
    """One command in a process of its own; the artifact's path."""
    print("prefcli " + " ".join(command), file=sys.stderr)
    out = subprocess.run(
        [sys.executable, "-m", "prefcli", *command, "-q"], stdout=subprocess.PIPE, check=True, text=True
    )
    return Path(out.stdout.strip())


if __name__ == "__main__":
    main()

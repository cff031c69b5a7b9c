"""Speed on split weights: two gloo processes with a copy of the model each against two that split it, in turn.

python -m benchmarks shard [--stage sft --stage dpo --stage ppo] [--rounds 3] [--steps 8] [--batch-size 32]

A model of 20M parameters on the rows of sample_data, one thread in each process. Both sides make the same steps of the
same rows, so the ratio of their seconds is that of their seconds a token; the first step is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.machine import write
from prefcli.artifacts.references import TINY

SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"
STAGES = {
    "sft": f"--data {SAMPLE_DATA}/demos.jsonl",
    "dpo": f"--data {SAMPLE_DATA}/pairs.jsonl",
    "ppo": f"--prompts {SAMPLE_DATA}/prompts.jsonl --reward python:{SAMPLE_DATA}/gold.py:score --max-new-tokens 32",
}
STEP = ("time/step", "time/generate", "time/score", "time/train")  # the first, or ppo's three parts
SIDES: dict[str, list[str]] = {"whole": [], "split": ["--shard"]}


def model(folder: Path) -> None:
    config = AutoConfig.from_pretrained(TINY)
    config.update({"hidden_size": 512, "intermediate_size": 1364, "num_hidden_layers": 6, "head_dim": 64,
                   "num_attention_heads": 8, "num_key_value_heads": 8})  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)


def run(stage: str, side: str, args: argparse.Namespace, work: Path) -> dict[str, float]:
    """Seconds of a step, and of them those of gathering."""
    words = [*STAGES[stage].split(), "--model", str(work / "model"), "--runs", str(work), "--name", f"{stage}-{side}",
             "--max-steps", str(args.steps), "--batch-size", str(args.batch_size), "--force", "--quiet", "--json",
             "--dtype", "float32", *SIDES[side]]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*launcher, "-m", "prefcli", stage, *words], env=env, stdout=subprocess.PIPE, check=True)
    version = Path(json.loads(done.stdout)["path"])
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()][1:]
    step = [sum(row.get(name, 0.0) for name in STEP) for row in rows]
    return {"step": sum(step) / len(step), "gather": sum(row.get("time/gather", 0.0) for row in rows) / len(step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=STAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model(Path(folder) / "model")
        for stage in args.stage or STAGES:
            each: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(args.rounds):
                for side in SIDES:
                    each[side].append(run(stage, side, args, Path(folder)))
            whole, split = (median(one["step"] for one in each[side]) for side in SIDES)
            share = median(one["gather"] / one["step"] for one in each["split"])
            found[stage] = {"seconds": each, "ratio": whole / split, "gather": share}
            print(f"{stage}: {whole:.2f} s a step, split {split:.2f} s, {whole / split:.2f} of the speed; "
                  f"{share:.0%} of it gathers", flush=True)  # fmt: skip
    write("shard", {"steps": args.steps, "batch_size": args.batch_size, "stages": found})


if __name__ == "__main__":
    main()

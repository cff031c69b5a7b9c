"""Every stage on a GPU against the same stage on the CPU: the figures of its first and its last step, and its speed.

    python -m benchmarks gpu

Six steps of `tiny` on the sample data (two rollouts of ppo): on the CPU, on the GPU in float32 and in bfloat16, which
is what --dtype auto takes there; then with adapters on a base in 4 bits, against the base as it is. All on the same
parents, those that the CPU made.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from benchmarks.machine import write
from prefcli.cli.main import app

SAMPLES = Path(__file__).parent.parent / "sample_data"
WAYS = {
    "cpu": ["--device", "cpu"],
    "gpu, float32": ["--device", "cuda", "--dtype", "float32"],
    "gpu, bfloat16": ["--device", "cuda"],
    "gpu, LoRA": ["--device", "cuda", "--lora-rank", "8"],
    "gpu, QLoRA": ["--device", "cuda", "--lora-rank", "8", "--load-in-4bit"],
}
SHOWN = {
    "sft": ("loss",),
    "train-rm": ("loss",),
    "dpo": ("loss", "rewards/margins", "logps/chosen"),
    "kto": ("loss", "logps/chosen"),
    "ppo": ("objective/scores", "objective/kl", "val/ratio"),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for way, options in WAYS.items():
            parents = {"sft": "sft@v1", "rm": "train-rm@v1"} if found else {}
            for stage in SHOWN:
                figures = run(stage, folder, options, parents)
                parents.setdefault(stage.removeprefix("train-"), f"{stage}@v1")
                found[f"{stage}, {way}"] = figures
                steps = "   ".join(
                    f"{name} {first:.6g} … {last:.6g}" for name, (first, last) in figures["steps"].items()
                )
                print(
                    f"{stage + ', ' + way:<26}{figures['seconds']:>6.1f} s{figures['bytes'] / 1e6:>8.0f} MB   {steps}"
                )
    write("gpu", {"gpu": torch.cuda.get_device_name(), **found})


def run(stage: str, runs: str, options: list[str], parents: dict[str, str]) -> dict[str, Any]:
    """One stage; its seconds and peak bytes, and (first, last) of its figures."""
    data = {"sft": "demos", "kto": "binary", "ppo": "prompts"}.get(stage, "pairs")
    words = [stage, "--prompts" if stage == "ppo" else "--data", SAMPLES / f"{data}.jsonl", "--name", stage]
    words += ["--model", "tiny" if stage == "sft" else parents["sft"], "--max-steps", "2" if stage == "ppo" else "6"]
    if stage == "ppo":
        words += ["--reward", f"rm={parents['rm']}", "--max-new-tokens", "24"]
    done = CliRunner().invoke(app, [*map(str, words), *options, "--runs", runs, "--force", "--quiet"])
    if done.exit_code:
        raise SystemExit(f"prefcli {stage} {' '.join(options)}: exit {done.exit_code}\n{done.stderr}")
    path = Path(done.stdout.strip().splitlines()[-1])
    resources = json.loads((path / "manifest.json").read_text())["resources"]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    columns = {name: [row[name] for row in rows if name in row] for name in SHOWN[stage]}
    return {
        "seconds": resources["train_seconds"],
        "bytes": resources["measured_peak_bytes"],
        "steps": {name: (values[0], values[-1]) for name, values in columns.items()},
    }


if __name__ == "__main__":
    main()

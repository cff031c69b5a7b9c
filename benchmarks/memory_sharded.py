"""Peaks of stages whose models are split over processes (--shard), on a CPU, by phase: measured against mem-estimate.

    python -m benchmarks memory_sharded --out FILE.json [--only TEXT]

Two and four processes of torchrun train two steps (rollouts) each. The bytes of all tensors that are alive are counted
in each process, as `benchmarks memory` does; the peak is that of the process with the most. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.memory import Bench, machine
from benchmarks.memory_cases import SHARDED, Case
from benchmarks.memory_meter import LiveBytes, Phases
from prefcli import files
from prefcli.models.quiet import quieten
from prefcli.stages import session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--work", type=Path, help="of the processes that this starts itself")
    args = parser.parse_args()
    if args.work is not None:
        train(args.work)
        return
    found: dict[str, Any] = {"machine": machine("cpu"), "cases": []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), "cpu")
        for case in SHARDED:
            if args.only not in case.name:
                continue
            runs = Path(folder) / "runs"
            shutil.rmtree(runs, ignore_errors=True)
            runs.mkdir()
            options = bench.options(case, bench.model(case.model), runs) | {"shard": True}
            options.setdefault("dtype", "float32")
            (runs / "case.json").write_text(json.dumps({"case": asdict(case), "options": options}))
            words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.shards}"]
            words += ["-m", "benchmarks.memory_sharded", "--work", folder, "--out", "-"]
            done = subprocess.run([sys.executable, *words], env=os.environ | {"ACCELERATE_USE_CPU": "true"})
            if done.returncode:
                print(f"{case.name}: ended with {done.returncode}", flush=True)
                continue
            peaks = [json.loads(file.read_text()) for file in sorted(runs.glob("peak-*.json"))]
            row = max(peaks, key=lambda one: one["peak"])
            found["cases"].append(
                {"case": asdict(case), "device": "cpu", "held_out": False, **row, "each": [p["peak"] for p in peaks]}
            )
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{case.name}: {row['peak'] / 1e6:,.0f} MB in {row['phase']}", flush=True)


def train(work: Path) -> None:
    """What each process does."""
    quieten(False)
    files.digest_file = lambda path: f"{path} {path.stat().st_size}"
    about = json.loads((work / "runs" / "case.json").read_text())
    if about["case"]["lockstep"]:  # there is no room for anything
        session.bytes_of = lambda device: 1
        about["options"]["force_memory"] = True
    phases = Phases(LiveBytes())
    try:
        caught = Bench(work, "cpu").run(Case(**about["case"]), about["options"], phases)
    finally:
        phases.unwrap()
    row = {"peak": phases.peak, "phase": max(phases.peaks, key=phases.peaks.__getitem__), "phases": phases.peaks,
           "live_before": phases.before, "reserved": 0, "step_seconds": caught["step_seconds"]}  # fmt: skip
    (work / "runs" / f"peak-{os.environ['RANK']}.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main()

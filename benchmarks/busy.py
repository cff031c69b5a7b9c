"""What other busy processes cost a run: steps of `dpo` beside them, with OpenMP's waiting as it comes and as set.

python -m benchmarks busy [--loops 2] [--steps 30] [--rounds 3] [--work bench-runs]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import write

PAIRS = Path(__file__).parent.parent / "sample_data" / "pairs.jsonl"
# libgomp's own number of spins, and what the command sets.
WAITING: dict[str, dict[str, str]] = {"as it comes": {"GOMP_SPINCOUNT": "300000"}, "as set": {}}


@contextlib.contextmanager
def loops(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds(setting: dict[str, str], steps: int, work: Path) -> float:
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = f"dpo --model tiny --data {PAIRS} --max-steps {steps} --name busy --force --quiet --json"
    done = subprocess.run(
        [sys.executable, "-m", "prefcli", *command.split(), "--runs", str(work)],
        env={**env, **setting}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["resources"]["train_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for count in (0, args.loops):
        with loops(count):
            for _ in range(args.rounds):
                for name, setting in WAITING.items():
                    here = found.setdefault(f"{count} loops", {}).setdefault(name, [])
                    here.append(seconds(setting, args.steps, args.work))
    for beside, sides in found.items():
        for name, times in sides.items():
            print(f"{beside:<8} {name:<12} {statistics.median(times):6.1f} s  ({', '.join(f'{s:.1f}' for s in times)})")
    write("busy", {"steps": args.steps, "seconds": found})


if __name__ == "__main__":
    main()

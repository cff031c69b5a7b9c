"""Kills `prefcli ppo` (kill -9) at random points, runs the same command again, and compares with a run left alone.

A quarter of the kills falls anywhere in the start-up (imports, loading), the others after the first new rollout: in
training, saving and, where the run is nearly over, finishing. When a run is complete, the next seed begins.
"""

from __future__ import annotations

import argparse
import atexit
import json
import operator
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
ROLLOUTS = 24
OPTIONS = f"""--model tiny --prompts sample_data/prompts.jsonl --reward python:sample_data/gold.py:score --batch-size 8
    --max-new-tokens 8 --ppo-epochs 1 --kl-target 1 --max-steps {ROLLOUTS} --save-every 1 --name run --quiet""".split()
STARTING_SHARE = 0.25  # of the kills
LIVES = 5  # a process that is killed does at most this part of the training


def start(runs: Path, seed: int) -> subprocess.Popen[str]:
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefcli", "ppo", *OPTIONS, "--seed", str(seed), "--runs", str(runs)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a process that is left alone; it must end well."""
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"FAILED: prefcli ended by itself, with code {process.returncode}:\n{errors}")


def log(version: Path) -> bytes:
    try:
        return (version / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return b""


def lines(version: Path) -> int:
    return log(version).count(b"\n")


def kept(version: Path) -> int:
    return max((int(path.name[4:]) for path in version.glob("state/step*") if path.name[4:].isdigit()), default=0)


def run_alone(runs: Path, seed: int) -> list[float]:
    """Returns the seconds of each phase."""
    marks, process = [time.monotonic()], start(runs, seed)
    for wanted in (1, ROLLOUTS, ROLLOUTS + 1):
        while process.poll() is None and lines(runs / "run/v1.partial") < wanted:
            time.sleep(0.005)
        marks.append(time.monotonic())
    finish(process)
    return [after - before for before, after in zip(marks, marks[1:])]


def run_and_kill(runs: Path, seed: int, dice: random.Random, phases: list[float]) -> str:
    """Returns where it was killed; "" where it ended before."""
    starting, training, finishing = phases
    early = dice.random() < STARTING_SHARE
    wait = dice.uniform(0, starting if early else training / LIVES + finishing)
    partial, began = runs / "run/v1.partial", time.monotonic()
    before, process = kept(partial), start(runs, seed)
    for still in () if early else (operator.gt, operator.le):  # the log is cut back to the kept state, then it grows
        while process.poll() is None and still(lines(partial), before):
            time.sleep(0.002)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        saving = "saving" if any(partial.glob("state/*.partial")) else "training"
        phase = "starting" if early else saving if 0 < lines(partial) < ROLLOUTS else "finishing"
        state = f"state of step {kept(partial)} of {ROLLOUTS} kept" if partial.exists() else "no unfinished version"
        return f"after {time.monotonic() - began:.2f} s, {phase}; {state}"
    finish(process)
    return ""


def differences(found: Path, expected: Path) -> list[str]:
    """What is not in `found` as it is in `expected`, or should not be there."""
    both = (found, expected)
    files, wanted = ({str(path.relative_to(runs)) for path in runs.rglob("*")} for runs in both)
    wrong = [f"left over: {name}" for name in sorted(files - wanted - {".digests.json"})]  # that is a cache
    wrong += [f"missing: {name}" for name in sorted(wanted - files)]
    for name in sorted(name for name in files & wanted if name.endswith(".safetensors")):
        one, other = ({tensor: array.tobytes() for tensor, array in load_file(runs / name).items()} for runs in both)
        wrong += [f"{name}: {tensor} differs" for tensor in one | other if one.get(tensor) != other.get(tensor)]
    rows, others = map(metrics, both)
    if (steps := [row["step"] for row in rows]) != [row["step"] for row in others]:
        wrong.append(f"metrics.jsonl has the steps {steps}")
    return wrong + [f"metrics.jsonl: the line of step {row['step']} differs" for row in rows if row not in others]


def metrics(runs: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in log(runs / "run/v1").splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often to kill (default 50)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random points, else drawn")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where the runs are made")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="torture-", dir=args.work)).resolve()
    print(f"{args.kills} kills, --seed {args.seed}, in {work}", flush=True)
    dice, kills, seed, wrong = random.Random(args.seed), 0, 0, []
    while kills < args.kills:
        seed += 1
        expected, found = work / f"{seed}-alone", work / f"{seed}-killed"
        phases = run_alone(expected, seed)
        print("run {}: starting {:.1f} s, training {:.1f} s, finishing {:.1f} s".format(seed, *phases), flush=True)
        while kills < args.kills and (where := run_and_kill(found, seed, dice, phases)):
            kills += 1
            print(f"kill {kills} of {args.kills}: run {seed}, {where}", flush=True)
        finish(start(found, seed))
        here = differences(found, expected)
        print(f"run {seed}:", "; ".join(here) or "equal to the one left alone, nothing left over", flush=True)
        wrong += here
    if wrong:
        sys.exit(f"FAILED: {len(wrong)} differences after {kills} kills (--seed {args.seed}); the runs are in {work}")
    print(f"{kills} kills, no difference", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

"""Attacks on runs of all stages: killed with -9, signals, out of disk, eight writers at once. Each must end as one left
alone.

kills    At random points, a quarter of them in the start-up (imports, loading), the others after the first new step: in
         training, saving and, where the run is nearly over, finishing. When a run is complete, the next one begins, of
         the next stage.
signals  SIGINT, SIGTERM and SIGUSR1, a third of them followed by another one, from the start-up to the end: the exit
         code must be the first one's, what the message says is kept must be there, and after one signal no step that
         was logged may be lost.
disk     The runs lie on a small tmpfs (needs root), which is filled at a random moment: the run must end with 7 and a
         hint, and, once there is room again, the same command must end as if nothing had been.
writers  Eight processes write one name at once, two of each key.

With --shard N there are kills alone, of runs whose weights are split over N processes, of one process or all. What is
left is resumed in N processes, which must end as one left alone, and a copy of it in 1 or 2N, within 1e-6 of that.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib
import itertools
import json
import multiprocessing
import operator
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).resolve().parent.parent
STEPS = 24
SPLIT_STEPS = 8  # of runs on split weights, whose processes share the cores
ROWS = {"demos": 88, "pairs": 88, "held_out_pairs": 16, "prompts": 88}  # of the files of sample_data
# Several passes, rows measured in passing, parts of a batch, adapters, both layouts: what a state must hold.
_PPO = f"ppo --prompts prompts.jsonl --reward python:{ROOT}/sample_data/gold.py:score --max-new-tokens 8 --ppo-epochs 1"
STAGES = {
    "sft": "sft --data demos.jsonl",
    "train-rm": "train-rm --data pairs.jsonl --lora-rank 4 --grad-accum 2",
    "dpo": "dpo --data pairs.jsonl --eval-data held_out_pairs.jsonl --eval-every 5",
    "dpo-lora": "dpo --data pairs.jsonl --lora-rank 4 --grad-accum 2",
    "kto": "kto --data pairs.jsonl",
    "orpo": "orpo --data pairs.jsonl --lora-rank 4",
    "ppo": f"{_PPO} --kl-target 1",
    "ppo-lora": f"{_PPO} --lora-rank 4",
    "rloo": f"{_PPO} --advantage rloo",
    "grpo": f"{_PPO} --advantage grpo --lora-rank 4 --layout separate",
}
COMMON = "--model tiny --batch-size 8 --epochs 9 --name run --quiet"
STARTING_SHARE = 0.25  # of the kills
START_UP = 12.0  # seconds in which an interpreter of its own is killed
LIVES = 5  # a process that is killed does at most this part of the training
CODES = {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGUSR1: 75}
DOUBLE_SHARE = 1 / 3  # of the signals
ECHO, SECOND = 0.05, 0.5  # seconds in which a second signal does not count, and in which one comes
WRITERS = 8
DISK = 64 << 20  # bytes of the small disk
FULL = "No space left"
WITHIN = 1e-6  # of every weight, in another number of processes
PATIENCE = 20.0  # seconds in which a process leaves by itself when another one was killed


@dataclass(frozen=True)
class Command:
    """One run: what it is, and where. All runs of one stage and seed end alike."""

    stage: str
    seed: int
    runs: Path
    save_every: int = 1
    shards: int = 0  # processes that the weights are split over; 0: one that has them whole

    @property
    def words(self) -> list[str]:
        words = [*STAGES[self.stage].split(), *COMMON.split(), "--runs", str(self.runs)]
        words += ["--max-steps", str(self.steps), *(["--shard"] if self.shards else [])]
        return [*words, "--seed", str(self.seed), "--save-every", str(self.save_every)]

    @property
    def steps(self) -> int:
        return SPLIT_STEPS if self.shards else STEPS

    @property
    def errors(self) -> Path:
        """What the last run wrote to stderr."""
        return self.runs.with_suffix(".stderr")

    def start(self) -> Run:
        self.runs.mkdir(parents=True, exist_ok=True)
        self.errors.write_text("")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ranks = [FORK.Process(target=_run, args=(self, n, port), daemon=True) for n in range(max(1, self.shards))]
        signal.pthread_sigmask(signal.SIG_BLOCK, CODES)  # until its handlers are there (`_run`)
        for rank in ranks:
            rank.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CODES)
        return Run(ranks)

    @property
    def partial(self) -> Path:
        return self.runs / "run/v1.partial"

    @property
    def lines(self) -> int:
        return log(self.partial).count(b"\n")

    @property
    def kept(self) -> int:
        """The step of the last saved state."""
        steps = (path.name[4:] for path in self.partial.glob("state/step*"))
        return max((int(step) for step in steps if step.isdigit()), default=0)


class Run:
    """The processes of one run, as a launcher has them."""

    def __init__(self, ranks: list[Any]) -> None:
        self.ranks = ranks  # processes of FORK's
        self.pid = ranks[0].pid

    def is_alive(self) -> bool:
        return any(rank.is_alive() for rank in self.ranks)

    @property
    def exitcode(self) -> int:
        return next((rank.exitcode for rank in self.ranks if rank.exitcode != 0), 0)

    def join(self, timeout: float | None = None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        for rank in self.ranks:
            rank.join(until and max(0.0, until - time.monotonic()))

    def kill(self, dice: random.Random) -> str:
        """All of its processes, or one, which the others must notice; as torchrun does, they are sent SIGTERM at last.

        Returns which, and how the others ended."""
        killed = self.ranks if len(self.ranks) == 1 or dice.random() < 0.5 else [dice.choice(self.ranks)]
        for rank in killed:
            rank.kill()
        others = [rank for rank in self.ranks if rank not in killed]
        for end in (lambda rank: None, lambda rank: rank.terminate(), lambda rank: rank.kill()):
            for rank in others:
                end(rank)
            self.join(PATIENCE)
        if len(self.ranks) == 1:
            return ""
        codes = ", ".join(str(rank.exitcode) for rank in others)
        return f", process {self.ranks.index(killed[0])}, the other left with {codes}" if others else ", all"


def _run(command: Command, rank: int, port: int) -> None:
    """In the forked process."""
    os.chdir(command.runs.parent)
    if command.shards:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": command.shards, "LOCAL_WORLD_SIZE": command.shards}
        os.environ |= {name: str(value) for name, value in (place | {"MASTER_PORT": port}).items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    errors = os.open(command.errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["prefcli", *command.words]
    main, interrupts = (importlib.import_module(f"prefcli.cli.{name}") for name in ("main", "interrupts"))
    interrupts.ECHO = ECHO

    def install() -> None:
        interrupts.install()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CODES)

    main.install = install
    main.main()


def finish(command: Command, run: Run | None = None) -> None:
    """A run that is left alone; it must end well."""
    run = run or command.start()
    run.join()
    if run.exitcode != 0:
        sys.exit(
            f"FAILED: {shlex.join(command.words)}\nended by itself, with {run.exitcode}:\n{command.errors.read_text()}"
        )


def log(version: Path) -> bytes:
    try:
        return (version / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return b""


def run_alone(command: Command) -> list[float]:
    """Returns the seconds of each phase: starting, training, finishing."""
    marks, run = [time.monotonic()], command.start()
    for begun in (lambda: command.lines > 0, lambda: (command.partial / "model").exists(), lambda: False):
        while run.is_alive() and not begun():
            time.sleep(0.005)
        marks.append(time.monotonic())
    finish(command, run)
    return [after - before for before, after in zip(marks, marks[1:])]


def run_and_kill(command: Command, dice: random.Random, phases: list[float]) -> str:
    """Returns where it was killed; "" where it ended before."""
    starting = dice.random() < STARTING_SHARE
    if starting and not command.shards:
        return kill_in_start_up(command, dice)
    began = time.monotonic()
    run = start_and_wait(command, dice, phases, starting)
    if not run.is_alive():
        finish(command, run)
        return ""
    which = run.kill(dice)
    if starting:
        return f"after {time.monotonic() - began:.2f} s, starting{which}; {left(command)}"
    saving = "saving" if any(command.partial.glob("state/*.partial")) else "training"
    finishing = (command.partial / "model").exists() or (command.runs / "run/v1").exists()
    phase = "finishing" if finishing else saving
    return f"after {time.monotonic() - began:.2f} s, {phase}{which}; {left(command)}"


def start_and_wait(command: Command, dice: random.Random, phases: list[float], starting: bool = False) -> Run:
    """A run at a random point from its first new step on, or before; it may have ended."""
    first, training, finishing = phases
    if starting:
        run = command.start()
        run.join(dice.uniform(0, first))
        return run
    wait = dice.uniform(0, training / LIVES + finishing)
    rows = sum(step <= command.kept for step in logged(command))
    run = command.start()
    for still in (operator.gt, operator.le):  # the log is cut back to the kept state, then it grows
        while run.is_alive() and still(command.lines, rows):
            time.sleep(0.002)
    run.join(wait)
    return run


def kill_in_start_up(command: Command, dice: random.Random) -> str:
    command.runs.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "prefcli", *command.words]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=command.runs.parent, stdout=quiet, stderr=quiet)
    wait = dice.uniform(0, START_UP)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    return f"after {wait:.2f} s, starting; {left(command)}"


def left(command: Command) -> str:
    there = command.partial.exists()
    return f"state of step {command.kept} of {command.steps} kept" if there else "no unfinished version"


def whole_lines(version: Path) -> list[bytes]:
    return log(version).split(b"\n")[:-1]


def logged(command: Command) -> list[int]:
    """The steps of the log's lines."""
    return [json.loads(line)["step"] for line in whole_lines(command.partial)]


def differences(found: Path, expected: Path, within: float = 0.0, shards: int = 0) -> list[str]:
    """What is not in `found` as it is in `expected`, or should not be there. Weights `within` so much of each other do
    not differ; where it is not 0 the log's values may. With `shards` caches may: the last process to write decides."""
    both = (found, expected)
    files, wanted = ({str(path.relative_to(runs)) for path in runs.rglob("*")} for runs in both)
    wrong = [f"left over: {name}" for name in sorted(files - wanted) if name != ".digests.json"]
    wrong += [f"missing: {name}" for name in sorted(wanted - files)]
    for name in sorted(name for name in files & wanted if name.endswith(".safetensors")):
        if shards and name.startswith(".cache"):
            continue
        one, other = (load_file(runs / name) for runs in both)
        wrong += [f"{name}: {t} differs" for t in one | other if not same(one.get(t), other.get(t), within)]
    rows, others = map(metrics, both)
    if (steps := [row["step"] for row in rows]) != [row["step"] for row in others]:
        wrong.append(f"metrics.jsonl has the steps {steps}")
    if within:
        return wrong
    return wrong + [f"metrics.jsonl: a line of step {row['step']} differs" for row in rows if row not in others]


def same(one: Any, other: Any, within: float) -> bool:
    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return np.allclose(one, other, rtol=0, atol=within) if within else one.tobytes() == other.tobytes()


def metrics(runs: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in log(runs / "run/v1").splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


class Attack:
    """What the three attacks share: where they work, their dice, and what they found wrong."""

    def __init__(self, work: Path, seed: int, stages: list[str], shards: int) -> None:
        self.work, self.dice, self.wrong = work, random.Random(seed), list[str]()
        self.stages, self._stages, self._shards = stages, itertools.cycle(stages), shards
        self.made = 0

    def next_run(self, save_every: int = 1) -> tuple[Command, Command, list[float]]:
        """A run left alone, the same one to attack, and the seconds of the first one's phases."""
        self.made += 1
        stage = next(self._stages)
        alone = Command(stage, self.made, self.work / f"{self.made}-alone", save_every, self._shards)
        phases = run_alone(alone)
        words = "run {}, {}: starting {:.1f} s, training {:.1f} s, finishing {:.1f} s"
        print(words.format(self.made, stage, *phases), flush=True)
        return alone, replace(alone, runs=self.work / f"{self.made}-attacked"), phases

    def compare(self, attacked: Command, alone: Command, within: float = 0.0) -> None:
        here = differences(attacked.runs, alone.runs, within, alone.shards)
        equal = f"within {within:g} of" if within else "equal to"
        print(f"run {alone.seed}:", "; ".join(here) or f"{equal} the one left alone, nothing left over", flush=True)
        self.wrong += here


def kill(attack: Attack, kills: int) -> None:
    done, each = 0, max(1, kills // len(attack.stages))  # so that each stage has some
    while done < kills:
        alone, attacked, phases = attack.next_run()
        for _ in range(min(each, kills - done)):
            if not (where := run_and_kill(attacked, attack.dice, phases)):
                break
            done += 1
            print(f"kill {done} of {kills}: run {alone.seed}, {where}", flush=True)
        if alone.shards and attacked.partial.exists():
            shards = (2 * alone.shards, 1)[alone.seed % 2]
            elsewhere = replace(attacked, runs=attack.work / f"{attack.made}-elsewhere", shards=shards)
            shutil.copytree(attacked.runs, elsewhere.runs)
            print(f"run {alone.seed} in {shards} processes, {left(elsewhere)}", flush=True)
            finish(elsewhere)
            attack.compare(elsewhere, alone, WITHIN)
        finish(attacked)
        attack.compare(attacked, alone)


def interrupt(attack: Attack, points: int) -> None:
    done, outcomes = 0, Counter[str]()
    while done < points:
        alone, attacked, phases = attack.next_run(attack.dice.choice((5, 100)))
        while done < points and not (attacked.runs / "run/v1").exists():
            where, outcome = run_and_signal(attacked, attack.dice, phases)
            if where:
                done, outcomes[outcome] = done + 1, outcomes[outcome] + 1
                print(f"signal {done} of {points}: run {alone.seed}, {where}", flush=True)
        finish(attacked)
        attack.compare(attacked, alone)
    print("signals:", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()), flush=True)


def run_and_signal(command: Command, dice: random.Random, phases: list[float]) -> tuple[str, str]:
    """Returns which signals met it where, and what came of it; "" where it ended before."""
    starting, before, began = dice.random() < STARTING_SHARE, command.kept, time.monotonic()
    run = start_and_wait(command, dice, phases, starting)
    steps = logged(command)
    numbers = dice.choices(list(CODES), k=2 if dice.random() < DOUBLE_SHARE else 1)
    after = time.monotonic() - began
    for number in numbers:
        if run.is_alive():
            os.kill(run.pid, number)
        run.join(dice.uniform(0, SECOND) if len(numbers) > 1 else None)
    run.join()
    if run.exitcode == 0:
        return "", ""
    errors, kept = command.errors.read_text(), command.kept
    said = [line for line in errors.splitlines() if line.startswith("interrupted")]
    promise = re.search(r"kept up to step (\d+)", "".join(said))
    finished = (command.runs / "run/v1").exists()
    at_once = "left at once" in errors
    wrong = [
        f"ended with {run.exitcode}" if run.exitcode != CODES[numbers[0]] else "",
        "said it not in one line" if len(said) != 1 or "Traceback" in errors else "",
        f"kept step {kept}, and had step {before}" if kept < before and not finished else "",
        f"kept step {kept}, and said {promise[0]}" if promise and int(promise[1]) != kept else "",
        "did not say what is there" if finished != ("is finished" in errors) and not at_once else "",
        f"lost step {steps[-1]}" if not (finished or at_once or starting) and steps and kept < steps[-1] else "",
    ]
    names = ", ".join(signal.Signals(number).name for number in numbers)
    if any(wrong):
        sys.exit(f"FAILED: after {names} prefcli {'; '.join(filter(None, wrong))}:\n{errors}")
    outcome = "finished" if finished else "left at once" if at_once else "kept" if promise else "nothing to keep"
    return f"{names} after {after:.2f} s{', starting' if starting else ''}: {outcome}; {left(command)}", outcome


def fill_disks(attack: Attack, points: int) -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        print("full disks left out: mounting a small one needs root", flush=True)
        return
    done = 0
    while done < points:
        alone, attacked, phases = attack.next_run(attack.dice.choice((1, 5, 100)))
        kept = attack.work / f"{attack.made}-kept"  # what was finished before, and must stay as it is
        with small_disk(attacked.runs):
            shutil.copytree(alone.runs / "run", attacked.runs / "other")
            shutil.copytree(alone.runs / "run", kept)
            for _ in range(3):
                where = run_and_fill(attacked, attack.dice, phases)
                if where and done < points:
                    done += 1
                    print(f"full disk {done} of {points}: run {alone.seed}, {where}", flush=True)
            finish(attacked)
            if (same := filecmp.dircmp(kept, attacked.runs / "other")).diff_files or same.left_only:
                attack.wrong.append(f"run {alone.seed}: what was finished before has changed")
            shutil.rmtree(attacked.runs / "other")
            attack.compare(attacked, alone)


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def run_and_fill(command: Command, dice: random.Random, phases: list[float]) -> str:
    """Returns where the disk was full; "" where the run ended before, or had room enough."""
    step, finishing = dice.randrange(command.kept, STEPS + 1), phases[2]
    room = dice.choice((0, dice.randrange(1 << 14), dice.randrange(1 << 20), dice.randrange(6 << 20)))
    run, filler = command.start(), command.runs / "filler"
    while run.is_alive() and command.lines < step:
        time.sleep(0.002)
    run.join(dice.uniform(0, finishing if step == STEPS else 0.1))
    while run.is_alive() and not filler.exists():
        free = shutil.disk_usage(command.runs).free
        try:
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - room))
        except OSError:  # the run has written meanwhile
            filler.unlink(missing_ok=True)
    run.join()
    filler.unlink(missing_ok=True)
    if run.exitcode == 0:
        return ""
    errors = command.errors.read_text()
    if run.exitcode != 7 or FULL not in errors or "hint:" not in errors or "Traceback" in errors:
        sys.exit(f"FAILED: on a full disk prefcli ended with {run.exitcode}:\n{errors}")
    return f"at step {step}, {room:,} bytes left; {left(command)}"


def write_at_once(attack: Attack) -> None:
    runs, stage = attack.work / "writers", next(iter(STAGES))
    commands = [Command(stage, 1 + number // 2, runs) for number in range(WRITERS)]
    for command, run in [(command, command.start()) for command in commands]:
        finish(command, run)
    found = sorted(path.name for path in (runs / "run").iterdir() if path.name[0] != ".")
    print(f"{WRITERS} writers of one name: {', '.join(found)}", flush=True)
    if found != sorted(f"v{number}" for number in range(1, WRITERS + 1)):
        attack.wrong.append(f"{WRITERS} writers made {found}")
    by_key: dict[str, set[str]] = {}
    for version in found:
        manifest = json.loads((runs / "run" / version / "manifest.json").read_text())
        by_key.setdefault(manifest["key"], set()).add(manifest["files"]["model/model.safetensors"])
    if any(len(digests) != 1 for digests in by_key.values()) or len(by_key) != WRITERS // 2:
        attack.wrong.append(f"{WRITERS} writers: runs of one key differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often to kill, over all stages (default 50)")
    parser.add_argument("--signals", type=int, default=50, help="how often to signal, over all stages (default 50)")
    parser.add_argument("--disks", type=int, default=20, help="how often to fill the disk (default 20)")
    parser.add_argument("--no-writers", action="store_true", help="leave the eight writers out")
    parser.add_argument("--shard", type=int, default=0, metavar="N", help="kills alone, of runs split over N processes")
    parser.add_argument("--stage", action="append", choices=STAGES, help="attack this one alone; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random points, else drawn")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where the runs are made")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.shard:
        args.signals = args.disks = 0
    for stage in ("sft", "reward", "dpo", "kto", "orpo", "ppo"):
        importlib.import_module(f"prefcli.stages.{stage}")
    importlib.import_module("prefcli.stages.curves")
    args.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="torture-", dir=args.work)).resolve()
    print(
        f"{args.kills} kills, {args.signals} signals, {args.disks} full disks, --seed {args.seed}, in {work}",
        flush=True,
    )
    for name, rows in ROWS.items():
        with (ROOT / f"sample_data/{name}.jsonl").open() as file:
            (work / f"{name}.jsonl").write_text("".join(itertools.islice(file, rows)))
    began, attack = time.monotonic(), Attack(work, args.seed, args.stage or list(STAGES), args.shard)
    kill(attack, args.kills)
    interrupt(attack, args.signals)
    fill_disks(attack, args.disks)
    if not args.no_writers and not args.shard:
        write_at_once(attack)
    told = f"after {time.monotonic() - began:.0f} s (--seed {args.seed})"
    if attack.wrong:
        sys.exit(f"FAILED: {len(attack.wrong)} differences {told}; the runs are in {work}")
    print(f"no difference {told}", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

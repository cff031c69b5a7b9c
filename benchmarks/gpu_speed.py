"""The packed forward on a GPU: against our own padded rows and against TRL 1.16, on random models of 0.5B to 7B.

    python -m benchmarks gpu-speed [--minutes 8] [--resume] [--sizes 1.5B 7B] [--stages dpo] [--shapes hh] [--sides trl]
    python -m benchmarks gpu-speed --device cpu --sizes tiny     (proves that it runs; its figures mean nothing)

Models have the shapes of Qwen2.5 and random weights, made on the device; rows have random words, and lengths spread as
those of HH-RLHF, UltraFeedback and TL;DR are. Nothing is downloaded. 0.5B and 1.5B train all weights (float32, computed
in bfloat16, AdamW), 7B a LoRA of rank 16 on a bfloat16 base; no side recomputes activations.

TRL is its trainers in bfloat16 with the fused head that they have, the frozen reference in bfloat16, and flash
attention where the package flash_attn is installed, else SDPA. Its batches are accumulated in parts of at most 32,000
padded positions, which spares it padding and memory. TRL 1.16 has no PPO.

Each case is a process of its own. One that runs out of memory is recorded so, and repeated with the batch in twice as
many parts (prefcli: half the --tokens-per-row). The file is written after every case; --resume continues with those
that it lacks. The first cases are those that matter most: --minutes ends the run between two of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

from benchmarks.machine import RESULTS, write
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.models import bitsandbytes

bitsandbytes.hide()  # peft, which comes later, would import it: it touches the GPU, which no fork could then use
WORKER = "benchmarks.gpu_speed_case"
# The names in memory_cases.SHAPES.
SIZES = {"tiny": "llama-2M", "tiny-lora": "llama-2M", "0.5B": "qwen2-0.5B", "1.5B": "qwen2-1.5B", "7B": "qwen2-7B"}
LORA = ("7B", "tiny-lora")
SIDES = ("packed", "padded", "trl")
MOST_PARTS, LONGEST_CASE, SHORTEST_CASE = 16, 120.0, 15.0  # seconds


@dataclass(frozen=True)
class Spread:
    """A log-normal distribution of lengths in tokens: its mean, the deviation of the logarithm, and where it is cut."""

    mean: float
    sigma: float
    most: int

    def draw(self, count: int, dice: random.Random) -> list[int]:
        """So many lengths, one from each of as many equal parts of the distribution, in any order."""
        normal = NormalDist(math.log(self.mean) - self.sigma**2 / 2, self.sigma)
        drawn = [math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
        dice.shuffle(drawn)
        return [min(max(round(length), 8), self.most) for length in drawn]


@dataclass(frozen=True)
class Shape:
    rows: int  # a step: about 13,000 tokens where each prompt occurs once
    prompt: Spread
    answer: Spread


ROWS = {
    "hh": Shape(64, Spread(115, 0.7, 512), Spread(45, 0.7, 256)),
    "ultrafeedback": Shape(16, Spread(175, 0.9, 1024), Spread(300, 0.6, 1024)),
    "tldr": Shape(32, Spread(350, 0.35, 512), Spread(35, 0.3, 64)),
}
# In the order of their worth; what is not named here comes after.
FIRST = [
    ("dpo", "hh"), ("dpo", "ultrafeedback"), ("dpo", "tldr"),
    ("train-rm", "hh"), ("sft", "ultrafeedback"), ("ppo", "tldr"),
]  # fmt: skip
STAGES = ("dpo", "train-rm", "sft", "ppo")


@dataclass(frozen=True)
class Case:
    stage: str
    size: str
    shape: str
    side: str
    device: str
    parts: int = 1  # of a batch, one after the other

    @property
    def name(self) -> str:
        return f"{self.stage} {self.size} {self.shape} {self.side}"

    @property
    def rows(self) -> int:
        return ROWS[self.shape].rows if self.device == "cuda" else 4

    @property
    def steps(self) -> tuple[int, int]:
        """Not timed, and timed."""
        if self.device == "cpu":
            return 1, 2
        return (1, 2) if self.stage == "ppo" else (1, 3) if self.size == "7B" else (2, 4)

    @property
    def tokens_per_row(self) -> int:
        return TOKENS_PER_ROW[self.device] // self.parts

    def lengths(self) -> list[tuple[int, int, int]]:
        """Tokens of the prompt and of two answers, of all rows; the same for all sides, models and stages.

        Of ppo, whose answers are sampled, all are of the mean length.
        """
        dice, shape, count = random.Random(self.shape), ROWS[self.shape], self.rows * sum(self.steps)
        drawn = [spread.draw(count, dice) for spread in (shape.prompt, shape.answer, shape.answer)]
        if self.stage == "ppo":
            drawn[1:] = [[round(shape.answer.mean)] * count] * 2
        return list(zip(*drawn))

    def positions(self) -> int:
        """Those of the largest pass, roughly: what decides whether it fits."""
        longest = max(prompt + max(answers) for prompt, *answers in self.lengths())
        padded = longest * self.rows * (1 if self.stage in ("sft", "ppo") else 2) // self.parts
        return padded if self.side == "trl" else min(padded, self.tokens_per_row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="of the whole run")
    parser.add_argument("--resume", action="store_true", help="keep what the file has, and measure what it lacks")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: 1.5B 7B 0.5B; on a CPU tiny")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--shapes", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args()
    args.sizes = args.sizes or (["1.5B", "7B", "0.5B"] if args.device == "cuda" else ["tiny"])
    ends = time.monotonic() + 60 * args.minutes
    name = "gpu-speed" + ("-cpu" if args.device == "cpu" else "")
    kept = RESULTS / f"{name}.json"
    found: dict[str, Any] = {"cases": {}}
    if args.resume and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        del found["machine"]
        ended = {name: row for name, row in found["cases"].items() if "error" not in row or row.get("out_of_memory")}
        found["cases"] = ended
    if args.device == "cpu":
        found = {"note": "made on a CPU to see that it runs: the figures mean nothing", **found}
        print(found["note"], file=sys.stderr)
    cases = [case for case in planned(args) if case.name not in found["cases"]]
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder))
        about = workers.run("device", args.device, seconds=LONGEST_CASE)
        if "error" in about:
            raise SystemExit(f"no {args.device}: {about['error']}\n{about['log']}")
        if found.setdefault("device", about)["name"] != about["name"]:
            raise SystemExit(f"{kept} is of {found['device']['name']}: without --resume it is written anew")
        found["device"] = about
        print(f"{about['name']}: {about['peak_tflops']:.0f} TFLOP/s of dense bfloat16 products, torch {about['torch']}")
        fits: dict[tuple[str, ...], int] = {}
        for number, case in enumerate(cases):
            found["not_reached"] = [left.name for left in cases[number:]]
            if ends - time.monotonic() < SHORTEST_CASE:
                break
            row = measured(case, workers, fits, ends)
            if "seconds_per_step" in row:
                row["share_of_peak"] = row["tflop_per_step"] / row["seconds_per_step"] / about["peak_tflops"]
            found["cases"][case.name] = row
            found["not_reached"] = found["not_reached"][1:]
            write(name, found)
            print(f"{(ends - time.monotonic()) / 60:5.1f} min left  {told(case.name, row)}", flush=True)
    table(found["cases"])
    print("written to", write(name, found), file=sys.stderr)


def planned(args: argparse.Namespace) -> list[Case]:
    pairs = FIRST + [(stage, shape) for stage in STAGES for shape in ROWS if (stage, shape) not in FIRST]
    return [
        Case(stage, size, shape, side, args.device)
        for stage, shape in pairs
        for size in args.sizes
        for side in SIDES
        if stage in args.stages and shape in args.shapes and side in args.sides
        if (stage, side) != ("ppo", "trl")
    ]


def measured(case: Case, workers: Workers, fits: dict[tuple[str, ...], int], ends: float) -> dict[str, Any]:
    """The case in as few parts as fit. `fits`: positions of a pass that are too many, by stage, size and side."""
    short: list[int] = []
    most = min(MOST_PARTS, case.rows)
    key = (case.stage, case.size, case.side)
    if case.side == "trl":
        fits.setdefault(key, 2 * TOKENS_PER_ROW[case.device])
    while True:
        while case.positions() >= fits.get(key, 2**62) and case.parts < most:
            case = replace(case, parts=2 * case.parts)
        began = time.monotonic()
        row = workers.run("measured", case, seconds=min(LONGEST_CASE, ends - began))
        row |= {"parts": case.parts, "seconds_of_all": round(time.monotonic() - began, 1)}
        if row.get("out_of_memory"):
            short.append(case.parts)
            fits[key] = case.positions()
            if case.parts < most and ends - time.monotonic() > SHORTEST_CASE:
                continue
        return row | ({"out_of_memory_in_parts": short} if short else {})


class Workers:
    """Processes for one call each. They are forks of one that has imported everything and has not touched the GPU.

    Where an import does touch it, a fork cannot use it, and fails: then every process imports anew.
    """

    def __init__(self, folder: Path) -> None:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else asking whether there is a GPU touches it
        os.environ["HF_HUB_OFFLINE"] = "1"
        self._folder = folder
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.gpu_speed", WORKER])

    def run(self, function: str, *args: Any, seconds: float) -> dict[str, Any]:
        """What the worker's function returned; else "error", the end of what was printed and why it ended."""
        ours, theirs = self._context.Pipe(duplex=False)
        log = self._folder / "log"
        process = self._context.Process(target=_call, args=(function, args, self._folder, log, theirs))
        process.start()
        theirs.close()
        row: dict[str, Any] = {}
        try:
            row = ours.recv() if ours.poll(seconds) else {"error": f"not done within {seconds:.0f} s"}
        except EOFError:
            pass
        process.join(10 if "error" not in row else 1)
        if process.is_alive():
            process.kill()
            process.join()
        row = row or {"error": f"the process ended with {process.exitcode}"}
        if row.pop("cannot_fork", False):
            print("a fork cannot use this GPU: each case imports anew", file=sys.stderr)
            self._context = multiprocessing.get_context("spawn")
            return self.run(function, *args, seconds=seconds)
        if "error" in row and not row.get("out_of_memory"):
            row["log"] = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
        return row


def _call(function: str, args: tuple[Any, ...], folder: Path, log: Path, result: Any) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    worker = importlib.import_module(WORKER)
    result.send(worker.guarded(getattr(worker, function), *args, folder))


def told(name: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{name}: {'out of memory' if row.get('out_of_memory') else row['error'].splitlines()[0][:150]}"
    return (
        f"{name}: {row['rows_per_second']:.1f} rows/s, {row['tokens_per_second']:,.0f} tokens/s, "
        f"{row['peak_bytes'] / 1e9:.1f} GB, {row['share_of_peak']:.1%} of the peak"
        + (f", in {row['parts']} parts" if row["parts"] > 1 else "")
        + "".join(f" ({notice})" for notice in row["notices"])
    )


def table(cases: dict[str, Any]) -> None:
    """Packed against the faster of the others, by stage, size and shape; then the means of the ratios by shape."""
    print(
        f"\n{'':<24}{'rows/s':>9}{'peak GB':>9}{'of peak':>9}{'best other':>12}{'rows/s':>9}{'speed':>8}{'memory':>8}"
    )
    gains: dict[str, list[float]] = {}
    for name, row in cases.items():
        run, _, side = name.rpartition(" ")
        others = {s: o for s in SIDES[1:] if "error" not in (o := cases.get(f"{run} {s}", {"error": ""}))}
        if side != "packed" or "error" in row:
            continue
        line = f"{run:<24}{row['rows_per_second']:>9.1f}{row['peak_bytes'] / 1e9:>9.1f}{row['share_of_peak']:>9.1%}"
        if others:
            best = max(others, key=lambda side: others[side]["rows_per_second"])
            speed = row["rows_per_second"] / others[best]["rows_per_second"]
            memory = row["peak_bytes"] / others[best]["peak_bytes"]
            line += f"{best:>12}{others[best]['rows_per_second']:>9.1f}{speed:>7.2f}×{memory:>7.2f}×"
            stage, _, shape = run.split()
            gains.setdefault(f"{stage} {shape}", []).append(speed)
        print(line)
    for which, speeds in gains.items():
        print(f"{which}: {fmean(speeds):.2f}× of the best other, mean of {len(speeds)} sizes")


if __name__ == "__main__":
    main()

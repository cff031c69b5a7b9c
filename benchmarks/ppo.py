"""PPO against TRL 1.12's PPOTrainer, the last that TRL had: the same models, prompts and options, in turn.

    python -m benchmarks ppo --pairs hh.jsonl [--rollouts 3] [--answers 1|4] [--layout separate|shared]
    python -m benchmarks ppo --tiny

SmolLM2-135M-Instruct, no checkpointing, all cores: policy and value model trained, reward model and reference
frozen. A rollout is 8 answers of up to 32 tokens, to 8 prompts or, with --answers 4, to 2; every rollout reads the same
ones, those of the file whose length is nearest to --prompt-tokens (so TRL, which pads, has next to no padding). One
epoch, one minibatch, AdamW. Reward and value model start from one directory with a fresh head. Answers end at their
EOS on both sides; what TRL decodes and computes behind it is its own affair, so mean answer lengths are shown.

TRL's trainer lives in a virtual environment of its own, WORK/trl-1.12-venv, made here when it is missing (1.5 GB;
PEER_PACKAGES below: torch, transformers, accelerate, peft and datasets as in this project's constraints.txt). What it
runs is benchmarks/peers/ppo_trl.py. It has no answers a prompt: with --answers 4 its data hold each prompt 4 times.
With --bfloat16 each side runs once more in bfloat16.

--layout shared: ours is one base with adapters (rank 16) for policy and value and a LoRA reward model, made here once
by a step of `prefcli train-rm`; TRL has its policy as an adapter, whose base is the reference, beside a whole reward
model and a whole value model that is trained.

Seconds a rollout are those after the first, from line to line of the metrics. Neither side saves within them. The first
rollout's figures tell whether both do the same work: they differ by the draws, so 8 answers say little (--tiny with
--batch-size 128 says more).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import AutoTokenizer

from benchmarks.machine import write
from benchmarks.trl import models, pace, rows, text, timed
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder

PEER_PACKAGES = (
    "torch==2.13.0",
    "trl==1.12.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "peft==0.21.2",
    "datasets==5.2.0",
)
SCRIPT = Path(__file__).parent / "peers" / "ppo_trl.py"
LORA_RANK, SEED, TEMPERATURE = 16, 42, 0.7
PHASES = ("generate", "score", "train")
# What the first rollout must agree on: a KL of 0 but for rounding, a score and a length that differ by the draws.
FIRST = ("objective/kl", "objective/scores", "objective/entropy", "completions/mean_length", "loss/value_avg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="dialogues in HH-RLHF's format")
    parser.add_argument("--tiny", action="store_true", help="the built-in model on sample_data")
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--answers", type=int, default=1, help="to each prompt")
    parser.add_argument("--layout", choices=("separate", "shared"), default="separate")
    parser.add_argument("--batch-size", type=int, default=8, help="answers a rollout")
    parser.add_argument("--new", type=int, default=32, help="longest answer, in tokens")
    parser.add_argument("--prompt-tokens", type=int, default=92)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-6)
    parser.add_argument("--bfloat16", action="store_true", help="both sides in bfloat16 too")
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    if not args.tiny and not args.pairs:
        parser.error("--pairs FILE, or --tiny")
    if args.rollouts < 2:
        parser.error("--rollouts: at least 2, since the first is not timed")
    if args.batch_size % args.answers:
        parser.error("--batch-size must be a multiple of --answers")
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    python = peer_python(args.work)
    model, scorer = models(args.work, args.tiny)
    pairs = args.pairs or str(Path(__file__).parent.parent / "sample_data" / "pairs.jsonl")
    lengths = write_prompts(pairs, model, args)
    reward = scorer if args.layout == "separate" else lora_scorer(pairs, model, args)
    formats = ["float32", "bfloat16"] if args.bfloat16 else ["float32"]
    sides: dict[str, list[dict[str, Any]]] = {f"{side} {kind}": [] for side in ("prefcli", "trl") for kind in formats}
    for _ in range(args.rounds):
        for side, runs in sides.items():
            print(f"ppo: {side} …", file=sys.stderr)
            name, kind = side.split()
            runs.append(
                ours(args, model, reward, kind) if name == "prefcli" else peer(python, args, model, scorer, kind)
            )
    report(args, lengths, sides, versions(python))


def peer_python(work: Path) -> Path:
    """The interpreter of TRL 1.12's virtual environment."""
    folder = work / "trl-1.12-venv"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    wanted = "\n".join(PEER_PACKAGES)
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"making {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        subprocess.run([str(python), "-c", "from trl.experimental.ppo import PPOTrainer"], check=True)
        ready.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    names = [package.partition("==")[0] for package in PEER_PACKAGES]
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([str(python), "-c", code, *names], check=True, stdout=subprocess.PIPE, text=True)
    return dict(zip(names, found.stdout.split()))


def write_prompts(pairs: str, model: Path, args: argparse.Namespace) -> list[int]:
    """The prompts of one rollout: for us as text, for TRL as ids, each as often as it is answered; their lengths."""
    encoder = Encoder(AutoTokenizer.from_pretrained(model))
    found = {text(encoder, row)[0]: 0 for row in read_dataset([pairs], "pairs", True).rows}
    found = {prompt: len(encoder.prompt_ids(prompt)) for prompt in found}
    wanted = args.batch_size // args.answers
    chosen = sorted(found, key=lambda prompt: abs(found[prompt] - args.prompt_tokens))[:wanted]
    if len(chosen) < wanted:
        raise SystemExit(f"{pairs} has {len(chosen)} different prompts, {wanted} are needed")
    folder = args.work / "prompts"
    folder.mkdir(exist_ok=True)
    (folder / "ours.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in chosen))
    ids = [encoder.prompt_ids(prompt) for prompt in chosen for _ in range(args.answers)]
    (folder / "trl.jsonl").write_text("".join(json.dumps({"input_ids": one}) + "\n" for one in ids))
    return [found[prompt] for prompt in chosen]


def lora_scorer(pairs: str, model: Path, args: argparse.Namespace) -> Path:
    """A reward model that is an adapter on `model`; what it has learnt does not matter here."""
    runs = args.work / f"{model.name}-lora-scorer"
    if not (runs / "x" / "v1").is_dir():
        shutil.rmtree(runs, ignore_errors=True)
        rows(pairs, model, args.work, 8, 10**9)
        command = [
            sys.executable, "-m", "prefcli", "train-rm", "--model", str(model),
            "--data", str(args.work / "pairs" / "train.jsonl"), "--runs", str(runs), "--name", "x", "-q",
            "--batch-size", "8", "--max-steps", "1", "--eval-share", "0", "--lora-rank", str(LORA_RANK),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return runs / "x" / "v1"


def threads() -> dict[str, str]:
    """All cores, unless OMP_NUM_THREADS says otherwise; and no GPU, on both sides."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores)), "CUDA_VISIBLE_DEVICES": ""}


def ours(args: argparse.Namespace, model: Path, reward: Path, kind: str) -> dict[str, Any]:
    runs = args.work / "ours"
    shutil.rmtree(runs, ignore_errors=True)
    command = [
        sys.executable, "-m", "prefcli", "ppo", "--model", str(model), "--reward", f"reward={reward}",
        "--prompts", str(args.work / "prompts" / "ours.jsonl"), "--runs", str(runs), "--name", "x",
        "--batch-size", str(args.batch_size), "--num-generations", str(args.answers),
        "--max-steps", str(args.rollouts), "--max-prompt-length", "512", "--max-new-tokens", str(args.new),
        "--temperature", str(TEMPERATURE), "--ppo-epochs", "1", "--minibatches", "1", "--lr", str(args.lr),
        "--lr-scheduler", "constant", "--warmup", "0", "--max-grad-norm", "0", "--seed", str(SEED),
        "--layout", args.layout, "--save-every", "1000000", "--dtype", kind, "-q",
    ]  # fmt: skip
    if args.layout == "shared":
        command += ["--lora-rank", str(LORA_RANK)]
    ticks, peak = timed(command, threads(), watch=runs / "x" / "v1.partial" / "metrics.jsonl")
    return measured(args, ticks, peak, runs / "x" / "v1" / "metrics.jsonl")


def peer(python: Path, args: argparse.Namespace, model: Path, scorer: Path, kind: str) -> dict[str, Any]:
    out = args.work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    log = out / "metrics.jsonl"
    command = [
        str(python), str(SCRIPT), "--model", str(model), "--scorer", str(scorer),
        "--prompts", str(args.work / "prompts" / "trl.jsonl"), "--rollouts", str(args.rollouts),
        "--new", str(args.new), "--temperature", str(TEMPERATURE), "--lr", str(args.lr), "--seed", str(SEED),
        "--lora-rank", str(LORA_RANK if args.layout == "shared" else 0), "--log", str(log), "--out", str(out / "model"),
        *(["--bf16"] if kind == "bfloat16" else []),
    ]  # fmt: skip
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_CACHE": str(args.work / "hf")}
    ticks, peak = timed(command, {**threads(), **quiet}, watch=log)
    return measured(args, ticks, peak, log)


def measured(args: argparse.Namespace, ticks: list[float], peak_mb: float, log: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    if len(lines) != args.rollouts or len(ticks) != args.rollouts:
        raise SystemExit(f"{log}: {len(lines)} rollouts, seen {len(ticks)}; there should be {args.rollouts}")
    seconds = pace(ticks)
    return {
        "seconds_per_rollout": seconds,
        "answers_per_second": args.batch_size / seconds,
        "first_rollout": ticks[0],
        "peak_bytes": round(peak_mb * 1e6),
        **{phase: fmean(line[f"time/{phase}"] for line in lines[1:]) for phase in PHASES},
        "mean_answer": fmean(line["completions/mean_length"] for line in lines[1:]),
        "first": {name: lines[0][name] for name in FIRST},
        "log": lines,
    }


def report(
    args: argparse.Namespace, lengths: list[int], sides: dict[str, list[dict[str, Any]]], peer_versions: dict[str, str]
) -> None:
    """The table and the JSON file; of several rounds the fastest counts, and the largest peak."""
    table = {}
    for side, runs in sides.items():
        best = min(runs, key=lambda run: float(run["seconds_per_rollout"]))
        table[side] = {**best, "peak_bytes": max(run["peak_bytes"] for run in runs)}
        table[side]["all_seconds_per_rollout"] = [run["seconds_per_rollout"] for run in runs]
    mine = table["prefcli float32"]
    print(
        f"\nppo on {'tiny' if args.tiny else 'SmolLM2-135M'}, {args.layout}, {args.batch_size} answers a "
        f"rollout, {args.answers} to each prompt, up to {args.new} tokens; prompts of {min(lengths)} to "
        f"{max(lengths)} tokens; {args.rollouts} rollouts, the first left out"
    )
    print(
        f"{'':<22}{'answers/s':>10}{'s/rollout':>11}" + "".join(f"{phase:>10}" for phase in PHASES)
        + f"{'tokens':>8}{'peak MB':>9}{'speed':>8}{'memory':>8}"
    )  # fmt: skip
    for side, row in table.items():
        print(
            f"{side:<22}{row['answers_per_second']:>10.3f}{row['seconds_per_rollout']:>11.2f}"
            + "".join(f"{row[phase]:>10.2f}" for phase in PHASES)
            + f"{row['mean_answer']:>8.1f}{row['peak_bytes'] / 1e6:>9,.0f}"
            f"{row['seconds_per_rollout'] / mine['seconds_per_rollout']:>7.2f}×"
            f"{mine['peak_bytes'] / row['peak_bytes']:>7.2f}×"
        )
    print("first rollout:")
    for side, row in table.items():
        print(f"  {side:<20}" + ", ".join(f"{name} {value:.4g}" for name, value in row["first"].items()))
    name = "ppo" + "".join(
        f"-{part}"
        for part, there in (
            (f"{args.answers}-answers", args.answers > 1),
            (args.layout, args.layout != "separate"),
            ("tiny", args.tiny),
        )
        if there
    )
    result = {
        "layout": args.layout,
        "rollouts": args.rollouts,
        "batch_size": args.batch_size,
        "answers": args.answers,
        "new": args.new,
        "lr": args.lr,
        "temperature": TEMPERATURE,
        "prompt_tokens": lengths,
        "omp_num_threads": threads()["OMP_NUM_THREADS"],
        "peer_versions": peer_versions,
        "sides": table,
    }
    print("written to", write(name, result), file=sys.stderr)


if __name__ == "__main__":
    main()

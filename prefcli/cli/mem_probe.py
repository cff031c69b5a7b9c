"""`prefcli mem-estimate --probe`: one real step at the longest length, and its measured peak."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result
from prefcli.config.memory import MemoryConfig
from prefcli.config.stages import BY_COMMAND, Purpose
from prefcli.errors import MemoryShortError, UsageError
from prefcli.memory.answer import LENGTH
from prefcli.memory.sizes import format_bytes

REWARD = "def score(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"


def probe(config: MemoryConfig) -> None:
    """Train one step in a process of its own, on made-up rows that fill --max-length, and keep nothing.

    Raises UsageError: no stage or no weights to do it with. MemoryShortError: it ran out of memory.
    """
    if config.stage is None or config.model is None:
        raise UsageError("--probe runs a stage on a model: give --stage and --model")
    if (config.plot, config.compare) != (None, False):
        raise UsageError("--probe measures one step", "leave out --plot and --compare")
    reference = resolve(config.model, Store(config.runs))  # the step is made in another store
    config = replace(config, model=str(reference.path or config.model))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "prefcli", str(config.stage), *_words(config, Path(folder))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        message = "\n".join(done.stderr.strip().splitlines()[-6:]).removeprefix("error: ")
        message = message or f"it ended with code {done.returncode}"
        kind = MemoryShortError if done.returncode == MemoryShortError.exit_code else UsageError
        raise kind(f"the step failed: {message}")
    resources = json.loads(done.stdout)["resources"]
    measured, predicted = resources["measured_peak_bytes"], resources["predicted_peak_bytes"]
    if config.json:
        found = {"measured_peak_bytes": measured, "predicted_peak_bytes": predicted, "stage": config.stage}
        print_result(json.dumps(found))
        return
    print_result(f"{config.stage} {reference.shown}: {format_bytes(measured)} at the peak of one step, measured")
    if predicted:
        print_result(f"estimated: {format_bytes(predicted)} ({predicted / measured - 1:+.0%})")


def _words(config: MemoryConfig, folder: Path) -> list[str]:
    """The command's options, after its rows were written."""
    stage = BY_COMMAND[str(config.stage)]
    ppo = stage.samples
    most, answers = config.max_length or LENGTH, config.batch_size or 1
    prompt = config.prompt_length or (most // 2 if ppo else 1)
    data = folder / "rows.jsonl"
    rows = [_row(stage.purpose, number, prompt, most) for number in range(max(2, answers))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", str(config.model), "--runs", str(folder / "runs"), "--max-steps", "1", "--force-memory"]
    answers = max(2, answers) if ppo else answers
    words += ["--batch-size", str(answers), "--lora-rank", str(config.lora_rank), "--json", "--quiet"]
    words += ["--tokens-per-row", str(config.tokens_per_row)] if config.tokens_per_row else []
    words += ["--optim", config.optim]
    words += ["--gradient-checkpointing"] if config.gradient_checkpointing else []
    words += [] if config.packed else ["--no-packed"]
    words += ["--load-in-4bit"] if config.load_in_4bit else []
    if ppo:
        reward = folder / "reward.py"
        reward.write_text(REWARD, encoding="utf-8")
        words += ["--prompts", str(data), "--reward", f"python:{reward}:score", "--max-prompt-length", str(2 * prompt)]
        words += ["--max-new-tokens", str(max(1, most - prompt)), "--ppo-epochs", "1"]
        words += ["--num-generations", str(config.num_generations)] if config.num_generations else []
        words += ["--generation-batch", str(config.generation_batch)] if config.generation_batch else []
        words += ["--advantage", str(config.advantage)]
        return words + (["--layout", config.layout] if config.layout else [])
    words += ["--data", str(data), "--max-length", str(most)]
    return words + (["--eval-share", "0"] if stage.scores else [])


def _row(purpose: Purpose, number: int, prompt: int, most: int) -> dict[str, Any]:
    """One whose answers are longer than --max-length, so that they are cut to it."""
    row: dict[str, Any] = {"prompt": f"{number}" + " a" * (prompt - 1)}
    if purpose in ("demos", "labelled"):
        row["completion"] = " b" * most
    if purpose == "labelled":
        row["label"] = number % 2 == 0
    if purpose == "pairs":
        row |= {"chosen": " b" * most, "rejected": " c" * most}
    return row

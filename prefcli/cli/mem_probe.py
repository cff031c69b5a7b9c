"""`prefcli mem-estimate --probe`: one real step at the longest length, and its measured peak."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result
from prefcli.config.memory import MemoryConfig
from prefcli.config.stages import BY_COMMAND, Purpose
from prefcli.data.encoder import Encoder
from prefcli.errors import PrefcliError, SurroundingsError, UsageError
from prefcli.memory.answer import options_of
from prefcli.memory.methods import words_of
from prefcli.memory.sizes import format_bytes
from prefcli.models.loading import configuration
from prefcli.models.positions import positions_of
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT

REWARD = "def score(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"


def probe(config: MemoryConfig) -> None:
    """Train one step in a process of its own, on made-up rows as long as the options allow, and keep nothing.

    Raises UsageError: no stage or no weights to do it with. Where the step fails, the error of its exit code.
    """
    if config.stage is None or config.model is None:
        raise UsageError("--probe runs a stage on a model: give --stage and --model")
    if config.params is not None:
        raise UsageError("--probe runs the weights of --model, and --params is a size alone", "leave --params out")
    if (config.plot, config.compare) != (None, False):
        raise UsageError("--probe measures one step", "leave out --plot and --compare")
    if config.gpu is not None or config.shard > 1:
        raise UsageError("--probe runs on this machine, in one process", "leave out --gpu and --shard")
    reference = resolve(config.model, Store(config.runs))  # the step is made in another store
    config = replace(config, model=str(reference.path or config.model))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "prefcli", str(config.stage), *_words(config, reference, Path(folder))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        message = "\n".join(done.stderr.strip().splitlines()[-6:]).removeprefix("error: ")
        message = message or f"it ended with code {done.returncode}"
        kinds: list[type[PrefcliError]] = [PrefcliError, *PrefcliError.__subclasses__()]
        kind = next((one for one in kinds if one.exit_code == done.returncode), SurroundingsError)
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


def _words(config: MemoryConfig, reference: Reference, folder: Path) -> list[str]:
    """The command's options, after its rows were written: those that are given, and else the command's own, as the
    estimate has them. Its own lengths end where the model's positions do."""
    stage = BY_COMMAND[str(config.stage)]
    options = options_of(config, stage)
    own = stage.config(**options)
    positions = positions_of(configuration(reference)) if config.max_length is None else None
    if stage.samples:
        answer = min(own.max_new_tokens, positions - 1 if positions else own.max_new_tokens)
        most = min(own.max_prompt_length, positions - answer if positions else own.max_prompt_length)
        options |= {"max_prompt_length": most, "max_new_tokens": answer}
        prompt = most
    else:
        most = options["max_length"] = min(own.max_length, positions or own.max_length)
        prompt = config.prompt_length or 1
    data, encoder = folder / "rows.jsonl", Encoder(load_tokenizer(reference, SILENT))
    rows = [_row(stage.purpose, _filling(number, prompt, encoder), number, most) for number in range(own.batch_size)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", str(config.model), "--runs", str(folder / "runs"), "--max-steps", "1", "--force-memory"]
    words += [*words_of(options), "--json", "--quiet"]
    if stage.samples:
        reward = folder / "reward.py"
        reward.write_text(REWARD, encoding="utf-8")
        return words + ["--prompts", str(data), "--reward", f"python:{reward}:score", "--ppo-epochs", "1"]
    words += ["--data", str(data)]
    return words + (["--eval-share", "0"] if stage.scores else [])


def _filling(number: int, tokens: int, encoder: Encoder) -> str:
    """A prompt of N `tokens`, or of the largest number below N that there can be; each row has another one."""

    def text(words: int) -> str:
        return f"{number}" + " a" * (words - 1)

    def length(words: int) -> int:
        return len(encoder.prompt_ids(text(words)))

    least, most, words = length(1), length(tokens), tokens
    if most > least:  # about as many tokens for each word, beside those of the template
        words = 1 + max(0, tokens - least) * (tokens - 1) // (most - least)
        while length(words + 1) <= tokens:
            words += 1
    while words > 1 and length(words) > tokens:
        words -= 1
    return text(words)


def _row(purpose: Purpose, prompt: str, number: int, most: int) -> dict[str, Any]:
    """One whose answers are longer than --max-length, so that they are cut to it."""
    row: dict[str, Any] = {"prompt": prompt}
    if purpose in ("demos", "labelled"):
        row["completion"] = " b" * most
    if purpose == "labelled":
        row["label"] = number % 2 == 0
    if purpose == "pairs":
        row |= {"chosen": " b" * most, "rejected": " c" * most}
    return row

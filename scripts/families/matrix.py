"""The cells of one family: each stage on all weights and LoRA, packed and padded; then sample, score and export."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.families import judging, plain, zoo
from scripts.families.commands import Ran, prefcli
from scripts.families.judging import EXACT, NONE, WRONG, Cell
from scripts.families.rows import DEMOS, write

STAGES = ("sft", "rm", "dpo", "kto", "ppo")
WEIGHTS = ("full", "lora")
LAYOUTS = ("packed", "padded")
COMMAND = {"rm": "train-rm"}
DATA = {"sft": "demos", "rm": "pairs", "dpo": "pairs", "kto": "labelled", "ppo": "prompts"}
AFTER = ("sample/full", "sample/lora", "score/full", "score/lora",
         "export/full", "export/merged", "export/lora", "export/rm")  # fmt: skip
CELLS = tuple(f"{stage}/{weights}/{layout}" for stage in STAGES for weights in WEIGHTS for layout in LAYOUTS) + AFTER
REWARD = "def longer(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
NEW_TOKENS = 6


def run(name: str, stages: tuple[str, ...] = STAGES, after: tuple[str, ...] = AFTER) -> dict[str, Any]:
    """Build the family, run its cells, and say what became of each."""
    began = time.monotonic()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            family = Matrix(name, Path(folder), stages)
            family.train()
            for cell in after:
                family.cells[cell] = family.use(cell)
            found = family.result()
        finally:
            os.chdir(here)
    return found | {"seconds": round(time.monotonic() - began, 1)}


class Matrix:
    def __init__(self, name: str, folder: Path, stages: tuple[str, ...] = STAGES) -> None:
        self.name, self._folder, self._stages = name, folder, stages
        self.model = zoo.build(name, folder / "model")
        self._files = write(folder)
        (folder / "reward.py").write_text(REWARD, encoding="utf-8")
        self.cells: dict[str, Cell] = {}
        self.ran: dict[str, Ran] = {}
        self.figures: plain.Figures | None = None
        self._plain_fails = ""
        config = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        self._noise = ", ".join(
            key for key, value in config.items()
            if ("drop" in key or "jitter" in key) and isinstance(value, float) and value > 0
        )  # fmt: skip

    def train(self) -> None:
        """All cells of the stages."""
        for stage in self._stages:
            for weights in WEIGHTS:
                cells = [f"{stage}/{weights}/{layout}" for layout in LAYOUTS]
                for cell in cells:
                    self.cells[cell] = self.train_one(cell)
                differ = judging.both_layouts(stage, *(self.ran[cell] for cell in cells))
                for cell in cells:
                    if differ and self.cells[cell].verdict == EXACT:
                        self.cells[cell] = Cell(WRONG, differ)

    def train_one(self, cell: str) -> Cell:
        """A cell of a stage, by itself."""
        stage, weights, layout = cell.split("/")
        self.ran[cell] = self._train(stage, weights, layout)
        self._expect(self.ran[cell])
        found = judging.stage(stage, self.ran[cell], self.figures, self.model)
        if stage == "sft" and found.why.startswith("loss is") and self._noise:
            found.why += f" ({self._noise} is on while it trains)"
        return found

    def _train(self, stage: str, weights: str, layout: str) -> Ran:
        words: list[Any] = [COMMAND.get(stage, stage), "--model", self.model]
        words += ["--prompts" if stage == "ppo" else "--data", self._files[DATA[stage]]]
        words += ["--batch-size", 4, "--max-steps", 2, "--lr", "1e-3", "--force"]
        if stage == "rm":
            words += ["--eval-share", 0]
        if stage == "ppo":
            words += ["--reward", f"python:{self._folder / 'reward.py'}:longer"]
            words += ["--max-new-tokens", NEW_TOKENS, "--ppo-epochs", 1]
        if weights == "lora":
            words += ["--lora-rank", 4]
        if layout == "padded":
            words += ["--no-packed"]
        return prefcli(*words, runs=self._folder / "runs")

    def _expect(self, ran: Ran) -> None:
        """The figures of the plain forward; the first run that succeeds brings the tokenizer, template and all."""
        if self.figures is not None or self._plain_fails or ran.artifact is None:
            return
        try:
            encoder = plain.encoder_of(ran.artifact / "model")
            model = plain.with_tokens(plain.open_model(self.model), len(encoder.tokenizer))
            self.figures = plain.figures(model, encoder)
        except Exception as error:
            self._plain_fails = f"{type(error).__name__}: {error}"

    def _artifact(self, stage: str, weights: str) -> Path | None:
        found = [self.ran[cell].artifact for cell in self.ran if cell.startswith(f"{stage}/{weights}/")]
        return next((path / "model" for path in found if path is not None), None)

    def use(self, cell: str) -> Cell:
        """A cell of sample, score or export, on what the stages left."""
        command, what = cell.split("/")
        if command == "sample":
            model = self._artifact("sft", what)
            return self._sample(model or self.model) if model or what == "full" else self._nothing("sft", what)
        if command == "score":
            model = self._artifact("rm", what)
            return self._score(model) if model else self._nothing("rm", what)
        stage, weights = {"full": ("sft", "full"), "rm": ("rm", "full")}.get(what, ("sft", "lora"))
        model = self._artifact(stage, weights)
        if model is None and what != "full":
            return self._nothing(stage, weights)
        return self._export(model or self.model, what)

    def _nothing(self, stage: str, weights: str) -> Cell:
        return Cell(NONE, f"no {stage} of {'all weights' if weights == 'full' else 'LoRA'} was trained")

    def _sample(self, model: Path) -> Cell:
        out = self._folder / "sampled.jsonl"
        ran = prefcli(
            "sample", "--model", model, "--prompts", self._files["prompts"], "--max-new-tokens", NEW_TOKENS,
            "--temperature", "0.001", "--out", out, runs=self._folder / "runs",
        )  # fmt: skip
        if ran.code:
            return judging.refusal(ran)

        def compare() -> str | None:
            found = {json.dumps(row["prompt"]): row["completion"] for row in _lines(out)}
            if not (model / "tokenizer.json").is_file():
                return "its directory has no tokenizer"
            encoder = plain.encoder_of(model)
            if encoder.tokenizer.chat_template is None:
                return None  # a plain directory, before prefcli gave it one
            ends = plain.end_ids(self.model, encoder)
            answers = plain.greedy(plain.open_model(model), encoder, ends, NEW_TOKENS)
            for row, (whole, sure) in zip(_lines(self._files["prompts"]), answers):
                text = found.get(json.dumps(row["prompt"]), "")
                if not text and not whole.strip():  # left out, and said
                    continue
                if text != whole and (whole == sure or not text.startswith(sure)):
                    return f"it answers {text!r}, the plain forward {whole!r}"
            return None

        return judging.checked(compare)

    def _score(self, model: Path) -> Cell:
        out = self._folder / "scored.jsonl"
        ran = prefcli(
            "score", "--reward", model, "--data", self._files["demos"], "--out", out, runs=self._folder / "runs"
        )
        if ran.code:
            return judging.refusal(ran)

        def compare() -> str | None:
            found = [next(iter(row["scores"].values())) for row in _lines(out)]
            expected = plain.scores(model, plain.encoder_of(model))
            wrong = [(one, other) for one, other in zip(found, expected) if not judging.close(one, other)]
            if len(found) != len(DEMOS) or wrong:
                return f"it scores {wrong[0][0]:.6f}, the plain forward {wrong[0][1]:.6f}" if wrong else "rows lack"
            return None

        return judging.checked(compare)

    def _export(self, model: Path, what: str) -> Cell:
        out = self._folder / f"export-{what}"
        kept = ["--no-merge"] if what == "lora" else []
        ran = prefcli("export", model, out, *kept, runs=self._folder / "runs")
        if ran.code:
            return judging.refusal(ran)

        def compare() -> str | None:
            if what == "rm":
                encoder = plain.encoder_of(out)
                one, other = plain.scores(model, encoder), plain.scores(out, encoder)
                return None if one == other else f"it scores {other[0]:.6f}, what was exported {one[0]:.6f}"
            lost = plain.tensors(self.model).keys() - plain.tensors(out).keys()
            if what != "lora" and lost:
                return f"{len(lost)} tensors of the model are not in it: {', '.join(sorted(lost)[:2])}"
            encoder = plain.encoder_of(out)
            row = encoder.text_ids(DEMOS[1]["completion"])
            one, other = (plain.logits(plain.open_model(folder), row) for folder in (model, out))
            shared = min(one.shape[-1], other.shape[-1])  # a token for padding may have been added
            off = float((one[:, :shared] - other[:, :shared]).abs().max())
            return None if off <= (judging.LOSS if what == "merged" else 0) else f"its logits are off by {off:.2g}"

        return judging.checked(compare)

    def result(self) -> dict[str, Any]:
        family = zoo.FAMILIES[self.name]
        return {
            "family": self.name,
            "model_type": family.model_type,
            "has": family.has,
            "layout": self._layout(),
            "lora": self._adapted(),
            "plain": self._plain_fails,
            "cells": {cell: asdict(found) for cell, found in self.cells.items()},
        }

    def _layout(self) -> dict[str, str]:
        """What ran, the policy and the reward model, and how: packed, or why not."""
        found = {}
        for role, stages in {"policy": ("dpo", "sft", "kto", "ppo"), "reward model": ("rm",)}.items():
            ran = [self.ran.get(f"{stage}/full/packed") for stage in stages]
            done = [one for one in ran if one is not None and one.artifact is not None]
            if done:
                found[role] = done[0].padded or "packed"
        return found

    def _adapted(self) -> list[str]:
        """The last parts of the names of what LoRA adapts; where adapters were merged, of the weights that moved."""
        for stage in ("sft", "dpo", "kto", "ppo"):
            folder = self._artifact(stage, "lora")
            if folder is None:
                continue
            after = plain.tensors(folder)
            if (folder / "adapter_config.json").is_file():
                names = [name.split(".lora_")[0] for name in after if ".lora_B" in name]
            else:
                names = [name.removesuffix(".weight") for name in judging.moved(plain.tensors(self.model), after)]
            parts = [
                [part for part in name.split(".") if part != "base_layer" and not part.isdigit()] for name in names
            ]
            return sorted({part[-1] for part in parts if part})
        return []


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

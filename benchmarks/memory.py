"""Peak memory of every stage, measured and predicted.

    python -m benchmarks memory --device cpu|cuda --out FILE.json [--budget SECONDS] [--only WORD] [--list]

The project's own stages train two steps (rollouts) on random models and rows of known lengths. On a CPU the bytes of
live tensors are counted (memory_meter.py says why), on a GPU those that its allocator has handed out; by phase. What is
written after each case is complete: a case that fails is written with its error, and the next one begins.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.memory_cases import BLIND, CPU, GPU, SHAPES, Case, held_out
from benchmarks.memory_meter import Cuda, LiveBytes, Phases
from prefcli import files
from prefcli.artifacts.references import TINY
from prefcli.config.stages import BY_COMMAND
from prefcli.memory.architecture import Architecture
from prefcli.models import generation
from prefcli.models.quiet import quieten
from prefcli.progress import SILENT
from prefcli.rl import ppo as ppo_loop
from prefcli.rl import rollout
from prefcli.rl.ppo import PPO
from prefcli.stages import dpo, kto, reward, session, sft
from prefcli.stages.inputs import prepare
from prefcli.stages.ppo import Scorer
from prefcli.stages.reference import ReferenceLogps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=1e9, help="begin no case after so many seconds")
    parser.add_argument("--blind", action="store_true", help="the cases that were kept back until the terms were final")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--work", type=Path, help="where models go; by default a temporary folder")
    parser.add_argument("--list", action="store_true", help="name the cases")
    args = parser.parse_args()
    cases = BLIND[args.device] if args.blind else GPU if args.device == "cuda" else CPU
    chosen = [case for case in cases if args.only in case.name]
    if args.list:
        print("\n".join(case.name for case in chosen))
        return
    started = time.monotonic()
    quieten(False)
    files.digest_file = lambda path: f"{path} {path.stat().st_size}"  # reading 13 GB of random weights says nothing
    found: dict[str, Any] = {"machine": machine(args.device), "cases": []}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        bench = Bench(Path(folder), args.device)
        for case in chosen:
            if time.monotonic() - started > args.budget:
                break
            row = {"case": asdict(case), "held_out": held_out(cases, case), "blind": args.blind, **bench.measured(case)}
            found["cases"].append(row)
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            told = row.get("error", f"{row.get('peak', 0) / 1e6:,.0f} MB in {row.get('phase')}")
            print(f"{time.monotonic() - started:6.0f} s  {case.name}: {told}", flush=True)


def machine(device: str) -> dict[str, Any]:
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "transformers", "trl", "peft")}
    if device == "cpu":
        return versions | {"device": "cpu"}
    free, total = torch.cuda.mem_get_info()
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    about = {"device": torch.cuda.get_device_name(), "total": total}
    return versions | about | {"context": total - free - torch.cuda.memory_reserved()}


class Bench:
    """Runs cases one after the other in this process; nothing of one is left when the next begins."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    def measured(self, case: Case) -> dict[str, Any]:
        began = time.monotonic()
        try:
            row = self._measured(case)
        except Exception as error:
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:400]}
        gc.collect()
        if self.device == "cuda":
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
            row["left"] = torch.cuda.memory_allocated()
        return row | {"seconds_of_all": round(time.monotonic() - began, 1)}

    def _measured(self, case: Case) -> dict[str, Any]:
        model = self.model(case.model)
        runs = self.folder / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir()
        options = self.options(case, model, runs)
        if case.cached:
            self.run(case, options, None)
        gc.collect()
        meter = Cuda() if self.device == "cuda" else LiveBytes()
        phases = Phases(meter)
        try:
            caught = self.run(case, options, phases)
        finally:
            phases.unwrap()
        peak = phases.peak
        return {
            "peak": peak,
            "phase": max(phases.peaks, key=lambda name: phases.peaks[name]),
            "phases": phases.peaks,
            "live_before": phases.before,
            "reserved": phases.reserved,
            **caught,
        }

    def options(self, case: Case, model: Path, runs: Path) -> dict[str, Any]:
        data = runs / "rows.jsonl"
        answers = 4 if case.options.get("advantage") in ("rloo", "grpo") else 1
        count = case.batch_size // answers if case.stage == "ppo" else case.batch_size
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(case, count)))
        options = case.options | {
            "model": str(model), "runs": str(runs), "device": self.device, "batch_size": case.batch_size,
            "max_steps": 2, "force": True, "quiet": True,
        }  # fmt: skip
        if case.stage == "ppo":
            reward = self.scorer(case.model, lora="lora_rank" in case.options)
            lengths = {"max_prompt_length": case.prompt, "max_new_tokens": case.answer}
            return options | lengths | {"prompts": [str(data)], "reward": [f"rm={reward}"], "ppo_epochs": 1}
        options |= {"data": [str(data)], "max_length": case.prompt + case.answer}
        return options | ({"eval_share": 0.0} if case.stage == "train-rm" else {})

    def run(self, case: Case, options: dict[str, Any], phases: Phases | None) -> dict[str, Any]:
        """One run of the stage; where `phases` are given it is measured, and nothing is saved."""
        stage = BY_COMMAND[case.stage]
        module = importlib.import_module(stage.module)
        inputs = prepare(stage.config(**options))
        if case.stage == "ppo":
            module.end_ids = lambda *_: frozenset()  # every answer is of full length
        caught: dict[str, Any] = {}
        finish, training = session.Session.finish, session.Session.training

        def finished(run: Any, *_: Any, **__: Any) -> None:
            caught["seconds"] = round(run.train_seconds, 2)
            caught["resident"] = run.peak_bytes if self.device == "cpu" else None
            caught["step_seconds"] = [row[n] for row in run.log.rows for n in ("time/step", "time/train") if n in row]
            run.log.close()

        session.Session.finish = finished  # type: ignore[assignment]
        if phases is not None:
            mark(phases)
            session.Session.training = lambda run: Measured(training(run), phases)  # type: ignore[assignment]
        try:
            module.train(inputs, SILENT)
        finally:
            session.Session.finish, session.Session.training = finish, training  # type: ignore[method-assign]
        return caught

    def model(self, name: str) -> Path:
        """A model of this shape with random weights, in bfloat16, with a tokenizer of fewer tokens than it has."""
        path = self.folder / name
        if not path.is_dir():
            with torch.device(self.device):
                made = AutoModelForCausalLM.from_config(transformers_config(SHAPES[name]), dtype=torch.bfloat16)
            made.save_pretrained(path)
            AutoTokenizer.from_pretrained(TINY).save_pretrained(path)
        return path

    def scorer(self, name: str, lora: bool) -> Path:
        """A reward model of the same shape; with `lora` an adapter on the policy's base."""
        path = self.folder / f"{name}-scorer{'-lora' if lora else ''}"
        if path.is_dir():
            return path
        config = AutoConfig.from_pretrained(self.model(name), num_labels=1, pad_token_id=0)
        with torch.device(self.device):
            made: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
        if lora:
            adapter = LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type=TaskType.SEQ_CLS, modules_to_save=["score"]
            )
            made = get_peft_model(made, adapter)
            made.peft_config["default"].base_model_name_or_path = str(self.model(name))
        made.save_pretrained(path)
        AutoTokenizer.from_pretrained(TINY).save_pretrained(path)
        return path


class Measured:
    """The session's own `training()`, with the meter running inside."""

    def __init__(self, inner: Any, phases: Phases) -> None:
        self._inner, self._phases = inner, phases

    def __enter__(self) -> None:
        self._inner.__enter__()
        self._phases.meter.__enter__()
        self._phases.start()

    def __exit__(self, *error: Any) -> Any:
        self._phases.stop()
        self._phases.meter.__exit__(*error)
        return self._inner.__exit__(*error)


def mark(phases: Phases) -> None:
    """Where the phases are: the functions that each is."""
    for steps in (
        sft.SFTSteps, reward.RewardSteps, dpo.DPOSteps,
        kto.KTOSteps,
    ):  # fmt: skip
        phases.wrap(steps, "summed_loss", "forward")
    phases.wrap(kto.KTOSteps, "begin", "reference")
    phases.wrap(ReferenceLogps, "of", "reference")
    phases.wrap(PPO, "_add_gradients", "forward")
    phases.wrap(generation, "generate", "generate")
    phases.wrap(rollout, "_judge", "judge")
    phases.wrap(Scorer, "__call__", "score")
    phases.wrap(Accelerator, "backward", "backward")
    phases.wrap(Accelerator, "clip_grad_norm_", "clip")
    phases.wrap(ppo_loop, "clip_each", "clip")
    phases.wrap(AcceleratedOptimizer, "step", "optimizer")


def transformers_config(a: Architecture) -> Any:
    if a.family == "gpt2":
        return AutoConfig.for_model(
            "gpt2", n_layer=a.layers, n_embd=a.hidden, n_head=a.heads, vocab_size=a.vocab, n_positions=a.positions,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=4, eos_token_id=4,
        )  # fmt: skip
    return AutoConfig.for_model(
        a.family, num_hidden_layers=a.layers, hidden_size=a.hidden, num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads, intermediate_size=a.ffn, vocab_size=a.vocab, tie_word_embeddings=a.tied,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip


def writer() -> Callable[[int], str]:
    """Makes texts of as many tokens as it is told, of the words of `tiny`'s tokenizer; always the same ones."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    words = [text for i in range(len(tokenizer)) if (text := tokenizer.decode([i]))[:1] == " " and text[1:].isalpha()]
    draw = random.Random(0)

    def text(tokens: int) -> str:
        while True:
            made = "".join(draw.choices(words, k=tokens))
            if len(tokenizer(made)["input_ids"]) == tokens:
                return made

    return text


def rows(case: Case, count: int) -> list[dict[str, Any]]:
    """Rows whose prompts and answers have the case's lengths in tokens, the answers' end token included."""
    text = writer()
    found: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {"prompt": text(case.prompt)}
        if case.stage in ("sft", "kto"):
            row["completion"] = text(case.answer - 1)
        if case.stage == "kto":
            row["label"] = number % 2 == 0
        if case.stage in ("train-rm", "dpo"):
            row |= {"chosen": text(case.answer - 1), "rejected": text(case.answer - 1)}
        found.append(row)
    return found


if __name__ == "__main__":
    main()

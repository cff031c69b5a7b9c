"""TRL's PPOTrainer on prompts that benchmarks.ppo wrote. Runs in the virtual environment of TRL 1.12, without prefcli.

As in TRL's examples (examples/scripts/ppo): prompts padded on the left, four models, `--stop_token eos`,
`--missing_eos_penalty 1.0`, the policy saved at the end; all else at its defaults but for precision, checkpointing and
what is given below. With --lora-rank its policy is an adapter and the reference
the same model without it; its value model stays whole, as PPOTrainer has no adapter for it.

Writes one JSON object a rollout to --log as soon as TRL logs it: TRL's metrics and, by wrapped functions, seconds
generating ("time/generate": batch_generation), training ("time/train": from the first forward pass with gradients) and
between the two ("time/score": log-probabilities, values, scores, advantages), and the mean answer up to its EOS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Clock(TrainerCallback):
    """Notes when the phases of a rollout begin and end, and writes its line."""

    def __init__(self, path: Path) -> None:
        self._log = path.open("w", encoding="utf-8")
        self._started = self._generated = self._trains = 0.0
        self._mean_length = 0.0
        self._generate, self._forward = ppo_trainer.batch_generation, ppo_trainer.forward
        self._truncate = ppo_trainer.truncate_response
        ppo_trainer.batch_generation, ppo_trainer.forward = self.generate, self.forward
        ppo_trainer.truncate_response = self.truncate

    def generate(self, *args: Any) -> Any:
        self._started, self._trains = time.perf_counter(), 0.0
        found = self._generate(*args)
        self._generated = time.perf_counter()
        return found

    def forward(self, *args: Any) -> Any:
        if torch.is_grad_enabled() and not self._trains:
            self._trains = time.perf_counter()
        return self._forward(*args)

    def truncate(self, stop_token_id: int, pad_token_id: int, responses: torch.Tensor) -> Any:
        lengths = [row.index(stop_token_id) + 1 if stop_token_id in row else len(row) for row in responses.tolist()]
        self._mean_length = sum(lengths) / len(lengths)
        return self._truncate(stop_token_id, pad_token_id, responses)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        times = {
            "time/generate": self._generated - self._started,
            "time/score": self._trains - self._generated,
            "time/train": time.perf_counter() - self._trains,
        }
        self._log.write(json.dumps({**logs, **times, "completions/mean_length": self._mean_length}) + "\n")
        self._log.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scorer", required=True, help="sequence classifier: the reward and value models' start")
    parser.add_argument("--prompts", type=Path, required=True, help="one rollout's prompts, lines of {input_ids}")
    parser.add_argument("--rollouts", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sys.stdout = sys.stderr  # who started this reads the log, not what TRL prints
    rows = [{"input_ids": json.loads(line)["input_ids"]} for line in args.prompts.read_text().splitlines()]
    config = PPOConfig(
        output_dir=str(args.out),
        per_device_train_batch_size=len(rows),
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=args.rollouts * len(rows),
        response_length=args.new,
        temperature=args.temperature,
        stop_token="eos",
        missing_eos_penalty=1.0,
        learning_rate=args.lr,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=args.bf16,
        use_cpu=True,
        seed=args.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(args.scorer, num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    reference, adapter = None, None
    if args.lora_rank:
        adapter = LoraConfig(
            r=args.lora_rank, lora_alpha=2 * args.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    else:
        reference = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list(rows),
        peft_config=adapter,
        callbacks=[Clock(args.log)],
    )
    trainer.train()
    trainer.save_model(str(args.out))


if __name__ == "__main__":
    main()

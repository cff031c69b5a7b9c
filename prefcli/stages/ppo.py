"""RLHF, stage 3: PPO against a reward. Opens the four roles, runs the loop of prefcli/rl, saves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Artifact
from prefcli.data.formats import Row
from prefcli.data.tokenising import Encoder
from prefcli.errors import DataError, UsageError
from prefcli.models.adapters import with_adapter
from prefcli.models.loading import is_adapter, is_scorer, load_policy, load_scorer
from prefcli.models.tokenizers import check_tokenizer, end_ids, load_tokenizer, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.sources import Answer, RewardSource, load_reward
from prefcli.rl.ppo import PPO
from prefcli.rl.roles import Prompt, Roles, Score
from prefcli.stages.inputs import Inputs
from prefcli.stages.plan import rollouts
from prefcli.stages.policy import open_policy
from prefcli.stages.session import Session, session

FINAL = (
    "objective/scores",
    "objective/kl",
    "objective/kl_k3",
    "objective/rlhf_reward",
    "objective/entropy",
    "completions/mean_length",
    "loss/policy_avg",
    "loss/value_avg",
    "policy/clipfrac_avg",
    "val/ratio",
)
TAIL = 5  # the manifest's final metrics are means over so many last rollouts: one alone is noisy


def train(inputs: Inputs, reporter: Reporter) -> Artifact:
    """Train against the reward and return the finished artifact."""
    config = inputs.config
    with session(inputs, reporter) as run:
        accelerator = Accelerator(
            cpu=run.device.type == "cpu",
            mixed_precision={torch.bfloat16: "bf16", torch.float16: "fp16"}.get(run.dtype, "no"),
            log_with=None if config.report_to == "none" else config.report_to,
            project_dir=str(run.draft.path / "state"),
        )
        share = _share(config.batch_size, accelerator.num_processes)
        opened = open_policy(run)
        sources = [
            load_reward(spec, opened.tokenizer, dtype=run.dtype, device=run.device, reporter=reporter)
            for spec in inputs.rewards
        ]
        value, value_from = _value(run, opened.tokenizer)
        if inputs.references["reference"] != inputs.model:
            check_tokenizer("--reference", inputs.references["reference"], opened.tokenizer, reporter)
        reference = load_policy(
            inputs.references["reference"],
            dtype=run.dtype,
            device=run.device,
            trainable=False,
            tokenizer_size=len(opened.tokenizer),
        )
        prompts = encode_prompts(inputs.data.rows, opened.tokenizer, config.max_prompt_length, reporter)
        total = rollouts(config, len(prompts))
        roles = Roles(opened.model, value, reference.eval().requires_grad_(False), scorer_of(sources))
        ppo = PPO(
            roles,
            config,
            tokenizer=opened.tokenizer,
            accelerator=accelerator,
            total_rollouts=total,
            lr=config.lr,
            eos_ids=end_ids(opened.tokenizer, opened.model.generation_config),
        )
        if config.report_to != "none":
            accelerator.init_trackers("prefcli", config={k: str(v) for k, v in vars(config).items()})
        order = passes(prompts, config.batch_size, config.seed)
        reporter.begin("ppo", total)
        history: list[dict[str, float]] = []
        tokens = 0.0
        with run.training():
            for step in range(1, total + 1):
                batch = next(order)[accelerator.process_index * share :][:share]
                metrics = ppo.step(batch)
                tokens += metrics["completions/mean_length"] * config.batch_size
                history.append(metrics)
                run.log.write(step, metrics)
                reporter.advance(step, metrics)
                if config.report_to != "none":
                    accelerator.log(metrics, step=step)
        if config.report_to != "none":
            accelerator.end_training()
        tail = history[-TAIL:]
        final = {name: sum(m[name] for m in tail) / len(tail) for name in FINAL if name in tail[0]}
        return run.finish(
            opened.model,
            opened.tokenizer,
            metrics=final,
            steps=total,
            tokens=int(tokens),
            about=opened.about | {"value_from": value_from},
            saves_merged=opened.saves_merged,
            value=value,
        )


def encode_prompts(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int, reporter: Reporter
) -> list[Prompt]:
    """Prompts as the policy reads them; those that are too long are left out, and counted.

    Raises DataError where none is left.
    """
    encoder = Encoder(tokenizer)
    prompts = [Prompt(encoder.prompt_ids(row.prompt), row) for row in rows]
    kept = [prompt for prompt in prompts if len(prompt.ids) <= max_prompt_length]
    if not kept:
        raise DataError(
            f"all {len(prompts)} prompts are longer than --max-prompt-length {max_prompt_length}",
            "raise --max-prompt-length",
        )
    if len(kept) < len(prompts):
        reporter.notice(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts are longer than --max-prompt-length "
            f"{max_prompt_length} and left out"
        )
    return kept


def passes(prompts: list[Prompt], batch_size: int, seed: int) -> Iterator[list[Prompt]]:
    """Batches without end: one shuffled pass over the prompts after another, no prompt left out at a pass's end."""
    draw = random.Random(seed)
    queue: list[Prompt] = []
    while True:
        while len(queue) < batch_size:
            queue += draw.sample(prompts, len(prompts))
        yield queue[:batch_size]
        queue = queue[batch_size:]


def scorer_of(sources: list[RewardSource]) -> Score:
    """All sources' scores of a rollout's answers, by name."""

    def score(prompts: list[Prompt], completion_ids: list[list[int]], completions: list[str]) -> dict[str, Any]:
        answers = [
            Answer(prompt.row.prompt, text, prompt.ids, ids, prompt.row.columns)
            for prompt, ids, text in zip(prompts, completion_ids, completions)
        ]
        return {source.name: source.score(answers) for source in sources}

    return score


def _value(run: Session, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, str]:
    """The value model and what it came from: --value-init, else a reward model that reads the policy's ids, else the
    policy with a fresh head (arXiv 2403.17031 starts it from the reward model)."""
    reference = _value_reference(run, tokenizer)
    model = load_scorer(
        reference,
        tokenizer,
        dtype=run.trained_dtype,
        device=run.device,
        new_head=not is_scorer(reference),
        trainable=run.inputs.config.lora_rank > 0,
        seed=run.inputs.config.seed,
    )
    if is_adapter(reference) and not is_scorer(reference):
        run.reporter.notice(f"the value model starts from {reference.shown} with its adapter merged")
    trained = with_adapter(
        model, run.inputs.config.lora_rank, run.inputs.config.lora_alpha, scorer=True, reporter=run.reporter
    )
    return trained.requires_grad_(True) if run.inputs.config.lora_rank == 0 else trained, reference.shown


def _value_reference(run: Session, tokenizer: PreTrainedTokenizerBase) -> Reference:
    named = run.inputs.references.get("value_init")
    if named is not None:
        check_tokenizer("--value-init", named, tokenizer, run.reporter)
        return named
    for spec in run.inputs.rewards:
        if spec.reference is not None and is_scorer(spec.reference):
            if tokenizer_digest(load_tokenizer(spec.reference, run.reporter)) == tokenizer_digest(tokenizer):
                return spec.reference
    return run.inputs.model


def _share(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise UsageError(
            f"--batch-size {batch_size} cannot be divided over {processes} processes", f"use a multiple of {processes}"
        )
    return batch_size // processes

"""One rollout: the policy samples answers, and all four roles score them, without gradients.

Shapes: B answers, C tokens of the longest one. An answer's actions are its tokens up to and including its EOS: the EOS
is trained, nothing after it exists. An answer without one was cut off at the length limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from prefcli import losses
from prefcli.config.ppo import PPOConfig
from prefcli.data.encoder import Encoder
from prefcli.models.generation import InProcess, Sampler, evaluation_mode
from prefcli.models.logps import token_logps, token_values
from prefcli.models.rows import Rows, pad_rows, parts
from prefcli.models.sharding import in_step
from prefcli.rl.roles import Prompt, Roles

HEAVIEST = 2.0  # importance weight: C of Yao et al. 2025 (losses.truncated_weights), and of verl's and TRL's examples


@dataclass(frozen=True)
class Rollout:
    prompts: list[Prompt]
    completion_ids: list[list[int]]  # with their EOS
    completions: list[str]  # without it
    rows: Rows  # prompts with completions, right-padded
    mask: Tensor  # [B, C] True on the answers' tokens
    logps: Tensor  # [B, C] log π_old at the sampling temperature; 0 in padding, like the next two
    reference_logps: Tensor  # [B, C] log π_ref at the same temperature
    values: Tensor  # [B, C] V_old of the state before each token
    ended: Tensor  # [B] True where the answer ended by itself
    raw_scores: dict[str, Tensor]  # source → [B]
    scores: Tensor  # [B] their sum, clipped, less the penalties for length and for a missing EOS
    seconds: dict[str, float] = field(default_factory=dict)  # "generate", "score"
    sampler_logps: Tensor | None = None  # [B, C] of the server that drew the answers; None: the policy did, here
    weights: Tensor | None = None  # [B, C] of the policy's terms, for what the server drew otherwise; None: 1


@torch.no_grad()
def collect(
    roles: Roles,
    prompts: list[Prompt],
    config: PPOConfig,
    *,
    tokenizer: Any,
    eos_ids: frozenset[int],
    pad_id: int,
    draws: Tensor,
    minibatches: Sequence[Tensor],
    tokens_per_row: int | None = None,
    device: torch.device | str,
    progress: Callable[[int], None] | None = None,
    sampler: Sampler | None = None,
    judge_policy: bool = True,
) -> Rollout:
    """Answers to `prompts` and everything that PPO needs to know about them; `draws` [B, max_new_tokens] decide them,
    where the policy draws them itself and no other `sampler` does.

    They are judged in the passes that the first epoch's `minibatches`, the answers' places, will run in. Without
    `judge_policy` the policy's own log-probabilities are left 0, for the update to fill in.
    """
    started = time.perf_counter()
    completion_ids, drawn = (sampler or InProcess(roles.policy)).sample(
        [prompt.ids for prompt in prompts],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        eos_ids=eos_ids,
        pad_id=pad_id,
        draws=draws,
        batch_size=config.generation_batch,
        progress=progress,
    )
    generated = time.perf_counter()
    completions = decode(tokenizer, completion_ids, eos_ids)
    raw_scores = {
        name: scores.detach().to(device, torch.float32)
        for name, scores in roles.score(prompts, completion_ids, completions).items()
    }
    ended = torch.tensor([ids[-1] in eos_ids for ids in completion_ids], device=device)
    scores = torch.stack(list(raw_scores.values())).sum(0)
    if config.reward_clip:
        scores = scores.clamp(-config.reward_clip, config.reward_clip)
    lengths = torch.tensor([float(len(ids)) for ids in completion_ids], device=device)
    scores = scores - config.missing_eos_penalty * ~ended - config.length_penalty * lengths
    rows = pad_rows([prompt.ids for prompt in prompts], completion_ids, pad_id=pad_id, device=device)
    logps, reference_logps, values = _judge(roles, rows, config, minibatches, tokens_per_row, judge_policy)
    sampler_logps, weights = None, None
    if drawn is not None:
        flat = torch.tensor([logp for one in drawn for logp in one], device=device)
        sampler_logps = torch.zeros_like(logps).masked_scatter(rows.mask, flat)
        if config.importance_weights in ("token", "sequence"):
            weights = losses.truncated_weights(logps, sampler_logps, rows.mask, config.importance_weights, HEAVIEST)
    return Rollout(
        prompts=prompts,
        completion_ids=completion_ids,
        completions=completions,
        rows=rows,
        mask=rows.mask,
        logps=logps,
        reference_logps=reference_logps,
        values=values,
        ended=ended,
        raw_scores=raw_scores,
        scores=scores,
        seconds={"generate": generated - started, "score": time.perf_counter() - generated},
        sampler_logps=sampler_logps,
        weights=weights,
    )


def decode(tokenizer: Any, completion_ids: list[list[int]], eos_ids: frozenset[int]) -> list[str]:
    """The answers as text, without the EOS that ended them, which need not be a special token."""
    encoder = Encoder(tokenizer)
    return [encoder.answer_text(ids[:-1] if ids[-1] in eos_ids else ids) for ids in completion_ids]


def _judge(
    roles: Roles,
    rows: Rows,
    config: PPOConfig,
    minibatches: Sequence[Tensor],
    tokens_per_row: int | None,
    judge_policy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under policy and reference, and values (0 without a value model): three [B, C]."""
    judged = torch.zeros(3, *rows.mask.shape, device=rows.input_ids.device)
    with ExitStack() as stack:
        for model in (roles.policy, roles.reference, roles.value):
            if model is not None:
                stack.enter_context(evaluation_mode(model))
        answers = config.num_generations or 1
        each = (micro_batches(one, rows, config.grad_accum, tokens_per_row, answers) for one in minibatches)
        for index, counts in in_step(roles.policy, list(chain.from_iterable(each)), rows.lengths.argmin()[None]):
            part = rows.select(index)
            width = part.mask.shape[1] if counts else 0
            if judge_policy:
                judged[0, index, :width] = token_logps(roles.policy, part, config.temperature).logps[:, :width]
            judged[1, index, :width] = token_logps(roles.reference, part, config.temperature).logps[:, :width]
            if roles.value is not None:
                judged[2, index, :width] = token_values(roles.value, part)[:, :width]
    return judged[0], judged[1], judged[2]


def micro_batches(
    index: Tensor, rows: Rows, grad_accum: int, tokens_per_row: int | None, answers: int
) -> Iterator[Tensor]:
    """`index` in parts for one forward pass each.

    Padded: `grad_accum` parts, alike in length, so that little is spent on padding. Packed (with `tokens_per_row`): so
    many tokens, the `answers` to a prompt, which stand next to each other in `index`, kept together.
    """
    if tokens_per_row is None:
        yield from index[rows.lengths[index].argsort(stable=True)].split(-(-len(index) // grad_accum))
        return
    groups = index.view(-1, answers)
    costs = rows.prompt_lengths[groups[:, 0]] + rows.completion_lengths[groups].sum(1)
    yield from (groups[part].flatten() for part in parts(costs.tolist(), tokens_per_row))

"""The four roles of PPO on language models, and the prompts they act on. Roles need not be separate models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from prefcli.data.row import Row


@dataclass(frozen=True)
class Prompt:
    """One row of the prompts file: what the policy reads, and what a reward source may want to know."""

    ids: list[int]
    row: Row


# (prompts, completion ids with their EOS, completions as text) → score of each answer [B] by reward source.
# Weights are already applied: the trainer adds the sources up.
Score = Callable[[list[Prompt], list[list[int]], list[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class Roles:
    policy: nn.Module  # causal LM, trained
    value: nn.Module | None  # one-label sequence classifier, trained: a state's expected return; None without GAE
    reference: nn.Module  # causal LM, frozen: the KL penalty keeps the policy near it
    score: Score  # what an answer is worth

"""A policy's own preference: the reward that it was trained towards without a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefcli.data.encoder import Encoder
from prefcli.errors import DataError
from prefcli.models.logps import token_logps
from prefcli.models.positions import positions_of
from prefcli.models.rows import pad_rows
from prefcli.rewards.sources import Answer

ROWS = 16  # in a batch


class ImplicitReward:
    """Σ_t log π(y_t | x, y_<t) − log π_ref(y_t | x, y_<t) of an answer: DPO's implicit reward (arXiv 2305.18290,
    equation 5) without the factor β, and without β·log Z(x), which is the same for all answers to a prompt."""

    def __init__(self, name: str, policy: Any, reference: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name, self._models = name, (policy.eval(), reference.eval())
        self._encoder = Encoder(tokenizer)

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores, on the CPU. Raises DataError: an answer is longer than the models have positions for."""
        prompts = [self._encoder.prompt_ids(answer.prompt) for answer in answers]
        completions = [self._encoder.completion_ids(answer.prompt, answer.completion, ended=answer.ended)
                       for answer in answers]  # fmt: skip
        lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions)]
        for model in self._models:
            positions = positions_of(model.config)
            if positions is not None and max(lengths) > positions:
                raise DataError(
                    f"a prompt with its answer has {max(lengths)} tokens, and {self.name} reads {positions}",
                    "leave longer ones out",
                )
        device = next(self._models[0].parameters()).device
        order = sorted(range(len(answers)), key=lengths.__getitem__)  # alike in length: little padding
        scores = torch.zeros(len(answers))
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            rows = pad_rows([prompts[i] for i in part], [completions[i] for i in part], device=device)
            own, others = (token_logps(model, rows).logps.sum(1) for model in self._models)
            scores[part] = (own - others).cpu()
        return scores

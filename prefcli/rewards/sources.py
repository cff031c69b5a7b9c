"""Reward sources, loaded: each turns prompts and answers into one score an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefcli.data.formats import Prompt, text_of
from prefcli.data.tokenising import Encoder
from prefcli.errors import ArtifactError
from prefcli.models.loading import is_scorer, load_scorer
from prefcli.models.logps import pad_rows, sequence_scores
from prefcli.models.tokenizers import load_tokenizer, template_digest, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec
from prefcli.rewards.python import Function, load_function


@dataclass(frozen=True)
class Answer:
    """What a source may look at: the prompt's row, the answer's text, and the policy's own ids where there are any."""

    prompt: Prompt
    completion: str
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    columns: dict[str, Any] | None = None


class PythonReward:
    """A user's function. It sees the prompt's text and the answer's, and the other columns of the rows."""

    def __init__(self, name: str, function: Function) -> None:
        self.name, self._function = name, function

    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores."""
        names = {name for answer in answers for name in answer.columns or {}} - {"prompts", "completions"}
        columns = {name: [(answer.columns or {}).get(name) for answer in answers] for name in names}
        texts = [text_of(answer.prompt) for answer in answers]
        return torch.tensor(self._function(texts, [answer.completion for answer in answers], **columns))


class ModelReward:
    """A sequence classifier, read at an answer's last token.

    It scores the policy's own ids where both have the same tokenizer and template; else the text, rendered anew with
    the reward model's (an id means another token to another tokenizer).
    """

    def __init__(
        self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase, *, same_ids: bool, batch_size: int = 16
    ) -> None:
        self.name, self.model, self.same_ids = name, model.eval().requires_grad_(False), same_ids
        self._encoder, self._batch_size = Encoder(tokenizer), batch_size

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores, on the CPU."""
        ids = [self._ids(answer) for answer in answers]
        order = sorted(range(len(ids)), key=lambda i: sum(map(len, ids[i])))  # alike in length: little padding
        scores = torch.zeros(len(ids))
        device = next(self.model.parameters()).device
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            rows = pad_rows([ids[i][0] for i in part], [ids[i][1] for i in part], device=device)
            scores[part] = sequence_scores(self.model, rows).cpu()
        return scores

    def _ids(self, answer: Answer) -> tuple[list[int], list[int]]:
        if self.same_ids and answer.prompt_ids is not None and answer.completion_ids is not None:
            return answer.prompt_ids, answer.completion_ids
        return (
            self._encoder.prompt_ids(answer.prompt),
            self._encoder.completion_ids(answer.prompt, answer.completion),
        )


RewardSource = PythonReward | ModelReward


def load_reward(
    spec: RewardSpec,
    policy_tokenizer: PreTrainedTokenizerBase | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    reporter: Reporter,
) -> RewardSource:
    """A source ready to score.

    Raises ArtifactError: a language model in a reward model's place, a head that is missing, a file that fails.
    """
    if spec.reference is None:
        return PythonReward(spec.name, load_function(spec))
    reference = spec.reference
    if not is_scorer(reference):
        raise ArtifactError(
            f"--reward {spec.text} is not a reward model",
            "train one with: prefcli train-rm --data pairs.jsonl, or give python:FILE:FUNCTION",
        )
    tokenizer = load_tokenizer(reference, reporter)
    model = load_scorer(reference, tokenizer, dtype=dtype, device=device)
    same = policy_tokenizer is not None and tokenizer_digest(tokenizer) == tokenizer_digest(policy_tokenizer)
    same = same and policy_tokenizer is not None and template_digest(tokenizer) == template_digest(policy_tokenizer)
    if policy_tokenizer is not None and not same:
        reporter.notice(
            f"reward {spec.name} has another tokenizer or chat template than the policy: "
            "it scores the text, rendered with its own"
        )
    return ModelReward(spec.name, model, tokenizer, same_ids=bool(same))

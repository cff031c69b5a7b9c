"""Per-token log-probabilities, entropies and values of completions, from any padded causal LM or reward model.

Shapes: B rows, T tokens of the longest prompt with its completion, C tokens of the longest completion, N completion
tokens in all rows together, V vocabulary. A row is its prompt, then its completion, then padding. Everything here goes
by the lengths in `Rows`, never by a padding token, so a token that doubles as padding may stand inside a row.

The models are called through their own `forward`, so wrappers (PEFT, DDP, autocast) take part; hooks on the heads
narrow the language-model head to the N positions that are read, and let out the score head's value at every position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefcli.errors import ArtifactError, DataError


@dataclass(frozen=True)
class Rows:
    """Prompts with their completions, right-padded. Build it with `pad_rows`."""

    input_ids: Tensor  # [B, T]
    prompt_lengths: Tensor  # [B], each at least 1
    completion_lengths: Tensor  # [B]

    @property
    def lengths(self) -> Tensor:
        return self.prompt_lengths + self.completion_lengths

    @cached_property
    def attention_mask(self) -> Tensor:
        """[B, T], 1 on prompt and completion."""
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return (columns < self.lengths[:, None]).long()

    @cached_property
    def mask(self) -> Tensor:
        """[B, C], True on completion tokens."""
        width = int(self.completion_lengths.max())
        return torch.arange(width, device=self.input_ids.device) < self.completion_lengths[:, None]

    @cached_property
    def states(self) -> Tensor:
        """[B, C], the column whose hidden state precedes completion token t: prompt length − 1 + t; 0 in padding."""
        columns = self.prompt_lengths[:, None] - 1 + torch.arange(self.mask.shape[1], device=self.input_ids.device)
        return torch.where(self.mask, columns, 0)

    def select(self, index: Tensor) -> Rows:
        """The rows at `index`, cut to the longest of them."""
        prompt_lengths, completion_lengths = self.prompt_lengths[index], self.completion_lengths[index]
        width = int((prompt_lengths + completion_lengths).max())
        return Rows(self.input_ids[index, :width], prompt_lengths, completion_lengths)


class TokenLogps(NamedTuple):
    logps: Tensor  # [B, C] log π(token | what stands before it), 0 in padding
    entropy: Tensor  # [B, C] entropy of π(· | what stands before it) in nats, 0 in padding
    mask: Tensor  # [B, C] True on completion tokens


def pad_rows(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int = 0,
    device: torch.device | str = "cpu",
) -> Rows:
    """Right-padded rows of token ids."""
    if not all(prompts):
        raise DataError("a prompt has no tokens", "every prompt needs at least one token, such as the tokenizer's BOS")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    return Rows(
        torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device),
        torch.tensor([len(prompt) for prompt in prompts], device=device),
        torch.tensor([len(completion) for completion in completions], device=device),
    )


def token_logps(model: nn.Module, rows: Rows, temperature: float = 1.0, *, entropy_grad: bool = False) -> TokenLogps:
    """log softmax(logits / temperature) of each completion token, in float32, and the entropies.

    The entropy carries gradients only with `entropy_grad`, since that keeps another [N, V] tensor alive.
    """
    mask = rows.mask
    logits = completion_logits(model, rows).float() / temperature  # [N, V]
    all_logps = torch.log_softmax(logits, dim=-1)
    targets = rows.input_ids.gather(1, (rows.states + 1) * mask)[mask]  # [N]
    logps = all_logps.gather(1, targets[:, None]).squeeze(1)
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        entropy = -(all_logps.exp() * all_logps).sum(-1)
    return TokenLogps(_spread(logps, mask), _spread(entropy, mask), mask)


def completion_logits(model: nn.Module, rows: Rows) -> Tensor:
    """[N, V] logits that predict the completion tokens, row after row. The head runs on these N positions alone."""
    mask = rows.mask
    index = (mask.nonzero()[:, 0], rows.states[mask])
    narrowed = False

    def narrow(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal narrowed
        hidden = inputs[0]
        if hidden.shape[:2] != rows.input_ids.shape:
            return inputs
        narrowed = True
        return (hidden[index].unsqueeze(0), *inputs[1:])

    head = language_model_head(model)
    hook = head.register_forward_pre_hook(narrow) if head is not None else None
    try:
        logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits[0] if narrowed else logits[index]


def token_values(model: nn.Module, rows: Rows) -> Tensor:
    """[B, C] values of a one-label sequence classifier at the states before each completion token, 0 in padding."""
    return all_scores(model, rows).gather(1, rows.states) * rows.mask


def sequence_scores(model: nn.Module, rows: Rows) -> Tensor:
    """[B] score of a one-label sequence classifier at the last token of each row."""
    return all_scores(model, rows).gather(1, rows.lengths[:, None] - 1).squeeze(1)


def all_scores(model: nn.Module, rows: Rows) -> Tensor:
    """[B, T] the score head's output at every position, in float32."""
    seen: list[Tensor] = []
    hook = score_head(model).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        with _some_pad_id(unwrap(model).config):
            model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False)
    finally:
        hook.remove()
    return seen[-1].squeeze(-1).float()


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP and its like, which keep it as `module`."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def language_model_head(model: nn.Module) -> nn.Module | None:
    get = getattr(unwrap(model), "get_output_embeddings", None)
    return get() if get is not None else None


def score_head(model: nn.Module) -> nn.Module:
    head = getattr(unwrap(model), "score", None)
    if head is None:
        raise ArtifactError(
            f"{type(unwrap(model)).__name__} has no head named score",
            "reward and value models are AutoModelForSequenceClassification with one label",
        )
    return head


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    """[N] values at the True places of mask [B, C], 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


@contextmanager
def _some_pad_id(config: Any) -> Iterator[None]:
    """Sequence classifiers refuse a batch where no padding id is set; what they pool by it is not used here."""
    config = config.get_text_config()
    before = config.pad_token_id
    config.pad_token_id = 0 if before is None else before
    try:
        yield
    finally:
        config.pad_token_id = before

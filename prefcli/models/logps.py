"""Per-token log-probabilities, entropies and values of completions, from any causal LM or reward model.

Shapes: B rows, C tokens of the longest completion, N completion tokens in all rows together, V vocabulary.

The models are called through their own `forward`, so wrappers (PEFT, DDP, autocast) take part. Hooks on the heads
narrow the language-model head to the N positions that are read, and let out the score head's value at every position.
A model that `packed.pack` has prepared runs on the packed form of the rows, any other on the padded one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefcli.errors import ArtifactError
from prefcli.models.packed_attention import PACKED, packed_call
from prefcli.models.rows import Rows

CHUNK_BYTES = 2**28  # logits in float32 that exist at a time
ROWS_IN_CACHE = 2**20  # numbers of them that one pass of the softmax works on
# How far a figure may be from that of another layout of the same rows, relative to 1 + the largest of them.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class TokenLogps(NamedTuple):
    logps: Tensor  # [B, C] log π(token | what stands before it), 0 in padding
    entropy: Tensor  # [B, C] entropy of π(· | what stands before it) in nats, 0 in padding
    top: Tensor  # [B, C] True where the token is the most likely one, False in padding
    mask: Tensor  # [B, C] True on completion tokens
    balance: Tensor | None = None  # the routers' balancing loss of these rows, where it was asked for


def token_logps(
    model: nn.Module, rows: Rows, temperature: float = 1.0, *, entropy_grad: bool = False, balance: bool = False
) -> TokenLogps:
    """log softmax(logits / temperature) of each completion token, in float32, the entropies, and the hits.

    `balance` asks a mixture of experts for its routers' balancing loss (`completion_states`).

    The logits of at most CHUNK_BYTES exist at a time; the backward pass computes them again where there are more.
    The entropy carries gradients only with `entropy_grad`.
    """
    mask, targets = rows.mask, rows.targets
    hidden, to_logits, balancing = completion_states(model, rows, balance=balance)

    def of(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = to_logits(hidden).float()
        return SelectedLogps.apply(logits if temperature == 1 else logits / temperature, targets)

    size = max(1, CHUNK_BYTES // (4 * to_logits.vocabulary))
    pieces = [
        of(*part) if len(targets) <= size else checkpoint(of, *part, use_reentrant=False)
        for part in zip(hidden.split(size), targets.split(size))
    ]
    logps, entropy, top = (torch.cat(piece) for piece in zip(*pieces))
    entropy = entropy if entropy_grad else entropy.detach()
    return TokenLogps(_spread(logps, mask), _spread(entropy, mask), _spread(top, mask), mask, balancing)


class SelectedLogps(torch.autograd.Function):
    """log softmax(logits)[target], the entropy of softmax(logits), and whether the target is its largest.

    logits [n, V], float32; targets [n]; returns three [n]. Beside the logits and their gradient no [n, V] tensor is
    made; autograd's own softmax and entropy make four.

        ∂ log p_t / ∂ z_j = 1[j = t] − p_j        ∂ H / ∂ z_j = −p_j·(log p_j + H)
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = max(1, ROWS_IN_CACHE // logits.shape[1])
        totals, entropies, tops = [], [], []
        for part in logits.split(size):
            largest, top = part.max(-1, keepdim=True)
            shifted = part - largest
            weights = shifted.exp()
            total = weights.sum(-1, keepdim=True)
            log_total = total.log()
            totals.append(log_total + largest)
            # H = log Σ exp z − Σ p·z, with z shifted by the largest
            entropies.append(
                (log_total - (weights * shifted.clamp(min=-1e30)).sum(-1, keepdim=True) / total).squeeze(1)
            )
            tops.append(top.squeeze(1))
        total, entropy = torch.cat(totals), torch.cat(entropies)
        ctx.save_for_backward(logits, targets, total, entropy)
        ctx.set_materialize_grads(False)
        top = torch.cat(tops) == targets
        ctx.mark_non_differentiable(top)
        return logits.gather(1, targets[:, None]).squeeze(1) - total.squeeze(1), entropy, top

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None]:
        logits, targets, total, entropy = ctx.saved_tensors
        logps_grad, entropy_grad = grads[:2]
        if logps_grad is None and entropy_grad is None:
            return None, None
        gradient = torch.empty_like(logits)
        size = max(1, ROWS_IN_CACHE // logits.shape[1])
        for i in range(0, len(logits), size):
            cut = slice(i, i + size)
            all_logps = logits[cut] - total[cut]
            p = all_logps.exp()
            factor = -logps_grad[cut, None] if logps_grad is not None else 0.0
            if entropy_grad is not None:
                factor = factor - entropy_grad[cut, None] * (all_logps.clamp(min=-1e30) + entropy[cut, None])
            torch.mul(p, factor, out=gradient[cut])
        if logps_grad is not None:
            gradient.scatter_add_(1, targets[:, None], logps_grad[:, None])
        return gradient, None


class ToLogits:
    """From hidden states [n, h] to logits [n, V], as the model itself does it."""

    def __init__(self, head: nn.Module | None, config: Any, vocabulary: int) -> None:
        self.vocabulary, self._head = vocabulary, head
        # Gemma caps its logits, Cohere multiplies and Granite divides them.
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    def __call__(self, hidden: Tensor) -> Tensor:
        """`hidden` are the logits already where there is no head (the model has run it, on the narrowed positions)."""
        if self._head is None:
            return hidden
        logits = self._head(hidden)
        logits = logits if self._scale == 1 else logits * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


class States(NamedTuple):
    hidden: Tensor  # [N, h] what predicts the completion tokens, row after row; [N, V] where `to_logits` has no head
    to_logits: ToLogits
    balance: Tensor | None


def completion_states(model: nn.Module, rows: Rows, cache: Any = None, *, balance: bool = False) -> States:
    """The states that predict the completion tokens, and what makes logits of them.

    `cache`, for packed rows alone, is shown the keys and values of the packed row. On padded rows the model's own
    forward makes the logits, whatever it does to them after the head. On packed rows the head runs apart, so that it
    can run in chunks; `packed.pack` has compared the two.

    With `balance` a mixture of experts also returns the loss that balances its routers (arXiv 2101.03961, equation 4,
    as transformers computes it), over the tokens of all rows: those of a prompt that rows share count for each of them.
    """
    mask = rows.mask
    row = mask.nonzero()[:, 0]
    head = language_model_head(model)
    inputs = _packed_inputs(model, rows)
    if inputs is not None and head is not None:
        inputs["past_key_values"] = cache
        index = rows.layout.index[row, rows.states[mask]]
        seen: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen.append(args[0][0, index])
            return (args[0][:, :0], *args[1:])

        with _hooked(head.register_forward_pre_hook(take)), packed_call():
            output = model(**inputs, **_routers(model, balance))
        config = unwrap(model).config.get_text_config()
        return States(seen[0], ToLogits(head, config, config.vocab_size), getattr(output, "aux_loss", None))
    padded = (row, rows.states[mask])
    narrowed = False

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal narrowed
        if args[0].shape[:2] != rows.input_ids.shape:
            return args
        narrowed = True
        return (args[0][padded].unsqueeze(0), *args[1:])

    with _hooked(head.register_forward_pre_hook(narrow) if head is not None else None):
        output = model(
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            use_cache=False,
            **_routers(model, balance),
        )
    logits = output.logits[0] if narrowed else output.logits[padded]
    return States(logits, ToLogits(None, None, logits.shape[-1]), getattr(output, "aux_loss", None))


def completion_logits(model: nn.Module, rows: Rows, cache: Any = None) -> Tensor:
    """[N, V] logits that predict the completion tokens, row after row. The head runs on these N positions alone."""
    states = completion_states(model, rows, cache)
    return states.to_logits(states.hidden)


def token_values(model: nn.Module, rows: Rows) -> Tensor:
    """[B, C] values of a one-label sequence classifier at the states before each completion token, 0 in padding."""
    return _scores_at(model, rows, rows.states) * rows.mask


def sequence_scores(model: nn.Module, rows: Rows) -> Tensor:
    """[B] score of a one-label sequence classifier at the last token of each row."""
    return _scores_at(model, rows, rows.lengths[:, None] - 1).squeeze(1)


def _scores_at(model: nn.Module, rows: Rows, columns: Tensor) -> Tensor:
    """[B, n] the score head's output, in float32, at `columns` [B, n] of the padded rows."""
    seen: list[Tensor] = []
    inputs = _packed_inputs(model, rows)
    padded = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "use_cache": False}
    head = score_head(model)
    with (
        _hooked(head.register_forward_pre_hook(_in_its_format)),
        _hooked(head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))),
        _some_pad_id(unwrap(model).config),
    ):
        with nullcontext() if inputs is None else packed_call():
            model(**(inputs or padded), **_routers(model, False))
    scores = seen[-1].squeeze(-1).float()
    if inputs is not None:
        return scores[0, rows.layout.index.gather(1, columns)]
    return scores.gather(1, columns)


def _in_its_format(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The states as a head takes them where no autocast does it: one that is trained beside an adapter is float32,
    on a base of 16 bits."""
    weight: Any = head.weight  # of peft's wrapper the one at work
    return (args[0].to(weight.dtype), *args[1:])


def _packed_inputs(model: nn.Module, rows: Rows) -> dict[str, Any] | None:
    """What a model that was packed is called with; None for another.

    The models hand `layout` down to attention. A mask keeps transformers from guessing at texts in one row; its numbers
    are read as True, and by the routers' balancing loss as how often a token counts.
    """
    if not runs_packed(model):
        return None
    layout = rows.layout
    return {
        "input_ids": layout.input_ids,
        "position_ids": layout.position_ids,
        "attention_mask": layout.counts,
        "use_cache": False,  # with a cache transformers forgets that positions start again
        "layout": layout,
    }


def _routers(model: nn.Module, balance: bool) -> dict[str, bool]:
    """Whether the routers' values are wanted, whatever the model's configuration says."""
    config = unwrap(model).config.get_text_config()
    return {"output_router_logits": balance} if hasattr(config, "output_router_logits") else {}


def runs_packed(model: nn.Module) -> bool:
    """Whether `packed.pack` has prepared the model."""
    return bool(unwrap(model).config.get_text_config()._attn_implementation == PACKED)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP and its like, which keep it as `module`."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def transformers_model(model: nn.Module) -> Any:
    """The transformers model below DDP, PEFT and shared roles."""
    inner: Any = unwrap(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def tolerance(model: nn.Module, expected: Tensor) -> float:
    """How far values of this model may be from `expected` ones, of the same rows in another layout."""
    return TOLERANCES.get(computes_in(model), 5e-2) * (1 + float(expected.abs().max()))


def computes_in(model: nn.Module) -> torch.dtype:
    """The number format of its passes: that of autocast, where that is on."""
    weights = next(model.parameters())
    if weights.dtype == torch.float32 and torch.is_autocast_enabled(weights.device.type):
        return torch.get_autocast_dtype(weights.device.type)
    return weights.dtype


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
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


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

"""Attention over packed rows: one row without padding in which each prompt occurs once, its completions behind it.

The layers see [1, P] tokens; only attention knows of prompts and completions. It is an attention function in
transformers' own table, which is told of the layout by a keyword that the models hand down to it. It calls SDPA on each
prompt with its completions, so no P × P mask exists. On a GPU a call costs as much as its arithmetic, and cuDNN makes a
plan for every new length: in 16 bits a kernel for many lengths (torch has FlashAttention's) takes all prompts and
completions in one call; else a call of SDPA takes all prompts of like length.

Which tokens a layer lets see each other (a sliding window, a chunk) is asked of the model: what transformers would
build a mask from, a function of two positions, comes to the attention function in the mask's place (`Allowed`).

Without the layout both functions are transformers' own `sdpa`: a model that was packed still samples, and still runs on
padded rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefcli.models.rows import Layout

PACKED = "prefcli_packed"
TAKES_FEWER_KEYS = "enable_gqa" in signature(varlen_attn).parameters  # from torch 2.12
# What models hand to their attention beside what it names, and what changes none of its values.
HARMLESS = {
    "cache_position", "deterministic", "is_causal", "logits_to_keep", "output_attentions", "output_hidden_states",
    "output_router_logits", "past_key_values", "position_embeddings", "position_ids", "return_dict", "training",
    "use_cache",
}  # fmt: skip

# FlashAttention's limits, and its word for "a token sees those before it", the last query seeing the last key.
LARGEST_HEAD, AMPERE, CAUSAL = 256, (8, 0), (-1, 0)

_packed_call: ContextVar[bool] = ContextVar("packed_call", default=False)


@contextmanager
def packed_call() -> Iterator[None]:
    """Context in which models read packed rows: its masks are to be `Allowed`, not tensors of P × P."""
    token = _packed_call.set(True)
    try:
        yield
    finally:
        _packed_call.reset(token)


class Allowed:
    """What a layer's mask says of two positions in one text.

    `causal(length)`: whether in a text of that length it says no more than that a token sees those before it.
    """

    def __init__(self, function: Callable[..., Tensor], local: int | None, plain: bool) -> None:
        self._function, self._local, self._plain = function, local, plain
        self.masks: dict[Any, Tensor] = {}  # of the layouts' parts, for all layers that are handed this one

    def causal(self, length: int) -> bool:
        return self._plain and (self._local is None or length <= self._local)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """True where the token at position `query` sees the one at `key`; the two broadcast."""
        zero = torch.zeros((), dtype=torch.long, device=query.device)
        return self._function(zero, zero, query, key)


def mask(
    mask_function: Any = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = False,
    use_vmap: bool = False,
    device: Any = None,
    **kwargs: Any,
) -> Tensor | None:
    """transformers' mask interface. In a packed call: a tensor that stands for the mask, and carries it as `allowed`.

    Raises RuntimeError: a mask that is not made of positions.
    """
    if not _packed_call.get():
        made: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](
            mask_function=mask_function, local_size=local_size, allow_is_causal_skip=allow_is_causal_skip,
            use_vmap=use_vmap, device=device, **kwargs,
        )  # fmt: skip
        return made
    if use_vmap:
        raise RuntimeError("its mask goes by more than positions")
    stands_for: Any = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    stands_for.allowed = Allowed(mask_function, local_size, allow_is_causal_skip)
    return stands_for  # type: ignore[no-any-return]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, H, P, d], key and value [1, H_kv, P, d] → ([1, P, H, d], None).

    `softcap`, `scaling` and the sinks `s_aux` [H] (a score for every head that takes part in the softmax and has no
    value) are what the model's layer says; `sliding_window` stands in the mask too.
    Raises RuntimeError: packed rows, and the layer changes its mask or hands over more than is known here.
    """
    if layout is None and softcap is None and s_aux is None:
        if attention_mask is None and query.shape[2] == 1 and query.device.type == "cpu":
            # With a mask transformers lets heads share the keys that they read; without one torch's kernel prepares
            # them for each head, which in 16 bits takes five times as long.
            attention_mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool)
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **kwargs,
        )  # fmt: skip
        return found
    how: dict[str, Any] = {"dropout": dropout, "scale": scaling, "cap": softcap, "sinks": s_aux}
    allowed = None if layout is None else _allowed(module, attention_mask, kwargs)
    if layout is not None and allowed is not None and _takes_all_at_once(query, layout, allowed, how):
        return _all_at_once(query, key, value, layout, scaling), None
    copies = query.shape[1] // key.shape[1]
    if copies > 1:
        key, value = (kv.repeat_interleave(copies, dim=1) for kv in (key, value))
    if layout is None or allowed is None:
        return _attend(query, key, value, attention_mask, **how).transpose(1, 2), None
    attend = _one_by_one if query.device.type == "cpu" else _in_groups
    return attend(query, key, value, layout, allowed, **how), None


def _allowed(module: nn.Module, mask: Tensor | None, more: dict[str, Any]) -> Allowed:
    allowed: Allowed | None = getattr(mask, "allowed", None)
    if allowed is None:
        raise RuntimeError("its layers make or change their masks themselves")
    if more.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise RuntimeError("it has layers whose tokens see those after them")
    unknown = sorted(name for name, given in more.items() if given is not None and name not in HARMLESS)
    if unknown:
        raise RuntimeError(f"its attention takes {', '.join(unknown)}")
    return allowed


def _takes_all_at_once(query: Tensor, layout: Layout, allowed: Allowed, how: dict[str, Any]) -> bool:
    """Whether FlashAttention has what this layer needs: 16 bits, and a mask that says no more than causality."""
    return (
        TAKES_FEWER_KEYS
        and query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= LARGEST_HEAD
        and torch.cuda.get_device_capability(query.device) >= AMPERE
        and not how["dropout"]
        and how["cap"] is None
        and how["sinks"] is None
        and allowed.causal(layout.segments.longest_key)
    )


def _all_at_once(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None) -> Tensor:
    """q [1, H, P, d], k and v [1, H_kv, P, d] → [1, P, H, d]."""
    s = layout.segments
    query = q[0].transpose(0, 1).contiguous()  # [P, H, d]
    key, value = (x[0].transpose(0, 1)[s.keys] for x in (k, v))  # [K, H_kv, d]
    found = varlen_attn(
        query, key, value, s.query_ends, s.key_ends, s.longest_query, s.longest_key,
        scale=scale, window_size=CAUSAL, enable_gqa=True,
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found[None]


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, layout: Layout, allowed: Allowed, **how: Any) -> Tensor:
    """[1, H, P, d] each → [1, P, H, d]."""
    pieces = []
    sizes = [end - start for start, end, _ in layout.spans]  # slices would each have a gradient of the whole size
    parts = zip(layout.spans, *(x.split(sizes, dim=2) for x in (q, k, v)))
    for number, ((start, end, single), q_, k_, v_) in enumerate(parts):
        mask = None
        if not (single and allowed.causal(end - start)):
            if number not in allowed.masks:
                allowed.masks[number] = layout.mask(number, allowed)
            mask = allowed.masks[number]
        pieces.append(_attend(q_, k_, v_, mask, **how))
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous()  # some models take a view of it


def _in_groups(q: Tensor, k: Tensor, v: Tensor, layout: Layout, allowed: Allowed, **how: Any) -> Tensor:
    """[1, H, P, d] each → [1, P, H, d]."""
    pieces = []
    for group in layout.groups:
        q_, k_, v_ = (x[0][:, group.index].transpose(0, 1) for x in (q, k, v))  # [S, H, L, d]
        mask = None
        if not (group.single and allowed.causal(group.index.shape[1])):
            if group not in allowed.masks:
                allowed.masks[group] = group.mask(allowed)
            mask = allowed.masks[group]
        pieces.append(_attend(q_, k_, v_, mask, **how).transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)[layout.ungrouped][None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float | None,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """[B, H, L, d]; without a mask each token sees those before it. `cap`: scores become cap·tanh(score / cap)."""
    if cap is None and sinks is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale, is_causal=mask is None
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is None:
        new, seen = scores.shape[-2:]
        mask = torch.ones(new, seen, dtype=torch.bool, device=scores.device).tril(seen - new)
    # Not −inf: a padding token on the left sees nothing, and its NaN would reach those that give it no weight.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return nn.functional.dropout(weights[..., : value.shape[2]], dropout) @ value


ALL_ATTENTION_FUNCTIONS.register(PACKED, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, mask)

"""Attention over packed rows: one row without padding in which each prompt stands once, its completions behind it.

The layers see [1, P] tokens; only attention knows of prompts and completions. It is an attention function in
transformers' own table, which is told of the layout by a keyword that the models hand down to it. It calls SDPA on each
prompt with its completions, so no P × P mask exists; on a GPU on all prompts of like length at once, since there a call
costs as much as its arithmetic, and cuDNN makes a plan for every new length.

Without that keyword the function is transformers' own `sdpa`: a model that was packed still samples, and still runs on
padded rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefcli.models.rows import Layout

PACKED = "prefcli_packed"


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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, H, P, d], key and value [1, H_kv, P, d] → ([1, P, H, d], None).

    `sliding_window`, `softcap` and `scaling` are what the model's layer says.
    """
    if layout is None and softcap is None:
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **kwargs,
        )  # fmt: skip
        return found
    copies = query.shape[1] // key.shape[1]
    if copies > 1:
        key, value = (kv.repeat_interleave(copies, dim=1) for kv in (key, value))
    if layout is None:
        return _attend(query, key, value, attention_mask, dropout, scaling, softcap).transpose(1, 2), None
    attend = _one_by_one if query.device.type == "cpu" else _in_groups
    return attend(query, key, value, layout, sliding_window, dropout=dropout, scale=scaling, cap=softcap), None


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None, **how: Any) -> Tensor:
    """[1, H, P, d] each → [1, P, H, d]."""
    pieces = []
    for number, (start, end, single) in enumerate(layout.spans):
        causal = single and (window is None or end - start <= window)
        mask = None if causal else layout.mask(number, window)
        q_, k_, v_ = (x[:, :, start:end] for x in (q, k, v))
        pieces.append(_attend(q_, k_, v_, mask, **how))
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _in_groups(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None, **how: Any) -> Tensor:
    """[1, H, P, d] each → [1, P, H, d]."""
    pieces = []
    for group in layout.groups:
        q_, k_, v_ = (x[0][:, group.index].transpose(0, 1) for x in (q, k, v))  # [S, H, L, d]
        causal = group.single and (window is None or group.index.shape[1] <= window)
        mask = None if causal else group.mask(window)
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
) -> Tensor:
    """[B, H, L, d]; without a mask each token sees those before it. `cap`: scores become cap·tanh(score / cap)."""
    if cap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale, is_causal=mask is None
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = cap * torch.tanh(scores / cap)
    if mask is None:
        new, seen = scores.shape[-2:]
        mask = torch.ones(new, seen, dtype=torch.bool, device=scores.device).tril(seen - new)
    # Not −inf: a padding token on the left sees nothing, and its NaN would reach those that give it no weight.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return nn.functional.dropout(weights, dropout) @ value


ALL_ATTENTION_FUNCTIONS.register(PACKED, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])

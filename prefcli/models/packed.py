"""Preparing a model for the packed forward: switch its attention over, and check that its numbers stay the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prefcli.models.generation import evaluation_mode
from prefcli.models.logps import sequence_scores, token_logps, token_values, tolerance, transformers_model, unwrap
from prefcli.models.packed_attention import PACKED
from prefcli.models.rows import Rows, pad_rows
from prefcli.text import first_line


def pack(model: nn.Module) -> str | None:
    """Make `models.logps` run this causal LM or sequence classifier on packed rows.

    Two prompts with two answers each are run both ways: the values must be equal, and changing one answer must leave
    its sibling's alone. Where the configuration names a limit that these rows do not reach (a window, a chunk, a number
    of tokens that share a scale), they are run once more with a limit that they reach. Returns None, or in words why
    the model stays on padded rows; so do then all that stand on the same base (`models/shared.py`).
    """
    base = transformers_model(model)
    if base.config.get_text_config()._attn_implementation == PACKED:
        return None
    if not hasattr(base, STAYS):
        reason = _tried(model, base)
        if reason is None:
            return None
        setattr(base, STAYS, reason)
    return str(getattr(base, STAYS))


STAYS = "stays_on_padded_rows"


def _tried(model: nn.Module, base: Any) -> str | None:
    before = base.config.get_text_config()._attn_implementation
    if before not in ("sdpa", "eager"):
        return f"its attention is {before}"
    if not isinstance(base.config.get_text_config().vocab_size, int):
        return "its vocabulary is not known"
    rows, changed = _examples(base.config.get_text_config().vocab_size, next(model.parameters()).device)
    with torch.no_grad(), evaluation_mode(model):
        expected = _figures(model, rows)
        base.set_attn_implementation(PACKED)
        if base.config.get_text_config()._attn_implementation != PACKED:
            return "it does not let its attention be set"
        try:
            found, other = _figures(model, rows), _figures(model, changed)
        except Exception as error:  # a model that does not take position_ids, or does not hand the layout down
            base.set_attn_implementation(before)
            return f"its forward fails on packed rows ({first_line(error)})"
        allowed = tolerance(model, expected)
        off = float((found - expected).abs().max())
        leak = float((found[SIBLINGS] - other[SIBLINGS]).abs().max())
        reason = None
        if leak > allowed:
            reason = f"its answers see each other on packed rows (by {leak:.2g})"
        elif not off <= allowed:  # NaN too
            reason = f"its values on packed rows are off by {off:.2g}"
        else:
            reason = _off_at_a_limit(model, rows, before, allowed)
    base.set_attn_implementation(before if reason else PACKED)
    return reason


def _off_at_a_limit(model: nn.Module, rows: Rows, unpacked: str, allowed: float) -> str | None:
    base = transformers_model(model)
    for name in _limits(base):
        with _lowered(base, name):
            base.set_attn_implementation(unpacked)
            try:
                expected = _figures(model, rows)
            except Exception:  # it does not run with another: a size, not a limit
                continue
            base.set_attn_implementation(PACKED)
            try:
                found = _figures(model, rows)
            except Exception as error:
                return f"its forward fails on packed rows beyond {name} ({first_line(error)})"
        if not (off := float((found - expected).abs().max())) <= allowed:
            return f"its values on packed rows are off by {off:.2g} beyond {name}"
    return None


# What configurations call a number of tokens, or of positions, from which a layer does something else.
LIMITS = re.compile("window|chunk|topk|top_k|block_size|floor_scale|original_max_position")
REACHED = 16  # by the rows of the check


def _limits(base: Any) -> list[str]:
    config = vars(base.config.get_text_config())
    return [
        name for name, value in config.items()
        if LIMITS.search(name) and isinstance(value, (int, float)) and value > REACHED
    ]  # fmt: skip


@contextmanager
def _lowered(base: Any, name: str) -> Iterator[None]:
    """The model with a limit of 16, in its configuration and where its layers keep a copy."""
    config = base.config.get_text_config()
    value = getattr(config, name)
    places = [module for module in base.modules() if vars(module).get(name) == value]
    for place in (config, *places):
        setattr(place, name, type(value)(REACHED))
    try:
        yield
    finally:
        for place in (config, *places):
            setattr(place, name, value)


SIBLINGS = [0, 3]  # of the four rows: those whose own tokens do not change


def _examples(vocabulary: int, device: torch.device) -> tuple[Rows, Rows]:
    """Two prompts with two answers each; and the same with one answer of each prompt changed."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (80,), generator=draw).tolist()
    prompts, answers = [tokens[:23], tokens[23:30]], [tokens[30:39], tokens[39:50], tokens[50:55], tokens[55:70]]
    changed = [
        answers[0],
        [(t + 1) % vocabulary for t in answers[1]],
        [(t + 1) % vocabulary for t in answers[2]],
        answers[3],
    ]
    both = [prompts[0], prompts[0], prompts[1], prompts[1]]
    return pad_rows(both, answers, device=device), pad_rows(both, changed, device=device)


def _figures(model: nn.Module, rows: Rows) -> Tensor:
    """[4, n] log-probabilities of a language model, or values and scores of a classifier."""
    if hasattr(unwrap(model), "score"):
        return torch.cat([token_values(model, rows), sequence_scores(model, rows)[:, None]], dim=1)
    return token_logps(model, rows).logps

"""The longest text that a model reads: the positions that its configuration names."""

from __future__ import annotations

from typing import Any

from prefcli.errors import UsageError
from prefcli.models.classes import AFTER_PADDING
from prefcli.models.loading import configuration


def positions_of(config: Any) -> int | None:
    """The longest sequence, in tokens, that a model of this configuration reads; None where there is no limit."""
    config = config.get_text_config()
    attention = getattr(config, "attn_config", None)  # MPT's
    if getattr(config, "alibi", False) or getattr(attention, "alibi", False):  # distances instead of positions
        return None
    positions: int | None = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if positions and config.model_type in AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return min((limit for limit in (positions, turns_from(config)) if limit and limit > 0), default=None)  # XLNet's: -1


def turns_from(config: Any) -> int | None:
    """From how many tokens on a model turns positions by the longest row of a batch (LongRoPE, dynamic NTK).

    Beyond it a row's values depend on the rows beside it, and are not those that it has alone.
    """
    scaling = getattr(config, "rope_parameters", None) or {}
    if not isinstance(scaling, dict) or scaling.get("rope_type") not in ("longrope", "dynamic"):
        return None
    own = scaling.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(own or config.max_position_embeddings)


def refuse_longer(references: dict[str, Any], longest: int, fits: str) -> None:
    """Raise UsageError where a model, by its role, reads fewer tokens than the `longest` row has.

    `fits` says what to give, with {} for the number of tokens. No weights are loaded.
    """
    for role, reference in references.items():
        config = configuration(reference)
        positions = positions_of(config)
        if positions is None or longest <= positions:
            continue
        why = f"the {role} {reference.shown} reads {positions}"
        if positions == turns_from(config.get_text_config()):
            why = f"beyond {positions} the values of a row of {reference.shown} depend on the rows beside it"
        raise UsageError(f"rows have up to {longest} tokens, and {why}", fits.format(positions))

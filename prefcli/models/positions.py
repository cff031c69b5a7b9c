"""How long a text a model reads: the positions that its configuration names."""

from __future__ import annotations

from typing import Any

from prefcli.errors import UsageError
from prefcli.models.loading import configuration


def positions_of(config: Any) -> int | None:
    """The longest sequence, in tokens, that a model of this configuration reads; None where there is no limit."""
    config = config.get_text_config()
    attention = getattr(config, "attn_config", None)  # MPT's
    if getattr(config, "alibi", False) or getattr(attention, "alibi", False):  # distances in place of positions
        return None
    positions: int | None = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return positions


def refuse_longer(references: dict[str, Any], longest: int, fits: str) -> None:
    """Raise UsageError where a model, by its role, reads fewer tokens than the `longest` row has.

    `fits` says what to give, with {} for the number of tokens. No weights are loaded.
    """
    for role, reference in references.items():
        positions = positions_of(configuration(reference))
        if positions is not None and longest > positions:
            raise UsageError(
                f"rows have up to {longest} tokens, and the {role} {reference.shown} reads {positions}",
                fits.format(positions),
            )

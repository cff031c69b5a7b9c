"""Everything that decides the result of a command that answers or scores: the same resume its unfinished work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.base import key_fields
from prefcli.models.devices import computed_on
from prefcli.rewards.grammar import RewardSpec
from prefcli.urls import address, is_url


def causes(command: str, config: Any, device: torch.device, dtype: torch.dtype, **found: Any) -> dict[str, Any]:
    """A JSON object: the options, those that name a file or a model by what they name (`found`), and what it runs
    on."""
    return {"command": command, **key_fields(config), **computed_on(device, dtype), **found}


def of_model(reference: Reference | None) -> list[str | None] | None:
    """Its name and its digest; a model of the hub has none, and counts by its name."""
    return None if reference is None else [reference.shown, reference.digest]


def of_rewards(specs: Sequence[RewardSpec]) -> list[list[str | None]]:
    """A service has no digest, and counts by its address; its timeout does not count."""
    return [[spec.name, address(spec.text), spec.function, spec.label, spec.digest] for spec in specs]


def of_judge(what: str, store: Store) -> list[str | None] | None:
    """A model, or URL#MODEL."""
    return [address(what), None] if is_url(what) else of_model(resolve(what, store))

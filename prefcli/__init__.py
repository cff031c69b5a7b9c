"""prefcli: teach a language model human preferences, by RLHF or by DPO, and measure which route won.

What the commands do is here as functions: docs/python.md. Everything is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefcli.artifacts.store import Artifact as Artifact
    from prefcli.artifacts.store import Store as Store
    from prefcli.cli.console import ConsoleReporter as ConsoleReporter
    from prefcli.config.dpo import DPOConfig as DPOConfig
    from prefcli.config.kto import KTOConfig as KTOConfig
    from prefcli.config.orpo import ORPOConfig as ORPOConfig
    from prefcli.config.ppo import PPOConfig as PPOConfig
    from prefcli.config.reward import RewardConfig as RewardConfig
    from prefcli.config.sft import SFTConfig as SFTConfig
    from prefcli.errors import PrefcliError as PrefcliError
    from prefcli.models.opening import open_model as open_model
    from prefcli.progress import Reporter as Reporter
    from prefcli.stages.run import train as train

__version__ = "0.1.0"

# Name → the module that has it.
_EXPORTS = {
    "Artifact": "prefcli.artifacts.store",
    "ConsoleReporter": "prefcli.cli.console",
    "DPOConfig": "prefcli.config.dpo",
    "KTOConfig": "prefcli.config.kto",
    "ORPOConfig": "prefcli.config.orpo",
    "PPOConfig": "prefcli.config.ppo",
    "PrefcliError": "prefcli.errors",
    "Reporter": "prefcli.progress",
    "RewardConfig": "prefcli.config.reward",
    "SFTConfig": "prefcli.config.sft",
    "Store": "prefcli.artifacts.store",
    "open_model": "prefcli.models.opening",
    "train": "prefcli.stages.run",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prefcli' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})

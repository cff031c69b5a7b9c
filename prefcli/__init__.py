"""prefcli: teach a language model human preferences, by RLHF or by DPO, and measure which route won.

What the commands do is here as functions: docs/python.md. Everything is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefcli.api import Scored as Scored
    from prefcli.api import compare as compare
    from prefcli.api import evaluate as evaluate
    from prefcli.api import label as label
    from prefcli.api import mem_estimate as mem_estimate
    from prefcli.api import sample as sample
    from prefcli.api import score as score
    from prefcli.artifacts.store import Artifact as Artifact
    from prefcli.artifacts.store import Store as Store
    from prefcli.cli.console import ConsoleReporter as ConsoleReporter
    from prefcli.config.compare import CompareConfig as CompareConfig
    from prefcli.config.dpo import DPOConfig as DPOConfig
    from prefcli.config.evaluate import EvalConfig as EvalConfig
    from prefcli.config.kto import KTOConfig as KTOConfig
    from prefcli.config.label import LabelConfig as LabelConfig
    from prefcli.config.memory import MemoryConfig as MemoryConfig
    from prefcli.config.orpo import ORPOConfig as ORPOConfig
    from prefcli.config.ppo import PPOConfig as PPOConfig
    from prefcli.config.reward import RewardConfig as RewardConfig
    from prefcli.config.sample import SampleConfig as SampleConfig
    from prefcli.config.score import ScoreConfig as ScoreConfig
    from prefcli.config.sft import SFTConfig as SFTConfig
    from prefcli.errors import PrefcliError as PrefcliError
    from prefcli.models.opening import open_model as open_model
    from prefcli.progress import Reporter as Reporter
    from prefcli.stages.run import train as train

__version__ = "0.1.0"

# Name → the module that has it.
_EXPORTS = {
    "Artifact": "prefcli.artifacts.store",
    "compare": "prefcli.api",
    "CompareConfig": "prefcli.config.compare",
    "ConsoleReporter": "prefcli.cli.console",
    "DPOConfig": "prefcli.config.dpo",
    "EvalConfig": "prefcli.config.evaluate",
    "evaluate": "prefcli.api",
    "KTOConfig": "prefcli.config.kto",
    "label": "prefcli.api",
    "LabelConfig": "prefcli.config.label",
    "mem_estimate": "prefcli.api",
    "MemoryConfig": "prefcli.config.memory",
    "open_model": "prefcli.models.opening",
    "ORPOConfig": "prefcli.config.orpo",
    "PPOConfig": "prefcli.config.ppo",
    "PrefcliError": "prefcli.errors",
    "Reporter": "prefcli.progress",
    "RewardConfig": "prefcli.config.reward",
    "sample": "prefcli.api",
    "SampleConfig": "prefcli.config.sample",
    "score": "prefcli.api",
    "ScoreConfig": "prefcli.config.score",
    "Scored": "prefcli.api",
    "SFTConfig": "prefcli.config.sft",
    "Store": "prefcli.artifacts.store",
    "train": "prefcli.stages.run",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prefcli' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})

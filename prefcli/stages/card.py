"""The model card: README.md of an artifact, or of what was exported from one, written from its manifest."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from prefcli.artifacts.lineage import Node
from prefcli.artifacts.manifest import Manifest
from prefcli.config.base import option
from prefcli.config.dpo import DPOConfig
from prefcli.config.kto import KTOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.training import OutputConfig

TITLES = {
    "sft": "fine-tuned on demonstrations",
    "rm": "reward model",
    "dpo": "trained with DPO",
    "ppo": "trained with PPO",
    "kto": "trained with KTO",
}
COMMANDS = {
    "sft": ("sft", SFTConfig),
    "rm": ("train-rm", RewardConfig),
    "dpo": ("dpo", DPOConfig),
    "kto": ("kto", KTOConfig),
    "ppo": ("ppo", PPOConfig),
}
# How a run is shown and where it lies is the reader's own affair.
NOT_REPEATED = {field.name for field in dataclasses.fields(OutputConfig)} - {"name"}


@dataclass(frozen=True)
class Weights:
    """What the card stands beside. `place` is what from_pretrained is given; `base` what an adapter stands on;
    `hub_root` the hub's model that it goes back to."""

    place: str
    scorer: bool
    base: str | None = None
    hub_root: str | None = None


def model_card(manifest: Manifest, weights: Weights, *, part: str = "model", tree: Node | None = None) -> str:
    """Markdown with Hugging Face metadata at its head.

    `part` is the folder of the artifact that the weights are from, `tree` what it was made from all the way down.
    """
    which = "" if part == "model" else f", its {part}"
    parts = [
        _head(weights, manifest.stage),
        f"# {manifest.name} v{manifest.version}{which}: {TITLES[manifest.stage]}",
        "Made by [prefcli](https://github.com/prefcli/prefcli) "
        f"{manifest.environment.get('prefcli', '')} on {manifest.created}.",
        "## Made from\n\n"
        + _table(
            ("role", "artifact or model", "digest"),
            [(role, parent["ref"], str(parent["digest"])[:12]) for role, parent in sorted(manifest.parents.items())],
        ),
        *(["All the way down:\n\n" + "\n".join(_branches(tree))] if tree else []),
        "## Data\n\n"
        + _table(("file", "format", "rows"), [(d["path"], d["format"], d["rows"]) for d in manifest.data]),
        f"## Results{' at the end of the run' if part.startswith('state') else ''}\n\n"
        + _table(("metric", "value"), [(name, _shown(value)) for name, value in sorted(manifest.metrics.items())]),
        "## Options\n\n"
        + _table(("option", "value"), [(n, v) for n, v in manifest.config.items() if v not in (None, [], False)]),
        f"The same run again:\n\n```sh\n{command(manifest)}\n```",
        _use(weights),
    ]
    return "\n\n".join(parts) + "\n"


def plain_card(name: str, weights: Weights) -> str:
    """The card of a model that no artifact tells of: what it is, and how to open it."""
    return "\n\n".join([_head(weights), f"# {name}", "Exported by prefcli.", _use(weights)]) + "\n"


def command(manifest: Manifest) -> str:
    """The command line that made an artifact: its options that are not the defaults, its start by its exact version."""
    if manifest.stage not in COMMANDS:
        return f"prefcli {manifest.stage}"
    name, config = COMMANDS[manifest.stage]
    words = ["prefcli", name]
    given = dict(manifest.config) | {"model": manifest.parents.get("model", {}).get("ref")}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = given.get(field.name)
        default = [] if field.default is dataclasses.MISSING else field.default
        if field.name in NOT_REPEATED or value is None or value == default:
            continue
        if isinstance(value, bool):
            words.append(option(field.name if value else f"no_{field.name}"))
        else:
            words += [word for item in (value if isinstance(value, list) else [value])
                      for word in (option(field.name), str(item))]  # fmt: skip
    return shlex.join(words)


def _head(weights: Weights, stage: str | None = None) -> str:
    metadata: dict[str, Any] = {
        "library_name": "peft" if weights.base else "transformers",
        "pipeline_tag": "text-classification" if weights.scorer else "text-generation",
        "tags": ["prefcli", *([stage] if stage else [])],
    }
    if weights.hub_root:  # the hub takes its own names alone
        metadata |= {
            "base_model": weights.hub_root,
            "base_model_relation": "adapter" if weights.base else "finetune",
        }
    return "---\n" + yaml.safe_dump(metadata, sort_keys=False) + "---"


def _use(weights: Weights) -> str:
    opens = "AutoModelForSequenceClassification" if weights.scorer else "AutoModelForCausalLM"
    place = repr(weights.place)
    lines = [
        f"from transformers import {opens}, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({place})",
    ]
    if weights.base is None:
        lines.append(f"model = {opens}.from_pretrained({place})")
    elif weights.scorer:
        lines.insert(0, "from peft import PeftModel")
        lines += [
            f"base = {opens}.from_pretrained({weights.base!r}, num_labels=1)",
            "base.config.pad_token_id = tokenizer.pad_token_id",
            f"model = PeftModel.from_pretrained(base, {place})",
        ]
    else:
        lines[0] = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        lines.append(f"model = AutoPeftModelForCausalLM.from_pretrained({place})")
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _branches(node: Node, depth: int = 0) -> list[str]:
    role = f"{node.role}: " if node.role else ""
    state = "" if node.state == "ok" else f" ({node.state} now)"
    lines = [f"{'  ' * depth}- {role}`{node.ref}`{state}"]
    return lines + [line for parent in node.parents for line in _branches(parent, depth + 1)]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "(none)"
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " to ".join(_shown(item) for item in value)
    return str(value)

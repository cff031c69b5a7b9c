"""The model card: README.md of an artifact, written from its manifest alone."""

from __future__ import annotations

from typing import Any

import yaml

from prefcli.artifacts.manifest import Manifest

TITLES = {
    "sft": "fine-tuned on demonstrations",
    "rm": "reward model",
    "dpo": "trained with DPO",
    "ppo": "trained with PPO",
    "kto": "trained with KTO",
}


def model_card(manifest: Manifest) -> str:
    """Markdown with Hugging Face metadata at its head."""
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if manifest.stage == "rm" else "text-generation",
        "tags": ["prefcli", manifest.stage],
    }
    opens = "AutoModelForSequenceClassification" if manifest.stage == "rm" else "AutoModelForCausalLM"
    parts = [
        "---\n" + yaml.safe_dump(metadata, sort_keys=False) + "---",
        f"# {manifest.name} v{manifest.version}: {TITLES[manifest.stage]}",
        "Made by [prefcli](https://github.com/prefcli/prefcli) "
        f"{manifest.environment.get('prefcli', '')} on {manifest.created}.",
        "## Made from\n\n"
        + _table(
            ("role", "artifact or model", "digest"),
            [(role, parent["ref"], str(parent["digest"])[:12]) for role, parent in sorted(manifest.parents.items())],
        ),
        "## Data\n\n"
        + _table(("file", "format", "rows"), [(d["path"], d["format"], d["rows"]) for d in manifest.data]),
        "## Results\n\n"
        + _table(("metric", "value"), [(name, _shown(value)) for name, value in sorted(manifest.metrics.items())]),
        "## Options\n\n"
        + _table(("option", "value"), [(n, v) for n, v in manifest.config.items() if v not in (None, [], False)]),
        f"## Use\n\n```python\nfrom transformers import {opens}, AutoTokenizer\n\n"
        f'model = {opens}.from_pretrained("model")\ntokenizer = AutoTokenizer.from_pretrained("model")\n```',
    ]
    return "\n\n".join(parts) + "\n"


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

"""The model card: README.md of an artifact, or of what was exported from one. Its facts are those of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from prefcli.artifacts.facts import Run, run_facts
from prefcli.artifacts.lineage import Node
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.metrics import Row
from prefcli.memory.sizes import format_bytes

TEXT = "`text` is a prompt with its answer as the chat template writes them, up to and with the end token."
_IDS = 'ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)'


@dataclass(frozen=True)
class Weights:
    """The weights that the card describes. `place` is what from_pretrained is given; `base` an adapter's base;
    `hub_root` the hub's model that it goes back to; `opens` the Auto class, by default the usual one; `backbone` the
    name of the part below a head that no class of transformers has (models/classes.py)."""

    place: str
    scorer: bool
    base: str | None = None
    hub_root: str | None = None
    opens: str | None = None
    backbone: str | None = None


def model_card(
    manifest: Manifest,
    weights: Weights,
    *,
    part: str = "model",
    tree: Node | None = None,
    rows: Sequence[Row] = (),
) -> str:
    """Markdown with Hugging Face metadata at its head.

    `part` is the folder of the artifact that the weights are from, `tree` what it was made from all the way down,
    `rows` its metrics log.
    """
    run = run_facts(manifest, rows)
    which = "" if part == "model" else f", its {part}"
    parts = [
        _head(weights, run.stage),
        f"# {manifest.name} v{manifest.version}{which}: {run.title}",
        f"Made by [prefcli](https://github.com/prefcli/prefcli) {run.environment.get('prefcli', '')} on {run.created}.",
        *_warnings(run),
        "## Made from\n\n"
        + _table(
            ("role", "artifact or model", "digest"),
            [(parent["role"], parent["ref"], str(parent["digest"])[:12]) for parent in run.parents],
        ),
        *(["All the way down:\n\n" + "\n".join(_branches(tree))] if tree else []),
        "## Data\n\n" + _table(("file", "format", "rows"), [(d["path"], d["format"], d["rows"]) for d in run.data]),
        f"## Results{' at the end of the run' if part.startswith('state') else ''}\n\n"
        + _table(("metric", "value"), [(name, _shown(value)) for name, value in sorted(run.metrics.items())]),
        "## What it took\n\n" + _table(("", "value"), _took(run)),
        "## Options\n\n" + _table(("option", "value"), list(run.options.items())),
        f"The same run again:\n\n{_fenced(run.command)}",
        _use(weights, part != "value"),
    ]
    return "\n\n".join(parts) + "\n"


def _warnings(run: Run) -> list[str]:
    """Warnings for users of the model: that the run was stopped, and its alarms."""
    said = ["**The run was stopped by a watcher before its end.**"] if run.status == "stopped" else []
    if run.alarms:
        said.append(f"Alarms while it was trained, by step: {run.alarms_said}.")
    return said


def _took(run: Run) -> list[tuple[Any, ...]]:
    """Steps, time and memory, as far as they are known."""
    forms: dict[str, tuple[str, Callable[[float], str]]] = {
        "steps": ("steps", str),
        "train_seconds": ("training", lambda seconds: f"{seconds:.1f} s"),
        "tokens_per_second": ("tokens a second", _shown),
        "predicted_peak_bytes": ("peak memory, predicted", format_bytes),
        "measured_peak_bytes": ("peak memory, measured", format_bytes),
    }
    known = {name: value for name in forms if (value := run.resources.get(name)) is not None}
    return [(forms[name][0], forms[name][1](value)) for name, value in known.items()]


def plain_card(name: str, weights: Weights) -> str:
    """The card of a model that no artifact tells of: what it is, and how to open it."""
    return "\n\n".join([_head(weights), f"# {_plain(name)}", "Exported by prefcli.", _use(weights)]) + "\n"


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


READ_AT = (
    "The score is read at the answer's end token, at which this chat template ends a dialogue: "
    "`text = tokenizer.apply_chat_template(messages, tokenize=False)`. Others write a newline after it, and a score "
    "at that newline means nothing."
)


def _use(weights: Weights, scores: bool = True) -> str:
    """`scores`: whole answers, as a reward model; ppo's value model speaks of states."""
    if weights.backbone is not None:
        return _use_by_hand(weights)
    opens = weights.opens or ("AutoModelForSequenceClassification" if weights.scorer else "AutoModelForCausalLM")
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
    elif opens == "AutoModelForCausalLM":
        lines[0] = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        lines.append(f"model = AutoPeftModelForCausalLM.from_pretrained({place})")
    else:
        lines.insert(0, "from peft import PeftModel")
        lines.append(f"model = PeftModel.from_pretrained({opens}.from_pretrained({weights.base!r}), {place})")
    if not (weights.scorer and scores):
        return _python(lines)
    return _python([*lines, "", _IDS, "score = model(**ids).logits[0, 0]"], f"{TEXT} {READ_AT}")


def _use_by_hand(weights: Weights) -> str:
    """A scorer of a family without a sequence classifier in transformers: its backbone, and the head on it."""
    place = repr(weights.place)
    if weights.base is None:
        lines = [
            "from safetensors.torch import load_file",
            "from transformers import AutoModel, AutoTokenizer",
            "from transformers.utils import cached_file",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({place})",
            f"model = AutoModel.from_pretrained({place})",
            f'head = load_file(cached_file({place}, "score.safetensors"))["weight"]',
            "",
            _IDS,
            "score = model(**ids).last_hidden_state[0, -1] @ head[0]",
        ]
    else:
        lines = [
            "import torch",
            "from peft import PeftModel",
            f"from transformers import {weights.opens}, AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({place})",
            f"base = {weights.opens}.from_pretrained({weights.base!r})",
            "base.score = torch.nn.Linear(base.config.get_text_config().hidden_size, 1, bias=False)",
            f"model = PeftModel.from_pretrained(base, {place})",
            "",
            _IDS,
            f"score = base.score(base.{weights.backbone}(**ids).last_hidden_state[0, -1])",
        ]
    return _python(lines, f"{TEXT} {READ_AT}")


def _python(lines: list[str], told: str = "") -> str:
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```" + (f"\n\n{told}" if told else "")


def _branches(node: Node, depth: int = 0) -> list[str]:
    role = f"{node.role}: " if node.role else ""
    state = "" if node.state == "ok" else f" ({node.state} now)"
    lines = [f"{'  ' * depth}- {role}{_verbatim(node.ref)}{state}"]
    return lines + [line for parent in node.parents for line in _branches(parent, depth + 1)]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "(none)"
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_plain(str(cell)).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text on one line that Markdown shows as it is: names of files are whatever somebody called them."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("`", "\\`").replace("](", "]\\(")


def _verbatim(text: str) -> str:
    """As code within a line."""
    text = " ".join(text.split())
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _fenced(command: str) -> str:
    """As a block of code that nothing in it can end."""
    fence = "`" * max(3, _longest_run(command) + 1)
    return f"{fence}sh\n{command}\n{fence}"


def _longest_run(text: str) -> int:
    """Of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " to ".join(_shown(item) for item in value)
    return str(value)

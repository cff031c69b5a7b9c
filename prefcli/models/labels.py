"""Reward models with several labels: which of them is the score, by name or number, or a weighted sum of some.

A sum of labels is one label whose row in the head is the same sum of rows, so the model is made into one with one label
when it is opened, and nothing else knows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from prefcli.artifacts.bases import is_adapter_directory
from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError, UsageError
from prefcli.models.files import rows_of_head

FORM = "name one, or weigh several: helpfulness, 0, helpfulness=0.7,verbosity=-0.3"


def labels_of(reference: Reference, config: PretrainedConfig, label: str | None) -> int:
    """The number of labels of a reward model's head.

    Raises ArtifactError: several, and none is chosen, or an adapter's. UsageError: one is chosen of a model with one.
    """
    count = how_many(reference, config)
    if count > 1 and reference.path is not None and is_adapter_directory(reference.path):
        raise ArtifactError(
            f"{reference.text} is an adapter whose head has {count} labels",
            "merge it with peft (merge_and_unload), save that, and choose one of its labels with --label",
        )
    if count > 1 and label is None:
        names = ", ".join(_names(config, count))
        raise ArtifactError(
            f"{reference.text} has {count} labels ({names}), and a reward is one number",
            f"choose with --label: {FORM}",
        )
    if count == 1 and label is not None:
        raise UsageError(f"--label {label}: {reference.text} has one label", "leave --label out")
    return count


def how_many(reference: Reference, config: PretrainedConfig) -> int:
    """Labels of a reward model: the rows of its head, or what its configuration says."""
    in_file = rows_of_head(reference.path) if reference.path is not None else None
    adapter = reference.path is not None and is_adapter_directory(reference.path)
    return in_file or (1 if adapter else int(getattr(config, "num_labels", 1) or 1))


def _names(config: PretrainedConfig, count: int) -> list[str]:
    """The labels' names, or their numbers where the configuration names others."""
    names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    return names if len(names) == count else list(map(str, range(count)))


def one_label(scorer: Any, reference: Reference, label: str | None) -> None:
    """Give a scorer with several labels the one that `label` says. Raises UsageError: no such label."""
    assert label is not None
    head = scorer.score
    weights = label_weights(label, scorer.config, reference, head.out_features)
    with torch.no_grad():
        row = torch.tensor(weights, dtype=torch.float32) @ head.weight.float()
        made = nn.Linear(head.in_features, 1, bias=head.bias is not None, dtype=head.weight.dtype)
        made.weight.copy_(row[None])
        if head.bias is not None:
            made.bias.copy_(torch.tensor(weights) @ head.bias.float())
    scorer.score, scorer.num_labels, scorer.config.num_labels = made, 1, 1


def label_weights(label: str, config: PretrainedConfig, reference: Reference, count: int) -> list[float]:
    """The weight of each label, in the order of the head's rows."""
    names = {name: number for number, name in enumerate(_names(config, count))}
    weights = [0.0] * len(names)
    for part in label.split(","):
        name, _, weight = part.strip().rpartition("=") if "=" in part else (part.strip(), "", "1")
        place = names.get(name, int(name) if name.isascii() and name.isdecimal() else -1)
        if not 0 <= place < len(weights) or (number := _finite(weight)) is None:
            raise UsageError(
                f"--label {label}: {reference.text} has the labels {', '.join(names)} (0 to {len(names) - 1})", FORM
            )
        weights[place] += number
    return weights


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

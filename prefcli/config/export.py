"""Options of `prefcli export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Dtype, Label, Quiet, Stored


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Quiet, Stored):
    """A finished model as one plain directory."""

    ref: Annotated[str, Arg("Artifact, kept step, directory, GGUF file or 'tiny'.", metavar="REF")]
    out: Annotated[str, Arg("Directory to write; must be new or empty.", metavar="OUT")]
    merge: Annotated[bool, Opt("Merge a LoRA adapter into its base; --no-merge exports the adapter.")] = True
    dtype: Annotated[Dtype, Opt("Data type of the weights; auto keeps the stored one.")] = "auto"
    label: Label = None
    push_to_hub: Annotated[
        str | None, Opt("Upload the directory as well, with the token in $HF_TOKEN.", metavar="OWNER/NAME")
    ] = None
    private: Annotated[bool, Opt("With --push-to-hub: make the repository private.")] = False
    force: Annotated[bool, Opt("Replace OUT if it already holds a model.")] = False

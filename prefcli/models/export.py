"""A model as one plain directory that transformers (an adapter: peft) opens, read back before it counts as written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from prefcli.artifacts.bases import ADAPTER, Base
from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError, PrefcliError, from_foreign
from prefcli.models.adapter_files import WEIGHTS, open_adapter
from prefcli.models.adapters import merged
from prefcli.models.classes import is_made, language_model_class, load_head, opens_as, scorer_class
from prefcli.models.loading import SAFE, Model, configuration, is_scorer, load_policy, load_scorer
from prefcli.models.templates import end_at_the_score
from prefcli.models.tokenizers import end_ids, stored_tokenizer, template_digest, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.text import first_line

CPU = torch.device("cpu")
POOLER = "pooler."  # BERT's, which AutoModel adds to the backbone of a language model, and which no score is read from


@dataclass(frozen=True)
class Exported:
    """A finished export, read back the same. `base` is what an adapter names as its base; None for a whole model."""

    scorer: bool
    base: str | None
    merged: bool
    dtype: str
    opens: str  # the Auto class, and what `Weights` calls the backbone
    backbone: str | None
    parameters: int
    tensors: int


def export(
    reference: Reference, folder: Path, *, dtype: str, merge: bool, reporter: Reporter, label: str | None = None
) -> Exported:
    """Write the model and its tokenizer into `folder`, open both again and compare.

    `dtype` is a name of torch's, or auto: as stored. An adapter is merged into its base, or with `merge` false kept.
    Raises ArtifactError: it cannot be loaded, has weights that are not finite, or does not read back bit for bit.
    """
    tokenizer = stored_tokenizer(reference, reporter)
    scorer, adapter = is_scorer(reference), reference.is_adapter
    if scorer and tokenizer.eos_token is not None and (why := end_at_the_score(tokenizer)) is not None:
        reporter.notice(f"transformers reads the score at another token than prefcli does: {why}")
    reporter.begin(f"loading {reference.shown}", None)
    try:
        if adapter and not merge:
            meant = _adapter_weights(reference, dtype)
        else:
            model = _whole(reference, tokenizer, scorer=scorer, dtype=dtype, label=label)
            _stop_where_trained(model, tokenizer)
            meant = model.state_dict()
        _refuse_not_finite(reference, meant)
        reporter.begin("writing", None)
        if adapter and not merge:
            _write_config(reference, folder)
            save_file(meant, folder / WEIGHTS, {"format": "pt"})
        else:
            _save(reference, model, folder)
        tokenizer.save_pretrained(folder)
        reporter.begin("opening it again", None)
        check(folder, meant, tokenizer, scorer=scorer, base=reference.base)
    finally:
        reporter.end()
    opens, backbone = opens_as(configuration(reference), scorer)
    return Exported(
        scorer=scorer,
        base=reference.base.place if reference.base is not None and adapter and not merge else None,
        merged=adapter and merge,
        dtype=str(next(iter(meant.values())).dtype).removeprefix("torch."),
        opens=opens,
        backbone=backbone,
        parameters=sum({t.data_ptr(): t.numel() for t in meant.values()}.values()),  # tied weights count once
        tensors=len(meant),
    )


def check(folder: Path, meant: dict[str, Tensor], tokenizer: Any, *, scorer: bool, base: Base | None = None) -> None:
    """Open `folder` as its user will, an adapter on `base`, and compare.

    Raises ArtifactError for a tensor that is not what was meant.
    """
    try:
        found = _opened(folder, scorer=scorer, base=base)
        read_back = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        if isinstance(error, PrefcliError) or from_foreign(error) is not None:
            raise
        raise ArtifactError(f"what was written does not open: {first_line(error)}", "nothing of it was kept") from error
    wrong = sorted(meant.keys() ^ found.keys())
    wrong += [name for name in sorted(meant.keys() & found.keys()) if not _same_bits(meant[name], found[name])]
    if wrong:
        raise ArtifactError(
            f"{len(wrong)} of {len(meant)} tensors read back are not what was meant to be written: "
            + ", ".join(wrong[:3]),
            "nothing of it was kept; look at the disk, and report it if it happens again",
        )
    for what, digest in (("tokenizer", tokenizer_digest), ("chat template", template_digest)):
        if digest(read_back) != digest(tokenizer):
            raise ArtifactError(f"the {what} read back is not the one that was written", "nothing of it was kept")


def _whole(reference: Reference, tokenizer: Any, *, scorer: bool, dtype: str, label: str | None) -> Model:
    """A plain model, an adapter merged into it.

    A narrower type than the stored one comes after the merge: rounded once, not base and sum.
    """
    if reference.kind == "gguf" and dtype == "auto":
        dtype = "float32"  # what its blocks of few bits stand for, exactly
    first = dtype if dtype == "float32" or not reference.is_adapter else "auto"
    if scorer:
        model = load_scorer(reference, tokenizer, dtype=first, device=CPU, label=label)
    else:
        model = load_policy(reference, dtype=first, device=CPU, trainable=False)
    if isinstance(model, PeftModel):
        try:
            model = merged(model)
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise ArtifactError(
                f"{reference.text}: this kind of adapter cannot be merged ({first_line(error)})", "keep it: --no-merge"
            ) from error
        if dtype != "auto":
            model = model.to(getattr(torch, dtype))
    return model


def _save(reference: Reference, model: Model, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
    except ValueError as error:  # a generation config that transformers reads and does not write, say
        raise ArtifactError(
            f"{reference.text} could not be written: {first_line(error)}", "repair its generation_config.json"
        ) from error


def _stop_where_trained(model: Model, tokenizer: Any) -> None:
    """Have `generate` stop at the tokenizer's end token too, as prefcli does: answers are trained to end with it."""
    generation, end = getattr(model, "generation_config", None), tokenizer.eos_token_id
    if generation is None or end is None:
        return
    listed = generation.eos_token_id
    if end not in (listed if isinstance(listed, (list, tuple)) else [listed]):
        ends = sorted(end_ids(tokenizer, generation))
        generation.eos_token_id = ends if len(ends) > 1 else end


def _adapter_weights(reference: Reference, dtype: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_peft_weights(str(reference.path), device="cpu")
    except Exception as error:
        raise ArtifactError(
            f"{reference.text}: the adapter could not be read ({first_line(error)})", "copy it again"
        ) from error
    if dtype == "auto":
        return weights
    return {name: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for name, t in weights.items()}


def _refuse_not_finite(reference: Reference, weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            hint = "try --dtype bfloat16 or float32" if tensor.dtype == torch.float16 else "its weights are damaged"
            raise ArtifactError(
                f"{reference.text}: {name} has weights that are not finite {tensor.dtype} numbers", hint
            )


def _write_config(reference: Reference, folder: Path) -> None:
    """The adapter's configuration, naming its base by where it lies now."""
    assert reference.path is not None and reference.base is not None
    config = json.loads((reference.path / ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": reference.base.place, "revision": reference.base.revision}
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _opened(folder: Path, *, scorer: bool, base: Base | None) -> dict[str, Tensor]:
    """The tensors that plain transformers, and for an adapter peft, read from `folder`."""
    options: dict[str, Any] = SAFE | {"dtype": "auto"} | ({"num_labels": 1} if scorer else {})
    adapter = (folder / ADAPTER).is_file()
    place: Any = base.place if adapter and base is not None else folder
    revision = {"revision": base.revision} if adapter and base is not None and base.revision else {}
    config = AutoConfig.from_pretrained(place, trust_remote_code=False, **revision)
    kind = scorer_class(config) if scorer else language_model_class(config)
    if adapter:
        assert base is not None
        body = kind.from_pretrained(base.place, **revision, **options)
        open_adapter(body, folder, base, folder.name, scorer=scorer)  # every tensor has its place
        # Not the opened model's: heads and embeddings that were saved whole in float32 are rounded to a base's 16 bits.
        return load_peft_weights(str(folder), device="cpu")  # type: ignore[no-any-return]
    made = is_made(kind)
    model, info = (AutoModel if made else kind).from_pretrained(folder, output_loading_info=True, **options)
    missing = [name for name in info["missing_keys"] if not (made and name.startswith(POOLER))]
    wrong = [*missing, *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise ArtifactError(f"what was written lacks or does not know {wrong[0]}", "nothing of it was kept")
    if not made:
        return dict(model.state_dict())
    head = {f"score.{name}": tensor for name, tensor in (load_head(folder) or {}).items()}
    body = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(POOLER)}
    return head | {f"{kind.base_model_prefix}.{name}": tensor for name, tensor in body.items()}


def _same_bits(meant: Tensor, found: Tensor) -> bool:
    """Whether two tensors hold the same numbers; in the wider of their types, where either is exact."""
    if meant.shape != found.shape:
        return False
    wide = torch.promote_types(meant.dtype, found.dtype)
    one, other = (tensor.detach().to(wide).contiguous().reshape(-1).view(torch.uint8) for tensor in (meant, found))
    return torch.equal(one, other)

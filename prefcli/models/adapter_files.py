"""An adapter's files opened on its base: every tensor of the file has its place, and every place its tensor.

peft leaves what a file lacks as it was initialised, which does nothing, and passes over what it does not know; both
would be a model that is not the one that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors import safe_open
from torch import nn
from transformers.utils import find_adapter_config_file

from prefcli.artifacts.bases import Base
from prefcli.errors import ArtifactError

ADAPTER = "default"  # peft's name for the first one
WEIGHTS = "adapter_model.safetensors"
COPY = "copy the adapter again, or train it again"
Shape = Sequence[int]


def open_adapter(
    model: Any, directory: Path, base: Base, text: str, *, scorer: bool = False, trainable: bool = False
) -> PeftModel:
    """The adapter in `directory` on `model`, which are the weights of `base`. `text` is how it is shown.

    Raises ArtifactError: an adapter for another task or of states instead of weights, or a file with tensors that are
    missing, unknown or of another shape than the base and the adapter's configuration make them.
    """
    config = PeftConfig.from_pretrained(str(directory))
    task = TaskType.SEQ_CLS if scorer else TaskType.CAUSAL_LM
    if config.task_type not in (None, task):
        raise ArtifactError(f"{text} is an adapter for the task {config.task_type}, not {task.value}", COPY)
    if config.is_prompt_learning:
        raise ArtifactError(
            f"{text} does not change weights: peft's {config.peft_type.value} adds virtual tokens before the text, "
            "and prefcli does not run such adapters",
            "give an adapter whose weights can be merged, such as LoRA",
        )
    config.task_type, config.inference_mode = task, not trainable
    config.base_model_name_or_path = base.place
    _grow(model, _shapes(directory))
    mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    opened: Any = get_peft_model(model, config, ADAPTER)
    if trainable:
        hold_head_whole(opened)
    name_base(opened, base)
    check_tensors(opened, _as_loaded(opened, directory, mapping), text)
    # On the CPU first, and from there to where the model is: left open, peft takes the first GPU.
    opened.load_adapter(str(directory), ADAPTER, is_trainable=trainable, torch_device="cpu", key_mapping=mapping)
    return opened  # type: ignore[no-any-return]


def hold_head_whole(model: PeftModel) -> None:
    """Have the head that is trained beside an adapter in float32, as peft has the adapter, whatever the base is in:
    steps of 1e-6 vanish in bfloat16, and gradients in float16 cannot be scaled back."""
    head = getattr(model.get_base_model(), "score", None)
    if isinstance(head, ModulesToSaveWrapper):
        head.modules_to_save.float()


def merge(model: PeftModel) -> Any:
    """The plain model that an adapter and its base make.

    Where an adapter on the output head or the embeddings parts what is one weight in the base, it is two afterwards.
    """
    base: Any = model.get_base_model()
    for layer in (base.get_output_embeddings(), base.get_input_embeddings()):
        if isinstance(layer, BaseTunerLayer):
            own: Any = layer.get_base_layer()
            own.weight = nn.Parameter(own.weight.detach().clone(), own.weight.requires_grad)
    plain = without_config(model.merge_and_unload())
    head = getattr(plain.get_output_embeddings(), "weight", None)
    if head is not None and head is not plain.get_input_embeddings().weight:
        for config in (plain.config, plain.config.get_text_config()):
            config.tie_word_embeddings = False
        plain.all_tied_weights_keys = plain.get_expanded_tied_weights_keys(all_submodels=True)
    return plain


def without_config(model: Any) -> Any:
    """Without the configuration that peft leaves on what was below an adapter, and TRL takes for one."""
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def refuse_hub_adapter(text: str, name: str, options: dict[str, Any]) -> None:
    """Raise ArtifactError for an adapter on the hub: transformers would look for its base by name as it loads it."""
    if find_adapter_config_file(name, **options) is not None:
        raise ArtifactError(
            f"{text} is an adapter on the hub", f"hf download {name} --local-dir DIR, and give that directory"
        )


def name_base(model: Any, base: Base | None) -> None:
    """Have an adapter's configuration name its base by what plain peft opens from anywhere."""
    if base is None:
        return
    for config in getattr(model, "peft_config", {}).values():
        config.base_model_name_or_path, config.revision = base.place, base.revision


def check_tensors(model: Any, found: Mapping[str, Shape], text: str, adapter: str = ADAPTER, hint: str = COPY) -> None:
    """Raise ArtifactError where a file's tensors, by name and shape, are not those that an adapter of `model` has."""
    known = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in known.items()}
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys() - _embeddings(model, found))
    others = [
        f"{name} is {_size(found[name])}, not {_size(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and tuple(found[name]) != shape
    ]
    wrong = {"lacks": missing, "holds, which the model has no place for,": unknown, "has in another shape": others}
    told = [f"it {verb} {len(names)}: {_some(names)}" for verb, names in wrong.items() if names]
    if told:
        raise ArtifactError(
            f"{text}: the adapter's file does not hold the tensors of this adapter on its base; {'; '.join(told)}", hint
        )


def renamed(model: Any) -> list[str]:
    """Names of modules whose adapter peft does not find again: as it loads a file it renames tensors as older
    checkpoints of the family need, and takes new names for old ones (Laguna's shared experts)."""
    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    found = convert_peft_adapter_state_dict_for_transformers(model, model.peft_config[ADAPTER], dict(tensors), ADAPTER)
    lost = tensors.keys() - found.keys()
    return sorted({name.split(".lora_")[0].removeprefix("base_model.model.") for name in lost if ".lora_" in name})


def _as_loaded(model: Any, directory: Path, mapping: dict[str, str]) -> dict[str, Shape]:
    """Names and shapes in the file, after what peft renames of older ones as it loads them."""
    tensors = load_peft_weights(str(directory), device="cpu", key_mapping=mapping)
    config = model.peft_config[ADAPTER]
    tensors = convert_peft_adapter_state_dict_for_transformers(model, config, tensors, ADAPTER)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shapes(directory: Path) -> dict[str, Shape]:
    with safe_open(directory / WEIGHTS, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}


def _grow(model: Any, shapes: dict[str, Shape]) -> None:
    """As many rows as the embeddings that are saved whole beside an adapter have: it was trained with tokens added, or
    without those that a base is padded with."""
    embeddings = model.get_input_embeddings()
    own = next(name for name, module in model.named_modules() if module is embeddings).rpartition(".")[2]
    for name, shape in shapes.items():
        rows, *width = embeddings.weight.shape
        if name.endswith(f".{own}.weight") and shape[0] != rows and list(shape[1:]) == width:
            model.resize_token_embeddings(shape[0])


def _embeddings(model: Any, found: Mapping[str, Shape]) -> set[str]:
    """Embeddings in a file that peft loads into the base: saved whole where they were given tokens."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer]
    own = {id(weights) for layer in layers for weights in layer.parameters()}
    return {
        name
        for name, weights in model.named_parameters(remove_duplicate=False)
        if name in found and id(weights) in own and tuple(weights.shape) == tuple(found[name])
    }


def _size(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

"""Several roles on one base in memory: each is an adapter on it or the base alone, and a scorer has a head of its own.

The base is a PeftModel, itself the role that is trained as `default`: that adapter is at work whenever no `SharedRole`
runs. Adapters here are LoRA.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefcli.models.adapter_files import ADAPTER as TRAINED
from prefcli.models.adapter_files import WEIGHTS, check_tensors
from prefcli.models.classes import backbone_of, new_scorer
from prefcli.models.sharding import unshard_root

HEAD = "base_model.model.score."  # how PEFT names a saved head's tensors


class SharedRole(nn.Module):
    """A model like any other to who calls it: a causal LM, or with a `head` a scorer of every position.

    `adapter` is the name of one on `base`, None the base without any.
    """

    def __init__(self, base: PeftModel, adapter: str | None, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter
        if head is not None:
            self.score = head

    def forward(self, **inputs: Any) -> Any:
        """The output of the causal LM; of a scorer [B, T, 1] scores."""
        with at_work(layers_of(self.base), [self.adapter] if self.adapter else []):
            if not hasattr(self, "score"):
                return self.get_base_model()(**inputs)
            unshard_root(self.get_base_model())  # the body runs without the model around it
            return self.score(self._body()(**inputs)[0])

    @property
    def config(self) -> Any:
        return self.get_base_model().config

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that no other role on the base trains: its adapter's and its head's."""
        return [
            parameter for name, parameter in self.named_parameters()
            if parameter.requires_grad and (name.startswith("score.") or self.adapter in name.split("."))
        ]  # fmt: skip

    def get_base_model(self) -> Any:
        return self.base.get_base_model()

    def get_output_embeddings(self) -> Any:
        return None if hasattr(self, "score") else self.get_base_model().get_output_embeddings()

    def _body(self) -> Any:
        return backbone_of(self.get_base_model())

    def save_pretrained(self, path: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """A scorer in the form that PEFT gives an adapter of a sequence classifier with its head."""
        assert self.adapter is not None
        config = copy.copy(self.base.peft_config[self.adapter])
        config.task_type, config.modules_to_save, config.inference_mode = TaskType.SEQ_CLS, ["score"], True
        weights = self.state_dict() if state_dict is None else state_dict
        of_base = {name.removeprefix("base."): t for name, t in weights.items() if name.startswith("base.")}
        tensors = get_peft_model_state_dict(self.base, of_base, adapter_name=self.adapter)
        above = self.get_base_model().get_output_embeddings()  # which peft adds where there are tokens more
        names = [f".{name}." for name, module in self.get_base_model().named_modules() if module is above]
        tensors = {n: t for n, t in tensors.items() if not any(name in n for name in names)}
        tensors |= {HEAD + n.removeprefix("score."): t for n, t in weights.items() if n.startswith("score.")}
        config.save_pretrained(path)
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path / WEIGHTS, {"format": "pt"})

    def merged(self) -> PreTrainedModel:
        """A plain scorer: the base's weights with the adapter's merged into them, and the head."""
        assert self.adapter is not None
        body = self._body()
        state = {_BASE.sub("", name): t for name, t in body.state_dict().items() if ".lora_" not in name}
        for name, layer in body.named_modules():
            if isinstance(layer, BaseTunerLayer) and self.adapter in layer.lora_A:
                state[f"{_BASE.sub('', name)}.{_adapted(layer)}"] = _merged_weight(layer, self.adapter)
        config = copy.deepcopy(self.config)
        config.num_labels = 1
        scorer: Any = new_scorer(config, self.get_base_model().dtype)
        backbone_of(scorer).load_state_dict(state)
        scorer.score.load_state_dict(self.score.state_dict())
        return scorer  # type: ignore[no-any-return]


_BASE = re.compile(r"\.base_layer(?=\.|$)")  # experts' stacked weights have a layer of PEFT's around each other


def _adapted(layer: Any) -> str:
    """The name of the parameter that a layer of PEFT's adapts: "weight", or one of stacked experts."""
    return getattr(layer, "parameter_name", None) or "weight"


def _merged_weight(layer: Any, adapter: str) -> Tensor:
    """As PEFT merges this kind of adapter; the layer is left as it was, which PEFT's unmerge does but nearly."""
    weight = getattr(layer.get_base_layer(), _adapted(layer))
    before = weight.detach().clone()
    layer.merge(adapter_names=[adapter])
    after: Tensor = weight.detach().clone()
    layer.merged_adapters.clear()
    with torch.no_grad():
        weight.copy_(before)
    return after


def layers_of(base: PeftModel) -> list[BaseTunerLayer]:
    """Its layers that have adapters."""
    return [module for module in base.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def at_work(layers: list[BaseTunerLayer], adapters: list[str]) -> Iterator[None]:
    """`adapters` instead of those that are at work.

    Not by PEFT's set_adapter and disable_adapter, which also freeze the adapters that do not run: here policy and
    value are trained at the same time.
    """
    before = layers[0].active_adapters if layers else []
    _switch(layers, adapters)
    try:
        yield
    finally:
        _switch(layers, before)


def _switch(layers: list[BaseTunerLayer], adapters: list[str]) -> None:
    for layer in layers:
        layer._active_adapter = adapters


def add_copy(base: PeftModel, name: str, of: str = TRAINED) -> None:
    """A further adapter with the weights of another."""
    config = copy.deepcopy(base.peft_config[of])
    config.modules_to_save = None
    _add(base, name, config, get_peft_model_state_dict(base, adapter_name=of, save_embedding_layers=False))


def add_from_file(base: PeftModel, name: str, path: Path) -> nn.Linear | None:
    """The adapter saved at `path` as one more on `base`; returns its head where it is a scorer's.

    Raises ArtifactError: tensors are missing, unknown or of another shape, or it trained more than an adapter and the
    head.
    """
    config: Any = LoraConfig.from_pretrained(path)
    config.modules_to_save = config.task_type = None
    config.lora_dropout = 0.0  # which was for its own training
    tensors = load_file(path / WEIGHTS)
    head = {key.removeprefix(HEAD): tensors.pop(key) for key in list(tensors) if key.startswith(HEAD)}
    config.base_model_name_or_path = base.peft_config[TRAINED].base_model_name_or_path  # as it is found now
    config.revision = base.peft_config[TRAINED].revision
    _add(base, name, config, tensors, str(path))
    if not head:
        return None
    weights = next(base.parameters())
    score = nn.Linear(head["weight"].shape[1], head["weight"].shape[0], "bias" in head, device=weights.device)
    score.load_state_dict(head)
    return score.to(torch.promote_types(head["weight"].dtype, weights.dtype))  # saved in bfloat16, run in float32


def _add(base: PeftModel, name: str, config: Any, tensors: dict[str, Tensor], text: str = TRAINED) -> None:
    base.add_adapter(name, config)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    check_tensors(base, shapes, text, name, "copy the adapter again, or use --layout separate")
    if not any(tensor.is_meta for tensor in tensors.values()):  # else another process has the values
        set_peft_model_state_dict(base, tensors, adapter_name=name)


def start_of(trained: PeftModel, continued: bool, name: str) -> SharedRole:
    """A model as it is before it is trained: the base, or a copy `name` of the adapter that is trained on, frozen."""
    if continued:
        add_copy(trained, name)
        for parameter_name, parameter in trained.named_parameters():
            if name in parameter_name.split("."):
                parameter.requires_grad_(False)
    head = getattr(trained.get_base_model(), "score", None)
    head = None if head is None else copy.deepcopy(head.modules_to_save[TRAINED])
    return SharedRole(trained, name if continued else None, head)


def train_only(base: PeftModel, adapters: list[str]) -> None:
    """Gradients for these adapters and no other weight of the base."""
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(any(adapter in name.split(".") for adapter in adapters))


def recompute_as_run(base: PeftModel) -> None:
    """Have gradient checkpointing recompute a layer under the adapter it ran with: by then another may be at work."""
    layers = layers_of(base)
    for module in base.modules():
        if getattr(module, "gradient_checkpointing", False) and hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = _remembering(layers, module._gradient_checkpointing_func)


def _remembering(layers: list[BaseTunerLayer], checkpoint: Any) -> Any:
    def run(function: Any, *args: Any) -> Any:
        adapters = list(layers[0].active_adapters)

        def again(*inputs: Any) -> Any:
            with at_work(layers, adapters):
                return function(*inputs)

        return checkpoint(again, *args)

    return run


def fresh_head(base: PeftModel, seed: int) -> nn.Linear:
    """As transformers starts a sequence classifier's head; float32, like all that is trained beside an adapter."""
    config = base.get_base_model().config.get_text_config()
    weights = next(base.parameters())
    # The width of what the backbone gives: OPT projects its last states to that of its embeddings.
    size = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
    head = nn.Linear(size, 1, bias=False, device=weights.device, dtype=torch.float32)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, size, generator=draw) * (getattr(config, "initializer_range", None) or 0.02))
    return head

"""Models whose weights are split over the processes: FSDP2, torch's `fully_shard`.

Each process holds a part of every weight, of its gradient and of its moments in the optimizer. A decoder layer is
gathered when it runs, in its backward pass once more, and given back; embeddings, final norm and heads (the root) stay
whole from their forward to their backward. A gather needs all processes at the same time: they make the same number of
passes (`in_step`), hold the weights whole for a while, or wait for each other before each pass (`at_own_pace`).
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prefcli.models.logps import transformers_model
from prefcli.models.zero3 import Held

T = TypeVar("T")

spent = {"gathering": 0.0}  # seconds in which this process gathered weights, or on GPUs started to
GATHERS = "is_gathered_whole"  # of a model that is split: what `shard` was told
ROUNDS = 1024  # passes after which FSDP's notes for a backward pass, which never comes, are thrown away
_waiting: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models in `lockstep`


def source_device() -> torch.device:
    """Where a model is opened that `shard` takes: the first process has its weights, the others its structure alone."""
    return torch.device("cpu" if dist.get_rank() == 0 else "meta")


def shard(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype, stream: torch.dtype, *, gathers: bool = True) -> None:
    """Split a model over the processes of `mesh`, in place. What has been split stays as it is.

    The first process hands its weights out, one layer at a time: no other has the model whole, and no device.
    A layer is gathered in `dtype`, that of the computation, and gradients are averaged over the processes in float32.
    Of a model without adapters, trained weights are held in float32, frozen ones in `dtype`. `stream` is the format
    between the layers; under autocast that of the embeddings. The optimizer must be made afterwards, of the parts.
    `gathers`: a device has room for the weights whole, which `at_own_pace` makes use of.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    base = transformers_model(model)
    device = torch.device(mesh.device_type)
    formats = (torch.float32, dtype) if base is model else (None, None)

    def split(unit: nn.Module, **options: Any) -> None:
        if not getattr(base, "is_loaded_in_4bit", False):  # which each process has made for itself, of the same numbers
            _hand_out(unit, device, *formats)
        fully_shard(unit, mesh=mesh, mp_policy=policy, **options)
        if hasattr(unit, "set_custom_all_gather"):  # of torch 2.8
            unit.set_custom_all_gather(_Gather())  # type: ignore[operator]
            if device.type == "cpu":
                unit.set_custom_reduce_scatter(_ReduceScatter())  # type: ignore[operator]

    if not isinstance(base, FSDPModule):
        for layer in _layers(base):
            split(layer)
        # It takes hidden states and scores out by hooks, so nothing would gather a root again in its backward pass.
        split(base, reshard_after_forward=False)
        setattr(base, GATHERS, gathers)
        if stream != dtype:
            base.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.to(stream))
    head = getattr(model, "score", None)
    if head is not None and isinstance(head, nn.Linear) and not any(head is module for module in base.modules()):
        split(head, reshard_after_forward=False)
    model._is_accelerate_prepared = True  # type: ignore[assignment]  # accelerate is to leave it as it is


class _Collective:
    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Collective):
    """The all-gather that torch uses by itself, timed; on a CPU broadcasts, which gloo makes at the same time."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        began, work = time.perf_counter(), None
        if output_tensor.is_cpu and not async_op:  # the own part stands in the output already
            parts = output_tensor.chunk(group.size())
            sent = [dist.broadcast(part, group=group, async_op=True, group_src=k) for k, part in enumerate(parts)]
            for one in sent:
                one.wait()
        else:
            work = dist.all_gather_into_tensor(output_tensor, input_tensor, group, async_op)
        spent["gathering"] += time.perf_counter() - began
        return work


class _ReduceScatter(_Collective):
    """The mean over the processes, of which each keeps its part. Gloo's own copies the input, and sends it twice."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: Any = False) -> None:
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        torch.mean(received.view(group.size(), -1), 0, out=output_tensor)


@torch.no_grad()
def _hand_out(unit: nn.Module, device: torch.device, trained: torch.dtype | None, frozen: torch.dtype | None) -> None:
    """Give a unit's weights, but for those that are split already, and its buffers from the first process to all.

    They come to the device, in a format for those that are trained and one for the others; None: as they are.
    """
    handed: dict[int, tuple[Tensor, nn.Parameter]] = {}  # a tied one is handed out once, and stays one
    for module in unit.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, DTensor):
                continue
            if id(parameter) not in handed:
                value = _of_first(parameter, device)
                held = trained if parameter.requires_grad else frozen
                value = value if held is None else value.to(held)
                handed[id(parameter)] = parameter, nn.Parameter(value, requires_grad=parameter.requires_grad)
            module._parameters[name] = handed[id(parameter)][1]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _of_first(buffer, device)


def _of_first(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's tensor, on the device of each."""
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    value = empty.copy_(tensor.detach()) if dist.get_rank() == 0 else empty
    dist.broadcast(value, 0)
    return value


def is_sharded(model: nn.Module) -> bool:
    return isinstance(transformers_model(model), FSDPModule)


@contextmanager
def at_own_pace(model: nn.Module) -> Iterator[None]:
    """Each process makes as many passes as it likes, without gradients. All processes must enter.

    The weights are whole for as long; those of a model that no device has room for stay split, in `lockstep`. Nothing
    happens to a model that is not split, or in lockstep already.
    """
    if not is_sharded(model) or model in _waiting:
        yield
    elif not getattr(transformers_model(model), GATHERS):
        with lockstep({1: model}):
            yield
    else:
        units = _units(model)
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.set_reshard_after_forward(not _is_root(unit), recurse=False)
                unit.reshard()


@contextmanager
def lockstep(models: Mapping[int, nn.Module]) -> Iterator[None]:
    """Each process makes as many passes as it likes of models that stay split, without gradients. All must enter.

    Before each pass they agree on the model that runs, the one with the highest number of those that any of them wants.
    A process that wants another one, or none any more, makes a spare pass: what it gathers is what the others gather.
    """
    passes, is_spare = Counter[int](), False  # by model, the same in all processes

    def meet(wanted: int) -> None:
        nonlocal is_spare
        while not is_spare:
            now = most(wanted)
            if now and passes[now] and passes[now] % ROUNDS == 0:  # in all processes at once, none of them in a pass
                _forget_passes(models[now])
            passes[now] += 1
            if now == wanted:
                return
            is_spare = True
            _spare_pass(models[now])
            is_spare = False

    hooks = []
    for number, model in models.items():
        hooks.append(model.register_forward_pre_hook(lambda *_, number=number: meet(number), prepend=True))
        _waiting.add(model)
    try:
        yield
        meet(0)
        for model in models.values():
            at_rest(model)
    finally:
        for hook in hooks:
            hook.remove()
        _waiting.difference_update(models.values())


@torch.no_grad()
def _spare_pass(model: nn.Module) -> None:
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)


def _forget_passes(model: nn.Module) -> None:
    """FSDP notes each pass of a unit until the next backward pass is over."""
    for unit in _units(model):
        if _is_root(unit) and hasattr(unit, "reset_iter_state"):  # torch 2.13
            unit.reset_iter_state()


def unshard_root(base: nn.Module) -> None:
    """Gather embeddings and final norm, for who calls the body without the model around it."""
    if isinstance(base, FSDPModule):
        base.unshard()


def in_step(model: nn.Module, own: Sequence[T], spare: T) -> Iterator[tuple[T, bool]]:
    """Each of a process's `own` passes, and True; then `spare` and False until all processes have made as many.

    A spare pass gathers what the others gather; its loss must weigh nothing. Of a model that is whole: the own ones.
    """
    missing = most(len(own)) - len(own) if is_sharded(model) else 0
    for one in own:
        yield one, True
    for _ in range(missing):
        yield spare, False


def most(number: int) -> int:
    """The largest `number` of all processes."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def whole(value: Any) -> Any:
    """`value`, nested as it may be, with every tensor that is split gathered: on the CPU of the first process.

    All processes must call it; in the others such a tensor is empty.
    """
    if isinstance(value, (DTensor, Held)):
        full: Tensor = value.full() if isinstance(value, Held) else value.detach().full_tensor()
        return full.cpu() if dist.get_rank() == 0 else full.new_empty(0)
    if isinstance(value, dict):
        return {name: whole(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(entry) for entry in value)
    return value


def over_all(norm: Any) -> Any:
    """A norm over gradients, of all parts where these are split. All processes must call it."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def at_rest(model: nn.Module) -> nn.Module:
    """The model with its parts as parameters: what a pass has left whole is given back."""
    for unit in _units(model):
        unit.reshard()
    return model


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights as `save_pretrained` takes them, each tied one once; of an adapter only what is trained.

    All processes must call it: the first one has the weights, on its CPU. None of a model that is whole.
    """
    if not is_sharded(model):
        return None
    adapter = hasattr(model, "peft_config") or hasattr(model, "base")
    named = at_rest(model).named_parameters()  # a tied one comes once
    weights: dict[str, Tensor] = whole({name: p for name, p in named if p.requires_grad or not adapter})
    for name, buffer in model.named_buffers():
        if not adapter and name in _persistent(model):
            weights[name] = buffer.cpu()
    return weights


@torch.no_grad()
def put(parameter: Tensor, tensor: Tensor) -> None:
    """Set a parameter, or a process's part of it, to the values of a whole tensor."""
    parameter.copy_(part_of(tensor, parameter) if isinstance(parameter, DTensor) else tensor)


def part_of(tensor: Tensor, like: DTensor) -> DTensor:
    """This process's part of a whole tensor, split as `like` is; on the device of that, in the tensor's own dtype."""
    part = torch.empty_like(like, dtype=tensor.dtype)
    local, parts = part.to_local(), tensor.chunk(like.device_mesh.size())
    if (place := like.device_mesh.get_local_rank()) < len(parts):
        local.copy_(parts[place])
    return part


def parts_of_state(state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """A whole optimizer's state, split as its parameters are, which come in the order of its groups."""

    def part(value: Any, like: Tensor) -> Any:
        is_split = isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape
        return part_of(value, like) if is_split else value

    return state | {
        "state": {
            number: {name: part(value, parameters[number]) for name, value in entry.items()}
            for number, entry in state["state"].items()
        }
    }


def _layers(base: PreTrainedModel) -> Iterable[nn.Module]:
    """What is gathered together: the modules that transformers never splits over devices, outermost ones alone."""
    names = set(base._no_split_modules or ())
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            if type(child).__name__ in names:
                found.append(child)
            else:
                search(child)

    search(base)
    return found


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _is_root(unit: nn.Module) -> bool:
    return isinstance(unit, (PreTrainedModel, nn.Linear))


def _persistent(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in module._buffers
        if name not in module._non_persistent_buffers_set
    }

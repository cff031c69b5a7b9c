"""What a process holds beside its part where models are split over several: torch's `fully_shard`, as --shard uses it.

A process keeps 1/N of every weight, gradient and moment. A layer is gathered in the format of the computation when it
runs, and in its backward pass once more, and given back. The root (embeddings, last norm, head) stays whole from its
forward pass on: of a trained model until its backward pass is over, of a frozen one until the run is. A gather takes a
buffer as large as what it gathers; in the backward pass the next layer's is filled while a layer runs. Gradients are
made whole in the format of the computation, copied to float32, and added up over the processes; that copy stays until
the next layer's is made. See `foreach_all_gather` and `foreach_reduce` in torch/distributed/fsdp/_fully_shard.
"""

from __future__ import annotations

from prefcli.memory.run import Role, Run
from prefcli.memory.states import adapter_parameters, head_parameters, role_parameters

REDUCED = 4  # bytes of a gradient as it is added up


def root_parameters(run: Run, role: Role) -> int:
    """Embeddings, positions, the last norm, and a head of its own."""
    a = run.architecture
    heads = 1 if a.tied or role.scores else 2
    return (heads * a.vocab + a.positions + a.traits.norm_vectors) * a.hidden


def layer_parameters(run: Run, role: Role) -> int:
    """One layer, with the adapters of all roles that share it."""
    base = role_parameters(run, role) - adapter_parameters(run) - head_parameters(run, role)
    adapters = adapter_parameters(run) * (len(run.roles) if run.shared_base else 1)
    return (base - root_parameters(run, role) + adapters) // run.architecture.layers


def trained_layer(run: Run, role: Role) -> int:
    """Parameters of a layer that have gradients."""
    if run.lora_rank:
        return adapter_parameters(run) // run.architecture.layers
    return layer_parameters(run, role)


def root_bytes(run: Run, role: Role) -> int:
    """The root, gathered; 0 of a role on another's base, and where nothing is split."""
    return root_parameters(run, role) * run.dtype_bytes if run.sharded and not run.on_policys_base(role) else 0


def layer_bytes(run: Run, role: Role) -> int:
    """A layer, gathered; as much again is the buffer of a gather."""
    return layer_parameters(run, role) * run.dtype_bytes if run.sharded else 0


def whole_bytes(run: Run, role: Role) -> int:
    """All layers beside the root, gathered for a rollout, whose processes make unlike numbers of passes; in lockstep
    each layer is gathered as in any other pass."""
    return 0 if run.lockstep else run.architecture.layers * layer_bytes(run, role)


def gradient_layer_bytes(run: Run, role: Role) -> int:
    """A layer's gradients, whole, and the float32 copy of those of the layer before it."""
    return trained_layer(run, role) * run.dtype_bytes + copied_layer_bytes(run, role) if run.sharded else 0


def copied_layer_bytes(run: Run, role: Role) -> int:
    """The float32 copy of a layer's gradients, which is added up over the processes."""
    return trained_layer(run, role) * REDUCED if run.sharded else 0


def root_gradient_bytes(run: Run, role: Role) -> int:
    """The process's part of the root's gradients: it comes when all layers' are there."""
    return 0 if run.lora_rank else root_parameters(run, role) * run.trained_bytes // run.shards


def reduced_root_bytes(run: Run, role: Role) -> int:
    """The root's gradients, whole, and their float32 copy: its weights are given back by then."""
    return 0 if run.lora_rank else root_parameters(run, role) * (run.dtype_bytes + REDUCED)

"""Memory that stays through a whole run: weights, gradients and optimizer states.

The count by bytes of a parameter is that of ZeRO (arXiv 1910.02054, section 3.1): training in mixed precision with
Adam takes 2 bytes of weights, 2 of gradients and 12 of optimizer states (an fp32 copy and two moments).
"""

from __future__ import annotations

from prefcli.memory.architecture import linear_weights, lora_parameters
from prefcli.memory.run import Role, Run

# NormalFloat in blocks of 64 with constants quantized too: 4 bits and 0.127 (QLoRA, arXiv 2305.14314, section 3).
NF4_BYTES = 4.127 / 8


def role_parameters(run: Run, role: Role) -> int:
    """Parameters of the model that plays the role, its adapter included."""
    base = run.architecture.scorer_parameters if role.scores else run.architecture.parameters
    return base + adapter_parameters(run)


def adapter_parameters(run: Run) -> int:
    return lora_parameters(run.architecture, run.lora_rank) if run.lora_rank else 0


def head_parameters(run: Run, role: Role) -> int:
    """A score's head is new with the role, so it is trained in full beside an adapter."""
    return run.architecture.hidden if role.scores else 0


def held_parameters(run: Run, role: Role) -> int:
    """Parameters that the role adds to memory: all of its own, or its adapter alone on a base held already."""
    if run.about.samples and role.name == "reward" and run.reward_parameters:
        return run.reward_parameters + adapter_parameters(run)
    if run.on_policys_base(role):
        return adapter_parameters(run) + head_parameters(run, role)
    return role_parameters(run, role)


def trained_parameters(run: Run, role: Role) -> int:
    if not role.trained:
        return 0
    if run.lora_rank:
        return adapter_parameters(run) + head_parameters(run, role)
    return role_parameters(run, role)


def weight_bytes(run: Run, role: Role) -> int:
    """P × bytes of its type: what is trained in that of the optimizer's steps, what is frozen in the dtype.

    In 4 bits the linear layers are smaller by so much.
    """
    trained = trained_parameters(run, role)
    whole = (held_parameters(run, role) - trained) * run.dtype_bytes + trained * run.trained_bytes
    if run.in_4bit and not run.on_policys_base(role) and (role.trained or not role.scores):
        whole -= round(linear_weights(run.architecture) * (run.dtype_bytes - NF4_BYTES))
    return whole // (run.shards if run.zero >= 3 else 1)


def gradient_bytes(run: Run, role: Role) -> int:
    """One number a trained parameter, in the weights' own dtype, as autograd makes it."""
    return trained_parameters(run, role) * run.trained_bytes // (run.shards if run.zero >= 2 else 1)


def bucket_bytes(run: Run, role: Role) -> int:
    """DDP's buckets, made with the wrapper and kept: a number a trained parameter (torch's DistributedDataParallel,
    `gradient_as_bucket_view`, which would make the gradients views of them)."""
    return trained_parameters(run, role) * run.trained_bytes if run.buckets else 0


def optimizer_bytes(run: Run, role: Role) -> int:
    """The fp32 copy (4 bytes, beside 16-bit weights only) and the optimizer's own state, a trained parameter.

    AdamW: two moments in the precision that is stepped in, 8 bytes in fp32 (arXiv 1412.6980, algorithm 1). In 8 bits:
    one byte each, and an fp32 scale for each block of 256 (arXiv 2110.02861); but of embeddings in fp32, where
    transformers' trainer makes the optimizer (not ppo's).
    Adafactor: a row and a column for each matrix instead of the second moment (arXiv 1804.04235, algorithm 4),
    about 2·P/h numbers where the matrices are h wide. SGD without momentum: none.
    """
    trained = trained_parameters(run, role)
    step_bytes = 4 if run.copies_weights else run.trained_bytes
    a = run.architecture
    whole = 0 if run.lora_rank or run.about.samples or not trained else (a.vocab + a.positions) * a.hidden
    moments = {
        "adamw": 2 * trained * step_bytes,
        "adamw-8bit": 2 * (trained - whole) * 65 // 64 + 8 * whole,
        "adafactor": 2 * trained // a.hidden * step_bytes,
        "sgd": 0,
    }[run.optimizer]
    return (trained * 4 * run.copies_weights + moments) // (run.shards if run.zero >= 1 else 1)


def copy_bytes(run: Run, role: Role) -> int:
    """Autocast's copies in 16 bits of the fp32 weights that are trained: kept until the forward pass is over, and by
    what the backward pass needs (torch.amp; a weight is cast once)."""
    if run.sharded:  # what is gathered has the computation's format
        return 0
    return trained_parameters(run, role) * run.dtype_bytes if run.casts else 0

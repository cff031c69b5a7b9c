"""What a pass over a batch keeps in memory: activations of the layers, logits, and the cache of a rollout.

After Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), whose
layer of a GPT keeps s·b·h·(34 + 5·a·s/h) bytes in 16 bits. Two of its terms are absent in the models meant here:
attention is fused and keeps no s×s scores (the 5·a·s/h), and there is no dropout (2 of the 34 are its masks).
"""

from __future__ import annotations

from prefcli.memory.architecture import Architecture
from prefcli.memory.run import Run


def layer_numbers_per_token(a: Architecture) -> int:
    """Numbers that one layer keeps for its backward pass, a token: 4h + 2q + 2kv + 2f, gated + 4f for 2f.

    Inputs of two norms (2h), of the projections to queries, keys and values (h) and of the MLP (h); queries and the
    attention's output (2q), keys and values (2kv); in the MLP the activation's input and output (2f), and with a
    gate the other factor and the product too (4f).
    """
    mlp = (4 if a.traits.gated else 2) * a.ffn
    return 4 * a.hidden + 2 * a.query_width + 2 * a.kv_width + mlp


def layer_bytes(run: Run) -> int:
    """One layer's activations over the batch: all that a forward pass without gradients has at a time."""
    return run.tokens * layer_numbers_per_token(run.architecture) * run.dtype_bytes


def training_bytes(run: Run) -> int:
    """Activations when the backward pass begins.

    In full: every layer's. With checkpointing (arXiv 1604.06174; Korthikanti et al., section 5, "full"): one hidden
    state a layer, and one layer's working set while it is computed again.
    """
    layers = run.architecture.layers
    if not run.checkpointing:
        return layers * layer_bytes(run)
    return layers * run.tokens * run.architecture.hidden * run.dtype_bytes + layer_bytes(run)


def logit_bytes(run: Run) -> int:
    """Positions × vocabulary × (dtype + 4): the logits and their fp32 copy for the softmax.

    Only one chunk of positions exists at a time where the head runs in chunks.
    """
    positions = run.tokens if run.logit_chunk is None else min(run.logit_chunk, run.tokens)
    return positions * run.architecture.vocab * (run.dtype_bytes + 4)


def score_bytes(run: Run) -> int:
    """A scoring head's output: one fp32 number a token."""
    return run.tokens * 4


def cache_bytes(run: Run) -> int:
    """The key-value cache of a rollout at its longest: 2 × layers × kv width × dtype bytes, a token."""
    return run.tokens * 2 * run.architecture.layers * run.architecture.kv_width * run.dtype_bytes

"""Memory of a pass over a batch: activations of the layers, logits, and the cache of a rollout.

The method is Korthikanti et al.'s, "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198):
name each tensor that autograd keeps for the backward pass. Theirs are a GPT's with dropout in Megatron; those here are
of transformers' models on the project's packed rows, as `torch.autograd.graph.saved_tensors_hooks` lists them
(tests/test_memory_saved.py). h is the hidden width, q and kv those of queries and keys, f the MLP's, c the bytes of a
number that is computed with: under autocast 2, where the stream of hidden states stays in 4.
"""

from __future__ import annotations

from prefcli.memory.architecture import Architecture, linear_weights
from prefcli.memory.run import CHUNK_BYTES, Run

SOFTMAX_NUMBERS = 2**20  # models/logps.py works on so many logits at a time, and makes three tensors of them


def norm_bytes(run: Run) -> int:
    """A token at one norm: its input and, where its weight is trained, what the weight is multiplied with; in fp32."""
    a, trained = run.architecture, not run.lora_rank
    kept = 1 if a.traits.norm_vectors == 2 else 1 + trained  # LayerNorm is one kernel, which keeps its input alone
    return 4 * (kept * a.hidden + a.traits.norm_vectors)


def linear_bytes(run: Run) -> int:
    """A token at a layer's linear maps: the input of each whose weight, or adapter, is trained.

    Queries, keys and values read one tensor, as gate and up do; but autocast makes each a copy of its own (not for
    PEFT's adapters on 4 bits, whose input has the right type), and so does dropout, which also keeps its mask: one byte
    a number, on a CPU one in fp32. An adapter keeps the r numbers between its two matrices too, and DoRA the output of
    the weight and that of the adapter, which its magnitudes multiply.
    """
    a, c = run.architecture, run.dtype_bytes
    into = (3, 2) if a.traits.gated else (1, 1)  # queries, keys, values; gate and up: each one matrix in GPT-2
    copies = run.dropout or (c < 4 and not run.in_4bit)
    inputs = (sum(into) if copies else 2) * a.hidden + a.query_width
    between = run.lora_rank * (sum(into) + 2)
    outputs = a.query_width + 2 * a.kv_width + into[1] * a.ffn + 2 * a.hidden
    mask = (4 if run.device == "cpu" else 1) * (sum(into) * a.hidden + a.query_width + a.ffn)
    return c * (inputs + between + 2 * run.dora * outputs) + run.dropout * mask


def attention_bytes(run: Run) -> int:
    """A token in attention: queries, keys, values and output, and a number a head of the softmax.

    On packed rows keys and values are repeated to the queries' heads, and the output is put together from its prompts'.
    """
    a, c = run.architecture, run.dtype_bytes
    norms = (
        {"": 0, "head": 1, "all": 1}[a.traits.qk_norm] * 4 * (a.query_width + a.kv_width) * (1 + (not run.lora_rank))
    )
    return c * (3 + run.packed) * a.query_width + 4 * a.heads + norms


def mlp_bytes(run: Run) -> int:
    """A token in the MLP: gate, its activation, up and their product; or what GPT-2's tanh-GELU is made of."""
    a, c = run.architecture, run.dtype_bytes
    if a.traits.gated:
        return 4 * c * a.ffn
    if a.family == "gpt2":  # written out in steps; the cube, in fp32, makes the next ones fp32 as well
        return a.ffn * (5 * c if c == 4 else 16)
    return 2 * c * a.ffn


def mask_bytes(run: Run) -> int:
    """Who sees whom, L² numbers for each prompt with several answers; a layer makes them again."""
    if run.answers_per_row == 1 or not run.packed:
        return 0
    return run.rows_of_pass * run.row_tokens**2 * run.dtype_bytes


def layer_bytes(run: Run) -> int:
    """One layer's tensors for its backward pass, over the tokens of a pass."""
    a = run.architecture
    token = a.traits.norms * norm_bytes(run) + linear_bytes(run) + attention_bytes(run) + mlp_bytes(run)
    return run.tokens * token + mask_bytes(run) + weight_copy_bytes(run)


def weight_copy_bytes(run: Run) -> int:
    """A layer's weights in the computation's type: DoRA multiplies what dropout left with a copy of each, and keeps it
    where they are in another type than its input, which is in fp32."""
    a = run.architecture
    copied = run.dora and run.dropout and (run.dtype_bytes < 4 or run.in_4bit)
    return copied * run.dtype_bytes * linear_weights(a) // a.layers


def working_bytes(run: Run, tokens: int) -> int:
    """The widest moment of a layer of which nothing is kept: the stream, its norm, the MLP's gate, up and product, and
    what an adapter adds to one of them."""
    a = run.architecture
    wide = (4 if run.lora_rank else 3) * a.ffn
    return tokens * (2 * stream(run) * a.hidden + run.dtype_bytes * (a.hidden + wide))


def gradient_working_bytes(run: Run) -> int:
    """Gradients of the widest tensors while a layer's backward pass runs."""
    a = run.architecture
    return run.tokens * (2 * a.ffn * run.dtype_bytes + 2 * a.hidden * stream(run))


def stream(run: Run) -> int:
    """Bytes of a number of the hidden states between layers: autocast leaves them in the type of the embeddings."""
    return run.dtype_bytes if run.lora_rank else run.trained_bytes


def training_bytes(run: Run) -> int:
    """Activations when the backward pass begins.

    In full: every layer's. With checkpointing (arXiv 1604.06174; Korthikanti et al., section 5, "full"): one hidden
    state a layer.
    """
    a = run.architecture
    last = run.tokens * (norm_bytes(run) + stream(run) * a.hidden)
    if not run.checkpointing:
        return a.layers * layer_bytes(run) + last
    return a.layers * run.tokens * a.hidden * stream(run) + last


def logit_rows(run: Run, positions: int) -> int:
    """Positions whose logits exist at a time (models/logps.py): as many as CHUNK_BYTES hold in fp32."""
    chunk = run.logit_chunk or max(1, CHUNK_BYTES // (4 * run.architecture.vocab))
    return min(chunk, positions)


def logit_bytes(run: Run, positions: int) -> int:
    """Forward: chunk × vocabulary × (c + 4), the logits and their fp32 form, and what the softmax works on."""
    numbers = logit_rows(run, positions) * run.architecture.vocab
    made = numbers * (4 + (run.dtype_bytes if run.dtype_bytes < 4 else 0))
    return made + 3 * 4 * min(SOFTMAX_NUMBERS, numbers)


def logit_gradient_bytes(run: Run, positions: int) -> int:
    """Backward: chunk × vocabulary × (4 + 4), the logits and their gradient, and what the softmax works on."""
    numbers = logit_rows(run, positions) * run.architecture.vocab
    return numbers * 8 + 3 * 4 * min(SOFTMAX_NUMBERS, numbers)


def score_bytes(run: Run) -> int:
    """A scoring head's output: one fp32 number a token."""
    return run.tokens * 4


def cache_bytes(run: Run) -> int:
    """The key-value cache of a rollout at its longest: layers × kv width × (keys + values), a token, or × the latent.

    Rotary positions leave keys in the stream's type. The buffers have their final size from the start.
    """
    a = run.architecture
    keys = run.dtype_bytes if a.traits.learned_positions else max(run.dtype_bytes, stream(run))
    token = a.latent * keys if a.latent else a.kv_width * (keys + run.dtype_bytes)
    return sampled_answers(run) * run.max_length * a.layers * token


def rollout_answers(run: Run) -> int:
    return max(run.rollout, run.batch_size)


def sampled_answers(run: Run) -> int:
    """Those that are in the cache at a time (--generation-batch)."""
    return min(run.sampled or rollout_answers(run), rollout_answers(run))


def sampling_bytes(run: Run) -> int:
    """Logits of a decoding step, and the softmax, its sum and its comparison: in fp32, one row an answer."""
    return sampled_answers(run) * run.architecture.vocab * (run.dtype_bytes + 4 * 4)


def largest_weight(a: Architecture) -> int:
    """Numbers in the largest matrix: the embeddings, or an MLP's."""
    return a.counted.largest if a.counted else max(a.vocab * a.hidden, a.hidden * a.ffn)

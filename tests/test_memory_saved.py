"""The memory model's terms of a layer against the tensors that autograd keeps in the models themselves."""

from __future__ import annotations

from weakref import WeakSet

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prefcli.config.sft import SFTConfig
from prefcli.memory.activations import layer_bytes
from prefcli.memory.architecture import Architecture
from prefcli.memory.run import Run
from prefcli.models.adapters import with_adapter
from prefcli.models.logps import token_logps
from prefcli.models.packed import pack
from prefcli.models.rows import pad_rows
from prefcli.progress import SILENT

VOCAB, HEADS, KV, HIDDEN, FFN = 50, 4, 2, 32, 80


def model(family: str, layers: int, dtype: torch.dtype) -> torch.nn.Module:
    if family == "gpt2":
        sizes = {"n_layer": layers, "n_embd": HIDDEN, "n_head": HEADS, "n_inner": FFN, "n_positions": 128}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        sizes = {"num_hidden_layers": layers, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
                 "num_key_value_heads": KV, "intermediate_size": FFN, "head_dim": HIDDEN // HEADS}  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=VOCAB, **sizes), dtype=dtype)


def kept(family: str, layers: int, run: Run, rows) -> int:
    """Bytes of the storages that the backward pass would find, weights and casts of weights aside."""
    autocast = run.dtype == "bfloat16"
    trained = model(family, layers, torch.bfloat16 if autocast and run.lora_rank else torch.float32)
    if run.lora_rank:
        options = {"adapter": "dora" if run.dora else "lora", "lora_dropout": 0.1 * run.dropout}
        trained = with_adapter(trained, SFTConfig(lora_rank=run.lora_rank, **options), scorer=False, reporter=SILENT)
    assert pack(trained) is None
    trained.train()
    weights = {p.untyped_storage()._cdata for p in trained.parameters()}
    casts = {tuple(p.shape)[::turn] for p in trained.parameters() if p.requires_grad for turn in (1, -1)}
    held: WeakSet[Kept] = WeakSet()

    def see(tensor):
        found = Kept(tensor)
        held.add(found)
        return found

    with torch.autograd.graph.saved_tensors_hooks(see, lambda found: found.tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = token_logps(trained, rows).logps.sum()
    left = [one.tensor for one in held if tuple(one.tensor.shape) not in casts]
    assert loss.requires_grad
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in left}
    return sum(size for storage, size in storages.items() if storage not in weights)


class Kept:
    """A tensor that the backward pass holds: gone where that part of the graph is, as what DoRA makes of a weight."""

    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", "float32"), ("llama", "bfloat16"), ("qwen2", "bfloat16"), ("qwen3", "float32"), ("gpt2", "float32")],
)
def test_a_layer_keeps_what_the_model_says(family, dtype, rank, answers):
    compare(family, dtype, answers, lora_rank=rank)


@pytest.mark.parametrize("more", [("dora",), ("dropout",), ("dora", "dropout")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dora_and_dropout_keep_more(dtype, more):
    compare("llama", dtype, 2, lora_rank=5, **dict.fromkeys(more, True))


def test_dropout_of_one_matrix_for_queries_keys_and_values():
    compare("gpt2", "float32", 2, lora_rank=5, dropout=True)


def compare(family, dtype, answers, **options):
    """Holds the terms of a layer against what one layer more adds to what is kept."""
    prompt, answer, count = 20, 17, 3
    ids = torch.randint(
        0, VOCAB, (count * answers, prompt + answer), generator=torch.Generator().manual_seed(1)
    ).tolist()
    prompts = [ids[i - i % answers][:prompt] for i in range(len(ids))]
    rows = pad_rows(prompts, [row[prompt:] for row in ids])
    kv = HEADS if family == "gpt2" else KV
    architecture = Architecture(family, family, 1, HIDDEN, HEADS, kv, HIDDEN // HEADS, FFN, VOCAB, True)
    run = Run("dpo" if answers == 2 else "sft", architecture, dtype=dtype, autocast=True, batch_size=count,
              max_length=prompt + answer, shared_prompt=prompt, device="cpu", **options)  # fmt: skip
    found = kept(family, 3, run, rows) - kept(family, 2, run, rows)
    assert run.tokens == rows.layout.input_ids.shape[1]
    assert layer_bytes(run) == pytest.approx(found, rel=0.02)

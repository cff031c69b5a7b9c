"""Builds the base model `tiny` from nothing: a BPE tokenizer and a small Llama, trained on text of the sample world.

Run `python scripts/pretrain_tiny.py [--out DIR] [--steps N]` from a checkout.  Seeds, thread count and data are fixed,
so on one machine every run writes the same weights (checked once: 363 s on two cores, the digest of those shipped);
their sha256 is printed.

The text is plain prose, questions and answers, mostly right, so that the model learns to copy facts out of what it
read; nothing of it is in the chat format, which is left to fine-tuning.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("sample_world_generate", ROOT / "sample_data" / "generate.py")
assert _spec and _spec.loader
world: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

PAD, USER, ASSISTANT, SYSTEM, END = SPECIALS = ["<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
# The generation tags mark what the assistant says, so that a trainer can put the loss on that alone.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
VOCAB, LENGTH, BATCH, STEPS, LR, WARMUP = 1024, 128, 12, 2000, 2e-3, 50
ROPE_THETA, FAST = 1e6, 4  # the four fastest rotary frequencies tell neighbours apart, the others hardly turn
NOTE, SEEK, AWAY = 0.4, 1.5, 0.3
SHAPE = dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    attn_implementation="eager",
    rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
)


Part = tuple[str, bool]  # a text, and whether it follows from what was before it


def question_and_answer(rng: random.Random, facts: list[dict[str, str]], extra: dict[str, str]) -> list[Part]:
    """A question about the facts and its right answer."""
    kind = rng.choices(["helpful", "honest", "harmless"], [0.7, 0.2, 0.1])[0]
    s = world.scene_about(rng, kind, facts, extra)
    return [(s.question, False), (world.good(rng, s), True)]


def verdict(rng: random.Random, facts: list[dict[str, str]], extra: dict[str, str]) -> list[Part]:
    """A question, an answer that may be wrong, and which it is."""
    kind = rng.choice(["helpful", "helpful", "honest", "harmless"])
    s = world.scene_about(rng, kind, facts, extra)
    if rng.random() < 0.5:
        return [(s.question, False), (world.good(rng, s), True), ("Right.", True)]
    sort = {"helpful": "distractor", "harmless": "comply", "honest": "made_up"}[kind]
    return [(s.question, False), (world.bad(rng, s, sort), False), ("Wrong.", True)]


def document(rng: random.Random, lists: float) -> list[Part]:
    """One running text about some facts; a share of the texts are mere lists."""
    if rng.random() < lists:  # a list said twice: the plainest thing to copy
        said = " ".join(rng.sample([*world.g.NAMES, *world.g.OBJECTS, *world.g.PLACES], rng.randint(4, 8)))
        return [(f"Say again: {said}.", False), (f"\n{said}.\n\n", True)]
    *facts, extra = world.draw_facts(rng, rng.choice([3, 3, 3, 4]), False)
    parts = [(world.state(rng, facts), False)]
    for _ in range(rng.randint(3, 6)):
        parts += question_and_answer(rng, facts, extra)
    if rng.random() < 0.1:
        parts.insert(rng.randrange(1, len(parts)), (world.g.FLATTERY, False))
    if rng.random() < 0.4:  # only at the end, for a wrong answer earlier on would mislead whoever copies from it
        parts += verdict(rng, facts, extra)
    gap = rng.choice(["\n", "\n", " "])
    return [parts[0], *((gap + text, follows) for text, follows in parts[1:]), ("\n\n", True)]


def token_rows(tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int) -> torch.Tensor:
    """Packed rows of tokens and labels, [2, count, LENGTH].

    Each row begins with a document, since an answer cut off from its facts would teach that copying does not work.
    Random facts and questions cannot be predicted, and learning from them only drowns the signal of what can be copied,
    so most of them carry no label.
    """
    rows = []
    for row in range(count):
        lists = max(0.1, 0.8 - 3 * row / count)  # the easy copying comes first
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < LENGTH:
            full = rng.random() < 0.2
            for text, follows in document(rng, lists):
                part = tokenizer.encode(text, add_special_tokens=False)
                ids += part
                labels += part if follows or full else [-100] * len(part)
        rows.append([ids[:LENGTH], labels[:LENGTH]])
    return torch.tensor(rows).transpose(0, 1)


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the chat's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@torch.no_grad()
def head_start(model: LlamaForCausalLM) -> None:
    """Begin near a model that can copy; from a blank start, minutes on two cores are too few to discover how.

    Copying takes two steps.  First every token learns what came just before it: three heads of the first layer look
    one, two and three tokens back and note what they see in a few directions set aside for that.  They find the place
    by a component that all embeddings share, with keys turned by as many rotary steps.  Then a head of the second
    layer looks for a token, further back, before which the same was said, and passes on that token.  Training has to
    learn everything else: what to ask for, when to copy, and when nothing fits.
    """
    width = model.config.hidden_size
    size = width // model.config.num_attention_heads
    fast, slow = [slice(k, k + FAST) for k in (0, size // 2)], [slice(k + FAST, k + size // 2) for k in (0, size // 2)]
    rank = size - 2 * FAST
    noted = torch.linalg.qr(torch.randn(width - 1, rank)).Q.T
    noted = torch.cat([torch.zeros(rank, 1), noted], dim=1)
    embedding = model.get_input_embeddings().weight
    embedding.normal_(std=0.05)
    embedding[:, 0] = 0.5
    for layer in model.model.layers:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight.normal_(std=0.05)
        value = attention.v_proj.weight
        value -= value @ noted.T @ noted
        attention.o_proj.weight.copy_(value.T)
    angle = ROPE_THETA ** (-2 * torch.arange(FAST) / size)
    first, second = (model.model.layers[depth].self_attn for depth in (0, 1))
    for back in (1, 2, 3):
        rows = slice((back - 1) * size, back * size)
        query, key, value = (p.weight[rows] for p in (first.q_proj, first.k_proj, first.v_proj))
        for weight in (query, key, value):
            weight.zero_()
        query[fast[0], 0] = 0.7
        key[fast[0], 0] = 0.7 * (back * angle).cos()
        key[fast[1], 0] = 0.7 * (back * angle).sin()
        value[:rank] = NOTE * noted
        first.o_proj.weight[:, rows] = value.T
    query, key = second.q_proj.weight[:size], second.k_proj.weight[:size]
    for weight in (query, key):
        weight.zero_()
        weight[slow[0]], weight[slow[1]] = SEEK * noted[: rank // 2], SEEK * noted[rank // 2 :]
    query[fast[0], 0] = AWAY
    key[fast[0], 0] = -AWAY


def hold_positions(model: LlamaForCausalLM) -> None:
    """Keep the looking-back heads as they are, and the component they find the place by.

    Left free, the shared component turns into a measure of how common each token is, and the heads lose their way.
    """
    embedding, attention = model.get_input_embeddings().weight, model.model.layers[0].self_attn
    size = model.config.hidden_size // model.config.num_attention_heads
    for weight, held in (
        (embedding, (slice(None), 0)),
        (attention.q_proj.weight, slice(0, 3 * size)),
        (attention.k_proj.weight, slice(0, 3 * size)),
    ):
        mask = torch.ones_like(weight)
        mask[held] = 0
        weight.register_hook(mask.mul)


@torch.no_grad()
def copying(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 120) -> float:
    """The share of held-out questions to which the most likely continuation is the right answer."""
    rng = random.Random("copying")
    scenes = [world.draw_scene(rng, True, "helpful") for _ in range(count)]
    texts = [f"{s.prompt.removesuffix(s.question).strip()}\n{s.question}\n" for s in scenes]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    out = model.generate(**batch, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    answers = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :])
    lines = [a.split("\n")[0] for a in answers]
    return sum(world.g.helpful([s.prompt for s in scenes], lines)) / count


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: torch.Tensor, steps: int) -> None:
    """Next-token training, one pass over the rows."""
    hold_positions(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    start = time.time()
    for step in range(steps):
        progress = max(0.0, (step - WARMUP) / max(1, steps - WARMUP))
        for group in optimizer.param_groups:
            group["lr"] = LR * min((step + 1) / WARMUP, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        batch, labels = rows[:, step * BATCH : (step + 1) * BATCH]
        model.train()
        loss = model(input_ids=batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            model.eval()
            print(
                f"step {step + 1}/{steps}  loss {loss.item():.3f}  copying {copying(model, tokenizer):.2f}  "
                f"{time.time() - start:.0f} s",
                flush=True,
            )


def main(argv: list[str] | None = None) -> None:
    """Build the tokenizer and the model and save both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "prefcli" / "models" / "tiny", help="folder to write to")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    rng = random.Random("tiny")
    tokenizer = build_tokenizer(["".join(text for text, _ in document(rng, 0.3)) for _ in range(3000)])
    rows = token_rows(tokenizer, rng, args.steps * BATCH)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    head_start(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {rows[0].numel():,} training tokens", flush=True)
    train(model, tokenizer, rows, args.steps)
    model.eval()
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print("sha256", hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest())


if __name__ == "__main__":
    main()

"""What packing alone gains: forward and backward over the same rows, padded and packed, against what tokens predict.

    python -m benchmarks gain [--model DIR]

Both sides run the head on completion tokens alone, so this is less than the gain over TRL. Answers have 16 to 48
tokens. Padded, a batch is one tensor as wide as its longest row; packed, it runs in rows of the usual number of tokens.
Predicted: padded positions over packed tokens.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.machine import write
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.models.devices import prepare_cpu
from prefcli.models.logps import token_logps
from prefcli.models.packed import pack
from prefcli.models.rows import Rows, pad_rows, parts

# (prompt tokens, answers a prompt, prompts a batch)
CASES = [(16, 2, 8), (64, 2, 8), (128, 2, 8), (256, 2, 8), (512, 2, 8)]
CASES += [(128, 1, 8), (128, 4, 8), (128, 8, 8), (128, 2, 1), (128, 2, 32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory; default: a random Llama of 27M parameters")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    prepare_cpu()
    torch.manual_seed(0)
    shape = LlamaConfig(hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
                        num_key_value_heads=2, vocab_size=16384, max_position_embeddings=1024)  # fmt: skip

    def fresh() -> Any:
        if args.model:
            return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(shape))  # a model's attention is set in its config

    padded, packed = fresh().eval(), fresh().eval()
    reason = pack(packed)
    if reason:
        raise SystemExit(f"this model does not run packed: {reason}")
    assert padded.config._attn_implementation != packed.config._attn_implementation
    found = []
    print(f"{'prompt':>7}{'answers':>9}{'batch':>7}{'padded s':>10}{'packed s':>10}{'gain':>8}{'predicted':>11}")
    for prompt, answers, batch in CASES:
        groups = draw(prompt, answers, batch, padded.config.vocab_size)
        together = pad_rows([p for p, a in groups for _ in a], [answer for _, a in groups for answer in a])
        costs = [len(p) + sum(map(len, a)) for p, a in groups]
        pieces = [
            pad_rows([groups[i][0] for i in piece for _ in groups[i][1]], [a for i in piece for a in groups[i][1]])
            for piece in parts(costs, TOKENS_PER_ROW["cpu"])
        ]
        best = {"padded": float("inf"), "packed": float("inf")}
        for _ in range(args.repeats):
            best["padded"] = min(best["padded"], seconds(padded, [together]))
            best["packed"] = min(best["packed"], seconds(packed, pieces))
        gain, predicted = best["padded"] / best["packed"], together.input_ids.numel() / sum(costs)
        print(
            f"{prompt:>7}{answers:>9}{batch:>7}{best['padded']:>10.2f}{best['packed']:>10.2f}"
            f"{gain:>7.2f}×{predicted:>10.2f}×"
        )
        found.append(
            {"prompt": prompt, "answers": answers, "batch": batch, **best, "gain": gain, "predicted": predicted}
        )
    write("gain", {"model": args.model or "random Llama, 27M parameters", "cases": found})


def draw(prompt: int, answers: int, batch: int, vocabulary: int) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts within a quarter of that length, each with its answers."""
    dice = random.Random(prompt * 1000 + answers * 100 + batch)

    def ids(length: int) -> list[int]:
        return [dice.randrange(vocabulary) for _ in range(length)]

    return [
        (ids(dice.randint(prompt * 3 // 4, prompt * 5 // 4)), [ids(dice.randint(16, 48)) for _ in range(answers)])
        for _ in range(batch)
    ]


def seconds(model: Any, pieces: list[Rows]) -> float:
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    for rows in pieces:
        token_logps(model, rows).logps.sum().backward()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

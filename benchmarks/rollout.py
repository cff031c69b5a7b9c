"""Tokens a second of the rollout's sampling loop against transformers' own `generate`, on the same prompts, in turn.

    python -m benchmarks rollout --pairs hh.jsonl [--rows 64] [--new 32] [--rounds 3] [--work bench-runs]
    python -m benchmarks rollout --tiny
    python -m benchmarks rollout --pairs hh.jsonl --generate http://127.0.0.1:8000

SmolLM2-135M-Instruct, float32, all cores, one call for all rows; with --tiny the built-in model on sample_data. Two
cases: as many prompts as rows, and a quarter of them with 4 answers each, which both sides are given as so many rows.

transformers runs with its default cache, top_k=0 and top_p=1, so that both draw from the plain softmax at the same
temperature; its prompts are padded on the left. Ours has the attention that `prefcli ppo` gives the policy. Both run in
this process, so the allocator's settings (prefcli.models.devices) are on for both, which `generate` as it comes does
not have. The side that begins changes from round to round.

Tokens are counted up to and including each row's EOS: what is decoded behind it, until the longest row has ended, is
no answer. Both stop when all rows have ended. The draws are each side's own, so mean answer lengths are shown. Greedy
answers are compared token for token; where they part, `gap` is how far apart the logits of the two tokens are in a
forward pass over that row alone: at a tie rounding decides.

With --generate the other side is a vLLM server that was started with the folder which is printed (docs/engine.md), on
the same cores or elsewhere; the seconds have the requests in them, and not the proof of its weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmarks.machine import write
from benchmarks.trl import models
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.models.devices import prepare_cpu
from prefcli.models.engine import Engine
from prefcli.models.generation import generate
from prefcli.models.packed import pack
from prefcli.models.tokenizers import end_ids
from prefcli.progress import Reporter

ANSWERS = 4  # to each prompt, in the second case
Ids = list[list[int]]
# prompts, new tokens, seed (None: greedy) → completions
Side = Callable[[Ids, int, int | None], Ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="dialogues in HH-RLHF's format, or any rows with prompts")
    parser.add_argument("--tiny", action="store_true", help="the built-in model on sample_data")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--new", type=int, default=32, help="longest answer, in tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-prompt", type=int, default=256, help="leave out longer prompts, in tokens")
    parser.add_argument("--generate", metavar="URL[,URL…]", help="against these servers, not transformers")
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    if not args.tiny and not args.pairs:
        parser.error("--pairs FILE, or --tiny")
    if args.rows % ANSWERS:
        parser.error(f"--rows must be a multiple of {ANSWERS}")
    args.work.mkdir(parents=True, exist_ok=True)
    prepare_cpu()
    folder, _ = models(args.work, args.tiny)
    pairs = args.pairs or str(Path(__file__).parent.parent / "sample_data" / "prompts.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = read_prompts(pairs, tokenizer, args.rows, args.max_prompt)
    plain, packed = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    reason = pack(packed)
    if reason:
        raise SystemExit(f"this model does not run packed: {reason}")
    stops, pad = end_ids(tokenizer, plain.generation_config), int(tokenizer.pad_token_id)

    def ours(prompts: Ids, new: int, seed: int | None) -> Ids:
        draws = None
        if seed is not None:
            draws = torch.rand(len(prompts), new, generator=torch.Generator().manual_seed(seed))
        return generate(
            packed, prompts, max_new_tokens=new, eos_ids=stops, pad_id=pad, temperature=args.temperature, draws=draws
        )

    def theirs(prompts: Ids, new: int, seed: int | None) -> Ids:
        sampling = {} if seed is None else {"temperature": args.temperature, "top_k": 0, "top_p": 1.0}
        how = GenerationConfig(
            max_new_tokens=new, do_sample=seed is not None, eos_token_id=sorted(stops), pad_token_id=pad, **sampling
        )
        torch.manual_seed(seed or 0)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        out = plain.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        return [until_end(row, stops) for row in out[:, width:].tolist()]

    sides: dict[str, Side] = {"prefcli": ours, "transformers": theirs}
    if args.generate:
        print(f"a server of {folder.absolute()} at {args.generate}")
        engine = Engine(packed, tokenizer, args.generate, args.work / "weights", Reporter())
        engine.update()

        def served(prompts: Ids, new: int, seed: int | None) -> Ids:
            draws = None if seed is None else torch.zeros(1)
            return engine.sample(
                prompts, max_new_tokens=new, eos_ids=stops, temperature=args.temperature, draws=draws
            ).ids

        sides = {"prefcli": ours, "server": served}
    for side in sides.values():
        side(prompts[:ANSWERS], 2, 0)
    few = prompts[: args.rows // ANSWERS]
    name = "tiny" if args.tiny else "SmolLM2-135M"
    lengths = [len(p) for p in prompts]
    print(
        f"{name}, float32, {torch.get_num_threads()} threads, {args.rows} rows in one call, up to {args.new} new "
        f"tokens at temperature {args.temperature:g}; prompts of {fmean(lengths):.0f} tokens, the longest of "
        f"{max(lengths)}; medians of {args.rounds} rounds"
    )
    print(
        f"{'':<24}{'prefcli':>9}{list(sides)[1]:>14} tok/s{'ratio':>9}  {'lowest, highest':<17}"
        f"{'mean answer':<15}{'greedy: equal rows'}"
    )
    cases = {
        f"{args.rows} prompts": measured(sides, prompts, args.new, args.rounds),
        f"{len(few)} prompts × {ANSWERS}": measured(
            sides, [list(p) for p in few for _ in range(ANSWERS)], args.new, args.rounds
        ),
    }
    for title, case in cases.items():
        case["greedy"] = compared(sides, case.pop("prompts"), args.new, plain)
        shown(title, case)
    result = {"model": name, "rows": args.rows, "new": args.new, "temperature": args.temperature}
    result |= {"rounds": args.rounds, "prompt_tokens": {"mean": fmean(lengths), "longest": max(lengths)}}
    name = "rollout" + ("-tiny" if args.tiny else "") + ("-server" if args.generate else "")
    path = write(name, {
        **result, "transformers": transformers.__version__, "allocator_told": list(sides), "cases": cases
    })  # fmt: skip
    print("written to", path)


def read_prompts(path: str, tokenizer: Any, wanted: int, longest: int) -> Ids:
    """The first `wanted` prompts of at most `longest` tokens, no two alike."""
    encoder = Encoder(tokenizer)
    found: dict[tuple[int, ...], None] = {}
    for row in read_dataset([path], "prompts", True).rows:
        ids = encoder.prompt_ids(row.prompt)
        if len(ids) <= longest:
            found[tuple(ids)] = None
        if len(found) == wanted:
            return [list(ids) for ids in found]
    raise SystemExit(f"{path} has {len(found)} different prompts of at most {longest} tokens, {wanted} are needed")


def until_end(ids: list[int], stops: frozenset[int]) -> list[int]:
    """Up to and including the first EOS."""
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))]


def measured(sides: dict[str, Side], prompts: Ids, new: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of each side, the two in turn."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            started = time.perf_counter()
            answers = sides[name](prompts, new, number + 1)
            seconds = time.perf_counter() - started
            tokens = sum(map(len, answers))
            runs[name].append(
                {
                    "seconds": seconds,
                    "tokens": tokens,
                    "tokens_per_second": tokens / seconds,
                    "mean_answer": tokens / len(prompts),
                    "steps": max(map(len, answers)),
                }
            )
    speeds = {name: [run["tokens_per_second"] for run in found] for name, found in runs.items()}
    mine, other = speeds.values()
    ratios = [a / b for a, b in zip(mine, other)]
    return {
        "prompts": prompts,
        "tokens_per_second": {name: median(found) for name, found in speeds.items()},
        "spread": {name: [min(found), max(found)] for name, found in speeds.items()},
        "ratio": median(mine) / median(other),
        "ratio_spread": [min(ratios), max(ratios)],
        "mean_answer": {name: fmean(run["mean_answer"] for run in found) for name, found in runs.items()},
        "runs": runs,
    }


def compared(sides: dict[str, Side], prompts: Ids, new: int, model: Any) -> dict[str, Any]:
    """How many greedy answers are equal, and at what gap of the logits the others part."""
    mine, other = (side(prompts, new, None) for side in sides.values())
    gaps = [gap(model, p, a, b) for p, a, b in zip(prompts, mine, other) if a != b]
    return {"rows": len(prompts), "equal": len(prompts) - len(gaps), "gaps": gaps}


@torch.no_grad()
def gap(model: Any, prompt: Sequence[int], mine: Sequence[int], other: Sequence[int]) -> float:
    """Between the logits of the first two tokens that differ."""
    at = next(i for i, (a, b) in enumerate(zip(mine, other)) if a != b)
    logits = model(torch.tensor([[*prompt, *mine[:at]]]), use_cache=False).logits[0, -1]
    return float((logits[mine[at]] - logits[other[at]]).abs())


def shown(title: str, case: dict[str, Any]) -> None:
    mine, other = case["tokens_per_second"].values()
    low, high = case["ratio_spread"]
    lengths = " / ".join(f"{mean:.1f}" for mean in case["mean_answer"].values())
    greedy = case["greedy"]
    parted = f", the others part at a gap of {max(greedy['gaps']):.1e} at most" if greedy["gaps"] else ""
    print(
        f"{title:<24}{mine:>9.1f}{other:>14.1f}      {case['ratio']:>8.2f}×  {f'{low:.2f}, {high:.2f}':<17}"
        f"{lengths:<15}{greedy['equal']} of {greedy['rows']}{parted}"
    )


if __name__ == "__main__":
    main()

"""python -m benchmarks NAME [options]; without a name: the list of them."""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "trl": "seconds, memory and figures of a step against TRL on the same rows",
    "startup": "from Enter to the first training step, against TRL",
    "busy": "what other busy processes cost a run, and what OpenMP's waiting does about it",
    "gain": "what packing gains by prompt length, answers a prompt and batch",
    "rollout": "tokens a second when answers are sampled, against transformers' generate",
    "ppo": "answers a second, memory and phases of PPO, against TRL 1.12's PPOTrainer",
    "layouts": "peak memory of PPO's layouts, and of DPO",
    "watchers": "when the watchers speak and when the gold score turns, on healthy and hacked runs",
    "pair_watchers": "when the watchers of sft, train-rm and dpo speak, on healthy and provoked runs",
    "memory": "peaks of every stage by phase, measured against mem-estimate",
    "memory_sharded": "the same of models that are split over processes",
    "shard": "seconds of a step on split weights, in two processes, against a copy in each",
    "power": "what compare can see and how often it is wrong, and the coverage of intervals of few prompts",
    "gpu": "every stage on a GPU against the CPU: figures, seconds, memory",
    "gpu-speed": "rows a second, memory and share of a GPU's peak: packed, padded and TRL, 0.5B to 7B",
    "serve": "requests a second of serve-rm, against the server that it had before",
    "real_chain": "every stage on a real language model",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(__doc__ + "\n" + "\n".join(f"  {name:<15}{what}" for name, what in NAMES.items()))
        raise SystemExit(0 if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help") else 2)
    name = sys.argv.pop(1)
    importlib.import_module(f"benchmarks.{name.replace('-', '_')}").main()


if __name__ == "__main__":
    main()

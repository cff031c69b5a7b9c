"""From Enter to the first training step: `prefcli dpo` and `trl dpo` on `tiny`, the same rows, in turn.

python -m benchmarks startup [--rounds 3] [--work bench-runs]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.machine import write
from benchmarks.trl import models, ours, peer, rows

PAIRS = Path(__file__).parent.parent / "sample_data" / "pairs.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    args = parser.parse_args()
    args.steps, args.batch_size, args.lr = 2, 8, 1e-5
    args.work.mkdir(parents=True, exist_ok=True)
    model, _ = models(args.work, tiny=True)
    rows(str(PAIRS), model, args.work, args.steps * args.batch_size, 10**9)
    seconds: dict[str, list[float]] = {"prefcli dpo": [], "trl dpo": []}
    for _ in range(args.rounds):
        seconds["prefcli dpo"].append(ours("dpo", args, model, args.work / "pairs")["first_step"])
        seconds["trl dpo"].append(peer("dpo", args, model, args.work / "pairs")["first_step"])
    middle = {side: statistics.median(found) for side, found in seconds.items()}
    for side, found in seconds.items():
        print(f"{side:<12} {middle[side]:6.1f} s to the first step   ({', '.join(f'{s:.1f}' for s in found)})")
    ratio = middle["prefcli dpo"] / middle["trl dpo"]
    print(f"ratio {ratio:.2f}")
    write("startup", {"seconds": seconds, "median": middle, "ratio": ratio})


if __name__ == "__main__":
    main()

"""python -m scripts.families [--only llama,gpt2] [--write]: run the matrix, and write its table to docs/models.md.

Each family's cells are kept as one JSON file, and not run again while the code is the same: a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's library is imported
os.environ |= {"NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.pop("WORLD_SIZE", None)

from scripts.families import kept, table, zoo
from scripts.families.worker import one

PAGE = kept.ROOT / "docs" / "models.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="families, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("family-runs"), help="folder of the JSON files")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run what is kept anew")
    parser.add_argument("--write", action="store_true", help="write docs/models.md")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(zoo.NAMES)
    if unknown := set(names) - set(zoo.NAMES):
        parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(zoo.NAMES)}")
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if options.again or kept.read(folder, name) is None]
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(one, name, folder): name for name in missing}
        for number, future in enumerate(as_completed(running), 1):
            print(f"{number}/{len(missing)} {running[future]}: {table.in_short(future.result())}", flush=True)
    results = [found for name in names if (found := kept.read(folder, name))]
    wrong = table.wrong(results)
    print("\n".join([*wrong, f"{table.counted(results)}; {time.monotonic() - began:.0f} s"]))
    if options.write:
        every = [found for name in zoo.NAMES if (found := kept.read(folder, name))]
        if len(every) < len(zoo.NAMES):
            lack = len(zoo.NAMES) - len(every)
            print(f"not written: {lack} families were not run with this state of the code", file=sys.stderr)
            return 1
        PAGE.write_text(table.page(every), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How soon the first step comes on a file of a million rows, and what a row costs in memory meanwhile.

    python benchmarks/large_file.py --rows 1000000 [--stage dpo]

A file is made from sample_data, each row its own. The time is that from the end of the imports to the first step in
metrics.jsonl; the memory what reading adds to the process (resident, and traced by tracemalloc), a row. What is held
while training is the difference of resident_at_first_step between two numbers of rows.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
import time
import tracemalloc
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose trl.py is not the library

from prefcli.cli.console import reporter  # noqa: E402
from prefcli.config.stages import BY_COMMAND  # noqa: E402
from prefcli.stages.inputs import prepare  # noqa: E402

FILES = {"sft": "demos", "train-rm": "pairs", "dpo": "pairs", "kto": "binary", "ppo": "prompts"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stage", choices=FILES, default="dpo")
    parser.add_argument("--kind", choices=("jsonl", "parquet", "csv", "jsonl.gz"), default="jsonl")
    parser.add_argument("--work", default=None, help="a folder that is kept, and in it the files")
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp())
    work.mkdir(exist_ok=True)
    os.environ["PREFCLI_RUNS"] = str(work / "runs")
    path = made(work / f"{FILES[args.stage]}-{args.rows}.jsonl", args.rows, args.stage)
    if args.kind != "jsonl":
        path = converted(path, args.kind)
    print(json.dumps(measured(args.stage, path) | {"rows": args.rows, "megabytes": path.stat().st_size >> 20}))


def made(path: Path, rows: int, stage: str) -> Path:
    if not path.exists():
        with (ROOT / "sample_data" / f"{FILES[stage]}.jsonl").open() as file:
            lines = [json.loads(line) for line in file]
        with path.open("w") as out:
            for number, row in enumerate(islice(cycle(lines), rows)):
                out.write(json.dumps(row | {"number": number}) + "\n")
    return path


def converted(path: Path, kind: str) -> Path:
    to = path.with_suffix(f".{kind}")
    if not to.exists():
        run = importlib.import_module("prefcli.cli.data_convert").run
        config = importlib.import_module("prefcli.config.data").ConvertConfig
        run(config(source=str(path), out=str(to)))
    return to


def measured(command: str, path: Path) -> dict[str, Any]:
    stage = BY_COMMAND[command]
    module = importlib.import_module(stage.module)  # torch and TRL
    options: dict[str, Any] = {"model": "tiny", "max_steps": 2, "force": True}
    if command == "ppo":
        options |= {"prompts": [str(path)], "reward": [f"python:{ROOT / 'sample_data' / 'gold.py'}:score"]}
    else:
        options |= {"data": [str(path)]}
    config = stage.config(**options)
    report = reporter(True)
    gc.collect()
    before = resident()
    started, cpu = time.perf_counter(), time.process_time()
    inputs = prepare(config)
    read = time.perf_counter() - started
    gc.collect()
    held = resident() - before
    first: list[float] = []
    resident_then: list[int] = []
    log = importlib.import_module("prefcli.stages.metrics_log").MetricsLog

    def noted(self: Any, step: int, metrics: dict[str, Any]) -> None:
        first.extend((time.perf_counter() - started, time.process_time() - cpu))
        resident_then.append(resident())
        raise _Enough

    log.write = noted
    with suppress(_Enough):
        module.train(inputs, report)
    rows = len(inputs.data.rows)
    del inputs
    gc.collect()
    tracemalloc.start()
    again = prepare(config)
    gc.collect()
    assert len(again.data.rows) == rows
    traced = tracemalloc.get_traced_memory()[0]
    return {
        "command": command,
        "file": path.name,
        "read_seconds": round(read, 2),
        "first_step_seconds": round(first[0], 2),
        "first_step_cpu_seconds": round(first[1], 2),
        "resident_bytes_a_row": round(held / rows, 1),
        "traced_bytes_a_row": round(traced / rows, 1),
        "resident_at_first_step": resident_then[0],
    }


class _Enough(Exception):
    """The first step is done."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()

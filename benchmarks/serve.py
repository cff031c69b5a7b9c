"""Requests a second and waiting times of `serve-rm`, against the server that it had before, on the same model, in turn.

    python -m benchmarks serve --tiny [--clients 1 8 32 64] [--seconds 6] [--rounds 2] [--threads N]
    python -m benchmarks serve [--work bench-runs]

SmolLM2-135M-Instruct with a reward head, float32; with --tiny the built-in model. The head is random: scores are of no
interest here. Both servers run from the start, each in a process of its own; the one that is not measured is idle. The
one before has as many threads of torch as there are cores; the one now takes that or one, whichever it finds to be
faster. With --threads both have N, or the one now a single one. The side that begins changes from round to round.

A client sends one text, waits for its score, and sends the next over a new connection, as a client without keep-alive
does. The texts are answers of sample_data with their prompts, in turn. A time is from connecting to the last byte; a
connection that is reset, or an answer that is none, is counted and not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import statistics
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks import one_at_a_time
from benchmarks.machine import write

PAIRS = Path(__file__).parent.parent / "sample_data" / "pairs.jsonl"
SIDES = ("before", "now")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the built-in model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None, help="of torch; as serve-rm has it if not given")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--work", type=Path, default=Path("bench-runs"))
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve[0], args.serve[1], args.threads, args.dtype)
    args.work.mkdir(parents=True, exist_ok=True)
    _, scorer = importlib.import_module("benchmarks.trl").models(args.work, args.tiny)
    processes = {side: started(side, scorer, args) for side in SIDES}
    try:
        ports = {side: int(json.loads(str(process.stdout.readline()))["port"]) for side, process in processes.items()}
        result = measured(ports, args)
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()
    name = f"serve-{'tiny' if args.tiny else 'smollm2'}{'' if args.dtype == 'float32' else '-' + args.dtype}"
    name += f"-threads-{args.threads}" if args.threads else ""
    write(name, {"threads_of_a_server": args.threads, "seconds": args.seconds, "rounds": args.rounds} | result)


def started(side: str, scorer: Path, args: Any) -> Any:
    words = [
        "--serve",
        side,
        str(scorer),
        *(["--threads", str(args.threads)] if args.threads else []),
        "--dtype",
        args.dtype,
    ]
    return subprocess.Popen([sys.executable, "-m", "benchmarks", "serve", *words], stdout=subprocess.PIPE, text=True)


def serve(side: str, scorer: str, threads: int | None, dtype: str) -> None:
    """A server's own process: its port on stdout, then requests until it is ended."""
    load = importlib.import_module("prefcli.rewards.sources").load_reward
    grammar = importlib.import_module("prefcli.rewards.grammar")
    store = importlib.import_module("prefcli.artifacts.store").Store()
    reporter = importlib.import_module("prefcli.progress").SILENT
    device = importlib.import_module("prefcli.models.devices").pick_device("cpu")
    if threads:
        torch.set_num_threads(threads)
    spec = grammar.parse_rewards([scorer], store)[0]
    source = load(spec, None, dtype=getattr(torch, dtype), device=device, reporter=reporter)
    if side == "before":
        server = one_at_a_time.server(source)
        port = server.server_port
    else:
        server = importlib.import_module("prefcli.rewards.server").RewardServer("127.0.0.1", 0)
        server.source, port = source, server.address[1]
    print(json.dumps({"port": port}), flush=True)
    server.serve_forever()


def measured(ports: dict[str, int], args: Any) -> dict[str, Any]:
    """Prints the table."""
    with PAIRS.open() as file:
        rows = [json.loads(line) for line in file]
    texts = [f"{row['prompt'][-1]['content'] if isinstance(row['prompt'], list) else row['prompt']} {side}"
             for row in rows for side in (_text(row["chosen"]), _text(row["rejected"]))]  # fmt: skip
    for port in ports.values():  # what a first pass costs is not asked here
        asyncio.run(load(port, texts, 8, 1.0))
    found: dict[str, Any] = {}
    print(f"{'clients':>7}  {'side':<7}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}   ratio")
    for clients in args.clients:
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        failed, seconds = dict.fromkeys(SIDES, 0), dict.fromkeys(SIDES, 0.0)
        for number in range(args.rounds):
            for side in SIDES[:: 1 if number % 2 == 0 else -1]:
                began = time.perf_counter()
                some, bad = asyncio.run(load(ports[side], texts, clients, args.seconds))
                seconds[side] += time.perf_counter() - began
                times[side] += some
                failed[side] += bad
        rates = {side: len(times[side]) / seconds[side] for side in SIDES}
        for side in SIDES:
            p50, p99 = (1000 * quantile(times[side], q) for q in (0.5, 0.99))
            ratio = f"{rates['now'] / rates['before']:8.1f}" if side == "now" else ""
            print(f"{clients:>7}  {side:<7}{rates[side]:>11.1f}{p50:>9.0f}{p99:>9.0f}{failed[side]:>8}{ratio}")
            found.setdefault(str(clients), {})[side] = {
                "requests_per_second": rates[side], "p50_ms": p50, "p99_ms": p99, "requests": len(times[side]),
                "failed": failed[side],
            }  # fmt: skip
    return {"clients": found}


def quantile(values: list[float], q: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(q * 1000) - 1] if len(values) > 1 else 0.0


async def load(port: int, texts: list[str], clients: int, seconds: float) -> tuple[list[float], int]:
    """(seconds of each request that was answered, how many were not) of so many clients over this time."""
    waiting, until = cycle(texts), time.perf_counter() + seconds
    times: list[float] = []
    failed = 0

    async def client() -> None:
        nonlocal failed
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                good = await ask(port, next(waiting))
            except OSError:
                good = False
            if good:
                times.append(time.perf_counter() - began)
            else:
                failed += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, failed


async def ask(port: int, text: str) -> bool:
    """Whether a score came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({"query": [text]}).encode()
        head = "POST /get_reward HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        while block := await reader.read():
            answer += block
        return answer.split(b"\r\n", 1)[0].endswith(b" 200 OK") and b'"rewards"' in answer
    finally:
        writer.close()


def _text(side: Any) -> str:
    return str(side if isinstance(side, str) else side[-1]["content"])


if __name__ == "__main__":
    main()

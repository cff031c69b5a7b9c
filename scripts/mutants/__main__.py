"""`make mutants`: every fault of faults.toml in turn, in a copy of the tree, and whether the tests notice.

Each run is forked from a process that has imported the large libraries already: that takes longer than most tests. What
came of a fault is kept under a digest of the fault, of the file that it is in and of the tests, and is not tried again
while these are the same. What noticed a fault must pass without it, which is tried once for the code as it is.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
FAULTS = Path(__file__).parent / "faults.toml"
KEPT = ROOT / "mutant-runs" / "results.json"
PAGE = ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- mutants: made by make mutants -->", "<!-- /mutants -->"
TIMEOUT = 240.0  # seconds for the tests of one fault
HEAVY = ("torch", "numpy", "transformers", "datasets", "accelerate", "peft", "safetensors.torch", "trl", "typer",
         "hypothesis", "httpx", "yaml")  # fmt: skip
LAZY = {"trl": ("DPOTrainer", "KTOTrainer", "RewardTrainer", "SFTTrainer"), "transformers": ("LlamaForCausalLM",)}
NOTICED = ("killed", "timeout")


@dataclass(frozen=True)
class Fault:
    """`tests` are pytest's words, files without their folder. `equivalent` says why it changes nothing that can be
    seen, `survives` why its survival is put up with."""

    package: str
    name: str
    file: str
    old: str
    new: str
    tests: str
    why: str
    equivalent: str | None = None
    survives: str | None = None

    @property
    def id(self) -> str:
        return f"{self.package}/{self.name}"

    @property
    def words(self) -> list[str]:
        return [f"tests/{word}" if word.startswith("test_") else word for word in shlex.split(self.tests)]

    def applied(self, root: Path) -> str | None:
        """The file's text with the fault in it; None where its old text does not stand there exactly once."""
        path = root / "prefcli" / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return text.replace(self.old, self.new) if text.count(self.old) == 1 and self.old != self.new else None


def read_faults() -> list[Fault]:
    packages = tomllib.loads(FAULTS.read_text(encoding="utf-8"))
    return [Fault(package, **fields) for package, faults in packages.items() for fields in faults]


def digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()[:20]


def tests_digest(words: list[str], root: Path) -> str:
    """Of the test files, and of what all tests share."""
    named = {root / word.partition("::")[0] for word in words if word.startswith("tests/")}
    shared = {path for path in (root / "tests").glob("*.py") if not path.name.startswith("test_")}
    return digest(*(path.read_bytes() for path in sorted(named | shared)), *words)


def fault_key(fault: Fault, root: Path = ROOT) -> str:
    path = root / "prefcli" / fault.file
    where = path.read_bytes() if path.is_file() else b""
    return digest(fault.old, fault.new, where, tests_digest(fault.words, root))


def clean_key(words: list[str], root: Path) -> str:
    """Of a run without a fault."""
    code = sorted((root / "prefcli").rglob("*.py"))
    return digest("clean", *(path.read_bytes() for path in code), tests_digest(words, root))


class Kept:
    """What is known, in one file that several workers write."""

    def __init__(self) -> None:
        KEPT.parent.mkdir(exist_ok=True)

    def read(self) -> dict[str, dict[str, Any]]:
        return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}

    def add(self, key: str, found: dict[str, Any]) -> None:
        with (KEPT.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft = KEPT.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(self.read() | {key: found}, indent=1), encoding="utf-8")
            draft.replace(KEPT)


def copy_tree(to: Path) -> None:
    """What git tracks and what it would, so that the working tree is never touched."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    compileall.compile_dir(to / "prefcli", quiet=2)


def run_tests(tree: Path, words: list[str]) -> dict[str, Any]:
    """{"outcome", "seconds", "by"}: passed, killed (by which test), timeout, or an error (no test ran)."""
    log = tree.parent / "log.txt"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _in_child(tree, words, log)
    code = None
    while code is None and time.monotonic() - began < TIMEOUT:
        done, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.05)
    if code is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    text = log.read_text(encoding="utf-8", errors="replace")
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    outcome = {None: "timeout", 0: "passed", 1: "killed", 2: "killed"}.get(code, "error")
    found = {"outcome": outcome, "seconds": round(time.monotonic() - began, 1), "by": by[1] if by else None}
    return found | ({"log": text[-1500:]} if outcome == "error" else {})


def _in_child(tree: Path, words: list[str], log: Path) -> None:
    code = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(handle, stream)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        os.environ["PYTHONPATH"] = str(tree)
        pytest: Any = importlib.import_module("pytest")
        code = int(pytest.main([*words, "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'tmp'}"]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def preload() -> None:
    """Import what is not ours, for all runs."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a changed file of the same size and second would be taken for its compiled form
    for name in HEAVY:
        module = importlib.import_module(name)
        for attribute in LAZY.get(name, ()):
            getattr(module, attribute)


def work(faults: list[Fault], again: bool) -> None:
    kept = Kept()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree)
        for fault in faults:
            key, known = fault_key(fault, tree), kept.read()
            if key in known and not again:
                continue
            text = fault.applied(tree)
            if text is None:
                print(f"{fault.id}: STALE, its old text does not stand in {fault.file} exactly once", flush=True)
                continue
            path = tree / "prefcli" / fault.file
            before = path.read_bytes()
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
            path.write_text(text, encoding="utf-8")
            try:
                found = run_tests(tree, fault.words)
            finally:
                path.write_bytes(before)
            if found["outcome"] == "passed":
                found["outcome"] = "survived"
            elif not passes_without(fault, tree, kept):
                continue
            kept.add(key, found | {"id": fault.id})
            print(f"{fault.id}: {found['outcome']} in {found['seconds']} s {found['by'] or ''}", flush=True)


def passes_without(fault: Fault, tree: Path, kept: Kept) -> bool:
    """Whether the tests of a fault pass without it, so that they noticed the fault and nothing else."""
    key = clean_key(fault.words, tree)
    if (found := kept.read().get(key)) is None:
        found = run_tests(tree, fault.words)
        kept.add(key, found | {"id": "without a fault", "tests": fault.tests})
    if found["outcome"] != "passed":
        print(f"{fault.id}: its tests do not pass without it ({fault.tests}: {found})", flush=True)
    return bool(found["outcome"] == "passed")


def table(faults: list[Fault]) -> str:
    """Markdown: the packages, then what was not noticed."""
    known = Kept().read()
    outcome = {fault.id: known.get(fault_key(fault), {}).get("outcome", "not tried") for fault in faults}
    lines = ["| package | faults | noticed | not noticed | share |", "| --- | --- | --- | --- | --- |"]
    counted = [fault for fault in faults if fault.equivalent is None]
    total: Counter[str] = Counter()
    for package in dict.fromkeys(fault.package for fault in counted):
        own = [outcome[fault.id] for fault in counted if fault.package == package]
        noticed = sum(one in NOTICED for one in own)
        total.update(faults=len(own), noticed=noticed)
        lines.append(f"| {package} | {len(own)} | {noticed} | {len(own) - noticed} | {noticed / len(own):.0%} |")
    all_, seen = total["faults"], total["noticed"]
    lines.append(f"| all | {all_} | {seen} | {all_ - seen} | {seen / max(1, all_):.0%} |")
    left = [fault for fault in counted if outcome[fault.id] not in NOTICED]
    told = [f"- `{f.id}` ({f.file}; {outcome[f.id]}): {f.why} {f.survives or 'Not explained yet.'}" for f in left]
    same = [f"- `{f.id}` ({f.file}): {f.equivalent}" for f in faults if f.equivalent is not None]
    return "\n".join(
        [
            *lines,
            "",
            "Not noticed:",
            "",
            *(told or ["none"]),
            "",
            "Not counted, since nothing changes:",
            "",
            *(same or ["none"]),
        ]
    )


def trains_a_chain(fault: Fault) -> bool:
    """Whether its tests train small models first, which takes longer than all else: the others come first."""
    files = [ROOT / word for word in fault.words if word.endswith(".py")]
    return any("chain" in file.read_text(encoding="utf-8") for file in files)


def write(faults: list[Fault]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(faults)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="packages or PACKAGE/NAME, with commas between")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="try also what is known")
    parser.add_argument("--write", action="store_true", help="put the table into docs/testing.md")
    parser.add_argument("--list", action="store_true", help="what is known of each, and run nothing")
    options = parser.parse_args()
    faults = read_faults()
    asked = [word for word in options.only.split(",") if word]
    chosen = [fault for fault in faults if not asked or fault.package in asked or fault.id in asked]
    if not options.list:
        os.nice(15)
        preload()
        chosen.sort(key=lambda fault: (trains_a_chain(fault), fault.tests))
        fork = multiprocessing.get_context("fork")
        workers = [
            fork.Process(target=work, args=(chosen[i :: options.workers], options.again))
            for i in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    else:
        known = Kept().read()
        for fault in chosen:
            stale = "" if fault.applied(ROOT) is not None else "  STALE"
            print(f"{known.get(fault_key(fault), {}).get('outcome', 'not tried'):10} {fault.id}{stale}")
    if options.write:
        write(faults)
    print(table(faults))


if __name__ == "__main__":
    main()

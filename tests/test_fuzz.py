"""Some hundreds of random inputs through the command line: whatever they are, they are done or refused, never a defect.

The seeds are fixed, so a failure comes again; its message holds the input.
"""

from __future__ import annotations

import gzip
import io
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from conftest import DEMO, PAIR, write

SEEDS = range(40)
ODD = [
    "",
    " ",
    "\n",
    "\0",
    "\t",
    "\r",
    "\u2028",
    "\ufeff",
    "\ud800",
    "é",
    "😀",
    "\x1b[31m",
    "[/bold]",
    "[red]",
    "{}",
    "[]",
]
VALUES = [None, True, False, 0, -1, 1, 2**70, 1e400, 1e-400, float("nan"), [], {}, [[]], [None], {"a": {}}, *ODD]
NAMES = ["sft", "rm", "v1", "..", ".", "/", "@", "@v", "@v1", "@v0", "tiny", ".gguf", "runs", "python:", ":", "=",
         "-", "--", "~", "$HOME", "*", "x" * 300, "%s", "%00", "\\", "//", "owner/name", "file.py", "score",
         *ODD]  # fmt: skip


def accepted_or_refused(result, what):
    told = f"{what!r}: exit {result.exit_code}, {result.exception!r}\n…{result.output[-600:]}"
    assert result.exit_code in (0, 2, 3, 4, 7), told
    assert "Traceback" not in result.output, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    if result.exit_code:
        assert result.stdout == "" and result.stderr.strip(), told


@pytest.fixture
def stopped(monkeypatch):
    """Training commands end where training would begin."""

    def prepare_only(stage, module, config, *, purpose, rates):
        from prefcli.stages.inputs import prepare
        from prefcli.stages.plan import summary

        summary(prepare(stage, config, purpose=purpose, rates=rates))

    for command in ("sft", "train_rm", "dpo", "ppo"):
        monkeypatch.setattr(f"prefcli.cli.{command}.run_stage", prepare_only)


def reference(draw):
    return "".join(draw.choice(NAMES) for _ in range(draw.randint(1, 4))).replace("\0", "") or "sft"


def json_value(draw, depth=0):
    kind = draw.random()
    if depth > 3 or kind < 0.5:
        return draw.choice(VALUES)
    if kind < 0.75:
        return [json_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    keys = ["role", "content", "prompt", "chosen", "rejected", "messages", "text", "completion", "data", *ODD]
    return {draw.choice(keys): json_value(draw, depth + 1) for _ in range(draw.randint(0, 3))}


def mutated(draw, content: bytes) -> bytes:
    """A few bytes removed, repeated, replaced or put in."""
    changed = bytearray(content)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(changed) + 1)
        piece = draw.choice(
            [b"", b"\0", b"\xff", b"\n", b'"', b"{", b"}", b"[", b",", b"\\ud800", b"\xef\xbb\xbf", b"\r", b"&a *a"]
        )
        changed[at : at + draw.randint(0, 6)] = piece * draw.randint(1, 3)
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.2 else changed)


YAML = b"lr: 1e-5\nmodel_name_or_path: sft\ndata: [a.jsonl, b.jsonl]\nbatch-size: 8\njson: true\nname: ~\nbeta: 0.1\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_file_of_options(prefcli, own_folder, monkeypatch, seed):
    draw = random.Random(seed)
    monkeypatch.setattr("prefcli.cli.dpo.run", lambda config: None)
    if draw.random() < 0.5:
        content = mutated(draw, YAML)
    else:
        keys = ["lr", "beta", "data", "model", "json", "batch_size", "lora_alpha", "dtype", "config", "nonsense", *ODD]
        lines = [f"{draw.choice(keys)}: {json.dumps(json_value(draw))}" for _ in range(draw.randint(0, 3))]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
    write(own_folder / "c.yaml", content)
    accepted_or_refused(prefcli("dpo", "--config", "c.yaml"), content)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_data_file(prefcli, own_folder, make_artifact, stopped, seed):
    draw = random.Random(seed)
    make_artifact("sft")
    command, option, row = draw.choice(
        [("sft", "--data", DEMO), ("dpo", "--data", PAIR), ("train-rm", "--data", PAIR), ("ppo", "--prompts", PAIR)]
    )
    rows = [dict(row), dict(row)]  # the row itself is other tests' too
    for each in rows:
        for _ in range(draw.randint(0, 2)):
            each[draw.choice([*row, "extra", "messages", "label"])] = json_value(draw)
    kind = draw.choice(["jsonl", "jsonl.gz", "json", "csv", "parquet"])
    lines = "".join(json.dumps(each) + "\n" for each in rows).encode()
    if kind == "jsonl.gz":
        content = mutated(draw, gzip.compress(mutated(draw, lines), mtime=0))
    elif kind == "json":
        content = mutated(draw, json.dumps(rows).encode())
    elif kind == "csv":
        text = ",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n"
        content = mutated(draw, text.encode("utf-8", "surrogatepass"))
    elif kind == "parquet":
        out = io.BytesIO()
        columns = {"prompt": [draw.choice(["q", "", None]), "q"], "chosen": ["a", "a"], "rejected": ["b", "b"]}
        pyarrow.parquet.write_table(pyarrow.table(columns | {"completion": ["a", None]}), out)
        content = mutated(draw, out.getvalue())
    else:
        content = mutated(draw, lines)
    write(own_folder / f"rows.{kind}", content)
    write(own_folder / "r.py", "def score(prompts, completions, **columns):\n    return [0.0]\n")
    more = ["--reward", "python:r.py:score"] if command == "ppo" else []
    more += ["--skip-bad"] if draw.random() < 0.5 else []
    accepted_or_refused(prefcli(command, option, f"rows.{kind}", "--model", "sft", *more), (command, kind, content))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_reference_name_or_reward(prefcli, own_folder, make_artifact, jsonl, stopped, seed):
    draw = random.Random(seed)
    make_artifact("sft"), make_artifact("rm")
    write(own_folder / "file.py", "def score(prompts, completions, **columns):\n    return [0.0]\n")
    prompts = jsonl("p.jsonl", {"prompt": "q"})
    text = reference(draw)
    accepted_or_refused(prefcli("show", "--", text), text)
    accepted_or_refused(prefcli("mem-estimate", "--model=" + text), text)
    common = ["--prompts", prompts, "--model", "sft"]
    accepted_or_refused(prefcli("ppo", *common, "--reward=" + text), text)
    accepted_or_refused(
        prefcli("ppo", *common, "--reward", "rm", "--reference=" + text, "--name=" + reference(draw)), text
    )
    accepted_or_refused(prefcli("dpo", "--data=" + text, "--runs=" + reference(draw)), text)
    accepted_or_refused(prefcli(*[reference(draw) for _ in range(draw.randint(1, 4))]), text)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_manifest(prefcli, make_artifact, seed):
    draw = random.Random(seed)
    parent = make_artifact("sft")
    source = {"path": "a", "format": "b", "rows": 1, "digest": "c"}
    artifact = make_artifact(
        "dpo", parents={"model": parent}, data=[source], metrics={"loss": 0.5}, resources={"a_bytes": 7}
    )
    file = artifact.path / "manifest.json"
    if draw.random() < 0.4:
        write(file, mutated(draw, file.read_bytes()))
    else:
        loaded = json.loads(file.read_text())
        for _ in range(draw.randint(1, 2)):
            name = draw.choice(list(loaded))
            if isinstance(loaded[name], dict) and draw.random() < 0.6:
                loaded[name][draw.choice([*loaded[name], *ODD])] = json_value(draw)
            else:
                loaded[name] = json_value(draw)
        write(file, json.dumps(loaded))
    for args in (["ls"], ["ls", "--json"], ["show", "dpo"], ["show", "dpo", "--json"], ["show", "dpo@v1", "--verify"]):
        accepted_or_refused(prefcli(*args), file.read_bytes())

"""Models that stay split: rollouts, answers and scores are those of weights that are whole, however many passes each
process makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import write
from forked import SCRIPT, TORCHRUN
from safetensors.torch import load_file

from prefcli.evaluation import models, run, score
from prefcli.labelling import run as labelling

# Many tokens end an answer, so that processes have unlike numbers of passes to make; there are many small parts.
SETTING = """
from prefcli.evaluation import models, run, score
from prefcli.labelling import run as labelling
from prefcli.stages import ppo
for module in (models, ppo):
    module.end_ids = lambda *_: frozenset(range(0, 1000, 7))
for module in (score, labelling, run):
    module.A_PART = 8
"""
COMMANDS = """
import json, os, sys
from typer.testing import CliRunner
from prefcli.cli.main import app
from prefcli.models import sharding
from prefcli.stages import session

spare_pass, bytes_of, spares = sharding._spare_pass, session.bytes_of, [0]

def counted(model):
    spares[0] += 1
    spare_pass(model)

sharding._spare_pass, sharding.ROUNDS = counted, 5
for args in json.loads(sys.argv[1]):
    spares[0] = 0
    # a device without room for anything
    session.bytes_of = (lambda device: 1) if "lockstep" in " ".join(args) else bytes_of
    result = CliRunner().invoke(app, args)
    print(json.dumps([os.environ["RANK"], spares[0], result.exit_code, result.stdout, result.stderr]), flush=True)
"""
FAILS = """\
import os
def score(prompts, completions, **_):
    if os.environ.get("RANK") == "1" and len(prompts) > 1:
        raise ValueError("the second gives up")
    return [0.0 for _ in prompts]
"""


@pytest.fixture
def together(chain, forked):
    """What each process says of each command, all in one start: [rank][command] of spare passes, exit code, stdout and
    stderr."""

    def run(commands):
        words = ["--standalone", "--nproc-per-node", "2", SCRIPT, SETTING + COMMANDS, json.dumps(commands)]
        env, pipe = {"PREFCLI_RUNS": str(chain.runs), "ACCELERATE_USE_CPU": "true"}, subprocess.PIPE
        process = forked.start(TORCHRUN, *words, env=env, cwd=chain.folder, stdout=pipe, stderr=pipe)
        out, told = process.communicate(timeout=240)
        said = [json.loads(line) for line in out.splitlines() if line.startswith('["')]
        assert len(said) == 2 * len(commands), told[-3000:]
        return [[one[1:] for one in said if one[0] == rank] for rank in "01"]

    return run


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_rollouts_answers_and_scores_in_lockstep_are_those_of_whole_weights(chain, prefcli, together, monkeypatch):
    monkeypatch.setattr(models, "end_ids", lambda *_: frozenset(range(0, 1000, 7)))
    for module in (score, labelling, run):
        monkeypatch.setattr(module, "A_PART", 8)
    monkeypatch.chdir(chain.folder)
    torch.set_num_threads(1)
    few = chain.folder / "few.jsonl"
    few.write_text("".join(open(chain.data("held_out_prompts")).readlines()[:10]))
    pairs = write(chain.folder / "pairs20.jsonl", "".join(open(chain.data("held_out_pairs")).readlines()[:20]))
    ppo = [*chain.args("ppo"), "--shard", "--force-memory", "--max-new-tokens", "16", "--generation-batch", "2",
           "--tokens-per-row", "100"]  # fmt: skip
    lora = ["--lora-rank", "4", "--layout", "shared", "--advantage", "rloo", "--num-generations", "2", "--lr", "1e-3"]
    rollouts = [[*ppo, *more, "--name", f"{how}-{name}"]
                for name, more in (("gae", []), ("rloo", lora)) for how in ("gathered", "lockstep")]  # fmt: skip
    short = ["--max-new-tokens", "12", "--batch-size", "2"]
    commands = {
        "sample": ["sample", "--model", "sft@v1", "--prompts", str(few), *short],
        "score": ["score", "--data", str(pairs), "--reward", "rm@v1"],
        "label": ["label", "--data", str(pairs), "--by", "rm@v1", "--gold", "rm@v1"],
        "eval": ["eval", "--model", "sft@v1", "--against", "tiny", "--prompts", str(few), "--reward", "rm@v1",
                 "--pairs", str(pairs), "--judge", "tiny", "--json", *short],
    }  # fmt: skip
    one = {name: prefcli(*words, *([] if name == "eval" else ["--out", f"{name}1.jsonl"]))
           for name, words in commands.items()}  # fmt: skip
    assert [result.exit_code for result in one.values()] == [0] * 4, [result.stderr for result in one.values()]
    write(chain.folder / "r.py", FAILS)
    split = [[*words, "--shard", *([] if name == "eval" else ["--out", f"{name}2.jsonl"])]
             for name, words in commands.items()]  # fmt: skip
    fails = [*split[1][:-1], "fails.jsonl", "--reward", "python:r.py:score"]

    first, second = together([*rollouts, *split, fails])

    assert [code for _, code, *_ in first[:-1] + second[:-1]] == [0] * 16, [said[3][-800:] for said in first]
    for name, (gathered, lockstep) in (("gae", first[:2]), ("rloo", first[2:4])):
        assert "gather one layer after the other" in lockstep[3] and "one layer" not in gathered[3]
        whole = chain.runs / f"gathered-{name}/v1"
        files = list(whole.glob("*/*.safetensors"))
        assert files
        for file in files:
            found = load_file(chain.runs / f"lockstep-{name}/v1" / file.relative_to(whole))
            assert all(torch.equal(found[key], value) for key, value in load_file(file).items())
        metrics = [rows(path / "metrics.jsonl") for path in (whole, chain.runs / f"lockstep-{name}/v1")]
        for expected, found in zip(*metrics, strict=True):
            assert {k: v for k, v in found.items() if k[:5] != "time/"} == {
                k: v for k, v in expected.items() if k[:5] != "time/"
            }
    spares = [[said[0] for said in rank] for rank in (first, second)]
    assert [a + b > 0 for a, b in zip(*spares)][:8] == [False, True, False, True, True, True, True, True], spares
    assert [said[2] for said in second] == [""] * 9  # one speaks
    for name in ("sample", "label"):
        assert Path(f"{name}2.jsonl").read_bytes() == Path(f"{name}1.jsonl").read_bytes(), name
    for found, expected in zip(rows("score2.jsonl"), rows("score1.jsonl"), strict=True):
        scores, own = (row.pop("scores")["rm"] for row in (found, expected))
        assert found == expected and scores == pytest.approx(own, abs=1e-6)
    tables = [json.loads(text) for text in (first[7][2], one["eval"].stdout)]
    for table in tables:
        for model in table["models"]:
            assert model.pop("seconds") > 0
    assert_alike(*tables)
    code, out, told = first[-1][1:]
    assert (code, out) == (4, "") and told.count("the second gives up") == 1 and "Traceback" not in told
    assert second[-1][1] == 4 and "gives up" not in second[-1][3]


def assert_alike(found, expected):
    """Numbers within 1e-6, all else equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_alike(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for both in zip(found, expected):
            assert_alike(*both)
    else:
        assert found == (pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected)

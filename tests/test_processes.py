"""Two processes on a CPU, under `accelerate launch`, end where one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# All runs in one start of the interpreter, which is most of the time that this takes.
SCRIPT = """
import json, sys
from typer.testing import CliRunner
from prefcli.cli.main import app
for args in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.stderr
    print(result.stdout, flush=True)
"""


def test_every_stage_in_two_processes_makes_the_steps_of_one(chain, prefcli):
    few, demos = chain.folder / "five.jsonl", chain.folder / "demos5.jsonl"  # they do not fill a batch of each process
    few.write_text("".join(open(chain.data("held_out_pairs")).readlines()[:5]))
    demos.write_text("".join(open(chain.data("demos")).readlines()[-5:]))
    steps, at_the_end = ["--max-steps", "3"], ["--eval-every", "3"]
    sft = [*chain.args("sft"), *steps, "--eval-data", str(demos), *at_the_end]
    rm = [*chain.args("rm"), *steps, "--eval-data", str(few), *at_the_end, "--lr", "1e-3"]
    dpo = [*chain.args("dpo"), *steps, "--eval-data", str(few), *at_the_end]
    kto = [*chain.args("dpo"), *steps, "--eval-data", str(few), *at_the_end, "--reference", "tiny"]
    orpo = [*dpo]
    kto[0], orpo[0] = "kto", "orpo"
    # Not seed 0: there a draw of the second rollout falls so near the border of two tokens that rounding decides.
    ppo = [*chain.args("ppo"), "--max-steps", "3", "--ppo-epochs", "2", "--save-every", "1", "--seed", "1"]
    lora = [*ppo, "--lora-rank", "4", "--lr", "1e-3", "--value-init", "sft@v1"]  # two trained adapters on one base
    runs = {"sft": sft, "rm": rm, "dpo": dpo, "kto": kto, "orpo": orpo, "ppo": ppo, "lora": lora}
    held_out = {"sft", "rm", "dpo", "kto", "orpo"}
    one = [chain.path_of(prefcli(*args, "--name", f"one-{name}")) for name, args in runs.items()]
    script = chain.folder / "both.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PREFCLI_RUNS": str(chain.runs), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    env["PYTHONPATH"] = str(Path(__file__).parent.parent)
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    wanted = json.dumps([[*args, "--name", f"two-{name}"] for name, args in runs.items()])
    result = subprocess.run([*launch, str(script), wanted], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    two = [chain.runs / f"two-{name}/v1" for name in runs]
    assert [line for line in result.stdout.splitlines() if line] == [str(path) for path in two]  # one process speaks
    assert not [path for path in chain.runs.glob("two-*/*") if path.name[0] != "." and path not in two]
    for mine, theirs in zip(two, one):
        manifest = json.loads((mine / "manifest.json").read_text())
        assert manifest["environment"]["processes"] == 2
        rows = [[json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (mine, theirs)]
        assert len(rows[0]) == len(rows[1]) == 3 + (mine.parent.name.removeprefix("two-") in held_out)
        if mine.parent.name == "two-kto":
            assert rows[1][0]["kl"] > 1  # a reference point to agree on
        for found, expected in zip(*rows):
            for name, value in expected.items():
                if not name.startswith("time/"):
                    assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name

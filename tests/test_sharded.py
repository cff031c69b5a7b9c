"""Models that are split over processes: what each holds, and runs that are killed and resumed, in other numbers too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from forked import SCRIPT, TORCHRUN
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prefcli.artifacts.references import TINY
from prefcli.config.sft import SFTConfig
from prefcli.errors import UsageError
from prefcli.stages.inputs import prepare

PROCESSES = int(os.environ.get("PREFCLI_PROCESSES", "2"))  # `make torture`: 4

# The commands one after the other. The tensors of m20 are counted as they live; in the last one the second
# process dies in its sixth optimizer step, where that is asked for.
COMMANDS = """
import gc, json, os, signal, sys
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from typer.testing import CliRunner
from prefcli.cli.main import app

commands, kills, peak, steps = json.loads(sys.argv[1]), len(sys.argv) > 2, 0, 0

def count(*_):
    global peak
    held = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type == "cpu":
            storage = (found.to_local() if hasattr(found, "to_local") else found).untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    peak = max(peak, sum(held.values()))

def layer(module, *_):
    if type(module).__name__.endswith("DecoderLayer"):
        count()

def die(*_):
    global steps
    steps += 1
    if steps == 6 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

for args in commands:
    hooks = []
    if "m20" in args:
        hooks = [register_module_forward_hook(layer), register_optimizer_step_pre_hook(count)]
        hooks.append(register_optimizer_step_post_hook(count))
    elif kills and args is commands[-1]:
        register_optimizer_step_pre_hook(die)
    result = CliRunner().invoke(app, args)
    print(result.stderr, file=sys.stderr, flush=True)
    assert result.exit_code == 0
    for hook in hooks:
        hook.remove()
    if "m20" in args:
        open(f"peak-{os.environ['RANK']}", "w").write(str(peak))
"""
LAYERS, WIDTH, INNER = 6, 512, 1364


def twenty_million(folder: Path) -> str:
    config = AutoConfig.from_pretrained(TINY)
    heads = dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 8)
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": 64}
    config.update(heads | sizes | {"dtype": "bfloat16"})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


def launch(forked, chain, commands, *more):
    """(exit code, stderr) of torchrun."""
    words = ["--standalone", "--nproc-per-node", str(PROCESSES), SCRIPT, COMMANDS, json.dumps(commands), *more]
    env, pipe = {"PREFCLI_RUNS": str(chain.runs), "ACCELERATE_USE_CPU": "true"}, subprocess.PIPE
    process = forked.start(TORCHRUN, *words, env=env, cwd=chain.folder, stdout=pipe, stderr=pipe)
    said = process.communicate(timeout=240)[1]
    return process.returncode, said


def check_peaks(chain):
    layer, embeddings = 4 * WIDTH**2 + 3 * WIDTH * INNER, 1024 * WIDTH
    states = 16 * (LAYERS * layer + embeddings) / PROCESSES  # weights, gradients and two moments in float32
    for rank in range(PROCESSES):
        peak = int((chain.folder / f"peak-{rank}").read_text())
        assert 0.7 * states < peak < 1.15 * states + 4 * (layer + embeddings), (rank, peak, states)


def test_a_killed_run_on_split_weights_is_resumed_to_the_bit_and_in_one_process(chain, prefcli, forked):
    more = ["--shard", "--save-every", "1", "--max-steps"]
    sft = ["sft", "--model", twenty_million(chain.folder / "m20"), "--data", chain.data("demos"), *more, "2",
           "--batch-size", "4", "--max-length", "48", "--dtype", "float32", "--name", "m20"]  # fmt: skip
    ppo = [*chain.args("ppo"), "--ppo-epochs", "2", *more, "4", "--seed", "1"]
    code, said = launch(forked, chain, [sft, [*ppo, "--name", "split-whole"], [*ppo, "--name", "split-cut"]], "!")
    assert code == 1 and "defect" not in said, said[-3000:]
    check_peaks(chain)
    assert [path.name for path in (chain.runs / "split-cut/v1.partial/state").iterdir()] == ["step2"]
    shutil.copytree(chain.runs / "split-cut", chain.runs / "split-one")
    code, said = launch(forked, chain, [[*ppo, "--name", "split-cut"]])
    assert code == 0 and "resuming from step 2" in said, said[-3000:]
    one = prefcli(*ppo, "--name", "split-one")
    assert one.exit_code == 0 and "resuming from step 2" in one.stderr and "--shard splits nothing" in one.stderr
    whole = chain.runs / "split-whole/v1"
    for name, most in (("split-cut", 0), ("split-one", 2e-6)):
        files = list(whole.glob("*/*.safetensors"))
        assert files
        for file in files:
            expected = load_file(file)
            found = load_file(chain.runs / name / "v1" / file.relative_to(whole))
            off = {key: float((found[key] - expected[key]).abs().max()) for key in expected}
            assert found.keys() == expected.keys() and all(each <= most for each in off.values()), (name, file, off)


@pytest.mark.parametrize(("options", "part"), [
    ({"optim": "adafactor"}, "--optim adafactor"), ({"dtype": "float16"}, "--dtype float16"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused_before_anything_is_read(options, part, monkeypatch):
    with pytest.raises(UsageError, match=part):
        prepare(SFTConfig(data=["none.jsonl"], shard=True, **options))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match=part):
        prepare(SFTConfig(data=["none.jsonl"], **options))

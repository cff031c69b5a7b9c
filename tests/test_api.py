"""prefcli from Python: what is exported, what a config takes, that each function is its command, the notebook."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from itertools import islice
from pathlib import Path

import pytest
from conftest import write
from safetensors.torch import load_file

import prefcli
from prefcli import DPOConfig, PPOConfig, PrefcliError, Reporter, SFTConfig, train
from prefcli.config.checked import checked
from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError, UsageError
from prefcli.stages.steps import Steps

ROOT = Path(__file__).parent.parent


def test_everything_that_is_exported_is_there_and_typed():
    tree = ast.parse((ROOT / "prefcli/__init__.py").read_text(encoding="utf-8"))
    typed = {alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.asname}  # fmt: skip
    assert typed == prefcli._EXPORTS
    for name, module in prefcli._EXPORTS.items():
        assert getattr(prefcli, name) is getattr(importlib.import_module(module), name)
        assert name in dir(prefcli) and getattr(prefcli, name).__doc__, name
    assert {stage.config.__name__ for stage in STAGES.values()} <= set(prefcli._EXPORTS)
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = prefcli.trainer


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, prefcli; print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'typer', 'numpy')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_config_takes_paths_artifacts_and_one_file_for_a_list(chain):
    artifact = prefcli.Store(str(chain.runs)).open("sft", 1)
    found = checked(DPOConfig(model=artifact, data=Path("a") / "b.jsonl", beta=1, reward=("r=rm",)))
    assert (found.model, found.data, found.beta, found.reward) == (str(artifact.path), ["a/b.jsonl"], 1.0, ["r=rm"])
    assert os.fspath(artifact) == str(artifact.path)
    plain = DPOConfig(model="sft", data=["x"])
    assert checked(plain) == plain


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": -1.0}, "beta=-1 must be at least"),
        ({"beta": float("nan")}, "must be a finite number"),
        ({"beta": "0.1"}, "must be of type float, not str"),
        ({"epochs": True}, "must be of type float, not bool"),
        ({"max_steps": 1.5}, "must be of type int, not float"),
        ({"packed": 1}, "must be of type bool, not int"),
        ({"loss": "dpo"}, "loss='dpo' is not one of 'sigmoid'"),
        ({"label_smoothing": 0.7}, "label_smoothing=0.7 must be at most 0.49"),
        ({"data": [3]}, "data=3 must be of type str"),
    ],
)
def test_values_of_another_type_or_range_are_refused_before_anything_is_read(changed, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        train(DPOConfig(**({"model": "tiny", "data": "nowhere.jsonl"} | changed)))


class Told(Reporter):
    def __init__(self):
        self.plans, self.steps, self.notices = [], [], []

    def plan(self, plan):
        self.plans.append(plan)

    def notice(self, text):
        self.notices.append(text)

    def advance(self, done, metrics=None):
        self.steps.append(done)


def test_train_makes_the_commands_run_quietly_and_hands_it_back(chain, prefcli, capfd, monkeypatch):
    monkeypatch.setenv("PREFCLI_RUNS", str(chain.runs))
    told, before = Told(), (logging.getLogger("transformers").level, len(warnings.filters), dict(os.environ))
    config = DPOConfig(model="sft@v1", data=chain.data("pairs"), max_steps=3, batch_size=8, name="mine")
    made = train(config, told)
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger("transformers").level, len(warnings.filters), dict(os.environ)) == before
    assert (made.ref, told.steps[-1]) == ("mine@v1", 3) and told.plans[0]["loss"].startswith("sigmoid, beta 0.1")
    assert any("its curves" in text for text in told.notices) and (made.path / "report/curves.png").is_file()
    again = prefcli("dpo", "--model", "sft@v1", "--data", chain.data("pairs"), "--max-steps", "3", "--batch-size", "8",
                    "--name", "mine", "--json")  # fmt: skip
    assert json.loads(again.stdout)["reused"] and json.loads(again.stdout)["ref"] == "mine@v1"
    silent = Told()
    assert train(config, silent).path == made.path and silent.steps == []


def test_an_interrupted_run_resumes_and_ends_as_one_that_was_not(chain, monkeypatch):
    monkeypatch.setenv("PREFCLI_RUNS", str(chain.runs))
    config = {"model": "tiny", "data": chain.data("demos"), "max_steps": 4, "batch_size": 8, "save_every": 1}
    whole = train(SFTConfig(**config, name="whole"))
    plain, calls = Steps.training_step, []

    def breaks(self, *args, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Steps, "training_step", breaks)
        with pytest.raises(KeyboardInterrupt):
            train(SFTConfig(**config, name="stopped"))
    told = Told()
    resumed = train(SFTConfig(**config, name="stopped"), told)
    assert min(told.steps) == 3
    first, second = (load_file(one.path / "model/model.safetensors") for one in (whole, resumed))
    assert all((first[name] == second[name]).all() for name in first)


def test_errors_are_the_projects_own(chain, monkeypatch):
    monkeypatch.setenv("PREFCLI_RUNS", str(chain.runs))
    with pytest.raises(ArtifactError) as missing:
        train(SFTConfig(model="sft@v9", data=chain.data("demos")))
    assert isinstance(missing.value, PrefcliError) and missing.value.exit_code == 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a single process"):
        train(SFTConfig(model="tiny", data=chain.data("demos")))
    with pytest.raises(TypeError, match="EvalConfig is not one of"):
        monkeypatch.delenv("WORLD_SIZE")
        train(prefcli.EvalConfig())


def test_each_function_is_its_command(chain, prefcli, own_folder, monkeypatch, capfd):
    monkeypatch.setenv("PREFCLI_RUNS", str(chain.runs))
    import prefcli as library

    prompts, pairs = chain.data("held_out_prompts"), chain.data("held_out_pairs")
    (own_folder / "long.py").write_text(
        "def score(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    )
    long = f"long=python:{own_folder}/long.py:score"
    few = {"max_prompts": 4, "max_new_tokens": 4}
    words = ["--max-prompts", "4", "--max-new-tokens", "4"]

    rows = library.sample(library.SampleConfig(model="sft@v1", prompts=prompts, num_generations=2, **few))
    shown = prefcli("sample", "--model", "sft@v1", "--prompts", prompts, "--num-generations", "2", *words)
    assert rows == [json.loads(line) for line in shown.stdout.splitlines()] and rows
    out = own_folder / "samples.jsonl"
    assert (
        library.sample(library.SampleConfig(model="sft@v1", prompts=prompts, num_generations=2, out=out, **few)) == rows
    )

    scored = library.score(library.ScoreConfig(data=pairs, reward=[long, "rm=rm@v1"]))
    shown = prefcli("score", "--data", pairs, "--reward", long, "--reward", "rm=rm@v1")
    assert scored.rows == [json.loads(line) for line in shown.stdout.splitlines()]
    assert [entry["name"] for entry in scored.rewards] == ["long", "rm"]

    labelled = library.label(library.LabelConfig(data=out, by=long.partition("=")[2], out=own_folder / "pairs.jsonl"))
    assert labelled and all(len(row["chosen"]) >= len(row["rejected"]) for row in labelled)
    with pytest.raises(UsageError, match="label takes"):
        library.label(library.LabelConfig(data=out, by="human", out=own_folder / "x.jsonl"))

    measured = library.evaluate(
        library.EvalConfig(model=["dpo@v1"], against="sft@v1", prompts=prompts, reward=[long], **few)
    )
    shown = prefcli("eval", "--model", "dpo@v1", "--against", "sft@v1", "--prompts", prompts, "--reward", long, *words,
                    "--json")  # fmt: skip
    assert without_times(measured) == without_times(json.loads(shown.stdout))

    routes = library.compare(library.CompareConfig(refs=["ppo@v1", "dpo@v1"]))
    assert routes["score"] == json.loads(prefcli("compare", "ppo@v1", "dpo@v1", "--json").stdout)["score"]

    with pytest.raises(UsageError, match="budget= trains both routes first"):
        library.compare(library.CompareConfig(refs=["ppo@v1", "dpo@v1"], budget="pairs=10"))

    size = library.mem_estimate(library.MemoryConfig(params="7B", stage="dpo"))
    assert size == json.loads(prefcli("mem-estimate", "--params", "7B", "--stage", "dpo", "--json").stdout)

    model, tokenizer = library.open_model("dpo@v1")
    assert not model.training and tokenizer.eos_token_id is not None
    scorer, _ = library.open_model(chain.path("rm"))
    assert scorer.config.num_labels == 1


def without_times(found):
    if isinstance(found, dict):
        return {name: without_times(value) for name, value in found.items() if "seconds" not in name}
    return [without_times(value) for value in found] if isinstance(found, list) else found


def test_the_notebook_runs_and_makes_the_whole_demo(own_folder, monkeypatch, capsys):
    """With two steps a stage and few rows, in this process."""
    (own_folder / "few").mkdir()
    shutil.copy(ROOT / "sample_data/gold.py", own_folder / "few")
    for name in ("demos", "pairs", "prompts", "held_out_prompts"):
        with (ROOT / f"sample_data/{name}.jsonl").open(encoding="utf-8") as file:
            write(own_folder / f"few/{name}.jsonl", "".join(islice(file, 64)))
    monkeypatch.setenv("PREFCLI_RUNS", str(own_folder / "runs"))
    book = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in book["cells"])
    code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code[0].count("FEW = {}") == 1 and code[0].count('Path("sample_data")') == 1
    code[0] = code[0].replace("FEW = {}", 'FEW = {"max_steps": 2}').replace('"sample_data"', '"few"')
    names: dict[str, object] = {}
    for cell in code:
        exec(cell, names)
    assert {path.name for path in (own_folder / "runs").iterdir() if path.name[0] != "."} == {"sft", "rm", "ppo", "dpo"}
    assert names["again"].ref == "dpo@v1" and "gold" in capsys.readouterr().out


def test_the_page_s_own_lines_are_true(chain, own_folder, capsys):
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([A-Za-z_]+)`", page.split("| function |")[1].split("\n\n")[0]):
        assert hasattr(prefcli, name) or name in ("model", "tokenizer"), name
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert code.count('data="sample_data/') == 2
    exec(code.replace('data="sample_data/', f'max_steps=1, data="{chain.folder}/'), {})
    assert capsys.readouterr().out.startswith(f"dpo@v2 {chain.runs / 'dpo/v2'} ")
    assert PPOConfig.__doc__

"""The command line of an artifact, read again by the command itself: it makes the same run."""

from __future__ import annotations

import dataclasses
import shlex
from types import SimpleNamespace
from xml.etree.ElementTree import fromstring

import pytest
from conftest import artifact_in
from markdown_it import MarkdownIt

from prefcli.artifacts.commands import NOT_REPEATED, altered, command, options
from prefcli.artifacts.facts import in_a_line
from prefcli.artifacts.lineage import Node, lineage
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.main import COMMANDS as CLI
from prefcli.config.base import as_dict, option
from prefcli.config.dpo import DPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.stages import STAGES
from prefcli.stages import trl_trainer
from prefcli.stages.card import Weights, model_card
from prefcli.stages.inputs import parents_of


def manifest(stage, config, parents=None, **more):
    parents = {role: {"ref": ref, "digest": "d"} for role, ref in (parents or {"model": "sft@v3"}).items()}
    return Manifest(stage=stage, name=stage, version=1, created="2026-01-01", key="k", parents=parents,
                    config=as_dict(config), **more)  # fmt: skip


@pytest.fixture
def read_again(prefcli, monkeypatch):
    """The config that a printed command line gives."""

    def read(stage, line):
        words, seen = shlex.split(line), []
        assert words[0] == "prefcli" and words[1] == STAGES[stage].command
        monkeypatch.setattr(f"prefcli.cli.{CLI[words[1]][0]}.run", seen.append)
        result = prefcli(*words[1:])
        assert result.exit_code == 0, result.stderr
        return seen[0]

    return read


OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 if v > 0.5 else v + 0.125}


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_that_is_not_the_default_is_in_the_command_and_no_other(read_again, stage):
    kind = STAGES[stage].config
    usual = kind()
    files = {"data": ["a b.jsonl", "c.jsonl"]} if hasattr(usual, "data") else {"prompts": ["p'q.jsonl"]}
    changed = {f.name: OTHER[type(v)](v) for f in dataclasses.fields(kind)
               if type(v := getattr(usual, f.name)) in OTHER and f.name not in NOT_REPEATED}  # fmt: skip
    config = dataclasses.replace(usual, **files, **changed, model="sft", name="mine")
    line = command(manifest(stage, config))
    found = read_again(stage, line)
    assert found.model == "sft@v3"  # by its version: the name means another by and by
    different = [f.name for f in dataclasses.fields(kind)
                 if getattr(found, f.name) != getattr(config, f.name) and f.name != "model"]  # fmt: skip
    assert different == [] and len(changed) > 5
    bare = shlex.split(command(manifest(stage, dataclasses.replace(usual, **files))))
    assert {word for word in bare if word.startswith("--")} == {"--model", option(next(iter(files)))}


def test_a_reward_is_named_as_its_weight_names_it_and_by_its_version(read_again):
    config = PPOConfig(prompts=["p.jsonl"], reward=["a=rm", "python:g.py:score"], reward_weight=["a=0.5", "score=2"])
    parents = {"model": "sft@v3", "reward/a": "rm@v2", "reward/score": "python:g.py:score"}
    found = read_again("ppo", command(manifest("ppo", config, parents)))
    assert sorted(found.reward) == ["a=rm@v2", "score=python:g.py:score"] and found.reward_weight == [
        "a=0.5",
        "score=2",
    ]


def test_all_parents_are_named_as_they_were_and_a_reward_with_its_label(read_again):
    """The names mean other versions by and by: those that `sweep` and `compare` print would train other runs."""
    rewards = ["h=owner/rm#label=helpfulness", "rm", "web=http://a.b/s#timeout=3"]
    config = PPOConfig(prompts=["p.jsonl"], reference="sft", value_init="rm", reward=rewards)
    parents = {"model": "sft@v3", "reference": "sft@v1", "value_init": "rm@v2", "reward/h": "owner/rm",
               "reward/rm": "rm@v2", "reward/web": "http://a.b/s#timeout=3"}  # fmt: skip
    found = read_again("ppo", command(manifest("ppo", config, parents)))
    assert (found.reference, found.value_init) == ("sft@v1", "rm@v2")
    assert found.reward == ["h=owner/rm#label=helpfulness", "rm=rm@v2", "web=http://a.b/s#timeout=3"]
    usual = command(manifest("ppo", PPOConfig(prompts=["p.jsonl"]), parents))
    assert "--reference" not in usual and "--value-init" not in usual


def test_a_parent_of_another_store_is_named_by_its_place(store, own_folder):
    artifact_in(store, "sft", files={"model/config.json": "{}", "model/model.safetensors": "mine"})
    other = artifact_in(Store(own_folder / "other"), "sft")
    inputs = SimpleNamespace(references={"model": resolve("other/sft/v1", store)}, rewards=[], store=store, name="dpo")
    made = manifest("dpo", DPOConfig(data=["p"]))
    made.parents = parents_of(inputs)
    words = shlex.split(command(made))
    found = resolve(words[words.index("--model") + 1], store)
    assert (found.digest, found.shown) == (other.digest, "sft@v1") and resolve("sft@v1", store).digest != other.digest
    made.parents["model"] |= {"ref": "sft@v1:step2"}  # named by version and step: of this store
    assert "sft@v1:step2" in shlex.split(command(made))
    for plain in ("models/llama@v1", "llama@v1"):  # a directory that is called like a version
        made.parents["model"] |= {"ref": plain, "places": [f"../../../{plain}", f"/data/{plain}"]}
        assert plain in shlex.split(command(made))


def test_a_flag_that_was_turned_off_is_turned_off_again(read_again):
    on, off = (command(manifest("dpo", DPOConfig(data=["p"], packed=packed))) for packed in (True, False))
    assert "--no-packed" in off and "packed" not in on
    assert not read_again("dpo", off).packed and read_again("dpo", on).packed


def test_a_flag_that_was_turned_off_is_shown_and_one_that_is_off_by_default_is_not(prefcli, make_artifact):
    config = as_dict(DPOConfig(data=["p"], packed=False)) | {"of_another_time": False}
    said = prefcli("show", make_artifact("dpo", config=config).ref).stdout.partition("the same run again")[0]
    assert " packed " in said and "shard" not in said and "of_another_time" not in said
    found = options(manifest("dpo", DPOConfig(data=["p"], packed=False)))
    assert found["packed"] is False and "shard" not in found


def test_words_are_altered_by_option_and_the_others_stay():
    config = DPOConfig(data=["a.jsonl", "b.jsonl"], beta=0.3)
    found = altered(manifest("dpo", config), {"data": ["new.jsonl"], "model": ["dpo@v1"]})
    assert found == ["--beta", "0.3", "--data", "new.jsonl", "--model", "dpo@v1"]
    assert altered(manifest("dpo", config), {"beta": []}).count("--data") == 2


# The figures in a line


def test_a_line_begins_with_what_was_held_out():
    batch = {"loss": 0.6414, "rewards/chosen": 0.16, "rewards/accuracies": 0.75}
    held_out = {"eval_loss": 0.543, "eval_rewards/chosen": 0.1, "eval_rewards/accuracies": 0.875}
    found = in_a_line(manifest("dpo", DPOConfig(data=["p"]), metrics=batch | held_out), 3, 3)
    assert found == "held out: rewards/accuracies 0.875, loss 0.543, rewards/chosen 0.1"
    held_out["eval_rewards/accuracies_ci95"] = [0.71, 0.952]
    found = in_a_line(manifest("dpo", DPOConfig(data=["p"]), metrics=batch | held_out), 2, 3)
    assert found == "held out: rewards/accuracies 0.875 [0.71, 0.95], loss 0.543"
    found = in_a_line(manifest("dpo", DPOConfig(data=["p"]), metrics=batch), 2, 3)
    assert found == "last step: rewards/accuracies 0.75, loss 0.641"
    found = in_a_line(manifest("ppo", PPOConfig(prompts=["p"]), metrics={"objective/scores": 0.5}), 2, 3)
    assert found == "last rollouts: objective/scores 0.5"
    measured = {"loss": 0.5, "accuracy": 0.625, "accuracy_ci95": [0.306, 0.9]}
    made = manifest("rm", DPOConfig(data=["p"]), metrics=measured)
    assert in_a_line(made, 2, 4) == "held out: accuracy 0.625 [0.31, 0.9]"
    assert in_a_line(manifest("rm", DPOConfig(data=["p"]), metrics={}), 2, 4) == ""


def test_the_accuracy_on_held_out_pairs_is_recorded_with_its_interval(monkeypatch):
    """Wilson's ends are where (p − accuracy)² = z²·p(1 − p)/n, p being the true share."""
    last = {"loss": 0.5, "rewards/accuracies": 1.0, "eval_loss": 0.4, "eval_rewards/accuracies": 0.875}
    found = {}
    session = SimpleNamespace(log=SimpleNamespace(last=last), finish=lambda *_, metrics, **more: found.update(metrics))
    monkeypatch.setattr(trl_trainer, "whole_weights", lambda trainer: None)
    trainer = SimpleNamespace(model=None, eval_dataset=[{}] * 40)
    opened = SimpleNamespace(tokenizer=None, about={}, saves_merged=False)
    trl_trainer.finish(session, trainer, opened, ("loss", "rewards/accuracies"), (1, 1))
    low, high = found.pop("eval_rewards/accuracies_ci95")
    assert found == last and low < 0.875 < high
    for end in (low, high):
        assert (end - 0.875) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 40)


# The card


@pytest.mark.parametrize("status", ["complete", "stopped"])
@pytest.mark.parametrize("alarm", [False, True])
def test_the_card_says_first_that_a_run_was_stopped_and_what_alarmed(status, alarm):
    made = manifest("dpo", DPOConfig(data=["p"]), status=status, metrics={"loss": 0.25},
                    resources={"steps": 7, "train_seconds": 3.0, "predicted_peak_bytes": 2_000_000_000})  # fmt: skip
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5} | ({"alarm/pairs": 1.0} if alarm else {})]
    text = model_card(made, Weights("model", False), rows=rows)
    assert ("stopped by a watcher" in text) == (status == "stopped")
    assert ("Alarms while it was trained" in text) == alarm
    assert "| loss | 0.25 |" in text and "| steps | 7 |" in text and "2 GB" in text


def test_names_of_files_are_text_on_the_card():
    name = "x\n```\n# <img src=x onerror=alert(1)> [y](z) `a` | b & c.jsonl"
    made = manifest("dpo", DPOConfig(data=[name]), data=[{"path": name, "format": "pairs", "rows": 1}])
    made.parents["model"] = {"ref": name, "digest": "d"}
    tree = Node("", name, "ok")
    html = MarkdownIt("commonmark").enable("table").render(model_card(made, Weights("model", False), tree=tree))
    page = fromstring(f"<html>{html}</html>")
    assert len(page.findall(".//h1")) == 1 and not page.findall(".//img") and not page.findall(".//a[@href='z']")
    whole = " ".join(name.split())
    assert whole in ["".join(cell.itertext()) for cell in page.findall(".//td")]
    assert whole in ["".join(code.itertext()) for code in page.findall(".//li/code")]
    assert any(name in "".join(code.itertext()) for code in page.findall(".//pre/code"))


def test_a_parent_that_is_gone_or_another_now_is_said_in_the_lineage(store):
    sft = artifact_in(store, "sft")
    dpo = artifact_in(store, "dpo", parents={"model": sft, "reference": sft})
    assert {node.state for node in lineage(dpo, store).parents} == {"ok"}
    dpo.manifest.parents["reference"]["digest"] = "another"
    states = {node.role: node.state for node in lineage(dpo, store).parents}
    assert states == {"model": "ok", "reference": "changed"}
    dpo.manifest.parents["model"]["ref"] = "sft@v9"
    assert {node.role: node.state for node in lineage(dpo, store).parents}["model"] == "missing"

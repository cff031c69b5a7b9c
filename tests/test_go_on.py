"""PPO goes on from a policy that PPO made: with its value model, and with its optimizer where that is asked for."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import write
from safetensors.torch import load_file

from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError
from prefcli.stages.ppo import kept_state
from prefcli.stages.state import read_state

OPTIONS = ["--max-steps", "2", "--keep-state", "--save-every", "1", "--lr-scheduler", "constant", "--warmup", "0"]


@pytest.fixture(scope="module")
def first(trained):
    """The path of a run that kept its states."""
    return trained.extra("ppo", *OPTIONS, "--name", "first")


def value_of(path):
    return load_file(path / "value/model.safetensors")


def state_of(path, step):
    return read_state(path / f"state/step{step}")


def on(chain, prefcli, *options, name="on"):
    command = [word if word != "sft@v1" else "first@v1" for word in chain.args("ppo")]
    return prefcli(*command, *OPTIONS, "--reference", "sft@v1", "--name", name, *options)


def started_from(path):
    return json.loads((path / "manifest.json").read_text())["model"]["value_from"]


def test_the_value_model_is_carried_over_unless_told_otherwise(first, chain, prefcli):
    carried = chain.path_of(on(chain, prefcli, "--lr", "0"))
    assert started_from(carried) == "first@v1's value model"
    assert all(torch.equal(tensor, value_of(first)[name]) for name, tensor in value_of(carried).items())
    fresh = chain.path_of(on(chain, prefcli, "--lr", "0", "--value-init", "rm@v1", name="fresh"))
    assert started_from(fresh) == "rm@v1"
    assert any(not torch.equal(tensor, value_of(first)[name]) for name, tensor in value_of(fresh).items())
    step = on(chain, prefcli, "--lr", "0", "--value-init", "first@v1:step1", name="step")
    assert started_from(chain.path_of(step)) == "first@v1:step1's value model"
    # Anchored to the reference that was named, not to where it starts.
    rows = [json.loads(line) for line in (carried / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["objective/kl_k3"] > 1e-6 and rows[0]["val/ratio_first"] < 1e-5


def test_the_optimizer_is_carried_over_where_that_is_asked_for(first, chain, prefcli):
    before = state_of(first, 2)["ppo"]["optimizer"]["state"][0]
    kept = chain.path_of(on(chain, prefcli, "--carry-optimizer"))
    fresh = chain.path_of(on(chain, prefcli, name="fresh"))
    steps = [state_of(path, 1)["ppo"]["optimizer"]["state"][0]["step"] for path in (kept, fresh)]
    assert steps == [before["step"] + 4, 4]  # --ppo-epochs
    again = chain.path_of(on(chain, prefcli, "--carry-optimizer", "--lr", "1e-5", "--max-steps", "1", name="slow"))
    assert state_of(again, 1)["ppo"]["optimizer"]["param_groups"][0]["lr"] == 1e-5  # the rate is this run's


def test_an_optimizer_that_is_not_there_or_of_other_weights_is_refused(first, chain, prefcli):
    result = prefcli(*chain.args("ppo"), "--carry-optimizer")
    assert result.exit_code == 4 and "sft@v1 has no optimizer's state" in result.stderr
    result = on(chain, prefcli, "--carry-optimizer", "--lora-rank", "2")
    assert result.exit_code == 4 and "other weights" in result.stderr
    result = on(chain, prefcli, "--carry-optimizer", "--optim", "adafactor")
    assert result.exit_code == 4 and "is of --optim adamw, and adafactor is used here" in result.stderr
    result = on(chain, prefcli, "--carry-optimizer", "--advantage", "rloo")
    assert result.exit_code == 4 and "other weights" in result.stderr


def test_an_optimizer_of_an_earlier_step_than_the_weights_is_refused(make_artifact):
    """Of a run that an alarm stopped between two kept states."""
    found = {}
    for ended in (6, 4):
        artifact = make_artifact("ppo", resources={"steps": ended})
        write(artifact.path / "state/step4/training.json", "{}")
        found[ended] = Reference(artifact.ref, "artifact", artifact.model_path, None, artifact)
    with pytest.raises(ArtifactError) as error:
        kept_state(found[6])
    assert "ended at step 6" in error.value.message and error.value.hint == "leave --carry-optimizer out"
    write(found[6].artifact.path / "state/step4/model/config.json", "{}")
    with pytest.raises(ArtifactError) as error:
        kept_state(found[6])
    assert "ppo@v1:step4" in error.value.hint
    assert kept_state(found[4]).name == "step4"


def test_a_value_adapter_on_a_reward_models_weights_goes_on_there(first, chain, prefcli):
    lora = ["--lora-rank", "2", "--lr", "1e-2"]
    one = chain.path_of(prefcli(*chain.args("ppo"), *lora, "--name", "one"))
    paths, other_rank = [], []
    for layout in ("separate", "shared"):
        command = [word if word != "sft@v1" else "one@v1" for word in chain.args("ppo")]
        paths.append(chain.path_of(prefcli(*command, *lora, "--layout", layout, "--name", layout)))
        other = ["--lora-rank", "4", "--layout", layout, "--name", f"{layout}4", "--max-steps", "1"]
        other_rank.append(chain.path_of(prefcli(*command, *other)))
    config = json.loads((paths[1] / "value/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(chain.runs / "rm/v1/model")
    alone, together = (load_file(path / "value/adapter_model.safetensors") for path in paths)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    before = load_file(one / "value/adapter_model.safetensors")
    assert before.keys() == together.keys() and any((before[n] != together[n]).any() for n in before)
    # Of another rank its adapter is merged into those weights: the reward model must not be read there.
    scores = [json.loads((path / "metrics.jsonl").read_text())["objective/scores"] for path in other_rank]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)

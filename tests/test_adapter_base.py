"""An adapter has one base: found from the adapter, wherever that lies and is opened from; no other is taken."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write
from peft import AutoPeftModelForCausalLM, LoHaConfig, LoraConfig, OFTConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcli.artifacts.lineage import lineage
from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError
from prefcli.files import digest_file
from prefcli.models.loading import load_policy, load_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT, Reporter
from prefcli.stages.policy import Opened
from prefcli.stages.roles import _on_base, _why_apart
from scripts.families import zoo
from scripts.families.commands import prefcli as in_process
from scripts.families.rows import write as write_rows

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
LORA = ["--lora-rank", "2", "--lr", "1e-2"]
IDS = torch.tensor([[5, 300, 41, 700, 12, 9]])
POLICIES = ["alora", "acont", "appo", "appo@v1:step1"]


@pytest.fixture(scope="module")
def adapters(trained):
    """alora: on sft; acont: alora trained on; arm: a reward model on sft; appo: all roles on sft, with value/."""
    trained.extra("dpo", *LORA, "--name", "alora")
    trained.extra("dpo", "--model", "alora@v1", *LORA, "--name", "acont")
    trained.extra("rm", *LORA, "--name", "arm")
    command = ["arm@v1" if word == "rm@v1" else word for word in trained.args("ppo")]
    trained.run(*command, *LORA, "--keep-state", "--save-every", "1", "--name", "appo")
    return trained


@pytest.fixture
def runs(adapters, chain):
    """A store of the test's own, with them in it."""
    return chain.runs


def logits(text, runs, ids=IDS):
    model = load_policy(resolve(str(text), Store(runs)), **CPU, trainable=False).eval()
    with torch.no_grad():
        return model(ids).logits


def scores(text, runs):
    reference = resolve(str(text), Store(runs))
    model = load_scorer(reference, load_tokenizer(reference, SILENT), **CPU).eval()
    with torch.no_grad():
        return model(IDS).logits


def all_figures(runs):
    return [logits(text, runs) for text in POLICIES] + [scores(text, runs) for text in ("arm", runs / "appo/v1/value")]


def another(file: Path) -> None:
    """Other weights in the same file, and a new one: in the copies of the chain it is linked."""
    weights = {name: tensor * 1.5 for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(weights, file, {"format": "pt"})


def believed(version: Path, name: str) -> None:
    """Have a manifest know a file as it is now."""
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"][name] = digest_file(version / name)
    rewritten(version / "manifest.json", manifest)


def rewritten(file: Path, value) -> None:
    file.unlink(missing_ok=True)
    write(file, json.dumps(value))


def other_base(runs: Path) -> None:
    another(runs / "sft/v1/model/model.safetensors")
    believed(runs / "sft/v1", "model/model.safetensors")


def refused(action, *said):
    with pytest.raises(ArtifactError) as error:
        action()
    for part in said:
        assert part in f"{error.value.message} {error.value.hint}", error.value.message


# Where it is opened from


def test_the_base_is_the_stores_own_whatever_stands_in_the_working_directory(runs, own_folder, monkeypatch, prefcli):
    expected = all_figures(runs)
    there, third = own_folder / "B", own_folder / "C"
    shutil.copytree(runs, there / "runs")
    shutil.rmtree(there / "runs/alora")
    other_base(there / "runs")
    third.mkdir()
    for place in (there, third):
        monkeypatch.chdir(place)
        for text in ("alora", "../runs/alora/v1", "../runs/alora/v1/model", str(runs / "alora/v1")):
            assert torch.equal(logits(text, "../runs"), expected[0])
        for text in ("../runs/alora/v1", str(runs / "alora/v1/model")):  # with this directory's own store
            assert torch.equal(logits(text, place / "runs"), expected[0])
        assert all(map(torch.equal, all_figures(runs), expected))
    monkeypatch.chdir(there)
    told = prefcli("show", "--runs", "../runs", "alora", "--verify", "--json")
    assert [parent["state"] for parent in json.loads(told.stdout)["lineage"]["parents"]] == ["ok", "ok"]
    told = prefcli("show", str(runs / "alora/v1"), "--runs", there / "runs", "--json")
    assert [parent["state"] for parent in json.loads(told.stdout)["lineage"]["parents"]] == ["ok", "ok"]


def test_plain_peft_opens_the_adapter_of_an_artifact_from_anywhere(runs, own_folder, monkeypatch):
    made = Store("runs").open("alora", 1).model_path  # named by a relative path
    expected = logits("alora", "runs")
    (own_folder / "elsewhere").mkdir()
    monkeypatch.chdir(own_folder / "elsewhere")
    config = json.loads((own_folder / made / "adapter_config.json").read_text())
    assert os.path.isabs(config["base_model_name_or_path"])
    with torch.no_grad():
        assert torch.equal(AutoPeftModelForCausalLM.from_pretrained(own_folder / made)(IDS).logits, expected)


def test_what_is_trained_with_a_relative_store_names_its_base_by_an_absolute_path(chain, prefcli, monkeypatch):
    result = prefcli(*chain.args("dpo"), *LORA, "--max-steps", "1", "--runs", "runs", "--name", "here")
    version = chain.path_of(result)
    assert not version.is_absolute()
    config = json.loads((version / "model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((chain.runs / "sft/v1/model").resolve())


# Moved and copied stores


def test_a_moved_store_opens_and_a_copy_too(runs, own_folder):
    expected = all_figures(runs)
    shutil.copytree(runs, own_folder / "copy/deep/runs")
    other_base(runs)  # the copy stands on its own base, not on that of the store that it was copied from
    assert all(map(torch.equal, all_figures(own_folder / "copy/deep/runs"), expected))
    shutil.rmtree(runs)
    os.rename(own_folder / "copy", own_folder / "moved")
    assert all(map(torch.equal, all_figures(own_folder / "moved/deep/runs"), expected))


def test_a_version_copied_out_of_its_store_finds_its_base_where_it_was(chain, own_folder, prefcli):
    chain.path_of(prefcli(*chain.args("dpo"), *LORA, "--max-steps", "1", "--name", "out"))
    expected = logits("out", chain.runs)
    shutil.copytree(chain.runs / "out/v1", own_folder / "far/away/copy")
    assert torch.equal(logits(own_folder / "far/away/copy", own_folder / "far/runs"), expected)
    other_base(chain.runs)
    refused(lambda: resolve(str(own_folder / "far/away/copy"), Store(chain.runs)), "not the base that it was")


def test_a_version_that_is_a_link_and_a_link_to_a_version_open(runs, own_folder):
    expected = logits("alora", runs)
    os.symlink(runs / "alora/v1", own_folder / "latest")
    (own_folder / "big").mkdir()
    shutil.move(runs / "acont/v1", own_folder / "big/x")
    os.symlink(own_folder / "big/x", runs / "acont/v1")
    assert torch.equal(logits("latest", runs), expected)
    assert resolve("acont", Store(runs)).base.path == runs / "sft/v1/model"


def test_roles_of_a_moved_store_still_share_their_base(runs, own_folder, prefcli, monkeypatch):
    from prefcli.models.shared import SharedRole

    os.rename(runs, own_folder / "moved")
    bases = []
    made = SharedRole.__init__
    monkeypatch.setattr(SharedRole, "__init__", lambda self, *args: (bases.append(args[0]), made(self, *args))[1])
    result = prefcli(
        "ppo", "--runs", "moved", "--model", "appo", "--reward", "arm", "--prompts", "prompts.jsonl", *LORA,
        "--max-steps", "1", "--batch-size", "4", "--max-new-tokens", "4", "--name", "again",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert len(bases) == 3 and len(set(map(id, bases))) == 1
    manifest = json.loads((own_folder / "moved/again/v1/manifest.json").read_text())
    assert {part: base["places"][0] for part, base in manifest["model"]["bases"].items()} == {
        "model": "../../sft/v1/model", "value": "../../sft/v1/model"
    }  # fmt: skip
    assert manifest["model"]["bases"]["model"]["digest"] == resolve("sft", Store("moved")).base.digest


def test_an_artifact_of_before_bases_were_noted_is_opened_by_what_it_was_made_from(runs, own_folder, monkeypatch):
    expected = [logits("acont", runs), scores(runs / "appo/v1/value", runs)]
    for name, parts in (("alora", ["model"]), ("acont", ["model"]), ("arm", ["model"]), ("appo", ["model", "value"])):
        version = runs / name / "v1"
        for part in parts:
            config = json.loads((version / part / "adapter_config.json").read_text())
            rewritten(version / part / "adapter_config.json", config | {"base_model_name_or_path": "runs/sft/v1/model"})
            believed(version, f"{part}/adapter_config.json")
        manifest = json.loads((version / "manifest.json").read_text())
        del manifest["model"]["bases"]
        for role, parent in manifest["parents"].items():
            if parent["ref"].partition("@")[0] in ("alora", "acont", "arm"):
                name = parent["ref"].partition("@")[0]
                manifest["parents"][role]["digest"] = Store(runs).open(name, 1).digest
        rewritten(version / "manifest.json", manifest)
    os.rename(runs, own_folder / "old")
    shutil.copytree(own_folder / "old", own_folder / "B/runs")
    other_base(own_folder / "B/runs")
    monkeypatch.chdir(own_folder / "B")
    found = [logits("acont", "../old"), scores("../old/appo/v1/value", "runs")]
    assert all(map(torch.equal, found, expected))
    for text in ("alora", "acont", "arm", "appo", "runs/appo/v1/value"):
        refused(lambda text=text: resolve(text, Store("runs")), "not the base that it was trained on")


# Another base in its place


def commands(adapter: str, reward: str):
    return [
        ["sample", "--model", adapter, "--prompts", "prompts.jsonl"],
        ["eval", "--model", adapter, "--against", "tiny", "--prompts", "prompts.jsonl"],
        ["score", "--data", "pairs.jsonl", "--reward", reward],
        ["export", adapter, "out"],
        ["export", adapter, "out", "--no-merge"],
        ["show", adapter, "--verify"],
        ["dpo", "--model", adapter, "--data", "pairs.jsonl"],
        ["train-rm", "--model", reward, "--data", "pairs.jsonl"],
        ["ppo", "--model", "tiny", "--reward", reward, "--prompts", "prompts.jsonl"],
        ["mem-estimate", "--model", adapter],
    ]


def all_refuse(prefcli, adapter, reward, *said):
    for command in commands(adapter, reward):
        result = prefcli(*command)
        assert result.exit_code == 4, (command, result.exit_code, result.stderr, result.exception)
        assert all(part in result.stderr for part in said), (command, result.stderr)


def test_another_base_artifact_in_its_place_is_refused_by_every_command(runs, prefcli):
    other_base(runs)
    all_refuse(prefcli, "alora", "arm", "not the base that it was trained on")
    assert "(changed)" in prefcli("show", "alora").stdout


def test_the_base_is_compared_without_its_manifest_too(runs, prefcli):
    expected = logits("alora", runs)
    (runs / "sft/v1/manifest.json").unlink()
    assert torch.equal(logits("alora", runs), expected)
    another(runs / "sft/v1/model/model.safetensors")
    all_refuse(prefcli, "alora", "arm", "not the base that it was trained on")


def test_a_base_that_is_gone_is_refused_with_where_it_was_looked_for(runs, prefcli):
    shutil.rmtree(runs / "sft")
    all_refuse(prefcli, "alora", "arm", "which is not there", str(runs / "sft/v1/model"))
    assert "(missing)" in prefcli("show", "alora").stdout


@pytest.fixture
def on_a_directory(chain, prefcli, own_folder):
    """plain@v1 and plainrm@v1, adapters on the directory `base`."""
    shutil.copytree(TINY, own_folder / "base")
    few = ["--model", "base", "--max-steps", "1", "--batch-size", "4", *LORA]
    assert prefcli("sft", "--data", "demos.jsonl", *few, "--name", "plain").exit_code == 0
    assert prefcli("train-rm", "--data", "pairs.jsonl", *few, "--name", "plainrm").exit_code == 0
    return own_folder


@pytest.mark.parametrize("change", ["weights", "added"])
def test_a_directory_is_compared_like_an_artifact(on_a_directory, prefcli, change):
    store = Store()
    assert [parent.state for parent in lineage(store.open("plain", 1), store).parents] == ["ok"]
    if change == "weights":
        another(on_a_directory / "base/model.safetensors")
    else:
        write(on_a_directory / "base/adapter_config.json", "{}")
    all_refuse(prefcli, "plain", "plainrm", "not the base that it was trained on")
    assert [parent.state for parent in lineage(store.open("plain", 1), store).parents] == ["changed"]
    assert "base (changed)" in prefcli("show", "plain").stdout


def test_a_directory_that_moved_with_the_store_is_found_and_one_that_is_gone_is_missing(
    on_a_directory, prefcli, monkeypatch
):
    expected = logits("plain", "runs")
    (on_a_directory / "moved").mkdir()
    for name in ("runs", "base"):
        os.rename(name, f"moved/{name}")
    assert torch.equal(logits("plain", "moved/runs"), expected)
    shutil.copytree("moved/runs", "far/off/runs")  # without it: by its absolute path, where nothing is any more
    refused(lambda: resolve("plain", Store("far/off/runs")), "which is not there", str(on_a_directory / "base"))
    shutil.copytree("moved/base", "base")
    assert torch.equal(logits("plain", "far/off/runs"), expected)
    moved = Store("moved/runs")
    shutil.rmtree("moved/base")
    shutil.rmtree("base")
    assert [parent.state for parent in lineage(moved.open("plain", 1), moved).parents] == ["missing"]


def test_a_base_in_another_store_is_found_there(runs, own_folder, prefcli):
    mine = ["--runs", "mine"]
    assert prefcli("sft", "--model", "tiny", "--data", "demos.jsonl", "--max-steps", "1", *mine).exit_code == 0
    few = ["--max-steps", "1", "--batch-size", "4", *LORA]
    made = prefcli("dpo", "--model", "runs/sft/v1", "--data", "pairs.jsonl", *few, *mine, "--name", "x")
    assert made.exit_code == 0, made.stderr
    store = Store("mine")
    assert resolve("x", store).base.path == runs / "sft/v1/model"  # not mine/sft, which has the same name
    assert {parent.state for parent in lineage(store.open("x", 1), store).parents} == {"ok"}
    other_base(runs)
    assert {parent.state for parent in lineage(store.open("x", 1), store).parents} == {"changed"}


def test_the_same_command_on_an_adapter_whose_base_changed_is_another_run(plain_adapter, own_folder, prefcli, chain):
    before = resolve("adapter", Store()).digest
    another(own_folder / "base/model.safetensors")
    assert resolve("adapter", Store()).digest != before


# Adapters of plain peft


@pytest.fixture
def plain_adapter(own_folder):
    """A LoRA that peft saved, on `base`."""
    shutil.copytree(TINY, own_folder / "base")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(own_folder / "base"),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(own_folder / "adapter")
    return own_folder / "adapter"


class Heard(Reporter):
    def __init__(self):
        self.notes = []

    def notice(self, text):
        self.notes.append(text)


def test_a_plain_adapter_opens_as_peft_opens_it_on_its_own_device(plain_adapter, monkeypatch):
    with torch.no_grad():
        expected = AutoPeftModelForCausalLM.from_pretrained(plain_adapter)(IDS).logits
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: pytest.fail("peft would take the first GPU"))
    assert torch.equal(logits("adapter", "runs"), expected)


def test_a_configuration_that_lies_beside_an_adapter_is_not_its_bases(plain_adapter, own_folder):
    config = json.loads((own_folder / "base/config.json").read_text())
    write(plain_adapter / "config.json", json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    assert logits("adapter", "runs").isfinite().all()


def test_without_a_tokenizer_the_bases_is_taken_and_said_and_with_one_its_own(plain_adapter, own_folder):
    heard = Heard()
    found = load_tokenizer(resolve("adapter", Store()), heard)
    assert found.get_vocab() == AutoTokenizer.from_pretrained(own_folder / "base").get_vocab()
    assert [note for note in heard.notes if "without a tokenizer" in note and str(own_folder / "base") in note]
    own = AutoTokenizer.from_pretrained(own_folder / "base")
    own.add_tokens(["<mine>"])
    own.save_pretrained(plain_adapter)
    heard = Heard()
    found = load_tokenizer(resolve("adapter", Store()), heard)
    assert "<mine>" in found.get_vocab() and not any("without a tokenizer" in note for note in heard.notes)


def test_a_plain_adapter_without_a_tokenizer_is_trained_on_and_exported(plain_adapter, chain, prefcli):
    result = prefcli("dpo", "--model", "adapter", "--data", "pairs.jsonl", "--max-steps", "1", "--batch-size", "4",
                     "--lora-rank", "2")  # fmt: skip
    assert result.exit_code == 0 and "without a tokenizer" in result.stderr, result.stderr
    version = Path(result.stdout.strip())
    assert (version / "model/tokenizer.json").is_file()
    result = prefcli("export", "adapter", "out", "--no-merge")
    assert result.exit_code == 0 and (chain.folder / "out/tokenizer.json").is_file(), result.stderr
    # The artifact knows the base below the adapter that it went on from.
    another(chain.folder / "base/model.safetensors")
    refused(lambda: resolve(str(version), Store()), "not the base that it was trained on")


def rename_base(adapter: Path, name: str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    rewritten(adapter / "adapter_config.json", config | {"base_model_name_or_path": name})


def test_a_relative_base_is_looked_for_from_the_adapter_upwards_and_never_from_the_working_directory(
    plain_adapter, own_folder, monkeypatch
):
    expected = logits("adapter", "runs")
    elsewhere = own_folder / "elsewhere"
    shutil.copytree(own_folder / "base", elsewhere / "base")
    another(elsewhere / "base/model.safetensors")
    monkeypatch.chdir(elsewhere)
    for name in ("../base", "base"):
        rename_base(plain_adapter, name)
        reference = resolve("../adapter", Store())
        assert reference.base.path == own_folder / "base" and str(own_folder / "base") in reference.note
        assert torch.equal(logits("../adapter", "runs"), expected)
    shutil.rmtree(own_folder / "base")
    for name in ("base", "some/base", "./base", "../base", "a/b/base"):
        (elsewhere / "some").mkdir(exist_ok=True)
        shutil.copytree(elsewhere / "base", elsewhere / "some/base", dirs_exist_ok=True)
        rename_base(plain_adapter, name)
        refused(lambda: resolve("../adapter", Store()), name, "absolute path", "adapter_config.json")
    rename_base(plain_adapter, str(own_folder / "base"))
    refused(lambda: resolve("../adapter", Store()), "which is not there")


def test_a_hub_base_is_no_directory_of_the_working_directory(plain_adapter, own_folder, monkeypatch, prefcli):
    rename_base(plain_adapter, "some/model")
    reference = resolve("adapter", Store())
    assert (reference.base.path, reference.base.hub) == (None, "some/model")
    config = json.loads((plain_adapter / "adapter_config.json").read_text())
    rewritten(plain_adapter / "adapter_config.json", config | {"revision": "v2"})
    assert resolve("adapter", Store()).base.hub == "some/model@v2"
    assert prefcli("sample", "--model", "adapter", "--prompts", "p").exit_code != 0


def test_an_adapter_on_an_adapter_is_refused(plain_adapter, own_folder):
    shutil.copytree(plain_adapter, own_folder / "two")
    rename_base(own_folder / "two", str(plain_adapter))
    refused(lambda: resolve("two", Store()), "an adapter itself", "prefcli export")


# Files that are not the adapter's


def four_out(weights):
    return dict(list(weights.items())[4:])


def other_layers(weights):
    return {name.replace(".layers.0.", ".layers.7."): tensor for name, tensor in weights.items()}


def all_other_layers(weights):
    return {name.replace(".layers.", ".blocks."): tensor for name, tensor in weights.items()}


def one_more(weights):
    return weights | {"base_model.model.model.layers.0.mlp.other.lora_A.weight": torch.zeros(2, 2)}


def another_shape(weights):
    name = next(name for name in weights if "lora_A" in name)
    return weights | {name: torch.zeros(3, weights[name].shape[1])}


DAMAGE = [four_out, other_layers, all_other_layers, one_more, another_shape]


def damaged(folder: Path, damage) -> None:
    file = folder / "adapter_model.safetensors"
    weights = damage(load_file(file))
    file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file, {"format": "pt"})


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_plain_adapter_with_other_tensors_than_its_own_is_refused(plain_adapter, prefcli, damage, chain):
    damaged(plain_adapter, damage)
    refused(lambda: logits("adapter", "runs"), "does not hold the tensors", "lora_")
    for more in ([], ["--no-merge"]):
        result = prefcli("export", "adapter", "out", *more)
        assert result.exit_code == 4 and "does not hold the tensors" in result.stderr, result.stderr
        assert not (chain.folder / "out").exists()
    result = prefcli("sample", "--model", "adapter", "--prompts", "prompts.jsonl")
    assert result.exit_code == 4, result.stderr


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_artifacts_adapter_that_is_not_its_own_is_refused_as_policy_and_as_reward(runs, damage):
    for name in ("alora", "arm"):  # by manifests that believe it, so that it is the tensors that are looked at
        damaged(runs / name / "v1/model", damage)
        believed(runs / name / "v1", "model/adapter_model.safetensors")
    refused(lambda: logits("alora", runs), "does not hold the tensors")
    refused(lambda: scores("arm", runs), "does not hold the tensors")


def test_a_shared_layout_refuses_it_too(runs, prefcli):
    damaged(runs / "arm/v1/model", other_layers)
    believed(runs / "arm/v1", "model/adapter_model.safetensors")
    few = ["--max-steps", "1", "--batch-size", "4", "--max-new-tokens", "4"]
    result = prefcli("ppo", "--model", "sft", "--reward", "arm", "--prompts", "prompts.jsonl", *LORA, *few)
    assert result.exit_code == 4 and "does not hold the tensors" in result.stderr, result.stderr


MORE_THAN_LORA = {
    "a norm": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM"),
    "the head": LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
    "biases": LoraConfig(r=2, target_modules=["q_proj"], bias="all", task_type="CAUSAL_LM"),
    "LoHa": LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "OFT": OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("what", MORE_THAN_LORA)
def test_a_parents_adapter_that_is_more_than_lora_is_merged_first(what, own_folder):
    base = zoo.build("qwen2", own_folder / "base")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), MORE_THAN_LORA[what]).save_pretrained("adapter")
    files = write_rows(own_folder)
    rank = 0 if what == "OFT" else 2  # whose configuration names no rank: 0
    few = ["--lora-rank", rank, "--max-steps", 1, "--batch-size", 4]
    ran = in_process("dpo", "--model", "adapter", "--data", files["pairs"], *few, runs=own_folder / "runs")
    assert ran.code == 0 and "is merged into the weights first" in ran.err, ran.err
    assert ran.first["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_an_adapter_that_changes_its_base_does_not_stand_beside_the_policys(own_folder):
    base = zoo.build("qwen2", own_folder / "base")
    own = {"init_lora_weights": "pissa"}, {"init_lora_weights": "gaussian"}, None
    for more in own:
        config = MORE_THAN_LORA["LoHa"] if more is None else LoraConfig(r=2, target_modules=["q_proj"], **more)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained("adapter")
        reference = resolve("adapter", Store())
        opened = Opened(None, None, False, {}, reference.place)
        assert _on_base(reference, opened) == (more == own[1])
        assert ("PiSSA" in _why_apart(reference, opened)) == (more != own[1])


def test_an_adapter_of_virtual_tokens_is_refused(own_folder):
    base = zoo.build("qwen2", own_folder / "base")
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained("adapter")
    refused(lambda: logits("adapter", "runs"), "PROMPT_TUNING adds virtual tokens before the text")


# phi's head has a bias; gpt2 calls its embeddings wte; a base may be padded with rows beyond its tokens
@pytest.mark.parametrize(("family", "padded"), [("qwen2", 0), ("phi", 0), ("gpt2", 0), ("qwen2", 9)])
def test_embeddings_that_were_saved_with_tokens_added_belong_to_an_adapter(family, padded, own_folder):
    zoo.build(family, own_folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(own_folder / "base")
    model = AutoModelForCausalLM.from_pretrained(own_folder / "base")
    model.resize_token_embeddings(len(tokenizer) + padded)
    model.save_pretrained(own_folder / "base")
    tokenizer.add_tokens(["<one>", "<two>"])
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(model, config).eval()
    trained.save_pretrained(own_folder / "grown")
    tokenizer.save_pretrained(own_folder / "grown")
    assert len([name for name in load_file("grown/adapter_model.safetensors") if "lora_" not in name]) > 0
    with torch.no_grad():
        expected = trained(IDS % 300).logits
        if not padded:  # plain peft resizes to more rows alone
            assert torch.equal(AutoPeftModelForCausalLM.from_pretrained("grown")(IDS % 300).logits, expected)
    assert torch.equal(logits("grown", "runs", IDS % 300), expected)


def test_an_adapter_on_the_hub_is_refused_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(
        "prefcli.models.adapter_files.find_adapter_config_file", lambda name, **_: "adapter_config.json"
    )
    reference = resolve("some/adapter@v1", Store())
    for load in (
        lambda: load_policy(reference, **CPU, trainable=False),
        lambda: load_scorer(reference, load_tokenizer(resolve("tiny", Store()), SILENT), **CPU),
    ):
        refused(load, "an adapter on the hub", "hf download some/adapter --local-dir")


def test_a_command_that_only_reads_sizes_does_not_hash_a_plain_adapters_base(plain_adapter, monkeypatch, prefcli):
    monkeypatch.setattr("prefcli.files.digest_file", lambda path: 1 / 0)
    result = prefcli("mem-estimate", "--model", "adapter")
    assert result.exit_code == 0, result.stderr

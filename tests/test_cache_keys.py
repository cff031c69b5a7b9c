"""What is kept under a key, part by part: whatever decides the figures has another key, and nothing else has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import DEMO, PAIR, cached, write

from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Store
from prefcli.comparison import scores as scores_module
from prefcli.comparison.scores import Scores
from prefcli.config.base import key_fields
from prefcli.config.compare import CompareConfig
from prefcli.config.dpo import DPOConfig
from prefcli.config.evaluate import EvalConfig
from prefcli.config.kto import KTOConfig
from prefcli.config.label import LabelConfig
from prefcli.config.orpo import ORPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.sample import SampleConfig
from prefcli.config.score import ScoreConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.stages import STAGES as ALL_STAGES
from prefcli.errors import ArtifactError
from prefcli.evaluation.causes import causes, of_judge, of_rewards
from prefcli.evaluation.placement import Placement
from prefcli.labelling import run as labelling
from prefcli.rewards.grammar import RewardSpec
from prefcli.stages import dpo
from prefcli.stages.inputs import parents_of, prepare
from prefcli.stages.reference import cache_file
from prefcli.stages.run import train

CPU, FLOAT = torch.device("cpu"), torch.float32

# compare: a model's answers to the prompts, and their scores

SPEC = RewardSpec("gold", "python:g.py:score", None, Path("g.py"), "score", "digest of g.py")
OTHER_OPTIONS = {
    "max_prompts": 5,
    "max_prompt_length": 100,
    "max_new_tokens": 9,
    "temperature": 0.9,
    "seed": 1,
    "dtype": "bfloat16",
    "device": "cuda",
}
# By their digests (prompts, reward), or only how it is asked for and shown, or run first.
NO_OPTIONS = {"refs", "data", "model", "train_prompts", "budget", "set", "prompts", "reward", "skip_bad", "batch_size",
              "runs", "config", "json", "quiet", "debug"}  # fmt: skip


def scores_key(store, model="m", start="s", specs=(SPEC,), data=("d",), **options):
    config = CompareConfig(**options)
    scores = Scores(config, store, reference(start), list(specs), frozenset(), [], None, list(data))
    return scores._key(reference(model))


def reference(digest):
    return Reference("x", "directory", Path("x"), digest)


def test_every_option_of_compare_is_in_the_key_of_its_scores_or_known_not_to_matter():
    assert set(OTHER_OPTIONS) | NO_OPTIONS == set(CompareConfig.__dataclass_fields__)


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_another_option_gives_other_scores(store, name, monkeypatch):
    monkeypatch.setattr(scores_module, "pick_device", lambda name: torch.device("cpu" if name == "auto" else name))
    monkeypatch.setattr("prefcli.models.devices._computes_in_bfloat16", lambda device: False)  # there may be no GPU
    assert getattr(CompareConfig(), name) != OTHER_OPTIONS[name]
    assert scores_key(store, **{name: OTHER_OPTIONS[name]}) != scores_key(store)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"start": "another"},
        {"model": "s", "start": "m"},
        {"data": ("e",)},
        {"data": ("d", "e")},
        {"specs": ()},
        {"specs": (SPEC, dataclasses.replace(SPEC, name="more"))},
        {"specs": (dataclasses.replace(SPEC, digest="another file"),)},
        {"specs": (dataclasses.replace(SPEC, function="another"),)},
        {"specs": (dataclasses.replace(SPEC, name="another"),)},
        {"specs": (dataclasses.replace(SPEC, label="another"),)},
    ],
    ids=str,
)
def test_another_model_start_prompt_or_source_gives_other_scores(store, other):
    assert scores_key(store, **other) not in (None, scores_key(store))
    assert scores_key(store) == scores_key(store, batch_size=3, quiet=True)


def test_scores_are_kept_for_what_the_dtype_stands_for(store, monkeypatch):
    first = scores_key(store, device="cpu", dtype="float32")
    assert scores_key(store, device="cpu", dtype="auto") == first
    monkeypatch.setattr(scores_module, "pick_dtype", lambda *_: torch.bfloat16)
    assert scores_key(store, device="cpu", dtype="auto") not in (None, first)


@pytest.mark.parametrize("of", [scores_key, lambda _: logps_file(), lambda _: causes("one", EvalConfig(), CPU, FLOAT)],
                         ids=["scores", "log-probabilities", "causes"])  # fmt: skip
def test_what_is_kept_is_kept_for_the_versions_that_made_it(store, monkeypatch, of):
    first = of(store)
    for name in ("prefcli.models.devices.__version__", "torch.__version__", "transformers.__version__"):
        with monkeypatch.context() as patch:
            patch.setattr(name, "another")
            assert of(store) not in (None, first), name


@pytest.mark.parametrize(
    "unpinned", [{"model": None}, {"start": None}, {"specs": (dataclasses.replace(SPEC, digest=None),)}]
)
def test_what_cannot_be_pinned_is_not_kept(store, unpinned):
    assert scores_key(store, **unpinned) is None


# dpo: the reference's log-probabilities

IDS = [{"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]},
       {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8, 9]}]  # fmt: skip


def logps_file(digest="r", device="cpu", dtype=torch.float32, pairs=IDS, **how):
    return cache_file(Path("runs"), digest, torch.device(device), dtype, pairs, **how)


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "another"},
        {"device": "cuda"},
        {"dtype": torch.bfloat16},
        {"in_4bit": True},
        {"packed": False},
        {"weights": torch.bfloat16},
        {"merge": True},
        {"pairs": IDS[:1]},
        {"pairs": IDS[::-1]},
        *({"pairs": [IDS[0] | {name: [0]}, IDS[1]]} for name in IDS[0]),
        *({"pairs": [IDS[0], IDS[1] | {name: [0]}]} for name in IDS[0]),
        {
            "pairs": [{"prompt_ids": [1], "chosen_ids": [2, 3, 4], "rejected_ids": [5]}, IDS[1]]
        },  # a token over the border
        {"pairs": [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}, IDS[1]]},
        {"pairs": [IDS[0] | {"rejected_ids": [5, 6]}, IDS[1] | {"prompt_ids": []}]},
    ],
    ids=str,
)
def test_other_ids_or_another_reference_have_figures_of_their_own(other):
    assert logps_file(**other) != logps_file()
    assert logps_file(pairs=[pair | {"weight": 3.0, "margin": 1.0} for pair in IDS]) == logps_file()


def test_a_reference_that_cannot_be_pinned_keeps_no_figures():
    assert logps_file(digest=None) is None


class Whole(list):
    whole = True


def test_a_references_figures_are_of_the_commit_below_its_adapter_too(monkeypatch):
    asked = []
    monkeypatch.setattr(dpo, "cache_file", lambda root, digest, *how: asked.append(digest))
    monkeypatch.setattr(dpo, "is_merged", lambda run, opened: False)
    about = {"config": DPOConfig(), "store": Store("runs")}
    for digest, commit in (("d", "c0ffee"), ("d", None), (None, "c0ffee")):
        references = {"reference": Reference("one", "directory", None, digest, commit=commit)}
        run = SimpleNamespace(inputs=SimpleNamespace(references=references, **about), resumed=None, mesh=None,
                              trained_dtype=FLOAT, dtype=FLOAT, device=CPU)  # fmt: skip
        dpo._logps(run, None, [Whole(IDS)], packed=True)
    assert asked == ["d@c0ffee", "d", None]


# An artifact: all causes of a run

STAGES = {
    "sft": (SFTConfig, "demos", "data"),
    "rm": (RewardConfig, "pairs", "data"),
    "dpo": (DPOConfig, "pairs", "data"),
    "kto": (KTOConfig, "labelled", "data"),
    "orpo": (ORPOConfig, "pairs", "data"),
    "ppo": (PPOConfig, "prompts", "prompts"),
}
GOLD = "def score(prompts, completions, **_):\n    return [1.0 for _ in completions]\n\n\nother = score\n"


@pytest.fixture
def inputs_of(jsonl, own_folder, make_artifact):
    """`inputs_of("dpo", beta=0.5)` are those of that run; files and artifacts are there already."""
    jsonl("demos.jsonl", DEMO, DEMO | {"prompt": "Who?"})
    jsonl("pairs.jsonl", PAIR, PAIR | {"prompt": "Who?"})
    jsonl("labelled.jsonl", PAIR, PAIR | {"prompt": "Who?"})
    jsonl("prompts.jsonl", {"prompt": "Where?"}, {"prompt": "Who?"})
    for name in ("demos", "pairs", "labelled", "prompts"):
        write(own_folder / f"held-{name}.jsonl", (own_folder / f"{name}.jsonl").read_text())
    write(own_folder / "gold.py", GOLD)
    for name in ("one", "two"):
        make_artifact(name, stage="sft", files={"model/config.json": "{}", "model/model.safetensors": name})
        make_artifact(f"rm-{name}", stage="rm", files={"model/config.json": "{}", "model/model.safetensors": name})

    def inputs(stage, **options):
        config, purpose, files = STAGES[stage]
        given = {files: [f"{purpose}.jsonl"], "model": "one", "force": True}
        given |= {"reward": ["gold=python:gold.py:score"]} if stage == "ppo" else {}
        return prepare(config(**given | options))

    return inputs


@pytest.fixture
def key_of(inputs_of):
    return lambda stage, **options: inputs_of(stage, **options).key


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_run_has_the_same_key_however_it_is_shown(key_of, own_folder, stage):
    usual = key_of(stage)
    assert usual == key_of(stage) == key_of(stage, quiet=True, name="another", report_to="none")
    _, purpose, files = STAGES[stage]
    write(own_folder / "copy.jsonl", (own_folder / f"{purpose}.jsonl").read_text())
    assert usual == key_of(stage, **{files: ["copy.jsonl"]})  # by what is in it, not by its path


def test_the_lines_of_a_text_file_are_not_the_rows_of_json_lines(key_of, own_folder):
    text = (own_folder / "prompts.jsonl").read_text()
    for name in ("a.txt", "b.txt"):
        write(own_folder / name, text)
    keys = [key_of("ppo", prompts=[name]) for name in ("a.txt", "b.txt", "prompts.jsonl")]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("stage", STAGES)
def test_every_cause_of_a_run_is_in_its_key(key_of, own_folder, stage):
    usual, seen = key_of(stage), {}
    _, purpose, files = STAGES[stage]
    seen["model"] = key_of(stage, model="two")
    seen["seed"] = key_of(stage, seed=1)
    seen["files"] = key_of(stage, **{files: [f"{purpose}.jsonl"] * 2})
    if stage != "ppo":
        held_out = own_folder / f"held-{purpose}.jsonl"
        seen["held out"] = key_of(stage, eval_data=str(held_out))
        held_out.write_text(held_out.read_text() * 2)
        seen["other held out"] = key_of(stage, eval_data=str(held_out))
    if stage in ("dpo", "kto", "ppo"):
        seen["reference"] = key_of(stage, reference="two")
    if stage == "ppo":
        seen["value"] = key_of(stage, value_init="two")
    if stage in ("dpo", "ppo"):
        weight = {"reward_weight": ["r=0.5"]}
        for name, text in {
            "function": "r=python:gold.py:score",
            "another function": "r=python:gold.py:other",
            "model": "r=rm-one",
            "another model": "r=rm-two",
            "label": "r=rm-one#label=a",
            "another label": "r=rm-one#label=b",
        }.items():
            seen[f"reward: {name}"] = key_of(stage, reward=[text], **weight)
        seen["reward: weight"] = key_of(stage, reward=["r=rm-one"], reward_weight=["r=0.25"])
        seen["reward: name"] = key_of(stage, reward=["s=rm-one"], reward_weight=["s=0.5"])
        (own_folder / "gold.py").write_text(GOLD + "# another file\n")
        seen["reward: file"] = key_of(stage, reward=["r=python:gold.py:score"], **weight)
    path = own_folder / f"{purpose}.jsonl"
    path.write_text(path.read_text() * 2)
    seen["rows"] = key_of(stage)
    found = [usual, *seen.values()]
    same = [name for name, key in seen.items() if found.count(key) > 1 and name not in ("files", "rows")]
    assert not same and seen["rows"] != usual and seen["files"] != usual


@pytest.mark.parametrize(("stage", "more"), [("ppo", {}), ("dpo", {"reward_weight": ["r=0.5"]})])
def test_the_recorded_scale_of_a_reward_counts_where_rewards_are_standardised(key_of, make_artifact, stage, more):
    files = {"model/config.json": "{}", "model/model.safetensors": "scorer"}
    for mean, std in ((0.0, 1.0), (0.5, 1.0), (0.0, 2.0)):  # the same weights, measured on other pairs
        make_artifact("scorer", stage="rm", files=files, metrics={"score_mean": mean, "score_std": std})
    for standardise, keys in ((False, 1), (True, 3)):
        options = {**more, "standardise_rewards": standardise}
        assert len({key_of(stage, reward=[f"r=scorer@v{v}"], **options) for v in (1, 2, 3)}) == keys
    judges = {"reward": ["r=rm-one", "j=scorer@v1"], "reward_weight": ["r=0.5", "j=0"]}
    assert key_of(stage, **judges) == key_of(stage, **judges | {"reward": ["r=rm-one", "j=scorer@v2"]})


def test_a_stage_is_in_the_key(key_of):
    keys = [key_of(stage, data=["pairs.jsonl"]) for stage in ("rm", "dpo", "orpo", "kto")]
    assert len(set(keys)) == 4 and set(STAGES) == set(ALL_STAGES)


@pytest.mark.parametrize(("stage", "more"), [("ppo", {}), ("dpo", {"reward_weight": ["r=0.5"]})])
def test_a_run_that_a_service_scores_is_resumed_and_not_handed_back(inputs_of, make_artifact, monkeypatch, stage, more):
    more |= {"reward": ["r=http://127.0.0.1:1/score"], "force": False}
    key = inputs_of(stage, **more).key
    assert key == inputs_of(stage, **more | {"reward": ["r=http://127.0.0.1:1/score#timeout=9"]}).key
    assert key != inputs_of(stage, **more | {"reward": ["r=http://127.0.0.1:1/other"]}).key
    made = make_artifact(stage, key=key)
    found = inputs_of(stage, **more)
    assert (found.existing.ref, found.reusable) == (made.ref, None)  # the former is for a sweep that continues
    monkeypatch.setattr("prefcli.stages.run.made", lambda inputs, _: inputs.key)
    assert train(found.config) == key
    assert found.taken().ref == made.ref
    (made.model_path / "model.safetensors").unlink()
    assert train(found.config) == key
    with pytest.raises(ArtifactError, match="is missing"):
        found.taken()


@pytest.mark.parametrize(
    ("stage", "option"), [("sft", "model"), ("dpo", "reference"), ("ppo", "value_init"), ("ppo", "reward")]
)
def test_a_hub_model_counts_by_the_commit_in_the_cache(key_of, own_folder, monkeypatch, stage, option):
    monkeypatch.setenv("HF_HUB_CACHE", str(own_folder / "hub"))
    monkeypatch.setattr("prefcli.artifacts.hub.ask", lambda text: "c0ffee")

    def key(text="owner/name"):
        return key_of(stage, **{option: [f"r={text}"] if option == "reward" else text})

    fetched_by_the_run = key()
    folder = cached(own_folder / "hub")
    assert key() == key("owner/name@c0ffee") == fetched_by_the_run
    folder.rename(folder.with_name("decade"))
    write(own_folder / "hub/models--owner--name/refs/main", "decade")
    assert key() == key("owner/name@decade") != fetched_by_the_run


def test_an_adapter_counts_by_the_commit_of_its_base_on_the_hub_too(inputs_of, key_of, own_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(own_folder / "hub"))
    folder = cached(own_folder / "hub")
    config = {"base_model_name_or_path": "owner/name", "peft_type": "LORA"}
    write(own_folder / "adapter/adapter_config.json", json.dumps(config))
    write(own_folder / "adapter/adapter_model.safetensors", "adapter")
    before = inputs_of("dpo", model="adapter")
    assert {role: parent["commit"] for role, parent in parents_of(before).items()} == dict.fromkeys(
        ("model", "reference"), "c0ffee"
    )
    folder.rename(folder.with_name("decade"))
    write(own_folder / "hub/models--owner--name/refs/main", "decade")
    assert key_of("dpo", model="adapter") != before.key
    assert "commit" not in parents_of(inputs_of("dpo"))["model"]


# sample, score, label, eval: what unfinished work is resumed by


@pytest.mark.parametrize("config", [SampleConfig, ScoreConfig, LabelConfig, EvalConfig])
def test_unfinished_work_is_of_every_option_that_decides_it_and_of_what_it_runs_on(config):
    usual = causes("one", config(), CPU, FLOAT, data=["d"])
    others = [
        causes("two", config(), CPU, FLOAT, data=["d"]),
        causes("one", config(), torch.device("meta"), FLOAT, data=["d"]),
        causes("one", config(), CPU, torch.bfloat16, data=["d"]),
        causes("one", config(), CPU, FLOAT, data=["other"]),
    ]
    named = key_fields(config())
    others += [causes("one", dataclasses.replace(config(), **{name: "another"}), CPU, FLOAT, data=["d"])
               for name in named if name not in ("data", "dtype", "device")]  # fmt: skip
    assert all(other != usual for other in others) and len(named) > 5
    for name in ("json", "quiet", "debug", "runs"):
        assert causes("one", dataclasses.replace(config(), **{name: "x"}), CPU, FLOAT, data=["d"]) == usual


def test_a_reward_and_a_judge_count_by_what_they_are(tmp_path):
    def of(**changed):
        return of_rewards([dataclasses.replace(SPEC, **changed)])

    assert all(of(**{name: "another"}) != of() for name in ("name", "text", "function", "label", "digest"))
    assert of_judge("https://user:secret@here/v1#m", Store(str(tmp_path))) != of_judge("https://here/v2#m", Store(None))
    store = Store(str(tmp_path))
    assert of_judge("https://h/v1#m#timeout=9", store) == of_judge("https://h/v1#m", store) == ["https://h/v1#m", None]
    assert of(text="http://h/r#timeout=9") == of(text="http://h/r")  # as the hint of a timeout says, nothing is lost
    assert "secret" not in json.dumps(of_judge("https://user:secret@here/v1#m", Store(str(tmp_path))))


def test_labelling_is_resumed_for_the_same_judge_question_rows_and_gold_alone(monkeypatch, store, tmp_path):
    seen = []
    monkeypatch.setattr(labelling, "open_beside", lambda work, path, causes: seen.append(causes))
    (tmp_path / "question.txt").write_text("{prompt} {a} {b}?")

    def of(by="judge:https://host/v1#a", data="d", specs=(), **options):
        config = LabelConfig(by=by, out="out.jsonl", **options)
        labelling._open(
            None,
            config,
            list(specs),
            None,
            SimpleNamespace(digests=[data]),
            store,
            Placement(torch.device("cpu"), torch.float32),
        )
        return seen.pop()

    other = {
        "judge": of("judge:https://host/v1#b"),
        "data": of(data="e"),
        "question": of(judge_prompt=str(tmp_path / "question.txt")),
        "reward": of("gold", specs=[SPEC]),
        "another reward": of("gold", specs=[dataclasses.replace(SPEC, digest="another")]),
        "gold": of(gold="gold", specs=[SPEC]),
    }
    found = [json.dumps(causes, sort_keys=True) for causes in (of(), *other.values())]
    assert len(set(found)) == len(found) and of() == of()

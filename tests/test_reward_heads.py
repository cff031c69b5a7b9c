"""Reward models of other shapes: several labels, of which one or a sum is the score, and heads on any backbone."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.models.classes import HEAD
from prefcli.models.loading import is_scorer, load_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.sources import Answer, load_reward
from prefcli.stages.trl_trainer import _Progress
from scripts.families import plain, zoo
from scripts.families.commands import prefcli
from scripts.families.rows import DEMOS, write

torch.set_num_threads(1)

NAMES = ["helpfulness", "correctness", "verbosity"]
ROWS = [(row["prompt"], row["completion"]) for row in DEMOS]
BACKBONES = ("granite", "mamba")  # transformers has no sequence classifier for either


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    write(folder)
    for name in ("qwen2", *BACKBONES):
        zoo.build(name, folder / name)
    several(folder, "labels")
    return folder


def several(folder: Path, name: str) -> Path:
    """A reward model with three labels, as transformers saves one, on the zoo's qwen2."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "qwen2", num_labels=3, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)}
    )
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder / name)
    AutoTokenizer.from_pretrained(folder / "qwen2").save_pretrained(folder / name)
    return folder / name


@pytest.fixture
def cli(files, own_folder):
    """The command line; "@name" is a file or model of the fixture."""

    def run(*words: Any) -> Any:
        spelt = [str(files / word[1:]) if str(word).startswith("@") else word for word in words]
        return prefcli(*spelt, runs=own_folder / "runs")

    return run


def ids_of(folder: Path) -> list[list[int]]:
    encoder = plain.encoder_of(folder)
    return [encoder.prompt_ids(prompt) + encoder.completion_ids(prompt, answer) for prompt, answer in ROWS]


@torch.no_grad()
def plain_logits(folder: Path) -> torch.Tensor:
    """[rows, labels] of plain transformers, each row alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return torch.cat([model(torch.tensor([ids])).logits for ids in ids_of(folder)])


def scored(cli: Any, text: str, *options: str) -> list[float]:
    """prefcli's scores of the demonstrations."""
    Path("scored.jsonl").unlink(missing_ok=True)
    ran = cli("score", "--reward", text, "--data", "@demos.jsonl", "--out", "scored.jsonl", *options)
    assert ran.code == 0, ran.err
    rows = map(json.loads, Path("scored.jsonl").read_text().splitlines())
    return [next(iter(row["scores"].values())) for row in rows]


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=1e-5)


# Several labels

CHOICES = {
    "helpfulness": [1, 0, 0],
    "verbosity": [0, 0, 1],
    "1": [0, 1, 0],
    "helpfulness=0.7,verbosity=-0.3": [0.7, 0, -0.3],
    "0=0.5, correctness=2": [0.5, 2, 0],
}


@pytest.mark.parametrize("label", CHOICES)
def test_a_label_or_a_sum_of_labels_is_the_score(files, cli, label):
    expected = (plain_logits(files / "labels") @ torch.tensor(CHOICES[label], dtype=torch.float32)).tolist()
    close(scored(cli, f"{files}/labels#label={label}"), expected)
    close(scored(cli, f"rm={files}/labels", "--label", label), expected)


def test_two_labels_of_one_model_are_two_rewards(files, cli):
    ran = cli(
        "score", "--data", "@demos.jsonl", "--out", "s.jsonl",
        "--reward", f"a={files}/labels#label=0", "--reward", f"b={files}/labels#label=verbosity",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = [list(json.loads(line)["scores"].values()) for line in Path("s.jsonl").read_text().splitlines()]
    close(found, plain_logits(files / "labels")[:, [0, 2]].tolist())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--reward", "@labels"], 4, "has 3 labels (helpfulness, correctness, verbosity), and a reward is one number"),
        (["--reward", "@labels", "--label", "tone"], 2, "has the labels helpfulness, correctness, verbosity (0 to 2)"),
        (["--reward", "@labels", "--label", "3"], 2, "(0 to 2)"),
        (["--reward", "@labels", "--label", "-1"], 2, "(0 to 2)"),
        (["--reward", "@labels", "--label", "verbosity=x"], 2, "(0 to 2)"),
        (["--reward", "@labels", "--label", "verbosity=nan"], 2, "(0 to 2)"),
        (["--reward", "@labels", "--label", ""], 2, "(0 to 2)"),
    ],
)
def test_what_is_no_label_is_refused_with_those_that_are(cli, options, code, said):
    ran = cli("score", "--data", "@demos.jsonl", *options)
    assert ran.code == code and not ran.exception, ran.err
    assert said in " ".join(ran.err.split()) and "helpfulness=0.7" in ran.err


@pytest.fixture
def small(cli):
    """rm@v1 with one label, rml@v1 an adapter."""
    more = ["--data", "@pairs.jsonl", "--max-steps", 1, "--batch-size", 4, "--lr", "1e-2", "--warmup", 0]
    for name, rank in (("rm", 0), ("rml", 2)):
        ran = cli("train-rm", "--model", "@qwen2", *more, "--lora-rank", rank, "--name", name)
        assert ran.code == 0, ran.err
    return more


def test_a_label_of_a_model_with_one_or_none_is_refused(cli, small):
    for text in ("rm", "rml"):
        ran = cli("score", "--data", "@demos.jsonl", "--reward", text, "--label", "0")
        assert ran.code == 2 and f"{text} has one label" in ran.err, ran.err
        ran = cli("export", text, "out", "--label", "0")
        assert ran.code == 2 and "has one label" in ran.err, ran.err
    ran = cli("train-rm", "--model", "@qwen2", *small, "--label", "0")
    assert ran.code == 2 and "is not a reward model" in ran.err, ran.err


@pytest.mark.parametrize("rank", [0, 2])
def test_a_label_is_trained_on_exported_and_served(files, cli, rank):
    folder = files / "labels"
    expected = plain_logits(folder)[:, 1].tolist()
    ran = cli(
        "train-rm", "--model", folder, "--label", "correctness", "--data", "@pairs.jsonl", "--lora-rank", rank,
        "--max-steps", 1, "--batch-size", 4, "--lr", 0, "--eval-share", 0, "--name", f"on{rank}",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    close(scored(cli, f"on{rank}"), expected)
    close(plain_logits(ran.artifact / "model")[:, 0].tolist(), expected)  # one label, by plain transformers
    ran = cli("export", folder, f"out{rank}", "--label", "correctness")
    assert ran.code == 0, ran.err
    close(plain_logits(Path(f"out{rank}"))[:, 0].tolist(), expected)
    # As `serve-rm REF --label` loads it.
    (spec,) = parse_rewards([str(folder)], Store(), label="1")
    served = load_reward(spec, None, dtype=torch.float32, device=torch.device("cpu"), reporter=SILENT)
    close(served.score([Answer(prompt, answer) for prompt, answer in ROWS]).tolist(), expected)


@pytest.mark.parametrize("options", [[], ["--lora-rank", 2], ["--lora-rank", 2, "--layout", "separate"]])
def test_ppo_is_rewarded_by_a_label_and_its_value_model_starts_from_it(files, cli, options):
    ran = cli(
        "ppo", "--model", "@qwen2", "--prompts", "@prompts.jsonl", "--reward", f"{files}/labels#label=verbosity",
        *options, "--max-steps", 1, "--batch-size", 4, "--max-new-tokens", 4, "--ppo-epochs", 1, "--minibatches", 1,
        "--lr", 0,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads((ran.artifact / "manifest.json").read_text())["model"]["value_from"] == str(files / "labels")
    model = plain.open_model(ran.artifact / "value", scorer=True)
    found = torch.cat([model(torch.tensor([ids])).logits for ids in ids_of(files / "labels")])
    close(found[:, 0].tolist(), plain_logits(files / "labels")[:, 2].tolist())


def test_a_value_model_of_its_own_is_chosen_by_label_too(files, cli):
    words = ["ppo", "--model", "@qwen2", "--prompts", "@prompts.jsonl", "--reward", "python:r.py:longer",
             "--value-init", "@labels", "--max-steps", 1, "--batch-size", 4, "--max-new-tokens", 4,
             "--minibatches", 1]  # fmt: skip
    Path("r.py").write_text("def longer(prompts, completions):\n    return [float(len(c)) for c in completions]\n")
    ran = cli(*words)
    assert ran.code == 4 and "has 3 labels" in ran.err, ran.err
    assert cli(*words, "--label", "0").code == 0


# Heads of our own, and the model card


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """The path of a reward model of a family and a rank, with an end token of its own."""
    found: dict[tuple[str, int], Path] = {}

    def of(family: str, rank: int) -> Path:
        if (family, rank) not in found:
            ran = prefcli(
                "train-rm", "--model", files / family, "--data", files / "pairs.jsonl", "--lora-rank", rank,
                "--max-steps", 2, "--batch-size", 4, "--lr", "1e-2", "--eval-share", 0.25,
                "--name", f"{family}{rank}", runs=tmp_path_factory.getbasetemp() / "heads-runs",
            )  # fmt: skip
            assert ran.code == 0, ran.err
            found[family, rank] = ran.artifact
        return found[family, rank]

    return of


def by_the_card(folder: Path, card: Path) -> list[float]:
    """What the code block under "Use" gives, executed as it stands in the folder that it names by."""
    (block,) = re.findall(r"## Use\n.*?```python\n(.*?)```", card.read_text(), re.DOTALL)
    encoder = plain.encoder_of(folder)
    found = []
    for prompt, answer in ROWS:
        before = encoder.prompt_ids(prompt)
        text = encoder.tokenizer.decode(before + encoder.completion_ids(prompt, answer))
        named = {"text": text}
        with torch.no_grad(), contextlib.chdir(folder.parent):
            exec(block, named)
        found.append(float(named["score"]))
    return found


@pytest.mark.parametrize("family", ["qwen2", *BACKBONES])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_cards_lines_give_the_score(files, cli, trained, family, rank):
    artifact = trained(family, rank)
    expected = scored(cli, str(artifact))
    assert max(expected) - min(expected) > 1e-3
    close(by_the_card(artifact / "model", artifact / "README.md"), expected)
    for kept in [[], ["--no-merge"]][: 1 + bool(rank)]:
        out = Path(f"out{len(kept)}")
        ran = cli("export", artifact, out, *kept)
        assert ran.code == 0, ran.err
        close(by_the_card(out.absolute(), out / "README.md"), expected)
        close(scored(cli, str(out)), expected)


@pytest.mark.parametrize("family", BACKBONES)
def test_transformers_has_no_class_for_these(files, family):
    with pytest.raises(ValueError, match="Unrecognized configuration"):
        AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(files / family))


def test_a_head_of_our_own_is_found_by_a_hub_id(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cpu = {"dtype": torch.float32, "device": torch.device("cpu")}
    base, store = resolve(str(files / "granite"), Store()), Store()
    tokenizer = load_tokenizer(base, SILENT)
    made = load_scorer(base, tokenizer, new_head=True, **cpu)
    folder = tmp_path / "models--me--rm" / "snapshots" / "c0ffee"
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (tmp_path / "models--me--rm" / "refs").mkdir()
    (tmp_path / "models--me--rm" / "refs" / "main").write_text("c0ffee")
    for text in ("me/rm", "me/rm@c0ffee"):
        reference = resolve(text, store)
        assert reference.kind == "hub" and is_scorer(reference)
        assert torch.equal(load_scorer(reference, tokenizer, **cpu).score.weight, made.score.weight)
    (folder / HEAD).unlink()
    assert not is_scorer(resolve("me/rm", store))


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("rank", [0, 2])
def test_a_head_of_our_own_is_trained_on_and_measured(files, cli, trained, family, rank):
    artifact = trained(family, rank)
    before = scored(cli, str(artifact))
    for again in (0, 2, 4):
        ran = cli(
            "train-rm", "--model", artifact, "--data", "@pairs.jsonl", "--lora-rank", again, "--lr", 0,
            "--max-steps", 1, "--batch-size", 4, "--eval-share", 0, "--name", f"again{again}",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        close(scored(cli, f"again{again}"), before)
    ran = cli("eval", "--pairs", "@pairs.jsonl", "--reward", artifact, "--json")
    assert ran.code == 0, ran.err
    (measured,) = json.loads(ran.out)["reward_models"]
    ran = cli("score", "--data", "@pairs.jsonl", "--reward", artifact, "--json")
    (told,) = json.loads(ran.out)["rewards"]
    assert (measured["pairs"], measured["accuracy"]) == (4, told["accuracy"])


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize(("rank", "layout"), [(0, "separate"), (2, "separate"), (2, "shared")])
def test_ppo_with_a_head_of_our_own(files, cli, trained, family, rank, layout):
    reward = trained(family, rank)
    ran = cli(
        "ppo", "--model", "@" + family, "--prompts", "@prompts.jsonl", "--reward", reward, "--lora-rank", rank,
        "--layout", layout, "--max-steps", 1, "--batch-size", 4, "--max-new-tokens", 4, "--minibatches", 1,
        "--ppo-epochs", 1, "--lr", 0,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.first["objective/kl"] == 0
    close(scored(cli, str(ran.artifact / "value")), scored(cli, str(reward)))  # it started from it, at rate 0


def test_a_reward_model_with_a_head_of_our_own_goes_on_after_a_stop(files, cli, monkeypatch):
    words = ["train-rm", "--model", "@granite", "--data", "@pairs.jsonl", "--batch-size", 2, "--epochs", 2,
             "--lr", "1e-2", "--eval-share", 0, "--save-every", 1, "--keep-state"]  # fmt: skip
    whole = cli(*words, "--name", "whole")
    assert whole.code == 0, whole.err
    logged = _Progress.on_log

    def stopping(self, args, state, control, **more):
        if state.global_step == 3:
            raise KeyboardInterrupt
        return logged(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(_Progress, "on_log", stopping)
        assert cli(*words, "--name", "cut").code == 130
    cut = cli(*words, "--name", "cut")
    assert cut.code == 0 and "resuming from step 2" in cut.err, cut.err
    for name in ("model", "state/step3/model"):
        for file in sorted((whole.artifact / name).glob("*.safetensors")):
            one, other = load_file(file), load_file(cut.artifact / name / file.name)
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), file
    assert (cut.artifact / "state/step3/model/score.safetensors").is_file()
    assert resolve("cut@v1:step3", Store(cut.artifact.parents[1])).path

"""Every artifact, full and LoRA, and every export of it opens without prefcli, and says what it says in prefcli."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from peft import PeftModel
from safetensors.torch import load_file, save_file

from prefcli.artifacts.commands import command
from prefcli.artifacts.folders import out_folder, whole_folder
from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store, open_artifact
from prefcli.errors import ArtifactError, SurroundingsError, UsageError
from prefcli.models import export as export_module
from prefcli.models import hub
from prefcli.models.export import export
from prefcli.models.loading import is_scorer, load_policy, load_scorer
from prefcli.models.tokenizers import beside_its_tokenizer, stored_tokenizer
from prefcli.progress import SILENT

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
IDS = torch.tensor([[5, 300, 41, 700, 12, 9], [6, 77, 500, 3, 0, 0]])  # the second row ends in padding
MASK = (IDS != 0).long()
LORA = ["--lora-rank", "2", "--lr", "1e-2", "--max-steps", "2", "--batch-size", "4"]

# What a user without prefcli writes, once for all: opening the libraries takes longer than all models.
ALONE = """
import json, sys
sys.modules["prefcli"] = None  # an import of it fails
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
models, ids, mask = json.loads(sys.argv[1])
found = {}
for path, scorer, adapter in models:
    if adapter and scorer:
        base = PeftConfig.from_pretrained(path).base_model_name_or_path
        base = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model = PeftModel.from_pretrained(base, path)
    elif adapter:
        model = AutoPeftModelForCausalLM.from_pretrained(path)
    else:
        kind = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
        model, info = kind.from_pretrained(path, output_loading_info=True)
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), (path, info)
    with torch.no_grad():
        found[path] = model.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.contiguous()
    if not path.endswith("value"):  # of an artifact: it reads with the policy's
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert "x" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
assert [name for name in sys.modules if name.partition(".")[0] == "prefcli"] == ["prefcli"]
save_file(found, sys.argv[2])
"""


def swapped(args, **refs):
    """A command of the chain from other artifacts."""
    names = {f"{stage}@v1": f"{name}@v1" for stage, name in refs.items()}
    return [names.get(word, word) for word in args]


@pytest.fixture(scope="module")
def lora(trained):
    """The chain with adapters, beside the full one: lsft on tiny, ldpo and lppo on that; lrm on the full sft."""
    from typer.testing import CliRunner

    from prefcli.cli.main import app

    runs = {
        "lsft": trained.args("sft"),
        "ldpo": swapped(trained.args("dpo"), sft="lsft"),
        "lrm": trained.args("rm"),
        "lppo": [*swapped(trained.args("ppo"), sft="ldpo", rm="lrm"), "--keep-state", "--save-every", "1"],
    }
    for name, args in runs.items():
        result = CliRunner().invoke(app, [*args, *LORA, "--name", name], env={"PREFCLI_RUNS": str(trained.runs)})
        assert result.exit_code == 0, result.stderr
    return trained


@pytest.fixture
def store(lora, chain):
    return Store(chain.runs)


def written(reference, folder, *, dtype="auto", merge=True):
    folder.mkdir(parents=True)
    return export(reference, folder, dtype=dtype, merge=merge, reporter=SILENT)


def own(reference):
    """[2, T, V] logits or [2, 1] scores, as prefcli opens it."""
    if is_scorer(reference):
        model = load_scorer(reference, stored_tokenizer(beside_its_tokenizer(reference)), **CPU)
    else:
        model = load_policy(reference, trainable=False, **CPU)
    with torch.no_grad():
        return model.eval()(IDS, attention_mask=MASK).logits


def test_every_artifact_and_every_export_opens_without_prefcli_and_says_the_same(store, tmp_path):
    root = store.root
    texts = ["tiny", "sft", "rm", "dpo", "ppo", f"{root}/ppo/v1/value", "lsft", "lrm", "ldpo", "lppo", "lppo@v1:step1",
             f"{root}/lppo/v1/value"]  # fmt: skip
    expected = {}
    for number, text in enumerate(texts):
        reference = resolve(text, store)
        adapter, scorer = reference.is_adapter, is_scorer(reference)
        logits = own(reference)
        expected[str(reference.path), scorer, adapter] = logits
        done = written(reference, tmp_path / "out" / str(number))
        assert (done.merged, done.scorer, done.base) == (adapter, scorer, None)
        expected[str(tmp_path / "out" / str(number)), scorer, False] = logits
        if adapter:
            assert written(reference, tmp_path / "kept" / str(number), merge=False).base
            expected[str(tmp_path / "kept" / str(number)), scorer, True] = logits
    assert sum(adapter for _, _, adapter in expected) == 12
    models = json.dumps([list(expected), IDS.tolist(), MASK.tolist()])
    subprocess.run([sys.executable, "-c", ALONE, models, tmp_path / "logits"], check=True, cwd=tmp_path)
    found = load_file(tmp_path / "logits")
    assert len(found) == len(expected) == 12 + 12 + 6
    for (path, scorer, _), logits in expected.items():
        assert logits.shape == (2, 1) if scorer else logits.shape[:2] == IDS.shape
        torch.testing.assert_close(found[path], logits, atol=1e-5, rtol=1e-5, msg=path)
    # No two artifacts say the same: a base without its adapter, or another's, would have shown.
    logits = [tensor for (path, *_), tensor in expected.items() if not path.startswith(str(tmp_path / "out"))
              and not path.startswith(str(tmp_path / "kept"))]  # fmt: skip
    for i, one in enumerate(logits):
        for other in logits[:i]:
            assert one.shape != other.shape or (one - other).abs().max() > 1e-4


def test_adapters_go_through_the_chain(lora):
    first = json.loads((lora.path("ldpo") / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the reference is the adapter it started from
    for name in ("lsft", "ldpo", "lrm", "lppo"):
        assert (lora.path(name) / "model/adapter_config.json").is_file()
    assert (lora.path("lppo") / "value/adapter_config.json").is_file()


def test_a_reward_adapter_scores_the_same_loaded_merged_and_trained_on(store, chain, prefcli, tmp_path):
    reference = resolve("lrm", store)
    scores = own(reference)
    merged = load_scorer(reference, stored_tokenizer(reference), **CPU).merge_and_unload()
    assert not isinstance(merged, PeftModel)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS, attention_mask=MASK).logits, scores, atol=1e-5, rtol=0)
    written(reference, tmp_path / "merged")
    for number, start in enumerate(("lrm", str(tmp_path / "merged"))):  # its own adapter; a new one on the merged
        args = (
            swapped(chain.args("rm"), sft="lrm")
            if number == 0
            else [start if w == "sft@v1" else w for w in chain.args("rm")]
        )
        result = prefcli(*args, *LORA, "--lr", "0", "--max-steps", "1", "--name", f"on{number}")
        on = resolve(str(chain.path_of(result)), store)
        assert on.is_adapter
        torch.testing.assert_close(own(on), scores, atol=1e-5, rtol=0)


def test_a_merged_weight_is_base_plus_scaled_product_rounded_once(store, tmp_path):
    reference = resolve("lrm", store)
    adapter = load_file(reference.path / "adapter_model.safetensors")
    config = json.loads((reference.path / "adapter_config.json").read_text())
    base = load_file(f"{config['base_model_name_or_path']}/model.safetensors")
    written(reference, tmp_path / "full"), written(reference, tmp_path / "half", dtype="bfloat16")
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    seen = 0
    for name, weight in base.items():
        key = "base_model.model." + name.removesuffix("weight") + "lora_{}.weight"
        if key.format("A") in adapter:
            product = adapter[key.format("B")].double() @ adapter[key.format("A")].double()
            weight = weight.double() + config["lora_alpha"] / config["r"] * product
            seen += 1
        if name in full:  # not the head of the language model
            torch.testing.assert_close(full[name].double(), weight.double(), atol=1e-6, rtol=0)
    assert seen == 3 * 7
    assert torch.equal(full["score.weight"], adapter["base_model.model.score.weight"])
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}  # the head too
    assert all(torch.equal(half[name], full[name].bfloat16()) for name in full)
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_is_kept_as_it_is_or_in_the_type_that_is_asked_for(store, tmp_path):
    reference = resolve("lrm", store)
    before = load_file(reference.path / "adapter_model.safetensors")
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        done = written(reference, tmp_path / dtype, dtype=dtype, merge=False)
        assert done.base.endswith("/runs/sft/v1/model")
        after = load_file(tmp_path / dtype / "adapter_model.safetensors")
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name].to(expected)) for name in before)


def test_a_reward_adapter_on_a_base_of_16_bits_keeps_its_head_of_32(store, tmp_path):
    base = load_policy(resolve("sft", store), **CPU | {"dtype": torch.bfloat16}, trainable=False)
    base.save_pretrained(tmp_path / "base")
    adapter = shutil.copytree(resolve("lrm", store).path, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "../base"}))
    written(resolve(str(adapter), store), tmp_path / "out", merge=False)
    after, before = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", adapter))
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.fixture
def tiny_copy(tmp_path):
    return shutil.copytree(TINY, tmp_path / "copy")


def test_a_weight_that_the_type_cannot_hold_is_refused(store, tiny_copy, tmp_path):
    tensors = load_file(tiny_copy / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e5
    save_file(tensors, tiny_copy / "model.safetensors", {"format": "pt"})
    reference = resolve(str(tiny_copy), store)
    with pytest.raises(ArtifactError, match=r"model\.norm\.weight.*float16"):
        written(reference, tmp_path / "float16", dtype="float16")
    assert written(reference, tmp_path / "bfloat16", dtype="bfloat16").dtype == "bfloat16"


def test_generate_stops_where_the_model_was_trained_to_end(store, tiny_copy, tmp_path):
    for number, (given, expected) in enumerate([(7, [4, 7]), ([7, 4], [7, 4]), (None, 4)]):
        (tiny_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": given, "pad_token_id": 0}))
        written(resolve(str(tiny_copy), store), tmp_path / f"out{number}")
        config = json.loads((tmp_path / f"out{number}/generation_config.json").read_text())
        assert config["eos_token_id"] == expected


# The reload check


@pytest.fixture
def damaged(monkeypatch):
    """What is written has one bit of one tensor flipped."""

    def flip(file):
        tensors = load_file(file)
        name = sorted(tensors)[1]
        tensors[name].view(-1)[5:6].view(torch.uint8)[0] ^= 1
        save_file(tensors, file, {"format": "pt"})

    def after(function, which):
        def call(*args, **more):
            function(*args, **more)
            flip(which(args))

        return call

    save = after(export_module._save, lambda args: args[2] / "model.safetensors")
    monkeypatch.setattr(export_module, "_save", save)
    monkeypatch.setattr(export_module, "save_file", after(save_file, lambda args: args[1]))


@pytest.mark.parametrize(("ref", "options"), [("rm", []), ("lppo", ["--no-merge"])])
def test_one_wrong_bit_is_seen_and_nothing_is_left(store, prefcli, damaged, tmp_path, ref, options):
    shutil.copytree(TINY, tmp_path / "old")
    before = sorted(tmp_path.iterdir())
    for more in ("new", "old"):
        result = prefcli("export", ref, more, "--force", *options)
        assert result.exit_code == 4 and "1 of" in result.stderr and "read back" in result.stderr
        assert result.stdout == "" and sorted(tmp_path.iterdir()) == before
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == sorted(p.name for p in TINY.iterdir())


def test_a_tokenizer_that_changed_on_the_way_is_seen(store, monkeypatch, tmp_path):
    kind = type(stored_tokenizer(resolve("tiny", store)))
    save = kind.save_pretrained

    def template_lost(tokenizer, folder):
        save(tokenizer, folder)
        (folder / "chat_template.jinja").write_text("another")

    monkeypatch.setattr(kind, "save_pretrained", template_lost)
    with pytest.raises(ArtifactError, match="chat template"):
        written(resolve("tiny", store), tmp_path / "out")


# The command


def test_the_command_prints_the_path_and_replaces_only_with_force(store, prefcli, tmp_path):
    result = prefcli("export", "lrm", "out")
    assert (result.exit_code, result.stdout) == (0, "out\n"), result.stderr
    assert "adapter merged" in result.stderr and "equal bit for bit" in result.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json"}  # fmt: skip
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {0o644}
    again = prefcli("export", "lrm", "out")
    assert again.exit_code == 2 and "not empty" in again.stderr and "--force" in again.stderr
    kept = prefcli("export", "lppo@v1:step1", "out", "--no-merge", "--force", "--json", "--quiet")
    about = json.loads(kept.stdout)
    assert "note" not in kept.stderr and about["files"] == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert (about["path"], about["ref"], about["scorer"], about["merged"]) == ("out", "lppo@v1:step1", False, False)
    assert about["base"] == str(TINY.resolve()) and "model.safetensors" not in about["files"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo", "ppo"])
def test_the_cards_command_makes_the_same_artifact(lora, chain, prefcli, stage):
    for path in (chain.path(stage), chain.path(f"l{stage}")):
        words = shlex.split(command(open_artifact(path).manifest))
        result = prefcli(*words[1:])
        assert result.stdout == f"{path}\n" and "nothing to do" in result.stderr, (words, result.stderr)


def test_the_card_has_valid_metadata_lineage_metrics_and_the_way_to_open_it(store, prefcli, tmp_path):
    assert prefcli("export", "lppo", "plain").exit_code == 0
    assert prefcli("export", "lrm", "adapter", "--no-merge").exit_code == 0
    plain, adapter = (ModelCard((tmp_path / name / "README.md").read_text()) for name in ("plain", "adapter"))
    assert plain.data.library_name == "transformers" and plain.data.pipeline_tag == "text-generation"
    assert adapter.data.library_name == "peft" and adapter.data.pipeline_tag == "text-classification"
    assert "ppo" in plain.data.tags and plain.data.base_model is None  # tiny is not on the hub
    lines = plain.text.splitlines()
    places = [lines.index(line) for line in ("- `lppo@v1`", "  - model: `ldpo@v1`", "    - model: `lsft@v1`",
                                             "      - model: `tiny`")]  # fmt: skip
    assert places == sorted(places)
    assert "| objective/kl |" in plain.text and "--lora-rank 2" in plain.text
    (code,) = re.findall(r"```python\n(.*?)```", adapter.text, re.DOTALL)
    names: dict[str, object] = {"text": "Where is the cup?"}
    exec(code, names)  # as it stands on the card
    with torch.no_grad():
        scores = names["model"](IDS, attention_mask=MASK).logits
    torch.testing.assert_close(scores, own(resolve("lrm", store)), atol=1e-5, rtol=0)


def test_a_hub_model_at_the_root_is_the_cards_base_model(make_artifact, own_folder):
    from prefcli.artifacts.lineage import hub_root, lineage
    from prefcli.stages.card import Weights, model_card

    sft = make_artifact("sft")
    manifest = sft.path / "manifest.json"
    about = json.loads(manifest.read_text()) | {"parents": {"model": {"ref": "owner/name@main", "digest": None}}}
    manifest.write_text(json.dumps(about))
    dpo = make_artifact("dpo", parents={"model": open_artifact(sft.path)})
    root = hub_root(lineage(dpo, Store()))
    assert root == "owner/name"
    data = ModelCard(model_card(dpo.manifest, Weights("out", False, "/a/base", root))).data
    assert (data.base_model, data.base_model_relation) == ("owner/name", "adapter")


@pytest.mark.parametrize(
    ("code", "part", "args"),
    [
        (4, "nothing: no artifact", ["nothing", "out"]),
        (4, "sft@v9: no such version", ["sft@v9", "out"]),
        (4, "that step was not kept", ["sft@v1:step3", "out"]),
        (4, "no such GGUF file", ["no.gguf", "out"]),
        (2, "OUT ''", ["tiny", ""]),
        (2, "OUT file is a file", ["tiny", "file"]),
        (2, "OUT file is a file", ["tiny", "file", "--force"]),
        (2, "mkdir -p", ["tiny", "a/b/c"]),
        (2, "OUT full exists and is not empty", ["tiny", "full"]),
        (2, "OUT full holds no model", ["tiny", "full", "--force"]),
        (2, "OUT web holds no model", ["tiny", "web", "--force"]),
        (2, "OUT mixed holds '.git', which no export writes", ["tiny", "mixed", "--force"]),
        (2, "OUT noted holds 'notes.txt', which no export writes", ["tiny", "noted", "--force"]),
        (2, "is an artifact", ["tiny", "runs/sft/v1", "--force"]),
        (2, "is an artifact", ["sft", "runs/sft/v1/model/out"]),
        (2, "which is in use", ["tiny", ".", "--force"]),
        (2, "which is in use", ["copy", "copy", "--force"]),
        (2, "which is in use", ["copy/inner", "copy", "--force"]),
        (2, "--dtype", ["tiny", "out", "--dtype", "int4"]),
        (2, "Missing argument 'OUT'", ["tiny"]),
        (2, "--private is for --push-to-hub", ["tiny", "out", "--private"]),
        (2, "expected OWNER/NAME", ["tiny", "out", "--push-to-hub", "name"]),
        (2, "expected OWNER/NAME", ["tiny", "out", "--push-to-hub", ""]),
        (7, "the environment has no HF_TOKEN", ["tiny", "out", "--push-to-hub", "me/model"]),
        (4, "adapter on", ["orphan", "out"]),
        (4, "model.safetensors is damaged", ["damaged", "out"]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(prefcli, make_artifact, tmp_path, monkeypatch, code, part, args):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "weights"})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    for file in ("web/config.json", "web/src/app.js", "mixed/.git/HEAD", "noted/notes.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("mine")
    for name in ("mixed", "noted"):
        for file in ("config.json", "model.safetensors"):
            (tmp_path / name / file).write_text("mine")
    for name in ("copy", "copy/inner", "damaged", "orphan"):
        (tmp_path / name).mkdir()
        for file in TINY.iterdir():
            shutil.copy(file, tmp_path / name)
    (tmp_path / "damaged/model.safetensors").write_bytes(b"half")
    adapter = {"base_model_name_or_path": "/no/such/base", "task_type": "CAUSAL_LM", "peft_type": "LORA", "r": 2}
    (tmp_path / "orphan/adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "orphan/model.safetensors").rename(tmp_path / "orphan/adapter_model.safetensors")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file() and ".digests" not in p.name)
    result = prefcli("export", *args)
    assert result.exit_code == code and part in result.stderr, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == "" and "Traceback" not in result.output
    after = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file() and ".digests" not in p.name)
    assert after == before and not (tmp_path / "out").exists()


def test_another_programs_manifest_is_not_in_the_way_and_a_mounted_disk_is(tmp_path, monkeypatch):
    """`npm create` has a manifest.json in public/; a folder cannot be renamed to a mount point."""
    (tmp_path / "manifest.json").write_text('{"name": "app"}')
    out = tmp_path / "disk"
    out.mkdir()
    assert out_folder(str(out), force=False, needed=[]) == out
    monkeypatch.setattr("os.path.ismount", lambda path: path == out)
    with pytest.raises(UsageError, match="is a mount point") as refused:
        out_folder(str(out), force=False, needed=[])
    assert str(out / "model") in refused.value.hint and out_folder(str(out / "model"), force=False, needed=[])
    for text in ('["layers.tar"]', '{"schema": "https://json-schema.org"}', "{", "\ufeff{}"):
        (tmp_path / "manifest.json").write_text(text)
        assert out_folder(str(out / "model"), force=False, needed=[])
    (tmp_path / "model").mkdir()
    for text in ('{"schema": 1}', '{"stage": "sft"}', "{"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UsageError, match="is an artifact"):
            out_folder(str(out / "model"), force=False, needed=[])


def test_the_old_directory_outlives_a_failure_at_any_moment(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")

    def fill(fail=None):
        with whole_folder(out) as folder:
            (folder / "new").write_text("new")
            if fail:
                raise fail

    for error in (KeyboardInterrupt(), ArtifactError("no"), OSError(28, "No space left on device")):
        with pytest.raises(SurroundingsError if isinstance(error, OSError) else type(error)):
            fill(error)
        assert [p.name for p in tmp_path.rglob("*")] == ["out", "old"]
    import os

    rename, calls = os.rename, []

    def second_fails(a, b):
        calls.append(a)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        rename(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", second_fails)
        with pytest.raises(SurroundingsError, match="Permission denied"):
            fill()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "old"]
    fill()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "new"]


# The hub

SECRET = "hf_secretsecret"


class FakeApi:
    """Takes the place of HfApi; what it is told stands in `told`."""

    endpoint, told, public = "https://hub", [], True

    def __init__(self, token):
        self.told.append(("token", token))

    def create_repo(self, repo, *, private, exist_ok):
        self.told.append(("create", repo, private))

    def model_info(self, repo):
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, *, repo_id, folder_path, delete_patterns):
        self.told.append(("upload", repo_id, folder_path, sorted(p.name for p in folder_path.iterdir())))
        self.told.append(("delete", delete_patterns))


def test_the_checked_directory_is_uploaded_and_the_token_stays_out_of_it(prefcli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "told", [])
    result = prefcli("export", "tiny", "out", "--push-to-hub", "me/model")
    assert (result.exit_code, result.stdout) == (0, "out\n"), result.stderr
    assert "uploaded: https://hub/me/model" in result.stderr
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert FakeApi.told == [("token", SECRET), ("create", "me/model", None),
                            ("upload", "me/model", tmp_path / "out", names), ("delete", hub.STALE)]  # fmt: skip
    stale = ["adapter_config.json", "adapter_model.safetensors", "model.safetensors.index.json",
             "model-00001-of-00002.safetensors", "config.json", "score.safetensors", "tokenizer.model", "vocab.json",
             "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
             "additional_chat_templates/tool_use.jinja"]  # fmt: skip
    assert list(filter_repo_objects([*stale, "notes.md"], allow_patterns=hub.STALE)) == stale  # as the hub reads them
    assert "from_pretrained('me/model')" in (tmp_path / "out/README.md").read_text()
    refused = prefcli("export", "tiny", "out", "--force", "--push-to-hub", "me/model", "--private")
    assert refused.exit_code == 7 and "public" in refused.stderr
    assert [told[0] for told in FakeApi.told].count("upload") == 1
    monkeypatch.setattr(FakeApi, "public", False)
    monkeypatch.setattr(FakeApi, "told", [])
    made = prefcli("export", "tiny", "out", "--force", "--push-to-hub", "me/model", "--private")
    assert made.exit_code == 0, made.stderr
    assert [told[:3] for told in FakeApi.told if told[0] in ("create", "upload")] == [
        ("create", "me/model", True), ("upload", "me/model", tmp_path / "out")]  # fmt: skip
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.seen.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_hub_that_refuses_or_does_not_answer_leaves_the_directory(prefcli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.seen = []
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # conftest says so
    try:
        refused = prefcli("export", "tiny", "out", "--push-to-hub", "me/model")
    finally:
        server.shutdown()
        server.server_close()
    closed = prefcli("export", "tiny", "out2", "--push-to-hub", "me/model")
    assert server.seen == [f"Bearer {SECRET}"]
    for result, out in ((refused, "out"), (closed, "out2")):
        assert result.exit_code == 7 and "not uploaded" in result.stderr and "written and checked" in result.stderr
        assert result.stdout == "" and SECRET not in result.output and "Traceback" not in result.output
        assert (tmp_path / out / "model.safetensors").is_file()
    assert "401" in refused.stderr

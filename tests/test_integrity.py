"""What an artifact or a model directory could do to its user: damage, swapped files, pickles, code, ways out."""

from __future__ import annotations

import ast
import gzip
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import PAIR, write

from prefcli.artifacts.lineage import lineage
from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError
from prefcli.files import digest_file

PACKAGE = Path(__file__).parent.parent / "prefcli"
# Every way in which an artifact is used: what stands for REF is damaged.
USES = {
    "start": "dpo --data p.jsonl --model REF",
    "sft's start": "sft --data p.jsonl --model REF",
    "reference": "dpo --data p.jsonl --model tiny --reference REF",
    "kto's start": "kto --data p.jsonl --model REF",
    "reward": "ppo --prompts p.jsonl --model tiny --reward RM",
    "value": "ppo --prompts p.jsonl --model tiny --reward python:r.py:score --value-init RM",
    "eval": "eval --model REF --against tiny --prompts p.jsonl",
    "eval's reward": "eval --model tiny --prompts p.jsonl --reward RM",
    "compare": "compare REF tiny",
    "sample": "sample --model REF --prompts p.jsonl",
    "score": "score --data p.jsonl --reward RM",
    "label": "label --data answers.jsonl --by RM --out out.jsonl",
    "judge": "label --data answers.jsonl --by judge:REF --out out.jsonl",
    "serve-rm": "serve-rm RM",
    "chat": "chat REF",
    "export": "export REF out",
    "report": "report REF --output page.html",
    "sweep": "sweep dpo --data p.jsonl --model REF --grid lr=1e-5,1e-4",
    "show": "show REF --verify",
    "by its directory": "dpo --data p.jsonl --model runs/sft/v1",
    "by its weights' directory": "dpo --data p.jsonl --model runs/sft/v1/model",
    "a kept step": "export REF:step2 out",
}


@pytest.fixture
def workplace(own_folder, make_artifact):
    for name in ("sft", "rm"):
        artifact = make_artifact(name)
        kept = write(artifact.path / "state/step2/model/config.json", "{}")
        artifact.manifest.files["state/step2/model/config.json"] = digest_file(kept)
        write_manifest(artifact.manifest, artifact.path)
    write(own_folder / "p.jsonl", json.dumps(PAIR) + "\n")
    write(own_folder / "answers.jsonl", "".join(json.dumps({"prompt": "q", "completion": c}) + "\n" for c in "ab"))
    write(own_folder / "r.py", "def score(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n")
    return own_folder


def changed(folder):
    write(folder / "model.safetensors", "weighty")
    return "model.safetensors"


def removed(folder):
    (folder / "model.safetensors").unlink()
    return "model.safetensors"


def pickled(folder):
    write(folder / "pytorch_model.bin", pickle.dumps(1))
    return "pytorch_model.bin"


def code(folder):
    write(folder / "modeling.py", "raise SystemExit(99)")
    return "modeling.py"


def adapter(folder):
    write(folder / "adapter_config.json", '{"base_model_name_or_path": "/elsewhere"}')
    return "adapter_config.json"


def linked(folder):
    (folder / "more").symlink_to("/etc")
    return "more"


@pytest.mark.parametrize("use", USES)
def test_damage_is_named_however_the_artifact_is_used(prefcli, workplace, use):
    damage = [changed, removed, pickled][list(USES).index(use) % 3]
    named = {damage(workplace / "runs" / name / "v1" / "model") for name in ("sft", "rm")}
    result = prefcli(*USES[use].replace("REF", "sft@v1").replace("RM", "rm@v1").split())
    assert result.exit_code == 4 and named.pop() in result.stderr, (result.exit_code, result.stderr, result.stdout)


@pytest.mark.parametrize("damage", [changed, removed, pickled, code, adapter, linked])
@pytest.mark.parametrize("text", ["sft", "sft@v1", "runs/sft/v1", "runs/sft/v1/model", "sft@v1:step2"])
def test_every_damage_is_named_under_every_reference(store, workplace, damage, text):
    assert resolve(text, store)
    named = damage(workplace / "runs/sft/v1/model")
    with pytest.raises(ArtifactError, match=named):
        resolve(text, store)


def test_a_file_added_to_a_kept_step_is_named(store, workplace):
    write(workplace / "runs/sft/v1/state/step2/model/adapter_config.json", "{}")
    with pytest.raises(ArtifactError, match=r"step2/model/adapter_config.json.*added"):
        resolve("sft@v1:step2", store)


def test_links_and_hidden_files_that_change_nothing_are_fine(store, workplace):
    """Weights that were moved to a larger disk, or into the cache of a data versioning tool."""
    file = workplace / "runs/sft/v1/model/model.safetensors"
    shutil.move(file, workplace / "big")
    file.symlink_to(workplace / "big")
    write(file.parent / ".DS_Store", "x")
    assert resolve("sft", store)
    write(workplace / "big", "weighty")
    with pytest.raises(ArtifactError, match="model.safetensors was changed"):
        resolve("sft", store)


@pytest.mark.parametrize(
    ("path", "said"),
    [(path, "a file outside the artifact") for path in ("../../secret", "/etc/passwd", "model/../../x")]
    + [(path, "") for path in ("model/\0", "a" * 5000, "model/\ud800", "", ".")],  # no file has such a name
)
def test_no_path_in_a_manifest_leaves_the_artifact(prefcli, workplace, path, said):
    write(workplace / "runs/secret", "x")
    file = workplace / "runs/sft/v1/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"][path] = "0" * 64
    write(file, json.dumps(manifest))
    result = prefcli("dpo", "--data", "p.jsonl", "--model", "sft")
    assert result.exit_code == 4 and said in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "ref",
    ["../sft@v1", "sft/../sft@v1", "/sft@v1", "sft@v-1", "sft@v1:step../../..", "sft@v1:step-1", "sft@v1\0", "sft\0",
     "ѕft@v1", "sft@v１", "sft@v" + "9" * 5000, "sft@v1:step" + "9" * 5000, "sft@v1/../../x", "s" * 5000, "\ud800"],
)  # fmt: skip
def test_no_reference_leaves_the_store_or_names_a_look_alike(prefcli, workplace, ref):
    for args in (["show", "--", ref], ["dpo", "--data", "p.jsonl", "--model=" + ref], ["rm", "--", ref]):
        result = prefcli(*args)
        assert result.exit_code in (2, 4) and "Traceback" not in result.output, (args, result.output)


@pytest.mark.parametrize(
    "ref", ["../sft@v1", "/etc@v1", "sft@v" + "9" * 5000, "sft@v٣", "\0@v1", "sft@v1@v1", "", "@v"]
)
def test_a_parent_that_no_artifact_can_be_is_not_looked_for(prefcli, workplace, make_artifact, ref):
    child = make_artifact("dpo")
    file = child.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["parents"] = {"model": {"ref": ref, "digest": "x"}}
    write(file, json.dumps(manifest))
    for args in (["show", "dpo"], ["ls"], ["rm", "sft@v1", "--dry-run"], ["gc", "--dry-run"]):
        assert prefcli(*args).exit_code in (0, 4), args


def test_a_lineage_of_many_rounds_is_no_larger_than_their_number(store, make_artifact):
    before = make_artifact("sft")
    for _ in range(30):
        before = make_artifact("dpo", parents={"model": before, "reference": before})
    nodes, stack = 0, [lineage(before, store)]
    while stack:
        nodes += 1
        stack += stack.pop().parents
    assert nodes == 61  # each with its two parents


def test_a_gzip_bomb_is_named_and_not_unpacked(prefcli, workplace):
    write(workplace / "bomb.jsonl.gz", gzip.compress(bytes(100 << 20)))
    result = prefcli("sft", "--data", "bomb.jsonl.gz", "--model", "tiny", "--dry-run")
    assert result.exit_code == 3 and "bomb.jsonl.gz unpacks to more than" in result.stderr


# Adapters


def lora(artifact, make_artifact, name="dpo"):
    config = json.dumps({"base_model_name_or_path": str(artifact.model_path), "task_type": "CAUSAL_LM"})
    files = {"model/adapter_config.json": config, "model/adapter_model.safetensors": "a"}
    return make_artifact(name, files=files, parents={"model": artifact})


def test_the_base_of_an_adapter_is_verified_with_it(store, make_artifact):
    sft = make_artifact("sft")
    dpo = lora(sft, make_artifact)
    for text in ("dpo", str(dpo.model_path)):
        assert resolve(text, store)
    changed(sft.model_path)
    for text in ("dpo", str(dpo.model_path)):
        with pytest.raises(ArtifactError, match=r"sft@v1.*model.safetensors"):
            resolve(text, store)


def test_another_base_in_its_place_is_refused(store, make_artifact):
    sft = make_artifact("sft")
    lora(sft, make_artifact)
    shutil.rmtree(sft.path)
    make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "others"})
    with pytest.raises(ArtifactError, match="not the base that it was trained on"):
        resolve("dpo", store)


def test_an_adapter_of_an_adapter_knows_its_base_through_its_parent(store, make_artifact):
    sft = make_artifact("sft")
    dpo = lora(sft, make_artifact)
    config = (dpo.model_path / "adapter_config.json").read_text()
    files = {"model/adapter_config.json": config, "model/adapter_model.safetensors": "b"}
    make_artifact("ppo", files=files, parents={"model": dpo})
    assert resolve("ppo", store)
    shutil.rmtree(sft.path)
    make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "others"})
    with pytest.raises(ArtifactError, match="not the base that it was trained on"):
        resolve("ppo", store)


# Model directories from elsewhere


class Bomb:
    """Opened as a pickle, it leaves a file behind."""

    def __reduce__(self):
        return os.mkdir, ("bombed",)


@pytest.fixture
def stranger(own_folder):
    """A directory that transformers would open: tiny's."""
    shutil.copytree(TINY, own_folder / "stranger")
    return own_folder / "stranger"


def opened(text):
    import torch

    from prefcli.models.loading import load_policy, load_scorer
    from prefcli.models.tokenizers import load_tokenizer
    from prefcli.progress import SILENT

    reference, cpu = resolve(text, Store()), torch.device("cpu")
    tokenizer = load_tokenizer(reference, SILENT)
    load_policy(reference, dtype=torch.float32, device=cpu, trainable=False)
    load_scorer(reference, tokenizer, dtype=torch.float32, device=cpu, new_head=True)


@pytest.mark.parametrize("beside", [True, False])
def test_a_pickle_is_never_opened(stranger, own_folder, beside):
    write(stranger / "pytorch_model.bin", pickle.dumps(Bomb()))
    write(stranger / "training_args.bin", pickle.dumps(Bomb()))
    if beside:
        opened("stranger")
    else:
        (stranger / "model.safetensors").unlink()
        with pytest.raises(ArtifactError, match=r"pytorch_model.bin is a pickle") as error:
            opened("stranger")
        assert "safetensors" in str(error.value.hint)
        write(stranger / "other.safetensors", "x")  # past the first look, transformers must refuse it too
        with pytest.raises(ArtifactError):
            opened("stranger")
    assert not (own_folder / "bombed").exists()


def test_an_adapter_that_is_a_pickle_is_refused(stranger, own_folder):
    write(stranger / "adapter_config.json", json.dumps({"base_model_name_or_path": str(TINY), "peft_type": "LORA"}))
    write(stranger / "adapter_model.bin", pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="is a pickle"):
        opened("stranger")
    assert not (own_folder / "bombed").exists()


@pytest.mark.parametrize("family", ["own", "llama"])
def test_code_of_a_model_directory_is_not_run_and_nobody_is_asked(stranger, own_folder, monkeypatch, family):
    """On a terminal transformers asks, where it is not told: the answer here would be yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for file, entries in {
        "config.json": ("AutoConfig", "AutoModelForCausalLM"),
        "tokenizer_config.json": ("AutoTokenizer",),
    }.items():
        loaded = json.loads((stranger / file).read_text())
        tokenizer = file.startswith("tokenizer")
        loaded["auto_map"] = {name: ["evil.Thing", None] if tokenizer else "evil.Thing" for name in entries}
        if family == "own":
            loaded |= {"tokenizer_class": "Thing"} if tokenizer else {"model_type": "evil", "architectures": ["Thing"]}
        write(stranger / file, json.dumps(loaded))
    write(stranger / "evil.py", "import os\nos.mkdir('bombed')\nclass Thing: ...\n")
    try:
        opened("stranger")
    except ArtifactError:
        assert family == "own"
    assert not (own_folder / "bombed").exists()


def test_a_chat_template_is_rendered_in_a_sandbox(stranger, own_folder):
    from prefcli.data.encoder import Encoder
    from prefcli.models.tokenizers import load_tokenizer
    from prefcli.progress import SILENT

    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.mkdir('bombed') }}"
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = stranger / name
        write(
            file,
            escape if name.endswith("jinja") else json.dumps(json.loads(file.read_text()) | {"chat_template": escape}),
        )
    tokenizer = load_tokenizer(resolve("stranger", Store()), SILENT)
    with pytest.raises(Exception, match="unsafe|undefined|security"):
        Encoder(tokenizer).prompt_ids([{"role": "user", "content": "q"}])
    assert not (own_folder / "bombed").exists()


def test_no_source_file_opens_pickles():
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 200
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "shelve", "joblib", "cloudpickle"}, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.load", "np.load", "numpy.load"), path


def test_no_from_pretrained_is_left_to_ask():
    """Each says trust_remote_code=False, or passes options on that hold it (SAFE); PEFT's configs run nothing."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                call = ast.unparse(node)
                safe = "trust_remote_code=False" in call or "**extra" in call or "**options" in call
                assert safe or ast.unparse(node.func) in (
                    "PeftConfig.from_pretrained", "LoraConfig.from_pretrained", "PeftModel.from_pretrained"
                ), f"{path}: {call}"  # fmt: skip

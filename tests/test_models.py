"""Loading: tokenizers that lack something, heads, adapters; and reward models scoring as plain transformers does."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PAIR, write
from tiny_models import tiny_config, tiny_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig

from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store
from prefcli.data.encoder import Encoder
from prefcli.errors import ArtifactError, UsageError
from prefcli.machine import has_bfloat16
from prefcli.models import bitsandbytes
from prefcli.models.devices import pick_device, pick_dtype, prepare_cpu
from prefcli.models.loading import is_scorer, load_policy, load_scorer
from prefcli.models.positions import positions_of
from prefcli.models.quiet import quiet
from prefcli.models.tokenizers import load_tokenizer, tokenizer_digest
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.sources import Answer, load_reward
from scripts.families import zoo

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
CHAT = [{"role": "user", "content": "Mira keeps the kite in the barn. Where is the kite?"}]
ANSWERS = ["It is in the barn.", "I do not know.", "What a wonderful question! The kite is in the barn, I would say."]


class Notices(Reporter):
    def __init__(self):
        self.said = []

    def notice(self, text):
        self.said.append(text)


@pytest.fixture
def tiny_copy(tmp_path):
    """`tiny` as a directory of the user's, with changes to its tokenizer's config."""

    def make(**changes):
        folder = tmp_path / "copy"
        shutil.copytree(TINY, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.update({name: value for name, value in changes.items() if value is not None})
        for name in [name for name, value in changes.items() if value is None]:
            config.pop(name, None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return make


def test_a_padding_token_that_is_the_end_token_is_replaced_and_said(tiny_copy):
    notices = Notices()
    tokenizer = load_tokenizer(resolve(str(tiny_copy(pad_token="<|end|>")), Store()), notices)
    assert tokenizer.pad_token == "<|pad|>" and "padding" in notices.said[0]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2's kind: 48 positions, and no padding token."""
    return zoo.build("gpt2-short", tmp_path_factory.mktemp("gpt2"))


def test_a_padding_token_that_no_token_can_be_is_added_and_is_not_the_end_token(gpt2):
    notices = Notices()
    reference = resolve(str(gpt2), Store())
    tokenizer = load_tokenizer(reference, notices)
    had = json.loads((gpt2 / "config.json").read_text())["vocab_size"]
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id) and len(tokenizer) == had + 1
    assert any("'<|pad|>' is added for it" in text for text in notices.said)
    one, other = (
        load_policy(reference, **CPU, trainable=True, tokenizer_size=len(tokenizer)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())  # policy and reference are the same
    rows = one["transformer.wte.weight"]
    torch.testing.assert_close(rows[had], rows[:had].mean(0))


def test_tokens_that_stand_for_pictures_are_not_taken_for_padding(tiny_copy):
    folder = tiny_copy(pad_token=None, extra_special_tokens=["<|image_pad|>"])
    tokenizer = load_tokenizer(resolve(str(folder), Store()), SILENT)
    assert tokenizer.pad_token == "<|pad|>"


def test_a_word_that_a_user_added_is_not_taken_for_padding(gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path / "m")
    words = AutoTokenizer.from_pretrained(gpt2)
    words.add_tokens(["iPad"])
    words.save_pretrained(tmp_path / "m")
    assert load_tokenizer(resolve(str(tmp_path / "m"), Store()), SILENT).pad_token == "<|pad|>"


def test_the_end_token_is_trained_where_the_base_pads_with_it(tmp_path):
    config = tiny_config(vocab=32)
    config.pad_token_id = config.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    model = load_policy(resolve(str(tmp_path / "m"), Store()), **CPU, trainable=True)
    model(torch.tensor([[3, config.eos_token_id, 4]])).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad[config.eos_token_id].abs().sum() > 0


@pytest.mark.parametrize(
    ("command", "rows", "fits"),
    [
        (["sft"], {"prompt": "Where?", "completion": "On the shelf. " * 30}, "--max-length 48"),
        (["dpo"], PAIR | {"chosen": "On the shelf. " * 30}, "--max-length 48"),
        (["dpo", "--dry-run"], PAIR | {"chosen": "On the shelf. " * 30}, "--max-length 48"),
        (["kto"], PAIR | {"rejected": "On the shelf. " * 30}, "--max-length 48"),
        (["train-rm"], PAIR | {"prompt": "Where? " * 30}, "--max-length 48"),
        (["ppo", "--reward", "python:r.py:score"], PAIR, "fit into 48: lower --max-prompt-length or --max-new-tokens"),
    ],
)
def test_rows_beyond_the_models_positions_are_refused_before_its_weights_are_loaded(
    gpt2, prefcli, jsonl, monkeypatch, own_folder, command, rows, fits
):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    write(own_folder / "r.py", "def score(prompts, completions):\n    return [0.0] * len(prompts)\n")
    result = prefcli(*command, "--model", gpt2, "--data", jsonl("rows.jsonl", rows, rows))
    assert result.exit_code == 2 and fits in result.stderr and "reads 48" in result.stderr


def test_a_generation_config_that_cannot_be_saved_is_refused_before_training(own_folder, prefcli, jsonl):
    shutil.copytree(TINY, own_folder / "m")
    write(own_folder / "m/generation_config.json", json.dumps({"temperature": 0.0, "eos_token_id": 2}))
    result = prefcli("sft", "--model", "m", "--data", jsonl("rows.jsonl", {"prompt": "Where?", "completion": "There."}))
    assert result.exit_code == 4 and "generation_config.json cannot be written again" in result.stderr, result.stderr


def test_the_positions_of_roberta_begin_after_its_padding_token():
    config = RobertaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=12, pad_token_id=1, is_decoder=True,
    )  # fmt: skip
    model, longest = AutoModelForCausalLM.from_config(config), positions_of(config)
    model(torch.full((1, longest), 3))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 3))


@pytest.mark.parametrize("command", [["dpo"], ["ppo", "--reward", "python:r.py:score", "--max-new-tokens", "8"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_of_a_large_file_a_run_and_its_dry_run_take_the_limit_for_the_longest_row(
    gpt2, prefcli, jsonl, monkeypatch, own_folder, command, dry
):
    monkeypatch.setattr("prefcli.data.records.LARGE", 0)
    write(own_folder / "r.py", "def score(prompts, completions):\n    return [0.0] * len(prompts)\n")
    result = prefcli(*command, *dry, "--model", gpt2, "--data", jsonl("rows.jsonl", PAIR, PAIR))
    assert result.exit_code == 2 and "reads 48" in result.stderr, result.stderr


def test_a_missing_chat_template_is_replaced_and_said(tiny_copy):
    folder = tiny_copy(chat_template=None)
    (folder / "chat_template.jinja").unlink()
    notices = Notices()
    tokenizer = load_tokenizer(resolve(str(folder), Store()), notices)
    assert any("chat template" in text for text in notices.said)
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert rendered == f"\n\nHuman: {CHAT[0]['content']}\n\nAssistant:"


def test_a_tokenizer_without_an_end_token_is_refused(tiny_copy):
    folder = tiny_copy(eos_token=None)
    with pytest.raises(ArtifactError, match="end-of-sequence"):
        load_tokenizer(resolve(str(folder), Store()), SILENT)


def test_a_tokenizer_digest_goes_by_what_turns_text_into_ids():
    first, second = (AutoTokenizer.from_pretrained(TINY) for _ in range(2))
    before = tokenizer_digest(first)
    first(["one", "another, longer"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(first) == before == tokenizer_digest(second)
    second.add_tokens(["barnacle"])
    assert tokenizer_digest(second) != before


def test_a_new_head_depends_on_the_seed_alone():
    reference, tokenizer = resolve("tiny", Store()), AutoTokenizer.from_pretrained(TINY)
    heads = [load_scorer(reference, tokenizer, new_head=True, seed=s, **CPU).score.weight for s in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_language_model_has_no_head_to_score_with():
    with pytest.raises(ArtifactError, match="no reward head"):
        load_scorer(resolve("tiny", Store()), AutoTokenizer.from_pretrained(TINY), **CPU)


def test_weights_that_are_missing_are_an_error_that_names_them(tmp_path):
    from safetensors.torch import load_file, save_file

    model = tiny_lm(vocab=32)
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if "mlp" in name)
    save_file({n: t for n, t in tensors.items() if n != gone}, file, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=gone):
        load_policy(resolve(str(tmp_path / "m"), Store()), trainable=False, **CPU)


def test_reward_models_are_told_from_language_models(chain):
    store = Store(chain.runs)
    assert is_scorer(resolve("rm", store)) and not is_scorer(resolve("sft", store))
    assert is_scorer(resolve(str(chain.path("rm") / "model"), store))  # a plain directory, by its config


def test_a_reward_model_scores_what_plain_transformers_scores(chain):
    """One answer at a time, without padding, through AutoModelForSequenceClassification's own pooling."""
    model = AutoModelForSequenceClassification.from_pretrained(chain.path("rm") / "model")
    tokenizer = AutoTokenizer.from_pretrained(chain.path("rm") / "model")
    expected = []
    for answer in ANSWERS:
        text = tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": answer}], tokenize=False)
        with torch.no_grad():
            expected.append(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item())
    store = Store(chain.runs)
    source = load_reward(parse_rewards(["rm"], store)[0], tokenizer, reporter=SILENT, **CPU)
    assert source.same_ids
    by_text = source.score([Answer(CHAT, answer) for answer in ANSWERS])
    encoder = Encoder(tokenizer)
    by_ids = source.score([Answer(CHAT, a, encoder.prompt_ids(CHAT), encoder.completion_ids(CHAT, a)) for a in ANSWERS])
    assert by_text.tolist() == pytest.approx(expected, abs=1e-4)
    assert by_ids.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_reward_model_with_another_tokenizer_reads_text_and_never_the_policys_ids(chain):
    policy = AutoTokenizer.from_pretrained(TINY)
    policy.add_tokens(["barn"])
    notices = Notices()
    source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], policy, reporter=notices, **CPU)
    assert not source.same_ids and "another tokenizer" in notices.said[-1]
    nonsense = [[1, 2, 3]] * 3
    with_ids = source.score([Answer(CHAT, a, i, i) for a, i in zip(ANSWERS, nonsense)])
    assert torch.equal(with_ids, source.score([Answer(CHAT, a) for a in ANSWERS]))


def test_devices_and_dtypes():
    assert pick_device("cpu").type == "cpu"
    assert pick_dtype("auto", torch.device("cpu"), 10**9) == torch.float32
    for name in ("warp", "cuda:99"):
        with pytest.raises(UsageError, match="--device"):
            pick_device(name)


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    """torch's own answer, for a V100 beside an H100."""
    current = [0]

    @contextmanager
    def on(device):
        current.append(device.index)
        yield
        current.pop()

    fakes = {
        "is_available": lambda: True,
        "device": on,
        "current_device": lambda: current[-1],
        "get_device_properties": lambda index: SimpleNamespace(major=(7, 9)[index]),
        "_check_bf16_tensor_supported": lambda index: True,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    found = [pick_dtype("auto", torch.device("cuda", index)) for index in (0, 1)]
    assert found == [torch.float32, torch.bfloat16]


def test_a_processor_with_bfloat16_computes_large_models_in_it(monkeypatch):
    monkeypatch.setattr("prefcli.memory.devices.has_bfloat16", lambda: True)
    cpu = torch.device("cpu")
    found = [pick_dtype("auto", cpu, parameters) for parameters in (0, 600_000, 20_000_000)]
    assert found == [torch.float32, torch.float32, torch.bfloat16]
    assert pick_dtype("float32", cpu, 10**9) == torch.float32


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("processor : 0\nflags\t\t: fpu avx2\nbugs : bf16\n", False),
        (None, False),
    ],
    ids=["AVX512-BF16", "AMX", "ARM", "AVX2", "no such file"],
)
def test_what_the_processor_says_of_bfloat16(cpuinfo, expected, monkeypatch):
    def read(path):
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read)
    assert has_bfloat16.__wrapped__() is expected


@pytest.mark.parametrize("thrifty", [False, True])
def test_the_allocator_keeps_freed_memory_or_maps_large_tensors_for_themselves(monkeypatch, thrifty):
    told = {}
    monkeypatch.setattr(
        "ctypes.CDLL", lambda _: SimpleNamespace(mallopt=lambda parameter, value: told.update({parameter: value}))
    )
    prepare_cpu(thrifty)
    assert told[-1] == 2**31 - 1  # M_TRIM_THRESHOLD: never give memory back
    assert told[-3] == (2**20 if thrifty else 2**31 - 1)  # M_MMAP_THRESHOLD
    assert all(value < 2**31 for value in told.values())  # an int in C


def test_gradient_checkpointing_is_what_asks_for_a_thrifty_allocator(chain, prefcli, monkeypatch):
    asked = []
    monkeypatch.setattr("prefcli.stages.session.prepare_cpu", lambda thrifty: asked.append(thrifty))
    prefcli(*chain.args("sft"), "--force", "--max-steps", "1")
    prefcli(*chain.args("sft"), "--force", "--max-steps", "1", "--gradient-checkpointing")
    assert asked == [False, True]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_prompts_that_are_all_too_long_name_the_option_that_leaves_them_out(prefcli, jsonl, own_folder, dry):
    write(own_folder / "r.py", "def score(prompts, completions):\n    return [0.0] * len(prompts)\n")
    words = ["--reward", "python:r.py:score", "--model", "tiny", "--max-prompt-length", "2"]
    result = prefcli("ppo", *words, *dry, "--data", jsonl("rows.jsonl", PAIR, PAIR))
    assert result.exit_code == 3 and "all 2 prompts are longer than --max-prompt-length 2" in result.stderr


def test_a_function_in_somebodys_process_leaves_bitsandbytes_and_the_last_handler_as_they_were(monkeypatch):
    from peft.import_utils import is_bnb_available

    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(logging.lastResort, "filters", [])
    there = bitsandbytes.installed()
    with quiet():
        with quiet():  # one that is called by another
            pass
        assert sys.modules["bitsandbytes"] is None and not is_bnb_available() and logging.lastResort.filters
    assert "bitsandbytes" not in sys.modules and is_bnb_available() == there and not logging.lastResort.filters
    is_bnb_available.cache_clear()

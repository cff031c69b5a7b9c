"""`prefcli mem-estimate`: what it prints, what it draws, how it fails, and what it must not import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

import prefcli
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.store import Store
from prefcli.cli.mem_estimate import run
from prefcli.config.memory import MemoryConfig
from prefcli.errors import ArtifactError, SurroundingsError, UsageError
from prefcli.memory.answer import answer

LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Each test in a folder of its own, with no artifacts, a terminal of 80 columns and no GPU."""
    monkeypatch.setattr("prefcli.memory.answer.found_gpu", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFCLI_RUNS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def fresh_process(code, *args, **environment):
    """Run `code` in a Python of its own; returns its stdout and stderr as bytes."""
    path = os.pathsep.join([str(Path(prefcli.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, env=environment)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout, ended.stderr


def output(capsys, **options):
    run(MemoryConfig(**options))
    return capsys.readouterr().out


def test_text_tells_the_whole_comparison(capsys):
    # States of 2.52 TB over GPUs of which 77 GB are usable, in lockstep: gathered whole 70B are 140 GB.
    assert "39 for PPO and 20 for DPO" in " ".join(output(capsys, params="70B").split())
    one = " ".join(output(capsys, params="70B", stage="ppo").split())
    assert "There rollouts gather one layer after the other" in one and " --shard There" in one
    assert "No number of them holds PPO or DPO" in " ".join(output(capsys, params="400B").split())
    text = output(capsys, params="7B")
    for part in (
        "PPO  4 models, 28B parameters in all",
        "DPO  2 models, 14B parameters in all",
        "saves 50% of the parameters",
        "GPUs    4 for PPO and 2 for DPO (A100-80GB",
        "252 GB",
        "126 GB",
        "16 bytes",
        "optimizer",
        "calculated",
    ):
        assert part in text
    bars = [line for line in text.splitlines() if "1×" in line]
    assert len(bars) == 6
    assert sum("trained" in line and "█" in line for line in bars) == 3
    assert sum("frozen" in line and "░" in line for line in bars) == 3


def test_text_fits_eighty_columns_without_colour(capsys):
    for params in ("7B", "125M", "1e14", "1000"):
        text = output(capsys, params=params)
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text


def test_text_of_a_terminal_that_has_ascii_only():
    code = (
        "from prefcli.cli.mem_estimate import run; from prefcli.config.memory import MemoryConfig;"
        "run(MemoryConfig(params='7B'))"
    )
    shown, _ = fresh_process(code, PYTHONIOENCODING="ascii")
    assert "policy    ####" in shown.decode("ascii")


def test_json_is_one_object_and_nothing_else(capsys):
    found = json.loads(output(capsys, params="7B", json=True))
    assert found["saving"] == 0.5
    assert {name: method["gpus"] for name, method in found["methods"].items()} == {"ppo": 4, "dpo": 2}
    assert found["methods"]["ppo"]["params_equivalent"] == 28_000_000_000
    assert found["assumptions"]["architecture"]["typical_of_the_size"] is True
    assert found["assumptions"]["master_weights"] is False  # trained weights are float32 themselves


def test_every_option_reaches_the_estimate(capsys):
    found = json.loads(
        output(capsys, params="7B", gpu="t4", batch_size=3, max_length=100, gradient_checkpointing=False, json=True)
    )["assumptions"]
    assert (found["batch_size"], found["max_length"], found["gradient_checkpointing"]) == (3, 100, False)
    assert found["gpu"]["name"] == "T4-16GB"


def test_model_from_disk_is_counted_exactly(capsys, tmp_path):
    folder = tmp_path / "here" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for name in ("here", "here/model", "here/model/config.json", str(folder)):
        found = json.loads(output(capsys, model=name, json=True))
        # 2·97·24 embeddings; 3 layers of 2·24·(24+8) attention, 3·24·40 MLP and 2·24 norms; 24 last norm
        assert found["assumptions"]["params"] == 2 * 97 * 24 + 3 * (2 * 24 * 32 + 3 * 24 * 40 + 48) + 24
        assert found["assumptions"]["architecture"]["typical_of_the_size"] is False
    assert not (tmp_path / "runs").exists()


def test_model_by_the_name_of_an_artifact(capsys, tmp_path):
    store = Store(tmp_path / "elsewhere")
    for layers in (3, 5):
        with store.writer("sft") as draft:
            (draft.path / "model").mkdir()
            (draft.path / "model" / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": layers}))
            draft.finish(Manifest("sft", "sft", draft.version, "2025-01-01T00:00:00Z", "key"))
    for name, layers in (("sft", 5), ("sft@v1", 3), ("elsewhere/sft/v1", 3)):
        found = json.loads(output(capsys, model=name, runs="elsewhere", json=True))
        assert found["assumptions"]["architecture"]["layers"] == layers


@pytest.mark.parametrize("params", ["banana", "-3", "0", "nan", "1e30", ""])
def test_bad_sizes_are_usage_errors(params):
    with pytest.raises(UsageError):
        run(MemoryConfig(params=params))


@pytest.mark.parametrize("options", [{}, {"params": "7B", "model": "tiny"}])
def test_exactly_one_of_params_and_model(options):
    with pytest.raises(UsageError, match="either --params or --model"):
        run(MemoryConfig(**options))


@pytest.mark.parametrize("model", ["nothing", "no/such/config.json", "sft@v3", "x.gguf", "x.bin/", ""])
def test_a_model_that_is_not_there_is_an_artifact_error(model):
    with pytest.raises(ArtifactError) as raised:
        run(MemoryConfig(model=model))
    assert raised.value.hint


def test_unknown_gpu_and_absurd_lengths_are_usage_errors():
    with pytest.raises(UsageError, match="--gpu A100-90GB"):
        run(MemoryConfig(params="7B", gpu="A100-90GB"))
    with pytest.raises(UsageError, match="--max-length"):
        run(MemoryConfig(params="7B", max_length=10**400))


@pytest.mark.parametrize("plot", ["x.pdf", "x", "missing/x.png", ""])
def test_bad_plot_paths_are_usage_errors(plot):
    with pytest.raises(UsageError, match="--plot"):
        run(MemoryConfig(params="7B", plot=plot))


def test_plot_is_a_png_with_something_in_it(capsys, tmp_path):
    assert "wrote" not in output(capsys, params="7B", plot="memory.png")
    data = (tmp_path / "memory.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    image = pytest.importorskip("matplotlib.image").imread(tmp_path / "memory.png")
    blue = (abs(image[..., :3] - [0, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.01).mean()
    assert image.shape[1] >= 1000 and 0.1 < blue < 0.6


def test_plot_is_an_svg(capsys, tmp_path):
    output(capsys, params="7B", plot="memory.svg")
    assert xml.etree.ElementTree.parse(tmp_path / "memory.svg").getroot().tag.endswith("svg")


def test_neither_torch_nor_transformers_nor_numpy_nor_matplotlib_is_imported():
    code = (
        "import sys; from prefcli.cli.mem_estimate import run; from prefcli.config.memory import MemoryConfig;"
        "run(MemoryConfig(params='7B'));"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])), file=sys.stderr)"
    )
    heavy = ["torch", "transformers", "trl", "numpy", "matplotlib", "accelerate", "datasets"]
    shown, imported = fresh_process(code, *heavy)
    assert imported.decode().strip() == "[]"
    assert b"28B" in shown


def test_the_page_shows_what_the_command_prints(capsys):
    page = (Path(prefcli.__file__).parent.parent / "docs" / "memory.md").read_text(encoding="utf-8")
    shown = [block.partition("\n```")[0] for block in page.split("```text\n")[1:]]
    asked = ({}, {"compare": True, "gpu": "H100"}, {"params": "8B", "stage": "dpo", "gpu": "RTX4090"})
    printed = [output(capsys, **{"params": "7B"} | options) for options in asked]
    assert shown == ["\n".join(line.rstrip() for line in text.rstrip().splitlines()) for text in printed]


def test_one_stage_is_answered_with_its_parts_and_what_would_make_it_fit(capsys):
    text = output(capsys, params="8B", stage="dpo", gpu="rtx4090")
    for part in ("policy", "reference", "gradients", "Phases:", "does not fit", "--lora-rank 16",
                 "Run: prefcli dpo --model MODEL --data pairs.jsonl --tokens-per-row 2048"):  # fmt: skip
        assert part in text, part
    fits = output(capsys, params="8B", stage="sft", gpu="H100", lora_rank=8, tokens_per_row=1024)
    assert ": fits (" in fits and "Largest --max-length that fits:" in fits
    assert max(map(len, text.splitlines() + fits.splitlines())) <= 80


def test_compare_shows_every_method_and_draws_it(capsys, tmp_path):
    text = output(capsys, params="7B", compare=True, gpu="H100", plot="all.svg")
    for part in (
        "PPO separate",
        "PPO shared, LoRA 16",
        "RLOO",
        "DPO, cached reference",
        "KTO",
        "SFT",
        "4 models against 2",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
    assert xml.etree.ElementTree.parse(tmp_path / "all.svg").getroot().tag.endswith("svg")
    found = json.loads(output(capsys, params="7B", compare=True, gpu="H100", json=True))["methods"]
    assert [found[name]["gpus"] for name in ("PPO separate", "DPO", "KTO")] == [4, 2, 2]
    assert found["PPO shared, LoRA 16"]["command"].endswith(
        "--reward rm --lora-rank 16 --layout shared --tokens-per-row 565"
    )
    assert found["SFT"]["bytes"] == sum(found["SFT"]["parts"].values())


def test_compare_and_stage_say_the_same_of_one_run(capsys):
    about = {"params": "7B", "batch_size": 8, "gpu": "H100", "json": True}
    every = json.loads(output(capsys, compare=True, **about))["methods"]
    for name, stage in (("DPO", "dpo"), ("KTO", "kto"), ("SFT", "sft"), ("PPO separate", "ppo")):
        one = json.loads(output(capsys, stage=stage, **about))["methods"][stage]
        assert every[name] == one


def test_the_comparison_of_the_routes_takes_no_option_of_one_stage():
    for more in ({"lora_rank": 16}, {"dtype": "float32"}, {"shard": 2}, {"packed": False}):
        with pytest.raises(UsageError, match="all weights of both"):
            run(MemoryConfig(params="7B", **more))


def test_the_command_that_is_shown_is_what_was_estimated(capsys):
    """Given back as options, the command's own fit: no further change is named."""
    for stage, gpu in (("ppo", "RTX4090"), ("dpo", "16GB"), ("sft", "RTX4090"), ("kto", "RTX4090"), ("orpo", "L4")):
        found = json.loads(output(capsys, params="7B", stage=stage, gpu=gpu, json=True))["methods"][stage]
        assert not found["fits"] and found["command"].startswith(f"prefcli {stage} --model MODEL")
        words = found["command"].split()
        config = typed(MemoryConfig, words[words.index("MODEL") + 1 :])
        again = json.loads(output(capsys, params="7B", stage=stage, gpu=gpu, json=True, **config))["methods"][stage]
        assert again["fits"] and again["bytes"] == found["changes"][-1]["bytes"]


@pytest.mark.parametrize(
    ("stage", "option", "shown"),
    [("dpo", {"batch_size": 1}, "--batch-size 1"), ("dpo", {"lora_rank": 1}, "--lora-rank 1"),
     ("ppo", {"num_generations": 1}, "--num-generations 1"), ("dpo", {"packed": False}, "--no-packed")],
)  # fmt: skip
def test_an_option_of_one_keeps_its_value_in_the_command(capsys, stage, option, shown):
    found = json.loads(output(capsys, params="1B", stage=stage, gpu="H100", json=True, **option))["methods"][stage]
    assert f" {shown} --" in f"{found['command']} --"


def typed(config, words):
    """The options of a command line that this config has too, as its values."""
    found = {}
    for word, value in zip(words, [*words[1:], "--"]):
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--") and hasattr(config, name):
            found[name] = True if value.startswith("--") else int(value) if value.isdigit() else value
    return found


@pytest.mark.parametrize(
    ("changed", "part"),
    [({"lora_rank": 4}, "optimizer"), ({"load_in_4bit": True}, "weights"),
     ({"dtype": "float32"}, "activations"), ({"optim": "sgd"}, "optimizer"), ({"max_length": 9000}, "activations"),
     ({"batch_size": 3}, "activations"), ({"gradient_checkpointing": True}, "activations"),
     ({"shard": 4}, "weights"), ({"stage": "sft"}, "weights"), ({"prompt_length": 1000}, "activations")],
)  # fmt: skip
def test_every_option_reaches_the_estimate_of_a_stage(capsys, changed, part):
    asked = {"params": "1B", "stage": "dpo", "lora_rank": 8, "gpu": "H100", "json": True}
    plain, other = (json.loads(output(capsys, **asked | more))["methods"] for more in ({}, changed))
    assert next(iter(plain.values()))["parts"][part] != next(iter(other.values()))["parts"][part]


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_4bit": True},
        {"layout": "shared", "stage": "ppo"},
        {"prompt_length": 4096, "max_length": 2048},
        {"shard": 2, "lora_rank": 8, "load_in_4bit": True},
        {"shard": 2, "optim": "adamw-8bit"},
        {"shard": 2, "dtype": "float16"},
        {"probe": True},
        {"advantage": "rloo"},
        {"num_generations": 4},
        {"layout": "separate"},
        {"stage": "sft", "max_length": 4},
        {"stage": "ppo", "max_length": 1},
        {"stage": "ppo", "max_length": 512, "prompt_length": 512},
        {"stage": None, "compare": True, "advantage": "rloo"},
    ],
)
def test_what_does_not_go_together_is_refused(options):
    with pytest.raises(UsageError):
        run(MemoryConfig(**{"params": "7B", "stage": "dpo"} | options))


def method(capsys, stage, **options):
    return json.loads(output(capsys, stage=stage, json=True, **options))["methods"][stage]


def test_a_layout_that_was_asked_for_stays_until_an_option_changes_it(capsys):
    """The command's own options, asked again, say the bytes that were promised."""
    found = method(capsys, "ppo", params="7B", layout="separate", gpu="H100")
    assert found["command"].count("--layout") == 1 and "--layout shared" in found["command"]
    words = found["command"].split()
    again = method(capsys, "ppo", params="7B", gpu="H100", **typed(MemoryConfig, words[words.index("rm") + 1 :]))
    assert again["fits"] and again["bytes"] == found["changes"][-1]["bytes"]


def test_what_a_command_changes_is_named_once(capsys):
    words = method(capsys, "dpo", params="7B", gpu="RTX4090", tokens_per_row=9000, optim="adamw-8bit")[
        "command"
    ].split()
    names = [word for word in words if word.startswith("--")]
    assert "--tokens-per-row" in names and len(names) == len(set(names))


def test_a_batch_is_one_that_the_stage_can_share_out(capsys):
    """Over --shard's GPUs, in whole prompts of answers, two rows for kto: rounded up where nobody chose it."""
    assert "--batch-size 18" in method(capsys, "dpo", params="1B", gpu="H100", shard=3)["command"]
    for stage, more, needed in (
        ("dpo", {"shard": 3, "batch_size": 16}, "a multiple of 3 (3 GPUs)"),
        ("kto", {"batch_size": 1}, "at least 2 rows on each GPU"),
        ("ppo", {"batch_size": 1}, "at least 2 answers per rollout"),
        ("ppo", {"batch_size": 6, "num_generations": 4}, "a multiple of 4 (4 answers per prompt)"),
        ("ppo", {"batch_size": 6, "num_generations": 4, "shard": 2}, "a multiple of 8 (2 GPUs × 4 answers per prompt)"),
    ):
        with pytest.raises(UsageError, match=f"--batch-size {more['batch_size']}: {stage} needs {re.escape(needed)}$"):
            run(MemoryConfig(params="1B", stage=stage, **more))
    run(MemoryConfig(params="1B", compare=True, batch_size=6, json=True))
    shown, told = capsys.readouterr()
    assert told == "note: RLOO: --batch-size 6 is rounded up to 8\n"
    assert "--batch-size 8" in json.loads(shown)["methods"]["RLOO"]["command"]
    large = output(capsys, stage="kto", params="70B", gpu="H100").split()
    gpus, rows = (int(large[large.index(word) + 1]) for word in ("--nproc-per-node", "--batch-size"))
    assert rows >= 2 * gpus and rows % gpus == 0
    padded = method(capsys, "kto", packed=False, lora_rank=16, params="1B", gpu="8GB")["command"]
    assert "--grad-accum 8" in padded


def test_over_several_gpus_the_largest_batch_is_that_of_all(capsys):
    asked = {"params": "7B", "gpu": "H100", "packed": False}
    found = method(capsys, "ppo", lora_rank=16, num_generations=4, shard=4, **asked)
    most = found["largest_batch_size"]
    assert most > 16 and most % 16 == 0 and found["gpus"] == 4
    fits = [method(capsys, "ppo", lora_rank=16, num_generations=4, shard=4, batch_size=size, **asked)["fits"]
            for size in (most, most + 16)]  # fmt: skip
    assert fits == [True, False]
    too_few = method(capsys, "dpo", params="70B", gpu="H100", shard=4)
    assert too_few["gpus"] is None and not too_few["fits"]
    shown = output(capsys, params="13B", compare=True, gpu="H100", shard=4)
    assert " GPUs" not in shown.partition("PPO separate: ")[0]


def test_a_prompt_and_an_answer_of_ppo_are_as_long_as_was_said():
    def lengths(**asked):
        (found,) = answer(MemoryConfig(params="1B", stage="ppo", gpu="H100", **asked))
        return found.run.shared_prompt, found.run.max_length

    assert lengths() == (512, 565) and lengths(prompt_length=100) == (100, 153)
    assert lengths(prompt_length=0) == (1, 53)  # it samples answers to something
    assert lengths(max_length=2) == (1, 2) and lengths(max_length=512, prompt_length=511) == (511, 512)


def test_in_the_comparison_both_kinds_of_ppo_have_the_answers_that_were_asked_for(capsys):
    found = json.loads(output(capsys, params="1B", compare=True, num_generations=8, gpu="H100", json=True))["methods"]
    assert all("--num-generations 8" in found[name]["command"] for name in ("PPO separate", "RLOO"))
    found = json.loads(output(capsys, params="1B", compare=True, num_generations=1, gpu="H100", json=True))["methods"]
    assert "--num-generations 4" in found["RLOO"]["command"]  # which compares several


def test_what_only_several_gpus_hold_is_shown_with_its_command(capsys):
    """405B with adapters in 4 bits are more than an H100 has."""
    asked = {"params": "405B", "gpu": "H100", "compare": True}
    found = json.loads(output(capsys, **asked, json=True))["methods"]["SFT"]
    assert found["changes"] is None and found["gpus"] > 1
    assert found["command"].startswith(f"torchrun --nproc-per-node {found['gpus']} -m prefcli sft ")
    assert found["command"] in " ".join(output(capsys, **asked).split())


def test_a_cached_reference_needs_a_run_before_it(capsys):
    shown = " ".join(output(capsys, params="7B", compare=True, gpu="H100").split())
    assert "DPO, cached reference: after a run on the same pairs, prefcli dpo" in shown
    command = shown.partition("after a run on the same pairs, ")[2].partition(" (")[0]
    assert "--force-memory" in command and shown.count("--force-memory") == 1


def test_a_length_beyond_learned_positions_is_cut(capsys, tmp_path):
    config = {"model_type": "gpt2", "vocab_size": 99, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
    (tmp_path / "gpt2.json").write_text(json.dumps(config))
    long, short = (method(capsys, "dpo", model="gpt2.json", max_length=length, prompt_length=prompt, gpu="H100")
                   for length, prompt in ((200, 150), (64, 64)))  # fmt: skip
    assert long["bytes"] == short["bytes"]
    both = [json.loads(output(capsys, model="gpt2.json", max_length=length, json=True)) for length in (64, 200)]
    assert both[0]["methods"] == both[1]["methods"]


def test_on_a_cpu_both_answers_compute_in_what_a_run_does(capsys, monkeypatch):
    monkeypatch.setattr("prefcli.memory.devices.has_bfloat16", lambda: True)
    for size, dtype in (("1B", "bfloat16"), ("1M", "float32")):
        routes = json.loads(output(capsys, params=size, gpu="cpu 64GB", json=True))
        assert routes["assumptions"]["dtype"] == dtype
        weights = method(capsys, "dpo", params=size, gpu="cpu 64GB")["roles"]["reference"]["parts"]["weights"]
        assert weights == routes["methods"]["dpo"]["roles"]["reference"]["parts"]["weights"]


def test_a_hub_id_that_was_downloaded_is_read_from_the_cache(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model" / "snapshots" / "0abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for name in ("some/model", "some/model@0abc"):
        assert json.loads(output(capsys, model=name, json=True))["assumptions"]["architecture"]["layers"] == 3
    with pytest.raises(SurroundingsError, match="some/model@1abc is not on this machine, and HF_HUB_OFFLINE is set"):
        run(MemoryConfig(model="some/model@1abc"))

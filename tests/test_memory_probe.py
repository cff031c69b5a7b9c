"""`prefcli mem-estimate --probe`: the step that is run is the one that is counted, in every stage."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store
from prefcli.cli import mem_probe
from prefcli.cli.main import COMMANDS
from prefcli.cli.mem_estimate import run
from prefcli.config.memory import MemoryConfig
from prefcli.config.stages import BY_COMMAND
from prefcli.data.encoder import Encoder
from prefcli.errors import ArtifactError, DataError, MemoryShortError, PrefcliError, SurroundingsError, UsageError
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT


@pytest.mark.parametrize("stage", sorted(BY_COMMAND))
def test_every_stage_reads_the_options_of_its_probe(stage, prefcli, tmp_path, monkeypatch):
    """With its own defaults, as the estimate: ppo's advantages are not named, kto has more than one row."""
    seen, tiny = [], resolve("tiny", Store(None))
    monkeypatch.setattr(f"prefcli.cli.{COMMANDS[stage][0]}.run", seen.append)
    result = prefcli(stage, *mem_probe._words(MemoryConfig(model="tiny", stage=stage, dtype="float32"), tiny, tmp_path))
    assert result.exit_code == 0, result.stderr
    own, found = BY_COMMAND[stage].config(), seen[0]
    lengths = ("max_prompt_length", "max_new_tokens") if stage == "ppo" else ("max_length",)
    for name in ("batch_size", "lora_rank", *lengths):
        assert getattr(found, name) == getattr(own, name)
    assert found.dtype == "float32" and found.max_steps == 1
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(rows) == own.batch_size
    if stage == "ppo":  # prompts as long as its rollout is counted with
        ids = Encoder(load_tokenizer(tiny, SILENT)).prompt_ids
        assert {len(ids(json.loads(row)["prompt"])) for row in rows} == {own.max_prompt_length}


def test_a_probes_length_ends_where_the_models_positions_do(tmp_path):
    config = json.loads((TINY / "config.json").read_text()) | {"max_position_embeddings": 40}
    shutil.copytree(TINY, tmp_path / "short")
    (tmp_path / "short" / "config.json").write_text(json.dumps(config))
    short = resolve(str(tmp_path / "short"), Store(None))
    for stage, shown in (("dpo", "--max-length 40"), ("ppo", "--max-prompt-length 1 --max-new-tokens 39")):
        assert shown in " ".join(mem_probe._words(MemoryConfig(model="x", stage=stage), short, tmp_path))


@pytest.mark.parametrize(("template", "words", "tokens"), [(0, 1, 1), (30, 1, 1), (3, 1, 2), (7, 4, 1), (3, 5, 2)])
def test_a_probes_prompt_is_as_long_as_it_can_be_and_made_in_a_few_tries(template, words, tokens):
    """Whatever the tokens of a template, and of so many words."""
    asked = []

    def prompt_ids(text):
        asked.append(text)
        return [0] * (template + -(-len(text.split()) * tokens // words))

    for most in (31, 32, 512, 4096):
        asked.clear()
        found = mem_probe._filling(7, most, SimpleNamespace(prompt_ids=prompt_ids))
        taken = len(asked)
        assert len(prompt_ids(found)) <= most < len(prompt_ids(found + " a")) and taken < 16


def test_a_probe_runs_and_what_it_cannot_measure_is_refused(prefcli, monkeypatch, capsys):
    def at_once(command, **_):
        done = prefcli(*command[3:])
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    monkeypatch.setattr("prefcli.cli.mem_probe.subprocess.run", at_once)
    asked = {"model": "tiny", "stage": "ppo", "probe": True, "batch_size": 2, "max_length": 64, "json": True}
    run(MemoryConfig(**asked))
    found = json.loads(capsys.readouterr().out)
    assert found["measured_peak_bytes"] > 0 and found["predicted_peak_bytes"] > 0
    for more in ({"gpu": "H100"}, {"shard": 2}):
        with pytest.raises(UsageError, match="on this machine, in one process"):
            run(MemoryConfig(**asked | more))
    with pytest.raises(UsageError, match="--params is a size alone"):
        run(MemoryConfig(**asked | {"params": "7B"}))


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1, PrefcliError), (2, UsageError), (3, DataError), (4, ArtifactError), (5, MemoryShortError),
     (7, SurroundingsError), (130, SurroundingsError), (-9, SurroundingsError)],
)  # fmt: skip
def test_a_step_that_failed_keeps_its_exit_code(monkeypatch, code, kind):
    done = SimpleNamespace(returncode=code, stdout="", stderr="error: so it is\n")
    monkeypatch.setattr("prefcli.cli.mem_probe.subprocess.run", lambda *_, **__: done)
    monkeypatch.setattr("prefcli.cli.mem_probe._words", lambda *_: [])
    with pytest.raises(PrefcliError, match="the step failed: so it is") as error:
        run(MemoryConfig(model="tiny", stage="dpo", probe=True))
    assert type(error.value) is kind

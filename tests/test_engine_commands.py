"""--generate in the commands: ppo that resumes elsewhere, sample, eval, chat and sweep by a server's answers."""

from __future__ import annotations

import json

import pytest
import torch
from fake_vllm import FakeVLLM
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from prefcli.cli.main import app
from prefcli.errors import UsageError
from prefcli.evaluation.served import check
from prefcli.models import engine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(engine, "BACKOFF", 0.02)
    monkeypatch.setattr(engine, "DRAWN", 4)


@pytest.fixture
def base(chain):
    """The model that the server is started with, and its tokenizer."""
    path = chain.path("sft") / "model"
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)


def url_of(server):
    return f"{server.url}#timeout=60"


def metrics_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("options", [(), ("--lora-rank", "4")], ids=["all weights", "adapter"])
def test_ppo_by_a_server_is_proven_at_every_update_and_leaves_nothing_behind(chain, prefcli, base, options):
    with FakeVLLM(*base) as server:
        args = [*chain.args("ppo"), *options, "--generate", url_of(server), "--name", "served"]
        path = chain.path_of(prefcli(*args))
        assert server.seen.count("/v1/load_lora_adapter" if options else "/collective_rpc") == 2
        assert server.prompts == 2 * (8 + 3 + 3)  # two rollouts, each after a probe
        asked = len(server.seen)
        assert chain.path_of(prefcli(*args)) == path and len(server.seen) == asked  # it is there
        assert chain.path_of(prefcli(*chain.args("ppo"), *options, "--name", "served")) != path  # drawn otherwise
        assert not server.adapters
    for row in metrics_of(path):
        assert row["sampling/kl"] < 1e-6 and abs(row["sampling/ratio_mean"] - 1) < 1e-3
    assert not (path / "weights").exists()
    assert json.loads((path / "manifest.json").read_text())["config"]["importance_weights"] == "token"


def test_a_run_whose_server_died_keeps_its_state_and_resumes_with_another(chain, prefcli, base, monkeypatch):
    be_patient = engine.Engine._be_patient

    def impatient(self, failed):
        self._servers[0].timeout = 0.3
        be_patient(self, failed)

    monkeypatch.setattr(engine.Engine, "_be_patient", impatient)
    args = [*chain.args("ppo"), "--lora-rank", "4", "--max-steps", "3", "--name", "served"]
    with FakeVLLM(*base) as server:
        server.faults["once"] = ["slow", "slow"]  # two rollouts, then
        complete = server.complete

        def dying(body):
            if not server.faults["once"] and body["temperature"] != 2 and "prompt_logprobs" not in body:
                server.faults["dead"] = True
            return complete(body)

        server.complete = dying
        failed = prefcli(*args, "--generate", url_of(server))
    assert failed.exit_code == 7 and "kept up to step" in failed.stderr and "same command resumes" in failed.stderr
    with FakeVLLM(*base) as server:
        done = prefcli(*args, "--generate", url_of(server))
        assert "resuming from step" in done.stderr
        path = chain.path_of(done)
    assert [row["step"] for row in metrics_of(path)] == [1, 2, 3]


def test_a_server_with_another_model_ends_ppo_before_it_trains(chain, prefcli, base):
    other = base[0]
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(0.1 * torch.randn_like(other.get_input_embeddings().weight))
    with FakeVLLM(*base, **{"no dev": True}) as server:
        failed = prefcli(*chain.args("ppo"), "--generate", url_of(server), "--name", "served")
    assert failed.exit_code == 7 and "other weights" in failed.stderr and "Traceback" not in failed.stderr


def test_sample_eval_and_sweep_take_a_servers_answers(chain, prefcli, base):
    few = ["--max-new-tokens", "6", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "3"]
    adapted = chain.extra("dpo", "--lora-rank", "4", "--lr", "0.01", "--name", "adapted")
    with FakeVLLM(*base) as server:
        url = url_of(server)
        rows = prefcli("sample", "--model", str(adapted), *few, "--num-generations", "2", "--generate", url)
        assert rows.exit_code == 0, rows.stderr
        assert len(rows.stdout.splitlines()) <= 6 and server.prompts == 6 + 6  # the probe's, and two to each prompt
        assert server.seen.count("/v1/load_lora_adapter") == 1 and not server.adapters
        judged = prefcli("eval", "--against", "sft", "--model", str(adapted), *few, "--generate", url, "--json")
        assert judged.exit_code == 0, judged.stderr
        assert [entry["ref"] for entry in json.loads(judged.stdout)["models"]] == ["sft@v1", "adapted@v1"]
        assert not (chain.runs / ".cache" / "weights").exists()
        gold = f"python:{chain.sample_data / 'gold.py'}:score"
        before = server.prompts
        swept = prefcli(
            "sweep", "ppo", "--model", "sft@v1", "--reward", gold, "--data", chain.data("prompts"), "--lora-rank", "4",
            "--max-steps", "1", "--batch-size", "4", "--max-new-tokens", "6", "--generate", url, "--grid", "lr=0.001",
            "--score", f"gold={gold}", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "3", "--json",
        )  # fmt: skip
        assert swept.exit_code == 0, swept.stderr
        assert server.prompts - before == (6 + 4) + (6 + 3)  # one rollout, and its score
        with pytest.raises(UsageError, match="--generate works in one process"):
            check(url, processes=2)


def test_chat_prints_a_servers_answer(chain, prefcli, base):
    with FakeVLLM(*base) as server:
        args = ["chat", "sft", "--generate", url_of(server), "--max-new-tokens", "6", "-q"]
        found = CliRunner().invoke(app, args, input="Where is the kite?\n")
        assert found.exit_code == 0 and found.stdout.strip(), found.stderr
        assert server.prompts == 6 + 1
        two = prefcli("chat", "sft", "ppo", "--generate", url_of(server))
    assert two.exit_code == 2 and "one model at a time" in two.stderr

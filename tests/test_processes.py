"""Two processes on a CPU, holding the model whole or split, end where one does; and so do four that split it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from chain import Chain
from safetensors.torch import load_file
from typer.testing import CliRunner

from prefcli.cli.main import app

FORK = multiprocessing.get_context("fork")


def together(args: list[str], processes: int, env: dict[str, str]) -> list[Any]:
    """What each of several processes says to one command: forked from this one, which has imported everything, with
    the variables that torchrun sets. (tests/test_signals.py and test_sharded.py start the launchers.)

    Each command has processes of its own, as a user's has. Of eight on split weights in one interpreter glibc ended one
    now and then, in the seventh ("malloc(): unaligned fastbin chunk detected"); why was not found.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = FORK.Queue()
    ranks = [FORK.Process(target=_rank, args=(args, rank, processes, port, env, found)) for rank in range(processes)]
    for rank in ranks:
        rank.start()
    try:
        said = dict(found.get(timeout=240) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(30)
            rank.kill()
    return [said[rank] for rank in range(processes)]


def _rank(args: list[str], rank: int, processes: int, port: int, env: dict[str, str], found: Any) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    more = {name: str(value) for name, value in (place | {"MASTER_PORT": port}).items()}
    more |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    result = CliRunner().invoke(app, args, env=env | more)
    found.put((rank, (result.exit_code, result.stdout, result.stderr)))
    found.close()
    found.join_thread()
    os._exit(0)


def instead(command: list[str], of: str, by: str) -> list[str]:
    return [by if word == of else word for word in command]


class One:
    """The commands of all stages, and what each makes in one process."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        few, demos = chain.folder / "five.jsonl", chain.folder / "demos5.jsonl"  # they do not fill a batch of each
        few.write_text("".join(open(chain.data("held_out_pairs")).readlines()[:5]))
        demos.write_text("".join(open(chain.data("demos")).readlines()[-5:]))
        steps, at_the_end = ["--max-steps", "3"], ["--eval-every", "3"]
        # Few tokens a pass: processes have different numbers of passes to make.
        pairs = [*steps, "--eval-data", str(few), *at_the_end, "--tokens-per-row", "100"]
        dpo = [*chain.args("dpo"), *pairs]
        # Not seed 0: there a draw of the second rollout falls so near the border of two tokens that rounding decides.
        ppo = [*chain.args("ppo"), *steps, "--ppo-epochs", "2", "--save-every", "1", "--seed", "1"]
        gold = f"python:{chain.sample_data / 'gold.py'}:score"
        self.commands = {
            "sft": [*chain.args("sft"), *steps, "--eval-data", str(demos), *at_the_end],
            "rm": [*chain.args("rm"), *pairs, "--lr", "2e-4"],
            "dpo": [*dpo, "--gradient-checkpointing"],
            "kto": ["kto", *dpo[1:], "--reference", "tiny"],
            "orpo": ["orpo", *dpo[1:], "--lora-rank", "4"],
            "ppo": [*ppo, "--tokens-per-row", "100"],
            # two trained adapters on one base
            "lora": [*ppo, "--lora-rank", "4", "--lr", "1e-3", "--value-init", "sft@v1"],
            "grpo": [
                *instead(ppo, "rm@v1", gold),
                "--lora-rank",
                "4",
                "--layout",
                "separate",
                "--advantage",
                "grpo",
                "--lr",
                "1e-3",
            ],
        }
        for name, args in self.commands.items():
            chain.run(*args, "--name", f"one-{name}")

    def launch(self, processes: int, kind: str, more: list[str], **env: str) -> list[Path]:
        """What the same commands, `more` of them, make in several processes."""
        made = []
        for name, args in self.commands.items():
            words = [*args, *more, "--name", f"{kind}-{name}"]
            first, *others = together(words, processes, {"PREFCLI_RUNS": str(self.chain.runs), **env})
            made.append(self.chain.runs / f"{kind}-{name}/v1")
            assert first[:2] == (0, f"{made[-1]}\n"), first
            assert all(other[:2] == (0, "") for other in others), others  # one speaks
            versions = [path for path in made[-1].parent.iterdir() if path.name[0] != "."]
            assert versions == made[-1:]
        return made

    def check(self, made: list[Path], processes: int, rel: float, weights: float) -> None:
        off: dict[tuple[str, str], float] = {}
        for name, mine in zip(self.commands, made):
            theirs = self.chain.runs / f"one-{name}/v1"
            assert json.loads((mine / "manifest.json").read_text())["environment"]["processes"] == processes
            rows = [[json.loads(line) for line in open(path / "metrics.jsonl")] for path in (mine, theirs)]
            assert len(rows[0]) == len(rows[1]) == 3 + (name in ("sft", "rm", "dpo", "kto", "orpo"))
            if name == "kto":
                assert rows[1][0]["kl"] > 1  # a reference point to agree on
            for found, expected in zip(*rows):
                found, expected = ({k: v for k, v in row.items() if k[:5] != "time/"} for row in (found, expected))
                assert found.keys() == expected.keys()
                for metric, value in expected.items():
                    assert found[metric] == pytest.approx(value, rel=rel, abs=rel / 10), (name, metric)
            for file in theirs.glob("*/*.safetensors"):
                expected, found = load_file(file), load_file(mine / file.relative_to(theirs))
                assert found.keys() == expected.keys()  # a tied head is there once
                apart = [(found[key] - expected[key]).abs().max() for key in expected]
                off[name, file.parent.name] = float(torch.stack(apart).max())
        assert all(most <= weights for most in off.values()), off  # not so of one that is no number


@pytest.fixture(scope="module")
def one(trained: Chain, tmp_path_factory) -> One:
    chain = Chain(tmp_path_factory.mktemp("processes"))
    shutil.copytree(trained.folder, chain.folder, dirs_exist_ok=True)
    torch.set_num_threads(1)
    return One(chain)


def test_every_stage_in_two_processes_makes_the_steps_of_one(one):
    one.check(one.launch(2, "two", []), 2, 1e-4, 5e-6)


def test_every_stage_on_split_weights_makes_the_steps_of_one(one):
    """By --shard, packed rows and all; the optimizer has parts alone."""
    one.check(one.launch(2, "split", ["--shard"]), 2, 1e-5, 2e-6)


def test_four_processes_that_accelerate_tells_to_shard_make_the_steps_of_one(one):
    """Its file for FSDP means --shard."""
    one.commands = {name: one.commands[name] for name in ("kto", "lora")}
    one.check(one.launch(4, "four", [], ACCELERATE_USE_FSDP="true"), 4, 1e-5, 2e-6)

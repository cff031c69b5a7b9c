"""The main job in small, trained once a run: sft, rm, ppo and dpo of a few steps on `tiny`, each test with a copy."""

from __future__ import annotations

import gc
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prefcli.cli.main import app

SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"
FILES = ("demos", "pairs", "pairs_honest", "prompts", "held_out_prompts", "held_out_pairs")
ROWS = 32


class Chain:
    """Results and artifacts of the stages, by stage."""

    sample_data = SAMPLE_DATA

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, Any] = {}

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def __getitem__(self, stage: str) -> Any:
        return self.results[stage]

    def path(self, stage: str) -> Path:
        return self.runs / stage / "v1"

    def path_of(self, result: Any) -> Path:
        assert result.exit_code == 0, result.stderr
        return Path(result.stdout.strip())

    def ref(self, stage: str) -> str:
        return f"{stage}@v1"

    def extra(self, stage: str, *options: str) -> Path:
        """One run more, beside the chain's own; for fixtures that several tests share."""
        return self.run(*self.args(stage), *options)

    def run(self, *command: str) -> Path:
        return self.path_of(CliRunner().invoke(app, command, env={"PREFCLI_RUNS": str(self.runs)}))

    def data(self, name: str) -> str:
        return str(self.folder / f"{name}.jsonl")

    def args(self, stage: str) -> list[str]:
        """The command of a stage, from the same start every time."""
        few = ["--max-steps", "2", "--batch-size", "8"]
        return {
            "sft": ["sft", "--model", "tiny", "--data", self.data("demos"), *few],
            "rm": ["train-rm", "--model", "sft@v1", "--data", self.data("pairs"), "--eval-share", "0.25", *few],
            "ppo": ["ppo", "--model", "sft@v1", "--reward", "rm@v1", "--prompts", self.data("prompts"),
                    "--max-new-tokens", "8", *few],
            "dpo": ["dpo", "--model", "sft@v1", "--data", self.data("pairs"), *few],
        }[stage]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: Any) -> Chain:
    import torch

    torch.set_num_threads(1)  # two threads on models this small only wait for each other
    chain = Chain(tmp_path_factory.mktemp("chain"))
    for name in FILES:
        with (SAMPLE_DATA / f"{name}.jsonl").open() as file:
            Path(chain.data(name)).write_text("".join(islice(file, ROWS)))
    for stage in ("sft", "rm", "ppo", "dpo"):
        result = CliRunner().invoke(app, chain.args(stage), env={"PREFCLI_RUNS": str(chain.runs)})
        assert result.exit_code == 0, result.stderr
        chain.results[stage] = result
    gc.collect()
    gc.freeze()  # as in conftest.py, for what was imported since
    return chain


@pytest.fixture
def chain(trained: Chain, own_folder: Path) -> Chain:
    """A copy that a test may add to."""
    copy = Chain(own_folder)
    shutil.copytree(trained.runs, copy.runs, copy_function=os.link)
    for name in FILES:
        shutil.copy(trained.data(name), copy.data(name))
    copy.results = trained.results
    return copy

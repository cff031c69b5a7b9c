"""Every stage answers every question that another room asks of it: one entry in config/stages.py."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from prefcli.artifacts.commands import command
from prefcli.artifacts.facts import run_facts
from prefcli.artifacts.manifest import Manifest
from prefcli.cli.main import COMMANDS
from prefcli.comparison.simplicity import models_of
from prefcli.config.base import typed_options
from prefcli.config.stages import BY_COMMAND, STAGES, stage_of
from prefcli.experiments.scores import recorded_score
from prefcli.losses import PAIR_LOSSES
from prefcli.memory.estimate import estimate
from prefcli.memory.run import Run
from prefcli.memory.shapes import typical

ROOT = Path(__file__).parent.parent
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))


def manifest(stage: Any, **config: Any) -> Manifest:
    parents = {"model": {"ref": "tiny", "digest": None}}
    return Manifest(stage.name, "one", 1, "2026-01-01T00:00:00+00:00", "key", parents, [], config)


@every_stage
def test_what_it_says_of_itself_fits_together(stage):
    assert stage_of(stage.config()) is stage and BY_COMMAND[stage.command] is stage
    assert COMMANDS[stage.command].help == stage.help and re.fullmatch(r"[A-Z].{10,90}\.", stage.help)
    known = typed_options(stage.config)
    assert set(stage.tuned) <= set(known), "an option to tune that it has not"
    assert "lr" in stage.tuned and all(0 < rate < 1 for rate in stage.rates) and stage.rates[0] < stage.rates[1]
    assert ("prompts" if stage.samples else "data") in known
    assert stage.tie is None or (stage.tie in known and str(stage.grid).startswith(f"{stage.tie}="))
    assert any(role.trained for role in stage.roles) and stage.reference == ("reference" in known or stage.samples)
    assert stage.scores == stage.roles[0].scores


@every_stage
def test_other_rooms_get_their_answers(stage):
    made = manifest(stage)
    made.check("here")
    assert made.scores == stage.scores
    assert command(made) == f"prefcli {stage.command} --model tiny"
    assert run_facts(made, []).title == stage.title
    made.parents |= {"reward/rm": {"ref": "rm@v1", "digest": "d"}} if stage.samples else {}
    assert models_of(made) == len(stage.roles)
    score = recorded_score(stage, stage.config())
    assert score.name == stage.recorded.training and score.better == stage.recorded.better
    found = estimate(Run(stage=stage.command, architecture=typical(10**9)))
    assert found.bytes > 0 and set(found.roles) == {role.name for role in stage.roles}


@every_stage
def test_its_metric_is_one_that_it_records(stage, chain):
    """Of the chain's own stages; the others' tests look at their manifests."""
    module = importlib.import_module(stage.module)
    assert callable(module.train)
    if stage.name in chain.results:
        assert stage.recorded.training in json.loads((chain.path(stage.name) / "manifest.json").read_text())["metrics"]
    else:
        assert stage.recorded.training in module.FINAL


@every_stage
def test_the_commands_about_stages_take_it(stage, chain, prefcli):
    rows = chain.data({"demos": "demos", "prompts": "prompts"}.get(stage.purpose, "pairs"))
    words = [stage.command, "--model", "sft@v1", "--prompts" if stage.samples else "--data", rows]
    words += ["--reward", "rm@v1", "--max-new-tokens", "4"] if stage.samples else []
    dry = prefcli(*words, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.stderr
    plan = json.loads(dry.stdout)["plan"]
    assert plan["stage"] == stage.name and "estimated" in plan["memory"] and any("example" in name for name in plan)
    words = ["--data" if word == "--prompts" else word for word in words]
    swept = prefcli("sweep", *words, "--grid", "lr=1e-5,1e-4", "--dry-run")
    assert swept.exit_code == 0 and swept.stdout.count("to be trained") == 2, swept.stderr
    sized = prefcli("mem-estimate", "--params", "1B", "--stage", stage.command, "--json")
    assert sized.exit_code == 0, sized.stderr


@every_stage
def test_the_docs_name_it(stage):
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    assert f"## prefcli {stage.command}\n" in pages["options.md"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"prefcli {stage.command}" in readme or f"`{stage.command}`" in readme
    assert any(shlex.join(["prefcli", stage.command]) in text for name, text in pages.items() if name != "options.md")


def test_no_stage_is_named_where_another_is_not():
    """A table by stages beside config/stages.py forgets the next one: what compares a stage's name is listed here."""
    meant = {
        "memory/estimate.py": 2,  # kto reads its rows a second time, with another's answer
        "memory/run.py": 1,  # so it takes no part of a single row
    }
    names = {f'"{name}"' for stage in STAGES.values() for name in (stage.name, stage.command)}
    found: dict[str, int] = {}
    for path in sorted((ROOT / "prefcli").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        count = len(
            [m for m in re.findall(r"stage(?:\.name|\.command)? (?:==|!=|in) \(?(\"[\w-]+\")", text) if m in names]
        )
        if count:
            found[str(path.relative_to(ROOT / "prefcli"))] = count
    assert found == meant


def test_every_pair_loss_has_its_function_its_record_and_its_place_among_the_options():
    from typing import get_args

    from prefcli.config.dpo import LOSSES, DPOConfig, Loss

    assert set(LOSSES) == set(PAIR_LOSSES) == set(get_args(Loss))
    fields = {field.name for field in dataclasses.fields(DPOConfig)}
    assert {name for loss in LOSSES.values() for name in loss.parameters} <= fields

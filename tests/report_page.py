"""A whole report of the chain, made once a run: its file, its page taken apart, and the facts that `--json` printed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chain import SAMPLE_DATA, Chain
from typer.testing import CliRunner

from prefcli.cli.main import app

EVIL = '</script><img src=x onerror="alert(1)"> $x$ & \x1b[31m'
COMPARISON = {
    "ancestor": "sft@v1",
    "routes": [{"ref": "ppo@v1", "route": "RLHF"}, {"ref": "dpo@v1", "route": "DPO"}],
    "criteria": [
        {"criterion": "memory", "claimed": "DPO", "verdict": "dpo@v1", "winner": "dpo@v1", "measure_with": None,
         "why": "less <b>of it</b>", "measures": [
             {"measure": "measured peak", "unit": "bytes", "better": "lower", "winner": "dpo@v1",
              "figures": {"ppo@v1": {"value": 1.2e9, "ci95": [1.1e9, 1.3e9]}, "dpo@v1": None}}]},
        {"criterion": "training stability", "claimed": "DPO", "verdict": "not measured", "measures": [],
         "measure_with": "prefcli sweep dpo"},
    ],
    "score": {"dpo@v1": 1, "not measured": 1},
}  # fmt: skip


class Parsed(HTMLParser):
    """Elements as (tag, attributes), and the text without tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


class Written:
    """A report, as a file, as a page and as facts."""

    def __init__(self, path: Path, facts: dict[str, Any], runs: Path) -> None:
        self.path, self.facts, self.runs = path, facts, runs
        self.html = path.read_text(encoding="utf-8")
        self.page = Parsed(self.html)


@pytest.fixture(scope="session")
def written(trained: Chain, tmp_path_factory: Any) -> Written:
    """The whole page, with answers and criteria; one of its prompts is markup."""
    folder = tmp_path_factory.mktemp("report")
    prompts = folder / "prompts.jsonl"
    lines = Path(trained.data("held_out_prompts")).read_text().splitlines()[:5]
    prompts.write_text("\n".join([json.dumps({"prompt": [{"role": "user", "content": EVIL}]}), *lines]) + "\n")
    comparison = folder / "comparison.json"
    comparison.write_text(json.dumps(COMPARISON))
    result = CliRunner().invoke(
        app,
        ["report", "ppo", "dpo", "tiny", "-o", str(folder / "r.html"), "--prompts", str(prompts), "--json", "-q",
         "--reward", "rm", "--reward", f"gold=python:{SAMPLE_DATA}/gold.py:score", "--samples", "4",
         "--max-new-tokens", "8", "--comparison", str(comparison)],
        env={"PREFCLI_RUNS": str(trained.runs)},
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return Written(folder / "r.html", json.loads(result.stdout), trained.runs)

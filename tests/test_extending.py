"""docs/extending.md, followed: a copy of the package is changed as each section says, and its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
# What stands before a block of Python: where it goes.
PLACE = re.compile(r"(?:[Ii]n|[Aa] new file) `([\w/.]+\.py)`(?:, (after|before|in place of)\s+`([^`]+)`)?[^`]*:\s*\Z")
RUN = """
import json, sys
from typer.testing import CliRunner
from prefcli.cli.main import app
for words in json.loads(sys.argv[1]):
    if words[0] == "python":
        exec(words[2])
        continue
    result = CliRunner().invoke(app, words[1:], prog_name="prefcli")
    print(json.dumps({"words": words, "code": result.exit_code, "out": result.stdout, "err": result.stderr[-3000:]}))
"""


def changes(section: str):
    """(file, how, anchor, code) of each block, in order."""
    for found in re.finditer(r"```python\n(.*?)```", section, re.DOTALL):
        place = PLACE.search(section[: found.start()])
        assert place, f"nothing says where this goes: {found[1][:60]}"
        yield place[1], place[2], place[3], found[1]


def changed(folder: Path, file: str, how: str | None, anchor: str | None, code: str) -> None:
    path = folder / file
    if how is None:
        assert not path.exists()
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    assert text.count(anchor) == 1, f"{file} has {text.count(anchor)} times: {anchor}"
    start = text.index(anchor)
    if how == "in place of":
        text = text.replace(anchor, code.rstrip("\n"))
    else:
        at = start if how == "before" else text.index("\n", start) + 1
        text = text[:at] + code + text[at:]
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy with all sections' changes, and each command's result, by section."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("prefcli", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    rows = [{"prompt": f"Where is {i}?", "chosen": "Here it is.", "rejected": "No."} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sheet = [{"question": row["prompt"], "better": row["chosen"], "worse": row["rejected"]} for row in rows]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sheet))
    commands = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        for change in changes(section):
            changed(folder, *change)
        (block,) = re.findall(r"\*\*Try it\*\*\n\n```console\n(.*?)```", section, re.DOTALL)
        commands += [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    env = {**os.environ, "PYTHONPATH": str(folder), "PREFCLI_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", RUN, json.dumps(commands)], cwd=folder, env=env,
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return folder, {" ".join(one["words"][1:]): one for one in found}


def test_every_section_is_followed_and_its_commands_run(extended):
    _, results = extended
    assert len(results) == 9
    for words, result in results.items():
        assert result["code"] == 0, (words, result["err"])


def test_what_was_added_does_what_it_says(extended):
    folder, results = extended
    metrics = {path.parent.parent.name: json.loads(path.read_text())["metrics"]
               for path in folder.glob("runs/*/v1/manifest.json")}  # fmt: skip
    assert set(metrics) == {"dpo", "cpo", "ppo", "sft"}
    assert metrics["dpo"]["loss"] == pytest.approx(1.386294, abs=1e-4)  # NCA where policy and reference are one: 2 ln 2
    formats = next(one["out"] for words, one in results.items() if words == "data formats")
    assert "question/better/worse" in formats
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 8
    summary = json.loads(next(one["out"] for words, one in results.items() if words.startswith("score ")))
    assert summary["rewards"][0]["mean"] == pytest.approx(-(len("Here it is.") + len("No.")) / 2)

"""Before a run loads its weights, and when an allocation fails: exit 5, with the parts and what would make it fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import memory_table
from prefcli.artifacts.store import Store
from prefcli.config.dpo import DPOConfig
from prefcli.errors import MemoryShortError
from prefcli.memory.estimate import estimate
from prefcli.memory.run import Run
from prefcli.memory.shapes import typical
from prefcli.progress import Reporter
from prefcli.stages.inputs import prepare
from prefcli.stages.plan import STOPS, WARNS, check_memory, run_of
from prefcli.stages.session import session

ROOT = Path(memory_table.__file__).parent.parent
RESULTS = json.loads(memory_table.RESULTS.read_text())
SHARDED = json.loads(memory_table.SHARDED.read_text(encoding="utf-8"))


class Asked:
    def __init__(self, force: bool = False) -> None:
        self.config = DPOConfig(force_memory=force)


def test_a_run_is_warned_at_nine_tenths_and_stopped_a_little_over_the_whole():
    run = Run("dpo", typical(7 * 10**9), autocast=True)
    size = estimate(run).bytes
    assert check_memory(Asked(), run, int(size / WARNS * 1.01), "it") is None
    assert "it may run out" in check_memory(Asked(), run, int(size / WARNS * 0.99), "it")
    assert "it may run out" in check_memory(Asked(), run, int(size / STOPS * 1.01), "it")
    with pytest.raises(MemoryShortError, match="of it") as stopped:
        check_memory(Asked(), run, int(size / STOPS * 0.99), "it")
    assert "weights" in stopped.value.message and "--optim adamw-8bit" in stopped.value.hint
    assert "--force-memory" in stopped.value.hint
    assert "--force-memory" in check_memory(Asked(force=True), run, size // 2, "it")
    assert check_memory(Asked(), None, size, "it") is None and check_memory(Asked(), run, None, "it") is None


def inputs(tmp_path, **options):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)
    config = DPOConfig(data=[str(tmp_path / "pairs.jsonl")], model="tiny", runs=str(tmp_path / "runs"), **options)
    return prepare(config)


def test_a_run_that_cannot_fit_is_stopped_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("prefcli.stages.measuring.memory_limit", lambda: 10**6)
    with pytest.raises(MemoryShortError), session(inputs(tmp_path), Reporter()):
        raise AssertionError("it was opened")
    assert not Store(str(tmp_path / "runs")).names()


@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_a_failed_allocation_is_told_with_the_estimates_parts(tmp_path, error):
    with pytest.raises(MemoryShortError, match="ran out of memory.*estimated.*weights") as told:
        with session(inputs(tmp_path, device="cpu"), Reporter()):
            raise error
    assert told.value.exit_code == 5 and told.value.hint


def test_rows_of_the_data_bound_the_length_that_is_estimated(tmp_path):
    short = run_of(inputs(tmp_path), "cpu")
    assert short.max_length < 128 < inputs(tmp_path).config.max_length


def test_the_held_out_third_is_predicted_within_five_percent_and_none_far_under():
    found = memory_table.errors(RESULTS, held_out=True)
    assert len(found) >= 12 and sum(map(abs, found)) / len(found) <= 0.05
    assert min(found) >= -0.10
    everything = memory_table.errors(RESULTS)
    assert 3 * len(found) >= len(everything) >= 24


def test_the_page_has_the_measurements_as_they_are_recorded():
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    tables = [memory_table.table(RESULTS, device) for device in ("cuda", "cpu")]
    for part in (memory_table.summary(RESULTS), *tables, memory_table.sharded(SHARDED)):
        assert part in page, "run: python -m benchmarks.memory_table"


def test_models_that_are_split_are_predicted_within_five_percent():
    found = memory_table.errors(SHARDED, "cpu")
    assert len(found) == 15 and max(map(abs, found)) <= 0.05
    assert {row["case"]["shards"] for row in SHARDED["cases"]} == {2, 4}

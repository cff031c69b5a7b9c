"""Lengths of the prompts and answers of a run's data, in tokens of its own tokenizer, read from the files again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from prefcli.artifacts.facts import Run
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.shared import READ_AS
from prefcli.config.stages import STAGES
from prefcli.data.dataset import Dataset, read_dataset
from prefcli.data.encoder import Encoder
from prefcli.data.reading import STDIN
from prefcli.data.row import Row
from prefcli.errors import DataError, PrefcliError
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.report.facts import Facts

ROWS = 2000  # at most so many are tokenised, drawn from all


@dataclass(frozen=True)
class DataFile:
    """A file of data as the manifests have it, who was trained on it, and its lengths where it is still the same.

    `lengths`: part (prompt, answer, chosen, rejected) → tokens of each row measured; `note`: why there are none.
    """

    path: str
    format: str
    rows: int
    source: str  # where the number of rows stands
    used_by: list[str]
    lengths: dict[str, list[int]] = field(default_factory=dict)
    note: str | None = None


def data_files(facts: Facts, store: Store, reporter: Reporter) -> list[DataFile]:
    """Each file once for each form it was read in, in the order of the runs."""
    found: dict[tuple[str, str, str], DataFile] = {}
    for run in facts.runs:
        for place, source in enumerate(run.data):
            key = (source["path"], source["digest"], source["format"])
            if key in found:
                found[key].used_by.append(run.ref)
                continue
            lengths, note = _lengths(run, source, store, reporter)
            about = f"{run.ref}:data[{place}].rows"
            found[key] = DataFile(source["path"], source["format"], source["rows"], about, [run.ref], lengths, note)
    return list(found.values())


def _lengths(
    run: Run, source: dict[str, Any], store: Store, reporter: Reporter
) -> tuple[dict[str, list[int]], str | None]:
    try:
        data = _read_again(run, source["path"])
    except (PrefcliError, OSError, ValueError):
        return {}, "The file is not there any more, so its lengths are not known."
    if [one["digest"] for one in data.sources] != [source["digest"]]:
        return {}, "The file has changed since, so its lengths are not shown."
    try:
        encoder = Encoder(load_tokenizer(resolve(run.ref, store), reporter))
        rows = list(data.rows) if len(data.rows) <= ROWS else random.Random(0).sample(data.rows, ROWS)
        return _measured(rows, encoder), None
    except PrefcliError as error:
        return {}, f"Its lengths are not known: {error.message}."


def _read_again(run: Run, path: str) -> Dataset:
    if path == STDIN:
        raise DataError("what came in is gone")
    held_out = path == run.options.get("eval_data") and path not in run.options.get("data", [])
    options = {ours: run.options[name] for name, ours in READ_AS.items() if name in run.options}
    purpose = STAGES[run.stage].purpose
    return read_dataset([path], purpose, skip_bad=True, held_out=held_out, beside=True, **options)


def _measured(rows: list[Row], encoder: Encoder) -> dict[str, list[int]]:
    """Of what was trained on: sft on pairs reads the chosen side as the answer, and leaves the sides where they are."""
    found: dict[str, list[int]] = {"prompt": [len(encoder.prompt_ids(row.prompt)) for row in rows]}
    for name, part in (("answer", "completion"), ("chosen", "chosen"), ("rejected", "rejected")):
        lengths = [
            len(encoder.completion_ids(row.prompt, answer))
            for row in rows
            if (answer := getattr(row, part)) is not None and (row.completion is None or part == "completion")
        ]
        if lengths:
            found[name] = lengths
    return found

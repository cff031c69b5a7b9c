"""`prefcli data check`: what is wrong with rows, as a table or one JSON object; exit 3 where there are errors."""

from __future__ import annotations

import json
from typing import Any

from prefcli.cli.console import ConsoleReporter, print_result, result_console
from prefcli.cli.findings import refuse, tables
from prefcli.config.data_checks import CheckConfig
from prefcli.config.shared import read_as
from prefcli.text import counted


def run(config: CheckConfig) -> None:
    """Raises DataError once all is printed, where there are errors."""
    from prefcli.data.checks.run import check

    reporter = ConsoleReporter()
    checked = check(
        config.files,
        config.kind,
        config.against,
        of_row=_tokens(config, reporter) if config.model else None,
        reporter=reporter,
        **read_as(config),
    )
    rows = sum(file["rows"] + file["bad"] + file["ties"] for file in checked.files)
    if config.json:
        print_result(
            json.dumps({"rows": rows, "files": checked.files, "findings": [f.as_dict() for f in checked.findings]})
        )
    else:
        reporter.plan(
            {f["path"]: f"{counted(f['rows'], 'row')} ({f['format']}), for {f['for']}" for f in checked.files}
        )
        console = result_console()
        for part in tables(checked.findings):
            console.print(part)
        if not checked.findings:
            print_result(f"{counted(rows, 'row')}: nothing found")
    refuse(checked.findings)


def encoder_of(model: str, reporter: ConsoleReporter) -> Any:
    """The tokenizer of a model, as data/encoder.py uses it. Raises ArtifactError: there is none."""
    from prefcli.artifacts.references import resolve
    from prefcli.artifacts.store import Store
    from prefcli.data.encoder import Encoder
    from prefcli.models.tokenizers import load_tokenizer

    return Encoder(load_tokenizer(resolve(model, Store()), reporter))


def _tokens(config: CheckConfig, reporter: ConsoleReporter) -> Any:
    assert config.model is not None
    encoder = encoder_of(config.model, reporter)
    from prefcli.data.checks.tokens import Tokens

    return Tokens(encoder, config.max_length)

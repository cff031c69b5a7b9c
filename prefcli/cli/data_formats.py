"""`prefcli data formats`: the forms that rows may come in, as a table."""

from __future__ import annotations

from prefcli.config.data import FormatsConfig


def run(config: FormatsConfig) -> None:
    raise NotImplementedError

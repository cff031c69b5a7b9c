"""`prefcli data convert`: a file's rows in another form, its path on stdout."""

from __future__ import annotations

from prefcli.config.data import ConvertConfig


def run(config: ConvertConfig) -> None:
    raise NotImplementedError

"""Before a command imports anything heavy: are the hub's models that it names there?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefcli.artifacts.hub import at_hand
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import reporter
from prefcli.config.label import JUDGE
from prefcli.errors import PrefcliError
from prefcli.rewards.grammar import split_name
from prefcli.urls import is_url


def models_at_hand(given: Iterable[str | list[str] | None], config: Any) -> None:
    """Say which of the models will be fetched from the hub first. Raises as artifacts.hub.at_hand does."""
    report = reporter(getattr(config, "quiet", False))
    store = Store(getattr(config, "runs", None))
    texts = [text for one in given for text in ([one] if isinstance(one, str) else one or [])]
    for text in dict.fromkeys(texts):
        _, what = split_name(text.removeprefix(JUDGE))  # label's --by judge:REF; a reward's NAME=REF#label=NAME
        what = what.partition("#label=")[0]
        if "/" not in what or is_url(what):
            continue
        try:
            reference = resolve(what, store)
        except PrefcliError:  # no hub id: a file or a mistake, which the command itself finds
            continue
        if reference.kind == "hub" and (note := at_hand(reference).note):
            report.notice(note)

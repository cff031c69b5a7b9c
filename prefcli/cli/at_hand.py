"""Before a command imports anything heavy: are the hub's models that it names there? The stages see to it themselves.

`advise` asks nobody (a size it takes from the name), and neither do the commands of the store.
"""

from __future__ import annotations

from typing import Any

from prefcli.artifacts.hub import at_hand
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import reporter
from prefcli.config.label import JUDGE
from prefcli.errors import PrefcliError

OPTIONS = {  # command → those of its options that name models
    "sample": ("model",),
    "chat": ("ref", "ref2"),
    "eval": ("model", "against", "reward", "judge"),
    "score": ("reward", "tokenizer"),
    "label": ("by", "gold", "tokenizer"),
    "serve-rm": ("ref",),
    "export": ("ref",),
    "compare": ("model", "reward"),
    "report": ("reward",),
    "check": ("model",),
    "stats": ("model",),
}


def models_at_hand(command: str, config: Any) -> None:
    """Say which models will be fetched from the hub first. Raises as artifacts.hub.at_hand does."""
    report = reporter(getattr(config, "quiet", False))
    store = Store(getattr(config, "runs", None))
    for text in {text: None for field in OPTIONS.get(command, ()) for text in _texts(getattr(config, field))}:
        what = text.removeprefix(JUDGE).rpartition("=")[2]  # label's --by judge:REF; a reward's NAME=REF
        if "/" not in what:
            continue
        try:
            reference = resolve(what, store)
        except PrefcliError:  # no hub id: a file, a URL or a mistake, which the command itself finds
            continue
        if reference.kind == "hub" and (note := at_hand(reference).note):
            report.notice(note)


def _texts(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])

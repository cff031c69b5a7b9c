"""Shell completion of model references: the store's artifacts."""

from __future__ import annotations

from prefcli.artifacts.store import Store

SHOWN = 200  # versions; a shell that lists more helps nobody


def artifacts(runs: str | None, incomplete: str) -> list[str]:
    """NAME and NAME@vN that continue what was typed, newest versions first, and tiny; behind NAME= of a reward too."""
    before, equals, typed = incomplete.rpartition("=")
    store = Store(runs)
    found = ["tiny"]
    try:
        for name in store.names():
            found += [name, *(f"{name}@v{version}" for version in reversed(store.versions(name)))]
    except OSError:  # a store that may not be read
        pass
    return [before + equals + one for one in found if one.startswith(typed)][:SHOWN]

"""The scores that `compare` keeps: handed out as they were written, or measured anew."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from conftest import write

from prefcli.comparison.scores import FOLDER, SUM, Scored, Scores

KEPT = {"scores": {"rm": [0.5, 1.25]}, "kl": [0.1, 0.2], "completions": ["a", "é"], "measures": {"length": 3.0}}
SPOILT = {
    "scaled": lambda kept: kept | {"scores": {"rm": [5.0, 12.5]}},
    "no checksum": lambda kept: {name: value for name, value in kept.items() if name != SUM},
    "a list": lambda kept: [kept],
}


@pytest.mark.parametrize("damage", [None, *SPOILT])
def test_kept_scores_that_were_changed_are_measured_anew(store, monkeypatch, damage):
    monkeypatch.setattr(Scores, "_key", lambda *_: "k")
    scores = Scores.__new__(Scores)
    scores.store = store
    scores.keep(Scored(**KEPT), SimpleNamespace())
    path = store.root / FOLDER / "k.json"
    if damage:
        write(path, json.dumps(SPOILT[damage](json.loads(path.read_text(encoding="utf-8")))))
    assert scores._from_disk(SimpleNamespace()) == (None if damage else Scored(**KEPT))

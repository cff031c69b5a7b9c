"""The split of a data set to read: the one that was asked for, or the one that its use suggests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from prefcli.errors import UsageError

TRAIN = "train"
HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval", "held_out")
OTHERWISE = {"training": TRAIN, "testing": "test", "evaluation": "eval", "held-out": "held_out"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
_NAME = re.compile(rf"(?<![a-z])({'|'.join((TRAIN, *HELD_OUT, *OTHERWISE))})(?![a-z])")
_NUMBER = re.compile(r"[-_ ]*\d*")  # of a part: train-2, train2
_PART = re.compile(r"\.(train|held_out)(?=\.)")


def choose(where: str, splits: Sequence[str], wanted: str | None, held_out: bool) -> str:
    """The split `wanted`, or train, or the only one. Of held-out rows its counterpart: test_prefs for train_prefs.

    Raises UsageError: there is no such split, or none of several is meant.
    """
    if len(splits) == 1 and (wanted is None or held_out):
        return splits[0]
    tried = [wanted or TRAIN]
    if held_out:
        tried = [tried[0].replace(TRAIN, name) for name in HELD_OUT if TRAIN in tried[0]]
    for split in tried:
        if split in splits:
            return split
    named = ", ".join(splits)
    if held_out:
        raise UsageError(
            f"{where} has the splits {named}: which of them is held out is not clear", "name a file, or its folder"
        )
    near = get_close_matches(tried[0], splits, n=1, cutoff=0.5)
    hint = f"--split {near[0] if near else splits[0]}"
    if wanted is None:
        raise UsageError(f"{where} has the splits {named}, and none is chosen", hint)
    raise UsageError(f"{where} has no split {wanted!r}; it has {named}", hint)


def split_of(parts: Sequence[str]) -> str:
    """The split that a file belongs to, by its name or a folder's, as `datasets` does: what begins with one of their
    words is a split of that name (`data/train_prefs-00000-of-00002.parquet`) but for a number (`train-2.csv`), a word
    elsewhere is one (`pairs.held_out.jsonl`, `cups-test.csv`); else what stands before a shard's number."""
    stem = parts[-1].split(".")[0]
    for name in (_SHARD.sub("", parts[-1]), *reversed(parts[:-1])):
        if found := list(_NAME.finditer(name.lower())):
            first, last = (OTHERWISE.get(one[0], one[0]) for one in (found[0], found[-1]))
            more = name.split(".")[0][found[0].end() :]
            return last if found[0].start() else first + ("" if _NUMBER.fullmatch(more) else more)
    return _SHARD.sub("", stem) if _SHARD.search(stem) else TRAIN


def twice(names: Sequence[str]) -> tuple[str, str] | None:
    """A file and one that `prefcli data split` made of it, where both are there."""
    return next(((whole, name) for name in names if (whole := _PART.sub("", name)) != name and whole in names), None)

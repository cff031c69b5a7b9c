"""The split of a data set to read: the one that was asked for, or the one that its use suggests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from prefcli.errors import UsageError

TRAIN = "train"
HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
_NAME = re.compile(rf"^({TRAIN}|{'|'.join(HELD_OUT)})(?![a-z])")


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
        raise UsageError(f"{where} has the splits {named}, and none is asked for", hint)
    raise UsageError(f"{where} has no split {wanted!r}; it has {named}", hint)


def split_of(parts: Sequence[str]) -> str:
    """The split that a file belongs to, by its name or a folder's: `data/train_prefs-00000-of-00002.parquet`."""
    stem = _SHARD.sub("", parts[-1].split(".")[0])
    for name in (stem, *reversed(parts[:-1])):
        if _NAME.match(name.lower()):
            return name
    return TRAIN

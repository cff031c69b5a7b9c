"""Several processes that share one command's rows: the first reads and checks them, and sends the others the list.

They meet in the key-value store of torchrun (and of `accelerate launch`, which uses it): no process group is made,
so that nothing waits in a library that hears no signal, and no time runs out.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from prefcli.artifacts.parts import ALONE, POLL, Share, Work, unfinished
from prefcli.errors import SurroundingsError
from prefcli.progress import Reporter, processes

_calls = itertools.count()  # the same in all processes, which run the same commands


def share() -> Share:
    """Which of the launcher's processes this is."""
    world = processes()
    return Share(int(os.environ["RANK"]), world) if world > 1 else ALONE


@contextmanager
def together(mine: Share, reporter: Reporter) -> Iterator[tuple[Work, Any]]:
    """`unfinished` work, and in all processes but the first the plan that the first one tells, awaited."""
    plan, key = None, f"prefcli/plan/{next(_calls)}"
    store = _store(mine) if mine.world > 1 else None  # the first may be the one that holds it
    if store is not None and not mine.first:
        try:
            while not store.check([key]):
                time.sleep(POLL)
            folder, there, plan = json.loads(store.get(key), object_hook=_numbers)
        except RuntimeError as error:  # the connection is lost
            gone = SurroundingsError("the first process has ended")
            gone.told = True
            raise gone from error
    with unfinished(mine, reporter) as work:
        if mine.first:
            work.tells = key
        else:
            work.folder = Path(folder)
            work.there = {job: set(numbers) for job, numbers in there.items()}
        yield work, plan


def tell(work: Work, plan: Any) -> None:
    """In the first process, once the work is opened: what the others go by, JSON and arrays of whole numbers."""
    if work.share.world > 1:
        there = {job: sorted(numbers) for job, numbers in work.there.items()}
        _store(work.share).set(work.tells, json.dumps([str(work.folder), there, plan], default=_as_json))


def _as_json(numbers: Any) -> dict[str, list[int]]:
    """An array, a range: positions in a file, say."""
    return {"numbers": [int(number) for number in numbers]}


def _numbers(found: dict[str, Any]) -> Any:
    return array("Q", found["numbers"]) if found.keys() == {"numbers"} else found


@functools.cache
def _store(mine: Share) -> Any:
    rendezvous = torch.distributed.rendezvous("env://", mine.rank, mine.world, timeout=timedelta(minutes=5))
    return next(iter(rendezvous))[0]

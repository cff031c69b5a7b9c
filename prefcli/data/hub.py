"""A data set of the hub, through `datasets`: fetched once into its cache, and mapped from there."""

from __future__ import annotations

import importlib
import re
from typing import Any

from prefcli.data.records import Records, TableRecords
from prefcli.data.splits import choose
from prefcli.data.tables import read_arrow
from prefcli.errors import DataError, SurroundingsError
from prefcli.text import first_line

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]*[\w-]")  # owner/name


def read_hub(name: str, split: str | None, held_out: bool) -> Records:
    """Raises UsageError: no such split. DataError: no such data set. SurroundingsError: the hub does not answer."""
    datasets: Any = importlib.import_module("datasets")  # half a second that no file costs
    try:
        found = datasets.load_dataset(name)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{name}: no such file, and the hub has no such data set, or asks for a login ({first_line(error)})",
            "check the name; for a gated one: hf auth login",
        ) from error
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:  # ConnectionError is an OSError
        raise SurroundingsError(
            f"{name}: no such file, and the hub did not deliver a data set of this name ({first_line(error)})",
            "check the path or the network (HF_HUB_OFFLINE forbids it); or fetch it where there is one, "
            f"hf download {name} --repo-type dataset --local-dir DIR, and give DIR",
        ) from error
    except (ValueError, RuntimeError) as error:  # it has several configurations, or is a script
        raise DataError(
            f"{name}: {first_line(error)}", "fetch the part that you mean as files, and give their folder"
        ) from error
    part = found[choose(name, list(found), split, held_out)]
    if files := [file["filename"] for file in part.cache_files]:
        return read_arrow(*files, where=name)
    return TableRecords(name, part._fingerprint, part.data.table.to_batches())

"""What became of each family, one JSON file each, and which state of the code it was made with."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl

ROOT = Path(__file__).resolve().parents[2]
SHOWING = ("table.py", "__main__.py")  # change how results are shown, not the results


@functools.cache
def state() -> str:
    """A digest of prefcli's code, of the matrix's and of the libraries' versions."""
    digest = hashlib.sha256()
    for library in (transformers, trl, peft, torch):
        digest.update(f"{library.__name__} {library.__version__}\n".encode())
    for folder in ("prefcli", "scripts/families"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.name not in SHOWING or folder == "prefcli":
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()[:16]


def keep(folder: Path, name: str, found: dict[str, Any]) -> None:
    kept = folder / f"{name}.json"
    kept.with_suffix(".part").write_text(json.dumps(found | {"state": state()}, indent=1), encoding="utf-8")
    kept.with_suffix(".part").replace(kept)


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """None where there is none of this state of the code."""
    file = folder / f"{name}.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found.get("state") == state() else None

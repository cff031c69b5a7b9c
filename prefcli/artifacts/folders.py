"""A directory outside the store that a command writes: checked before any work, then written whole or not at all.

mkdir .OUT.<random>.partial ─► write and check everything ─► (OUT ─► .OUT.<random>.old) ─► rename to OUT
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from prefcli.artifacts.manifest import is_artifact
from prefcli.artifacts.unfinished import sync
from prefcli.errors import PrefcliError, SurroundingsError, UsageError, from_foreign

MODEL_FILES = ("config.json", "adapter_config.json")  # one of them is in whatever from_pretrained opens
# What `export` writes: weights, configurations, tokenizers of any family, the card.
WRITTEN = (*MODEL_FILES, "*.safetensors", "*.safetensors.index.json", "generation_config.json", "tokenizer.json",
           "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
           "merges.txt", "*.model", "*.jinja", "additional_chat_templates", "README.md", ".gitattributes")  # fmt: skip


def out_folder(text: str, *, force: bool, needed: Sequence[Path]) -> Path:
    """The directory that `text` names, links followed. It is new or empty, or holds a model, and nothing that no
    export writes, and `force` is given.

    Raises UsageError: a file, a mount point, no directory for it, in an artifact, holds something or one of `needed`.
    SurroundingsError: no permission.
    """
    if not text or "\0" in text:
        raise UsageError(f"OUT {text!r}: no directory can have that name")
    out = Path(os.path.realpath(text))
    if not os.path.isdir(out.parent):
        raise UsageError(f"OUT {text}: there is no directory {out.parent}", f"make it: mkdir -p {out.parent}")
    if os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"OUT {text} is a file", "name a new directory")
    if artifact := next((path for path in (out, *out.parents) if is_artifact(path)), None):
        raise UsageError(f"OUT {text}: {artifact} is an artifact, and stays as it was written", "choose another place")
    if os.path.ismount(out):
        raise UsageError(
            f"OUT {text} is a mount point, which cannot be replaced", f"name a directory in it: {out / 'model'}"
        )
    for path in map(Path.resolve, needed):
        if out == path or out in path.parents:
            raise UsageError(f"OUT {text} holds {path}, which is in use", "choose another place")
    if os.path.isdir(out) and any(out.iterdir()):
        if not force:
            raise UsageError(f"OUT {text} exists and is not empty", "name a new directory, or replace it with --force")
        weights = any(file.is_file() for file in out.glob("*.safetensors"))
        if not (weights and any((out / name).is_file() for name in MODEL_FILES)):
            raise UsageError(f"OUT {text} holds no model, so --force does not replace it", "name a new directory")
        if own := sorted(name for name in os.listdir(out) if not any(fnmatchcase(name, known) for known in WRITTEN)):
            raise UsageError(
                f"OUT {text} holds {own[0]!r}, which no export writes, so --force does not replace it",
                "take it out, or name a new directory",
            )
    if not os.access(out.parent, os.W_OK):
        raise SurroundingsError(f"OUT {text}: no permission to write in {out.parent}", "choose another place")
    return out


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`; when the block ends it takes the place of `out`, and what was there goes.

    On any exception, Ctrl-C included, it is removed and `out` is as it was. Raises SurroundingsError: a full disk, no
    permission.
    """
    stem = f".{out.name[:100]}.{uuid.uuid4().hex[:8]}"
    folder, old = out.with_name(stem + ".partial"), out.with_name(stem + ".old")
    try:
        folder.mkdir()
    except OSError as error:
        raise SurroundingsError(f"OUT {out}: {error.strerror or error}", "choose another place") from error
    try:
        yield folder
        readable = folder.stat().st_mode & 0o666  # safetensors lets nobody else read its files, whatever the umask
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(readable)
            sync(path)
        _replace(out, folder, old)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        known = None if isinstance(error, PrefcliError) else from_foreign(error)
        if isinstance(known, SurroundingsError):
            raise SurroundingsError(
                f"OUT {out}: {known.message}", "free some space, or choose another place"
            ) from error
        raise


def _replace(out: Path, folder: Path, old: Path) -> None:
    """No single call swaps two directories everywhere: between the two renames the old one stands at `old`."""
    if os.path.isdir(out):
        os.rename(out, old)
    try:
        os.rename(folder, out)
    except BaseException:
        if os.path.isdir(old):
            os.rename(old, out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)

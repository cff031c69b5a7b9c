"""The files of rows and the pictures that commands write: checked before any work is done, rows written whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefcli.cli.stdout import write_rows
from prefcli.errors import SurroundingsError, UsageError, from_foreign


def out_file(option: str, value: str | None, taken: Mapping[str, Sequence[str | None]]) -> Path | None:
    """The file that an option names, or None where it names none. `taken`: what other files are → those files.

    Raises UsageError: not .jsonl, no directory for it, a directory, one of `taken`. SurroundingsError: no permission.
    """
    if value is None:
        return None
    path = Path(value)
    if not value.endswith(".jsonl"):
        raise UsageError(f"{option} {value}: the file must end in .jsonl")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{option} {value}: there is no directory {path.parent}", f"make it: mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise UsageError(f"{option} {value} is a directory")
    for what, files in taken.items():
        if any(file is not None and _same(value, file) for file in files):
            raise UsageError(f"{option} {value} is {what}", "choose another")
    folder = Path(os.path.realpath(path)).parent  # a link stays one: what it leads to is written
    if not os.access(folder, os.W_OK):
        raise SurroundingsError(f"{option} {value}: no permission to write in {folder}", "choose another place")
    return path


def picture_file(option: str, value: str | None) -> Path | None:
    """The picture that an option names, or None where it names none.

    Raises UsageError: neither .png nor .svg, no directory for it, a directory. SurroundingsError: no permission.
    """
    if value is None:
        return None
    path = Path(value)
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{option} {value}: the file must end in .png or .svg")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{option} {value}: there is no directory {path.parent}", f"make it: mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise UsageError(f"{option} {value} is a directory")
    if not os.access(path.parent, os.W_OK):
        raise SurroundingsError(f"{option} {value}: no permission to write in {path.parent}", "choose another place")
    return path


def draw_picture(option: str, path: Path, draw: Callable[[Path], bool | None], *, quiet: bool = False) -> None:
    """Have `draw` write the picture, and say so on stderr, or that there was nothing to draw, where it returns False;
    with `quiet` nothing is said.

    Raises SurroundingsError where it cannot be written.
    """
    try:
        drawn = draw(path)
    except OSError as error:
        raise from_foreign(error) or SurroundingsError(f"{option} {path}: {error.strerror or error}") from error
    if not quiet:
        print(f"{option}: nothing to draw" if drawn is False else f"wrote {path}", file=sys.stderr)


def _same(a: str, b: str) -> bool:
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def rows_shown(out: Path | None, summary: bool) -> Callable[[bytes], None]:
    """The function that prints rows as they are made: on stdout, where neither a file nor the summary is wanted."""
    return (lambda lines: None) if out is not None or summary else write_rows


def refuse_several(out: Path | None) -> None:
    """Raise UsageError where several processes have no file beside which each writes its parts."""
    if out is None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "--out is missing: several processes write their parts beside it", "name the file: --out FILE.jsonl"
        )

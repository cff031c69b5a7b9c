"""The modules beside a Python file that it imports, found by reading. Nothing is run.

`python FILE` finds them there, so a reward file may be made of several; all of them are causes of its scores.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from prefcli.files import DigestCache, digest_json

_OURS = __name__.partition(".")[0]  # beside a reward in a checkout of this project


def home_of(file: Path) -> Path:
    """The folder that `python FILE` looks for modules in first."""
    return Path(os.path.realpath(file)).parent


def siblings(file: Path) -> list[Path]:
    """Files of modules in the file's folder, and of packages below it, that it imports, directly or through others."""
    home, start = home_of(file), Path(os.path.realpath(file))
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        at = waiting.pop()
        for name in _imported(at, home):
            for path in _files(home, name) if name.partition(".")[0] != _OURS else ():
                if path != start and path not in found:
                    found.add(path)
                    waiting.append(path)
    return sorted(found)


def digest_with_siblings(file: Path, digests: DigestCache) -> str:
    """The file's digest, or, of one that imports others beside it, that of all of them."""
    own, home = digests.digest(file), home_of(file)
    others = {str(path.relative_to(home)): digests.digest(path) for path in siblings(file)}
    return digest_json({"": own} | others) if others else own


def _imported(file: Path, home: Path) -> Iterator[str]:
    """Dotted names, seen from the folder; of `from a import b` both a and a.b, whichever is a module."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # running it says what is wrong with it
    package = file.relative_to(home).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            parts = [*above, *(node.module.split(".") if node.module else ())]
            yield ".".join(parts)
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def _files(home: Path, name: str) -> Iterator[Path]:
    """The files that are read where the dotted name is imported: its own, and those of the packages around it."""
    parts = [part for part in name.split(".") if part]
    for length in range(1, len(parts) + 1):
        path = home.joinpath(*parts[:length])
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                yield file
                break

"""The library bitsandbytes, imported where 4 bits or an optimizer of 8 bits are asked for and nowhere else. No torch
here.

peft imports it wherever it is installed: a second of every run, a line of its own on stderr, and, where the package
`kernels` is installed too, code that it fetches from the hub unasked. So it is hidden until `show`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAME = "bitsandbytes"
# What remembers whether it is there, and the modules that keep it under the name `bnb`.
_REMEMBER = (
    ("peft.import_utils", "is_bnb_available"),
    ("peft.import_utils", "is_bnb_4bit_available"),
    ("transformers.utils.import_utils", "is_bitsandbytes_available"),
)
_HOLD = ("peft.helpers", "transformers.integrations.bitsandbytes")
_modules: dict[str, Any] = sys.modules  # None in it is Python's own way to say that a module is not to be imported


def hide() -> bool:
    """Let it seem not to be installed, to whoever is imported from now on; without effect where it was imported.

    Whether it is hidden by this call: then `unhide` undoes it.
    """
    if NAME in _modules:
        return False
    _modules[NAME] = None
    _forget()
    return True


def unhide() -> None:
    """Let it seem again what it is; without effect where it was imported."""
    if NAME in _modules and _modules[NAME] is None:
        del _modules[NAME]
        _forget()


def _forget() -> None:
    for module, name in _REMEMBER:
        if module in _modules:
            getattr(_modules[module], name).cache_clear()


@contextmanager
def visible() -> Iterator[None]:
    """As it is, for code of the user's, which may import it."""
    hidden = NAME in _modules and _modules[NAME] is None
    if hidden:
        del _modules[NAME]
    try:
        yield
    finally:
        if hidden:
            hide()


def installed() -> bool:
    with visible():
        return importlib.util.find_spec(NAME) is not None


def show() -> None:
    """Import it, and let those know who were told that it is not there."""
    if _modules.get(NAME) is None:
        _modules.pop(NAME, None)
        with _without_kernels():
            importlib.import_module(NAME)
    _forget()
    for module in _HOLD:
        if module in _modules:
            _modules[module].bnb = _modules[NAME]


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Without the package whose part in it is to fetch code from the hub; that this is slower needs no warning."""
    before = _modules.get("kernels", False)
    _modules["kernels"] = None
    logger = logging.getLogger(NAME)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is False:
            del _modules["kernels"]
        else:
            _modules["kernels"] = before

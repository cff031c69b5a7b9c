"""Other libraries kept off the terminal: what a person sees there is ours. `--debug` lets them through."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefcli.models.bitsandbytes import hide, unhide

# Read by the libraries when they are imported; what the user set stays.
SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "ACCELERATE_LOG_LEVEL": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
# Those with a handler of their own, which may have been imported before.
LIBRARIES = ("transformers", "datasets", "huggingface_hub", "peft", "accelerate", "trl", "torch", "bitsandbytes")


def quieten(debug: bool) -> None:
    """Keep other libraries' chatter off the terminal; bitsandbytes stays unimported until 4 bits are asked for."""
    hide()
    if debug:
        return
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.ERROR))
    last = logging.lastResort  # writes for loggers that have no handler: most libraries', and a reward file's
    if last is not None and _is_ours not in last.filters:
        last.addFilter(_is_ours)
    warnings.filterwarnings("ignore")


@contextmanager
def quiet() -> Iterator[None]:
    """The same for as long as a function of ours runs in somebody's own process, which gets back what it had."""
    settings = {name: os.environ.get(name) for name in SETTINGS}
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    bars: Any = sys.modules.get("transformers.utils.logging")  # it read its setting when it was imported
    shown = bars is not None and bars.is_progress_bar_enabled()
    last = logging.lastResort
    filters = None if last is None else list(last.filters)
    hidden = hide()
    with warnings.catch_warnings():
        quieten(debug=False)
        if shown:
            bars.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                bars.enable_progress_bar()
            if hidden:
                unhide()
            if last is not None and filters is not None:
                last.filters[:] = filters
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for name, value in settings.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})


def _is_ours(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not record.pathname.startswith(_INSTALLED)

"""Other libraries kept off the terminal: what a person sees there is ours. `--debug` lets them through."""

from __future__ import annotations

import logging
import os
import sysconfig
import warnings

from prefcli.models.four_bits import hide

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


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})


def _is_ours(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not record.pathname.startswith(_INSTALLED)

"""The exceptions a user may meet, each with its exit code.

    PrefcliError
     ├── UsageError          2   an option, a config key or a value
     ├── DataError           3   a data file: file, line, what was expected
     ├── ArtifactError       4   an artifact or model that is missing, damaged or does not fit
     ├── MemoryShortError    5   will not fit in memory, or ran out of it
     ├── AlarmError          6   a watcher stopped the run
     └── SurroundingsError   7   disk full, no permission, a service that does not answer

A message says what is wrong and where; the hint says what to do about it.
"""

from __future__ import annotations

import errno
import re
from typing import Any


class PrefcliError(Exception):
    """Base of every error that is shown without a traceback."""

    exit_code = 1
    told = False  # another process shows it

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PrefcliError):
    exit_code = 2


class DataError(PrefcliError):
    exit_code = 3


class ArtifactError(PrefcliError):
    exit_code = 4


class MemoryShortError(PrefcliError):
    exit_code = 5


class AlarmError(PrefcliError):
    exit_code = 6
    kept: Any = None  # the artifact with what was trained until then


class SurroundingsError(PrefcliError):
    exit_code = 7


INTERRUPTED = 130
TRY_AGAIN = 75  # EX_TEMPFAIL: interrupted by a scheduler, which may run the same command again

_PASSWORD = re.compile(r"//[^/\s?#]*@")
# api_key=…, access-token=…; not max_tokens or tokenizer
_SECRET = re.compile(
    r"([?&;][\w.-]*(?:key|token|secret|passw(?:or)?d|pwd|auth|sig|signature|credentials?)=)[^&;#\s]+", re.I
)


def without_secrets(text: str) -> str:
    """The text with passwords and keys in its URLs taken out; what is shown or written may name such a URL."""
    return _SECRET.sub(r"\1…", _PASSWORD.sub("//…@", text))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1, which nobody at a terminal sent: a command that stays after Ctrl-C leaves after this."""


_ADVICE = {
    errno.ENOSPC: "free some space, or put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
    errno.EDQUOT: "free some of your quota, or put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
    errno.EACCES: "check the permissions, or put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
    errno.EPERM: "check the permissions, or put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
    errno.EROFS: "that file system is read-only; put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
    errno.EIO: "the disk or the network file system reports a fault",
    errno.ESTALE: "the network file system lost the file; try again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOTDIR: "a part of that path is a file; check the path",
    errno.ELOOP: "symbolic links lead in a circle; check the path",
    errno.EFBIG: "raise the file size limit, or put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)",
}


def from_foreign(error: BaseException) -> PrefcliError | None:
    """The prefcli error that a foreign exception stands for, or None where it is a defect of ours.

    safetensors wraps an OSError from the disk into its own exception type and keeps only the text,
    torch raises RuntimeError for a failed allocation: both are recognised by what they say.
    """
    text = str(error)
    if type(error).__name__ == "PanicException":  # of the tokenizers library, which is no Exception
        return ArtifactError(
            f"the model's tokenizer failed on a text ({text})",
            "its tokenizer.json is at fault: use another model's",
        )
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = f" ({error.filename})" if error.filename else ""
        return SurroundingsError(f"{error.strerror or text}{where}", _ADVICE[error.errno])
    for phrase, number in (
        ("No space left on device", errno.ENOSPC),
        ("Disk quota exceeded", errno.EDQUOT),
        ("File too large", errno.EFBIG),
        ("Read-only file system", errno.EROFS),
        ("Permission denied", errno.EACCES),
    ):
        if phrase in text:
            return SurroundingsError(text, _ADVICE[number])
    # Of gloo and NCCL: each process that waited for it says so.
    if "gloo/transport" in text or type(error).__name__ in ("DistBackendError", "DistNetworkError"):
        return SurroundingsError(
            "another process of this run has ended",
            "its error message is above or below this one; the same command resumes where a checkpoint was saved",
        )
    # The last two: a library that was to be loaded, under a limit of memory.
    short = ("out of memory", "can't allocate memory", "not enough memory", "map segment", "Cannot allocate memory")
    if isinstance(error, MemoryError) or any(phrase in text for phrase in short):
        return MemoryShortError(
            f"ran out of memory: {text or 'allocation failed'}",
            "use a smaller --batch-size or a larger --grad-accum, --lora-rank 16, --gradient-checkpointing, "
            "or a shorter --max-length",
        )
    return None

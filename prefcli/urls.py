"""URLs of services as options take them, with `#timeout=SECONDS` at their end, and which of their errors may pass."""

from __future__ import annotations

import math
import re
from urllib.parse import parse_qsl, urlsplit

from prefcli.errors import UsageError, without_secrets

_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(what: str) -> bool:
    return _URL.match(what) is not None


def read(option: str, text: str, what: str, timeout: float, form: str) -> tuple[str, float]:
    """The URL `what`, given as `text`, and its timeout. Its fragment, which is never sent, may say #timeout=SECONDS.

    `form` is an example. Raises UsageError: no URL, a password in it, another setting.
    """
    url, _, settings = what.partition("#")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:  # a port that is not a number, half an IPv6 address, a label that is too long
        raise UsageError(f"{option} {without_secrets(text)}: not a URL", form) from error
    if not is_url(url) or not host or port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{option} {without_secrets(text)}: not a URL", form)
    if (shown := without_secrets(text)) != text or parts.username is not None:
        raise UsageError(
            f"{option} {shown}: a password or a key in a URL would be stored in the manifest",
            "leave it out; a proxy on this machine can add it",
        )
    for setting, value in parse_qsl(settings, keep_blank_values=True):
        seconds = number(value)
        if setting != "timeout" or seconds is None or seconds <= 0:
            raise UsageError(
                f"{option} {text}: {setting}={value} after the # is not a setting", "only #timeout=SECONDS is possible"
            )
        timeout = seconds
    return url, timeout


def read_several(option: str, text: str, timeout: float, form: str) -> list[tuple[str, float]]:
    """As `read`, of URLs with commas between them. Raises UsageError."""
    return [read(option, text, one, timeout, form) for one in text.split(",")]


def address(text: str) -> str:
    """What a service counts by in a key: its URLs as they are shown, without #timeout=SECONDS, which changes no
    answer."""
    shown = without_secrets(text)
    return re.sub(r"#timeout=[^#,]*", "", shown) if "://" in shown else shown


def may_pass(status: int) -> bool:
    """Whether to try again after an HTTP status: server errors; and timeout, too early, too many requests."""
    return status >= 500 or status in (408, 425, 429)


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None

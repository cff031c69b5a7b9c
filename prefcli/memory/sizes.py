"""Sizes as people write them: "7B" to a number of parameters, and numbers and bytes back to text."""

from __future__ import annotations

import re

from prefcli.errors import UsageError

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# Outside of these a count is a slip of the pen (--params 7), not a language model.
SMALLEST, LARGEST = 1_000, 10**14

# ASCII digits only: float() would also take "nan", "inf" and digits of other scripts.
_PLAIN = r"(?:[0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?|\.[0-9]+"
_SIZE = re.compile(rf"([+-]?)({_PLAIN})(e[+-]?[0-9]{{1,3}})?\s*([KMBT]?)", re.IGNORECASE)

_EXAMPLES = "write it like 125M, 7B, 1.5e9 or 7000000000"


def parse_count(text: str) -> int:
    """A number of parameters from "125M", "7B", "0.5b", "1.5e9", "7_000_000_000" or "7,000,000,000".

    Raises UsageError: not a number, not positive, or no plausible size of a language model.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"--params {text}: not a number of parameters", _EXAMPLES)
    sign, digits, exponent, suffix = found.groups()
    value = float(digits.replace("_", "").replace(",", "") + (exponent or "")) * SUFFIXES[suffix.upper()]
    if sign == "-" or value == 0:
        raise UsageError(f"--params {text}: a model has more than 0 parameters", _EXAMPLES)
    if value < SMALLEST:
        hint = f"did you mean {text.strip()}B?" if not suffix and not exponent else _EXAMPLES
        raise UsageError(f"--params {text}: {value:g} parameters are too few for a language model", hint)
    if value > LARGEST:  # infinite too, after a large exponent
        raise UsageError(f"--params {text}: more than {format_count(LARGEST)} parameters", _EXAMPLES)
    return round(value)


def _significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, never in exponents, without trailing zeros."""
    decimals = max(0, digits - len(str(int(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float, units: list[tuple[float, str]]) -> str:
    """`value` in the largest unit that it fills; rounding up to a thousand goes on to the next unit."""
    for index, (size, name) in enumerate(units):
        if value >= size or index == len(units) - 1:
            text = _significant(value / size)
            if text == "1000" and index > 0:
                return "1" + units[index - 1][1]
            return text + name
    raise AssertionError("units must not be empty")


def format_count(count: float) -> str:
    """A number of parameters in three digits: 7000000000 is "7B", 134515008 is "135M"."""
    return _scaled(count, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")])


def format_bytes(count: float) -> str:
    """Bytes in decimal units, as GPUs are sold in: 252e9 is "252 GB"."""
    return _scaled(count, [(1e15, " PB"), (1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B")])

"""Durations as in Go and docker (``1h30m``), with days in addition."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse(text: str) -> float:
    """Return the seconds that `text` means. Raises ValueError if it is not a duration, or not above 0."""
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        raise ValueError("expected a duration such as 90s, 30m, 2h or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        raise ValueError("expected a duration above 0")
    return seconds


def humanize(seconds: float) -> str:
    """Return `seconds` in the largest unit that fits: ``3 days``, ``1 hour``."""
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{int(seconds)} seconds"

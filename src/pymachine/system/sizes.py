"""Sizes of memory and disks: megabytes, or a number with a unit, as in docker (``512m``, ``4g``)."""

from __future__ import annotations

import re

HINT = "Give a number of MB, or a number with a unit: 512m, 4g, 1.5g."
# In mebibytes, as the MB of docker-machine's options.
_UNITS = {"m": 1, "g": 1024, "t": 1024 * 1024}
# Few enough digits that no size is out of the range of Go's integers.
_SIZE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?([mgt])(?:i?b)?", re.ASCII)


def with_unit(text: str) -> int | None:
    """Return the mebibytes that `text` means if it is a number with a unit (``m``, ``g``, ``t``), or else None.

    Capitals and ``b`` or ``ib`` after the unit mean the same. The size must be a whole number of mebibytes.
    """
    found = _SIZE.fullmatch(text.lower())
    if found is None:
        return None
    whole, fraction, unit = found.groups()
    fraction = fraction or ""
    size, rest = divmod(int(whole + fraction) * _UNITS[unit], 10 ** len(fraction))
    return None if rest else size

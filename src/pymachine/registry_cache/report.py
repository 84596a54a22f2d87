"""The keeper's report: why docker-registry does not run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pymachine.registry_cache.place import LOG, REPORT
from pymachine.system import files

_FATAL = re.compile(r"^panic: (.*)$|level=fatal msg=\"((?:[^\"\\]|\\.)*)\"", re.MULTILINE)
_LONGEST = 1 << 16


def save(folder: Path, problem: str) -> None:
    """Write why docker-registry ended last; "" if it has not. Raises OSError."""
    files.atomic_write(folder / REPORT, json.dumps({"problem": problem}) + "\n", durable=False)


def problem(folder: Path) -> str:
    """Return why docker-registry ended last, or "" if that is unknown."""
    try:
        return str(json.loads(files.read_regular(folder / REPORT, longest=_LONGEST))["problem"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def reason(folder: Path, *, begin: int) -> str:
    """Return the reason that docker-registry logged for its end, after the first `begin` bytes of the log, or ""."""
    with (folder / LOG).open("rb") as log:
        # The log may have been emptied.
        log.seek(min(begin, log.seek(0, os.SEEK_END)))
        found = _FATAL.search(log.read(_LONGEST).decode(errors="replace"))
    return (found[1] or found[2]).replace('\\"', '"') if found else ""

"""Recognize the changes of owner by which the guest raises events.

Where QEMU's system calls are not filtered, the host sees them as changes of the files. An event for each of them would
cause the next one, without end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_MOST = 20_000
_Facts = tuple[int, ...]


class ReportedFiles:
    """The files for which events were raised, and what they were like then."""

    def __init__(self) -> None:
        self._facts: dict[str, _Facts] = {}

    def note(self, paths: Iterable[str]) -> None:
        """Note that events are raised for these files of the host now."""
        for path in paths:
            self._facts.pop(path, None)  # so that the oldest are first
            facts = _read(path)
            if facts is not None:
                self._facts[path] = facts
        while len(self._facts) > _MOST:
            del self._facts[next(iter(self._facts))]

    def is_unchanged(self, path: str) -> bool:
        """Return whether a file is as it was at its last event, except for its owner."""
        facts = _read(path)
        return facts is not None and self._facts.get(path) == facts


def _read(path: str) -> _Facts | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns

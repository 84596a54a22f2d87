"""Recognize the changes of shared files that the guest itself made.

The host sees those changes too, and does not see who made them. An event for them would be the second one in the guest,
and a program that builds whenever files change would build forever. The guest reports its own changes, so the host
leaves out what it sees of the same file shortly afterwards.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable

from pymachine.driver.kit.share_events.messages import GuestEvent

# A guest writes changed data to the host within a second, also that of files that stay open.
_OWN_SECONDS = 1.5
# Much data is written to the host for longer, with changes at shorter intervals.
_STILL_SECONDS = 0.6
# How long a new folder may take until the guest reports the changes in it.
_UNWATCHED_SECONDS = 30.0
_CHANGES = frozenset({"ATTRIB", "CREATE", "DELETE", "MODIFY", "MOVED_FROM", "MOVED_TO"})
_NEW = frozenset({"CREATE", "MOVED_TO"})
_FOLDER = "ISDIR"
_MOST = 20_000


class OwnChanges:
    """The recent changes of one guest, by path."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._folders: dict[str, float] = {}

    def note(self, event: GuestEvent) -> None:
        """Note a change that the guest reports."""
        if not event.kinds & _CHANGES:
            return
        self._set(self._until, event.path, _OWN_SECONDS)
        if _FOLDER in event.kinds and event.kinds & _NEW:
            # The guest reports no changes in the folder until it watches it.
            self._set(self._folders, event.path, _UNWATCHED_SECONDS)

    def watched(self, folder: str) -> None:
        """Note that the guest reports its changes in `folder` from now on."""
        if folder in self._folders:
            self._set(self._folders, folder, _OWN_SECONDS)

    def made(self, path: str) -> bool:
        """Return whether a change of `path` that the host sees now was made by the guest."""
        now = self._now()
        if self._until.get(path, 0.0) >= now:
            # Not for longer: the next change may be the host's.
            self._set(self._until, path, _STILL_SECONDS)
            return True
        self._until.pop(path, None)
        return any(self._folders.get(folder, 0.0) >= now for folder in _parents(path))

    def _set(self, table: dict[str, float], path: str, seconds: float) -> None:
        table.pop(path, None)  # so that the table is in the order of time
        table[path] = self._now() + seconds
        if len(table) > _MOST:
            del table[next(iter(table))]


def _parents(path: str) -> list[str]:
    found = []
    while path not in ("/", ""):
        path = posixpath.dirname(path)
        found.append(path)
    return found

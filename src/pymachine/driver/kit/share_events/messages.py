"""The messages between host and guest about changes in shared folders; see the guest's script ``share-events``.

The guest sends lines: ``folders`` and a JSON list of paths, or ``event``, the kinds of an inotify event and a path. The
host sends a line with a word and a size in bytes, and then that many bytes of paths, each ended by a zero byte.
Nothing that a guest sends is trusted.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

_LONGEST_LINE = 256 * 1024
_LONGEST_PATH = 4096
_MOST_FOLDERS = 256
_MOST_PATHS = 500
MARKS = "/run/pymachine/share-events"
"""The folder of marks in a guest with pymachine's image; MARKS in share-events."""
_MARK_KIND = "CLOSE_WRITE"


class Word(Enum):
    """A request of the host."""

    HELLO = "hello"
    """Send the folders that containers mount, and close all folders."""
    KEEP = "keep"
    """Keep these folders open."""
    RELEASE = "release"
    WATCH = "watch"
    """Report the guest's own changes in all open folders."""
    CHANGE = "change"
    """Raise an event for each of these paths."""
    MARK = "mark"
    """Send the mark `SYNC`, after all reports of earlier changes."""


class Mark(Enum):
    """A place in the guest's reports."""

    SYNC = "sync"
    BEGIN = "begin"
    """The guest begins to raise events for the host, which are reported too."""
    END = "end"


@dataclass(frozen=True)
class Folders:
    """The folders of the guest that its containers mount and that are shared, at least in part."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class GuestEvent:
    """An inotify event in the guest."""

    kinds: frozenset[str]
    path: str


Report = Folders | GuestEvent | Mark


def message(word: Word, paths: Sequence[str] = ()) -> Iterator[bytes]:
    """Yield the messages that say `word` for all `paths`, of which each has a limited number."""
    for start in range(0, max(len(paths), 1), _MOST_PATHS):
        data = b"".join(path.encode(errors="surrogateescape") + b"\0" for path in paths[start : start + _MOST_PATHS])
        yield f"{word.value} {len(data)}\n".encode() + data


class Reports:
    """Splits the guest's data, in pieces of any size, into reports. Lines that are none are left out."""

    def __init__(self, marks: str = MARKS) -> None:
        """`marks` is the guest's folder of marks."""
        self._marks = marks
        self._buffer = b""
        self._is_overlong = False

    def feed(self, data: bytes) -> list[Report]:
        """Add data; return the reports that it completes."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found = []
        for line in lines:
            report = None if self._is_overlong else parse(line, self._marks)
            self._is_overlong = False
            if report is not None:
                found.append(report)
        if len(self._buffer) > _LONGEST_LINE:
            self._buffer, self._is_overlong = b"", True
        return found


def parse(line: bytes, marks: str = MARKS) -> Report | None:
    """Return what a line of the guest says, or None. `marks` is the guest's folder of marks."""
    word, _, rest = line.decode(errors="surrogateescape").partition(" ")
    if word == "folders":
        return _folders(rest)
    if word != "event":
        return None
    kinds, _, path = rest.partition(" ")
    if not path.startswith("/") or len(path) > _LONGEST_PATH:
        return None
    folder, name = posixpath.split(path)
    event = GuestEvent(frozenset(kinds.split(",")), path.rstrip("/"))
    if folder != marks:
        return event
    is_mark = _MARK_KIND in event.kinds and name in {mark.value for mark in Mark}
    return Mark(name) if is_mark else None


def _folders(text: str) -> Folders | None:
    try:
        paths = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return None
    return Folders(tuple(posixpath.normpath(path) for path in paths[:_MOST_FOLDERS] if _is_path(path)))


def _is_path(text: str) -> bool:
    """Return whether a text of JSON, which may have any character, can be an absolute path."""
    try:
        return text.startswith("/") and b"\0" not in text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False

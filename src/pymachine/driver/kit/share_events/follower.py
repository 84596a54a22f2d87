"""The process on the host that reports changes in shared folders to a guest whose containers mount them."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from pymachine.driver.kit.share_events.host_changes import MOST_FOLDERS, HostChange, Watcher, files_in, folders_in
from pymachine.driver.kit.share_events.messages import MARKS, Folders, GuestEvent, Mark, Reports, Word, message
from pymachine.driver.kit.share_events.own_changes import OwnChanges
from pymachine.driver.kit.share_events.reported_files import ReportedFiles
from pymachine.driver.shares import Share, in_mount_order

_CHUNK = 65536
# A guest that reports without end must not occupy a CPU of the host.
_PAUSE_SECONDS = 0.002
# A busy guest in emulation may take seconds. Afterwards, a change that may be its own is taken for the host's.
_MARK_SECONDS = 10.0
# After changes of more files at once, such as a checkout, only their folders get events.
_MOST_CHANGES = 1000
_MOST_WAITING = 1000
IDLE_SECONDS = 600.0
_MOST_LINES = 10_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Location:
    """A folder of the host, by its real path, and where it is in the guest."""

    path: str
    guest: str


class _EndedError(Exception):
    """The guest, or the connection to it, has ended."""


class Follower:
    """Follows one guest."""

    def __init__(
        self,
        shares: Sequence[Share],
        *,
        left_out: Collection[str],
        incoming: int,
        outgoing: int,
        say: Say,
        marks_folder: str = MARKS,
        idle_seconds: float | None = IDLE_SECONDS,
        only_plain_files: bool = False,
    ) -> None:
        """`incoming` and `outgoing` are descriptors of the connection to the guest's script.

        `marks_folder` is where the guest makes its marks. `run` ends after `idle_seconds` in which containers have
        mounted no shared folder, or never for that reason with None. With `only_plain_files` there are events for
        folders and regular files, and links to them, but not for named pipes and devices.
        """
        self._only_plain_files = only_plain_files
        self._marks_folder = marks_folder
        self._idle_seconds = idle_seconds
        self._locations = [
            _Location(os.path.realpath(share.path), str(share.guest_path)) for share in in_mount_order(shares)
        ]
        self._left_out = left_out
        self._incoming = incoming
        self._outgoing = outgoing
        self._say = say
        self._lines = 0
        self._queue: queue.Queue[Folders | GuestEvent | Mark | list[HostChange] | None] = queue.Queue(_MOST_WAITING)
        self._own = OwnChanges()
        self._in_change = False
        self._marks = 0
        """How many marks the guest has still to make."""
        self._unwatched: list[str] = []
        """Folders of the guest in which it does not report its changes yet."""
        self._reported = ReportedFiles()
        self._roots: list[_Location] = []
        self._folders: dict[str, str] = {}
        """The watched folders: the path on the host by the one in the guest."""
        self._guest_paths: dict[str, list[str]] = {}
        """The same folders by their paths on the host: one may be shared at several paths of the guest."""
        self._watcher: Watcher | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def run(self) -> None:
        """Follow the guest until the connection ends, or its containers have mounted no shared folder for a while."""
        self._reader.start()
        try:
            self._send(Word.HELLO)
            while True:
                self._take(self._queue.get(timeout=None if self._roots else self._idle_seconds))
        except (_EndedError, queue.Empty):
            return
        finally:
            if self._watcher:
                self._watcher.end()

    def await_reader(self) -> None:
        """Wait until no thread reads from `incoming`, so that it can be closed. The caller has ended the connection."""
        while self._reader.is_alive():
            with suppress(queue.Empty):  # it may be waiting for room
                self._queue.get(timeout=0.05)

    # -- the guest ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        reports = Reports(self._marks_folder)
        while True:
            try:
                data = os.read(self._incoming, _CHUNK)
            except OSError:
                data = b""
            for report in reports.feed(data):
                self._queue.put(report)
            if not data:
                self._queue.put(None)
                return
            time.sleep(_PAUSE_SECONDS)

    def _send(self, word: Word, paths: Sequence[str] = ()) -> None:
        try:
            for data in message(word, paths):
                view = memoryview(data)
                while view:
                    view = view[os.write(self._outgoing, view) :]
        except OSError as error:
            raise _EndedError from error

    def _take(self, found: Folders | GuestEvent | Mark | list[HostChange] | None) -> None:
        if found is None:
            raise _EndedError
        if isinstance(found, Folders):
            self._mount(found)
        elif isinstance(found, list):
            self._changed(found)
        else:
            self._note(found)

    def _note(self, report: GuestEvent | Mark) -> None:
        if report is Mark.SYNC:
            self._marks = max(0, self._marks - 1)
            if not self._marks:
                for folder in self._unwatched:
                    self._own.watched(folder)
                self._unwatched.clear()
        elif isinstance(report, Mark):
            self._in_change = report is Mark.BEGIN or (self._in_change and report is not Mark.END)
        # Between the marks, changes of attributes are the events that the host requested.
        elif not (self._in_change and "ATTRIB" in report.kinds):
            self._own.note(report)

    def _hear_all(self) -> list[HostChange]:
        """Note all that the guest has done so far. Return the host's changes that came meanwhile."""
        self._mark()
        later: list[HostChange] = []
        end = time.monotonic() + _MARK_SECONDS
        while self._marks and (seconds := end - time.monotonic()) > 0:
            try:
                found = self._queue.get(timeout=seconds)
            except queue.Empty:
                break
            if isinstance(found, list):
                later += found
            else:
                self._take(found)
        self._marks = 0
        return later

    def _mark(self) -> None:
        self._send(Word.MARK)
        self._marks += 1

    def _report(self, text: str) -> None:
        """Log a line. A guest cannot fill the disk of the host with them."""
        self._lines += 1
        if self._lines <= _MOST_LINES:
            self._say(text)

    # -- the folders that containers mount ---------------------------------------------------------------------------

    def _mount(self, report: Folders) -> None:
        """Watch the folders of `report`. A guest that restarts sends an empty one first."""
        roots = [location for path in report.paths for location in self._at(path)]
        if roots == self._roots:
            return
        self._roots = roots
        names = ", ".join(sorted({root.path for root in roots}))
        self._report(f"watching {names}" if names else "watching nothing: no container has mounted a shared folder")
        self._follow(roots, {})
        if len(self._folders) >= MOST_FOLDERS:
            self._report(f"only the {MOST_FOLDERS} nearest folders are watched; changes in others raise no events")

    def _at(self, path: str) -> list[_Location]:
        """Return the shared folders that are at, or around, or in the guest's `path`."""
        guest = PurePosixPath(path)
        inside = [location for location in self._locations if PurePosixPath(location.guest).is_relative_to(guest)]
        around = [location for location in self._locations if guest.is_relative_to(location.guest)]
        if around:
            location = max(around, key=lambda each: len(each.guest))
            if location not in inside:
                # First, so that a share that hides a part of it in the guest takes its place.
                return self._in_share(location, str(guest.relative_to(location.guest))) + inside
        return inside

    @staticmethod
    def _in_share(location: _Location, below: str) -> list[_Location]:
        """Return the folder `below` in a share, unless a symbolic link of the guest leads out of the share."""
        real = os.path.realpath(os.path.join(location.path, below))  # noqa: PTH118
        if not _is_in(real, location.path) or not os.path.isdir(real):  # noqa: PTH112
            return []
        return [_Location(real, _translated(real, location.path, location.guest))]

    def _found(self, root: _Location) -> dict[str, str]:
        """Return the folders to watch in `root`, by their paths in the guest."""
        folders = folders_in(root.path, left_out=self._left_out)
        return {_translated(folder, root.path, root.guest): folder for folder in folders}

    def _follow(self, locations: Sequence[_Location], kept: Mapping[str, str]) -> None:
        """Watch the folders `kept` and those in `locations`, and no others."""
        wanted = dict(kept)
        while True:
            found = [item for location in locations for item in self._found(location).items()]
            wanted = dict(list({**wanted, **dict(found)}.items())[:MOST_FOLDERS])
            if wanted == self._folders:
                return
            # Then look again: folders may have been created before their parent was watched.
            self._watch_only(wanted)

    def _watch_only(self, wanted: dict[str, str]) -> None:
        """Watch exactly the folders `wanted`, here and in the guest."""
        before, self._folders = self._folders, wanted
        released = [guest for guest, path in before.items() if wanted.get(guest) != path]
        self._send_all(Word.RELEASE, released)
        kept = [guest for guest, path in wanted.items() if before.get(guest) != path]
        self._send_all(Word.KEEP, kept)
        self._guest_paths.clear()
        for guest, path in wanted.items():
            self._guest_paths.setdefault(path, []).append(guest)
        self._watch()
        if kept or released:
            self._send(Word.WATCH)
            self._unwatched += kept
            self._mark()

    def _forget(self, gone: str) -> None:
        """Stop watching a folder that was removed. Another one may have its path soon."""
        released = [guest for guest, path in self._folders.items() if _is_in(path, gone)]
        for guest in released:
            self._guest_paths.pop(self._folders.pop(guest), None)
        self._send_all(Word.RELEASE, released)

    def _watch(self) -> None:
        """Watch the folders on the host. The earlier watcher ends when the new one works."""
        earlier, self._watcher = self._watcher, None
        folders = list(self._guest_paths)
        while folders and self._watcher is None:
            try:
                self._watcher = Watcher(folders, self._queue.put)
            except FileNotFoundError:  # one has just been removed
                continue
            except OSError as error:
                self._report(f"cannot watch {len(folders)} folders ({error}); trying half of them")
                folders = folders[: len(folders) // 2]
        if earlier:
            earlier.end()

    # -- changes -----------------------------------------------------------------------------------------------------

    def _changed(self, changes: list[HostChange]) -> None:
        while changes:
            later = self._hear_all()
            self._pass_on(changes)
            changes = later

    def _pass_on(self, changes: Iterable[HostChange]) -> None:
        """Raise events in the guest for changes that it has not made."""
        reported: dict[str, str] = {}
        """The path in the guest of each event, and the path on the host."""
        new: list[_Location] = []
        reported_new: list[_Location] = []
        # A folder that was replaced has been removed first.
        for change in sorted(changes, key=lambda each: not each.is_gone):
            folder, name = os.path.split(change.path)
            guest_folders = self._guest_paths.get(folder, ())
            if not guest_folders or name in self._left_out or os.path.realpath(folder) != folder:
                continue
            is_new_folder = change.is_new and _is_folder(change.path)
            if change.is_gone:
                self._forget(change.path)
            is_event = self._reported.is_unchanged(change.path)
            for guest_folder in guest_folders:
                location = _Location(change.path, f"{guest_folder.rstrip('/')}/{name}")
                if is_new_folder:
                    new.append(location)
                if self._own.made(location.guest) or is_event:
                    continue
                reported |= {guest_folder: folder} if change.is_gone else {location.guest: location.path}
                if is_new_folder:
                    reported_new.append(location)
        self._follow(new, self._folders)
        # Now that they are watched, no file in them is missed.
        for location in reported_new:
            for at, path in self._found(location).items():
                reported |= {f"{at}/{name}": os.path.join(path, name) for name in files_in(path)}  # noqa: PTH118
        self._raise(reported)

    def _raise(self, reported: Mapping[str, str]) -> None:
        """Raise events for paths in the guest, given with those on the host."""
        if len(reported) > _MOST_CHANGES:
            reported = {os.path.dirname(at): os.path.dirname(path) for at, path in reported.items()}  # noqa: PTH120
        if self._only_plain_files:
            reported = {at: path for at, path in reported.items() if os.path.isfile(path) or os.path.isdir(path)}  # noqa: PTH112, PTH113 (they never raise)
        self._reported.note(reported.values())
        self._send_all(Word.CHANGE, list(reported))

    def _send_all(self, word: Word, paths: Sequence[str]) -> None:
        if paths:
            self._send(word, paths)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 (they never raise)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _translated(path: str, before: str, after: str) -> str:
    """Return `path`, which is in the folder `before`, in the folder `after`."""
    below = path[len(before.rstrip("/")) :]
    return (after.rstrip("/") + below) or "/"

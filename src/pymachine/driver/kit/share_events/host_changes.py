"""Watch folders of this host, and find the folders to watch."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

MOST_FOLDERS = 4096
"""The largest number of folders that are watched for a machine: those nearest to the folders that containers mount."""
# Changes are collected until there are none for one step, or for as long as this.
_STEP_MILLISECONDS = 100
_LONGEST_MILLISECONDS = 300
# How often a watcher without changes looks whether it was ended.
_TIMEOUT_MILLISECONDS = 1000
# Between two starts, of which a guest can cause one at any time.
_PAUSE_SECONDS = 0.5
# A guest can put a symbolic link in a folder's place at any time. So folders are opened first, and checked then.
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_OPENED = Path("/proc/self/fd")
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
# The numbers of watchfiles.Change.
_ADDED, _DELETED = 1, 3


@dataclass(frozen=True)
class HostChange:
    """A change of a file or folder at an absolute path of this host."""

    path: str
    is_new: bool = False
    is_gone: bool = False


class Watcher:
    """Watches folders, without those in them, from its creation on, in a thread that calls `found` with the changes.

    Folders that do not exist or cannot be read are left out, as are those whose path has a symbolic link in it.
    """

    def __init__(self, folders: Collection[str], found: Callable[[list[HostChange]], object]) -> None:
        """Raises OSError if the system allows fewer watches or open files."""
        self._folders = sorted(folders)
        self._found = found
        self._end = threading.Event()
        self._paths: dict[str, str] = {}
        self._notify = self._started()
        threading.Thread(target=self._watch, daemon=True).start()

    def _started(self) -> RustNotify:
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError  # noqa: PLC0415 (few machines)

        self._paths.clear()
        with ExitStack() as kept:
            for folder in self._folders:
                try:
                    handle = kept.enter_context(opened(folder))
                except OSError as error:
                    if error.errno in _TOO_MANY:
                        raise
                    continue
                self._paths[str(_OPENED / str(handle)) if _OPENED.exists() else folder] = folder
            try:
                return RustNotify(
                    list(self._paths),
                    debug=False,
                    force_polling=False,
                    poll_delay_ms=0,
                    recursive=False,
                    ignore_permission_denied=True,
                )
            except WatchfilesRustInternalError as error:
                raise OSError(str(error)) from error

    def end(self) -> None:
        """End the thread soon, once it has passed on the changes until now."""
        self._end.set()

    def _watch(self) -> None:
        from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415

        is_last = False
        while not is_last:
            is_last = self._end.is_set()
            try:
                # With an event to stop it, this would throw away the changes that it has collected.
                changes = self._notify.watch(_LONGEST_MILLISECONDS, _STEP_MILLISECONDS, _TIMEOUT_MILLISECONDS, None)
            except WatchfilesRustInternalError:
                # It ends at a name that is not UTF-8. Changes at the same time are lost.
                self._notify.close()
                if not self._start_again():
                    return
                continue
            if not isinstance(changes, str):  # not the timeout
                self._found(
                    [HostChange(self._path(path), kind == _ADDED, kind == _DELETED) for kind, path in sorted(changes)]
                )
        self._notify.close()

    def _start_again(self) -> bool:
        """Watch again after a pause, as soon as the system allows it. Return false if the watcher was ended before."""
        while not self._end.wait(_PAUSE_SECONDS):
            try:
                self._notify = self._started()
            except OSError:
                continue
            return True
        return False

    def _path(self, watched: str) -> str:
        """Return the path of a watched folder, or of what is in it."""
        if watched in self._paths:
            return self._paths[watched]
        folder, name = os.path.split(watched)
        return os.path.join(self._paths[folder], name)  # noqa: PTH118


@contextmanager
def opened(folder: str) -> Iterator[int]:
    """Open a folder by its real path, and yield the file descriptor.

    Raises OSError if it cannot be read, or if a symbolic link has taken its place or that of a folder around it.
    """
    handle = os.open(folder, _FOLDER)
    try:
        real = str((_OPENED / str(handle)).readlink()) if _OPENED.exists() else os.path.realpath(folder)
        if real != folder:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder)
        yield handle
    finally:
        os.close(handle)


def folders_in(root: str, *, left_out: Collection[str], most: int = MOST_FOLDERS) -> list[str]:
    """Return `root`, a real path, and the folders in it, nearest first, without those whose name is in `left_out`.

    Symbolic links are not followed. Folders that cannot be read are skipped.
    """
    found: list[str] = []
    waiting = deque([root])
    while waiting and len(found) < most:
        folder = waiting.popleft()
        try:
            with opened(folder) as handle, os.scandir(handle) as entries:
                names = sorted(e.name for e in entries if e.name not in left_out and e.is_dir(follow_symlinks=False))
        except OSError:
            continue
        waiting.extend(os.path.join(folder, name) for name in names)  # noqa: PTH118
        found.append(folder)
    return found


def files_in(folder: str) -> list[str]:
    """Return the names in a folder, or nothing if it cannot be read or a symbolic link has taken its place."""
    try:
        with opened(folder) as handle:
            return sorted(os.listdir(handle))  # noqa: PTH208 (of a descriptor)
    except OSError:
        return []

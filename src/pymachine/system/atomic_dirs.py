"""Folders that appear and disappear in one step: they are filled under a temporary name and then renamed.

A folder that is being made or removed is locked. The kernel releases the lock when the process ends, so that `sweep`
can tell which folders a killed process left, even if several containers share a disk.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pymachine.system import files
from pymachine.system.run import process_exists

TEMPORARY = ".tmp-"
# From linux/fcntl.h and linux/fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# The temporary names of this module and of earlier versions. Nothing else is ever removed.
_NAME = re.compile(r"\.tmp-[0-9]+-[0-9a-z_]{8,16}\Z|\.(?:removed|import)-[0-9a-f]{16}\Z")


@contextmanager
def making(root: Path, *, private: bool) -> Iterator[Path]:
    """Make an empty folder below `root`, to be filled and given to `publish`. It is removed if it is not published.

    Folders that killed processes left are removed too. Raises OSError.
    """
    sweep(root)
    folder, lock = _make(root, 0o700 if private else 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def publish(folder: Path, target: Path) -> None:
    """Rename a folder from `making` to `target`, replacing an existing one. Raises OSError.

    On Linux, there is a folder at `target` at every moment. The old one is removed at the end of `making`.
    """
    if target.is_dir() and not target.is_symlink() and _exchange(folder, target):
        return
    if os.path.lexists(target):
        # Another user's folder may be movable but not removable; `sweep` tries again.
        with suppress(OSError), _set_aside(target) as aside:
            files.remove_tree(aside)
    folder.rename(target)


def _exchange(folder: Path, other: Path) -> bool:
    """Exchange two names in one step, and return whether that was done: renameat2(2)."""
    if sys.platform != "linux":
        return False
    import ctypes  # noqa: PLC0415 (used only here)

    function = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(folder), os.fsencode(other)
    return function is not None and function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def retire(folder: Path) -> None:
    """Rename a folder to a temporary name and remove it, so that no process sees half of it.

    Open files in it stay usable. Of a symbolic link, only the link is removed. A folder that cannot be removed gets
    its name back. Raises OSError.
    """
    with _set_aside(folder) as aside:
        try:
            files.remove_tree(aside)
        except OSError:
            aside.rename(folder)
            raise


def sweep(root: Path) -> None:
    """Remove the folders that killed processes left below `root`."""
    for folder in leftovers(root):
        lock = _lock(folder)
        if _is_abandoned(folder, lock):
            with suppress(OSError):  # another user's, or another process was quicker
                files.remove_tree(folder)
        _unlock(lock)


def leftovers(root: Path) -> list[Path]:
    """Return the temporary folders below `root`: those in use, and those that killed processes left."""
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if _NAME.match(entry.name))
    except OSError:
        return []


def is_abandoned(folder: Path) -> bool:
    """Return whether no process uses the temporary folder any more."""
    lock = _lock(folder)
    _unlock(lock)
    return _is_abandoned(folder, lock)


def _is_abandoned(folder: Path, lock: int | None) -> bool:
    """Return whether no process uses a folder for which `_lock` returned `lock`."""
    if lock != _NO_LOCK:
        return lock is not None
    pid = folder.name.removeprefix(TEMPORARY).partition("-")[0]
    return not pid.isdigit() or not process_exists(int(pid))


def _make(root: Path, mode: int) -> tuple[Path, int]:
    """Make a folder and lock it. Try again if `sweep` removed it before it was locked."""
    while True:
        folder = root / _temporary_name()
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
        if lock is not None and folder.is_dir():
            folder.chmod(mode)
            return folder, lock


@contextmanager
def _set_aside(folder: Path) -> Iterator[Path]:
    """Give a folder a temporary name, and lock it for the block."""
    lock = _lock(folder)
    try:
        aside = folder.with_name(_temporary_name())
        folder.rename(aside)
        yield aside
    finally:
        _unlock(lock)


def _temporary_name() -> str:
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"


# Returned for a folder that cannot be locked: a link, another user's folder, or a file system without such locks.
# There the process id in the name decides.
_NO_LOCK = -1


def _lock(folder: Path) -> int | None:
    """Lock a folder until `_unlock`. Return None if another process has locked it."""
    try:
        # Windows lacks these flags, and cannot open folders.
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return _NO_LOCK
    is_locked = files.try_lock(handle)
    if is_locked:
        return handle
    os.close(handle)
    return _NO_LOCK if is_locked is None else None


def _unlock(lock: int | None) -> None:
    if lock not in (None, _NO_LOCK):
        os.close(lock)

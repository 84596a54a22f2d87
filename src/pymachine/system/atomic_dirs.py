"""Folders that are made beside their place and renamed into it when whole, and never change after that.

A folder that is being made or removed has a temporary name and is locked. The kernel lets go of the lock when the
process ends, so that `sweep` knows which folders a killed process left, also where several containers share a disk.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pymachine.system import files
from pymachine.system.run import process_exists

TEMPORARY = ".tmp-"
# Names of this module, and those of removals and imports by earlier versions. Nothing else is ever removed.
_NAME = re.compile(r"\.tmp-[0-9]+-[0-9a-z_]{8,16}\Z|\.(?:removed|import)-[0-9a-f]{16}\Z")


@contextmanager
def making(root: Path, *, private: bool) -> Iterator[Path]:
    """An empty folder below `root`, to be filled and then given to `publish`; what is not published is removed.

    What makers that were killed left behind is removed too. Raises OSError.
    """
    sweep(root)
    folder, lock = _made(root, 0o700 if private else 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(lock)


def publish(folder: Path, target: Path) -> None:
    """Rename a folder from `making` to `target`, in the place of what is there. Raises OSError."""
    if os.path.lexists(target):
        # What another user left may be moved away, but not emptied; `sweep` tries again.
        with suppress(OSError), _set_aside(target) as aside:
            files.remove_tree(aside)
    folder.rename(target)


def retire(folder: Path) -> None:
    """Remove a folder under a temporary name, so that no process finds half of it; open files in it stay usable.

    Of a symbolic link, the link is removed. What cannot be removed has its name again. Raises OSError.
    """
    with _set_aside(folder) as aside:
        try:
            files.remove_tree(aside)
        except OSError:
            aside.rename(folder)
            raise


def sweep(root: Path) -> None:
    """Remove what processes that were killed left below `root`."""
    for folder in leftovers(root):
        lock = _lock(folder)
        if _is_abandoned(folder, lock):
            with suppress(OSError):  # another user's, or another process was quicker
                files.remove_tree(folder)
        _let_go(lock)


def leftovers(root: Path) -> list[Path]:
    """What is below `root` under a temporary name: what is being made or removed, and what killed processes left."""
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if _NAME.match(entry.name))
    except OSError:
        return []


def is_abandoned(folder: Path) -> bool:
    """Whether no process is at work in a folder with a temporary name any more."""
    lock = _lock(folder)
    _let_go(lock)
    return _is_abandoned(folder, lock)


def _is_abandoned(folder: Path, lock: int | None) -> bool:
    """Whether no process is at work in a folder for which `_lock` returned `lock`."""
    if lock != _NO_LOCK:
        return lock is not None
    pid = folder.name.removeprefix(TEMPORARY).partition("-")[0]
    return not pid.isdigit() or not process_exists(int(pid))


def _made(root: Path, mode: int) -> tuple[Path, int]:
    """A new folder with its lock. One that `sweep` finds before it is locked is made again."""
    while True:
        folder = root / _temporary_name()
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
        if lock is not None and folder.is_dir():
            folder.chmod(mode)
            return folder, lock


@contextmanager
def _set_aside(folder: Path) -> Iterator[Path]:
    """Give a folder a temporary name, locked for the block."""
    lock = _lock(folder)
    try:
        aside = folder.with_name(_temporary_name())
        folder.rename(aside)
        yield aside
    finally:
        _let_go(lock)


def _temporary_name() -> str:
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"


# Stands for a lock that cannot be had: of a link, of another user's folder, on a system or file system without such
# locks. There the process id in the name decides.
_NO_LOCK = -1


def _lock(folder: Path) -> int | None:
    """Lock a folder until `_let_go`; None if another process has it."""
    try:
        # Windows has no such flags, and opens no folders.
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return _NO_LOCK
    is_locked = files.try_lock(handle)
    if is_locked:
        return handle
    os.close(handle)
    return _NO_LOCK if is_locked is None else None


def _let_go(lock: int | None) -> None:
    if lock not in (None, _NO_LOCK):
        os.close(lock)

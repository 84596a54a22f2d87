"""Unfinished changes of a machine: notes in its folder about what a command is doing to it.

A command writes a note before the first step of a change and removes it after the last one. A note that is there while
no process holds the machine's lock was left by a command that was killed. `pymachine.hosts.recovery` finishes or undoes
that change.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.system import files

PREFIX = ".unfinished-"
CREATE = "create"
BOOT = "boot"
HOLD = "hold"
RENAME = "rename"
RESTORE = "restore"
UPGRADE = "upgrade"
# The order in which they are settled: a boot may be part of a restore, and a hold part of nothing else.
_ORDER = (CREATE, HOLD, BOOT, RESTORE, UPGRADE, RENAME)
# Longer than writing any small file takes. Files that take longer are written under the machine's lock.
_TEMPORARY_SECONDS = 60.0
_BOOT_ID = "BootId"
_LONGEST_NOTE = 1 << 20


@dataclass(frozen=True)
class Change:
    """A change that was begun, and what is needed to settle it."""

    name: str
    facts: Mapping[str, Json] = field(default_factory=dict)
    age: float = 0.0
    """In seconds."""
    is_of_this_boot: bool = True
    """Whether the host has not been started again since."""


def note(folder: Path, name: str, facts: Mapping[str, Json] | None = None, *, durable: bool = False) -> None:
    """Write the note of a change, in place of one that is there.

    `durable`: it is on the disk before this returns, for changes that a power cut must not leave half done either.
    Raises OSError.
    """
    content = {**(facts or {}), _BOOT_ID: _boot_id()}
    files.atomic_write(folder / (PREFIX + name), json.dumps(content), durable=durable)


def clear(folder: Path, name: str) -> None:
    """Remove the note of a change, if it is there. Raises OSError."""
    (folder / (PREFIX + name)).unlink(missing_ok=True)


def changes(folder: Path) -> list[Change]:
    """The changes that are noted in a machine's folder, in the order in which they are to be settled."""
    notes = [name for name in _hidden(folder) if name.startswith(PREFIX) and not name.endswith(files.TEMPORARY)]
    found = [name.removeprefix(PREFIX) for name in notes]
    # A note of a newer version's comes last, and stays.
    ordered = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return [_read(name, folder / (PREFIX + name)) for name in ordered]


def has_leftovers(folder: Path) -> bool:
    """Whether there are notes in a machine's folder, or temporary files that are old enough to be left over."""
    return any(name.startswith(PREFIX) or _is_left_over(folder / name) for name in _hidden(folder))


def sweep_files(folder: Path) -> None:
    """Remove the temporary files that killed commands left in a folder. Hold the lock of what it is of."""
    for name in _hidden(folder):
        if _is_left_over(folder / name):
            (folder / name).unlink(missing_ok=True)


def sweep_copies(path: Path) -> None:
    """Remove the temporary files for `path` that killed commands left beside it. Hold the lock of what it is of."""
    for name in _hidden(path.parent):
        if name.startswith(f".{path.name}.") and _is_left_over(path.with_name(name)):
            with suppress(OSError):  # another user's
                path.with_name(name).unlink()


def _hidden(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.startswith(".")]
    except OSError:  # it is gone, or is no folder: what reads its record says so
        return []


def _read(name: str, path: Path) -> Change:
    try:
        facts = json.loads(files.read_regular(path))
        age = time.time() - path.stat().st_mtime
    except (OSError, ValueError, RecursionError):
        return Change(name)
    if not isinstance(facts, dict):
        return Change(name, age=age)
    return Change(name, facts, age=age, is_of_this_boot=facts.get(_BOOT_ID) == _boot_id())


def _boot_id() -> str:
    """What the kernel calls the time since the host was started; empty where it has no name for that."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_left_over(path: Path) -> bool:
    """Whether it is a temporary file that no process writes any more; notes are written under the lock alone."""
    if not files.TEMPORARY_NAME.match(path.name):
        return False
    try:
        # Not the time of its content: the file may be a link to an old one.
        is_old = path.name.startswith(PREFIX) or time.time() - path.lstat().st_ctime > _TEMPORARY_SECONDS
        return is_old and not _is_held(path)
    except OSError:
        return False


def _is_held(path: Path) -> bool:
    """Whether a process keeps the file to put it back."""
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    try:
        # An NFS server gives a lock for one process alone only on a file that is open for writing; see flock(2).
        handle = os.open(path, os.O_RDWR | nonblocking)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY | nonblocking)
    try:
        return files.try_lock(handle) is False
    finally:
        os.close(handle)

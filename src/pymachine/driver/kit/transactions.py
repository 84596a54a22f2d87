"""Notes in a machine's folder about changes that are in progress.

A command writes a note before the first step of a change, and removes it after the last one. If a note exists while no
process holds the machine's lock, its command was killed, and `pymachine.hosts.recovery` finishes or undoes the change.
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
# The order of recovery: a boot may be part of a restore, and a hold is part of nothing else.
_ORDER = (CREATE, HOLD, BOOT, RESTORE, UPGRADE, RENAME)
# Longer than it takes to write any small file. Larger files are written under the machine's lock.
_TEMPORARY_SECONDS = 60.0
_BOOT_ID = "BootId"
_LONGEST_NOTE = 1 << 20


@dataclass(frozen=True)
class Change:
    """An unfinished change, and the facts needed to finish or undo it."""

    name: str
    facts: Mapping[str, Json] = field(default_factory=dict)
    age: float = 0.0
    """In seconds."""
    is_of_this_boot: bool = True
    """Whether the host has not rebooted since."""


def note(folder: Path, name: str, facts: Mapping[str, Json] | None = None, *, durable: bool = False) -> None:
    """Write the note of a change; replace an existing one.

    A `durable` note is on the disk when this returns, for changes that even a power cut must not leave unfinished.
    Raises OSError.
    """
    content = {**(facts or {}), _BOOT_ID: _boot_id()}
    files.atomic_write(folder / (PREFIX + name), json.dumps(content), durable=durable)


def clear(folder: Path, name: str) -> None:
    """Remove the note of a change, if it exists. Raises OSError."""
    (folder / (PREFIX + name)).unlink(missing_ok=True)


def changes(folder: Path) -> list[Change]:
    """Return the unfinished changes in a machine's folder, in the order of recovery."""
    notes = [name for name in _hidden(folder) if name.startswith(PREFIX) and not name.endswith(files.TEMPORARY)]
    found = [name.removeprefix(PREFIX) for name in notes]
    # A newer version's note comes last, and is kept.
    ordered = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return [_read(name, folder / (PREFIX + name)) for name in ordered]


def has_leftovers(folder: Path) -> bool:
    """Return whether a machine's folder has notes, or leftover temporary files."""
    return any(name.startswith(PREFIX) or _is_left_over(folder / name) for name in _hidden(folder))


def sweep_files(folder: Path) -> None:
    """Remove the temporary files that killed commands left in a folder. The caller must hold its lock."""
    for name in _hidden(folder):
        if _is_left_over(folder / name):
            (folder / name).unlink(missing_ok=True)


def sweep_copies(path: Path) -> None:
    """Remove the temporary files for `path` that killed commands left in its folder. The caller must hold its lock."""
    for name in _hidden(path.parent):
        if name.startswith(f".{path.name}.") and _is_left_over(path.with_name(name)):
            with suppress(OSError):  # it belongs to another user
                path.with_name(name).unlink()


def _hidden(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.startswith(".")]
    except OSError:  # gone, or no folder: reading the machine's record reports that
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
    """Return the kernel's id of the host's current boot, or "" if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_left_over(path: Path) -> bool:
    """Return whether it is a temporary file that no process writes any more.

    The temporary file of a note needs no minimum age, since notes are written under the machine's lock.
    """
    if not files.TEMPORARY_NAME.match(path.name):
        return False
    try:
        # ctime, not mtime: the file may be a hard link to an old one.
        is_old = path.name.startswith(PREFIX) or time.time() - path.lstat().st_ctime > _TEMPORARY_SECONDS
        return is_old and not _is_held(path)
    except OSError:
        return False


def _is_held(path: Path) -> bool:
    """Return whether a process holds the file, to restore it later."""
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    try:
        # On NFS, an exclusive lock needs a file that is open for writing; see flock(2).
        handle = os.open(path, os.O_RDWR | nonblocking)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY | nonblocking)
    try:
        return files.try_lock(handle) is False
    finally:
        os.close(handle)

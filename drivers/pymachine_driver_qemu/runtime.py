"""The folder of a machine's sockets.

A Unix socket's path has at most 107 bytes (103 on macOS), fewer than the paths of many stores. Therefore the sockets
are in another folder with a short path. The link ``run`` in the machine's folder leads there, for processes with
another environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.driver.errors import DriverError
from pymachine.driver.kit import probe_cache
from pymachine.driver.kit.system import files, os_errors

LINK = "run"
CONTROL = "control.sock"
PORTS = "ports.sock"
IDENTITY = "identity.sock"
CONTAINERS = "containers.sock"
SHARES = "shares.sock"
# Contains the deadline of the guest's shutdown, in seconds since 1970.
STOPPING = "stopping"
# An empty folder, which QEMU exports in place of unused shared folders.
EMPTY = "empty"
# A folder with an empty folder for each read-only shared folder, at which QEMU has it mounted: see `read_only_mounts`.
READ_ONLY = "read-only"
# The shared folders with which QEMU was not started: see `shares.note_missing`.
MISSING = "missing-shares.json"
# A link from the socket folder back to the machine's folder. A copied machine folder contains the original's ``run``.
OWNER = "machine"
# The prefix of the folders of accelerator trials.
TRIAL = "trial-"
# Longer than it takes to create a socket folder, or to finish a trial.
_OLD_SECONDS = 3600.0
_LONGEST_PATH = 103
_LONGEST_NAME = max(map(len, (CONTROL, PORTS, IDENTITY, CONTAINERS, SHARES))) + 1
_ID_LENGTH = 12
_NAME = re.compile(rf"[0-9a-f]{{{_ID_LENGTH}}}\Z")


class RuntimeFolderError(DriverError):
    """The folder for sockets cannot be created, or other users can access it."""

    code = "qemu-runtime-folder"


def base() -> Path:
    """Return the user's folder for all machines, with mode 0700; create it if it does not exist.

    It is in XDG_RUNTIME_DIR if that is the user's own and short enough, else in /tmp.
    """
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and _is_ours(Path(given)) and len(given) + len("/pymachine/") + _ID_LENGTH + _LONGEST_NAME < _LONGEST_PATH:
        return _create_private(Path(given) / "pymachine")
    # Not TMPDIR, which may be long, and may differ between the user's sessions.
    return _create_private(Path(f"/tmp/pymachine-{_user()}"))  # noqa: S108 (owner and mode are checked)


def make(directory: Path, machine_id: str) -> Path:
    """Create an empty socket folder for the machine in `directory`, and the link to it."""
    sweep()
    remove(directory)
    folder = _create_private(base() / _name(directory, machine_id))
    _empty(folder)
    link = directory / LINK
    try:
        (folder / EMPTY).mkdir(mode=0o500)
        (folder / OWNER).symlink_to(f"{directory.stat().st_ino}:{directory}")
        link.symlink_to(folder)
    except OSError as error:
        raise os_errors.wrapped(RuntimeFolderError, f"cannot write {link}", error) from error
    return folder


def find(directory: Path) -> Path | None:
    """Return the machine's socket folder, or None if it has none of its own.

    The link may have been copied with the machine's folder. It is followed only to a private folder with a valid name
    and location, and with a link back to this machine.
    """
    try:
        folder = (directory / LINK).readlink()
    except OSError:
        return None
    # XDG_RUNTIME_DIR may have been different when the folder was created, so only the names of `base` are known.
    named = _NAME.match(folder.name) and folder.parent.name in {"pymachine", f"pymachine-{_user()}"}
    placed = named and folder.is_absolute() and _is_ours(folder.parent) and _is_ours(folder)
    return folder if placed and _is_of(folder, directory) else None


def remove(directory: Path) -> None:
    """Remove the socket folder and the link to it, if they exist."""
    folder = find(directory)
    if folder is not None:
        _empty(folder)
        with contextlib.suppress(OSError):  # it contains files that are not pymachine's
            folder.rmdir()
    link = directory / LINK
    if link.is_symlink():
        link.unlink(missing_ok=True)


def sweep() -> None:
    """Remove leftovers of killed commands: sockets of machines that are gone, and folders of accelerator trials."""
    old = time.time() - _OLD_SECONDS
    for folder in base().iterdir():
        # Another process may be removing it, too.
        with contextlib.suppress(OSError):
            if folder.name.startswith(TRIAL) and folder.lstat().st_mtime < old:
                shutil.rmtree(folder)
            elif _NAME.match(folder.name) and _is_ours(folder) and _is_abandoned(folder, old):
                _empty(folder)
                folder.rmdir()


def _is_abandoned(folder: Path, old: float) -> bool:
    """Return whether a socket folder has neither a machine nor a QEMU.

    A folder without a link back that was changed after `old` is just being created.
    """
    from pymachine_driver_qemu import qmp  # noqa: PLC0415 (commands that only read need none)

    try:
        inode, _, path = str((folder / OWNER).readlink()).partition(":")
    except FileNotFoundError:
        inode = path = ""
        if folder.stat().st_mtime >= old:
            return False
    has_machine = path and Path(path).exists() and inode == str(Path(path).stat().st_ino)
    return not has_machine and not qmp.is_listening(folder / CONTROL)


def _name(directory: Path, machine_id: str) -> str:
    """Return the socket folder's name: from the machine's id, or from its folder if a copy of it uses the id."""
    name = machine_id.replace("-", "").lower()[:_ID_LENGTH]
    if not _NAME.match(name):
        raise RuntimeFolderError(f"the machine's id {machine_id!r} is not valid as the name of a socket folder")
    folder = base() / name
    if (folder / OWNER).is_symlink() and not _is_of(folder, directory):
        return hashlib.sha256(os.fsencode(directory)).hexdigest()[:_ID_LENGTH]
    return name


def make_place(sockets: Path, name: str) -> Path:
    """Create an empty folder in `READ_ONLY`."""
    place = sockets / READ_ONLY / name
    try:
        place.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise os_errors.wrapped(RuntimeFolderError, f"cannot create {place}", error) from error
    return place


def remove_places(sockets: Path) -> None:
    """Remove the folder `READ_ONLY`, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        for place in (sockets / READ_ONLY).iterdir():
            place.rmdir()
        (sockets / READ_ONLY).rmdir()


def _empty(folder: Path) -> None:
    """Remove all that a socket folder contains: sockets, notes, empty folders, the machine's link."""
    remove_places(folder)
    with contextlib.suppress(FileNotFoundError):
        (folder / EMPTY).rmdir()
    for name in (CONTROL, PORTS, IDENTITY, CONTAINERS, SHARES, STOPPING, MISSING, OWNER):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()


def note_stop(sockets: Path, *, seconds: float) -> None:
    """Note that the guest is shutting down, for which it has `seconds`."""
    with contextlib.suppress(OSError):  # the machine has ended; or the disk is full, which must not prevent the stop
        files.atomic_write(sockets / STOPPING, f"{time.time() + seconds}", durable=False)


def is_stopping(sockets: Path) -> bool:
    """Return whether the guest is shutting down and still has time for it."""
    try:
        return time.time() < float((sockets / STOPPING).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False


def _is_of(folder: Path, directory: Path) -> bool:
    """Return whether the sockets belong to the machine in `directory`, which may have been moved while it ran."""
    try:
        inode, _, path = str((folder / OWNER).readlink()).partition(":")
        current_inode = directory.stat().st_ino
    except OSError:
        return False
    # A moved folder keeps its inode, and a copy has another one, even at the same path. A move to another file system
    # is a copy, after which the original is gone.
    return inode == str(current_inode) or not (Path(path) / LINK).is_symlink()


def _create_private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass  # the folder, or something of another user's; checked below
    except OSError as error:
        raise os_errors.wrapped(RuntimeFolderError, f"cannot create {folder}", error) from error
    if not _is_ours(folder):
        raise RuntimeFolderError(
            f"{folder} is not a private folder of this user",
            details=f"It is {_describe(folder)}.",
            hint="Set XDG_RUNTIME_DIR to a folder of yours with mode 0700 and a short path. Only the owner of "
            f"{folder}, and root, can remove it.",
        )
    return folder


def _user() -> int:
    """Return the user's number. There is one user where users have no numbers, on Windows."""
    if sys.platform == "win32":
        return 0
    return os.getuid()


def _is_ours(folder: Path) -> bool:
    """Return whether it is a folder, not a link, that only this user can enter. In /tmp, others may have created it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == _user() and not status.st_mode & 0o077


def _describe(folder: Path) -> str:
    status = folder.lstat()
    return f"{stat.filemode(status.st_mode)} of user {status.st_uid}"


def probe_key(*parts: object) -> str:
    """Return the name of a probe's result. Another boot of the host has other results."""
    return " ".join([probe_cache.boot_id(), *(str(part) for part in parts)])


def probe_results(name: str) -> AbstractContextManager[dict[str, Json]]:
    """Open the results of this boot in the file `name`: see `pymachine.driver.kit.probe_cache`."""
    boot = probe_cache.boot_id()
    return probe_cache.results(base() / name, is_current=lambda key, _: key.startswith(boot))

"""The folder of a machine's sockets.

A Unix socket's path has at most 107 bytes (103 on macOS), less than many a store's path, so that the sockets are in a
short folder elsewhere. The link ``run`` in the machine's folder says where, for processes with another environment.
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
# Until when the guest may take to shut down, in seconds since 1970.
STOPPING = "stopping"
# In the socket folder, and leads back: a machine's folder may be a copy of another's, with that one's link in it.
OWNER = "machine"
# The prefix of the folders of accelerator trials.
TRIAL = "trial-"
# Longer than it takes to make a socket folder, or to finish a trial.
_OLD_SECONDS = 3600.0
_LONGEST_PATH = 103
_LONGEST_NAME = max(map(len, (CONTROL, PORTS, IDENTITY, CONTAINERS))) + 1
_ID_LENGTH = 12
_NAME = re.compile(rf"[0-9a-f]{{{_ID_LENGTH}}}\Z")


class RuntimeFolderError(DriverError):
    """The folder for sockets cannot be created, or other users can access it."""

    code = "qemu-runtime-folder"


def base() -> Path:
    """The user's folder for all machines: in XDG_RUNTIME_DIR if that is the user's own, else in /tmp. Made, 0700."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and _is_ours(Path(given)) and len(given) + len("/pymachine/") + _ID_LENGTH + _LONGEST_NAME < _LONGEST_PATH:
        return _made(Path(given) / "pymachine")
    # /tmp by name: TMPDIR may be long, and may differ between the user's sessions.
    return _made(Path(f"/tmp/pymachine-{_user()}"))  # noqa: S108 (owner and mode are checked)


def make(directory: Path, machine_id: str) -> Path:
    """An empty socket folder for the machine whose folder is `directory`, with the link to it."""
    sweep()
    remove(directory)
    folder = _made(base() / _name(directory, machine_id))
    _empty(folder)
    link = directory / LINK
    try:
        (folder / OWNER).symlink_to(f"{directory.stat().st_ino}:{directory}")
        link.symlink_to(folder)
    except OSError as error:
        raise os_errors.wrapped(RuntimeFolderError, f"cannot write {link}", error) from error
    return folder


def find(directory: Path) -> Path | None:
    """The socket folder of the machine, None if it has none or it is not ours, or another machine's.

    The link may have come from elsewhere with the machine's folder: it is followed only to a folder that has the name
    and the place of such a folder, and that leads back.
    """
    try:
        folder = (directory / LINK).readlink()
    except OSError:
        return None
    # XDG_RUNTIME_DIR may have been another one when the folder was made: the names of `base` are all that is known.
    named = _NAME.match(folder.name) and folder.parent.name in {"pymachine", f"pymachine-{_user()}"}
    placed = named and folder.is_absolute() and _is_ours(folder.parent) and _is_ours(folder)
    return folder if placed and _is_of(folder, directory) else None


def remove(directory: Path) -> None:
    """Remove the socket folder and the link to it, if they are there."""
    folder = find(directory)
    if folder is not None:
        _empty(folder)
        with contextlib.suppress(OSError):  # something else is in it, which is not ours to remove
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
    """Whether a socket folder has no machine and no QEMU.

    A folder without a link back that was changed after `old` is just being made.
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
    """The name of the machine's socket folder: by its id, or by its folder if a copy of the machine has that one."""
    name = machine_id.replace("-", "").lower()[:_ID_LENGTH]
    if not _NAME.match(name):
        raise RuntimeFolderError(f"no folder for sockets can be named after the machine's id {machine_id!r}")
    folder = base() / name
    if (folder / OWNER).is_symlink() and not _is_of(folder, directory):
        return hashlib.sha256(os.fsencode(directory)).hexdigest()[:_ID_LENGTH]
    return name


def _empty(folder: Path) -> None:
    """Remove the sockets, the note of a stop, and the link to the machine: nothing else is ever in a socket folder."""
    for name in (CONTROL, PORTS, IDENTITY, CONTAINERS, STOPPING, OWNER):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()


def note_stop(sockets: Path, *, seconds: float) -> None:
    """Note that the guest was asked to shut down, which it has `seconds` for."""
    with contextlib.suppress(OSError):  # it has ended already; or the disk is full, which must not keep it running
        files.atomic_write(sockets / STOPPING, f"{time.time() + seconds}", durable=False)


def is_stopping(sockets: Path) -> bool:
    """Whether the guest was asked to shut down and has time left for it."""
    try:
        return time.time() < float((sockets / STOPPING).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False


def _is_of(folder: Path, directory: Path) -> bool:
    """Whether the sockets are those of the machine in `directory`, which may have been moved while it ran."""
    try:
        inode, _, path = str((folder / OWNER).readlink()).partition(":")
        own = directory.stat().st_ino
    except OSError:
        return False
    # A folder that is moved keeps its inode, and a copy of it has another, even in its place; but to another file
    # system a folder is moved by copying it.
    return inode == str(own) or not (Path(path) / LINK).is_symlink()


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass  # a folder, or what another user has put there; see below
    except OSError as error:
        raise os_errors.wrapped(RuntimeFolderError, f"cannot make {folder}", error) from error
    if not _is_ours(folder):
        raise RuntimeFolderError(
            f"{folder} is not a folder of this user alone",
            details=f"It is {_told(folder)}.",
            hint="Set XDG_RUNTIME_DIR to a folder of yours with mode 0700 and a short path. Only its owner and root "
            "can remove what is in the way.",
        )
    return folder


def _user() -> int:
    """Return the user's number. There is one user where users have no numbers, on Windows."""
    if sys.platform == "win32":
        return 0
    return os.getuid()


def _is_ours(folder: Path) -> bool:
    """Whether it is a real folder (no link) that nobody else can enter: in /tmp others may have made it first."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == _user() and not status.st_mode & 0o077


def _told(folder: Path) -> str:
    status = folder.lstat()
    return f"{stat.filemode(status.st_mode)} of user {status.st_uid}"


def probe_key(*parts: object) -> str:
    """Return the name of a probe's result. Another boot of the host has other results."""
    return " ".join([probe_cache.boot_id(), *(str(part) for part in parts)])


def probe_results(name: str) -> AbstractContextManager[dict[str, Json]]:
    """Open the results of this boot in the file `name`: see `pymachine.driver.kit.probe_cache`."""
    return probe_cache.results(base() / name, is_current=lambda key, _: key.startswith(probe_cache.boot_id()))

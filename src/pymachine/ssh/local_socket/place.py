"""Where a machine's local socket is: a path that stays the same, and that all programs can use.

A unix socket's path has at most 103 bytes on macOS, and 107 on Linux. OpenSSH reads some characters in it as syntax.
Therefore it is in the machine's folder only if that has a short and plain path, and else in a folder in /tmp.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

from pymachine.ssh import plain_paths
from pymachine.ssh.local_socket.process import LocalSocketError
from pymachine.store import paths
from pymachine.system import files, os_errors

_LONGEST_PATH = 103
_DIGITS = 16
_FRESH = ".new"


def path(folder: Path) -> Path:
    """Return the path of the socket of the machine in `folder`. It may not exist."""
    own = folder / paths.SOCKET
    if plain_paths.is_plain(own) and len(os.fsencode(fresh(own))) <= _LONGEST_PATH:
        return own
    # Not XDG_RUNTIME_DIR or TMPDIR, which may differ between the user's sessions.
    return _short_folder() / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:_DIGITS]}.sock"


def fresh(socket: Path) -> Path:
    """Return the path at which a socket is made, before it replaces the one at `socket`."""
    return socket.with_name(socket.name + _FRESH)


def url(folder: Path) -> str:
    """Return the value of DOCKER_HOST for the socket of the machine in `folder`."""
    return f"unix://{path(folder)}"


def prepare(socket: Path) -> None:
    """Make the folder of `socket`, with mode 0700, and remove what an earlier process left.

    Raises `LocalSocketError` if other users can enter the folder.
    """
    folder = socket.parent
    try:
        if folder == _short_folder():
            files.make_private_dir(folder)
        elif stat.S_IMODE(folder.stat().st_mode) & 0o077:  # a copied store
            folder.chmod(0o700)
        status = os.lstat(folder) if folder == _short_folder() else folder.stat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (_user(), 0) or status.st_mode & 0o077:
            raise LocalSocketError(
                f"{folder} is not a private folder of this user: it is {stat.filemode(status.st_mode)} of user "
                f"{status.st_uid}",
                hint="Only its owner, and root, can remove it.",
            )
        remove(socket)
    except OSError as error:
        raise os_errors.wrapped(LocalSocketError, f"cannot make a socket in {folder}", error) from error


def remove(socket: Path) -> None:
    """Remove the socket, if it exists. Raises OSError."""
    for each in (socket, fresh(socket)):
        each.unlink(missing_ok=True)


def _short_folder() -> Path:
    return Path(f"/tmp/pymachine-{_user()}")  # noqa: S108 (owner and mode are checked)


def _user() -> int:
    if sys.platform == "win32":  # where users have no numbers
        return 0
    return os.getuid()

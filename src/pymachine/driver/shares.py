"""Shared folders: folders of this host that are also in a machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# The most folders of one machine, whatever its driver can share. A record may come from another computer.
MOST = 100
_REASONS = {
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "it does not exist",
    errno.EACCES: "this user cannot read it",
    errno.ELOOP: "it is a loop of symbolic links",
    errno.ENAMETOOLONG: "its path is too long",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """A folder of this host, and where it is in the guest."""

    path: Path
    """The folder on this host, absolute."""
    guest_path: PurePosixPath
    """Its path in the guest, absolute."""
    read_only: bool = False

    def __str__(self) -> str:
        """Return the text of ``--share`` for it."""
        guest = "" if str(self.guest_path) == str(self.path) else f":{self.guest_path}"
        return f"{self.path}{guest}{':ro' if self.read_only else ''}"


@dataclass(frozen=True)
class ShareEvents:
    """How changes that this host makes in shared folders raise inotify events in the guest."""

    left_out: tuple[str, ...] = ()
    """Names of folders in which changes raise none, wherever they are."""


def in_mount_order(shares: Sequence[Share]) -> list[Share]:
    """Return the shares so that one inside of another is mounted after it."""
    return sorted(shares, key=lambda share: share.guest_path.parts)


def problem(share: Share) -> str:
    """Return why the folder cannot be shared now, or an empty text."""
    try:
        found, root = share.path.stat(), Path(share.path.anchor).stat()
    except OSError as error:
        return _REASONS.get(error.errno or 0) or error.strerror or str(error)
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a folder"
    if os.path.samestat(found, root):
        return "it is the whole file system; name the folders that the machine needs"
    return "" if os.access(share.path, os.R_OK | os.X_OK) else "this user cannot read it"

"""Shared folders: folders of this host that are also in a machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


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


def in_mount_order(shares: Sequence[Share]) -> list[Share]:
    """Return the shares so that one inside of another is mounted after it."""
    return sorted(shares, key=lambda share: share.guest_path.parts)


def problem(share: Share) -> str:
    """Return why the folder cannot be shared now, or an empty text."""
    try:
        if share.path.resolve() == Path(share.path.anchor):
            return "it is the whole file system; name the folders that the machine needs"
        if not share.path.exists():
            return "it does not exist"
        if not share.path.is_dir():
            return "it is not a folder"
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError:
        return "it is a loop of symbolic links"
    return "" if os.access(share.path, os.R_OK | os.X_OK) else "this user cannot read it"

"""Tell a guest with pymachine's image which shared folders to mount: a file of its identity.

The file has a line for each folder: type, source, mount options and path, separated by tabs. The image's
``usr/lib/pymachine/surroundings`` mounts them in this order, and reports the stage `STAGE` when it has mounted all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymachine.driver.kit.identity_files import with_files
from pymachine.driver.shares import Share

MEMBER = "mounts"
STAGE = "mounts"


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file system that the guest mounts."""

    kind: str
    source: str
    options: str
    share: Share

    def line(self) -> str:
        """Return the mount as a line of the file."""
        mode = "ro" if self.share.read_only else "rw"
        # Set-user-id programs and device files in a shared folder have no effect in the guest.
        options = f"{mode},nosuid,nodev,{self.options}"
        return f"{self.kind}\t{self.source}\t{options}\t{self.share.guest_path}\n"


def with_mounts(tar: bytes, mounts: Sequence[Mount]) -> bytes:
    """Return the identity `tar` with the mounts added, if there are any."""
    if not mounts:
        return tar
    content = "".join(mount.line() for mount in mounts).encode(errors="surrogateescape")
    return with_files(tar, {MEMBER: content})

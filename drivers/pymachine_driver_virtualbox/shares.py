"""Folders of the host that the guest mounts (vboxsf), docker-machine's by default."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.errors import UsageError

# Which folder each system's homes are in, and the share's name: the guest mounts it below /.
DEFAULTS = {
    "linux": (Path("/home"), "hosthome"),
    "darwin": (Path("/Users"), "Users"),
    "win32": (Path("\\\\?\\c:\\Users"), "c/Users"),
}
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\Z")


@dataclass(frozen=True)
class Share:
    """One folder of the host under its name."""

    folder: Path
    name: str

    @property
    def mount_point(self) -> str:
        """Where the guest has it: as boot2docker."""
        return f"/{self.name}"

    def commands(self, machine: str) -> Iterator[list[str]]:
        """What VBoxManage is told to share it."""
        yield ["sharedfolder", "add", machine, "--name", self.name, "--hostpath", str(self.folder), "--automount"]
        key = f"VBoxInternal2/SharedFoldersEnableSymlinksCreate/{self.name}"
        yield ["setextradata", machine, key, "1"]


def parse(text: str) -> tuple[Path, str]:
    """``dir:name``; the folder may have colons (``C:\\work:name``). Raises `UsageError`."""
    folder, colon, name = text.rpartition(":")
    if not colon or not folder or not _NAME.match(name) or ".." in name.split("/"):
        raise UsageError(
            f"--virtualbox-share-folder {text}: expected dir:name, the name of letters, digits and . - _ /"
        )
    return Path(folder).expanduser().absolute(), name


def chosen(*, share_folder: str, no_share: bool, platform: str = sys.platform) -> list[Share]:
    """What a machine shares: nothing, the folder asked for, or the homes of this system where there are any."""
    if no_share:
        return []
    if share_folder:
        return [Share(*parse(share_folder))]
    folder, name = DEFAULTS.get(platform, DEFAULTS["linux"])
    return [Share(folder, name)] if folder.is_dir() else []

"""docker-machine's own shared folder: the home folders, or that of ``--virtualbox-share-folder``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.errors import UsageError

# The folder of the home directories on each system, and the share's name, which the guest mounts below /.
DEFAULTS = {
    "linux": (Path("/home"), "hosthome"),
    "darwin": (Path("/Users"), "Users"),
    "win32": (Path("\\\\?\\c:\\Users"), "c/Users"),
}
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\Z")


@dataclass(frozen=True)
class Share:
    """A host folder and the name of its share."""

    folder: Path
    name: str

    @property
    def mount_point(self) -> str:
        """Where the guest mounts it, as boot2docker does."""
        return f"/{self.name}"

    def commands(self, machine: str) -> Iterator[list[str]]:
        """Yield the VBoxManage commands that share the folder."""
        yield ["sharedfolder", "add", machine, "--name", self.name, "--hostpath", str(self.folder), "--automount"]
        key = f"VBoxInternal2/SharedFoldersEnableSymlinksCreate/{self.name}"
        yield ["setextradata", machine, key, "1"]


def parse(text: str) -> tuple[Path, str]:
    """Parse ``dir:name``. The folder may contain colons (``C:\\work:name``). Raises `UsageError`."""
    folder, colon, name = text.rpartition(":")
    if not colon or not folder or not _NAME.match(name) or ".." in name.split("/"):
        raise UsageError(
            f"--virtualbox-share-folder {text}: expected dir:name, where the name has only letters, digits and . - _ /"
        )
    return Path(folder).expanduser().absolute(), name


def chosen(*, share_folder: str, no_share: bool, platform: str = sys.platform) -> list[Share]:
    """Return the folders to share: none, the chosen one, or by default this system's home directories."""
    if no_share:
        return []
    if share_folder:
        return [Share(*parse(share_folder))]
    folder, name = DEFAULTS.get(platform, DEFAULTS["linux"])
    return [Share(folder, name)] if folder.is_dir() else []

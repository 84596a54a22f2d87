"""The snapshots of a machine: ``machines/NAME/snapshots/<snapshot>/`` with the driver's files and ``snapshot.json``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymachine.driver import fields
from pymachine.driver.contract import Json
from pymachine.errors import PymachineError
from pymachine.store import paths
from pymachine.system import files, os_errors
from pymachine.system.folder_collection import FolderCollection, ManifestFolder

FORMAT = 1
MANIFEST = "snapshot.json"
# Names are also names of folders and arguments of commands.
NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,62}\Z")


class SnapshotError(PymachineError):
    """A snapshot cannot be created, found or removed."""

    code = "snapshot"


@dataclass(frozen=True)
class Snapshot(ManifestFolder):
    """One snapshot."""

    @property
    def made(self) -> float:
        """When the snapshot was made, in seconds since 1970."""
        return float(self.manifest["made"])

    @property
    def facts(self) -> Mapping[str, Json]:
        """The facts that the driver needs to restore it."""
        facts: Mapping[str, Json] = self.manifest["facts"]
        return facts

    @property
    def has_memory(self) -> bool:
        """Whether the snapshot contains the machine's memory, so that the machine runs after a restore."""
        return bool(self.facts.get("Memory"))

    @property
    def size(self) -> int:
        """The bytes that it takes on the disk. Files that it shares with others are not counted."""
        status = [path.stat() for path in self.directory.iterdir()]
        return sum(files.allocated(each) for each in status if each.st_nlink == 1)


class Snapshots(FolderCollection[Snapshot]):
    """The snapshots of one machine."""

    noun = "snapshot"
    manifest_name = MANIFEST
    error = SnapshotError

    def __init__(self, machine: Path) -> None:
        """`machine` is the machine's folder. Raises `SnapshotError` if its folder of snapshots is a link elsewhere."""
        root = machine / paths.SNAPSHOTS
        if root.is_symlink():
            raise SnapshotError(
                f"{root} is a link to {str(root.readlink())!r}, and not a folder of the machine's own",
                hint="Put the folder itself there, or remove the link.",
            )
        super().__init__(root)

    def parse(self, directory: Path, manifest: Any) -> Snapshot | None:
        """See `FolderCollection.parse`."""
        made = manifest["format"] == FORMAT and float(manifest["made"])
        complete = 0 < made <= fields.LAST_SECOND and isinstance(manifest["facts"], dict)
        return Snapshot(directory, manifest) if complete and not directory.is_symlink() else None


def check_name(name: str) -> None:
    """Raise `SnapshotError` unless `name` is a valid name for a snapshot."""
    if not NAME_PATTERN.match(name):
        raise SnapshotError(
            f"a snapshot cannot be called {name!r}",
            hint="Up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or a digit.",
        )


def default_name(now: float | None = None) -> str:
    """Return the name of a snapshot for which the user gave none: the time."""
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(now))


def find_all(machine: Path) -> list[Snapshot]:
    """Return the snapshots of the machine in folder `machine`, the oldest first. Other folders are skipped."""
    return sorted(Snapshots(machine).all(), key=lambda snapshot: (snapshot.made, snapshot.name))


def find(machine: Path, name: str) -> Snapshot:
    """Return the snapshot with that name. Raises `SnapshotError`."""
    for snapshot in find_all(machine):
        if snapshot.name == name:
            return snapshot
    raise SnapshotError(
        f'machine "{machine.name}" has no snapshot "{name}"', hint=f"List them: pymachine snapshot ls {machine.name}"
    )


def make(machine: Path, name: str, fill: Callable[[Path], Mapping[str, Json]]) -> Snapshot:
    """Make the snapshot `name`. `fill` gets its folder, writes the driver's files and returns the driver's facts.

    Nothing is left of it if `fill` raises. Raises `SnapshotError` for a name that is taken.
    """
    check_name(name)
    snapshots = Snapshots(machine)
    target = snapshots.root / name
    if target.exists():
        raise SnapshotError(f'machine "{machine.name}" has a snapshot "{name}" already')
    try:
        files.make_private_dir(snapshots.root)
        with snapshots.making() as folder:
            facts = dict(fill(folder))
            manifest = {"format": FORMAT, "made": time.time(), "facts": facts}
            files.atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            snapshots.publish(folder, name)
    except OSError as error:
        raise os_errors.wrapped(SnapshotError, f"cannot write {target}", error) from error
    return Snapshot(target, manifest)


def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot. Raises `SnapshotError`."""
    Snapshots(snapshot.directory.parents[1]).remove(snapshot.name)

"""The machine's files: the image that it boots and the data disk."""

from __future__ import annotations

import os
from pathlib import Path

from pymachine.driver.contract import ImageFiles
from pymachine.driver.kit import machine_files
from pymachine.driver.kit.machine_files import MEBIBYTE
from pymachine.driver.kit.system import os_errors
from pymachine_driver_virtualbox.errors import VirtualBoxError
from pymachine_driver_virtualbox.machine import Files
from pymachine_driver_virtualbox.vboxmanage import VBoxManage

ISO = "boot2docker.iso"
DISK = "disk.vmdk"
CONSOLE = "console.log"
ASIDE = ".previous"
# The largest ISO accepted in an export. Even Debian's live images with a desktop are smaller.
LARGEST_IMAGE = 4 << 30
DISK_SECONDS = 600.0
_TAIL = 4096


class DiskError(VirtualBoxError):
    """A file of the machine cannot be created, or is missing."""

    code = "virtualbox-disk"


def of(folder: Path) -> Files:
    """Return the paths of the machine's files; absolute, since VirtualBox runs in another working directory."""
    root = folder.absolute()
    return Files(folder=root, iso=root / ISO, disk=root / DISK, console=root / CONSOLE)


def keep_image(image: ImageFiles, target: Path) -> None:
    """Put the image's ISO into the machine's folder: as a hard link if possible, else as a copy."""
    try:
        machine_files.put(image.iso, target)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot put {image.iso.name} into {target.parent}", error) from error


def set_aside(target: Path) -> None:
    """Rename a file so that `drop_aside` can delete it, or `bring_back` restore it."""
    try:
        os.replace(target, target.with_name(target.name + ASIDE))  # noqa: PTH105 (as the rest of this module)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot set {target} aside", error) from error


def drop_aside(target: Path) -> None:
    """Remove what was set aside for `target`."""
    target.with_name(target.name + ASIDE).unlink(missing_ok=True)


def bring_back(target: Path) -> None:
    """Put what was set aside for `target` back in its place."""
    machine_files.bring_back(target, aside=target.with_name(target.name + ASIDE))


def make_disk(vbox: VBoxManage, path: Path, *, size_mb: int, beginning: bytes) -> None:
    """Create a disk of `size_mb` MiB that grows as it fills, and begins with the tar `beginning`.

    VBoxManage reads the content from stdin and takes the rest as zeros. A disk left by an interrupted `create` is
    replaced. Raises `VirtualBoxError`.
    """
    path.unlink(missing_ok=True)
    size = str(size_mb * MEBIBYTE)
    padded = beginning + bytes(-len(beginning) % 512)
    try:
        vbox("convertfromraw", "stdin", path, size, "--format", "VMDK", stdin=padded, timeout=DISK_SECONDS)
    except VirtualBoxError:
        path.unlink(missing_ok=True)
        raise


def tail(path: Path, *, length: int = _TAIL) -> str:
    """Return the last `length` bytes of a log as text, or "" if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - length))
            return log.read().decode(errors="replace").replace("\r", "").strip()
    except OSError:
        return ""

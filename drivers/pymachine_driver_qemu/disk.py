"""The machine's files: the data disk and the image that it boots."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pymachine.driver.contract import ImageFiles, refuse_links
from pymachine.driver.errors import DriverError
from pymachine.driver.kit import machine_files
from pymachine.driver.kit.machine_files import MEBIBYTE
from pymachine.driver.kit.system import files, os_errors, sparse_files

DISK = "disk.raw"
# The disk of a machine from a named template is the changes to the template's disk, in QEMU's format qcow2, and a hard
# link to that, which is never written.
OVERLAY = "disk.qcow2"
BASE = "disk.base"
# All files that a data disk may have.
DATA = (DISK, OVERLAY, BASE)
ISO = "boot2docker.iso"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
IMAGE = (ISO, KERNEL, INITRD)
# The largest size accepted in an export for each of these. Even Debian's live images with a desktop are smaller.
LARGEST_IMAGE = 4 << 30

_CHUNK = 16 * MEBIBYTE
# Errors if the two files are on different file systems, or the file system does not support it.
_NO_COPY_IN_KERNEL = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class DiskError(DriverError):
    """A file of the machine cannot be created."""

    code = "qemu-disk"


def make_data_disk(path: Path, *, size_mb: int) -> None:
    """Create a sparse disk of `size_mb` MiB, marked for the guest to format; replace an old one. Raises `DiskError`."""
    marker = machine_files.format_marker()
    try:
        with path.open("wb") as disk:
            path.chmod(0o600)
            disk.write(marker)
            disk.truncate(size_mb * MEBIBYTE)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot create the disk {path}", error) from error


def parts(folder: Path) -> tuple[str, ...]:
    """Return the names of the data disk's files: one file, or the changes and their base."""
    return (OVERLAY, BASE) if (folder / OVERLAY).exists() else (DISK,)


def copy_image(source: Path, target: Path) -> None:
    """Link or copy the image of the machine in `source` into `target`. Raises `DiskError`."""
    for name in IMAGE:
        _put(source / name, target / name)


def allocated(folder: Path) -> int:
    """Return the bytes that a copy of the data disk in `folder` occupies. Raises `DiskError`."""
    path = folder / parts(folder)[0]  # a base is linked, not copied
    try:
        return files.allocated(path.stat())
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot read {path}", error) from error


def must_fit(folder: Path, size: int) -> None:
    """Raise `DiskError` unless `folder` has `size` bytes of free space."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskError(
            f"not enough disk space in {folder}: {free // MEBIBYTE} MB free, {size // MEBIBYTE} MB needed",
            hint="Free some space and try again.",
        )


def copy_data_disk(source: Path, target: Path) -> None:
    """Copy the data disk of the machine in folder `source` to folder `target`. Raises `DiskError`."""
    for name in parts(source):
        if name == BASE:
            _put(source / name, target / name, copy=copy_sparse)
        else:
            copy_sparse(source / name, target / name)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a sparse file, sharing blocks if the file system supports it. Raises `DiskError`."""
    try:
        with source.open("rb") as old, target.open("wb") as new:
            target.chmod(0o600)
            size = source.stat().st_size
            new.truncate(size)
            for begin, end in sparse_files.data_ranges(old.fileno()):
                _copy(old.fileno(), new.fileno(), begin, end)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot copy the disk {source} to {target}", error) from error


def pack(source: Path, target: Path) -> None:
    """Write a sparse disk to `target` without its holes: a line of JSON with the positions of the data, then the data.

    Raises `DiskError`.
    """
    try:
        with source.open("rb") as disk, target.open("wb") as packed:
            target.chmod(0o600)
            size = source.stat().st_size
            stretches = list(sparse_files.data_ranges(disk.fileno()))
            packed.write(json.dumps({"size": size, "data": stretches}).encode() + b"\n")
            packed.flush()
            position = packed.tell()
            for begin, end in stretches:
                _copy(disk.fileno(), packed.fileno(), begin, end, to=position)
                position += end - begin
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot copy the disk {source} to {target}", error) from error


def unpack(source: Path, target: Path) -> None:
    """Restore the sparse disk that was packed into `source`. Raises `DiskError`."""
    try:
        with source.open("rb") as packed, target.open("wb") as disk:
            target.chmod(0o600)
            described = json.loads(packed.readline())
            disk.truncate(described["size"])
            position = packed.tell()
            for begin, end in described["data"]:
                _copy(packed.fileno(), disk.fileno(), position, position + end - begin, to=begin)
                position += end - begin
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot copy the disk {source} to {target}", error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DiskError(f"{source} is not a packed disk: {error}") from error


def _copy(old: int, new: int, begin: int, end: int, *, to: int | None = None) -> None:
    """Copy a range of one file into another, to the same position or to `to`."""
    position, shift = begin, (begin if to is None else to) - begin
    while position < end:
        done = _copy_some(old, new, min(end - position, _CHUNK), position, position + shift)
        if not done:  # the file became shorter meanwhile
            raise OSError(errno.EIO, "the file ends early")
        position += done


def _copy_some(old: int, new: int, length: int, position: int, to: int) -> int:
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "Windows has no reading at a position")
    # A Python built for an old glibc lacks os.copy_file_range.
    if sys.platform == "linux" and hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(old, new, length, position, to)
        except OSError as error:
            if error.errno not in _NO_COPY_IN_KERNEL:
                raise
    return os.pwrite(new, os.pread(old, length, position), to)


def keep_image(image: ImageFiles, folder: Path) -> None:
    """Link or copy the image into the machine's folder, so that the machine does not depend on the image cache."""
    for source, name in ((image.iso, ISO), (image.kernel, KERNEL), (image.initrd, INITRD)):
        _put(source, folder / name)


def check_image(folder: Path) -> None:
    """Raise `DiskError` if the disk or a file of the image is missing."""
    earlier = folder / f"{DISK}.old"  # a restore by an earlier version that was killed between two renames
    if earlier.exists() and not (folder / DISK).exists():
        earlier.rename(folder / DISK)
    for name in (ISO, KERNEL, INITRD, *parts(folder)):
        if not (folder / name).is_file():
            raise DiskError(
                f"{folder / name} is missing",
                hint="The machine cannot start without it: restore it, or remove the machine and create it again.",
            )


def grow(path: Path, *, size_mb: int) -> None:
    """Grow the disk to `size_mb` MiB; never shrink it. The guest grows the file system. Raises `DriverError`."""
    refuse_links(path.parent, [path.name])
    try:
        with path.open("r+b") as disk:
            if disk.seek(0, os.SEEK_END) < size_mb * MEBIBYTE:
                disk.truncate(size_mb * MEBIBYTE)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot grow the disk {path}", error) from error


def drop_flattened(folder: Path) -> None:
    """Remove the whole disk that an export made from the changes to a template's. Raises `DiskError`."""
    if parts(folder) == (DISK,):
        return
    try:
        (folder / DISK).unlink(missing_ok=True)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot remove {folder / DISK}", error) from error


def set_image_aside(folder: Path) -> None:
    """Keep the current image under other names. Raises `DiskError`."""
    for name in IMAGE:
        _put(folder / name, aside(folder / name))


def drop_aside(folder: Path, names: Iterable[str]) -> None:
    """Remove the kept versions of the files `names`."""
    for name in names:
        aside(folder / name).unlink(missing_ok=True)


def bring_back(folder: Path, names: Iterable[str]) -> None:
    """Restore the kept versions of the files `names`."""
    for name in names:
        machine_files.bring_back(folder / name, aside=aside(folder / name))


def aside(path: Path) -> Path:
    """Return the path at which the old version of a file is kept."""
    return path.with_name(f"{path.name}.aside")


def _put(source: Path, target: Path, *, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    try:
        machine_files.put(source, target, copy=copy)
    except OSError as error:
        raise os_errors.wrapped(DiskError, f"cannot put {source.name} into {target.parent}", error) from error

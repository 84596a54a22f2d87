"""The format of VirtualBox's disks, as far as it takes to trust one that came from elsewhere.

A VMDK has a text in it that names the files with the content, and may name a parent: any file of the host. See the
specification "Virtual Disk Format 5.0" of VMware.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from pymachine_driver_virtualbox.files import MEBIBYTE, DiskError

SECTOR = 512
# Magic, version, flags, capacity, grain size, descriptor offset, descriptor size: all of them in sectors.
_HEADER = struct.Struct("<4sIIQQQQ")
_MAGIC = b"KDMV"
_LARGEST_DESCRIPTOR = 128
_NO_PARENT = "ffffffff"


def largest(size: int) -> int:
    """How long the file of a disk of `size` bytes can be: tables take less than a hundredth."""
    return size + size // 100 + 16 * MEBIBYTE


def check(path: Path, *, largest: int) -> None:
    """Raise `DiskError` unless the disk at `path` is all in that file, and has at most `largest` bytes inside."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise _bad(path, "it is not a VMDK file with its description inside")
        _, _, _, capacity, _, offset, length = _HEADER.unpack(head)
        if not (0 < offset < _LARGEST_DESCRIPTOR and 0 < length <= _LARGEST_DESCRIPTOR):
            raise _bad(path, "it has no description")
        file.seek(offset * SECTOR)
        descriptor = file.read(length * SECTOR).split(b"\0")[0].decode("latin-1")
    extents = re.findall(r"^[ \t]*(?:RW|RDONLY|NOACCESS)\b.*$", descriptor, re.IGNORECASE | re.MULTILINE)
    if len(extents) != 1 or not re.fullmatch(rf'RW {capacity} SPARSE "[^"/\\]*"\s*', extents[0]):
        raise _bad(path, "its content is in another file")
    parents = re.findall(r"^[ \t]*parentCID[ \t]*=[ \t]*(\S*)", descriptor, re.IGNORECASE | re.MULTILINE)
    if "parentfilenamehint" in descriptor.lower() or any(each.lower() != _NO_PARENT for each in parents):
        raise _bad(path, "it builds upon another file")
    if capacity * SECTOR > largest:
        raise _bad(path, f"it has {capacity * SECTOR} bytes inside, more than {largest}")


def _bad(path: Path, why: str) -> DiskError:
    return DiskError(f"{path.name} in the export cannot be used: {why}")

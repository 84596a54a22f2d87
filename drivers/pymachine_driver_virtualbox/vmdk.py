"""Check that an imported VMDK disk refers to no other file.

A VMDK contains a descriptor that names the files with its content, and may name a parent. Both could be any file of
the host. Source: VMware's specification "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from pymachine.driver.kit.machine_files import MEBIBYTE
from pymachine_driver_virtualbox.files import DiskError

SECTOR = 512
# Magic, version, flags, capacity, grain size, descriptor offset, descriptor size; the last four in sectors.
_HEADER = struct.Struct("<4sIIQQQQ")
_MAGIC = b"KDMV"
_LARGEST_DESCRIPTOR = 128
_NO_PARENT = "ffffffff"


def largest(size: int) -> int:
    """Return the largest file size of a disk of `size` bytes: its tables take less than a hundredth."""
    return size + size // 100 + 16 * MEBIBYTE


def check(path: Path, *, largest: int) -> None:
    """Raise `DiskError` unless the whole disk is in the file `path`, and has at most `largest` bytes."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise _unusable(path, "it is not a VMDK file with a descriptor")
        _, _, _, capacity, _, offset, length = _HEADER.unpack(head)
        if not (0 < offset < _LARGEST_DESCRIPTOR and 0 < length <= _LARGEST_DESCRIPTOR):
            raise _unusable(path, "it has no descriptor")
        file.seek(offset * SECTOR)
        descriptor = file.read(length * SECTOR).split(b"\0")[0].decode("latin-1")
    extents = re.findall(r"^[ \t]*(?:RW|RDONLY|NOACCESS)\b.*$", descriptor, re.IGNORECASE | re.MULTILINE)
    if len(extents) != 1 or not re.fullmatch(rf'RW {capacity} SPARSE "[^"/\\]*"\s*', extents[0]):
        raise _unusable(path, "its content is in another file")
    parents = re.findall(r"^[ \t]*parentCID[ \t]*=[ \t]*(\S*)", descriptor, re.IGNORECASE | re.MULTILINE)
    if "parentfilenamehint" in descriptor.lower() or any(each.lower() != _NO_PARENT for each in parents):
        raise _unusable(path, "it is based on another file")
    if capacity * SECTOR > largest:
        raise _unusable(path, f"its disk has {capacity * SECTOR} bytes, more than {largest}")


def _unusable(path: Path, why: str) -> DiskError:
    return DiskError(f"{path.name} in the export cannot be used: {why}")

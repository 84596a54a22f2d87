"""VirtualBox disks from elsewhere must not refer to other files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pymachine_driver_virtualbox import vmdk
from pymachine_driver_virtualbox.files import DiskError

# What VirtualBox and qemu-img write.
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=1f8c2e91
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW 2048 SPARSE "disk.vmdk"
"""


def write_disk(folder: Path, descriptor: str = DESCRIPTOR, *, capacity: int = 2048, magic: bytes = b"KDMV") -> Path:
    head = struct.pack("<4sIIQQQQ", magic, 1, 3, capacity, 128, 1, 20)
    path = folder / "disk.vmdk"
    path.write_bytes(head.ljust(512, b"\0") + descriptor.encode().ljust(20 * 512, b"\0"))
    return path


def test_a_disk_in_one_file_is_accepted(tmp_path: Path) -> None:
    vmdk.check(write_disk(tmp_path), largest=1 << 20)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('RW 2048 SPARSE "disk.vmdk"', 'RW 2048 FLAT "/etc/shadow" 0', "in another file"),
        ('"disk.vmdk"', '"/etc/disk.vmdk"', "in another file"),
        ("# Extent", 'RW 1 FLAT "/etc/shadow" 0\n#', "in another file"),
        ("# Extent", '\trw 1 flat "/etc/shadow" 0\n#', "in another file"),
        ("parentCID=ffffffff", "parentCID=12345678", "is based on"),
        ("# Extent", 'parentFileNameHint="/etc/shadow"\n#', "is based on"),
        ("RW 2048", "RW 4096", "in another file"),
    ],
)
def test_a_disk_that_refers_to_another_file_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(DiskError, match=says):
        vmdk.check(write_disk(tmp_path, DESCRIPTOR.replace(old, new)), largest=1 << 20)


def test_a_descriptor_without_data_and_an_oversized_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="not a VMDK"):
        vmdk.check(write_disk(tmp_path, magic=b"# Di"), largest=1 << 20)
    with pytest.raises(DiskError, match="more than 1048575"):
        vmdk.check(write_disk(tmp_path), largest=(1 << 20) - 1)

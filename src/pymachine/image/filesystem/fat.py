"""Write a FAT16 file system with a few files, from which UEFI firmware reads its boot loader (UEFI spec, 13.3).

It has one sector per cluster, 8.3 names and no times, so the same files give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from pymachine.image.errors import RecipeError

SECTOR = 512
RESERVED = 1
FATS = 2
ROOT_ENTRIES = 512
ENTRY = struct.Struct("<11sBBBHHHHHHHI")
DIRECTORY = 0x10
ARCHIVE = 0x20
END = 0xFFFF
# Drivers derive the FAT type from the number of clusters.
MIN_CLUSTERS = 4085
MAX_CLUSTERS = 65524
SERIAL = 0x504D0001
DATE = (2020 - 1980) << 9 | 1 << 5 | 1


@dataclass
class _Folder:
    files: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, _Folder] = field(default_factory=dict)


def build(files: Mapping[str, bytes]) -> bytes:
    """Return a file system with `files`, such as ``EFI/BOOT/BOOTX64.EFI``. Raises `RecipeError` if they do not fit."""
    root = _Folder()
    for path, data in sorted(files.items()):
        *parents, leaf = path.split("/")
        folder = root
        for name in parents:
            folder = folder.folders.setdefault(name, _Folder())
        folder.files[leaf] = data
    clusters = _Clusters()
    entries = _entries(root, clusters, parent=None)
    return clusters.image(entries)


class _Clusters:
    """The growing data region, and the allocation table."""

    def __init__(self) -> None:
        self.table = [0xFFF8, END]
        self.data = bytearray()

    def reserve(self, size: int) -> int:
        """Chain the clusters for that many bytes, and return the first; 0 for none."""
        count = -(-size // SECTOR)
        first = len(self.table)
        self.table += [*range(first + 1, first + count), END] if count else []
        self.data += bytes(count * SECTOR)
        return first if count else 0

    def put(self, cluster: int, content: bytes) -> None:
        """Write data into reserved clusters."""
        begin = (cluster - 2) * SECTOR
        self.data[begin : begin + len(content)] = content

    def image(self, root: bytes) -> bytes:
        """Return the file system, as large as its files need."""
        used = len(self.table) - 2
        if used > MAX_CLUSTERS or len(root) > ROOT_ENTRIES * ENTRY.size:
            raise RecipeError("the boot loaders for UEFI do not fit into a FAT16 file system")
        count = max(used, MIN_CLUSTERS)
        sectors_of_table = -(-(count + 2) * 2 // SECTOR)
        table = struct.pack(f"<{len(self.table)}H", *self.table).ljust(sectors_of_table * SECTOR, b"\0")
        total = RESERVED + FATS * sectors_of_table + ROOT_ENTRIES * ENTRY.size // SECTOR + count
        body = table * FATS + root.ljust(ROOT_ENTRIES * ENTRY.size, b"\0") + self.data.ljust(count * SECTOR, b"\0")
        return _boot_sector(total, sectors_of_table) + body


def _boot_sector(total: int, sectors_of_table: int) -> bytes:
    short, long = (total, 0) if total < 0x10000 else (0, total)
    head = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x3c\x90",
        b"PYMACHIN",
        SECTOR,
        1,  # sectors per cluster
        RESERVED,
        FATS,
        ROOT_ENTRIES,
        short,
        0xF8,
        sectors_of_table,
        32,
        64,
        0,
        long,
    )
    extended = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, SERIAL, b"PYMACHINE  ", b"FAT16   ")
    return (head + extended).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _entries(folder: _Folder, clusters: _Clusters, *, parent: int | None) -> bytes:
    """Write everything below a folder, and return the folder's entries."""
    entries = []
    for name, inner in sorted(folder.folders.items()):
        size = (2 + len(inner.folders) + len(inner.files)) * ENTRY.size
        cluster = clusters.reserve(size)
        dots = _entry(b".          ", DIRECTORY, cluster, 0) + _entry(b"..         ", DIRECTORY, parent or 0, 0)
        clusters.put(cluster, dots + _entries(inner, clusters, parent=cluster))
        entries.append(_entry(_short(name), DIRECTORY, cluster, 0))
    for name, data in sorted(folder.files.items()):
        cluster = clusters.reserve(len(data))
        clusters.put(cluster, data)
        entries.append(_entry(_short(name), ARCHIVE, cluster, len(data)))
    return b"".join(entries)


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return ENTRY.pack(name, attributes, 0, 0, 0, DATE, DATE, 0, 0, DATE, cluster, size)


def _short(name: str) -> bytes:
    stem, _, extension = name.partition(".")
    if name != name.upper() or not 1 <= len(stem) <= 8 or len(extension) > 3:
        raise RecipeError(f"{name} is not a name of 8 and 3 capitals, as the boot file system has them")
    return stem.ljust(8).encode() + extension.ljust(3).encode()

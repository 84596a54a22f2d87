"""Write an ISO 9660 file system with Rock Ridge names, modes and owners. Its bytes depend only on the tree.

With boot loaders it is bootable: El Torito for CD drives, a master boot record for other media.
"""

from __future__ import annotations

import io
import itertools
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from pymachine.image import boot
from pymachine.image.filesystem.tree import Blob, Kind, Node, Tree

# 2020-01-01T00:00:00Z in the two forms of ECMA-119: 9.1.5 and 8.4.26.1. `ls -l` in the guest shows it.
RECORD_DATE = bytes((120, 1, 1, 0, 0, 0, 0))
VOLUME_DATE = b"2020010100000000\0"
# The volume descriptors of ECMA-119: where they begin, their types, and where their modification date is (8.4.27).
FIRST_DESCRIPTOR = 16
VOLUME_DESCRIPTORS = (1, 2)
LAST_DESCRIPTOR = 255
MODIFICATION_DATE = 830
BLOCK = 2048
SECTOR = 512


class _BlobReader(io.RawIOBase):
    """A part of a spool file as a file. pycdlib seeks before it reads, so several can share one open file."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        super().__init__()
        self._file = file
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._length - self._position
        self._file.seek(self._offset + self._position)
        data = self._file.read(left if size < 0 else min(left, size))
        self._position += len(data)
        return data


class _IsoNames:
    """Unique short ISO 9660 names. The guest sees only the Rock Ridge names.

    isolinux reads only the ISO 9660 names, so the files that it opens keep their names.
    """

    def __init__(self) -> None:
        self._folders = {"": ""}
        self._next = 0

    def folder(self, path: str) -> str:
        self._folders[path] = self._below(path, "D")
        return self._folders[path]

    def file(self, path: str) -> str:
        name = self._below(path, "F")
        return name + (";1" if "." in name.rpartition("/")[2] else ".;1")

    def _below(self, path: str, letter: str) -> str:
        self._next += 1
        parent, _, leaf = path.rpartition("/")
        iso_name = leaf.upper() if path.partition("/")[0] == boot.FOLDER else f"{letter}{self._next:07d}"
        return f"{self._folders[parent]}/{iso_name}"


def _set_dates(iso: Any) -> None:
    """Give all records a fixed date: pycdlib takes the time of day, in this host's time zone."""
    from pycdlib.dates import DirectoryRecordDate, VolumeDescriptorDate  # noqa: PLC0415

    date, volume_date = DirectoryRecordDate(), VolumeDescriptorDate()
    date.parse(RECORD_DATE)
    volume_date.parse(VOLUME_DATE)
    for volume in (iso.pvd, *iso.svds):
        volume.volume_creation_date = volume.volume_effective_date = volume_date
        folders = [volume.root_directory_record()]
        folders[0].date = date
        while folders:
            for record in folders.pop().children:
                record.date = date
                _set_time_stamps(record.rock_ridge, date)
                if record.isdir and not record.is_dot() and not record.is_dotdot():
                    folders.append(record)


def _set_time_stamps(rock_ridge: Any, date: Any) -> None:
    """Set the date in Rock Ridge's own records, which may be in a continuation area."""
    for entries in (rock_ridge.dr_entries, rock_ridge.ce_entries):
        stamps = entries.tf_record if entries else None
        for name in ("creation_time", "access_time", "modification_time", "attribute_change_time"):
            if stamps and getattr(stamps, name):
                setattr(stamps, name, date)


def _set_modification_date(path: Path) -> None:
    """Date the volume itself: pycdlib takes the time of day when it writes."""
    with path.open("r+b") as file:
        for block in itertools.count(FIRST_DESCRIPTOR):
            kind = file.seek(block * BLOCK) and file.read(1)[0]
            if kind == LAST_DESCRIPTOR:
                return
            if kind in VOLUME_DESCRIPTORS:
                file.seek(block * BLOCK + MODIFICATION_DATE)
                file.write(VOLUME_DATE)


def write(tree: Tree, path: Path, *, volume: str, loaders: boot.Loaders | None = None) -> None:
    """Write `tree` to an ISO at `path` with the volume id `volume` (at most 32 characters).

    `loaders` are those that `boot.install` put into the tree.
    """
    from pycdlib import PyCdlib  # noqa: PLC0415

    with ExitStack() as stack:
        iso = PyCdlib()
        iso.new(interchange_level=4, vol_ident=volume[:32], rock_ridge="1.09", sys_ident="LINUX")
        stack.callback(iso.close)
        files: dict[Path, BinaryIO] = {}
        names = _IsoNames()
        for name, node in tree.walk():
            _add(iso, names, name, node, files, stack)
        if loaders is not None:
            _add_el_torito(iso, loaders)
        _set_dates(iso)
        iso.write(str(path))
        _set_modification_date(path)
        if loaders is not None:
            _add_boot_record(iso, loaders, path)


def _add_el_torito(iso: Any, loaders: boot.Loaders) -> None:
    """Add the boot catalog. BIOS comes first, since old firmware reads only one entry."""
    catalog = {"bootcatfile": _iso_path(boot.CATALOG), "rr_bootcatname": boot.CATALOG.rpartition("/")[2]}
    if loaders.bios:
        # isolinux needs its first four sectors of 512 bytes loaded, and finds the rest with the table.
        iso.add_eltorito(_iso_path(boot.ISOLINUX), boot_load_size=4, boot_info_table=True, **catalog)
        iso.add_eltorito(_iso_path(boot.EFI_IMAGE), efi=True, **catalog)
    else:
        iso.add_eltorito(_iso_path(boot.EFI_IMAGE), platform_id=0xEF, **catalog)


def _add_boot_record(iso: Any, loaders: boot.Loaders, path: Path) -> None:
    """Make the ISO at `path` bootable from a USB stick too."""
    per_block = BLOCK // SECTOR

    def position_and_size(name: str) -> tuple[int, int]:
        record = iso.get_record(iso_path=_iso_path(name))
        return record.extent_location() * per_block, -(-record.get_data_length() // SECTOR)

    with path.open("r+b") as file:
        size = file.seek(0, io.SEEK_END)
        size += -size % boot.CYLINDER
        file.truncate(size)
        file.seek(0)
        isolinux = position_and_size(boot.ISOLINUX)[0] if loaders.bios else 0
        file.write(
            boot.master_boot_record(
                loaders.mbr_code, sectors=size // SECTOR, isolinux=isolinux, efi=position_and_size(boot.EFI_IMAGE)
            )
        )


def _iso_path(path: str) -> str:
    """Return the ISO 9660 name of a file that loaders open."""
    return "/" + path.upper() + ";1"


def _add(iso: Any, names: _IsoNames, path: str, node: Node, files: dict[Path, BinaryIO], stack: ExitStack) -> None:
    leaf = path.rpartition("/")[2]
    if node.kind is Kind.DIRECTORY:
        iso_path = names.folder(path)
        iso.add_directory(iso_path, rr_name=leaf, file_mode=stat.S_IFDIR | node.mode)
    elif node.kind is Kind.LINK:
        iso_path = names.file(path)
        iso.add_symlink(iso_path, leaf, node.target)
    else:
        iso_path = names.file(path)
        blob = node.blob or Blob.of(b"")
        iso.add_fp(_open(blob, files, stack), blob.length, iso_path, rr_name=leaf, file_mode=stat.S_IFREG | node.mode)
    if node.uid or node.gid:
        record = iso.get_record(iso_path=iso_path)
        _set_owner(record, node)
        if node.kind is Kind.DIRECTORY:
            _set_owner(record.children[0], node)  # ".", where Linux looks for a folder's owner


def _open(blob: Blob, files: dict[Path, BinaryIO], stack: ExitStack) -> Any:
    if blob.path is None:
        return io.BytesIO(blob.data)
    if blob.path not in files:
        files[blob.path] = stack.enter_context(blob.path.open("rb"))
    return _BlobReader(files[blob.path], blob.offset, blob.length)


def _set_owner(record: Any, node: Node) -> None:
    """Set owner and group: pycdlib has no parameter for them."""
    rock_ridge = record.rock_ridge
    entry = rock_ridge.dr_entries.px_record or rock_ridge.ce_entries.px_record
    entry.posix_user_id, entry.posix_group_id = node.uid, node.gid

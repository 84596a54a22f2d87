"""The boot loaders of the ISO: the UEFI file system, the El Torito catalog and the master boot record."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pymachine.image import boot
from pymachine.image.errors import PackageError, RecipeError
from pymachine.image.filesystem import fat, iso
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.layout import ISO_INITRD, ISO_KERNEL

ISOLINUX_SIZE = 10_000


class FatReader:
    """Reads FAT16 by the specification, independently of the code that wrote it."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        sector, per_cluster, reserved, fats, entries = struct.unpack_from("<HBHBH", image, 11)
        per_fat = struct.unpack_from("<H", image, 22)[0]
        total = struct.unpack_from("<H", image, 19)[0] or struct.unpack_from("<I", image, 32)[0]
        assert total * sector == len(image)
        assert image[510:512] == b"\x55\xaa"
        self.cluster_size = sector * per_cluster
        self.fat = reserved * sector
        tables = [image[self.fat + n * per_fat * sector :][: per_fat * sector] for n in range(fats)]
        assert len(set(tables)) == 1
        self.root = self.fat + fats * per_fat * sector
        self.data = self.root + entries * 32
        self.clusters = (len(image) - self.data) // self.cluster_size
        assert 4085 <= self.clusters < 65525, "by this number a reader knows that it is FAT16"
        self.root_entries = image[self.root : self.data]

    def chain(self, cluster: int) -> bytes:
        out = b""
        while cluster and cluster < 0xFFF8:
            assert 2 <= cluster < self.clusters + 2
            begin = self.data + (cluster - 2) * self.cluster_size
            out += self.image[begin : begin + self.cluster_size]
            cluster = struct.unpack_from("<H", self.image, self.fat + 2 * cluster)[0]
        return out

    def files(self, entries: bytes | None = None, prefix: str = "") -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        raw = self.root_entries if entries is None else entries
        for at in range(0, len(raw), 32):
            entry = raw[at : at + 32]
            if entry[0] == 0:
                break
            stem, extension = entry[:8].decode().rstrip(), entry[8:11].decode().rstrip()
            cluster, size = struct.unpack_from("<HI", entry, 26)
            name = prefix + stem + (f".{extension}" if extension else "")
            if stem in {".", ".."}:
                continue
            if entry[11] & 0x10:
                found |= self.files(self.chain(cluster), name + "/")
            else:
                found[name] = self.chain(cluster)[:size]
        return found


NAMES = st.from_regex(r"\A[A-Z0-9]{1,8}(\.[A-Z0-9]{1,3})?\Z")


@given(st.dictionaries(st.builds("EFI/{}".format, NAMES), st.binary(max_size=3000), max_size=40))
def test_each_file_is_read_back(files: dict[str, bytes]) -> None:
    assert FatReader(fat.build(files)).files() == files


def test_folders_are_nested_and_a_large_file_is_whole() -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": bytes(range(256)) * 12000, "EFI/BOOT/GRUBX64.EFI": b"g", "A.TXT": b""}
    assert FatReader(fat.build(files)).files() == files


@pytest.mark.parametrize("name", ["lower.efi", "TOOLONGNAME.EFI", "A.LONG", ".EFI"])
def test_a_name_that_is_not_8_3_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="8 and 3"):
        fat.build({name: b""})


def test_files_larger_than_the_file_system_are_refused() -> None:
    with pytest.raises(RecipeError, match="do not fit"):
        fat.build({"A.EFI": bytes(40 << 20)})


def make_tree(architecture: str) -> Tree:
    tree = Tree()
    tree.put(ISO_KERNEL, Node.file(b"kernel"))
    tree.put(ISO_INITRD, Node.file(b"initrd"))
    for source in boot.EFI_FILES[architecture].values():
        tree.put(source, Node.file(source.encode()))
    if architecture == "amd64":
        tree.put(boot.BIOS_FILES[boot.ISOLINUX], Node.file(bytes(range(250)) * (ISOLINUX_SIZE // 250)))
        tree.put(boot.BIOS_FILES[boot.LDLINUX], Node.file(b"ldlinux"))
        tree.put(boot.MBR_CODE, Node.file((b"\x33\xed" + b"\x90" * 30).ljust(boot.MBR_CODE_SIZE, b"\xeb")))
    tree.put("usr/lib/grub/x86_64-efi/linux.mod", Node.file(b"for installing on disks"))
    return tree


def write_iso(tmp_path: Path, architecture: str = "amd64", name: str = "x.iso") -> Path:
    tree = make_tree(architecture)
    loaders = boot.install(tree, architecture, command_line="quiet")
    path = tmp_path / name
    iso.write(tree, path, volume="TEST", loaders=loaders)
    return path


def read_boot_catalog(data: bytes) -> list[tuple[int, int]]:
    """Return (platform, first block) of each bootable entry of the El Torito catalog (specification 1.0, 2.0)."""
    assert data[0x8801:0x8806] == b"CD001"
    assert data[0x8807 : 0x8807 + 23] == b"EL TORITO SPECIFICATION"
    block = struct.unpack_from("<I", data, 0x8847)[0] * 2048
    validation = data[block : block + 32]
    assert sum(struct.unpack("<16H", validation)) & 0xFFFF == 0
    found = [(validation[1], struct.unpack_from("<I", data, block + 32 + 8)[0])]
    at = block + 64
    while data[at] in {0x90, 0x91}:
        assert data[at + 32] == 0x88
        found.append((data[at + 1], struct.unpack_from("<I", data, at + 32 + 8)[0]))
        at += 64
    return found


def read_file(path: Path, name: str) -> bytes:
    import io

    from pycdlib import PyCdlib

    reader: Any = PyCdlib()
    reader.open(str(path))
    out = io.BytesIO()
    reader.get_file_from_iso_fp(out, rr_path="/" + name)
    reader.close()
    return out.getvalue()


def test_the_boot_catalog_has_a_loader_for_bios_and_one_for_uefi(tmp_path: Path) -> None:
    path = write_iso(tmp_path)
    data = path.read_bytes()
    (bios, at_bios), (uefi, at_uefi) = read_boot_catalog(data)
    assert (bios, uefi) == (0, 0xEF)
    # The table that isolinux finds the rest of itself by: where it is, how long it is, the sum of what follows.
    primary, own, length, total = struct.unpack_from("<IIII", data, at_bios * 2048 + 8)
    assert (primary, own, length) == (16, at_bios, ISOLINUX_SIZE)
    rest = data[at_bios * 2048 + 64 : at_bios * 2048 + ISOLINUX_SIZE]
    assert total == sum(struct.unpack(f"<{len(rest) // 4}I", rest)) & 0xFFFFFFFF
    image = read_file(path, boot.EFI_IMAGE)
    assert data[at_uefi * 2048 :][: len(image)] == image
    expected = {name: source.encode() for name, source in boot.EFI_FILES["amd64"].items()}
    assert FatReader(image).files() == expected


def test_an_arm64_iso_boots_with_uefi_only(tmp_path: Path) -> None:
    path = write_iso(tmp_path, "arm64")
    data = path.read_bytes()
    [(platform, _)] = read_boot_catalog(data)
    assert platform == 0xEF
    assert data[446 + 4] == boot.EFI_SYSTEM
    assert b"console=ttyAMA0" in read_file(path, boot.GRUB_CONFIG)


def test_the_boot_record_has_partitions_for_the_iso_and_for_uefi(tmp_path: Path) -> None:
    data = write_iso(tmp_path).read_bytes()
    (_, at_bios), (_, at_uefi) = read_boot_catalog(data)
    assert data[510:512] == b"\x55\xaa"
    assert struct.unpack_from("<I", data, 432)[0] == at_bios * 4
    parts = [boot.PARTITION.unpack_from(data, 446 + 16 * number) for number in range(2)]
    assert parts[0][0] == 0x80
    assert parts[0][4:] == (0, len(data) // 512)
    assert (parts[1][2], parts[1][4]) == (boot.EFI_SYSTEM, at_uefi * 4)
    assert len(data) % boot.CYLINDER == 0


def test_the_files_that_loaders_open_have_plain_iso_9660_names(tmp_path: Path) -> None:
    from pycdlib import PyCdlib

    path = write_iso(tmp_path)
    reader: Any = PyCdlib()
    reader.open(str(path))
    for name in (ISO_KERNEL, ISO_INITRD, boot.LDLINUX, boot.ISOLINUX_CONFIG):
        leaf = name.upper().rpartition("/")[2]
        assert reader.get_record(iso_path=f"/{name.upper()}{';1' if '.' in leaf else '.;1'}")
    reader.close()
    assert f"LINUX /{ISO_KERNEL}\n" in read_file(path, boot.ISOLINUX_CONFIG).decode()
    assert b"console=ttyS0,115200 quiet" in read_file(path, boot.GRUB_CONFIG)


def test_the_loaders_packages_are_removed_from_the_guests_files() -> None:
    tree = make_tree("amd64")
    boot.install(tree, "amd64", command_line="")
    assert not [path for path, _ in tree.walk() if path.startswith(boot.PACKAGE_FOLDERS)]


def test_a_missing_loader_is_named_in_the_error() -> None:
    tree = make_tree("amd64")
    tree.remove("usr/lib/shim")
    with pytest.raises(PackageError, match="shimx64"):
        boot.install(tree, "amd64", command_line="")


def test_the_iso_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_iso(tmp_path, name="a.iso").read_bytes()
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert write_iso(tmp_path, name="b.iso").read_bytes() == first

"""Make the ISO bootable: isolinux for BIOS, shim and GRUB for UEFI, all of them Debian's own binaries.

The ISO boots from a CD drive and from a USB stick, since it begins with a master boot record. QEMU and libvirt load
kernel and RAM disk directly and need none of this.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pymachine.image.errors import PackageError
from pymachine.image.filesystem import fat
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.layout import ISO_INITRD, ISO_KERNEL

# Paths inside the ISO. Loaders look for these names.
FOLDER = "boot"
ISOLINUX = f"{FOLDER}/isolinux/isolinux.bin"
LDLINUX = f"{FOLDER}/isolinux/ldlinux.c32"
ISOLINUX_CONFIG = f"{FOLDER}/isolinux/isolinux.cfg"
CATALOG = f"{FOLDER}/boot.cat"
EFI_IMAGE = f"{FOLDER}/efi.img"
GRUB_CONFIG = f"{FOLDER}/grub/grub.cfg"
# Debian's GRUB for CDs uses the file system that has this file.
GRUB_MARKER = ".disk/info"

BIOS_FILES = {
    ISOLINUX: "usr/lib/ISOLINUX/isolinux.bin",
    LDLINUX: "usr/lib/syslinux/modules/bios/ldlinux.c32",
}
MBR_CODE = "usr/lib/ISOLINUX/isohdpfx.bin"
# By architecture: shim, which Secure Boot trusts, and the GRUB that shim trusts, under UEFI's names.
EFI_FILES = {
    "amd64": {
        "EFI/BOOT/BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
        "EFI/BOOT/GRUBX64.EFI": "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
    },
    "arm64": {
        "EFI/BOOT/BOOTAA64.EFI": "usr/lib/shim/shimaa64.efi.signed",
        "EFI/BOOT/GRUBAA64.EFI": "usr/lib/grub/arm64-efi-signed/gcdaa64.efi.signed",
    },
}
# Folders of the loaders' packages. The guest needs nothing in them.
PACKAGE_FOLDERS = ("usr/lib/ISOLINUX", "usr/lib/syslinux", "usr/lib/grub", "usr/lib/shim")
SERIAL_SPEED = 115200
CONSOLES = {
    "amd64": f"console=tty0 console=ttyS0,{SERIAL_SPEED}",
    "arm64": f"console=tty0 console=ttyAMA0,{SERIAL_SPEED}",
}
# GRUB's output on a serial line. UEFI firmware of arm64 virtual machines has its console there already.
GRUB_SERIAL = f"""\
if serial --unit=0 --speed={SERIAL_SPEED}; then
    terminal_input console serial
    terminal_output console serial
fi
"""

MBR_CODE_SIZE = 432
MBR = struct.Struct(f"<{MBR_CODE_SIZE}sIIIH64sH")
MBR_SIGNATURE = 0xAA55
MBR_ID = 0x504D0001
PARTITION = struct.Struct("<B3sB3sII")
HIDDEN_NTFS = 0x17  # isohybrid's choice: no system interprets it
EFI_SYSTEM = 0xEF
# A cylinder of 64 heads and 32 sectors, as in isohybrid: some firmware accepts only whole cylinders.
CYLINDER = 1 << 20
NO_CHS = b"\xfe\xff\xff"
# For the EFI entry: with NO_CHS, pycdlib expects a GPT too and does not open the ISO.
NO_CHS_EFI = b"\xff\xff\xff"


@dataclass(frozen=True)
class Loaders:
    """The loaders in an ISO: whether it has isolinux, and the code of its master boot record."""

    bios: bool
    mbr_code: bytes


def install(tree: Tree, architecture: str, *, command_line: str) -> Loaders:
    """Put the loaders in `tree` where firmware looks for them, and remove their packages' files.

    Call it after kernel and RAM disk are in the tree. Raises `PackageError` if a loader is missing in its package.
    """
    efi = {name: _contents(tree, source) for name, source in EFI_FILES[architecture].items()}
    bios = {name: _contents(tree, source) for name, source in BIOS_FILES.items()} if architecture == "amd64" else {}
    mbr_code = _contents(tree, MBR_CODE) if bios else b""
    for folder in PACKAGE_FOLDERS:
        tree.remove(folder)
    options = f"{CONSOLES[architecture]} {command_line}".strip()
    files = {**bios, EFI_IMAGE: fat.build(efi), GRUB_CONFIG: grub_config(options, architecture).encode()}
    if bios:
        files[ISOLINUX_CONFIG] = isolinux_config(options).encode()
    files[GRUB_MARKER] = b"pymachine\n"
    for name, data in files.items():
        tree.put(name, Node.file(data))
    return Loaders(bool(bios), mbr_code)


def _contents(tree: Tree, path: str) -> bytes:
    node = tree.get(path)
    if node is None:
        raise PackageError(f"no /{path} in the boot loaders' packages", hint="The recipe needs another package.")
    return node.contents()


def isolinux_config(options: str) -> str:
    """Return the text of ``isolinux.cfg``: one entry, booted immediately."""
    return (
        f"SERIAL 0 {SERIAL_SPEED}\nDEFAULT pymachine\nPROMPT 0\nLABEL pymachine\n"
        f"    LINUX /{ISO_KERNEL}\n    INITRD /{ISO_INITRD}\n    APPEND {options}\n"
    )


def grub_config(options: str, architecture: str) -> str:
    """Return the text of ``grub.cfg``: one entry, booted immediately."""
    serial = GRUB_SERIAL if architecture == "amd64" else ""
    return (
        f"{serial}set timeout=0\nmenuentry pymachine {{\n"
        f"    linux /{ISO_KERNEL} {options}\n    initrd /{ISO_INITRD}\n}}\n"
    )


def master_boot_record(code: bytes, *, sectors: int, isolinux: int, efi: tuple[int, int]) -> bytes:
    """Return the first 512 bytes of an ISO that also boots from a USB stick.

    All numbers are in sectors of 512 bytes: the size of the ISO, the position of isolinux, and the position and size
    of the UEFI file system. Source of the format: isohybrid of the Syslinux project.
    """
    iso_partition = PARTITION.pack(0x80, b"\0\1\0", HIDDEN_NTFS, NO_CHS, 0, sectors)
    efi_partition = PARTITION.pack(0, NO_CHS_EFI, EFI_SYSTEM, NO_CHS_EFI, *efi)
    table = (iso_partition if code else b"") + efi_partition
    return MBR.pack(code[:MBR_CODE_SIZE], isolinux, 0, MBR_ID, 0, table.ljust(64, b"\0"), MBR_SIGNATURE)

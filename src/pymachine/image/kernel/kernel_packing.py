"""Pack kernel and RAM disk for hypervisors that load them as files, so that machines share their memory pages.

While a machine runs, QEMU keeps a copy of its ``-kernel`` file, but maps its ``-initrd`` file. So the kernel is
appended to the RAM disk and replaced by a small loader, which moves it to its address and starts it. The kernel does
not notice.
"""

from __future__ import annotations

import struct
from pathlib import Path

from pymachine.image.errors import PackageError
from pymachine.image.layout import INITRD, KERNEL

# Offsets of fields in the setup header, with which the boot parameters begin. Source of everything about them here:
# Documentation/arch/x86/boot.rst of Linux.
_SETUP_SECTORS = 0x1F1
_SYSSIZE = 0x1F4
_MAGIC = 0x202
_VERSION = 0x206
_CODE32_START = 0x214
_RAMDISK_IMAGE = 0x218
_RAMDISK_SIZE = 0x21C
_PREFERRED_ADDRESS = 0x258
_HEADER_END = 0x268

_MAGIC_WORD = b"HdrS"
_SECTOR = 512
_PARAGRAPH = 16
_PAGE = 4096
# The first version with the preferred address.
_OLDEST_VERSION = 0x20A


def write(kernel: bytes, ramdisk: bytes, folder: Path, *, architecture: str) -> None:
    """Pack kernel and RAM disk, and write both files into an image's `folder`."""
    for name, data in zip((KERNEL, INITRD), pack(kernel, ramdisk, architecture=architecture), strict=True):
        (folder / name).write_bytes(data)


def pack(kernel: bytes, ramdisk: bytes, *, architecture: str) -> tuple[bytes, bytes]:
    """Return the kernel and RAM disk to pass to a hypervisor, so that `kernel` starts with `ramdisk`.

    Both are returned unchanged on other architectures than amd64, where Linux is not loaded in two parts.
    Raises `PackageError` if `kernel` does not follow Linux's boot protocol.
    """
    if architecture != "amd64":
        return kernel, ramdisk
    header = kernel[:_HEADER_END].ljust(_HEADER_END, b"\0")
    version = struct.unpack_from("<H", header, _VERSION)[0]
    if header[_MAGIC : _MAGIC + len(_MAGIC_WORD)] != _MAGIC_WORD or version < _OLDEST_VERSION:
        raise PackageError("the kernel is not a bzImage of Linux", hint="The recipe needs another package of it.")
    # The real-mode part, which queries the firmware, stays. It ends by entering the protected-mode part.
    setup_size = (header[_SETUP_SECTORS] + 1) * _SECTOR
    setup, protected = bytearray(kernel[:setup_size]), _padded(kernel[setup_size:], _PAGE)
    front = _padded(ramdisk, _PAGE)
    address = struct.unpack_from("<Q", header, _PREFERRED_ADDRESS)[0]
    loader = _padded(
        _loader(address=address, offset=len(front), size=len(protected), ramdisk_size=len(ramdisk)), _PARAGRAPH
    )
    struct.pack_into("<I", setup, _SYSSIZE, len(loader) // _PARAGRAPH)
    return bytes(setup) + loader, front + protected


def _loader(*, address: int, offset: int, size: int, ramdisk_size: int) -> bytes:
    """Return machine code for the boot protocol's 32-bit entry: esi has the boot parameters, and all segments are flat.

    It moves `size` bytes at `offset` in the RAM disk to `address`, corrects the RAM disk's size, and enters the kernel
    with unchanged registers.
    """
    parts = (
        (b"\xfc", ()),  # cld
        (b"\x89\xf3", ()),  # mov ebx, esi
        (b"\x8b\xb3", (_RAMDISK_IMAGE,)),  # mov esi, [ebx + ramdisk_image]
        (b"\x81\xc6", (offset,)),  # add esi, offset
        (b"\xbf", (address,)),  # mov edi, address
        (b"\xb9", (size // 4,)),  # mov ecx, size / 4
        (b"\xf3\xa5", ()),  # rep movsd
        (b"\xc7\x83", (_RAMDISK_SIZE, ramdisk_size)),  # mov dword [ebx + ramdisk_size], ramdisk_size
        (b"\xc7\x83", (_CODE32_START, address)),  # mov dword [ebx + code32_start], address
        (b"\x89\xde", ()),  # mov esi, ebx
        (b"\xb8", (address,)),  # mov eax, address
        (b"\x31\xdb\x31\xed\x31\xff", ()),  # xor ebx, ebx; xor ebp, ebp; xor edi, edi
        (b"\xff\xe0", ()),  # jmp eax
    )
    return b"".join(code + struct.pack(f"<{len(words)}I", *words) for code, words in parts)


def _padded(data: bytes, unit: int) -> bytes:
    return data + bytes(-len(data) % unit)

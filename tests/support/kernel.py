"""A file in the format of Linux's boot protocol, without a kernel in it."""

from __future__ import annotations

import struct

SETUP_SECTORS = 3
ADDRESS = 0x1000000
"""The preferred load address of the protected-mode part."""


def bz_image(protected: bytes, *, magic: bytes = b"HdrS", version: int = 0x20F) -> bytes:
    """Return a bzImage: four sectors of setup, in which neighbouring bytes differ, then `protected`."""
    setup = bytearray(range(256)) * 2 * (SETUP_SECTORS + 1)
    setup[0x1F1] = SETUP_SECTORS
    setup[0x202:0x206] = magic
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<Q", setup, 0x258, ADDRESS)
    return bytes(setup) + protected

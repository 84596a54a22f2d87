"""What Linux's boot protocol calls a kernel, without a kernel in it."""

from __future__ import annotations

import struct

SETUP_SECTORS = 3
ADDRESS = 0x1000000
"""Where the part that runs in protected mode would like to be."""


def bz_image(protected: bytes, *, magic: bytes = b"HdrS", version: int = 0x20F) -> bytes:
    """A bzImage: four sectors of setup, no two neighbours of whose bytes are the same, and `protected`."""
    setup = bytearray(range(256)) * 2 * (SETUP_SECTORS + 1)
    setup[0x1F1] = SETUP_SECTORS
    setup[0x202:0x206] = magic
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<Q", setup, 0x258, ADDRESS)
    return bytes(setup) + protected

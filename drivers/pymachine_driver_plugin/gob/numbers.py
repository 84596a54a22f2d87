"""Numbers as gob sends them. All are unsigned integers of up to 64 bits on the wire."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pymachine_driver_plugin.gob.errors import GobError

_FLOAT = struct.Struct("<d")
_LONGEST = 8


def encode_uint(number: int) -> bytes:
    """Return an unsigned integer: a byte if it is less than 128, else its negated length and its bytes."""
    if number < 128:
        return bytes([number])
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([256 - len(digits)]) + digits


def read_uint(read: Callable[[int], bytes | memoryview]) -> int:
    """Read an unsigned integer. `read` returns as many bytes as its argument says."""
    first = read(1)[0]
    if first < 128:
        return first
    length = 256 - first
    if length > _LONGEST:
        raise GobError(f"a number of {length} bytes, but numbers have at most {_LONGEST}")
    return int.from_bytes(read(length), "big")


def from_int(number: int) -> int:
    """Return the unsigned integer that stands for a signed one: its lowest bit says that the others are inverted."""
    return ~number << 1 | 1 if number < 0 else number << 1


def to_int(number: int) -> int:
    """Return the signed integer for which an unsigned one stands."""
    return ~(number >> 1) if number & 1 else number >> 1


def from_float(number: float) -> int:
    """Return the unsigned integer that stands for a float: its bytes in reverse, so that common floats are short."""
    return int.from_bytes(_FLOAT.pack(number), "big")


def to_float(number: int) -> float:
    """Return the float for which an unsigned integer stands."""
    return float(_FLOAT.unpack(number.to_bytes(_FLOAT.size, "big"))[0])

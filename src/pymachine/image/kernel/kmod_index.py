"""Write kmod's indices (``modules.dep.bin`` and similar): a big-endian trie, as kmod's depmod(8) writes it.

kmod's modprobe reads only these, not the text files. Source: ``libkmod/libkmod-index.c`` of kmod.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

MAGIC = 0xB007F457
VERSION = 0x00020001
PREFIX = 0x80000000
VALUES = 0x40000000
CHILDREN = 0x20000000
HEADER = struct.Struct(">III")
NUMBER = struct.Struct(">I")


@dataclass
class _Node:
    values: list[str] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)


def normalize_alias(alias: str) -> str:
    """Replace the dashes outside brackets by underscores, as kmod does before a lookup."""
    parts = []
    inside = False
    for character in alias:
        inside = character == "[" or (inside and character != "]")
        parts.append("_" if character == "-" and not inside else character)
    return "".join(parts)


def build(entries: Iterable[tuple[str, str]]) -> bytes:
    """Return the index of these (key, value) pairs. Their order is their priority."""
    root = _Node()
    priorities: dict[int, list[int]] = {}
    for priority, (key, value) in enumerate(entries):
        node = root
        for character in key.encode("ascii", "replace"):
            node = node.children.setdefault(character, _Node())
        if value not in node.values:
            node.values.append(value)
            priorities.setdefault(id(node), []).append(priority)
    out = bytearray(HEADER.size)
    offset = _write(root, b"", out, priorities)
    out[: HEADER.size] = HEADER.pack(MAGIC, VERSION, offset)
    return bytes(out)


def _write(node: _Node, prefix: bytes, out: bytearray, priorities: dict[int, list[int]]) -> int:
    """Append `node` after its children, and return its offset and flags."""
    while len(node.children) == 1 and not node.values:
        ((character, node),) = node.children.items()
        prefix += bytes([character])
    offsets = {character: _write(child, b"", out, priorities) for character, child in sorted(node.children.items())}
    offset = len(out)
    if prefix:
        out += prefix + b"\0"
        offset |= PREFIX
    if offsets:
        first, last = min(offsets), max(offsets)
        out += bytes([first, last])
        out += b"".join(NUMBER.pack(offsets.get(character, 0)) for character in range(first, last + 1))
        offset |= CHILDREN
    if node.values:
        out += NUMBER.pack(len(node.values))
        for priority, value in zip(priorities[id(node)], node.values, strict=True):
            out += NUMBER.pack(priority) + value.encode() + b"\0"
        offset |= VALUES
    return offset

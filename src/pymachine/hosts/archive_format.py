"""The format of exports: one file with a machine, or with the details to connect to it.

A tar (pax), compressed with Zstandard, so that other programs can read it too. ``pymachine.json`` comes first and
lists all files with their sizes. The files are in ``machine/``. ``pymachine.sha256`` comes last. Holes in files are
kept as holes (GNU tar's sparse format 1.0): a disk of 20 GB that contains one takes one. After the compressed tar a
skippable frame contains the SHA-256 of all bytes before it. docs/reference/exports.md describes the format.

An export may come from an untrusted source. `pymachine.hosts.archive_reader` accepts only what
`pymachine.hosts.archive_writer` writes, in the same order and with the sizes in the manifest.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymachine.errors import PymachineError

MANIFEST = "pymachine.json"
DIGESTS = "pymachine.sha256"
FOLDER = "machine"
FORMAT = 2
MACHINE = "machine"
CONNECTION = "connection"
# The size that an export may inflate to: FREE_BYTES, and LARGEST_RATIO bytes for each byte of the file.
# A file of 98 KB that is all zeros inflates 30,000 times; machines, whose images hardly shrink, less than 100 times.
FREE_BYTES = 64 << 20
LARGEST_RATIO = 1000

_MOST_MEMBERS = 32
MOST_EXTENTS = 1 << 18
LARGEST_SIZE = 1 << 50
CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
SPARSE_KEYS = {"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize"}
SPARSE_FOLDER = "GNUSparseFile.0"
# A skippable frame of Zstandard: its magic number, and the length of its content.
TRAILER = struct.pack("<II", 0x184D2A50, hashlib.sha256().digest_size)
TRAILER_SIZE = len(TRAILER) + hashlib.sha256().digest_size


class ExportError(PymachineError):
    """A file is not an export that can be read, or cannot be written."""

    code = "bad-export"


@dataclass(frozen=True)
class Member:
    """A file in an export."""

    name: str
    size: int
    """Its length in bytes."""
    data: int
    """The number of bytes that are not in holes. Only these are in the export."""


@dataclass(frozen=True)
class Manifest:
    """The description of an export, at its beginning."""

    kind: str
    """``machine`` or ``connection``."""
    name: str
    driver: str
    url: str = ""
    """The engine's URL, for a connection."""
    members: tuple[Member, ...] = ()
    format: int = FORMAT

    @property
    def data(self) -> int:
        """The bytes that its files take on a disk."""
        return sum(member.data for member in self.members)


@dataclass(frozen=True)
class Content:
    """A file of an export that is not on the disk."""

    name: str
    data: bytes


def digest_lines(digests: dict[str, str]) -> bytes:
    """Return the content of ``pymachine.sha256``."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def sparse_headers(name: str, size: int) -> dict[str, str]:
    """Return the pax headers of a file with holes that is `size` bytes long."""
    return {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }


def padded(size: int) -> int:
    """Return `size` rounded up to whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK


def parse_manifest(fields: Any, error: Callable[[str], ExportError]) -> Manifest:
    """Return the manifest from its JSON, with every value checked."""
    if not isinstance(fields, dict):
        raise error(f"{MANIFEST} is not a JSON object")
    kind, form = fields.get("kind"), fields.get("format")
    if form == 1:
        problem = error("its format is 1, which has no digests")
        problem.hint = "Import it with the pymachine that wrote it, and export the machine again with this one."
        raise problem
    if form != FORMAT or kind not in {MACHINE, CONNECTION}:
        problem = error(f"its kind is {kind!r} and its format {form!r}")
        problem.hint = "It may be of a newer pymachine."
        raise problem
    for key in ("name", "driver", "url"):
        value = fields.get(key)
        if not isinstance(value, str) or len(value) > 1000:
            raise error(f"{MANIFEST}: {key} is {str(value)[:100]!r}, expected a short text")
    members = fields.get("members")
    if not isinstance(members, list) or len(members) > _MOST_MEMBERS:
        raise error(f"{MANIFEST}: members is not a list of at most {_MOST_MEMBERS} files")
    found = tuple(_member(member, error) for member in members)
    if len({member.name for member in found}) < len(found):
        raise error(f"{MANIFEST} names a file twice")
    return Manifest(kind, fields["name"], fields["driver"], fields["url"], found)


def _member(fields: Any, error: Callable[[str], ExportError]) -> Member:
    if not isinstance(fields, dict):
        raise error(f"{MANIFEST}: a member is not a JSON object")
    name = fields.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise error(f"{MANIFEST} names {str(name)[:100]!r}, which no export of pymachine's has")
    sizes = [fields.get(key) for key in ("size", "data")]
    right = [size for size in sizes if type(size) is int and 0 <= size <= LARGEST_SIZE]
    if len(right) < len(sizes) or right[0] < right[1]:
        raise error(f"{MANIFEST}: size and data of {name} are {str(sizes)[:100]}, expected two sizes in bytes")
    return Member(name, *right)


def inflates_to(size: int) -> int:
    """Return the number of bytes that an export of `size` bytes may inflate to."""
    return FREE_BYTES + LARGEST_RATIO * size

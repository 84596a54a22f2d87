"""The numbers and packets of SFTP, version 3, as OpenSSH speaks it.

A packet is its length, a type, the request's number, and fields. The fields of a request come from a guest, which may
send anything.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import BinaryIO, cast

VERSION = 3
LONGEST_PACKET = 256 * 1024
"""In bytes, without the length. OpenSSH has the same limit."""
LONGEST_DATA = LONGEST_PACKET - 1024
"""The limit of one READ, in bytes. The rest of the packet is for the other fields."""
_HEAD = struct.Struct(">BI")
_LARGEST_OFFSET = 2**63 - 1


class MalformedError(ValueError):
    """A packet is too short for its fields, or a number in it is too large."""


class Request(IntEnum):
    """The types of packets from the client."""

    INIT = 1
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    EXTENDED = 200


class Reply(IntEnum):
    """The types of packets from the server."""

    VERSION = 2
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """The codes in a STATUS. Version 3 has no others."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


class OpenFlag(IntFlag):
    """The flags of OPEN."""

    READ = 1
    WRITE = 2
    APPEND = 4
    CREATE = 8
    TRUNCATE = 16
    EXCLUSIVE = 32


class AttributeFlag(IntFlag):
    """Which attributes follow."""

    SIZE = 1
    OWNER = 2
    PERMISSIONS = 4
    TIMES = 8
    EXTENDED = 0x80000000


_COMPLETE = AttributeFlag.SIZE | AttributeFlag.OWNER | AttributeFlag.PERMISSIONS | AttributeFlag.TIMES

# OpenSSH's table, which sshfs expects, and EROFS. All other errors are FAILURE.
_STATUS_OF_ERRNO = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EBADF: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EROFS: Status.PERMISSION_DENIED,
    errno.ENAMETOOLONG: Status.BAD_MESSAGE,
    errno.EINVAL: Status.BAD_MESSAGE,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
    errno.EOPNOTSUPP: Status.OP_UNSUPPORTED,
}


@dataclass(frozen=True)
class Attributes:
    """The attributes that a client sets; None for those it leaves as they are. The owner is read and dropped."""

    size: int | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None
    """Last access and last change, in seconds since 1970."""


class Fields:
    """Reads the fields of a packet in their order. Each method raises `MalformedError` if the packet is too short."""

    def __init__(self, packet: bytes, at: int = 0) -> None:
        self._packet = packet
        self._at = at

    def head(self) -> tuple[int, int]:
        """Return the packet's type and the request's number."""
        kind, number = _HEAD.unpack(self._take(_HEAD.size))
        return kind, number

    def uint32(self) -> int:
        """Return a number of 32 bits."""
        return int.from_bytes(self._take(4), "big")

    def offset(self) -> int:
        """Return a position in a file, or a file's size. Raises `MalformedError` for those that no file can have."""
        number = int.from_bytes(self._take(8), "big")
        if number > _LARGEST_OFFSET:
            raise MalformedError("a size or position is too large")
        return number

    def data(self) -> memoryview:
        """Return a string of bytes without copying it."""
        return self._take(self.uint32())

    def string(self) -> bytes:
        """Return a string of bytes."""
        return bytes(self.data())

    def attributes(self) -> Attributes:
        """Return the attributes to set."""
        flags = self.uint32()
        size = self.offset() if flags & AttributeFlag.SIZE else None
        if flags & AttributeFlag.OWNER:
            self._take(8)
        mode = self.uint32() if flags & AttributeFlag.PERMISSIONS else None
        times = (self.uint32(), self.uint32()) if flags & AttributeFlag.TIMES else None
        if flags & AttributeFlag.EXTENDED:
            for _ in range(self.uint32()):
                self.data()
                self.data()
        return Attributes(size, mode, times)

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._packet):
            raise MalformedError("the packet is too short")
        taken = memoryview(self._packet)[self._at : end]
        self._at = end
        return taken


def read_packets(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the packets of a stream, without their lengths, up to its end.

    A packet of more than `LONGEST_PACKET` bytes is read and dropped except for its head, so it is answered as too
    short.
    """
    while len(length := _read(stream, 4)) == 4:
        size = int.from_bytes(length, "big")
        kept = size if size <= LONGEST_PACKET else _HEAD.size
        packet = _read(stream, kept)
        if len(packet) < kept or not _drop(stream, size - kept):
            return
        yield packet


def write_packet(stream: BinaryIO, packet: bytes) -> None:
    """Write all of a packet."""
    rest = memoryview(packet)
    while rest:
        # The files of paramiko's channels return None, and write everything.
        written = cast("int | None", stream.write(rest))
        rest = rest[len(rest) if written is None else written :]
    stream.flush()


def _read(stream: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or fewer if the stream ends before."""
    data = stream.read(count)
    if len(data) in (0, count):
        return data
    whole = bytearray(data)
    while data and len(whole) < count:
        data = stream.read(count - len(whole))
        whole += data
    return bytes(whole)


def _drop(stream: BinaryIO, count: int) -> bool:
    """Read and forget `count` bytes; return whether there were as many."""
    while count:
        read = len(stream.read(min(count, LONGEST_PACKET)))
        if not read:
            return False
        count -= read
    return True


def reply_packet(kind: Reply, number: int, fields: bytes) -> bytes:
    """Return the packet of a reply to the request `number`."""
    return struct.pack(">IBI", _HEAD.size + len(fields), kind, number) + fields


def string(data: bytes) -> bytes:
    """Return a string of bytes as a field."""
    return struct.pack(">I", len(data)) + data


def status(code: Status, text: str = "") -> bytes:
    """Return the fields of a STATUS."""
    return struct.pack(">I", code) + string((text or code.name).encode(errors="replace")) + string(b"")


def status_of(error: OSError) -> bytes:
    """Return the fields of the STATUS that reports an error of the file system."""
    return status(_STATUS_OF_ERRNO.get(error.errno or 0, Status.FAILURE), error.strerror or "")


def attributes(found: os.stat_result) -> bytes:
    """Return a file's attributes as a field."""
    times = (_seconds(found.st_atime), _seconds(found.st_mtime))
    return struct.pack(">IQ5I", _COMPLETE, found.st_size, found.st_uid, found.st_gid, found.st_mode, *times)


def _seconds(at: float) -> int:
    """Return a time in seconds as version 3 has it, with 32 bits. Files on a host may have any."""
    return min(max(int(at), 0), 2**32 - 1)


def name(text: bytes, long_name: bytes = b"", found: bytes = b"\0\0\0\0") -> bytes:
    """Return an entry of a NAME; `found` are its `attributes`, by default none."""
    return string(text) + string(long_name or text) + found


def listed(text: bytes, found: os.stat_result) -> bytes:
    """Return a folder's entry for NAME. Its long form is a line of ``ls -l``, which OpenSSH's client prints."""
    date = time.strftime("%b %e %H:%M %Y", time.localtime(_seconds(found.st_mtime)))
    columns = f"{found.st_nlink:4} {found.st_uid:8} {found.st_gid:8} {found.st_size:12} {date} "
    return name(text, (stat.filemode(found.st_mode) + columns).encode() + text, attributes(found))


def names(entries: list[bytes]) -> bytes:
    """Return the fields of a NAME."""
    return struct.pack(">I", len(entries)) + b"".join(entries)


def numbers64(*values: int) -> bytes:
    """Return numbers of 64 bits as fields."""
    return struct.pack(f">{len(values)}Q", *(value & (2**64 - 1) for value in values))

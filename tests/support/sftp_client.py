"""An SFTP client for tests, which can also send what no proper client sends.

It has its own codec, so that a mistake in the server's is noticed.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.kit.sftp.confined_folder import ConfinedFolder
from pymachine.driver.kit.sftp.session import Session

OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
INIT, EXTENDED = 1, 200
VERSION, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
TO_READ, TO_WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32

Answer = Callable[[bytes], bytes]


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def attributes(
    *, size: int | None = None, owner: int | None = None, mode: int | None = None, times: tuple[int, int] | None = None
) -> bytes:
    flags, fields = 0, b""
    if size is not None:
        flags, fields = flags | 1, fields + u64(size)
    if owner is not None:
        flags, fields = flags | 2, fields + u32(owner) + u32(owner)
    if mode is not None:
        flags, fields = flags | 4, fields + u32(mode)
    if times is not None:
        flags, fields = flags | 8, fields + u32(times[0]) + u32(times[1])
    return u32(flags) + fields


@dataclass(frozen=True)
class Attributes:
    size: int
    uid: int
    gid: int
    mode: int
    accessed: int
    changed: int


@dataclass(frozen=True)
class Reply:
    """A reply without its number."""

    kind: int
    fields: bytes

    @property
    def status(self) -> int:
        """The code of a STATUS, or OK for another reply, since only a success has one."""
        return struct.unpack_from(">I", self.fields)[0] if self.kind == STATUS else OK

    @property
    def data(self) -> bytes:
        """The string that a HANDLE or DATA consists of."""
        assert self.kind in (HANDLE, DATA), self
        assert len(self.fields) == 4 + struct.unpack_from(">I", self.fields)[0]
        return self.fields[4:]

    @property
    def attributes(self) -> Attributes:
        assert self.kind == ATTRS, self
        return parse_attributes(self.fields)

    @property
    def names(self) -> list[tuple[bytes, bytes, Attributes | None]]:
        """The names, long names and attributes of a NAME."""
        assert self.kind == NAME, self
        (count,), at, found = struct.unpack_from(">I", self.fields), 4, []
        for _ in range(count):
            words = []
            for _ in range(2):
                (length,) = struct.unpack_from(">I", self.fields, at)
                words.append(self.fields[at + 4 : at + 4 + length])
                at += 4 + length
            (flags,) = struct.unpack_from(">I", self.fields, at)
            size = 32 if flags else 4
            found.append((words[0], words[1], parse_attributes(self.fields[at : at + size]) if flags else None))
            at += size
        assert at == len(self.fields)
        return found


def parse_attributes(field: bytes) -> Attributes:
    flags, *values = struct.unpack(">IQIIIII", field)
    assert flags == 1 | 2 | 4 | 8
    return Attributes(*values)


def packet(kind: int, number: int, *fields: bytes) -> bytes:
    """Return a request without its length."""
    return struct.pack(">BI", kind, number) + b"".join(fields)


class Client:
    """Sends requests to a function that answers them, such as `Session.answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._numbers = itertools.count(1)

    def raw(self, request: bytes) -> tuple[int, Reply]:
        """Send a packet; return the number of the reply, and the reply."""
        reply = self._answer(request)
        length, kind, number = struct.unpack_from(">IBI", reply)
        assert length == len(reply) - 4
        return number, Reply(kind, reply[9:])

    def __call__(self, kind: int, *fields: bytes) -> Reply:
        number = next(self._numbers)
        answered, reply = self.raw(packet(kind, number, *fields))
        assert answered == number
        return reply

    def extended(self, name: str, *fields: bytes) -> Reply:
        return self(EXTENDED, text(f"{name}@openssh.com".encode()), *fields)

    def open(self, path: bytes, flags: int, attrs: bytes = u32(0)) -> Reply:
        return self(OPEN, text(path), u32(flags), attrs)

    def handle(self, path: bytes, flags: int = TO_READ, attrs: bytes = u32(0)) -> bytes:
        return self.open(path, flags, attrs).data

    def read(self, handle: bytes, offset: int, length: int) -> Reply:
        return self(READ, text(handle), u64(offset), u32(length))

    def write(self, handle: bytes, offset: int, data: bytes) -> Reply:
        return self(WRITE, text(handle), u64(offset), text(data))

    def lstat(self, path: bytes) -> Reply:
        return self(LSTAT, text(path))

    def list(self, path: bytes) -> list[tuple[bytes, bytes, Attributes | None]]:
        """Return a folder's entries."""
        handle, entries = self(OPENDIR, text(path)).data, []
        while (reply := self(READDIR, text(handle))).kind == NAME:
            entries += reply.names
        assert reply.status == EOF
        assert self(CLOSE, text(handle)).status == OK
        return entries


@contextmanager
def connected(root: Path, *, read_only: bool = False) -> Iterator[Client]:
    """Serve a folder to a client in this process, without streams between them."""
    with ConfinedFolder(root) as folder, Session(folder, read_only=read_only) as session:
        yield Client(session.answer)


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return everything about the files in a folder that a client could change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        state = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (
            state.st_ino,
            state.st_mode,
            state.st_uid,
            state.st_nlink,
            state.st_mtime_ns,
            state.st_ctime_ns,
            content,
        )
    return found

"""Every request that an SFTP client can make about a path, for tests that try all of them."""

from __future__ import annotations

from collections.abc import Callable

from support import sftp_client as sftp
from support.sftp_client import Client, Reply, attributes, text

Operation = Callable[[Client, bytes], list[Reply]]
"""Makes the requests about a path, and returns all replies."""


def opening(flags: int) -> Operation:
    def run(client: Client, path: bytes) -> list[Reply]:
        reply = client.open(path, flags, attributes(mode=0o640))
        if reply.kind != sftp.HANDLE:
            return [reply]
        handle = reply.data
        results = [client(sftp.FSTAT, text(handle))]
        if flags & sftp.TO_READ:
            results.append(client.read(handle, 0, 1000))
        if flags & ~sftp.TO_READ:
            results += [
                client.write(handle, 0, b"overwritten by the client"),
                client(sftp.FSETSTAT, text(handle), attributes(mode=0o611, size=3, times=(1, 1))),
            ]
        return [reply, *results, client(sftp.CLOSE, text(handle))]

    return run


def listing(client: Client, path: bytes) -> list[Reply]:
    reply = client(sftp.OPENDIR, text(path))
    return [reply, client(sftp.READDIR, text(reply.data))] if reply.kind == sftp.HANDLE else [reply]


def one(kind: int, *more: bytes) -> Operation:
    return lambda client, path: [client(kind, text(path), *more)]


def extended(name: str, *more: bytes) -> Operation:
    return lambda client, path: [client.extended(name, text(path), *more)]


READING: dict[str, Operation] = {
    "open to read": opening(sftp.TO_READ),
    "stat": one(sftp.STAT),
    "lstat": one(sftp.LSTAT),
    "list": listing,
    "readlink": one(sftp.READLINK),
    "statvfs": extended("statvfs"),
}
CHANGING: dict[str, Operation] = {
    "open to write": opening(sftp.TO_WRITE),
    "open to read and write": opening(sftp.TO_READ | sftp.TO_WRITE),
    "truncate": opening(sftp.TO_WRITE | sftp.TRUNCATE),
    "truncate for reading": opening(sftp.TO_READ | sftp.TRUNCATE),
    "append": opening(sftp.APPEND),
    "create": opening(sftp.TO_WRITE | sftp.CREATE | sftp.TRUNCATE),
    "create for reading": opening(sftp.TO_READ | sftp.CREATE),
    "create exclusively": opening(sftp.TO_WRITE | sftp.CREATE | sftp.EXCLUSIVE),
    "set the size": one(sftp.SETSTAT, attributes(size=1)),
    "set the mode": one(sftp.SETSTAT, attributes(mode=0o777)),
    "set the times": one(sftp.SETSTAT, attributes(times=(1, 1))),
    "set the owner": one(sftp.SETSTAT, attributes(owner=1)),
    "lsetstat": extended("lsetstat", attributes(mode=0o777, times=(1, 1))),
    "remove": one(sftp.REMOVE),
    "mkdir": one(sftp.MKDIR, attributes(mode=0o777)),
    "rmdir": one(sftp.RMDIR),
    "rename from": one(sftp.RENAME, text(b"/taken")),
    "rename to": lambda client, path: [client(sftp.RENAME, text(b"/own"), text(path))],
    "posix-rename from": extended("posix-rename", text(b"/taken")),
    "posix-rename to": lambda client, path: [client.extended("posix-rename", text(b"/own"), text(path))],
    "hardlink from": extended("hardlink", text(b"/taken")),
    "hardlink to": lambda client, path: [client.extended("hardlink", text(b"/own"), text(path))],
    "symlink": lambda client, path: [client(sftp.SYMLINK, text(b"own"), text(path))],
}
OPERATIONS = READING | CHANGING

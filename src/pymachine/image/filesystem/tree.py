"""A file tree as data: names, modes and owners in memory, contents in spool files.

An ordinary user cannot create root's files or setuid programs, so packages are not unpacked to the disk.
A path has no leading slash (``usr/bin/sudo``). The root is the empty string.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# Folders that Debian moved into /usr ("merged /usr"). Other packages may still use the old paths.
MERGED = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"})


class Kind(enum.Enum):
    """The type of a path."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's contents: bytes in memory, or a stretch of a file on disk."""

    length: int
    data: bytes = b""
    path: Path | None = None
    offset: int = 0

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """Return a blob in memory."""
        return cls(length=len(data), data=data)

    def read(self) -> bytes:
        """Return all bytes."""
        if self.path is None:
            return self.data
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class Node:
    """One path's metadata. `mode` has the twelve permission bits, without the type."""

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    blob: Blob | None = None
    target: str = ""

    @classmethod
    def file(cls, data: bytes | Blob, *, mode: int = 0o644) -> Node:
        """Return a regular file owned by root."""
        return cls(Kind.FILE, mode, blob=data if isinstance(data, Blob) else Blob.of(data))

    @classmethod
    def directory(cls, *, mode: int = 0o755) -> Node:
        """Return a directory owned by root."""
        return cls(Kind.DIRECTORY, mode)

    @classmethod
    def link(cls, target: str) -> Node:
        """Return a symbolic link."""
        return cls(Kind.LINK, 0o777, target=target)

    def contents(self) -> bytes:
        """Return a regular file's contents; empty for other kinds."""
        return b"" if self.blob is None else self.blob.read()


class Tree:
    """Paths and their nodes. A later node replaces an earlier one, and missing parents are created."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {"": Node.directory()}

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, path: str) -> Node | None:
        """Return the node at `path`, or None."""
        return self._nodes.get(path)

    def put(self, path: str, node: Node) -> None:
        """Set the node at `path`. A directory does not replace a link of the merged /usr."""
        path = in_merged_usr(path)
        if node.kind is Kind.DIRECTORY and path in MERGED:
            return
        parent = path.rpartition("/")[0]
        if parent not in self._nodes:
            self.put(parent, Node.directory())
        self._nodes[path] = node

    def change(self, path: str, *, mode: int, uid: int, gid: int) -> None:
        """Change the mode and owner of an existing path."""
        self._nodes[path] = replace(self._nodes[path], mode=mode, uid=uid, gid=gid)

    def remove(self, path: str) -> None:
        """Remove `path` and everything below it."""
        for name in [name for name in self._nodes if name == path or name.startswith(path + "/")]:
            del self._nodes[name]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield every path except the root, parents before children, in an order that depends only on the names."""
        for path in sorted(self._nodes):
            if path:
                yield path, self._nodes[path]

    def below(self, folder: str) -> Iterator[tuple[str, Node]]:
        """Yield every path under `folder`, in order."""
        prefix = folder + "/"
        for path in sorted(name for name in self._nodes if name.startswith(prefix)):
            yield path, self._nodes[path]


def in_merged_usr(path: str) -> str:
    """Return the path with /bin, /sbin and /lib* moved into /usr."""
    first, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and first in MERGED else path

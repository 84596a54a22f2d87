"""Read .deb files: an ar archive that contains a compressed tar (deb(5)).

python-debian reads the ar archive. Its DebFile is not used: it puts no limit on what a tar unpacks to, and runs a
program for zstd.

Contents go to one spool file per package, so that several processes can read packages and hundreds of megabytes need
not stay in memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from debian.arfile import ArError, ArFile, ArMember

from pymachine.image.errors import DigestError, PackageError
from pymachine.image.filesystem.tree import Blob, Kind, Node

TAR_BUFFER = 1 << 20
# In bytes. An image is unpacked into memory. Its largest package, the kernel's, has about 0.3 GiB.
MAX_TAR_BYTES = 2 << 30
# Installed-Size is an estimate, and does not include the tar's headers and padding.
_TAR_MARGIN_BYTES = 64 << 20


class LimitedReader:
    """A stream of which no more than `max_bytes` bytes are read. Raises `PackageError` for more."""

    def __init__(self, stream: IO[bytes], max_bytes: int, name: str) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._remaining = max_bytes
        self._name = name

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or as many as there are."""
        data = self._stream.read(size)
        self._remaining -= len(data)
        if self._remaining < 0:
            raise PackageError(f"{self._name}: unpacks to more than {self._max_bytes} bytes")
        return data


def find_member(file: BinaryIO, prefix: str) -> ArMember:
    """Return the member of an ar archive whose name begins with `prefix`. Raises `PackageError`."""
    try:
        members = ArFile(fileobj=file).getmembers()
    except (ArError, OSError, ValueError) as error:
        raise PackageError(f"not a Debian package: {error}") from error
    for member in members:
        if member.name.startswith(prefix):
            return member
    raise PackageError(f"not a Debian package: no {prefix}")


@contextlib.contextmanager
def open_tar(path: Path, prefix: str = "data.tar", *, max_bytes: int = MAX_TAR_BYTES) -> Iterator[tarfile.TarFile]:
    """Open the tar in the package's member that begins with `prefix`, as a stream of at most `max_bytes` bytes."""
    with path.open("rb") as file:
        member = find_member(file, prefix)
        name = member.name
        stream = cast("IO[bytes]", LimitedReader(_decompressed(member), max_bytes, f"{path.name}: {name}"))
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=TAR_BUFFER) as tar:
                yield tar
        except (tarfile.TarError, lzma.LZMAError, EOFError, gzip.BadGzipFile) as error:
            raise PackageError(f"{path.name}: {name} is damaged: {error}") from error


def _decompressed(member: ArMember) -> IO[bytes]:
    raw = cast("IO[bytes]", member)
    match member.name.rpartition(".")[2]:
        case "xz":
            return lzma.LZMAFile(raw)
        case "gz":
            return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        case "zst":
            import zstandard  # noqa: PLC0415 (only some repositories use it)

            return zstandard.ZstdDecompressor().stream_reader(raw)
        case "tar":
            return raw
    raise PackageError(f"{member.name}: unknown compression")


def max_tar_bytes(installed_kib: int | None) -> int:
    """Return the maximum size of a package's tar in bytes, from its Installed-Size if it has one."""
    return MAX_TAR_BYTES if installed_kib is None else min(MAX_TAR_BYTES, 2 * 1024 * installed_kib + _TAR_MARGIN_BYTES)


def unpack(
    path: Path, spool: Path, keep: Callable[[str], bool], *, installed_kib: int | None = None
) -> list[tuple[str, Node]]:
    """Return the files that the package at `path` installs, in its order. Their contents are written to `spool`.

    `keep` decides for each path whether it is included. Raises `PackageError` for devices and pipes, which no package
    of Debian has, and for more data than a package of `installed_kib` can have.
    """
    found: dict[str, Node] = {}
    with open_tar(path, max_bytes=max_tar_bytes(installed_kib)) as tar, spool.open("wb") as out:
        for entry in tar:
            name = entry.name.removeprefix("./").strip("/")
            if name in {"", "."} or not keep(name):
                continue
            if entry.islnk():
                # The link is skipped if its original was left out.
                original = found.get(entry.linkname.removeprefix("./").strip("/"))
                if original:
                    found[name] = original
                continue
            found[name] = _node(path, tar, entry, spool, out)
    return list(found.items())


def _node(path: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo, spool: Path, out: BinaryIO) -> Node:
    mode = entry.mode & 0o7777
    if entry.isdir():
        return Node(Kind.DIRECTORY, mode, entry.uid, entry.gid)
    if entry.issym():
        return Node(Kind.LINK, 0o777, entry.uid, entry.gid, target=entry.linkname)
    if not entry.isreg():
        raise PackageError(f"{path.name}: {entry.name} is neither file, directory nor link")
    offset = out.tell()
    if contents := tar.extractfile(entry):
        shutil.copyfileobj(contents, out, TAR_BUFFER)
    return Node(Kind.FILE, mode, entry.uid, entry.gid, Blob(entry.size, path=spool, offset=offset))


def check_digest(path: Path, sha256: str) -> None:
    """Raise `DigestError` unless the file at `path` has this SHA-256."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise DigestError(f"{path}: wrong SHA-256", details=f"expected {sha256}\nfound    {actual}")

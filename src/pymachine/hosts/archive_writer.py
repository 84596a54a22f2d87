"""Write exports; `pymachine.hosts.archive_format` describes the format."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import zstandard

from pymachine.hosts.archive_format import (
    DIGESTS,
    FOLDER,
    MANIFEST,
    MOST_EXTENTS,
    SPARSE_FOLDER,
    TRAILER,
    Content,
    ExportError,
    Manifest,
    Member,
    digest_lines,
    padded,
    sparse_headers,
)
from pymachine.system import os_errors, sparse_files
from pymachine.system.files import try_lock

# The suffix of an export that is being written.
_PART = ".part"


def write(target: Path, manifest: Manifest, files: Sequence[Path | Content], *, advance: Callable[[int], None]) -> None:
    """Write an export of `files`, by their names, to `target` (0600). Raises `ExportError`; then there is no file.

    The members of the manifest are those of `files`. `advance` is called with numbers of bytes as they are read.
    """
    _sweep_parts(target)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PART}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            try_lock(raw.fileno())
            hashed = _HashedOutput(raw)
            with (
                _compressor().stream_writer(hashed, closefd=False) as packed,  # type: ignore[arg-type]  # it only writes
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
            ):
                _add_all(archive, manifest, [_Source(file) for file in files], advance)
            raw.write(TRAILER + hashed.digest.digest())
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(target)
    except OSError as error:
        raise os_errors.wrapped(ExportError, f"cannot write {target}", error) from error
    finally:
        part.unlink(missing_ok=True)


def _sweep_parts(target: Path) -> None:
    """Remove the partial files that killed exports to `target` left. A file that a process still locks stays."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}{re.escape(_PART)}\Z")
    try:
        left = [path for path in target.parent.iterdir() if name.match(path.name)]
    except OSError:  # writing will report the problem with the folder
        return
    for part in left:
        with suppress(OSError), part.open("r+b") as raw:  # another user's, or another export removed it first
            if try_lock(raw.fileno()):
                part.unlink()


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(threads=-1, write_checksum=True)


def data_size(file: Path | Content) -> int:
    """Return the number of bytes of a file that are not in holes."""
    return _Source(file).member.data


class _HashedOutput:
    """An output file with the digest of everything written to it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._raw.write(data)


class _Source:
    """A file to export. Its extents are looked up once, so that the manifest and the content agree."""

    def __init__(self, file: Path | Content) -> None:
        self.file = file
        self.mtime = 0
        if isinstance(file, Content):
            self.extents = [(0, len(file.data))]
            size = len(file.data)
        else:
            with file.open("rb") as opened:
                self.extents = _merged(
                    [(begin, end - begin) for begin, end in sparse_files.data_ranges(opened.fileno())]
                )
                status = os.fstat(opened.fileno())
                size, self.mtime = status.st_size, int(status.st_mtime)
        self.member = Member(file.name, size, sum(length for _, length in self.extents))

    def open(self) -> BinaryIO:
        return io.BytesIO(self.file.data) if isinstance(self.file, Content) else self.file.open("rb")


def _add_all(
    archive: tarfile.TarFile, manifest: Manifest, sources: Sequence[_Source], advance: Callable[[int], None]
) -> None:
    manifest = replace(manifest, members=tuple(source.member for source in sources))
    fields = {**vars(manifest), "members": [vars(member) for member in manifest.members]}
    digests = {MANIFEST: _add_text(archive, MANIFEST, json.dumps(fields, indent=2).encode())}
    for source in sources:
        digests[f"{FOLDER}/{source.member.name}"] = _add(archive, source, advance)
    _add_text(archive, DIGESTS, digest_lines(digests))


def _add_text(archive: tarfile.TarFile, name: str, text: bytes) -> str:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text), 0o600
    archive.addfile(entry, io.BytesIO(text))
    return hashlib.sha256(text).hexdigest()


def _add(archive: tarfile.TarFile, source: _Source, advance: Callable[[int], None]) -> str:
    """Add a file, and return the digest of its bytes in the tar."""
    member = source.member
    entry = tarfile.TarInfo(f"{FOLDER}/{member.name}")
    entry.mode, entry.mtime = 0o600, source.mtime
    head = b""
    if member.data < member.size:
        head = _sparse_map(source.extents, member.size)
        entry.pax_headers = sparse_headers(entry.name, member.size)
        entry.name = f"{FOLDER}/{SPARSE_FOLDER}/{member.name}"
    entry.size = len(head) + member.data
    with source.open() as file:
        extents = _Extents(head, file, source.extents, advance)
        archive.addfile(entry, extents)  # type: ignore[arg-type]  # it only reads
    return extents.digest.hexdigest()


def _merged(extents: list[tuple[int, int]], *, most: int = MOST_EXTENTS) -> list[tuple[int, int]]:
    """Return `extents` with the smallest holes filled, so that there are no more than a reader accepts."""
    gap = 4096
    while len(extents) > most:
        gap *= 4
        merged = extents[:1]
        for offset, length in extents[1:]:
            begin, before = merged[-1]
            if offset - begin - before < gap:
                merged[-1] = (begin, offset + length - begin)
            else:
                merged.append((offset, length))
        extents = merged
    return extents


def _sparse_map(extents: Sequence[tuple[int, int]], size: int) -> bytes:
    numbers = [len(extents) + 1, *(number for extent in extents for number in extent), size, 0]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text.ljust(padded(len(text)), b"\0")


class _Extents:
    """A stream of a head and then the extents of a file, with its digest."""

    def __init__(
        self, head: bytes, file: BinaryIO, extents: Sequence[tuple[int, int]], advance: Callable[[int], None]
    ) -> None:
        self._head = head
        self._file = file
        self._rest = list(extents)[::-1]
        self._advance = advance
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end, as tarfile requires."""
        parts = [self._head[:size]]
        self._head = self._head[size:]
        left = size - len(parts[0])
        while left and self._rest:
            offset, length = self._rest.pop()
            self._file.seek(offset)
            data = self._file.read(min(left, length))
            if len(data) < length:
                if not data:
                    break  # the file was truncated meanwhile; tarfile reports it
                self._rest.append((offset + len(data), length - len(data)))
            parts.append(data)
            left -= len(data)
            self._advance(len(data))
        whole = b"".join(parts)
        self.digest.update(whole)
        return whole

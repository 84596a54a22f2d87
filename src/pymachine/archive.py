"""Exports: one file with a machine, or with the means to connect to it.

A tar (pax), compressed with Zstandard, so that other programs can read it too: ``pymachine.json`` says what it is, and
the rest is in ``machine/``. Holes in files are kept as holes (GNU tar's sparse format 1.0): a disk of 20 GB that has
one in it takes one.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

from pymachine import os_errors
from pymachine.errors import PymachineError

MANIFEST = "pymachine.json"
FOLDER = "machine"
FORMAT = 1
MACHINE = "machine"
CONNECTION = "connection"
_LARGEST_MANIFEST = 1024 * 1024
_CHUNK = 1024 * 1024


class ExportError(PymachineError):
    """A file is not an export that can be read, or cannot be written."""

    code = "bad-export"


@dataclass(frozen=True)
class Manifest:
    """What an export says of itself."""

    kind: str
    """``machine`` or ``connection``."""
    name: str
    driver: str
    url: str = ""
    """Of a connection: where the engine is."""
    format: int = FORMAT


# -- writing -------------------------------------------------------------------------------------------------------


def write(target: Path, manifest: Manifest, files: Sequence[Path], *, advance: Callable[[int], None]) -> None:
    """Write an export of `files`, by their names, to `target` (0600). Raises `ExportError`; then there is no file.

    `advance` is told how many bytes were read.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            with (
                zstandard.ZstdCompressor(threads=-1).stream_writer(raw, closefd=False) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
            ):
                text = json.dumps(asdict(manifest), indent=2).encode()
                entry = tarfile.TarInfo(MANIFEST)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text))
                for path in files:
                    _add(archive, path, advance)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(target)
    except OSError as error:
        raise os_errors.wrapped(ExportError, f"cannot write {target}", error) from error
    finally:
        part.unlink(missing_ok=True)


def data_size(path: Path) -> int:
    """How many bytes of a file are not in holes."""
    with path.open("rb") as file:
        return sum(length for _, length in _extents(file.fileno()))


def _add(archive: tarfile.TarFile, path: Path, advance: Callable[[int], None]) -> None:
    with path.open("rb") as file:
        extents = list(_extents(file.fileno()))
        size = os.fstat(file.fileno()).st_size
        entry = tarfile.TarInfo(f"{FOLDER}/{path.name}")
        entry.mode, entry.mtime = 0o600, int(path.stat().st_mtime)
        head = b""
        if sum(length for _, length in extents) < size:
            head = _sparse_map(extents, size)
            entry.pax_headers = {
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": entry.name,
                "GNU.sparse.realsize": str(size),
            }
            entry.name = f"{FOLDER}/GNUSparseFile.0/{path.name}"
        entry.size = len(head) + sum(length for _, length in extents)
        archive.addfile(entry, _Extents(head, file, extents, advance))  # type: ignore[arg-type]  # it only reads


def _extents(handle: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each stretch of a file that is not a hole."""
    size = os.fstat(handle).st_size
    at = 0
    while at < size:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
            end = os.lseek(handle, begin, os.SEEK_HOLE)
        except (AttributeError, OSError):
            # ENXIO: nothing but a hole is left. Where holes cannot be asked for, there are none.
            if not hasattr(os, "SEEK_DATA"):
                yield at, size - at
            return
        yield begin, end - begin
        at = end


def _sparse_map(extents: Sequence[tuple[int, int]], size: int) -> bytes:
    numbers = [len(extents) + 1, *(number for extent in extents for number in extent), size, 0]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text.ljust(-(-len(text) // 512) * 512, b"\0")


class _Extents:
    """A stream of a head and then the stretches of a file."""

    def __init__(
        self, head: bytes, file: io.BufferedReader, extents: Sequence[tuple[int, int]], advance: Callable[[int], None]
    ) -> None:
        self._head = head
        self._file = file
        self._rest = list(extents)[::-1]
        self._advance = advance

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end, as tarfile wants it."""
        parts = [self._head[:size]]
        self._head = self._head[size:]
        left = size - len(parts[0])
        while left and self._rest:
            offset, length = self._rest.pop()
            self._file.seek(offset)
            data = self._file.read(min(left, length))
            if len(data) < length:
                if not data:
                    break  # it was cut short meanwhile; tarfile says so
                self._rest.append((offset + len(data), length - len(data)))
            parts.append(data)
            left -= len(data)
            self._advance(len(data))
        return b"".join(parts)


# -- reading -------------------------------------------------------------------------------------------------------


@contextmanager
def opened(source: Path) -> Iterator[tuple[Manifest, Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]]]:
    """The manifest of the export at `source`, and its files in turn, to be given to `extract`. Raises `ExportError`."""
    try:
        with (
            source.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as archive,
        ):
            yield _manifest(archive, source), _members(archive, source)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise ExportError(f"{source} is not an export of pymachine's, or damaged: {error}") from error
    except OSError as error:
        if error.filename != str(source):
            raise
        raise os_errors.wrapped(ExportError, f"cannot read {source}", error) from error


def extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write a member to `target` (0600), holes as holes."""
    member.name, member.mode = target.name, 0o600
    if hasattr(tarfile, "data_filter"):
        archive.extraction_filter = staticmethod(tarfile.data_filter)
    archive.extract(member, target.parent, set_attrs=False)
    target.chmod(0o600)


def _manifest(archive: tarfile.TarFile, source: Path) -> Manifest:
    first = archive.next()
    file = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if file is None:
        raise ExportError(f"{source} is not an export of pymachine's: it does not begin with {MANIFEST}")
    try:
        fields: Mapping[str, Any] = json.loads(file.read(_LARGEST_MANIFEST))
        manifest = Manifest(**{key: fields[key] for key in Manifest.__dataclass_fields__ if key in fields})
    except (ValueError, TypeError) as error:
        raise ExportError(f"{source}: {MANIFEST} cannot be read: {error}") from error
    if manifest.format != FORMAT or manifest.kind not in {MACHINE, CONNECTION}:
        raise ExportError(
            f"{source} is an export of another form ({manifest.kind!r}, format {manifest.format!r})",
            hint="It may be of a newer pymachine.",
        )
    return manifest


def _members(archive: tarfile.TarFile, source: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    for member in archive:
        path = PurePosixPath(member.name)
        if member.name == MANIFEST:
            continue
        if not member.isreg() or path.parent != PurePosixPath(FOLDER) or path.name.startswith("."):
            raise ExportError(f"{source} has {member.name!r} in it, which no export of pymachine's has")
        yield path.name, archive, member

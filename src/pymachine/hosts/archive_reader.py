"""Read exports, which may come from an untrusted source; `pymachine.hosts.archive_format` describes the format."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pymachine.hosts.archive_format import (
    BLOCK,
    CHUNK,
    DIGESTS,
    FOLDER,
    LARGEST_SIZE,
    MANIFEST,
    MOST_EXTENTS,
    SPARSE_FOLDER,
    SPARSE_KEYS,
    TRAILER,
    TRAILER_SIZE,
    ExportError,
    Manifest,
    Member,
    digest_lines,
    inflates_to,
    padded,
    parse_manifest,
    sparse_headers,
)
from pymachine.system import os_errors

_LARGEST_MANIFEST = 64 << 10
_LARGEST_HEADER = 4096
_LARGEST_MAP = MOST_EXTENTS * 32
# The memory that zstd needs. All of its levels keep to it except the --ultra ones.
_LARGEST_WINDOW = 8 << 20
# The file is read in small steps, since the bytes read so far limit how much may be inflated.
_READ = 64 << 10


@contextmanager
def opened(source: Path) -> Iterator[Archive]:
    """Open the export at `source`, a file or a pipe, and read its manifest. Raises `ExportError`."""
    try:
        with source.open("rb") as raw:
            yield Archive(source, raw)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise ExportError(
            f"{source} is not an export of pymachine's, or damaged: {error}", hint="Copy it again, or export again."
        ) from error
    except OSError as error:
        if error.filename != str(source):
            raise
        raise os_errors.wrapped(ExportError, f"cannot read {source}", error) from error


class Archive:
    """An export that is being read: `extract` each of the manifest's members in turn, then `verify`."""

    def __init__(self, source: Path, raw: BinaryIO) -> None:
        self._source = source
        self._raw = _HashedInput(raw)
        self._stream = _Inflated(self._raw)
        self._digests: dict[str, str] = {}
        self.manifest = self._read_manifest()

    def extract(self, member: Member, target: Path) -> None:
        """Write the next member to the new file `target` (0600), holes as holes."""
        name = f"{FOLDER}/{member.name}"
        header = self._header(name)
        is_sparse = member.data < member.size
        extents = [(0, member.size)]
        digest = hashlib.sha256()
        if (header.is_sparse, header.real_size) != (is_sparse, member.size):
            raise self._odd(f"{name} has another size than the manifest says")
        if is_sparse:
            length = header.size - member.data
            if not 0 < length <= _LARGEST_MAP or length % BLOCK:
                raise self._odd(f"the map of holes of {name} has {length} bytes")
            text = self._stream.exactly(length)
            digest.update(text)
            extents = self._parse_map(text, member)
        elif header.size != member.size:
            raise self._odd(f"{name} has another size than the manifest says")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
            for offset, length in extents:
                file.seek(offset)
                self._copy(length, file, digest)
            file.truncate(member.size)
        self._stream.skip_padding(header.size)
        self._digests[name] = digest.hexdigest()

    def verify(self) -> None:
        """Read the end, and raise `ExportError` unless every digest is right and nothing else is in the export."""
        text = self._text(DIGESTS, largest=_LARGEST_MANIFEST)
        self._stream.end()
        if self._raw.digest.digest() != self._raw.trailer_digest():
            raise self._damaged("the SHA-256 of the file is not the one at its end")
        expected = digest_lines(self._digests)
        if text != expected:
            wrong = [name for name, digest in self._digests.items() if f"{digest}  {name}\n".encode() not in text]
            raise self._damaged(f"the SHA-256 of {', '.join(wrong) or DIGESTS} is wrong")

    def _copy(self, length: int, file: BinaryIO, digest: Any) -> None:
        while length:
            data = self._stream.some(min(length, CHUNK))
            digest.update(data)
            file.write(data)
            length -= len(data)

    def _parse_map(self, text: bytes, member: Member) -> list[tuple[int, int]]:
        lines = text.rstrip(b"\0").split(b"\n")
        if lines.pop() or not all(re.fullmatch(rb"[0-9]{1,16}", line) for line in lines):
            raise self._odd(f"the map of holes of {member.name} is not one")
        count, *numbers = map(int, lines)
        extents = list(zip(numbers[::2], numbers[1::2], strict=False))
        ends = [0, *(offset + length for offset, length in extents)]
        is_ordered = all(offset >= end for (offset, _), end in zip(extents, ends, strict=False))
        if count * 2 != len(numbers) or not is_ordered or ends[-1] > member.size:
            raise self._odd(f"the map of holes of {member.name} is not one")
        if sum(length for _, length in extents) != member.data:
            raise self._odd(f"the map of holes of {member.name} is for another size than the manifest says")
        return extents

    def _read_manifest(self) -> Manifest:
        try:
            text = self._text(MANIFEST, largest=_LARGEST_MANIFEST)
        except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
            raise ExportError(
                f"{self._source} is not an export of pymachine's: it does not begin with {MANIFEST} ({error})"
            ) from error
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"{MANIFEST} cannot be read: {error}") from error
        return parse_manifest(fields, self._odd)

    def _text(self, name: str, *, largest: int) -> bytes:
        header = self._header(name)
        if header.is_sparse or header.size > largest:
            raise self._odd(f"{name} has {header.size} bytes, more than {largest}")
        text = self._stream.exactly(header.size)
        self._stream.skip_padding(header.size)
        if name != DIGESTS:
            self._digests[name] = hashlib.sha256(text).hexdigest()
        return text

    def _header(self, name: str) -> _Header:
        """Return the header of the next member, which must be the file `name`."""
        header = _header(self._stream)
        if header is None:
            raise self._odd(f"it ends where {name} should be")
        if header.name != name:
            raise self._odd(f"it has {header.name!r} where {name} should be")
        return header

    def _odd(self, what: str) -> ExportError:
        return ExportError(f"{self._source} is not an export of pymachine's: {what}")

    def _damaged(self, what: str) -> ExportError:
        return ExportError(f"{self._source} is damaged: {what}", hint="Copy it again, or export again.")


@dataclass(frozen=True)
class _Header:
    """The header of a file in the tar."""

    name: str
    size: int
    """The number of bytes that follow."""
    real_size: int
    """The length of the file."""
    is_sparse: bool = False


def _header(stream: _Inflated) -> _Header | None:
    """Return the next header, None at the end. Raises tarfile.TarError for anything that `write` does not write."""
    block = stream.exactly(BLOCK)
    if not block.strip(b"\0"):
        return None
    entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    extra: dict[str, str] = {}
    if entry.type == tarfile.XHDTYPE:
        if not 0 < entry.size <= _LARGEST_HEADER:
            raise tarfile.HeaderError(f"an extended header of {entry.size} bytes")
        extra = _pax_headers(stream.exactly(entry.size))
        stream.skip_padding(entry.size)
        entry = tarfile.TarInfo.frombuf(stream.exactly(BLOCK), "utf-8", "strict")
    if entry.type != tarfile.REGTYPE or entry.linkname:
        raise tarfile.HeaderError(f"{entry.name!r} is not a file")
    size = int(extra.pop("size", entry.size))
    if not 0 <= size <= LARGEST_SIZE:
        raise tarfile.HeaderError(f"{entry.name!r} has {size} bytes")
    if not extra:
        return _Header(entry.name, size, size)
    folder, _, name = entry.name.rpartition("/")
    expected = sparse_headers(f"{FOLDER}/{name}", int(extra.get("GNU.sparse.realsize", 0)))
    if folder != f"{FOLDER}/{SPARSE_FOLDER}" or extra != expected:
        raise tarfile.HeaderError(f"{entry.name!r} has holes in an unknown form")
    return _Header(f"{FOLDER}/{name}", size, int(extra["GNU.sparse.realsize"]), is_sparse=True)


def _pax_headers(data: bytes) -> dict[str, str]:
    """Read the records of an extended header, each ``LENGTH KEY=VALUE``."""
    found: dict[str, str] = {}
    while data:
        record = re.match(rb"([0-9]{1,4}) ([A-Za-z.]{1,32})=([ -~]{0,200})\n", data)
        if record is None or int(record[1]) != len(record[0]):
            raise tarfile.HeaderError("an extended header cannot be read")
        key, value = record[2].decode(), record[3].decode()
        is_number = re.fullmatch("[0-9]{1,16}", value)
        if key in found or key not in {*SPARSE_KEYS, "size"} or not (is_number or key == "GNU.sparse.name"):
            raise tarfile.HeaderError(f"an extended header has {key!r}")
        found[key] = value
        data = data[len(record[0]) :]
    return found


class _HashedInput:
    """An input file that ends at its trailer, with the digest of everything read."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._held = b""
        self.count = 0
        self.digest = hashlib.sha256()

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to `size` bytes, none at the end."""
        while len(self._held) < size + TRAILER_SIZE:
            data = self._raw.read(size + TRAILER_SIZE - len(self._held))
            if not data:
                break
            self._held += data
        length = max(0, min(size, len(self._held) - TRAILER_SIZE))
        found, self._held = self._held[:length], self._held[length:]
        self.digest.update(found)
        self.count += length
        return found

    def trailer_digest(self) -> bytes:
        """Return the digest in the trailer, after everything else was read; empty if there is no trailer."""
        return self._held.removeprefix(TRAILER) if self._held.startswith(TRAILER) else b""


class _Inflated:
    """The tar in a compressed file; it inflates no further than `LARGEST_RATIO` allows."""

    def __init__(self, raw: _HashedInput) -> None:
        self._raw = raw
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._reader = decompressor.stream_reader(
            raw,  # type: ignore[arg-type]  # it only reads
            read_size=_READ,
            read_across_frames=True,
        )
        self._count = 0

    def some(self, most: int) -> bytes:
        """Return at least one byte and at most `most`. Raises EOFError."""
        data = self._reader.read(most)
        if not data:
            raise EOFError("it ends early")
        self._count += len(data)
        if self._count > inflates_to(self._raw.count):
            raise EOFError(f"{self._raw.count} bytes of it inflate to more than {self._count - len(data)}")
        return data

    def exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes, which the caller has limited. Raises EOFError."""
        parts = []
        while size:
            parts.append(self.some(min(size, CHUNK)))
            size -= len(parts[-1])
        return b"".join(parts)

    def skip_padding(self, size: int) -> None:
        """Skip the padding after a file of `size` bytes, up to the next block."""
        if self.exactly(padded(size) - size).strip(b"\0"):
            raise tarfile.TarError("something lies between two files")

    def end(self) -> None:
        """Check that only the zeros at the end of a tar follow, and read the file to its end."""
        left = 2 * tarfile.RECORDSIZE
        while data := self._reader.read(BLOCK):
            left -= len(data)
            if left < 0 or data.strip(b"\0"):
                raise tarfile.TarError("more is in it than its manifest says")

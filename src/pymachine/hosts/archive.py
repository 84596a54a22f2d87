"""Read and write exports: one file with a machine, or with the details to connect to it.

A tar (pax), compressed with Zstandard, so that other programs can read it too. ``pymachine.json`` comes first and
lists all files with their sizes. The files are in ``machine/``. ``pymachine.sha256`` comes last. Holes in files are
kept as holes (GNU tar's sparse format 1.0): a disk of 20 GB that contains one takes one. After the compressed tar a
skippable frame contains the SHA-256 of all bytes before it. docs/reference/exports.md describes the format.

An export may come from an untrusted source. The reader accepts only what the writer writes, in the same order and with
the sizes in the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pymachine.errors import PymachineError
from pymachine.system import os_errors, sparse_files
from pymachine.system.files import try_lock

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

_LARGEST_MANIFEST = 64 << 10
_LARGEST_HEADER = 4096
_MOST_MEMBERS = 32
_MOST_EXTENTS = 1 << 18
_LARGEST_MAP = _MOST_EXTENTS * 32
_LARGEST_SIZE = 1 << 50
# The memory that zstd needs. All of its levels keep to it except the --ultra ones.
_LARGEST_WINDOW = 8 << 20
_CHUNK = 1 << 20
# The file is read in small steps, since the bytes read so far limit how much may be inflated.
_READ = 64 << 10
# The suffix of an export that is being written.
_PART = ".part"
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SPARSE_KEYS = {"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize"}
_SPARSE_FOLDER = "GNUSparseFile.0"
# A skippable frame of Zstandard: its magic number, and the length of its content.
_TRAILER = struct.pack("<II", 0x184D2A50, hashlib.sha256().digest_size)
_TRAILER_SIZE = len(_TRAILER) + hashlib.sha256().digest_size


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


# -- writing -------------------------------------------------------------------------------------------------------


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
            raw.write(_TRAILER + hashed.digest.digest())
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
    _add_text(archive, DIGESTS, _digest_lines(digests))


def _digest_lines(digests: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


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
        entry.pax_headers = _sparse_headers(entry.name, member.size)
        entry.name = f"{FOLDER}/{_SPARSE_FOLDER}/{member.name}"
    entry.size = len(head) + member.data
    with source.open() as file:
        extents = _Extents(head, file, source.extents, advance)
        archive.addfile(entry, extents)  # type: ignore[arg-type]  # it only reads
    return extents.digest.hexdigest()


def _sparse_headers(name: str, size: int) -> dict[str, str]:
    return {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }


def _merged(extents: list[tuple[int, int]], *, most: int = _MOST_EXTENTS) -> list[tuple[int, int]]:
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
    return text.ljust(_padded(len(text)), b"\0")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


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


# -- reading -------------------------------------------------------------------------------------------------------


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
            if not 0 < length <= _LARGEST_MAP or length % _BLOCK:
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
        expected = _digest_lines(self._digests)
        if text != expected:
            wrong = [name for name, digest in self._digests.items() if f"{digest}  {name}\n".encode() not in text]
            raise self._damaged(f"the SHA-256 of {', '.join(wrong) or DIGESTS} is wrong")

    def _copy(self, length: int, file: BinaryIO, digest: Any) -> None:
        while length:
            data = self._stream.some(min(length, _CHUNK))
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
        return _manifest(fields, self._odd)

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
    block = stream.exactly(_BLOCK)
    if not block.strip(b"\0"):
        return None
    entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    extra: dict[str, str] = {}
    if entry.type == tarfile.XHDTYPE:
        if not 0 < entry.size <= _LARGEST_HEADER:
            raise tarfile.HeaderError(f"an extended header of {entry.size} bytes")
        extra = _pax_headers(stream.exactly(entry.size))
        stream.skip_padding(entry.size)
        entry = tarfile.TarInfo.frombuf(stream.exactly(_BLOCK), "utf-8", "strict")
    if entry.type != tarfile.REGTYPE or entry.linkname:
        raise tarfile.HeaderError(f"{entry.name!r} is not a file")
    size = int(extra.pop("size", entry.size))
    if not 0 <= size <= _LARGEST_SIZE:
        raise tarfile.HeaderError(f"{entry.name!r} has {size} bytes")
    if not extra:
        return _Header(entry.name, size, size)
    folder, _, name = entry.name.rpartition("/")
    expected = _sparse_headers(f"{FOLDER}/{name}", int(extra.get("GNU.sparse.realsize", 0)))
    if folder != f"{FOLDER}/{_SPARSE_FOLDER}" or extra != expected:
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
        if key in found or key not in {*_SPARSE_KEYS, "size"} or not (is_number or key == "GNU.sparse.name"):
            raise tarfile.HeaderError(f"an extended header has {key!r}")
        found[key] = value
        data = data[len(record[0]) :]
    return found


def _manifest(fields: Any, error: Callable[[str], ExportError]) -> Manifest:
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
    right = [size for size in sizes if type(size) is int and 0 <= size <= _LARGEST_SIZE]
    if len(right) < len(sizes) or right[0] < right[1]:
        raise error(f"{MANIFEST}: size and data of {name} are {str(sizes)[:100]}, expected two sizes in bytes")
    return Member(name, *right)


class _HashedInput:
    """An input file that ends at its trailer, with the digest of everything read."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._held = b""
        self.count = 0
        self.digest = hashlib.sha256()

    def read(self, size: int = _CHUNK) -> bytes:
        """Return up to `size` bytes, none at the end."""
        while len(self._held) < size + _TRAILER_SIZE:
            data = self._raw.read(size + _TRAILER_SIZE - len(self._held))
            if not data:
                break
            self._held += data
        length = max(0, min(size, len(self._held) - _TRAILER_SIZE))
        found, self._held = self._held[:length], self._held[length:]
        self.digest.update(found)
        self.count += length
        return found

    def trailer_digest(self) -> bytes:
        """Return the digest in the trailer, after everything else was read; empty if there is no trailer."""
        return self._held.removeprefix(_TRAILER) if self._held.startswith(_TRAILER) else b""


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
            parts.append(self.some(min(size, _CHUNK)))
            size -= len(parts[-1])
        return b"".join(parts)

    def skip_padding(self, size: int) -> None:
        """Skip the padding after a file of `size` bytes, up to the next block."""
        if self.exactly(_padded(size) - size).strip(b"\0"):
            raise tarfile.TarError("something lies between two files")

    def end(self) -> None:
        """Check that only the zeros at the end of a tar follow, and read the file to its end."""
        left = 2 * tarfile.RECORDSIZE
        while data := self._reader.read(_BLOCK):
            left -= len(data)
            if left < 0 or data.strip(b"\0"):
                raise tarfile.TarError("more is in it than its manifest says")


def inflates_to(size: int) -> int:
    """Return the number of bytes that an export of `size` bytes may inflate to."""
    return FREE_BYTES + LARGEST_RATIO * size

"""Damaged and forged exports for unit tests and the endurance campaign. Importing one must leave nothing behind."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import zstandard

from pymachine.errors import PymachineError
from pymachine.hosts import archive_format

Entry = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True)
class Fault:
    """An import that was not refused cleanly: the `damage` of the export, and the `reason` why this is a fault."""

    damage: str
    reason: str


# -- forging -----------------------------------------------------------------------------------------------------


def entry(name: str, content: bytes = b"", **attributes: Any) -> Entry:
    """Return a member of a tar; `attributes` are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def manifest(contents: Mapping[str, bytes], **changed: Any) -> bytes:
    """Return the manifest of files with `contents`; `changed` replaces fields of it."""
    members = [{"name": name, "size": len(data), "data": len(data)} for name, data in contents.items()]
    fields = {"kind": "machine", "name": "x", "driver": "qemu", "url": "", "members": members, "format": 2}
    return json.dumps({**fields, **changed}).encode()


def valid_entries(contents: Mapping[str, bytes], **changed: Any) -> list[Entry]:
    """Return the members of an export with these files, as `archive_writer.write` writes them."""
    text = manifest(contents, **changed)
    named = {archive_format.MANIFEST: text, **{f"machine/{name}": data for name, data in contents.items()}}
    return [*(entry(name, data) for name, data in named.items()), entry(archive_format.DIGESTS, digests(named))]


def digests(named: Mapping[str, bytes]) -> bytes:
    """Return the text of the last member: the digest of each other member."""
    return "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in named.items()).encode()


def tar(entries: list[Entry]) -> bytes:
    """Return the members as a tar. A member whose header announces more bytes than it has is written unchanged."""
    buffer = io.BytesIO()
    for info, content in entries:
        buffer.write(info.tobuf(tarfile.PAX_FORMAT))
        buffer.write(content + bytes(-len(content) % 512))
    return buffer.getvalue() + bytes(1024)


def pack(data: bytes) -> bytes:
    """Compress a tar and append the right digest."""
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return packed + b"\x50\x2a\x4d\x18\x20\0\0\0" + sha256(packed).digest()


def forge(target: Path, entries: list[Entry]) -> Path:
    """Write an export of `entries` that ends with the right digest."""
    target.write_bytes(pack(tar(entries)))
    return target


def unpack(source: Path) -> list[Entry]:
    """Return the members of a valid export without holes."""
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(source.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return [(info, found.extractfile(info).read()) for info in found]  # type: ignore[union-attr]


def with_record(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the export at `source` (without holes) to `target`, with a changed record and right digests."""
    contents = {Path(info.name).name: data for info, data in unpack(source)}
    written = json.loads(contents.pop(archive_format.MANIFEST))
    del contents[archive_format.DIGESTS]
    record = json.loads(contents["config.json"])
    change(record)
    contents["config.json"] = json.dumps(record).encode()
    return forge(target, valid_entries(contents, **{key: written[key] for key in ("kind", "name", "driver", "url")}))


def hostile(size: int = 3 << 30) -> Iterator[tuple[str, bytes]]:
    """Yield forged exports with right digests; each must be refused before it takes disk space or memory."""
    record = {"config.json": b"{}"}

    def forged(what: str, *entries: Entry, **changed: Any) -> tuple[str, bytes]:
        first = entry(archive_format.MANIFEST, manifest(record, **changed))
        return what, pack(tar([first, *entries]))

    yield forged("an absolute path", entry("/etc/evil", b"x"))
    yield forged("a path upwards", entry("machine/../../evil", b"x"))
    yield forged("a path below", entry("machine/sub/file", b"x"))
    yield forged("another file", entry("machine/evil", b"x"))
    yield forged("a file beside", entry("evil", b"x"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        yield forged(f"type {kind!r}", entry("machine/config.json", type=kind, linkname="/etc/passwd"))
    yield forged("an old sparse file", entry("machine/config.json", b"{}", type=tarfile.GNUTYPE_SPARSE))
    yield forged("a long name", entry("x", b"machine/config.json\0", type=tarfile.GNUTYPE_LONGNAME))
    yield forged("headers for all", entry("x", b"20 path=/etc/passwd\n", type=tarfile.XGLTYPE))
    for text in (
        b"size=1",
        b"path=/etc/evil",
        b"linkpath=/etc",
        b"GNU.sparse.size=9",
        b"size=-1",
        b"size=99999999999999999",
    ):
        head = f"{len(text) + 4} ".encode() + text + b"\n"
        yield forged(f"pax {text!r}", entry("x", head, type=tarfile.XHDTYPE), entry("machine/config.json", b"{}"))
    many = b"".join(b"14 size=00002\n" for _ in range(2))
    yield forged("pax twice", entry("x", many, type=tarfile.XHDTYPE), entry("machine/config.json", b"{}"))
    yield forged("a large pax header", entry("x", bytes(1 << 20), type=tarfile.XHDTYPE))
    nested = [entry("x", b"10 size=2\n", type=tarfile.XHDTYPE) for _ in range(3000)]
    yield forged("pax upon pax", *nested, entry("machine/config.json", b"{}"))
    yield forged("twice", *(entry("machine/config.json", b"{}") for _ in range(2)), entry(archive_format.DIGESTS, b""))
    sparse = entry("machine/config.json", b"{}")
    yield forged("a hole unannounced", *_sparse(b"1\n0\n2\n", b"{}", 1 << 40))
    holed = [{"name": "config.json", "size": 1 << 40, "data": 2}]
    for text in (b"9\n0\n2\n", b"2\n4\n2\n0\n0\n", b"1\n0\n-2\n", b"x", b"1\n0\n" + b"9" * 400 + b"\n", b"1\n0\n3\n"):
        yield forged(f"a map {text[:12]!r}", *_sparse(text, b"{}", 1 << 40), members=holed)
    yield forged("too short", sparse)
    yield forged("too large", entry("machine/config.json", bytes(1 << 20)))
    for text in (b"[" * 50_000, b'{"a":' * 10_000, b"[]", b"{", b"9" * 5000, bytes(1 << 20)):
        yield f"a manifest {text[:5]!r}", pack(tar([entry(archive_format.MANIFEST, text)]))
    for key, value in (
        ("members", {}),
        ("members", None),
        ("members", [1]),
        ("members", [{"name": "config.json", "size": 1, "data": 2}]),
        ("members", [{"name": "config.json", "size": True, "data": 0}]),
        ("members", [{"name": "config.json", "size": 1e300, "data": 0}]),
        ("members", [{"name": "config.json", "size": 10**30, "data": 0}]),
        ("members", [{"name": "../config.json", "size": 2, "data": 2}]),
        ("members", [{"name": ".hidden", "size": 2, "data": 2}]),
        ("members", [{"name": "config.json", "size": 2, "data": 2}] * 2),
        ("members", [{"name": f"f{number}", "size": 0, "data": 0} for number in range(1000)]),
        ("format", 1),
        ("format", 3),
        ("kind", "other"),
        ("name", 7),
        ("name", "x" * 2000),
        ("driver", []),
    ):
        yield forged(f"{key} {str(value)[:60]}", entry("machine/config.json", b"{}"), **{key: value})
    for what, announced in (("as announced", size), ("unannounced", 2)):
        members = [{"name": "config.json", "size": announced, "data": announced}]
        yield f"a bomb {what}", bomb(manifest(record, members=members), size)


def _sparse(text: bytes, data: bytes, size: int) -> Iterator[Entry]:
    pairs = (f"{key}={value}" for key, value in archive_format.sparse_headers("machine/config.json", size).items())
    records = b""
    for pair in pairs:
        length = len(pair) + 2
        while length != len(f"{length} {pair}\n"):
            length = len(f"{length} {pair}\n")
        records += f"{length} {pair}\n".encode()
    yield entry("x", records, type=tarfile.XHDTYPE)
    yield entry("machine/GNUSparseFile.0/config.json", text.ljust(512, b"\0") + data)


def bomb(first: bytes, size: int) -> bytes:
    """Return an export with a file of `size` zeros: 3 GiB compress to 98 KB."""
    parts = io.BytesIO()
    with zstandard.ZstdCompressor(write_checksum=True).stream_writer(parts, closefd=False) as packed:
        packed.write(tar([entry(archive_format.MANIFEST, first)])[:-1024])
        info, _ = entry("machine/config.json")
        info.size = size
        packed.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size >> 20):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    data = parts.getvalue()
    return data + b"\x50\x2a\x4d\x18\x20\0\0\0" + sha256(data).digest()


# -- damaging ----------------------------------------------------------------------------------------------------


def damaged(whole: bytes, *, rounds: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `rounds` copies of an export with one bit flipped; every eighth is cut short, lengthened or inverted."""
    chance = random.Random(seed)
    for number in range(rounds):
        at = chance.randrange(len(whole))
        data = bytearray(whole)
        if number % 8:
            bit = chance.randrange(8)
            data[at] ^= 1 << bit
            yield f"bit {bit} of byte {at} flipped", bytes(data)
            continue
        match number // 8 % 3:
            case 0:
                yield f"cut at {at}", whole[:at]
            case 1:
                yield "longer by some bytes", whole + chance.randbytes(1 + at % 100)
            case _:
                data[at : at + 8] = bytes(byte ^ 255 for byte in data[at : at + 8])
                yield f"8 bytes at {at} inverted", bytes(data)


def tree(root: Path) -> list[str]:
    """List every path below `root`, for a comparison."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def faults(
    attempts: Iterator[tuple[str, bytes]], take: Callable[[Path], object], *, file: Path, root: Path
) -> Iterator[Fault]:
    """Write each attempt to `file`, import it into the store `root` with `take`, and yield the faults.

    Each import must raise `PymachineError` and leave the store unchanged.
    """
    before = tree(root)
    for what, data in attempts:
        file.write_bytes(data)
        try:
            take(file)
        except PymachineError:
            left = sorted(set(tree(root)) ^ set(before))
            if left:
                yield Fault(what, f"left {left}")
        except Exception as error:  # noqa: BLE001 (any other error is a fault, reported with the rest)
            yield Fault(what, f"{type(error).__name__}: {error}")
        else:
            yield Fault(what, "was imported")
        finally:
            file.unlink()

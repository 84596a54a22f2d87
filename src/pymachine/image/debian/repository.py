"""Read an apt repository and verify it: the signature of InRelease, the digests of Packages and of each .deb.

Formats: https://wiki.debian.org/DebianRepository/Format.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, cast

from pymachine.image.debian.download import Cache, Downloader, Item, fetch_text, session
from pymachine.image.errors import (
    DigestError,
    ExpiredError,
    ImageError,
    MirrorError,
    RecipeError,
    ReleaseError,
    RollbackError,
    SignatureError,
)
from pymachine.image.recipe import Source
from pymachine.system.files import acquire_lock, atomic_write
from pymachine.system.progress import Reporter

# apt's tolerance (Acquire::Max-FutureTime).
FUTURE = timedelta(seconds=10)
# Debian's largest has about 60 MB.
MAX_INDEX_BYTES = 256 << 20
LOCK_SECONDS = 60.0
_STAMP = "%a, %d %b %Y %H:%M:%S UTC"


@dataclass(frozen=True)
class Release:
    """A verified InRelease: the digests and sizes of the repository's indices, by path."""

    suite: str
    codename: str
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    files: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Index:
    """One verified Packages file, and the URL of its packages."""

    source: Source
    url: str
    data: bytes


def verify_signature(data: bytes, keyring: Sequence[Path], *, name: str) -> bytes:
    """Return the signed text in `data`. Raises `SignatureError` unless a key of `keyring` has signed it."""
    import pysequoia  # noqa: PLC0415 (heavy)

    try:
        certs = [cert for path in keyring for cert in _certs(path)]
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"{name}: its key cannot be read", details=str(error)) from error
    try:
        result = pysequoia.verify(data, lambda _ids: certs)
    except RuntimeError as error:
        # The library appends its own stack trace to the message.
        raise SignatureError(
            f"{name}: InRelease is not signed by a key that is trusted for it",
            details=str(error).partition("\n\nStack")[0],
            hint="If the mirror is right, the source's keys changed: update pymachine, or give the source its new key.",
        ) from error
    if not result.valid_sigs or result.bytes is None:
        raise SignatureError(f"{name}: InRelease has no valid signature")
    return bytes(result.bytes)


def _certs(path: Path) -> list[object]:
    import pysequoia  # noqa: PLC0415

    data = path.read_bytes()
    if data.startswith(b"-----BEGIN"):
        return [pysequoia.Cert.from_bytes(data)]
    return list(pysequoia.Cert.split_bytes(data))


def parse_release(data: bytes, *, name: str) -> Release:
    """Parse a Release file. Raises `ReleaseError`, naming the field and its value."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{name}: its Release file is not UTF-8 text") from error
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, int]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith((" ", "\t")):
            if section == "SHA256":
                entry = re.fullmatch(r"\s+([0-9a-f]{64})\s+([0-9]{1,18})\s+(\S+)\s*", line)
                if entry is None:
                    raise ReleaseError(f"{name}: the Release field SHA256 has the line {line.strip()[:200]!r}")
                files[entry[3]] = (entry[1], int(entry[2]))
            continue
        section, _, value = line.partition(":")
        fields[section] = value.strip()
    return Release(
        suite=fields.get("Suite", ""),
        codename=fields.get("Codename", ""),
        date=_date("Date", fields.get("Date", ""), name=name),
        valid_until=_date("Valid-Until", until, name=name) if (until := fields.get("Valid-Until")) else None,
        by_hash=fields.get("Acquire-By-Hash") == "yes",
        files=files,
    )


def _date(field: str, value: str, *, name: str) -> datetime:
    try:
        found = parsedate_to_datetime(value.replace("UTC", "+0000"))
    except (ValueError, TypeError, OverflowError) as error:
        raise ReleaseError(f"{name}: the Release field {field} is {value[:200]!r}, which is not a date") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def check_valid(release: Release, *, name: str, suite: str, now: datetime) -> None:
    """Raise `ReleaseError` or `ExpiredError` unless the release is of `suite` and valid `now`."""
    if suite not in {release.suite, release.codename}:
        raise ReleaseError(
            f"{name}: its Release file is of suite {release.suite!r}, codename {release.codename!r}, not of {suite!r}",
            hint="The mirror serves another suite under this name. Choose another mirror with --mirror.",
        )
    times = f"made on {release.date:{_STAMP}}; it is {now:{_STAMP}} here"
    if release.date > now + FUTURE:
        raise ReleaseError(
            f"{name}: its Release file was made in the future",
            details=times,
            hint="Is this host's clock right? If it is, choose another mirror with --mirror.",
        )
    if release.valid_until and now > release.valid_until:
        raise ExpiredError(
            f"{name}: its Release file expired on {release.valid_until:{_STAMP}}",
            details=times,
            hint="The mirror is out of date, or this host's clock is wrong. Choose another mirror with --mirror.",
        )


def check_newest(release: Release, seen: Path, *, name: str) -> None:
    """Record the newest release of a source in the file `seen`. Raises `RollbackError` for an older release."""
    with acquire_lock(seen.with_suffix(".lock"), timeout=LOCK_SECONDS):
        try:
            newest = datetime.fromisoformat(seen.read_text())
        except FileNotFoundError:
            newest = release.date
        except ValueError as error:
            raise RollbackError(f"{seen}: not a date", hint=f"Remove it: rm {seen}") from error
        if release.date < newest:
            raise RollbackError(
                f"{name}: its Release file is older than one that was seen there before",
                details=f"made on {release.date:{_STAMP}}, the newer one on {newest:{_STAMP}}",
                hint="Servers behind one name may lag: try again later, or choose another mirror with --mirror. "
                f"To accept the older release: rm {seen}",
            )
        atomic_write(seen, release.date.isoformat())


class Repository:
    """One source on one mirror."""

    def __init__(self, source: Source, url: str, *, cache: Cache, reporter: Reporter) -> None:
        self.source = source
        self.url = url.rstrip("/")
        self._cache = cache
        self._reporter = reporter

    @property
    def _dist(self) -> str:
        return f"{self.url}/dists/{self.source.suite}"

    def release(self, *, now: datetime | None = None) -> Release:
        """Return the verified release from the mirror, or the last one fetched if the mirror does not answer.

        Raises `MirrorError`, `SignatureError`, `ReleaseError`, `RollbackError`, `ExpiredError`.
        """
        name = f"{self.source.name} ({self._dist})"
        kept_file = self._cache.directory / "releases" / f"{self.source.name}-{self.source.suite}.InRelease"
        try:
            with session() as http:
                data = fetch_text(http, f"{self._dist}/InRelease")
            fresh = True
        except MirrorError:
            if not kept_file.is_file():
                raise
            self._reporter.warn(f"{self.url} does not answer; using the release that was last fetched.")
            data, fresh = kept_file.read_bytes(), False
        release = self._verified(data, name=name, now=now)
        if fresh:
            key = hashlib.sha256(self._dist.encode()).hexdigest()[:16]
            try:
                check_newest(release, kept_file.with_name(f"{self.source.name}-{key}.newest"), name=name)
            except RollbackError as error:
                return self._kept_if_newer(kept_file, release, error, now=now)
            kept_file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(kept_file, data, mode=0o644)
        return release

    def _verified(self, data: bytes, *, name: str, now: datetime | None) -> Release:
        release = parse_release(verify_signature(data, self.source.keyring, name=name), name=name)
        check_valid(release, name=name, suite=self.source.suite, now=now or datetime.now(UTC))
        return release

    def _kept_if_newer(self, kept_file: Path, older: Release, error: RollbackError, *, now: datetime | None) -> Release:
        """Return the kept release if it is newer than `older`, as apt does. Raises `error` otherwise.

        One of the servers behind a mirror's name may lag behind.
        """
        try:
            release = self._verified(kept_file.read_bytes(), name=str(kept_file), now=now)
        except (OSError, ImageError):
            raise error from None
        if release.date <= older.date:
            raise error
        self._reporter.warn(f"{error.brief}: using the newer one.")
        return release

    def indices(self, architecture: str) -> list[Index]:
        """Return the verified Packages files of the source's components. Raises like `release`, and `DigestError`."""
        release = self.release()
        items = [self._item(release, component, architecture) for component in self.source.components]
        paths = Downloader(self._cache, reporter=self._reporter).fetch(
            items, title=f"Fetching the index of {self.source.suite}"
        )
        return [Index(self.source, self.url, _read(path, item)) for path, item in zip(paths, items, strict=True)]

    def _item(self, release: Release, component: str, architecture: str) -> Item:
        for suffix in (".xz", ".gz", ""):
            path = f"{component}/binary-{architecture}/Packages{suffix}"
            if path in release.files:
                digest, size = release.files[path]
                folder = path.rpartition("/")[0]
                name = f"{folder}/by-hash/SHA256/{digest}" if release.by_hash else path
                return Item(f"{self._dist}/{name}", digest, size, suffix=f".Packages{suffix}")
        raise MirrorError(f"{self._dist}: no index of {component} for {architecture}")


def _read(path: Path, item: Item) -> bytes:
    with path.open("rb") as whole:
        actual = hashlib.file_digest(whole, "sha256").hexdigest()
    if actual != item.sha256:
        path.unlink()
        raise DigestError(f"{path}: damaged in the cache; it was removed", hint="Try again: it will be fetched again.")
    try:
        with _decompressed(path) as file:
            data = file.read(MAX_INDEX_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ReleaseError(f"{item.url}: cannot be decompressed", details=str(error)) from error
    if len(data) > MAX_INDEX_BYTES:
        raise ReleaseError(f"{item.url}: the index has more than {MAX_INDEX_BYTES} bytes once it is decompressed")
    return data


def _decompressed(path: Path) -> BinaryIO:
    match path.suffix:
        case ".xz":
            return cast("BinaryIO", lzma.open(path, "rb"))
        case ".gz":
            return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")

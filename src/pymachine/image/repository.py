"""The verified chain of an apt repository: signature of InRelease, digest of Packages, digest of each .deb.

Formats: https://wiki.debian.org/DebianRepository/Format.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from pymachine.files import atomic_write
from pymachine.image.download import Cache, Downloader, Item, fetch_text, session
from pymachine.image.errors import DigestError, ExpiredError, MirrorError, RecipeError, SignatureError
from pymachine.image.recipe import Source
from pymachine.progress import Reporter


@dataclass(frozen=True)
class Release:
    """A verified InRelease: the digests and sizes of the repository's indices, by path."""

    date: str
    valid_until: str
    by_hash: bool
    files: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Index:
    """One verified Packages file, and where its packages are fetched from."""

    source: Source
    url: str
    data: bytes


def verify_signature(data: bytes, keyring: Sequence[Path], *, name: str) -> bytes:
    """The signed text in `data`. Raises `SignatureError` unless a key of `keyring` made one of its signatures."""
    import pysequoia  # noqa: PLC0415 (heavy)

    try:
        certs = [cert for path in keyring for cert in _certs(path)]
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"{name}: its key cannot be read", details=str(error)) from error
    try:
        result = pysequoia.verify(data, lambda _ids: certs)
    except RuntimeError as error:
        # The library's text goes on with its own stack; the first line says it.
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


def parse_release(text: str) -> Release:
    """The fields of a Release file that matter here."""
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, int]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith(" "):
            if section == "SHA256":
                digest, size, path = line.split()
                files[path] = (digest, int(size))
            continue
        section, _, value = line.partition(":")
        fields[section] = value.strip()
    return Release(
        date=fields.get("Date", ""),
        valid_until=fields.get("Valid-Until", ""),
        by_hash=fields.get("Acquire-By-Hash") == "yes",
        files=files,
    )


def check_valid(release: Release, *, name: str, now: datetime) -> None:
    """Raise `ExpiredError` if the release says that it may no longer be used."""
    if not release.valid_until:
        return
    until = parsedate_to_datetime(release.valid_until.replace("UTC", "+0000"))
    if now > until:
        raise ExpiredError(
            f"{name}: its Release file expired on {release.valid_until}",
            details=f"made on {release.date}; it is {now:%a, %d %b %Y %H:%M:%S UTC} here",
            hint="The mirror is out of date, or this host's clock is wrong. Choose another mirror with --mirror.",
        )


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
        """The verified release: from the mirror, or, when that does not answer, the last one that was seen.

        Raises `MirrorError`, `SignatureError`, `ExpiredError`.
        """
        name = f"{self.source.name} ({self._dist})"
        kept = self._cache.directory / "releases" / f"{self.source.name}-{self.source.suite}.InRelease"
        try:
            with session() as http:
                data = fetch_text(http, f"{self._dist}/InRelease")
            fresh = True
        except MirrorError:
            if not kept.is_file():
                raise
            self._reporter.warn(f"{self.url} does not answer; using what was fetched from it last time.")
            data, fresh = kept.read_bytes(), False
        release = parse_release(verify_signature(data, self.source.keyring, name=name).decode())
        check_valid(release, name=name, now=now or datetime.now(UTC))
        if fresh:
            kept.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(kept, data, mode=0o644)
        return release

    def indices(self, architecture: str) -> list[Index]:
        """The verified Packages files of the source's components. Raises as `release`, and `DigestError`."""
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
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != item.sha256:
        path.unlink()
        raise DigestError(f"{path}: damaged in the cache; it was removed", hint="Try again: it will be fetched anew.")
    if path.name.endswith(".xz"):
        return lzma.decompress(data)
    return gzip.decompress(data) if path.name.endswith(".gz") else data

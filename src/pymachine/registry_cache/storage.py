"""The blobs that the registry cache has stored: their size, and the removal of those that were not used for long.

A blob is a layer, an image's configuration or a manifest. docker-registry fetches a removed one again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pymachine.system import files

_ROOT = Path("docker", "registry", "v2")
_UPLOADS = "_uploads"
# Folders of a repository without downloads in them.
_OTHERS = {"_layers", "_manifests"}


@dataclass(frozen=True)
class Blob:
    """A blob on the disk."""

    path: Path
    size: int
    used: float
    """When it was last read or written, in seconds since 1970. Most systems note reads once a day."""

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        return self.path.parent.name


def blobs(storage: Path) -> list[Blob]:
    """Return all blobs, the one that was used least recently first."""
    found = []
    for path in (storage / _ROOT / "blobs").glob("*/*/*/data"):
        with suppress(FileNotFoundError):  # removed meanwhile
            status = path.stat()
            found.append(Blob(path, files.allocated(status), max(status.st_atime, status.st_mtime)))
    return sorted(found, key=lambda blob: blob.used)


def trim(storage: Path, *, limit: int) -> list[Blob]:
    """Remove the blobs that were used least recently until all take at most `limit` bytes. Raises OSError."""
    found = blobs(storage)
    excess = sum(blob.size for blob in found) - limit
    removed = []
    for blob in found:
        if excess <= 0:
            break
        removed.append(blob)
        excess -= blob.size
    return _removed(removed)


def prune(storage: Path, *, unused_seconds: float) -> list[Blob]:
    """Remove the blobs that were not used for `unused_seconds`, and return them. Raises OSError."""
    latest = time.time() - unused_seconds
    return _removed(blob for blob in blobs(storage) if blob.used <= latest)


def remove_downloads(storage: Path, *, unchanged_seconds: float = 0.0) -> None:
    """Remove incomplete downloads that nothing was written to for `unchanged_seconds`. Raises OSError."""
    latest = time.time() - unchanged_seconds
    for folder in _downloads(storage):
        with suppress(FileNotFoundError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if newest <= latest:
                files.remove_tree(folder)


def _downloads(storage: Path) -> Iterator[Path]:
    for name, folders, _ in os.walk(storage / _ROOT / "repositories"):
        if Path(name).name == _UPLOADS:
            yield from (Path(name, folder) for folder in folders)
            folders.clear()
        else:
            folders[:] = [folder for folder in folders if folder not in _OTHERS]


def _removed(found: Iterable[Blob]) -> list[Blob]:
    removed = []
    for blob in found:
        blob.path.unlink(missing_ok=True)
        with suppress(OSError):  # docker-registry has written it again
            blob.path.parent.rmdir()
        removed.append(blob)
    return removed

"""Check the files in a cache against the sizes and digests in a manifest.

After a check the inode and times of each file are noted, and a file with the same ones is not read again. They differ
in a copy or after a restore, so that the file is read once more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pymachine.errors import PymachineError
from pymachine.system import files, os_errors, sparse_files

CHECKED = ".checked.json"
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class ContentError(PymachineError):
    """A file in the cache is damaged."""

    code = "damaged-file"


def sparse_digest(path: Path) -> str:
    """Return the SHA-256 over the offsets and contents of a file's blocks that are not all zeros.

    So holes and zeros are the same. The blocks are hashed in parallel. Raises OSError.
    """
    whole = hashlib.sha256()
    with path.open("rb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        handle = file.fileno()
        size = os.fstat(handle).st_size
        whole.update(f"{size}\n".encode())
        for block in pool.map(lambda position: _block_digest(handle, position), _positions(handle)):
            whole.update(block)
    return whole.hexdigest()


def _positions(handle: int) -> Iterator[int]:
    """Yield the offsets of the blocks that are not holes."""
    position = 0
    for begin, end in sparse_files.data_ranges(handle):
        position = max(position, begin // _BLOCK * _BLOCK)
        while position < end:
            yield position
            position += _BLOCK


def _block_digest(handle: int, position: int) -> bytes:
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "Windows has no reading at a position")
    data = os.pread(handle, _BLOCK, position)
    if _ZEROS.startswith(data):
        return b""
    return b"%d " % position + hashlib.sha256(data).digest()


def check(
    folder: Path,
    manifest: str,
    expected: Mapping[str, Mapping[str, Any]],
    *,
    digest: Callable[[Path], str],
    linked: bool = False,
) -> None:
    """Raise `ContentError` unless each file in `folder` has the size and the ``sha256`` that are `expected` of it.

    `manifest` is the name of the file that has these. Set `linked` if hard links to the files come and go: that
    changes the ctime of their inodes, so the manifest's is compared instead.
    """
    noted = _noted(folder)
    read = False
    for name, facts in expected.items():
        path = folder / name
        try:
            if path.stat().st_size != facts["size"]:
                raise ContentError(f"{path} has {path.stat().st_size} bytes instead of {facts['size']}")
            if noted.get(name) == _marks(path, folder / manifest, linked=linked):
                continue
            read = True
            if digest(path) != facts["sha256"]:
                raise ContentError(f"{path} is not as it was made: its digest is another")
        except OSError as error:
            raise os_errors.wrapped(ContentError, f"{path} cannot be read", error) from error
    if read:
        note(folder, manifest, expected, linked=linked)


def note(folder: Path, manifest: str, names: Iterable[str], *, linked: bool = False) -> None:
    """Note that the files `names` in `folder` are intact."""
    # In a read-only cache every check reads them again.
    with suppress(OSError):
        marks = {name: _marks(folder / name, folder / manifest, linked=linked) for name in names}
        files.atomic_write(folder / CHECKED, json.dumps(marks) + "\n")


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = json.loads((folder / CHECKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _marks(path: Path, manifest: Path, *, linked: bool) -> list[int]:
    """What tells a file from its copies, and from what it was before it was written to. Nobody can set an inode's time.

    Raises OSError.
    """
    status, of_manifest = path.stat(), manifest.stat()
    changed = of_manifest.st_ctime_ns if linked else status.st_ctime_ns
    return [status.st_size, status.st_ino, status.st_mtime_ns, changed]

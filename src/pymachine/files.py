"""Writing files so that a reader, or a crash, never sees half of one; and locks between processes."""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager
from pathlib import Path

WAIT_FOREVER = -1.0
# Locks of the store are held for moments; the library looks every 50 ms.
POLL_SECONDS = 0.01


def make_private_dir(path: Path) -> None:
    """Make `path` and what is missing above it, readable by the owner alone; fine if it is there. Raises OSError."""
    missing = []
    folder = path
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write `data` to `path` in one step: whoever opens it sees the old content or the new, never a part.

    The file has `mode` from its first byte on. Raises OSError (a full disk, no permission), after which the old
    content is still there and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    content = data.encode() if isinstance(data, str) else data
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)  # the umask may have taken bits away
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def acquire_lock(path: Path, *, timeout: float = WAIT_FOREVER) -> AbstractContextManager[object]:
    """Take the lock file at `path`, made with its folder if need be; the context manager returned lets go of it.

    A process that ends, however it ends, lets go of it too. Raises TimeoutError after `timeout` seconds, and OSError
    where there can be no such file.
    """
    from filelock import FileLock  # noqa: PLC0415 (reading commands do not pay for it)

    make_private_dir(path.parent)
    return FileLock(path, timeout=timeout, mode=0o600).acquire(poll_interval=POLL_SECONDS)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Atomic writes of files, and locks between processes."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

WAIT_FOREVER = -1.0
# Locks of the store are held for moments; the default of filelock is 50 ms.
POLL_SECONDS = 0.01
TEMPORARY = ".tmp"
TEMPORARY_NAME = re.compile(rf"\..+\.[0-9a-f]{{12}}\{TEMPORARY}\Z")
"""The names that `temporary` returns."""


def make_private_dir(path: Path) -> None:
    """Make the folder `path` and its missing parents, readable by the owner alone. Raises OSError."""
    missing = []
    folder = path
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def temporary(path: Path) -> Path:
    """Return a temporary name beside `path`. Files of that name that a killed process left are removed."""
    return path.with_name(f".{path.name.removeprefix('.')}.{secrets.token_hex(6)}{TEMPORARY}")


def atomic_write(
    path: Path, data: bytes | str, *, mode: int = 0o600, durable: bool = True, owner: tuple[int, int] | None = None
) -> None:
    """Write `data` to `path` in one step: a reader sees the old or the new content, never a part.

    The file has `mode` from its first byte on. It survives a power cut unless `durable` is false, which is quicker.
    `owner` has the ids of its user and group. If they cannot be set, as without root, the file is this user's.
    Raises OSError (a full disk, no permission); then the old content and no temporary file is left.
    """
    fresh = temporary(path)
    content = data.encode() if isinstance(data, str) else data
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if sys.platform != "win32":
                if owner is not None:
                    with suppress(OSError):  # in a container even root may not know the owner
                        os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), mode)  # the umask may have taken bits away
            if durable:
                os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def rewrite(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Write `data` to a file of the user's in one step, with its mode and owner. A new file has mode 0600.

    If the owner cannot be kept, as without root, the file becomes this user's. With `private` only the owner keeps
    access. A symbolic link at `path` stays, and leads to the new content. Raises OSError.
    """
    place = Path(os.path.realpath(path))  # unlike Path.resolve, this never raises
    try:
        before = place.stat()
    except FileNotFoundError:
        make_private_dir(place.parent)
        atomic_write(place, data, mode=0o600)
        hand_over(place)
        return
    mode = stat.S_IMODE(before.st_mode)
    owner = before.st_uid, before.st_gid
    atomic_write(place, data, mode=mode & 0o700 if private else mode, owner=owner)


@contextmanager
def kept(paths: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Keep copies of the files at `paths` during the block. The yielded function restores them.

    With hard links it works on a full disk too. Raises OSError.
    """
    with ExitStack() as stack:
        before = {path: _keep(path, stack) for path in paths if path.exists()}

        def restore() -> None:
            for path in paths:
                if path in before:
                    before[path]()
                else:
                    path.unlink(missing_ok=True)

        yield restore


def _keep(path: Path, stack: ExitStack) -> Callable[[], None]:
    """Keep one file until the end of `stack`, and return the function that restores it."""
    link = temporary(path)
    try:
        os.link(path, link)
    except OSError:  # the file system has no hard links
        content, mode = path.read_bytes(), path.stat().st_mode & 0o777
        return lambda: atomic_write(path, content, mode=mode)
    stack.callback(link.unlink, missing_ok=True)
    handle = os.open(link, os.O_RDONLY)
    if try_lock(handle, shared=True) is None:
        os.close(handle)  # Windows does not replace a file that is open
    else:
        stack.callback(os.close, handle)  # the lock marks the link as in use

    def restore() -> None:
        fresh = temporary(path)
        os.link(link, fresh)
        fresh.replace(path)
        # Renaming one link of a file to another leaves both.
        fresh.unlink(missing_ok=True)

    return restore


def read_regular(path: Path, *, longest: int = sys.maxsize) -> bytes:
    """Read the regular file at `path`, of at most `longest` bytes. Raises OSError.

    Other kinds are refused: a pipe would never end.
    """
    return read_open(open_to_read(path), path, longest=longest)


def open_to_read(path: Path) -> int:
    """Open the file at `path` for `read_open`, and return its handle. Raises OSError."""
    # Without O_NONBLOCK the open itself would wait for a pipe's other end.
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def read_open(handle: int, path: Path, *, longest: int = sys.maxsize) -> bytes:
    """Read the regular file that was opened as `handle`, and close it; see `read_regular`. `path` is for errors."""
    with os.fdopen(handle, "rb") as stream:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        content = stream.read() if longest == sys.maxsize else stream.read(longest + 1)
        if len(content) > longest:
            raise OSError(errno.EINVAL, f"Larger than {longest} bytes", str(path))
        return content


def remove_tree(path: Path) -> None:
    """Remove the file or folder at `path`. Of a symbolic link, only the link is removed. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def acquire_lock(path: Path, *, timeout: float = WAIT_FOREVER) -> AbstractContextManager[object]:
    """Lock the file at `path`, which is made with its folder if it is missing. Leaving the context unlocks it.

    The end of the process unlocks it too. Raises TimeoutError after `timeout` seconds, and OSError if the file cannot
    be made.
    """
    from filelock import FileLock  # noqa: PLC0415 (reading commands do not need it)

    make_private_dir(path.parent)
    hand_over(path.parent)
    lock = FileLock(path, timeout=timeout, mode=0o600).acquire(poll_interval=POLL_SECONDS)
    try:
        hand_over(path)
    except BaseException:
        lock.__exit__(None, None, None)
        raise
    return lock


def allocated(status: os.stat_result) -> int:
    """Return how many bytes a file takes of the disk: of a sparse file, only its data."""
    if sys.platform == "win32":
        return status.st_size
    return status.st_blocks * 512


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed or its process ends. The lock covers all names of the file.

    Return False if another process has the lock, and None if the system has no such locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl  # noqa: PLC0415 (not on Windows)

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def discard_lock(path: Path) -> None:
    """Remove a lock file that this process holds. Processes that wait for it make a new one.

    It stays if it belongs to another user, or if open files cannot be removed (Windows).
    """
    with suppress(OSError):
        path.unlink()


def old_locks(folder: Path, *, seconds: float) -> list[Path]:
    """Return the lock files in a folder that are older than `seconds`."""
    old = []
    with suppress(OSError), os.scandir(folder) as entries:  # no folder: no locks
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > seconds:
                old.append(Path(entry.path))
    return old


def hand_over(path: Path) -> None:
    """Give a file that root makes in another user's folder to that user, because they need it without `sudo`, too."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    owner, made = path.parent.stat(), path.lstat()
    # A link that leads to a file of root's must not give that file away.
    own = stat.S_ISDIR(made.st_mode) or (stat.S_ISREG(made.st_mode) and made.st_nlink == 1)
    if own and made.st_uid != owner.st_uid:
        with suppress(OSError):  # in a container root may not know the owner
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, if the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

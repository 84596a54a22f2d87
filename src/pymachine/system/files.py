"""Writing files so that a reader, or a crash, never sees half of one; and locks between processes."""

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
# Locks of the store are held for moments; the library looks every 50 ms.
POLL_SECONDS = 0.01
TEMPORARY = ".tmp"
TEMPORARY_NAME = re.compile(rf"\..+\.[0-9a-f]{{12}}\{TEMPORARY}\Z")
"""The names that `temporary` gives."""


def make_private_dir(path: Path) -> None:
    """Make `path` and what is missing above it, readable by the owner alone; fine if it is there. Raises OSError."""
    missing = []
    folder = path
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def temporary(path: Path) -> Path:
    """A name beside `path` for a file that is written in its place; what a killed process leaves there is removed."""
    return path.with_name(f".{path.name.removeprefix('.')}.{secrets.token_hex(6)}{TEMPORARY}")


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write `data` to `path` in one step: whoever opens it sees the old content or the new, never a part.

    The file has `mode` from its first byte on. It outlasts a power cut unless `durable` is false, which is quicker.
    Raises OSError (a full disk, no permission), after which the old content is still there and nothing is left beside
    it.
    """
    fresh = temporary(path)
    content = data.encode() if isinstance(data, str) else data
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if sys.platform != "win32":
                os.fchmod(stream.fileno(), mode)  # the umask may have taken bits away
            if durable:
                os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


@contextmanager
def kept(paths: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Keep the files at `paths` for the block. The function that this gives puts them back as they were.

    Where there are hard links, a full disk has room for that. Raises OSError.
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
    """Keep one file until the end of `stack`, and return what puts it back."""
    link = temporary(path)
    try:
        os.link(path, link)
    except OSError:  # no hard links there
        content, mode = path.read_bytes(), path.stat().st_mode & 0o777
        return lambda: atomic_write(path, content, mode=mode)
    stack.callback(link.unlink, missing_ok=True)
    handle = os.open(link, os.O_RDONLY)
    if try_lock(handle, shared=True) is None:
        os.close(handle)  # Windows does not replace a file that is open
    else:
        stack.callback(os.close, handle)  # while it is locked, nobody takes it for left over, however long that is

    def restore() -> None:
        fresh = temporary(path)
        os.link(link, fresh)
        fresh.replace(path)
        # A rename of one link of a file to another leaves both there.
        fresh.unlink(missing_ok=True)

    return restore


def read_regular(path: Path, *, longest: int = sys.maxsize) -> bytes:
    """Read the file at `path`, of at most `longest` bytes. Raises OSError.

    What is no file is refused: a pipe would never end.
    """
    # Without O_NONBLOCK the open itself would wait for a pipe's other end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
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
    """Remove the folder at `path` with all that is in it; of a symbolic link, the link alone. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def acquire_lock(path: Path, *, timeout: float = WAIT_FOREVER) -> AbstractContextManager[object]:
    """Take the lock file at `path`, made with its folder if need be; the context manager returned lets go of it.

    A process that ends, however it ends, lets go of it too. Raises TimeoutError after `timeout` seconds, and OSError
    where there can be no such file.
    """
    from filelock import FileLock  # noqa: PLC0415 (reading commands do not pay for it)

    make_private_dir(path.parent)
    _hand_over(path.parent)
    lock = FileLock(path, timeout=timeout, mode=0o600).acquire(poll_interval=POLL_SECONDS)
    try:
        _hand_over(path)
    except BaseException:
        lock.__exit__(None, None, None)
        raise
    return lock


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed or its process ends; the lock is of the file, whatever its names.

    False if another process has the lock, None if there are no such locks.
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
    """Remove a lock file that this process holds; those who wait for it make another one.

    Where a file that is open cannot be removed (Windows), or is another user's, it stays.
    """
    with suppress(OSError):
        path.unlink()


def old_locks(folder: Path, *, seconds: float) -> list[Path]:
    """The lock files in a folder that have not been written for some time."""
    old = []
    with suppress(OSError), os.scandir(folder) as entries:  # no folder: no locks
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > seconds:
                old.append(Path(entry.path))
    return old


def _hand_over(path: Path) -> None:
    """Give what root makes in another user's folder to that user: after `sudo`, they need the same locks."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    owner, made = path.parent.stat(), path.lstat()
    # A name that was made to lead to a file of root's must not give it away.
    own = stat.S_ISDIR(made.st_mode) or (stat.S_ISREG(made.st_mode) and made.st_nlink == 1)
    if own and made.st_uid != owner.st_uid:
        with suppress(OSError):  # in a container the owner may be none that root can name
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""File operations that cannot leave a folder, for clients that are not trusted.

A path is resolved from the folder's file descriptor, one component after the other, and no symbolic link is followed.
Each folder on the way is opened before the next component is looked up in it. So replacing a folder with a link has no
effect: either the link is refused, or the operation continues in the folder that had the name before. A client's ``..``
removes the component before it, and is never passed to the system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pymachine.driver.kit.sftp.protocol import Attributes

LONGEST_PATH = 4096
"""In bytes. It limits how many folders are opened for one request."""
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = _SAFELY | getattr(os, "O_DIRECTORY", 0)
# On Linux, a file can be opened without permission to read it, only to name it in other calls.
_NAMED_ONLY = _SAFELY | getattr(os, "O_PATH", os.O_RDONLY)
_PASS_THROUGH = _FOLDER | _NAMED_ONLY
# Opening a named pipe must not wait for its other end.
_FILE = _SAFELY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_PRIVILEGES = stat.S_ISUID | stat.S_ISGID


def components(path: bytes) -> list[bytes]:
    """Return the names in a client's path, which starts at the folder even if it is absolute.

    Raises OSError for paths that no file system has.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a name contains a zero byte")
    if len(path) >= LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    names: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del names[-1:]
        elif part not in (b"", b"."):
            names.append(part)
    return names


class ConfinedFolder:
    """A folder in which paths of a client are resolved. Each method raises OSError."""

    def __init__(self, root: Path) -> None:
        """Raises OSError if `root` is no folder, or where the system cannot confine paths, as on Windows."""
        if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
            raise OSError(errno.ENOTSUP, "this system has no functions for files that are confined to a folder")
        self._root = os.open(root.resolve(), os.O_RDONLY | _FOLDER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    def stat(self, path: bytes) -> os.stat_result:
        """Return the attributes of a file, or of a symbolic link itself."""
        with self._parent(path) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def open_file(self, path: bytes, flags: int, mode: int) -> int:
        """Open a regular file, and create it with `mode` if `flags` has O_CREAT; return its file descriptor."""
        with self._parent(path) as (folder, name):
            if flags & os.O_CREAT:
                try:
                    return _create_file(folder, name, flags, mode)
                except FileExistsError:
                    if flags & os.O_EXCL:
                        raise
            return _open_existing(folder, name, flags)

    def open_folder(self, path: bytes) -> int:
        """Open a folder to list it; return its file descriptor."""
        with self._parent(path) as (folder, name):
            return os.open(name, os.O_RDONLY | _FOLDER, dir_fd=folder)

    def set_attributes(self, path: bytes, wanted: Attributes) -> None:
        """Set the attributes of a file, or of a symbolic link itself."""
        with self._parent(path) as (folder, name):
            # The owner is not changed, but it is an error if there is no such file.
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            if wanted.size is not None:
                with _closing(_open_existing(folder, name, os.O_WRONLY)) as file:
                    os.ftruncate(file, wanted.size)
            if wanted.mode is not None:
                _change_mode(folder, name, wanted.mode)
            if wanted.times is not None:
                os.utime(name, wanted.times, dir_fd=folder, follow_symlinks=False)

    def remove(self, path: bytes) -> None:
        """Remove a file that is no folder."""
        with self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def make_folder(self, path: bytes, mode: int) -> None:
        """Create a folder with `mode`."""
        with self._parent(path) as (folder, name):
            os.mkdir(name, mode & 0o777, dir_fd=folder)
            # The umask may have taken bits away. The setgid that folders inherit stays.
            _change_mode(folder, name, mode | stat.S_ISGID)

    def remove_folder(self, path: bytes) -> None:
        """Remove an empty folder."""
        with self._parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename a file or folder, and replace what has the new name."""
        with self._parent(old) as (old_folder, old_name), self._parent(new) as (new_folder, new_name):
            os.rename(old_name, new_name, src_dir_fd=old_folder, dst_dir_fd=new_folder)

    def hard_link(self, old: bytes, new: bytes) -> None:
        """Create a hard link to a file, or to a symbolic link itself."""
        with self._parent(old) as (old_folder, old_name), self._parent(new) as (new_folder, new_name):
            os.link(old_name, new_name, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)

    def symbolic_link(self, target: bytes, path: bytes) -> None:
        """Create a symbolic link with any target. The client's kernel resolves it; nothing here does."""
        if b"\0" in target:
            raise OSError(errno.EINVAL, "a link's target contains a zero byte")
        with self._parent(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def read_link(self, path: bytes) -> bytes:
        """Return a symbolic link's target as it is."""
        with self._parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def file_system(self, path: bytes) -> os.statvfs_result:
        """Return the size and the use of the file system that a file is on."""
        if sys.platform == "win32":
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        with self._parent(path) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                return os.statvfs(folder)
            with _closing(os.open(name, _PASS_THROUGH, dir_fd=folder)) as itself:
                return os.statvfs(itself)

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the folder that contains the last component of `path`; yield its file descriptor and that component."""
        *folders, name = components(path) or [b"."]
        current = self._root
        try:
            for folder in folders:
                inner = os.open(folder, _PASS_THROUGH, dir_fd=current)
                self._leave(current)
                current = inner
            yield current, name
        finally:
            self._leave(current)

    def _leave(self, folder: int) -> None:
        if folder != self._root:
            os.close(folder)


def change_open_file(file: int, wanted: Attributes) -> None:
    """Set the attributes of an open file or folder. Raises OSError."""
    if wanted.size is not None:
        os.ftruncate(file, wanted.size)
    if wanted.mode is not None:
        os.chmod(file, _allowed_mode(os.fstat(file).st_mode, wanted.mode))
    if wanted.times is not None:
        os.utime(file, wanted.times)


def _create_file(folder: int, name: bytes, flags: int, mode: int) -> int:
    file = os.open(name, flags | os.O_CREAT | os.O_EXCL | _FILE, mode & 0o777, dir_fd=folder)
    with _closed_on_error(file):
        change_open_file(file, Attributes(mode=mode))  # the umask may have taken bits away
    return file


def _open_existing(folder: int, name: bytes, flags: int) -> int:
    # Opening a device may have an effect, so the type is checked before. It is checked again in case of a race.
    _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
    file = os.open(name, flags & ~(os.O_CREAT | os.O_EXCL) | _FILE, dir_fd=folder)
    with _closed_on_error(file):
        found = os.fstat(file)
        _require_regular(found)
        if found.st_mode & _PRIVILEGES and flags & (os.O_WRONLY | os.O_RDWR):
            _drop_privileges(file, found.st_mode)
    return file


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "symbolic links are not followed")
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(errno.EACCES, "not a regular file")


def _drop_privileges(file: int, mode: int) -> None:
    """Take setuid and setgid from a file that a client may write to. For root, Linux would keep them."""
    with contextlib.suppress(PermissionError):  # of another user's file, where Linux drops them at the first write
        os.chmod(file, stat.S_IMODE(mode) & ~_PRIVILEGES)


def _allowed_mode(current: int, wanted: int) -> int:
    """Return `wanted` without setuid and setgid. A folder may keep its setgid, which a host's user has set."""
    kept = current & stat.S_ISGID if stat.S_ISDIR(current) else 0
    return wanted & (0o777 | stat.S_ISVTX | kept)


def _change_mode(folder: int, name: bytes, wanted: int) -> None:
    if os.chmod in os.supports_follow_symlinks:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        os.chmod(name, _allowed_mode(mode, wanted), dir_fd=folder, follow_symlinks=False)
        return
    # Linux's chmod follows links, except to an open file.
    with _closing(os.open(name, _NAMED_ONLY, dir_fd=folder)) as itself:
        mode = os.fstat(itself).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.EOPNOTSUPP, "symbolic links have no mode")
        Path(f"/proc/self/fd/{itself}").chmod(_allowed_mode(mode, wanted))


@contextmanager
def _closing(file: int) -> Iterator[int]:
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _closed_on_error(file: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(file)
        raise

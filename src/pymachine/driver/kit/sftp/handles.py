"""The files and folders that a client has open."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Iterator

from pymachine.driver.kit.sftp import protocol

MOST_HANDLES = 2048
"""How many files and folders a client may have open at once."""
ENTRIES_AT_ONCE = 100
"""How many entries of a folder are in one reply. Names have at most 255 bytes, so it stays below 100 KiB."""


class OpenFile:
    """An open regular file. Its methods raise OSError."""

    def __init__(self, descriptor: int, *, appends: bool) -> None:
        self.descriptor = descriptor
        self._appends = appends

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `protocol.LONGEST_DATA` bytes at `offset`, or none at the end."""
        if sys.platform == "win32":
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return os.pread(self.descriptor, min(length, protocol.LONGEST_DATA), offset)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`, or at the end of a file that was opened to append."""
        if sys.platform == "win32":
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        while data:
            # pwrite on such a file appends on Linux, but not on other systems.
            appended = os.write(self.descriptor, data) if self._appends else os.pwrite(self.descriptor, data, offset)
            data = data[appended:]
            offset += appended

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class OpenFolder:
    """An open folder. Its methods raise OSError."""

    def __init__(self, descriptor: int) -> None:
        """Take over `descriptor`, and close it if this raises."""
        try:
            self._scan = os.scandir(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        self._entries = self._all()

    def next_entries(self) -> list[bytes]:
        """Return the next entries as fields of a NAME, or none at the end."""
        return list(itertools.islice(self._entries, ENTRIES_AT_ONCE))

    def close(self) -> None:
        """Close the folder."""
        self._scan.close()
        os.close(self.descriptor)

    def _all(self) -> Iterator[bytes]:
        itself = os.fstat(self.descriptor)
        yield protocol.listed(b".", itself)
        yield protocol.listed(b"..", itself)  # what is above is of no concern to the client
        for entry in self._scan:
            # An entry may have been removed meanwhile. OpenSSH, too, leaves out those without attributes.
            with contextlib.suppress(OSError):
                yield protocol.listed(os.fsencode(entry.name), entry.stat(follow_symlinks=False))


class Handles:
    """The open files and folders of a client, by handle. A handle is never used again."""

    def __init__(self) -> None:
        self._open: dict[bytes, OpenFile | OpenFolder] = {}
        self._numbers = itertools.count()
        self._most = MOST_HANDLES
        if sys.platform != "win32" and (allowed := os.sysconf("SC_OPEN_MAX")) > 0:
            # The other descriptors are for listed folders, which take two, and for resolving paths.
            self._most = min(MOST_HANDLES, allowed // 2)

    @property
    def most(self) -> int:
        """How many there may be. It is less than `MOST_HANDLES` where the process may have few open files."""
        return self._most

    def require_room(self) -> None:
        """Raise OSError if no more can be opened."""
        if len(self._open) >= self._most:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def add(self, opened: OpenFile | OpenFolder) -> bytes:
        """Return the handle of a file or folder that was opened."""
        handle = next(self._numbers).to_bytes(8, "big")
        self._open[handle] = opened
        return handle

    def find(self, handle: bytes) -> OpenFile | OpenFolder:
        """Return what a handle stands for. Raises OSError for other handles."""
        try:
            return self._open[handle]
        except KeyError:
            raise _bad_handle() from None

    def file(self, handle: bytes) -> OpenFile:
        """Return a file by its handle. Raises OSError for other handles."""
        found = self.find(handle)
        if not isinstance(found, OpenFile):
            raise _bad_handle()
        return found

    def folder(self, handle: bytes) -> OpenFolder:
        """Return a folder by its handle. Raises OSError for other handles."""
        found = self.find(handle)
        if not isinstance(found, OpenFolder):
            raise _bad_handle()
        return found

    def close(self, handle: bytes) -> None:
        """Close a file or folder. Raises OSError for handles that are not open, or if the last data cannot be kept."""
        found = self.find(handle)
        del self._open[handle]
        found.close()

    def close_all(self) -> None:
        """Close everything at the end of a session."""
        for handle in list(self._open):
            with contextlib.suppress(OSError):  # no client is left to report it to
                self.close(handle)


def _bad_handle() -> OSError:
    return OSError(errno.EBADF, "no such handle")

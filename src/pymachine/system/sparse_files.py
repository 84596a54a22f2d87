"""Find the data in sparse files, and make files sparse."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A piece of this size becomes a hole if it is all zeros.
_PIECE = 64 * 1024
_ZEROS = bytes(_PIECE)


def data_ranges(handle: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and the end of each range of an open file that is not a hole.

    Where the system has no way to find holes, the whole file is one range. Raises OSError.
    """
    size = os.fstat(handle).st_size
    if sys.platform == "win32" or not hasattr(os, "SEEK_DATA"):
        if size:
            yield 0, size
        return
    end = 0
    while end < size:
        try:
            begin = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, end


def copy_without_zeros(source: Path, target: Path) -> None:
    """Copy a file, and leave holes where it is zero. The copy is private. Raises OSError."""
    # Without buffers, since `data_ranges` moves the position of the handle.
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        target.chmod(0o600)
        new.truncate(os.fstat(old.fileno()).st_size)
        for begin, end in data_ranges(old.fileno()):
            position = begin
            while position < end:
                old.seek(position)
                piece = old.read(min(_PIECE, end - position))
                if not piece:  # the file became shorter meanwhile
                    raise OSError(errno.EIO, "the file ends early")
                if piece != _ZEROS[: len(piece)]:
                    new.seek(position)
                    new.write(piece)
                position += len(piece)

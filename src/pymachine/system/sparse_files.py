"""Find the data in sparse files."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator


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

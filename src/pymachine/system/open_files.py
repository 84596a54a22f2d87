"""The limit of open files of this process."""

from __future__ import annotations

import sys
from contextlib import suppress


def raise_limit(most: int) -> None:
    """Allow as many open files as the system allows, but not more than `most`. Does nothing on Windows."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 (not on Windows)

    _, largest = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_lower = largest != resource.RLIM_INFINITY and largest < most
    with suppress(OSError, ValueError):  # macOS allows fewer than its limit says
        resource.setrlimit(resource.RLIMIT_NOFILE, (largest if is_lower else most, largest))

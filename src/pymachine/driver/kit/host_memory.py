"""The host's memory, and the default memory of machines that follows from it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MEBIBYTE = 1 << 20
DEFAULT_MIB = 2048
SMALL_HOST_DEFAULT_MIB = 1024
DEFAULT_TEXT = f"{DEFAULT_MIB}, or {SMALL_HOST_DEFAULT_MIB} where this host has less than 8 GB"
# A host with 8 GB shows less, since its kernel and graphics keep some.
_LARGE_HOST_MIB = 7 * 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_mib() -> int:
    """Return the default size of a machine's memory on this host, in MiB."""
    return DEFAULT_MIB if total_mib() >= _LARGE_HOST_MIB else SMALL_HOST_DEFAULT_MIB


def total_mib() -> int:
    """Return the memory of this host in MiB, or of this container if it has less; 0 if it is not known."""
    if sys.platform == "win32":
        return 0
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEBIBYTE
    except (OSError, ValueError):
        return 0
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:  # not in a container, or not Linux
        return total
    return min(total, int(limit) // MEBIBYTE) if limit.isdigit() else total

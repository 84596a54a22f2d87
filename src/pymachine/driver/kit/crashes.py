"""Boot a machine again if its hypervisor crashed.

Measured with QEMU 7.2 (Debian 12) in emulation: 3 crashes in a day of test runs on a busy host. Each was a write to a
device whose address QEMU had just changed (``memory_region_dispatch_write`` without a region).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pymachine.errors import DriverError
from pymachine.system.progress import Reporter

T = TypeVar("T")


class CrashedError(DriverError):
    """The hypervisor crashed while the machine booted."""

    code = "hypervisor-crashed"

    def __init__(self, brief: str, *, details: str = "") -> None:
        super().__init__(
            brief,
            details=details,
            hint="Run the command again. If the crash repeats, try a newer version of the hypervisor.",
        )


def retry_once(boot: Callable[[], T], *, reporter: Reporter) -> T:
    """Call `boot`, and once more if it raises `CrashedError`; return its result.

    `boot` must clean up after an earlier call. A second `CrashedError` is raised.
    """
    try:
        return boot()
    except CrashedError as error:
        reporter.warn(f"{error.brief}: booting again.")
    return boot()


@contextmanager
def ended_on_failure(end: Callable[[], object]) -> Iterator[None]:
    """Call `end`, which switches the machine off, if the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        end()
        raise

"""Hypervisors that crash while a machine boots; for drivers, which start the machine once more then.

Measured with QEMU 7.2 (Debian 12's) in emulation: 3 crashes in a day of test runs on a busy host, each of them a write
to a device of which QEMU had just changed the address (``memory_region_dispatch_write`` without a region).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pymachine.errors import DriverError
from pymachine.progress import Reporter

T = TypeVar("T")


class CrashedError(DriverError):
    """The hypervisor crashed while the machine booted."""

    code = "hypervisor-crashed"

    def __init__(self, brief: str, *, details: str = "") -> None:
        super().__init__(
            brief,
            details=details,
            hint="Run the command again. If it stays, the fault is the hypervisor's: try a newer version of it.",
        )


def retry_once(boot: Callable[[], T], *, reporter: Reporter) -> T:
    """Return what `boot` returns, called once more if its hypervisor crashed; what the crash left is `boot`'s to clean.

    Raises what `boot` raises, `CrashedError` at the second crash.
    """
    try:
        return boot()
    except CrashedError as error:
        reporter.warn(f"{error.brief}: booting again.")
    return boot()

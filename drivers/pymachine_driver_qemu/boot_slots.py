"""Boot slots, which limit how many guests boot at the same time on this host.

In software emulation, a boot keeps a CPU busy. Twenty boots at once would not finish sooner than twenty in a row, but
each would seem to hang.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import BinaryIO

from pymachine.driver.kit.system import Reporter, files, until
from pymachine_driver_qemu import runtime

# Longer than any real queue of boots.
PATIENCE_SECONDS = 4 * 3600.0
_LEAST = 2


def for_boot(accelerator: str, reporter: Reporter) -> AbstractContextManager[None]:
    """Hold a slot for a boot."""
    processors = os.cpu_count() or 1
    return slot(max(_LEAST, processors // 2 if accelerator == "tcg" else processors), reporter=reporter)


def for_resume(reporter: Reporter) -> AbstractContextManager[None]:
    """Hold a slot for a resumed guest: each keeps a processor busy for a moment."""
    return slot(max(_LEAST, os.cpu_count() or 1), reporter=reporter, kind="resume")


@contextmanager
def slot(count: int, *, reporter: Reporter, kind: str = "boot", patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold one of `count` slots of a `kind`; wait until one is free. A slot is also freed when its process ends.

    Raises `pymachine.errors.TimeoutExpiredError` after `patience` seconds.
    """
    with ExitStack() as held:
        if not _lock_slot(kind, count, held):
            with reporter.task("Waiting for other machines to start"):
                until(
                    lambda: _lock_slot(kind, count, held),
                    deadline=patience,
                    what="a slot to start in",
                    interval=0.02,
                    longest=0.2,
                )
        yield


def _lock_slot(kind: str, count: int, held: ExitStack) -> bool:
    for number in range(count):
        file: BinaryIO = (runtime.base() / f"{kind}-{number}.lock").open("ab")
        if files.try_lock(file.fileno()) is not False:
            held.callback(file.close)  # which releases the lock
            return True
        file.close()
    return False

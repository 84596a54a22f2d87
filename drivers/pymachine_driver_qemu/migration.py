"""Save and load the state of a stopped machine with QEMU's migration, through a pipe.

Memory in a file can be left out (capability ``x-ignore-shared``), since the other QEMU uses the same file.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from pymachine.driver.errors import DriverError, TimeoutExpiredError
from pymachine.driver.kit.system import Deadline, os_errors, until
from pymachine_driver_qemu.qmp import Qmp

_PIPE = "state"
_CHUNK = 1 << 20
# QEMU's default is meant for networks.
_BYTES_PER_SECOND = 1 << 40
_CANCEL_SECONDS = 20.0


class MigrationError(DriverError):
    """QEMU could not save or load a machine's state."""

    code = "qemu-migration"


def save(monitor: Qmp, target: BinaryIO, *, without_memory: bool, seconds: float) -> None:
    """Write the state of the machine, which must be stopped, to `target`. Raises `MigrationError`."""
    _prepare(monitor, without_memory=without_memory)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, _pumping(lambda: shutil.copyfileobj(source, target, _CHUNK)):
        try:
            monitor.execute("getfd", fdname=_PIPE, handle=writing)
        finally:
            os.close(writing)
        monitor.execute("migrate", uri=f"fd:{_PIPE}")
        _await(monitor, seconds)


def cancel(monitor: Qmp) -> None:
    """Cancel a save whose command was killed. Raises `MigrationError`."""
    if monitor.execute("query-migrate").get("status") in ("setup", "active", "device"):
        monitor.execute("migrate_cancel")
        _await_end(monitor, _CANCEL_SECONDS)


def load(monitor: Qmp, source: BinaryIO, *, without_memory: bool, seconds: float) -> None:
    """Load the state in `source` into a machine that waits for one, and leave it stopped. Raises `MigrationError`."""
    _prepare(monitor, without_memory=without_memory)
    reading, writing = os.pipe()

    def feed() -> None:
        # QEMU closes its end when it is done or fails, and reports which through its monitor.
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
            target.flush()

    with _pumping(feed):
        try:
            monitor.execute("getfd", fdname=_PIPE, handle=reading)
        finally:
            os.close(reading)
        monitor.execute("migrate-incoming", uri=f"fd:{_PIPE}")
        _await(monitor, seconds)


def _prepare(monitor: Qmp, *, without_memory: bool) -> None:
    capabilities = [{"capability": "x-ignore-shared", "state": without_memory}]
    monitor.execute("migrate-set-capabilities", capabilities=capabilities)
    monitor.execute("migrate-set-parameters", max_bandwidth=_BYTES_PER_SECOND)


def _await(monitor: Qmp, seconds: float) -> None:
    answer = _await_end(monitor, seconds)
    if answer["status"] != "completed":
        raise MigrationError(f"QEMU could not transfer its state: {answer.get('error-desc', answer['status'])}")


def _await_end(monitor: Qmp, seconds: float) -> dict[str, object]:
    """Wait until QEMU has transferred its state, or has failed. Raises `MigrationError` after `seconds`."""

    def ended() -> dict[str, object] | None:
        answer: dict[str, object] = monitor.execute("query-migrate")
        return answer if answer.get("status") in ("completed", "failed", "cancelled") else None

    try:
        return until(ended, deadline=Deadline(seconds), what="QEMU to transfer its state", interval=0.002, longest=0.05)
    except TimeoutExpiredError as error:
        raise MigrationError(error.brief) from error


@contextmanager
def _pumping(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread during the block. Raise its failure at the end, unless the block failed itself."""
    problems: list[OSError] = []

    def guarded() -> None:
        try:
            work()
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    yield
    thread.join()
    if problems:
        raise os_errors.wrapped(MigrationError, "cannot transfer the machine's state", problems[0]) from problems[0]

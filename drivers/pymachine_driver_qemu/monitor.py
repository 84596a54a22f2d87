"""Read a machine's state from QEMU's monitor. Apart from `process`, since commands that only read need only this."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from pymachine.driver.contract import State
from pymachine_driver_qemu import qmp, runtime

# QEMU's run states. All others are kinds of pauses.
_STATES = {
    "running": State.RUNNING,
    "inmigrate": State.STARTING,
    "prelaunch": State.STARTING,
    "restore-vm": State.STARTING,
    "shutdown": State.STOPPING,
    "guest-panicked": State.ERROR,
    "internal-error": State.ERROR,
}


def state(sockets: Path | None) -> State:
    """Return the state of the QEMU with `sockets`; STOPPED if it does not run. Raises `QmpTimeoutError` if it hangs."""
    if sockets is None:
        return State.STOPPED
    try:
        with qmp.Qmp(sockets / runtime.CONTROL) as monitor:
            status = str(monitor.execute("query-status")["status"])
    except qmp.QmpGoneError:
        return State.STOPPED
    known = _STATES.get(status, State.PAUSED)
    return State.STOPPING if known is State.RUNNING and runtime.is_stopping(sockets) else known


def disk_problem(sockets: Path) -> str:
    """Return the disk error because of which QEMU has paused the guest, or "" if there is none or QEMU does not answer.

    The guest does not notice the pause. When it is resumed, QEMU tries the operation again.
    """
    with suppress(qmp.QmpError), qmp.Qmp(sockets / runtime.CONTROL, timeout=1.0) as monitor:
        if monitor.execute("query-status")["status"] != "io-error":
            return ""
        full = any(device.get("io-status") == "nospace" for device in monitor.execute("query-block"))
        return os.strerror(errno.ENOSPC if full else errno.EIO)
    return ""

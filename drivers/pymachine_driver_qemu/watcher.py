"""Starting the port watcher (`pymachine_driver_qemu.ports`) of a machine."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from pymachine import os_errors
from pymachine.errors import DriverError
from pymachine_driver_qemu import process
from pymachine_driver_qemu.address import Place
from pymachine_driver_qemu.command_line import NETDEV

LOG = "ports.log"
SETTINGS = "ports.json"


# What waits for a line: a shell takes a fiftieth of the memory that Python does, and most machines of a CI job never
# publish a port. The line ends when QEMU does, and then the shell does too.
_WAIT = 'read -r line && exec "$@"'


def start(folder: Path, place: Place, *, news: socket.socket | None = None) -> None:
    """Start a watcher that outlives us and ends with the machine's QEMU.

    With `news` it does nothing until a line comes from there. Raises `DriverError` if it cannot start.
    """
    fields = {"address": place.address, "docker_port": place.docker_port, "netdev": NETDEV}
    try:
        (folder / SETTINGS).write_text(json.dumps(fields), encoding="utf-8")
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot write {folder / SETTINGS}", error) from error
    process.trim(folder / LOG)
    # -P: the working folder is not to be searched for modules.
    argv = [sys.executable, "-P", "-m", "pymachine_driver_qemu.ports", str(folder)]
    if news is None:
        watcher = process.spawn(argv, log=folder / LOG, environment={})
    else:
        waiting = ["/bin/sh", "-c", _WAIT, "pymachine-ports", *argv]
        watcher = process.spawn(waiting, log=folder / LOG, environment={}, stdin=news.fileno())
    # It is no child to wait for: it ends when QEMU does.
    watcher.returncode = 0

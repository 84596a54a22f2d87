"""Start the port forwarder (`pymachine_driver_qemu.ports`) of a machine."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from pymachine.driver.errors import DriverError
from pymachine.driver.kit import forwarded_ports
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.system import os_errors
from pymachine_driver_qemu import process
from pymachine_driver_qemu.command_line import NETDEV

LOG = "ports.log"
SETTINGS = "ports.json"


# A shell waits for the guest's first line, since it needs a fiftieth of Python's memory, and most machines of a CI job
# never publish a port. It starts the forwarder again if that fails. When QEMU ends, so do the lines, and the shell. If
# a guest sends an endless line, the shell ends at its memory limit (in KiB).
_WAIT = 'all=$(ulimit -v); ulimit -S -v 65536; while read -r line; do (ulimit -S -v "$all"; exec "$@") || sleep 5; done'


def start(folder: Path, listen: ListenAddress, *, reports: socket.socket) -> None:
    """Start a forwarder in the background, which ends with the machine's QEMU.

    It waits for the first line from `reports`. Raises `DriverError` if it cannot start.
    """
    fields = {
        "address": listen.address,
        "docker_port": listen.docker_port,
        "ssh_port": listen.ssh_port,
        "netdev": NETDEV,
    }
    try:
        (folder / forwarded_ports.FILE).unlink(missing_ok=True)
        (folder / SETTINGS).write_text(json.dumps(fields), encoding="utf-8")
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot write {folder / SETTINGS}", error) from error
    process.trim(folder / LOG)
    # -P: do not search the working directory for modules.
    argv = [sys.executable, "-P", "-m", "pymachine_driver_qemu.ports", str(folder)]
    waiting = ["/bin/sh", "-c", _WAIT, "pymachine-ports", *argv]
    forwarder = process.spawn(waiting, log=folder / LOG, environment={}, stdin=reports.fileno())
    # Prevent the warning about a child that was not waited for: the forwarder runs as long as QEMU.
    forwarder.returncode = 0

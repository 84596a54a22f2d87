"""The processes in the background that follow the guest's reports, each on a port of its own.

The port forwarder follows `identity_channel.CONTAINERS_PORT`, and the process that raises events for changes in shared
folders follows `identity_channel.SHARES_PORT`. They end with QEMU.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pymachine.driver.contract import BootRequest, Json
from pymachine.driver.errors import DriverError
from pymachine.driver.kit import forwarded_ports
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.system import Deadline, os_errors
from pymachine.driver.shares import Share, ShareEvents
from pymachine_driver_qemu import command_line, identity, process, qmp, runtime, shares

# A shell waits for the guest's first line, since it needs a fiftieth of Python's memory, and most machines of a CI job
# never publish a port. It starts the program again if that fails, a few times, and then at the next line. When QEMU
# ends, so do the lines, and the shell. If a guest sends an endless line, the shell ends at its memory limit (in KiB).
_WAIT = """all=$(ulimit -v); ulimit -S -v 65536
while read -r line; do
    tries=0
    until (ulimit -S -v "$all"; exec "$@"); do
        tries=$((tries + 1)); [ "$tries" -lt 5 ] || break
        sleep 5
    done
done"""


@dataclass(frozen=True)
class _Program:
    """A program that follows a port: a module that runs with the machine's folder as its argument."""

    module: str
    log: str
    settings: str
    """The file in the machine's folder with its settings, which exists while it is wanted."""
    socket: str
    chardev: str


PORTS = _Program("pymachine_driver_qemu.ports", "ports.log", "ports.json", runtime.CONTAINERS, command_line.CONTAINERS)
SHARES = _Program(
    "pymachine_driver_qemu.share_events", "share-events.log", "share-events.json", runtime.SHARES, command_line.SHARES
)


class Connections:
    """The connections to both ports. Use it in a ``with`` statement, which closes this process's ends."""

    def __init__(self, sockets: Path) -> None:
        """Raises `qmp.QmpError`."""
        with ExitStack() as opened:
            self.ports = opened.enter_context(connect(sockets, PORTS))
            # A machine that was restored from an older version's snapshot has no such port.
            has_shares_port = (sockets / SHARES.socket).exists()
            self.shares = opened.enter_context(connect(sockets, SHARES)) if has_shares_port else None
            self._sockets = sockets
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        """Return the connections."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close this process's ends."""
        self._opened.close()

    def follow(self, folder: Path, listen: ListenAddress, request: BootRequest) -> None:
        """Start the processes that the machine in `folder` needs. Raises `DriverError`."""
        follow_ports(folder, listen, ipv6=request.ipv6_ports, reports=self.ports)
        if self.shares is not None:
            # The core raises events in those that it mounts.
            missing = shares.missing(self._sockets)
            mounted = [share for share in request.shares if share not in missing]
            follow_shares(folder, replace(request, shares=mounted), reports=self.shares)


def connect(sockets: Path, program: _Program) -> socket.socket:
    """Return the connection to the port that `program` follows. Raises `qmp.QmpError`."""
    connection = qmp.connect(sockets / program.socket, Deadline(identity.CONNECT_SECONDS))
    connection.settimeout(None)
    return connection


def follow_ports(folder: Path, listen: ListenAddress, *, ipv6: bool, reports: socket.socket) -> None:
    """Start the port forwarder, which waits for the first line from `reports`. Raises `DriverError`.

    With `ipv6` it forwards the ports from ::1 too.
    """
    fields = {
        "address": listen.address,
        "docker_port": listen.docker_port,
        "ssh_port": listen.ssh_port,
        "netdev": command_line.NETDEV,
        "ipv6": ipv6,
    }
    (folder / forwarded_ports.FILE).unlink(missing_ok=True)
    _write(folder / PORTS.settings, fields)
    start(folder, PORTS, reports=reports)


def follow_shares(folder: Path, request: BootRequest, *, reports: socket.socket) -> None:
    """Start the process that raises events in the guest, if the machine shares folders and wants events.

    Raises `DriverError`.
    """
    if not request.shares or request.share_events is None:
        (folder / SHARES.settings).unlink(missing_ok=True)
        return
    _write(folder / SHARES.settings, share_settings(request.shares, request.share_events))
    start(folder, SHARES, reports=reports)


def share_settings(found: Sequence[Share], events: ShareEvents) -> dict[str, Json]:
    """Return the settings of the process that raises events."""
    pairs = [[str(share.path), str(share.guest_path)] for share in found]
    return {"shares": pairs, "left_out": list(events.left_out)}


def start_missing(folder: Path, sockets: Path, devices: Sequence[Mapping[str, Json]], listen: ListenAddress) -> None:
    """Start those processes again that have ended. `devices` is the monitor's answer to ``query-chardev``.

    Raises `DriverError`.
    """
    names = {device.get("label"): str(device.get("filename", "")) for device in devices}
    missing = [each for each in (PORTS, SHARES) if names.get(each.chardev, "").startswith("disconnected:")]
    if PORTS in missing:
        with connect(sockets, PORTS) as reports:
            follow_ports(folder, listen, ipv6=_was_on_ipv6(folder), reports=reports)
    if SHARES in missing and (folder / SHARES.settings).exists():
        with connect(sockets, SHARES) as reports:
            start(folder, SHARES, reports=reports)


def _was_on_ipv6(folder: Path) -> bool:
    """Return whether the machine's last port forwarder forwarded ports from ::1 too."""
    try:
        return bool(json.loads((folder / PORTS.settings).read_text(encoding="utf-8")).get("ipv6"))
    except (OSError, ValueError, AttributeError):  # missing or damaged: as without the option
        return False


def forget(folder: Path) -> None:
    """Remove the settings that are for the shared folders of an earlier boot."""
    (folder / SHARES.settings).unlink(missing_ok=True)


def start(folder: Path, program: _Program, *, reports: socket.socket) -> None:
    """Start a program in the background, which waits for the first line from `reports`. Raises `DriverError`."""
    process.trim(folder / program.log)
    # -P: do not search the working directory for modules.
    argv = [sys.executable, "-P", "-m", program.module, str(folder)]
    waiting = ["/bin/sh", "-c", _WAIT, program.module, *argv]
    started = process.spawn(waiting, log=folder / program.log, environment={}, stdin=reports.fileno())
    # Prevent the warning about a child that was not waited for: the program runs as long as QEMU.
    started.returncode = 0


def _write(path: Path, fields: Mapping[str, Json]) -> None:
    try:
        path.write_text(json.dumps(fields), encoding="utf-8")
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot write {path}", error) from error

"""The port forwarder: makes the ports that are open in the guest appear on the machine's address.

One small process a machine, started when the guest has its first container and ending with QEMU: ``python -m
pymachine_driver_qemu.ports MACHINE_FOLDER``, with the connection to the guest's port `channel.CONTAINERS_PORT` as its
standard input. It tells QEMU, through a monitor of its own, which ports to forward. What it does is logged in
``ports.log`` in the machine's folder; what is forwarded now, and what cannot be, is in ``forwards.json``.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pymachine import backlog, listeners, published
from pymachine.published import Forwards, Published
from pymachine_driver_qemu import qmp, runtime

_GUEST_RESTARTS = frozenset({"RESET", "SHUTDOWN"})
_RETRY_SECONDS = 2.0
_PAUSE_SECONDS = 0.02
_CHUNK = 65536
# A guest that is busy, in emulation, may keep QEMU busy.
_MONITOR_SECONDS = 60.0
_SETTINGS = "ports.json"


class Forwarder:
    """The forwards of one machine, by what its guest reports."""

    def __init__(self, folder: Path, monitor: qmp.Qmp, *, say: Callable[[str], None]) -> None:
        """Read the machine's settings. Raises OSError, ValueError, KeyError."""
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        self._folder = folder
        self._monitor = monitor
        self._say = say
        self._address = str(settings["address"])
        self._own_ports = {int(settings["docker_port"]): "engine", int(settings["ssh_port"]): "SSH"}
        self._reports = listeners.Reports()
        self._left_out = 0
        self._retry_at = 0.0
        self._forwards = Forwards(
            monitor.human, netdev=str(settings["netdev"]), address=self._address, say=say, obstacle=self._obstacle
        )
        self._forwards.adopt()
        # The machine's own are not the forwarder's.
        self._forwards.active = {port for port in self._forwards.active if not self._is_own(port)}

    def follow(self, guest: socket.socket) -> NoReturn:
        """Follow the guest until QEMU ends. Raises `qmp.QmpGoneError` then."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._monitor, selectors.EVENT_READ)
            selector.register(guest, selectors.EVENT_READ)
            while True:
                ready = selector.select(_RETRY_SECONDS if self._forwards.refused else None)
                before = (set(self._forwards.active), dict(self._forwards.refused))
                if _GUEST_RESTARTS & set(self._monitor.events()):
                    # What it had open is closed; QEMU would go on taking connections.
                    self._forwards.follow(set())
                if any(key.fileobj is guest for key, _ in ready):
                    self._hear(guest.recv(_CHUNK))
                self._retry()
                self._note_changes(*before)

    def _hear(self, data: bytes) -> None:
        if not data:
            raise qmp.QmpGoneError("QEMU has ended")
        report = self._reports.feed(data)
        if report is None:
            return
        ports, left_out = listeners.wanted(report, own=self._address, kept=self._forwards.active)
        if left_out and left_out != self._left_out:
            self._say(f"{left_out} more ports are open in the guest than the {listeners.MOST_PORTS} that are forwarded")
        self._left_out = left_out
        self._forwards.follow(ports)
        # A guest that reports without end does not take a processor of the host; the newest report counts.
        time.sleep(_PAUSE_SECONDS)

    def _retry(self) -> None:
        if self._forwards.refused and time.monotonic() >= self._retry_at:
            self._forwards.retry()
            self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _note_changes(self, active: set[Published], refused: dict[Published, str]) -> None:
        if self._forwards.active - active:
            try:
                backlog.lengthen(self._monitor.pid())
            except backlog.BacklogError as error:
                self._say(f"cannot lengthen the queues of the ports: {error}")
        if (self._forwards.active, self._forwards.refused) != (active, refused):
            published.save(self._folder, self._address, self._forwards)

    def _is_own(self, port: Published) -> bool:
        return port.protocol == "tcp" and port.port in self._own_ports

    def _obstacle(self, port: Published) -> str:
        if self._is_own(port):
            return f"the machine's own {self._own_ports[port.port]} is there"
        return refusal(self._address, port)


def refusal(address: str, port: Published) -> str:
    """Say why this host does not let a program listen on `port` now; empty if it does."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if port.protocol == "tcp":
            # QEMU sets it too; without it a connection that ended a moment ago makes the port look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port.port))
            if port.protocol == "tcp":
                probe.listen(1)
        except PermissionError:
            return "ports below net.ipv4.ip_unprivileged_port_start are root's"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                option = "t" if port.protocol == "tcp" else "u"
                return f"taken by another program (ss -ln{option}p 'sport = :{port.port}' says which)"
            return error.strerror or str(error)
    return ""


def _monitor(folder: Path) -> Path:
    sockets = runtime.find(folder)
    if sockets is None:
        raise qmp.QmpGoneError("the machine does not run")
    return sockets / runtime.PORTS


def main(arguments: list[str]) -> int:
    """The program: one argument, the machine's folder."""
    folder = Path(arguments[0])
    try:
        with (
            socket.socket(fileno=os.dup(sys.stdin.fileno())) as guest,
            qmp.Qmp(_monitor(folder), timeout=_MONITOR_SECONDS) as monitor,
        ):
            _log("following the guest")
            Forwarder(folder, monitor, say=_log).follow(guest)
    except qmp.QmpGoneError:
        (folder / published.FILE).unlink(missing_ok=True)
        _log("the machine has ended")
        return 0
    except (qmp.QmpError, OSError, ValueError, KeyError) as error:
        _log(f"ended by an error: {error!r}")
        return 1


def _log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Forward what the guest reports to listen in it; for drivers with QEMU's user network.

The forwarded ports, and those that cannot be forwarded, are in ``forwards.json`` in the machine's folder: see
`pymachine.driver.kit.forwarded_ports`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.kit import forwarded_ports, guest_listeners, listen_queues
from pymachine.driver.kit.forwarded_ports import Forwards
from pymachine.driver.kit.user_network import Published, UserNetwork

LARGEST_LOG = 1024 * 1024
"""In bytes."""
RETRY_SECONDS = 2.0
"""After how long a refused port is tried again: the program that has it may end."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where QEMU listens for a machine."""

    address: str
    """Empty for all addresses of another host."""
    docker_port: int
    ssh_port: int
    netdev: str
    """The id of the user network."""

    def own(self, port: Published) -> str:
        """Name what the machine itself has on `port`; empty for other ports."""
        own = {("tcp", self.docker_port): "engine", ("tcp", self.ssh_port): "SSH"}
        return own.get((port.protocol, port.port), "")


class Forwarder:
    """The forwards of one machine, by what its guest reports."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        *,
        monitor: Callable[[str], str],
        lengthen: Callable[[], object],
        say: Callable[[str], None],
    ) -> None:
        """`monitor` runs a command of QEMU's monitor for people, and `lengthen` may raise `backlog.BacklogError`."""
        self._folder = folder
        self._target = target
        self._lengthen = lengthen
        self._say = say
        self._reports = guest_listeners.Reports()
        self._left_out = 0
        self._complaints: set[str] = set()
        self._retry_at = 0.0
        self._noted: tuple[set[Published], dict[Published, str]] = (set(), {})
        self._forwards = Forwards(
            UserNetwork(monitor=monitor, netdev=target.netdev, address=target.address),
            say=say,
            obstacle=self._obstacle,
        )

    @property
    def wants_retry(self) -> bool:
        """Whether `retry` should be called every `RETRY_SECONDS`."""
        return bool(self._forwards.refused)

    def adopt(self) -> None:
        """Take over the forwards that QEMU has: this forwarder, or an earlier one, may have lost its connection."""
        self._forwards.adopt()
        # The machine's own are not the forwarder's.
        self._forwards.active = {port for port in self._forwards.active if not self._target.own(port)}
        self._note()

    def hear(self, data: bytes) -> bool:
        """Take bytes that the guest sent, and follow the newest report; return whether they completed one."""
        report = self._reports.feed(data)
        if report is None:
            return False
        ports, left_out = guest_listeners.wanted(report, own=self._target.address, kept=self._forwards.active)
        if left_out and left_out != self._left_out:
            self._say(
                f"{left_out} more ports are open in the guest than the {guest_listeners.MOST_PORTS} that are forwarded"
            )
        self._left_out = left_out
        self._follow(ports)
        return True

    def clear(self) -> None:
        """Remove all forwards: the guest has restarted, say, and QEMU would go on taking connections."""
        self._follow(set())

    def retry(self) -> None:
        """Try again what was refused, unless it was tried a moment ago."""
        if self._forwards.refused and time.monotonic() >= self._retry_at:
            self._forwards.retry()
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._note()

    def lengthen_queues(self) -> None:
        """Let many clients connect at once, where the host allows that; see `backlog`."""
        try:
            self._lengthen()
        except listen_queues.BacklogError as error:
            self._complain(f"cannot lengthen the queues of the ports: {error}")

    def _complain(self, text: str) -> None:
        if text not in self._complaints:
            self._complaints.add(text)
            self._say(text)

    def _follow(self, ports: set[Published]) -> None:
        self._forwards.follow(ports)
        self._note()

    def _note(self) -> None:
        active, refused = set(self._forwards.active), dict(self._forwards.refused)
        if (active, refused) == self._noted:
            return
        if active - self._noted[0]:
            self.lengthen_queues()
        try:
            forwarded_ports.save(self._folder, self._target.address, self._forwards)
        except OSError as error:
            if self._folder.is_dir():  # otherwise the machine is being removed
                self._complain(f"cannot note what is forwarded: {error.strerror}")
            return
        self._noted = (active, refused)

    def _obstacle(self, port: Published) -> str:
        own = self._target.own(port)
        if own:
            return f"the machine's own {own} is there"
        # What another host refuses only its QEMU knows.
        return refusal(self._target.address, port) if self._target.address else ""


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


def log(text: str) -> None:
    """Print a line with the time: a forwarder's standard output is its log.

    The log begins anew at `LARGEST_LOG`: a guest can have ports opened and closed without end. That it cannot be
    written, to a full disk for example, does not end the forwarder.
    """
    with contextlib.suppress(OSError):
        if os.fstat(1).st_size > LARGEST_LOG:
            os.ftruncate(1, 0)
        os.write(1, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())

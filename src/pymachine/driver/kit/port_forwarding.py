"""Forward the open ports that the guest reports; for drivers with QEMU's user network.

They are forwarded from the machine's address, and if wanted from ::1 too: see `pymachine.driver.kit.ipv6_ports`.

The forwarded ports, and those that cannot be forwarded, are recorded in ``forwards.json`` in the machine's folder: see
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

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.kit import forwarded_ports, guest_listeners, listen_queues
from pymachine.driver.kit.forwarded_ports import Forwards
from pymachine.driver.kit.system import Deadline
from pymachine.driver.kit.user_network import Published, UserNetwork

LARGEST_LOG = 1024 * 1024
"""In bytes."""
_TOO_MANY = f"the limit is {guest_listeners.MOST_PORTS} ports"
# A guest may open ports without end. So many of those over the limit are recorded.
_MOST_RECORDED = 64
RETRY_SECONDS = 2.0
"""The interval at which refused ports are tried again, since the program that uses one may end."""
# A guest that has containers reports every two seconds.
_SILENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where QEMU listens for a machine."""

    address: str
    """Empty for all addresses of another host."""
    docker_port: int
    ssh_port: int
    netdev: str
    """The id of the user network."""
    ipv6: bool = False
    """Whether the ports are on ::1 too."""

    def own(self, port: Published) -> str:
        """Return the machine's own service on `port`, or "" for other ports."""
        services = {("tcp", self.docker_port): "engine", ("tcp", self.ssh_port): "SSH"}
        return services.get((port.protocol, port.port), "")


class Forwarder:
    """Forwards one machine's ports by its guest's reports."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        *,
        monitor: Callable[[str], str],
        lengthen: Callable[[], object],
        say: Callable[[str], None],
    ) -> None:
        """`monitor` runs a command of QEMU's human monitor. `lengthen` may raise `listen_queues.BacklogError`."""
        self._folder = folder
        self._target = target
        self._lengthen = lengthen
        self._say = say
        self._reports = guest_listeners.Reports()
        self._left_out: set[Published] = set()
        self._complaints: set[str] = set()
        self._retry_at = 0.0
        self._silence: Deadline | None = None
        self._noted: list[ForwardedPort] = []
        self._lengthened: set[Published] = set()
        self._forwards = Forwards(
            UserNetwork(monitor=monitor, netdev=target.netdev, address=target.address),
            say=say,
            obstacle=self._obstacle,
        )
        self._ipv6 = _on_ipv6(target.address, say) if target.ipv6 else None

    @property
    def wants_retry(self) -> bool:
        """Whether `retry` should be called every `RETRY_SECONDS`."""
        return bool(self._silence or self._forwards.refused or (self._ipv6 and self._ipv6.refused))

    def adopt(self) -> None:
        """Read QEMU's forwarded ports: this forwarder, or an earlier one, may have lost its connection.

        If the guest stays silent then, `retry` removes them: the report of their end may have been lost.
        """
        self._forwards.adopt()
        # The forwarder does not manage the machine's own ports.
        self._forwards.active = {port for port in self._forwards.active if not self._target.own(port)}
        self._silence = Deadline(_SILENCE_SECONDS) if self._forwards.active else None
        self._follow_on_ipv6()
        self._note()

    def hear(self, data: bytes) -> None:
        """Process the guest's data, and apply the newest report if there is one."""
        report = self._reports.feed(data)
        if report is None:
            return
        self._silence = None
        ports, left_out = guest_listeners.wanted(report, own=self._target.address, kept=self._forwards.active)
        if left_out and len(left_out) != len(self._left_out):
            self._say(f"{len(left_out)} open ports of the guest are not forwarded: {_TOO_MANY}")
        self._left_out = left_out
        self._follow(ports)

    def clear(self) -> None:
        """Remove all forwarded ports, for example if the guest restarts: QEMU would still accept connections."""
        self._silence = None
        self._left_out = set()
        self._follow(set())

    def retry(self) -> None:
        """Try refused ports again, at most every `RETRY_SECONDS`."""
        if self._silence and self._silence.expired:
            self.clear()
        if self.wants_retry and time.monotonic() >= self._retry_at:
            self._forwards.retry()
            self._follow_on_ipv6()
            if self._ipv6 is not None:
                self._ipv6.retry()
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._note()

    def lengthen_queues(self) -> None:
        """Let many clients connect at once, if the host allows it; see `listen_queues`."""
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
        self._follow_on_ipv6()
        self._note()

    def _follow_on_ipv6(self) -> None:
        # A port of the address that another program uses would lead to that program.
        if self._ipv6 is not None:
            self._ipv6.follow(set(self._forwards.active))

    def _note(self) -> None:
        left_out = [self._forwards.row(port, _TOO_MANY) for port in sorted(self._left_out)[:_MOST_RECORDED]]
        rows = [*self._forwards.rows(), *(self._ipv6.rows() if self._ipv6 else ()), *left_out]
        if rows == self._noted:
            return
        if self._forwards.active - self._lengthened:
            self.lengthen_queues()
        self._lengthened = set(self._forwards.active)
        try:
            forwarded_ports.save(self._folder, rows)
        except OSError as error:
            if self._folder.is_dir():  # otherwise the machine is being removed
                self._complain(f"cannot record the forwarded ports: {error.strerror}")
            return
        self._noted = rows

    def _obstacle(self, port: Published) -> str:
        service = self._target.own(port)
        if service:
            return f"the machine's own {service} uses it"
        # For another host, only its QEMU can report the reason.
        return refusal(self._target.address, port) if self._target.address else ""


def _on_ipv6(target: str, say: Callable[[str], None]) -> Forwards:
    from pymachine.driver.kit import ipv6_ports  # noqa: PLC0415 (asyncio, which few machines need)

    return Forwards(ipv6_ports.Ipv6Ports(target), say=say, obstacle=lambda port: refusal(ipv6_ports.ADDRESS, port))


def refusal(address: str, port: Published) -> str:
    """Return why a program cannot listen on `port` of this host now, or "" if it can."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        probe = socket.socket(family, kind)
    except OSError as error:
        return _no_family(error)
    with probe:
        if port.protocol == "tcp":
            # QEMU sets this too. Without it, the port looks in use shortly after a connection ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port.port))
            if port.protocol == "tcp":
                probe.listen(1)
        except PermissionError:
            return "ports below net.ipv4.ip_unprivileged_port_start are reserved for root"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                option = "t" if port.protocol == "tcp" else "u"
                return f"in use by another program (to find it: ss -ln{option}p 'sport = :{port.port}')"
            return _no_family(error)
    return ""


def _no_family(error: OSError) -> str:
    if error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
        return "this host does not have the address"
    return error.strerror or str(error)


def log(text: str) -> None:
    """Print a line with the time. A forwarder's standard output is its log.

    At `LARGEST_LOG` bytes the log is emptied, since a guest can open and close ports without end. If the log cannot be
    written, for example because the disk is full, the forwarder continues.
    """
    with contextlib.suppress(OSError):
        if os.fstat(1).st_size > LARGEST_LOG:
            os.ftruncate(1, 0)
        os.write(1, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())

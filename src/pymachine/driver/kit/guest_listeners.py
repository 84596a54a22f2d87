"""Choose the ports to forward from the guest's reports of its open ports; for drivers with QEMU's user network.

A report is a line with the word ``listening`` and, for each socket, its protocol and local address in the format of
``/proc/net/tcp``, such as ``tcp/00000000:1F90``. Reports are not trusted, since a guest may send anything.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Iterator

from pymachine.driver.contract import DOCKER_PORT
from pymachine.driver.kit.user_network import Published

WORD = "listening"
LONGEST_REPORT = 64 * 1024
MOST_PORTS = 256
"""The largest number of forwarded ports of a machine."""
# The address that QEMU's user network gives its guest.
_GUEST = "10.0.2.15"
_EVERYWHERE = frozenset({"0.0.0.0", "::", _GUEST})  # noqa: S104
# The guest's own services: SSH, the engine, the DHCP client, and the engine's swarm ports.
_OWN = frozenset(
    {("tcp", 22), ("tcp", DOCKER_PORT), ("udp", 68), ("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("udp", 4789)}
)
_IPV4_BYTES = 4
_SOCKET = re.compile(r"(tcp|udp)/([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})")


class Reports:
    """Splits the guest's data, in pieces of any size, into reports."""

    def __init__(self) -> None:
        self._buffer = b""
        self._is_overlong = False

    def feed(self, data: bytes) -> str | None:
        """Add data; return the newest report that it completes, or None."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        newest = None
        for line in lines:
            if not self._is_overlong and line.split(b" ", 1)[0] == WORD.encode():
                newest = line.decode("ascii", errors="replace")
            self._is_overlong = False
        if len(self._buffer) > LONGEST_REPORT:
            self._buffer, self._is_overlong = b"", True
        return newest


def wanted(report: str, *, own: str, kept: Collection[Published] = ()) -> tuple[set[Published], set[Published]]:
    """Return the ports to forward for a `report`, and those left out because there are too many.

    `own` is the machine's address on the host. Ports that the guest opens on that address are forwarded too, but not
    those on other addresses of its loopback or its containers' networks. If there are too many, those in `kept` stay.
    """
    found = set(_ports(report.split(), own))
    # A port that is open on every address is open on the machine's own.
    found = {port for port in found if not port.guest or Published(port.protocol, port.port) not in found}
    chosen = set(sorted(found, key=lambda port: (port not in kept, port))[:MOST_PORTS])
    return chosen, found - chosen


def _ports(words: Iterable[str], own: str) -> Iterator[Published]:
    for word in words:
        socket_of_guest = _SOCKET.fullmatch(word)
        if socket_of_guest is None:
            continue
        protocol, address, port = socket_of_guest[1], _address(socket_of_guest[2]), int(socket_of_guest[3], 16)
        if not port or (protocol, port) in _OWN:
            continue
        if address in _EVERYWHERE:
            yield Published(protocol, port)
        elif address == own:
            yield Published(protocol, port, guest=own)


def _address(digits: str) -> str:
    """Decode an address from 32-bit words in the byte order of the guest's processor, which is little-endian."""
    data = bytes.fromhex(digits)
    data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    family = socket.AF_INET if len(data) == _IPV4_BYTES else socket.AF_INET6
    return socket.inet_ntop(family, data).removeprefix("::ffff:")

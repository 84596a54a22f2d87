"""List, add and remove the forwarded ports of QEMU's user network, through QEMU's monitor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# A line of ``info usernet``: protocol, descriptor, address and port on the host, address and port in the guest.
_FORWARD = re.compile(
    r"(?P<protocol>TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(?P<address>\S+)\s+(?P<port>\d+)\s+(?P<guest>\S+)\s+\d+\s"
)


@dataclass(frozen=True, order=True)
class Published:
    """A port that is open in the guest."""

    protocol: str
    port: int
    guest: str = ""
    """The address in the guest at which it is open; "" for that of its network interface."""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, kw_only=True)
class UserNetwork:
    """The user network of one QEMU."""

    monitor: Callable[[str], str]
    """Runs a command of QEMU's human monitor and returns its output."""
    netdev: str
    """The network's id."""
    address: str
    """The address on the host; empty for all addresses."""

    def forwards(self) -> set[Published]:
        """Return the ports that are forwarded from the address."""
        found = set()
        for line in self.monitor("info usernet").splitlines():
            forward = _FORWARD.match(line.strip())
            # QEMU prints a star where it listens on all addresses.
            if forward and forward["address"] == (self.address or "*"):
                guest = forward["guest"] if forward["guest"] == self.address else ""
                found.add(Published(forward["protocol"].lower(), int(forward["port"]), guest))
        return found

    def add(self, port: Published) -> str:
        """Forward a port; return why QEMU refuses it, or ""."""
        ends = f"{port.protocol}:{self.address}:{port.port}-{port.guest}:{port.port}"
        reply = self.monitor(f"hostfwd_add {self.netdev} {ends}")
        return reply and f"{reply}; the port may be in use, or below 1024 and reserved for root"

    def remove(self, port: Published) -> str:
        """Stop forwarding a port; return QEMU's reply."""
        return self.monitor(f"hostfwd_remove {self.netdev} {port.protocol}:{self.address}:{port.port}")

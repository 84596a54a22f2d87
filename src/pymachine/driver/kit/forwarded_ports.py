"""Forwarded ports of a machine, in QEMU's user network; for drivers that have it.

`pymachine.driver.kit.port_forwarding` forwards what the guest reports. A file keeps the result for the commands that
show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.abilities import ForwardedPort

FILE = "forwards.json"
LONGEST = 1 << 20
"""In the machine's folder."""
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
    """The address in the guest at which it is open, if not at that of its network interface."""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class Forwards:
    """The forwards in QEMU's user network, kept equal to what is wanted."""

    def __init__(
        self,
        monitor: Callable[[str], str],
        *,
        netdev: str,
        address: str,
        say: Callable[[str], None],
        obstacle: Callable[[Published], str] = lambda _: "",
    ) -> None:
        """`monitor` runs a command of QEMU's monitor for people and returns what it said; `netdev` is the id of the
        user network; `say` takes one line for the log; `obstacle` says why a port cannot be had, where that is known.
        """
        self._monitor = monitor
        self._netdev = netdev
        self._address = address
        self._say = say
        self._obstacle = obstacle
        self.active: set[Published] = set()
        """What is forwarded."""
        self.refused: dict[Published, str] = {}
        """What is wanted and cannot be had, with the reason."""

    def adopt(self) -> None:
        """Take over the forwards that QEMU has: an earlier forwarder may have crashed."""
        self.active.clear()
        for line in self._monitor("info usernet").splitlines():
            found = _FORWARD.match(line.strip())
            # QEMU prints a star where it listens on all addresses.
            if found and found["address"] == (self._address or "*"):
                guest = found["guest"] if found["guest"] == self._address else ""
                self.active.add(Published(found["protocol"].lower(), int(found["port"]), guest))
        self.refused = {port: reason for port, reason in self.refused.items() if port not in self.active}

    def follow(self, wanted: set[Published]) -> None:
        """Add and remove what is needed; see `refused` for what cannot be had."""
        self.refused = {port: reason for port, reason in self.refused.items() if port in wanted}
        for port in sorted(self.active - wanted):
            self._remove(port)
        for port in sorted(wanted - self.active - self.refused.keys()):
            self._add(port)

    def retry(self) -> None:
        """Try again what was refused: the program that had the port may have ended."""
        for port in sorted(self.refused):
            self._add(port)

    def _add(self, port: Published) -> None:
        reason = self._obstacle(port)
        if not reason:
            place = f"{port.protocol}:{self._address}:{port.port}-{port.guest}:{port.port}"
            reason = self._monitor(f"hostfwd_add {self._netdev} {place}")
            if reason:
                reason += "; is it taken, or below 1024 and not allowed to users?"
        if not reason:
            self.active.add(port)
            self.refused.pop(port, None)
            self._say(f"forwarding {self._address}:{port}")
        elif self.refused.get(port) != reason:
            self.refused[port] = reason
            self._say(f"cannot forward {self._address}:{port}: {reason}")

    def _remove(self, port: Published) -> None:
        said = self._monitor(f"hostfwd_remove {self._netdev} {port.protocol}:{self._address}:{port.port}")
        self.active.discard(port)
        self._say(f"no longer forwarding {self._address}:{port} ({said})")


def save(folder: Path, address: str, forwards: Forwards) -> None:
    """Note in the machine's `folder` what is forwarded to `address`, and what cannot be. Raises OSError."""
    from pymachine.system.files import atomic_write  # noqa: PLC0415

    ports = dict.fromkeys(forwards.active, "") | forwards.refused
    rows = [
        {"Protocol": port.protocol, "Port": port.port, "Address": address, "Problem": ports[port]}
        for port in sorted(ports)
    ]
    text = json.dumps(rows, indent=2) + "\n"
    try:
        is_noted = (folder / FILE).read_text(encoding="utf-8") == text
    except FileNotFoundError:
        is_noted = False
    if not is_noted:
        atomic_write(folder / FILE, text)


def load(folder: Path) -> list[ForwardedPort]:
    """Return what `save` noted; nothing if there is no such note, or no readable one."""
    from pymachine.system.files import read_regular  # noqa: PLC0415

    try:
        rows = json.loads(read_regular(folder / FILE, longest=LONGEST))
        return [
            ForwardedPort(str(row["Protocol"]), int(row["Port"]), str(row["Address"]), str(row["Problem"]))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []

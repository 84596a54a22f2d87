"""Forwarded ports of a machine: keep them equal to what is wanted, and note them in a file.

`pymachine.driver.kit.port_forwarding` forwards what the guest reports. A file keeps the result for the commands that
show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.kit.user_network import Published, UserNetwork

FILE = "forwards.json"
LONGEST = 1 << 20
"""In the machine's folder."""


class Forwards:
    """The forwards in a user network, kept equal to what is wanted."""

    def __init__(
        self,
        network: UserNetwork,
        *,
        say: Callable[[str], None],
        obstacle: Callable[[Published], str] = lambda _: "",
    ) -> None:
        """`say` takes one line for the log; `obstacle` says why a port cannot be had, where that is known."""
        self._network = network
        self._address = network.address
        self._say = say
        self._obstacle = obstacle
        self.active: set[Published] = set()
        """What is forwarded."""
        self.refused: dict[Published, str] = {}
        """What is wanted and cannot be had, with the reason."""

    def adopt(self) -> None:
        """Take over the forwards that the network has: an earlier forwarder may have crashed."""
        self.active = self._network.forwards()
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
            reason = self._network.add(port)
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
        said = self._network.remove(port)
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

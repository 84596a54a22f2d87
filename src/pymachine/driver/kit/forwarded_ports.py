"""Update a machine's forwarded ports, and record them in a file for the commands that show them.

`pymachine.driver.kit.port_forwarding` chooses the ports by the guest's reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.kit.user_network import Published, UserNetwork

FILE = "forwards.json"
"""The file's name in the machine's folder."""
LONGEST = 1 << 20
"""In bytes."""


class Forwards:
    """The forwarded ports of a user network."""

    def __init__(
        self,
        network: UserNetwork,
        *,
        say: Callable[[str], None],
        obstacle: Callable[[Published], str] = lambda _: "",
    ) -> None:
        """`say` logs one line. `obstacle` returns why a port cannot be forwarded, or "" if no reason is known."""
        self._network = network
        self._address = network.address
        self._say = say
        self._obstacle = obstacle
        self.active: set[Published] = set()
        """The ports that are forwarded."""
        self.refused: dict[Published, str] = {}
        """The ports that cannot be forwarded, with the reason."""

    def adopt(self) -> None:
        """Read the network's forwarded ports: an earlier forwarder may have crashed."""
        self.active = self._network.forwards()
        self.refused = {port: reason for port, reason in self.refused.items() if port not in self.active}

    def follow(self, wanted: set[Published]) -> None:
        """Forward exactly the ports `wanted`. Those that cannot be forwarded are in `refused` afterwards."""
        self.refused = {port: reason for port, reason in self.refused.items() if port in wanted}
        for port in sorted(self.active - wanted):
            self._remove(port)
        for port in sorted(wanted - self.active - self.refused.keys()):
            self._add(port)

    def retry(self) -> None:
        """Try refused ports again: the program that used the port may have ended."""
        for port in sorted(self.refused):
            self._add(port)

    def _add(self, port: Published) -> None:
        reason = self._obstacle(port)
        if not reason:
            reason = self._network.add(port)
            if reason:
                reason += "; the port may be in use, or below 1024 and reserved for root"
        if not reason:
            self.active.add(port)
            self.refused.pop(port, None)
            self._say(f"forwarding {self._address}:{port}")
        elif self.refused.get(port) != reason:
            self.refused[port] = reason
            self._say(f"cannot forward {self._address}:{port}: {reason}")

    def _remove(self, port: Published) -> None:
        reply = self._network.remove(port)
        self.active.discard(port)
        self._say(f"no longer forwarding {self._address}:{port} ({reply})")


def save(folder: Path, address: str, active: Iterable[Published], refused: Mapping[Published, str]) -> None:
    """Record the ports of `address` in the machine's `folder`: the forwarded ones, and the others with the reason.

    Raises OSError.
    """
    from pymachine.system.files import atomic_write  # noqa: PLC0415

    ports = {**dict.fromkeys(active, ""), **refused}
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
    """Return the ports that `save` recorded; none if the file is missing or damaged."""
    from pymachine.system.files import read_regular  # noqa: PLC0415

    try:
        rows = json.loads(read_regular(folder / FILE, longest=LONGEST))
        return [
            ForwardedPort(str(row["Protocol"]), int(row["Port"]), str(row["Address"]), str(row["Problem"]))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []

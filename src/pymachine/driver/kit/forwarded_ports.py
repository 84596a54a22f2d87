"""Update a machine's forwarded ports, and record them in a file for the commands that show them.

`pymachine.driver.kit.port_forwarding` chooses the ports by the guest's reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.kit.user_network import Published

FILE = "forwards.json"
"""The file's name in the machine's folder."""
LONGEST = 1 << 20
"""In bytes."""


class Network(Protocol):
    """What forwards the ports of one address, as `UserNetwork` does."""

    @property
    def address(self) -> str:
        """The address on the host; empty for all addresses."""

    def forwards(self) -> set[Published]:
        """Return the ports that are forwarded from the address."""

    def add(self, port: Published) -> str:
        """Forward a port; return why that is refused, or ""."""

    def remove(self, port: Published) -> str:
        """Stop forwarding a port; return a word about it for the log, or ""."""


class Forwards:
    """The forwarded ports of one address."""

    def __init__(
        self,
        network: Network,
        *,
        say: Callable[[str], None],
        obstacle: Callable[[Published], str] = lambda _: "",
    ) -> None:
        """`say` logs one line. `obstacle` returns why a port cannot be forwarded, or "" if no reason is known."""
        self._network = network
        self._address = f"[{network.address}]" if ":" in network.address else network.address
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

    def rows(self) -> list[ForwardedPort]:
        """Return the ports for `save`: the forwarded ones, and the refused ones with the reason."""
        ports = {**dict.fromkeys(self.active, ""), **self.refused}
        return [self.row(port, ports[port]) for port in sorted(ports)]

    def row(self, port: Published, problem: str) -> ForwardedPort:
        """Return a port for `save`."""
        return ForwardedPort(port.protocol, port.port, self._network.address, problem)

    def _add(self, port: Published) -> None:
        reason = self._obstacle(port) or self._network.add(port)
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


def save(folder: Path, ports: Iterable[ForwardedPort]) -> None:
    """Record the ports in the machine's `folder`, sorted. Raises OSError."""
    from pymachine.system.files import atomic_write  # noqa: PLC0415

    rows = [
        {"Protocol": port.protocol, "Port": port.port, "Address": port.address, "Problem": port.problem}
        for port in sorted(ports, key=lambda port: (port.protocol, port.port))
    ]
    text = json.dumps(rows, indent=2) + "\n"
    try:
        is_noted = (folder / FILE).read_text(encoding="utf-8") == text
    except FileNotFoundError:
        is_noted = False
    if not is_noted:
        # The file is for this boot only. Waiting for a busy disk would delay the next ports.
        atomic_write(folder / FILE, text, durable=False)


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

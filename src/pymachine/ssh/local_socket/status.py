"""The file in a machine's folder in which its forwarder records whether the local socket is connected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pymachine.store import paths
from pymachine.system import files

_LONGEST = 1 << 20


class SocketState(Enum):
    """The state of a local socket."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    """There is no connection to the machine. The forwarder tries again until there is."""
    REFUSED = "refused"
    """The machine can be reached, but not its engine. The forwarder tries again from time to time."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The file's content."""

    pid: int
    """The process that wrote it."""
    state: SocketState = SocketState.CONNECTING
    problem: str = ""
    attempts: int = 0
    """How often the forwarder has tried to connect."""


def save(folder: Path, status: Status) -> None:
    """Write the file. Raises OSError."""
    content = {
        "Pid": status.pid,
        "State": status.state.value,
        "Problem": status.problem,
        "Attempts": status.attempts,
    }
    files.atomic_write(folder / paths.SOCKET_STATUS, json.dumps(content, indent=2) + "\n", durable=False)


def load(folder: Path) -> Status | None:
    """Read the file. Return None if there is none, or if it is not as `save` writes it."""
    try:
        fields = json.loads(files.read_regular(folder / paths.SOCKET_STATUS, longest=_LONGEST))
        return Status(
            pid=int(fields["Pid"]),
            state=SocketState(fields["State"]),
            problem=str(fields["Problem"]),
            attempts=int(fields["Attempts"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

"""The file in a machine's folder in which its keeper records which folders are mounted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pymachine.system import files

FILE = "shares.json"
_LONGEST = 1 << 20


class MountState(Enum):
    """The state of a folder that the keeper mounts."""

    MOUNTED = "mounted"
    CONNECTING = "connecting"
    """It is not mounted, and the keeper tries again until it is."""
    REFUSED = "refused"
    """The machine cannot mount it. The keeper tries again from time to time."""
    MISSING = "missing"
    """The folder vanished from this host."""


@dataclass(frozen=True)
class MountStatus:
    """The state of one folder."""

    state: MountState
    problem: str = ""
    attempts: int = 0
    """How often the keeper has tried to mount it."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The file's content."""

    pid: int
    """The process that wrote it."""
    source: str
    """See `order.Order`. It stays the same as long as the file exists."""
    shares: Mapping[str, MountStatus]
    """The shares, by their text for ``--share``."""


def save(folder: Path, status: Status) -> None:
    """Write the file. Raises OSError."""
    shares = {
        text: {"State": each.state.value, "Problem": each.problem, "Attempts": each.attempts}
        for text, each in status.shares.items()
    }
    content = {"Pid": status.pid, "Source": status.source, "Shares": shares}
    files.atomic_write(folder / FILE, json.dumps(content, indent=2) + "\n", durable=False)


def load(folder: Path) -> Status | None:
    """Read the file. Return None if there is none, or if it is not as `save` writes it."""
    try:
        fields = json.loads(files.read_regular(folder / FILE, longest=_LONGEST))
        shares = {
            text: MountStatus(MountState(entry["State"]), str(entry["Problem"]), int(entry["Attempts"]))
            for text, entry in fields["Shares"].items()
        }
        return Status(pid=int(fields["Pid"]), source=str(fields["Source"]), shares=shares)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

"""The registry cache's settings, which it keeps while it is stopped.

`create` reads them each time, so this module imports little.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pymachine.registry_cache.place import KEEPER, STATE
from pymachine.system import files

FORMAT = 1
DOCKER_HUB = "https://registry-1.docker.io"
DEFAULT_LIMIT_MIB = 20 * 1024
STORAGE = "storage-"
DIGITS = 12
_LONGEST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class State:
    """The settings of the registry cache."""

    port: int
    upstream: str
    """The URL of the registry whose images it caches."""
    limit_mib: int
    hosts: tuple[str, ...]
    """The names and addresses in its certificate: only under these, a machine can use it."""

    @property
    def storage(self) -> str:
        """The name of its storage folder, which is another one for each upstream, since tags mean other images."""
        return f"{STORAGE}{hashlib.sha256(self.upstream.encode()).hexdigest()[:DIGITS]}"


def save(folder: Path, state: State) -> None:
    """Write the state. Raises OSError."""
    files.atomic_write(folder / STATE, json.dumps({"format": FORMAT, **asdict(state)}, indent=1) + "\n")


def load(folder: Path) -> State | None:
    """Return the state, or None if there is none, or if it cannot be read."""
    try:
        found: Any = json.loads(files.read_regular(folder / STATE, longest=_LONGEST))
        if found["format"] != FORMAT:
            return None
        return State(
            port=int(found["port"]),
            upstream=str(found["upstream"]),
            limit_mib=int(found["limit_mib"]),
            hosts=tuple(str(host) for host in found["hosts"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def of_running(folder: Path) -> State | None:
    """Return the state if the cache runs, or else None.

    It runs as long as its keeper does, also while that starts docker-registry again.
    """
    return load(folder) if KEEPER.find(folder) else None

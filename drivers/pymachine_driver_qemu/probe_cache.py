"""What was found out about this host, kept for as long as it does not reboot: one small file for all processes."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine_driver_qemu import runtime


def key(*parts: object) -> str:
    """The name of an answer; another boot of the host has other answers."""
    return " ".join([boot_id(), *(str(part) for part in parts)])


def boot_id() -> str:
    """What tells this boot of the host from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # Elsewhere the moment of booting, to ten minutes, since clocks are set.
        return str(int((time.time() - time.monotonic()) // 600))


@contextmanager
def answers(name: str) -> Iterator[dict[str, Json]]:
    """The answers so far in the file `name`, under a lock; written back at the end.

    A file that cannot be read as one counts as empty.
    """
    path = runtime.base() / name
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            known = json.load(file)
        except ValueError:
            known = {}
        found = dict(known) if isinstance(known, dict) else {}
        before = dict(found)
        yield found
        if found != before:
            file.seek(0)
            file.truncate()
            # Old boots' answers are of no more use.
            json.dump({name: value for name, value in found.items() if name.startswith(boot_id())}, file)

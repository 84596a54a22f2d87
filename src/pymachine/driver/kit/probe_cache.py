"""Cache the results of slow checks of a host, in one small file for all processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.contract import Json


def boot_id() -> str:
    """Return the id of the host's current boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # Elsewhere, the time of the boot, rounded to ten minutes since clocks are adjusted.
        return str(int((time.time() - time.monotonic()) // 600))


@contextmanager
def results(path: Path, *, is_current: Callable[[str, Json], bool]) -> Iterator[dict[str, Json]]:
    """Yield the results in the file at `path`, under a lock, and write them back if they change.

    Only results for which `is_current` is true, by name and value, are kept. A damaged file counts as empty.
    """
    with path.open("a+", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 (not on Windows)

            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            known = json.load(file)
        except ValueError:
            known = {}
        entries = known.items() if isinstance(known, dict) else ()
        current = {str(name): value for name, value in entries if is_current(str(name), value)}
        before = dict(current)
        yield current
        if current != before:
            file.seek(0)
            file.truncate()
            json.dump(current, file)

"""Running programs that file permissions apply to, also where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# An owner that no process here has.
_STRANGER = 54321


def command(argv: Sequence[str]) -> list[str]:
    """`argv` as a command that cannot read or write what its user may not."""
    if os.geteuid() != 0:
        return list(argv)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--", *argv]


def close_off(path: Path) -> None:
    """Make `path` one that programs started by `command` may not open, as what another user's `sudo` leaves."""
    path.chmod(0o700 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, _STRANGER, _STRANGER)

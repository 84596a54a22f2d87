"""Run programs to which file permissions apply, even if the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# A user id that no process here has.
_OTHER_USER = 54321


def command(argv: Sequence[str]) -> list[str]:
    """Return `argv` as a command that obeys file permissions."""
    if os.geteuid() != 0:
        return list(argv)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--", *argv]


def close_off(path: Path) -> None:
    """Make `path` unreadable for programs started by `command`, like a file that `sudo` left to another user."""
    path.chmod(0o700 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, _OTHER_USER, _OTHER_USER)

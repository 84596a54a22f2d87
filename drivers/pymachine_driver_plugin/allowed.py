"""The programs that the user has named with ``--plugin-program``, in a file outside of all stores.

A record may come from another computer, so the path of a program in it is no permission to run that program.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pymachine.driver.kit.system import files
from pymachine_driver_plugin import programs

log = logging.getLogger(__name__)
NAME = "plugin-programs"


def path() -> Path:
    """Return the path of the file, which has a program's path in each line."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "pymachine" / NAME


def allow(program: Path) -> None:
    """Note that the user has named `program`. If that fails, later commands need the variable."""
    if program in _read():
        return
    try:
        files.make_private_dir(path().parent)
        files.atomic_write(path(), "".join(f"{each}\n" for each in [*_read(), program]), mode=0o600)
    except OSError as error:
        log.debug("%s cannot be written: %s", path(), error)


def is_allowed(program: Path) -> bool:
    """Return whether the user has named `program`, which still exists and is not pymachine itself."""
    return program in _read() and program.is_file() and not programs.is_pymachine(program)


def _read() -> list[Path]:
    try:
        return [Path(line) for line in path().read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError:
        return []

"""Folders that are made beside their place and renamed into it when whole, and never change after that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.run import process_exists

TEMPORARY = ".tmp-"


@contextmanager
def making(root: Path, *, private: bool) -> Iterator[Path]:
    """An empty folder below `root`, to be filled and then given to `publish`; what is not published is removed.

    What makers that were killed left behind is removed too. Raises OSError.
    """
    sweep(root)
    prefix = f"{TEMPORARY}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as new:
        folder = Path(new)
        folder.chmod(0o700 if private else 0o755)
        yield folder


def publish(folder: Path, target: Path) -> None:
    """Rename a folder from `making` to `target`, in the place of what is there. Raises OSError."""
    if os.path.lexists(target):
        # What another user left may be moved away, but not emptied; `sweep` tries again.
        shutil.rmtree(_set_aside(target), ignore_errors=True)
    folder.rename(target)


def retire(folder: Path) -> None:
    """Remove a folder so that nobody ever finds half of it; processes go on with what they have open in it."""
    shutil.rmtree(_set_aside(folder))


def _set_aside(folder: Path) -> Path:
    gone = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    folder.rename(gone)
    return gone


def sweep(root: Path) -> None:
    """Remove what makers that are no longer there left below `root`."""
    for folder in root.glob(f"{TEMPORARY}*"):
        pid = folder.name.removeprefix(TEMPORARY).partition("-")[0]
        if not pid.isdigit() or not process_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)

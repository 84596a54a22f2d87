"""Files in a machine's folder: room for them, the marker of a new disk, and files that are replaced."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

from pymachine.driver.errors import PrecreateError
from pymachine.system import files, os_errors

MEBIBYTE = 1 << 20
FIRST_NEED = 1024 * MEBIBYTE
"""How many bytes a new machine soon uses on its sparse disk."""
# The guest formats a disk only if it begins with these words. They are boot2docker's.
FORMAT_MARKER = "boot2docker, please format-me"


def check_space(folder: Path) -> None:
    """Raise `PrecreateError` if `folder` has too little space for a new machine."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise os_errors.wrapped(PrecreateError, f"cannot determine the free space of {folder}", error) from error
    if free < FIRST_NEED:
        raise PrecreateError(
            f"not enough disk space in {folder}: {free // MEBIBYTE} MB free, {FIRST_NEED // MEBIBYTE} MB needed",
            hint="Free some space, or keep machines elsewhere with --storage-path.",
        )


def format_marker() -> bytes:
    """Return the beginning of a new disk: as docker-machine's, a tar with an empty member called `FORMAT_MARKER`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(FORMAT_MARKER))
    return data.getvalue()


def put(source: Path, target: Path) -> None:
    """Put a file at `target`: as a hard link if possible, else as a copy. Raises OSError without a change."""
    fresh = files.temporary(target)
    try:
        try:
            os.link(source, fresh)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(source, fresh)
        fresh.replace(target)
    finally:
        # A rename of one link of a file to another leaves both.
        fresh.unlink(missing_ok=True)


def bring_back(path: Path, *, aside: Path) -> None:
    """Put the file `aside`, if it exists, back in place of the one at `path`."""
    if aside.exists():
        aside.replace(path)
    # A rename of one link of a file to another leaves both.
    aside.unlink(missing_ok=True)

"""Files in a machine's folder: check for space, mark new disks, and replace files safely."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from pymachine.driver.errors import PrecreateError
from pymachine.system import files, os_errors

MEBIBYTE = 1 << 20
FIRST_NEED = 1024 * MEBIBYTE
"""The bytes that a new machine soon uses on its sparse disk."""
# The guest formats only a disk that begins with this text of boot2docker's.
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
    """Return the beginning of a new disk: a tar with an empty member `FORMAT_MARKER`, as docker-machine writes it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(FORMAT_MARKER))
    return data.getvalue()


def put(source: Path, target: Path, *, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Put a file at `target`: as a hard link if possible, else with `copy`. On an error, `target` is unchanged."""
    fresh = files.temporary(target)
    try:
        try:
            os.link(source, fresh)
        except OSError:
            # Another file system, or one without hard links.
            copy(source, fresh)
        fresh.replace(target)
    finally:
        # Renaming a hard link to another link of the same file leaves both.
        fresh.unlink(missing_ok=True)


def bring_back(path: Path, *, aside: Path) -> None:
    """Replace the file at `path` by the one kept at `aside`, if that exists."""
    if aside.exists():
        aside.replace(path)
    # Renaming a hard link to another link of the same file leaves both.
    aside.unlink(missing_ok=True)

"""Add a driver's own files to an identity."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def with_files(identity: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return the tar `identity` with `files` added, whose names are relative to the identity's folder in the guest."""
    buffer = io.BytesIO(identity)
    with tarfile.open(fileobj=buffer, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o644, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()

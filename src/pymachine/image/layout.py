"""The names of an image's files, and the text of its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

ISO = "boot2docker.iso"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
MANIFEST = "manifest.json"
# Paths inside the ISO.
ISO_KERNEL = "boot/vmlinuz"
ISO_INITRD = "boot/initrd.img"
ISO_MANIFEST = "pymachine/manifest.json"


def describe_file(path: Path) -> dict[str, Any]:
    """Return the SHA-256 and the size in bytes of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def with_files(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add the digests of the files in `folder` to `manifest`, write it there, and return it."""
    files = {name: describe_file(folder / name) for name in (ISO, KERNEL, INITRD)}
    complete = {**manifest, "digest": files[ISO]["sha256"], "files": files}
    (folder / MANIFEST).write_bytes(to_bytes(complete))
    return complete


def to_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the stored form of a manifest."""
    return (json.dumps(manifest, indent=1) + "\n").encode()

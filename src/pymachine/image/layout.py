"""The names of an image's files, and its manifest as text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

ISO = "boot2docker.iso"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
MANIFEST = "manifest.json"
# inside the ISO
ISO_KERNEL = "boot/vmlinuz"
ISO_INITRD = "boot/initrd.img"
ISO_MANIFEST = "pymachine/manifest.json"


def describe_file(path: Path) -> dict[str, Any]:
    """Digest and size (bytes) of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def with_files(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`manifest` with the digests of the image's files in `folder`, where it is written too."""
    files = {name: describe_file(folder / name) for name in (ISO, KERNEL, INITRD)}
    complete = {**manifest, "digest": files[ISO]["sha256"], "files": files}
    (folder / MANIFEST).write_bytes(to_bytes(complete))
    return complete


def to_bytes(manifest: dict[str, Any]) -> bytes:
    """A manifest as it is stored."""
    return (json.dumps(manifest, indent=1) + "\n").encode()

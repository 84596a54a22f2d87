"""What the guest is told beside its identity, and how both reach it: at the start of its disk, or over SSH."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping

from pymachine_driver_virtualbox.shares import Share

# The guest formats a disk that begins with this; boot2docker's own words.
MAGIC = "boot2docker, please format-me"
# In the tar that the disk begins with; `usr/lib/pymachine/userdata` of the image looks for it.
IDENTITY = "pymachine-identity.tar"
# In the identity; `usr/lib/pymachine/surroundings` of the image reads them.
ADDRESSES = "addresses"
SHARES = "shares"
# The guest looks at so much of a disk.
LARGEST = 1 << 20
COMMAND = "sudo /usr/lib/pymachine/userdata receive"


def with_surroundings(identity: bytes, *, mac: str, address: str, shares: Iterable[Share]) -> bytes:
    """`identity` with the address of the host-only interface in it, and what the guest is to mount."""
    members = {
        ADDRESSES: f"{mac} {address}\n".encode(),
        SHARES: "".join(f"{share.name} {share.mount_point}\n" for share in shares).encode(),
    }
    buffer = io.BytesIO(identity)
    with tarfile.open(fileobj=buffer, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, members)
    return buffer.getvalue()


def userdata(public_key: bytes, identity: bytes | None) -> bytes:
    """The tar that the disk begins with: docker-machine's, and the identity for an image that knows of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # docker-machine's five entries; the first name is what is looked for at the disk's first byte.
        _add(archive, {MAGIC: MAGIC.encode()}, mode=0o000)
        folder = tarfile.TarInfo(".ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        _add(archive, {".ssh/authorized_keys": public_key, ".ssh/authorized_keys2": public_key}, mode=0o644)
        if identity is not None:
            _add(archive, {IDENTITY: identity}, mode=0o600)
    data = buffer.getvalue()
    if len(data) > LARGEST:
        raise ValueError(f"the identity has {len(identity or b'')} bytes, more than the guest looks at")
    return data


def digest(identity: bytes) -> str:
    """What names an identity: the same one need not be sent again."""
    return hashlib.sha256(identity).hexdigest()


def receive_command(identity: bytes) -> str:
    """What is run in the guest with `identity` on its stdin."""
    return f"{COMMAND} {digest(identity)}"


def _add(archive: tarfile.TarFile, members: Mapping[str, bytes], *, mode: int = 0o644) -> None:
    for name, content in members.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), mode
        archive.addfile(entry, io.BytesIO(content))

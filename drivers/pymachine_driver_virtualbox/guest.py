"""The identity as the guest receives it: at the start of its disk, or over SSH, with its address and shares added."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping

from pymachine.driver.kit.identity_files import with_files
from pymachine.driver.kit.machine_files import FORMAT_MARKER
from pymachine_driver_virtualbox.shares import Share

# A member of the tar at the start of the disk. The image's `usr/lib/pymachine/userdata` looks for it.
IDENTITY = "pymachine-identity.tar"
# Members of the identity. The image's `usr/lib/pymachine/surroundings` reads them.
ADDRESSES = "addresses"
SHARES = "shares"
# Bytes that the guest reads from the start of a disk.
LARGEST = 1 << 20
COMMAND = "sudo /usr/lib/pymachine/userdata receive"


def with_surroundings(identity: bytes, *, mac: str, address: str, shares: Iterable[Share]) -> bytes:
    """Return `identity` with the host-only interface's address and the folders to mount added."""
    files = {
        ADDRESSES: f"{mac} {address}\n".encode(),
        SHARES: "".join(f"{share.name} {share.mount_point}\n" for share in shares).encode(),
    }
    return with_files(identity, files)


def userdata(public_key: bytes, identity: bytes | None) -> bytes:
    """Return the tar that the disk begins with: docker-machine's entries, and the identity for pymachine's images.

    Raises `ValueError` if the tar is larger than `LARGEST`.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # docker-machine's entries. The name of the first one makes the disk begin with it.
        _add(archive, {FORMAT_MARKER: FORMAT_MARKER.encode()}, mode=0o000)
        folder = tarfile.TarInfo(".ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        _add(archive, {".ssh/authorized_keys": public_key, ".ssh/authorized_keys2": public_key}, mode=0o644)
        if identity is not None:
            _add(archive, {IDENTITY: identity}, mode=0o600)
    data = buffer.getvalue()
    if len(data) > LARGEST:
        raise ValueError(f"the identity has {len(identity or b'')} bytes, more than the guest reads")
    return data


def digest(identity: bytes) -> str:
    """Return the digest of an identity, by which pymachine knows that the guest has it already."""
    return hashlib.sha256(identity).hexdigest()


def receive_command(identity: bytes) -> str:
    """Return the command to run in the guest with `identity` on its stdin."""
    return f"{COMMAND} {digest(identity)}"


def _add(archive: tarfile.TarFile, members: Mapping[str, bytes], *, mode: int = 0o644) -> None:
    for name, content in members.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), mode
        archive.addfile(entry, io.BytesIO(content))

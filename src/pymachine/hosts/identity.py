"""Build a machine's identity: host name, keys, certificates and engine settings, as one tar.

A template has no identity: the machines that are resumed from it each get their own.
"""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pymachine.docker.daemon_json import EngineFiles
from pymachine.driver.names import host_name
from pymachine.store import paths
from pymachine.system import files

MACHINE_ID = "machine-id"
CA_CERTIFICATES = "ca-certificates.pem"
ENGINE_FINGERPRINT = "engine.restart"


def make_keys(directory: Path, *, name: str) -> None:
    """Make those of a machine's key pairs, its pinned host key and its machine-id that are missing in `directory`.

    `name` is the machine's. Its host name is the alias under which the host key is pinned in ``known_hosts``.
    """
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)

    make_login_key(directory, name=name)
    if not (directory / paths.SSH_HOST_KEY).exists():
        keys.make(directory / paths.SSH_HOST_KEY, comment=host_name(name))
    public = keys.public_half(directory / paths.SSH_HOST_KEY).read_text()
    files.atomic_write(directory / paths.KNOWN_HOSTS, f"{host_name(name)} {public}")
    if not (directory / MACHINE_ID).exists():
        files.atomic_write(directory / MACHINE_ID, secrets.token_hex(16) + "\n")


def make_login_key(directory: Path, *, name: str) -> None:
    """Make the key pair that opens the machine in `directory`, if it is missing."""
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)

    if not (directory / paths.SSH_KEY).exists():
        keys.make(directory / paths.SSH_KEY, comment=host_name(name))


def of_machine(
    directory: Path,
    *,
    hostname: str,
    engine: EngineFiles,
    proxies: str = "",
    ca_certificates: Sequence[str] = (),
    registry_cache: str = "",
    ipv6: bool = False,
) -> bytes:
    """Return the identity of the machine in `directory`, which contains its keys and certificates.

    An uncompressed tar without clocks or owners: the same identity is the same bytes. Raises OSError if a file is
    missing. `proxies` are the engine's variables for its proxies, and `ca_certificates` those of
    further CAs that the guest trusts, in PEM. `registry_cache` is the address of this host's registry cache and its CA:
    see `pymachine.hosts.registry_mirrors`. `ipv6` says whether its network has IPv6.
    """
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)

    members: dict[str, tuple[int, bytes]] = {
        "hostname": (0o644, hostname.encode() + b"\n"),
        "machine-id": (0o444, (directory / MACHINE_ID).read_bytes()),
        "authorized_keys": (0o600, keys.public_half(directory / paths.SSH_KEY).read_bytes()),
        "ssh_host_ed25519_key": (0o600, (directory / paths.SSH_HOST_KEY).read_bytes()),
        "ssh_host_ed25519_key.pub": (0o644, keys.public_half(directory / paths.SSH_HOST_KEY).read_bytes()),
        "tls/ca.pem": (0o644, (directory / paths.CA_CERT).read_bytes()),
        "tls/server.pem": (0o644, (directory / paths.SERVER_CERT).read_bytes()),
        "tls/server-key.pem": (0o600, (directory / paths.SERVER_KEY).read_bytes()),
        **_engine_members(engine, proxies, registry_cache),
    }
    if ca_certificates:
        members[CA_CERTIFICATES] = (0o644, "".join(ca_certificates).encode())
    if ipv6:
        members["ipv6"] = (0o644, b"on\n")
    return _tar(members)


def seed(engine: EngineFiles, proxies: str = "", registry_cache: str = "") -> bytes:
    """Return the tar that a template gets instead of an identity: the engine's settings, and nothing secret."""
    return _tar(_engine_members(engine, proxies, registry_cache))


def shared(identity: bytes) -> bytes:
    """Return an identity without what only one machine has, as the seed of a template that is made from the machine."""
    with tarfile.open(fileobj=io.BytesIO(identity)) as archive:
        members = {
            entry.name: (entry.mode, file.read())
            for entry in archive
            if not _is_of_one_machine(entry.name) and (file := archive.extractfile(entry))
        }
    return _tar(members)


def member(identity: bytes, name: str) -> bytes:
    """Return the content of one file of an identity or a seed, which is empty if it is missing."""
    with tarfile.open(fileobj=io.BytesIO(identity)) as archive:
        found = archive.extractfile(name) if name in archive.getnames() else None
        return found.read() if found else b""


def _is_of_one_machine(name: str) -> bool:
    return name in {"hostname", "machine-id", "authorized_keys"} or name.startswith(("ssh_host_", "tls/"))


def _engine_members(engine: EngineFiles, proxies: str, registry_cache: str) -> dict[str, tuple[int, bytes]]:
    members = {
        "daemon.json": (0o644, engine.daemon_json.encode()),
        "engine.env": (0o600, engine.environment.encode()),
        "engine.args": (0o644, engine.flags.encode()),
        # Another fingerprint: the engine has to be restarted for it.
        ENGINE_FINGERPRINT: (0o644, engine.fingerprint.encode() + b"\n"),
    }
    if proxies:
        members["engine.proxies"] = (0o600, proxies.encode())
    if registry_cache:
        members["registry-cache"] = (0o644, registry_cache.encode())
    return members


def _tar(members: dict[str, tuple[int, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (mode, content) in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()

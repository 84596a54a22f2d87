"""SSH key pairs: Ed25519, in OpenSSH's own format."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pymachine.system import files


def public_half(private: Path) -> Path:
    """Return the path of the public key that belongs to the private key at `private`."""
    return private.with_name(private.name + ".pub")


def make(private: Path, *, comment: str) -> None:
    """Create a key pair at `private` (mode 0600) and `private`.pub. The public key is written first."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    files.atomic_write(public_half(private), public + f" {comment}\n".encode(), mode=0o644)
    files.atomic_write(private, secret, mode=0o600)


def public_text(private: Path) -> str:
    """Return the public key of the private key at `private`, as one line. Raises ValueError if it is not a key."""
    data = private.read_bytes()
    is_openssh = data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"it is not a private key without a passphrase: {error}") from error
    return public.decode()

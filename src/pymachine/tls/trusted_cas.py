"""Certificates of further CAs that guests and downloads trust, such as a company's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pymachine.errors import PymachineError
from pymachine.system import files, os_errors

MOST = 100
# A guest of virtualbox reads 1 MiB when it starts first: the certificates of the machine, of config.toml, and more.
MOST_BYTES = 384 << 10
LONGEST_FILE = 1 << 20
_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")


class CaCertificateError(PymachineError):
    """A file with CA certificates cannot be read, or has none."""

    code = "ca-certificate"


def read_all(paths: Sequence[Path]) -> list[str]:
    """Return the certificates in the files, in PEM, each once. Raises `CaCertificateError`."""
    found = list(dict.fromkeys(pem for path in paths for pem in read(path)))
    if len(found) > MOST:
        raise CaCertificateError(f"there are {len(found)} CA certificates, and at most {MOST} are possible")
    size = sum(map(len, found))
    if size > MOST_BYTES:
        raise CaCertificateError(
            f"the CA certificates have {size >> 10} KiB in PEM, and at most {MOST_BYTES >> 10} KiB are possible"
        )
    return found


def read(path: Path) -> list[str]:
    """Return the certificates in a file, which is PEM or DER, each in PEM. Raises `CaCertificateError`.

    Everything else in the file is left out, so a private key in it stays on this host.
    """
    from cryptography import x509  # noqa: PLC0415 (heavy)
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    try:
        data = files.read_regular(path.expanduser(), longest=LONGEST_FILE)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError):  # no home folder
            raise CaCertificateError(f"cannot read {path}: {error}") from error
        raise os_errors.wrapped(CaCertificateError, f"cannot read {path}", error, elsewhere="--ca-cert") from error
    try:
        if _PEM.search(data):
            certificates = x509.load_pem_x509_certificates(data)
        else:
            certificates = [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        raise CaCertificateError(
            f"{path} has no certificate that can be read",
            hint="Expected are certificates in PEM (-----BEGIN CERTIFICATE-----), or one in DER.",
        ) from error
    return [each.public_bytes(Encoding.PEM).decode() for each in certificates]

"""TLS clients that an engine must accept or refuse."""

from __future__ import annotations

import datetime as dt
import ssl
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def ping(url: str, *, ca: Path, pair: tuple[Path, Path] | None, newest: ssl.TLSVersion | None = None) -> str:
    """Return the answer to ``GET /_ping`` for a client with the certificate and key `pair`.

    `newest` is the TLS version to use. Raises the error of the refusal.
    """
    context = ssl.create_default_context(cafile=str(ca))
    if pair:
        context.load_cert_chain(*pair)
    if newest:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            # The old TLS versions, of which Python warns, are used on purpose.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = newest
    address = url.replace("tcp://", "https://") + "/_ping"
    # Ignore a proxy that is configured on this host.
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=60) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.URLError as error:
        # Raise the refusal itself, not urllib's wrapper.
        raise error.reason if isinstance(error.reason, OSError) else error from error


def signed_by(ca: Path, ca_key: Path, folder: Path, *, expired: bool = False) -> tuple[Path, Path]:
    """Make a client certificate and key, signed by that CA; an `expired` one ended yesterday."""
    authority = x509.load_pem_x509_certificate(ca.read_bytes())
    signer = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=3))
        .not_valid_after(now - dt.timedelta(days=1) if expired else now + dt.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file

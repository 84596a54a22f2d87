"""TLS connections to a machine's engine, and the check of its certificates.

It needs nothing but the standard library's ssl, since `env` runs it in shell start-up files.
"""

from __future__ import annotations

import socket
import ssl

from pymachine.errors import PymachineError
from pymachine.system.wait import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path  # importing it takes `env` 8 ms
    from typing import TypeVar

    Connection = TypeVar("Connection")


ANSWER_SECONDS = 20.0
"""How long to wait for an engine by default."""
_LAST_PORT = 65535


class TlsError(PymachineError):
    """The TLS handshake with a machine's engine failed.

    The brief is docker-machine's text except for its last line: there, new certificates restart the engine.
    """

    code = "tls"
    has_lines = True

    def __init__(self, address: str, why: str, *, hint: str = "", refused: bool = False) -> None:
        from pymachine.system import printable  # noqa: PLC0415 (only errors need it)

        self.why = why
        self.refused = refused
        super().__init__(
            f"Error checking and/or regenerating the certs: There was an error validating certificates for host "
            f'"{printable.line(address)}": {printable.line(why)}\n'
            "You can attempt to regenerate them using 'pymachine regenerate-certs [name]'.\n"
            "Be advised that this does not restart the Docker daemon: running containers go on.\n",
            hint=hint,
        )


class CertificateRefusedError(TlsError):
    """One side does not accept the other's certificate. Waiting does not help."""

    code = "tls-certificate"


# OpenSSL's error numbers (X509_V_ERR_...), which are part of its interface.
_NOT_YET_VALID = 9
_EXPIRED = 10
_OTHER_NAME = frozenset({62, 64})
# Alerts about a client's certificate (RFC 8446): OpenSSL's name, and Go's text.
_ALERTS_OF_CERTIFICATES = {
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "revoked certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "unknown certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "handshake failure",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "certificate required",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "TLSV1_ALERT_DECRYPT_ERROR": "error decrypting message",
    "TLSV1_ALERT_UNKNOWN_CA": "unknown certificate authority",
}
_RENEW = "make new certificates: pymachine regenerate-certs"


def context(*, ca: Path | str, cert: Path | str, key: Path | str) -> ssl.SSLContext:
    """Return a client's context: TLS 1.2 or newer, checking the server's name and CA, with a client certificate.

    Raises OSError with the name of a file that cannot be read, and `ssl.SSLError` for one that is no certificate.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    loading = ca
    try:
        made.load_verify_locations(cafile=str(ca))
        loading = cert
        made.load_cert_chain(certfile=str(cert), keyfile=str(key))
    except OSError as error:
        if not isinstance(error, ssl.SSLError):
            error.filename = str(loading)
        raise
    return made


def check(
    host: str, port: int, *, ca: Path | str, cert: Path | str, key: Path | str, timeout: float = ANSWER_SECONDS
) -> None:
    """Check the certificates by a handshake with the engine, within `timeout` seconds. Raises `TlsError`.

    It offers TLS 1.2, as docker-machine does: there a server refuses a client's certificate before the handshake is
    complete. With TLS 1.3, which is used if the server requires it, the refusal comes later and goes unnoticed.
    """
    deadline = Deadline(timeout)
    try:
        connect(host, port, ca=ca, cert=cert, key=key, timeout=timeout, newest=ssl.TLSVersion.TLSv1_2).close()
    except TlsError as error:
        if "TLSV1_ALERT_PROTOCOL_VERSION" not in str(error.__cause__):
            raise
        connect(host, port, ca=ca, cert=cert, key=key, timeout=deadline.socket_timeout()).close()


def connect(
    host: str,
    port: int,
    *,
    ca: Path | str,
    cert: Path | str,
    key: Path | str,
    timeout: float = ANSWER_SECONDS,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> ssl.SSLSocket:
    """Connect and complete the handshake. Raises `TlsError`.

    `timeout` is in seconds, for each address of the name and again for the whole handshake. `newest` is the newest
    version of TLS to offer.
    """

    def shake_hands() -> ssl.SSLSocket:
        client = context(ca=ca, cert=cert, key=key)
        client.maximum_version = newest
        # Bytes bypass Python's IDNA codec, whose import takes longer than the handshake.
        name = host.encode() if host.isascii() else host
        plain = socket.create_connection((name, port), timeout=timeout)  # type: ignore[arg-type]
        try:
            # One timeout for the whole handshake, however many pieces it has. Addresses that did not answer do not
            # count.
            plain.settimeout(Deadline(timeout).socket_timeout())
            return client.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    return dial(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", shake_hands)


# glibc reports a name without addresses as EAI_NODATA, which not every system has.
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def dial(address: str, connect: Callable[[], Connection]) -> Connection:
    """Call `connect`, and turn its errors into a `TlsError` about `address`.

    A name that Python's IDNA codec refuses is treated as one that does not exist.
    """
    try:
        return connect()
    except (OSError, UnicodeError) as error:
        if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST):
            host = address.rpartition(":")[0].strip("[]")
            raise TlsError(address, f"dial tcp: lookup {host}: no such host") from error
        raise explained(address, error) from error


def check_address(host: str, port: int, url: str) -> None:
    """Raise `TlsError` for a URL without host, such as ``unix:///run/docker.sock``, or with an invalid port."""
    if not host:
        hint = f"The machine's URL is {url}, and only an engine on TCP has certificates to check."
        raise TlsError(host, "http: no Host in request URL", hint=hint)
    if port > _LAST_PORT:  # some systems would take it modulo 65536
        raise TlsError(f"{host}:{port}", f"dial tcp: address {port}: invalid port")


def explained(address: str, error: OSError) -> TlsError:
    """Return the error for a failed connection to `address`, with Go's text where docker-machine has it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefusedError(address, f"x509: {error.verify_message}", hint=_certificate_hint(error))
    if isinstance(error, ssl.SSLError):
        why = error.reason or str(error)
        if why in _ALERTS_OF_CERTIFICATES:
            hint = (
                "The engine does not accept the client's certificate: is it of the machine's CA, and is this host's "
                f"clock right? If so, {_RENEW}."
            )
            return CertificateRefusedError(address, f"remote error: tls: {_ALERTS_OF_CERTIFICATES[why]}", hint=hint)
        return TlsError(address, why)
    if isinstance(error, TimeoutError):
        return TlsError(address, f"dial tcp {address}: i/o timeout", hint="The machine runs, but does not answer.")
    if isinstance(error, ConnectionRefusedError):
        hint = "Nothing listens there: is the machine running?"
        return TlsError(address, f"dial tcp {address}: connect: connection refused", hint=hint, refused=True)
    where = f"open {error.filename}: " if error.filename else f"dial tcp {address}: "
    return TlsError(address, where + (error.strerror or str(error)))


def _certificate_hint(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _NOT_YET_VALID:
        return f"Is this host's clock right? A certificate there is not valid yet. If the clock is right, {_RENEW}."
    if error.verify_code == _EXPIRED:
        return f"Is this host's clock right? A certificate there has expired. If the clock is right, {_RENEW}."
    if error.verify_code in _OTHER_NAME:
        return f"The certificate there is for another address: {_RENEW}."
    return f"The certificate there is not of the CA that this machine was made with; {_RENEW}."

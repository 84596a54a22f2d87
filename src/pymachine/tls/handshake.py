"""The handshake check, with the standard library's ssl alone: `env` runs it in shell start-up files."""

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


_LAST_PORT = 65535


class TlsError(PymachineError):
    """No mutually authenticated handshake could be made with a machine's engine.

    The brief is docker-machine's text but for its last line: there, regenerating certificates restarts the engine.
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
    """One side does not accept the other's certificate: waiting does not help."""

    code = "tls-certificate"


# OpenSSL's numbers (X509_V_ERR_...), which are part of its interface.
_NOT_YET_VALID = 9
_EXPIRED = 10
_OTHER_NAME = frozenset({62, 64})
# What a server says of a client's certificate (the alerts of RFC 8446): OpenSSL's name for it, and Go's.
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
    """A client's context: TLS 1.2 or newer, the server checked against `ca` and its name, and `cert` shown to it.

    Raises OSError, with the file's name, for one that cannot be read, and `ssl.SSLError` for what is no certificate.
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


def check(host: str, port: int, *, ca: Path | str, cert: Path | str, key: Path | str, timeout: float = 20.0) -> None:
    """Shake hands with the engine at `host`:`port` within `timeout` seconds in all, or raise `TlsError`.

    With TLS 1.2, as docker-machine does: a server refuses a client's certificate before the handshake is complete for
    the client. With TLS 1.3, which is taken where a server wants it, that would come later, and not be seen here.
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
    timeout: float = 20.0,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> ssl.SSLSocket:
    """A connection on which hands have been shaken. Raises `TlsError`.

    It takes at most `timeout` seconds for each address that the name has, and as many for the whole handshake. `newest`
    is the newest version of TLS that is offered.
    """

    def shake_hands() -> ssl.SSLSocket:
        client = context(ca=ca, cert=cert, key=key)
        client.maximum_version = newest
        # As bytes, a name goes by Python's IDNA codec, whose import takes longer than the handshake.
        name = host.encode() if host.isascii() else host
        plain = socket.create_connection((name, port), timeout=timeout)  # type: ignore[arg-type]
        try:
            # The timeout is for the whole handshake, however many pieces it comes in. An address of the name that did
            # not answer has taken nothing of it.
            plain.settimeout(Deadline(timeout).socket_timeout())
            return client.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    return dial(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", shake_hands)


# glibc reports a name without addresses as EAI_NODATA, which not every system has.
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def dial(address: str, connect: Callable[[], Connection]) -> Connection:
    """Return what `connect` does, with what goes wrong on the way to `address` as a `TlsError`.

    A name that cannot even be asked for, since Python's IDNA codec refuses it, is one that does not exist.
    """
    try:
        return connect()
    except (OSError, UnicodeError) as error:
        if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST):
            host = address.rpartition(":")[0].strip("[]")
            raise TlsError(address, f"dial tcp: lookup {host}: no such host") from error
        raise explained(address, error) from error


def check_address(host: str, port: int, url: str) -> None:
    """Raise `TlsError` for a URL that names nothing to shake hands with, such as ``unix:///run/docker.sock``."""
    if not host:
        hint = f"The machine's URL is {url}, and only an engine on TCP has certificates to check."
        raise TlsError(host, "http: no Host in request URL", hint=hint)
    if port > _LAST_PORT:  # some systems would take the rest of a division
        raise TlsError(f"{host}:{port}", f"dial tcp: address {port}: invalid port")


def explained(address: str, error: OSError) -> TlsError:
    """What went wrong with the connection to `address`, in Go's words where docker-machine has them."""
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

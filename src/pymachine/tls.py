"""The handshake check, with the standard library's ssl alone: `env` runs it in shell start-up files."""

from __future__ import annotations

import socket
import ssl

from pymachine.errors import PymachineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path  # importing it takes `env` 8 ms


class TlsError(PymachineError):
    """No mutually authenticated handshake could be made with a machine's engine.

    The brief is docker-machine's text but for its last line: there, regenerating certificates restarts the engine.
    """

    code = "tls"

    def __init__(self, address: str, why: str, *, hint: str = "") -> None:
        super().__init__(
            f"Error checking and/or regenerating the certs: There was an error validating certificates for host "
            f'"{address}": {why}\n'
            "You can attempt to regenerate them using 'docker-machine regenerate-certs [name]'.\n"
            "Be advised that this does not restart the Docker daemon: running containers go on.\n",
            hint=hint,
        )


def context(*, ca: Path | str, cert: Path | str, key: Path | str) -> ssl.SSLContext:
    """A client's context: TLS 1.2 or newer, the server checked against `ca` and its name, and `cert` shown to it.

    Raises OSError for a file that cannot be read and `ssl.SSLError` for one that is no certificate or key.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_verify_locations(cafile=str(ca))
    made.load_cert_chain(certfile=str(cert), keyfile=str(key))
    return made


def check(host: str, port: int, *, ca: Path | str, cert: Path | str, key: Path | str, timeout: float = 20.0) -> None:
    """Shake hands with the engine at `host`:`port` within `timeout` seconds, or raise `TlsError`.

    With TLS 1.3 a server refuses a client's certificate only after the handshake is complete for the client, so
    that a refusal is not seen here; what is checked is that the server is the machine.
    """
    address = f"{host}:{port}"
    try:
        client = context(ca=ca, cert=cert, key=key)
        # As bytes, a name goes by Python's IDNA codec, whose import takes longer than the handshake.
        name = host.encode() if host.isascii() else host
        with socket.create_connection((name, port), timeout=timeout) as plain:  # type: ignore[arg-type]
            client.wrap_socket(plain, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        raise TlsError(address, f"x509: {error.verify_message}", hint=_certificate_hint(error)) from error
    except ssl.SSLError as error:
        raise TlsError(address, error.reason or str(error)) from error
    except TimeoutError as error:
        raise TlsError(
            address, f"dial tcp {address}: i/o timeout", hint="The machine runs, but does not answer."
        ) from error
    except ConnectionRefusedError as error:
        raise TlsError(
            address, f"dial tcp {address}: connection refused", hint="Nothing listens there: is the machine running?"
        ) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else f"dial tcp {address}: "
        raise TlsError(address, where + (error.strerror or str(error))) from error


def _certificate_hint(error: ssl.SSLCertVerificationError) -> str:
    if "expired" in error.verify_message:
        return "The server certificate has expired; a restart of the machine renews it."
    return ""

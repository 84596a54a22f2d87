"""The HTTP client for the engine's API."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Mapping

from pymachine.driver.contract import Endpoint, Json
from pymachine.errors import PymachineError
from pymachine.store.client_files import ClientFiles
from pymachine.system.limits import CHUNK_BYTES
from pymachine.system.wait import Deadline
from pymachine.tls import handshake

# The answers to these requests have a few kilobytes.
_LARGEST_ANSWER = 1024 * 1024
_LONGEST_VERSION = 100


class EngineError(PymachineError):
    """The engine does not answer, or the answer is not from a Docker engine."""

    code = "engine"


def get(
    endpoint: Endpoint, *, certificates: ClientFiles, path: str = "/version", timeout: float = handshake.ANSWER_SECONDS
) -> Mapping[str, Json]:
    """GET `path` of the engine's API with `certificates` and return the JSON object of the answer.

    Paths have no version, since current engines refuse the old ones that docker-machine requested. `timeout` is in
    seconds, for the connection and again for the answer. Raises `TlsError` if there is no complete answer in that
    time, and `EngineError` for an unexpected one.
    """
    answer = _json(endpoint, certificates, path, timeout)
    if not isinstance(answer, dict):
        raise _unexpected(endpoint, path, 200, json.dumps(answer).encode())
    return answer


def get_list(endpoint: Endpoint, *, certificates: ClientFiles, path: str, timeout: float) -> list[Json]:
    """GET a `path` whose answer is a list, as `get` does."""
    answer = _json(endpoint, certificates, path, timeout)
    if not isinstance(answer, list):
        raise _unexpected(endpoint, path, 200, json.dumps(answer).encode())
    return answer


def _json(endpoint: Endpoint, certificates: ClientFiles, path: str, timeout: float) -> Json:
    status, body = _request(endpoint, certificates, path, timeout)
    try:
        answer: Json = json.loads(body)
    except (ValueError, RecursionError):  # RecursionError: nested without end
        answer = None
    if status != 200 or answer is None:
        raise _unexpected(endpoint, path, status, body)
    return answer


def _request(endpoint: Endpoint, certificates: ClientFiles, path: str, timeout: float) -> tuple[int, bytes]:
    """Send a GET request and return status and body. For `timeout` see `get`."""
    address = endpoint.engine
    connection = _connect(endpoint, certificates, timeout)
    deadline = Deadline(timeout)
    try:
        # With HTTP/1.0 the answer ends with the connection and has no chunks. Importing http.client takes 8 ms.
        request = f"GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n"
        connection.settimeout(deadline.socket_timeout())
        try:
            connection.sendall(request.encode())
        except OSError:
            # With TLS 1.3 a server that refuses our certificate has sent the reason and closed the connection.
            connection.recv(1)
            raise
        answer = _receive(connection, address, deadline)
    except OSError as error:
        raise handshake.explained(address, error) from error
    finally:
        connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", head)
    if status is None:
        raise EngineError(f"{address} does not speak HTTP", details=answer[:500].decode(errors="replace"))
    return int(status[1]), body


def _receive(connection: socket.socket, address: str, deadline: Deadline) -> bytes:
    """Read until the engine closes the connection. Raises TimeoutError and, if there is too much, `EngineError`."""
    answer = bytearray()
    while not deadline.expired:
        connection.settimeout(deadline.socket_timeout())
        data = connection.recv(CHUNK_BYTES)
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > _LARGEST_ANSWER:
            raise EngineError(
                f"{address} answers with more than {_LARGEST_ANSWER} bytes, as no engine does",
                details=answer[:500].decode(errors="replace"),
                hint="See what listens there: a program that is no engine may have taken the machine's address.",
            )
    raise TimeoutError


def _connect(endpoint: Endpoint, certificates: ClientFiles, timeout: float) -> socket.socket:
    """Connect to the engine over TLS, or without it if its URL begins with ``unix://`` or ``http://``."""
    scheme, _, rest = endpoint.url.partition("://")
    if scheme == "unix":
        return handshake.dial(rest, lambda: _unix(rest, timeout))
    handshake.check_address(endpoint.address, endpoint.docker_port, endpoint.url)
    if scheme == "http":
        address = (endpoint.address, endpoint.docker_port)
        return handshake.dial(endpoint.engine, lambda: socket.create_connection(address, timeout))
    ca, cert, key = certificates
    return handshake.connect(endpoint.address, endpoint.docker_port, ca=ca, cert=cert, key=key, timeout=timeout)


def _unix(path: str, timeout: float) -> socket.socket:
    if sys.platform == "win32":
        raise EngineError(f"Windows has no Unix sockets: {path}")
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _unexpected(endpoint: Endpoint, path: str, status: int, body: bytes) -> EngineError:
    return EngineError(
        f"{endpoint.engine} answered GET {path} with status {status}",
        details=body[:500].decode(errors="replace"),
    )


def ping(endpoint: Endpoint, *, certificates: ClientFiles, timeout: float = handshake.ANSWER_SECONDS) -> None:
    """Check that the engine answers. Raises as `get` does."""
    status, body = _request(endpoint, certificates, "/_ping", timeout)
    if status != 200:
        raise _unexpected(endpoint, "/_ping", status, body)


def version(endpoint: Endpoint, *, certificates: ClientFiles, timeout: float = handshake.ANSWER_SECONDS) -> str:
    """Return the engine's version, such as ``26.1.5``. Raises `EngineError` with docker-machine's text."""
    try:
        answer = get(endpoint, certificates=certificates, timeout=timeout)
    except handshake.TlsError as error:
        why = "Cannot connect to the docker engine endpoint" if error.refused else error.why
        raise EngineError(f"Unable to query docker version: {why}", hint=error.hint) from error
    except EngineError as error:
        raise error.prefixed("Unable to query docker version: ") from error
    said = str(answer.get("Version") or "")
    if len(said) > _LONGEST_VERSION:
        raise EngineError(f"Unable to query docker version: {endpoint.engine} names one of {len(said)} characters")
    return said

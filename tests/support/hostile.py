"""Servers on the loopback that misbehave: endless, slow, deeply nested, inflating or redirecting answers.

A behaviour is a function that is called with each connection, in its own thread. `serving` serves one over plain
TCP, as a mirror would; `engine` serves one as the engine of a machine in a store, over mutual TLS.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pymachine.store.store import Store
from pymachine.system.progress import Silent
from pymachine.tls.certs import AuthPaths, ensure_authority, ensure_server
from support.fake_engine import record

Behaviour = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"
BLOCK = b"x" * 65536
# A server thread ends when the client closes the connection, and at the latest after this time.
LONGEST_SECONDS = 120.0


def endless(begin: bytes = OK + b"\r\n", block: bytes = BLOCK) -> Behaviour:
    """Send `begin`, then `block` again and again."""

    def behave(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(begin)
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end:
            connection.sendall(block)

    return behave


def drip(data: bytes = OK + b"\r\n" + BLOCK, *, pause: float = 0.05) -> Behaviour:
    """Send `data` a byte at a time."""

    def behave(connection: socket.socket) -> None:
        request(connection)
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            time.sleep(pause)

    return behave


def drip_at_once(data: bytes, *, pause: float = 0.05) -> Behaviour:
    """Send `data` a byte at a time without waiting for a request, for example in place of a handshake."""

    def behave(connection: socket.socket) -> None:
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            time.sleep(pause)

    return behave


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Behaviour:
    """Send one complete answer."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"

    def behave(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(head.encode() + body)

    return behave


def nested(depth: int = 200_000) -> Behaviour:
    """Answer with JSON that is nested `depth` deep."""
    return answer(b'{"Version":' + b"[" * depth + b"]" * depth + b"}", "Content-Type: application/json")


def inflating(size: int = 200 * 1024 * 1024) -> Behaviour:
    """Answer with `size` zero bytes, compressed although the client did not request it."""
    return answer(gzip.compress(bytes(size)), "Content-Encoding: gzip")


def redirect(target: str) -> Behaviour:
    """Redirect to `target`."""
    return answer(b"", f"Location: {target}", status="302 Found")


MANY_HEADERS = endless(OK, b"X-Header: again\r\n" * 1000)
LONG_HEADER = endless(OK + b"X-Header: ")
LONG_STATUS = endless(b"HTTP/1.1 200 ")
INTERIM_ANSWERS = endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
LONG_CHUNK_SIZE = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536)
ENDLESS_CHUNKS = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK + b"\r\n")
ENDLESS_TRAILERS = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: again\r\n" * 1000)
ENDLESS_REDIRECT = endless(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n")
FLOODS = {
    "body": endless(),
    "many headers": MANY_HEADERS,
    "long header": LONG_HEADER,
    "long status": LONG_STATUS,
    "interim answers": INTERIM_ANSWERS,
    "chunk size": LONG_CHUNK_SIZE,
    "chunks": ENDLESS_CHUNKS,
    "trailers": ENDLESS_TRAILERS,
    "redirect": ENDLESS_REDIRECT,
    "no HTTP": endless(b"", BLOCK),
}
"""Answers without end, by name."""
DRIPS = {
    "status": drip(b"HTTP/1.1 200 " + BLOCK),
    "headers": drip(OK + b"X-Header: " + BLOCK),
    "interim answers": drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "body": drip(),
    "sized body": drip(OK + b"Content-Length: 65536\r\n\r\n" + BLOCK),
    "chunks": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000),
    "trailers": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-T: x\r\n" * 10_000),
}
"""Answers that come a byte at a time, by name."""


def request(connection: socket.socket) -> bytes:
    """Read a request's head."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError
        head += data
    return head


@contextlib.contextmanager
def serving(behaviour: Behaviour, *, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve `behaviour` on a port of 127.0.0.1, over TLS if there is a `context`; yield the port."""
    ended = threading.Event()
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    server.settimeout(0.1)

    def serve(connection: socket.socket) -> None:
        # The client may hang up, also in the middle of the handshake.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(LONGEST_SECONDS)
            if context is None:
                behaviour(connection)
                return
            with context.wrap_socket(connection, server_side=True) as secure:
                behaviour(secure)

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        ended.set()
        thread.join()
        server.close()


@contextlib.contextmanager
def engine(root: Path, behaviour: Behaviour, name: str = "hostile") -> Iterator[int]:
    """Add a machine called `name`, whose engine has `behaviour`, to the store at `root`; yield the engine's port."""
    store = Store(root)
    certs = root / "certs"
    auth = AuthPaths(certs / "ca.pem", certs / "ca-key.pem", certs / "cert.pem", certs / "key.pem")
    ensure_authority(auth, reporter=Silent())
    folder = store.machine_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    ensure_server(auth, directory=folder, name=name, hosts=["127.0.0.1", "localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(behaviour, context=context) as port:
        record(store, name, port)
        yield port

"""Read the random bytes that a TLS server sends in its hello."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

# RFC 8446, 4.1.3: after the record's header (5), the handshake's (4) and the version (2) come 32 random bytes.
_RANDOM = slice(11, 43)


def server_random(address: tuple[str, int], folder: Path) -> bytes:
    """Return the random bytes of the server's hello to a client with the certificates in `folder`."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=address[0])
    with contextlib.suppress(ssl.SSLWantReadError):  # it waits for the server's answer to its hello
        client.do_handshake()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(outgoing.read())
        hello = b""
        while len(hello) < _RANDOM.stop:
            more = connection.recv(4096)
            assert more, "the server ended the connection"
            hello += more
    assert hello[0] == 22, "a handshake record"
    assert hello[5] == 2, "a server's hello"
    return hello[_RANDOM]

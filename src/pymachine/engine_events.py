"""The ports that containers publish, as the machine's engine reports them; for drivers without the guest's reports.

The engine's events are followed over mutual TLS, as any Docker client could.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pymachine.published import Published

TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
# A start that a client waits for may take long in an emulated guest.
TIMEOUT_SECONDS = 60.0
_EVENTS = ("start", "die", "destroy", "pause", "unpause", "update", "rename", "connect", "disconnect")
_WATCHED = quote(json.dumps({"type": ["container", "network"], "event": list(_EVENTS)}))
# Addresses in the guest that mean all of its addresses.
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104


@dataclass(frozen=True)
class Target:
    """The machine that is watched."""

    address: str
    docker_port: int


class EngineGoneError(Exception):
    """The connection to the engine ended, or could not be made."""


def published(containers: Iterable[Any]) -> set[Published]:
    """The ports in an answer to ``GET /containers/json``; those bound to one address of the guest are its own."""
    found = set()
    for container in containers:
        for port in container.get("Ports") or ():
            protocol, number = port.get("Type"), port.get("PublicPort")
            if number and protocol in ("tcp", "udp") and port.get("IP", "") in _EVERYWHERE:
                found.add(Published(protocol, int(number)))
    return found


class Engine:
    """The machine's engine: its events as they come, its containers when asked."""

    def __init__(self, folder: Path, target: Target) -> None:
        """Connect twice, with the certificates that are in `folder` now. Raises `EngineGoneError`."""
        self._target = target
        try:
            self._context = _tls_context(folder)
            self._events = self._subscribe()
            self._queries = self._connection()
        except (OSError, http.client.HTTPException) as error:
            raise EngineGoneError(str(error)) from error

    def close(self) -> None:
        """End both connections."""
        self._events.close()
        self._queries.close()

    def fileno(self) -> int:
        """The socket that becomes readable when something may have happened."""
        return self._events.fileno()

    def something_happened(self) -> bool:
        """Take what has come from the event stream; whether it was anything. Raises `EngineGoneError` at its end."""
        happened = False
        while True:
            try:
                data = self._events.recv(65536)
            except ssl.SSLWantReadError:
                return happened
            except OSError as error:
                raise EngineGoneError(str(error)) from error
            if not data:
                raise EngineGoneError("the event stream ended")
            happened = True

    def ports(self) -> set[Published]:
        """What is published now. Raises `EngineGoneError`."""
        try:
            self._queries.request("GET", "/containers/json")
            answer = self._queries.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                raise EngineGoneError(f"the engine answers {answer.status}")
            return published(json.loads(body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineGoneError(str(error)) from error

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self._target.address, self._target.docker_port, timeout=TIMEOUT_SECONDS, context=self._context
        )

    def _subscribe(self) -> ssl.SSLSocket:
        """A socket on which bytes arrive whenever a container's state changes.

        In HTTP/1.0 the answer has no chunks, and what it says matters less than that it says something.
        """
        plain = socket.create_connection((self._target.address, self._target.docker_port), timeout=TIMEOUT_SECONDS)
        try:
            secure = self._context.wrap_socket(plain, server_hostname=self._target.address)
            secure.sendall(f"GET /events?filters={_WATCHED} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            status = secure.recv(65536)
        except BaseException:
            plain.close()
            raise
        if b" 200 " not in status.split(b"\r\n", 1)[0]:
            secure.close()
            raise EngineGoneError(f"the engine refuses its events: {status[:80]!r}")
        secure.settimeout(0)
        return secure


def _tls_context(folder: Path) -> ssl.SSLContext:
    ca, cert, key = (folder / name for name in TLS_FILES)
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(cert, key)
    return context

"""A client of Go's net/rpc over HTTP, whose values are in gob.

A thread reads the answers, so that an interrupt never loses a part of one, and calls a method regularly that keeps the
server alive. Source: Go's packages net/rpc and encoding/gob.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pymachine_driver_plugin.gob.decoder import Decoder
from pymachine_driver_plugin.gob.encoder import Encoder
from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.types import STRING, UINT, Struct, Type

log = logging.getLogger(__name__)
NO_ARGUMENT = Struct("")
"""The type of the argument of methods that have none."""
_REQUEST = Struct("Request", (("ServiceMethod", STRING), ("Seq", UINT)))
_CONNECT = b"CONNECT /_goRPC_ HTTP/1.0\n\n"
_CONNECTED = b"HTTP/1.0 200 Connected to Go RPC"
_LONGEST_HEADER = 4096
_CHUNK = 1 << 16
# As docker-machine 0.5 did. Later versions call every 5 s, but programs that were built with the old ones end sooner.
KEEP_ALIVE_SECONDS = 0.2
SILENT_SECONDS = 30.0
"""A server that answers nothing for so long, not even the calls that keep it alive, hangs."""


class ServerError(Exception):
    """The method returned an error, whose text is the server's."""


class ConnectionLostError(Exception):
    """The connection has ended, or its server does not follow the protocol."""


class NoAnswerError(Exception):
    """The method takes longer than allowed, or the server hangs."""


class _Call:
    """A call that waits for its answer."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.done = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None


class Client:
    """A connection to a server. Several threads may call methods at once."""

    def __init__(self, host: str, port: int, *, keep_alive: Callable[[], str], seconds: float) -> None:
        """Connect within `seconds`. `keep_alive` returns a method without argument, which is called regularly.

        Raises `ConnectionLostError`.
        """
        self._keep_alive = keep_alive
        self._lock = threading.Lock()
        self._encoder = Encoder()
        self._calls: dict[int, _Call] = {}
        self._sequence = 0
        self._buffer = bytearray()
        self._lost: Exception | None = None
        self._heard = time.monotonic()
        self._next_keep_alive = time.monotonic() + KEEP_ALIVE_SECONDS
        try:
            self._socket = socket.create_connection((host, port), timeout=seconds)
        except OSError as error:
            raise ConnectionLostError(f"no connection to {host}:{port}: {error}") from error
        try:
            self._greet(seconds)
        except BaseException:
            self._socket.close()
            raise
        # A limit for what is sent to a server that hangs. Before anything is received, the selector waits.
        self._socket.settimeout(SILENT_SECONDS)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._receive, name="answers of a plug-in program", daemon=True)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the connection has not ended, as far as is known."""
        return self._lost is None

    def call(self, method: str, argument: Any = None, kind: Type = NO_ARGUMENT, *, seconds: float) -> Any:
        """Call ``Service.Method`` and return its result. `kind` is the type of `argument`.

        Raises `ServerError`, `ConnectionLostError`, and `NoAnswerError` after `seconds` or if the server hangs.
        """
        call = self._send(method, {} if argument is None else argument, kind)
        end = time.monotonic() + seconds
        began = time.monotonic()
        while not call.done.wait(max(0.0, min(1.0, end - time.monotonic()))):
            now = time.monotonic()
            if now >= end:
                raise NoAnswerError(f"{method} did not end within {seconds:g} seconds")
            if now - max(self._heard, began) >= SILENT_SECONDS:
                raise NoAnswerError(f"nothing was answered for {SILENT_SECONDS:g} seconds, during {method}")
        if call.error is not None:
            raise call.error
        return call.value

    def post(self, method: str) -> None:
        """Call a method without argument, and wait for no answer. Raises `ConnectionLostError`."""
        self._send(method, {}, NO_ARGUMENT)

    def close(self) -> None:
        """End the connection. Calls that wait for an answer raise `ConnectionLostError`."""
        self._lose(ConnectionLostError("the connection was closed"))

    # -- sending -----------------------------------------------------------------------------------------------

    def _send(self, method: str, argument: Any, kind: Type) -> _Call:
        call = _Call(method)
        with self._lock:
            if self._lost is not None:
                raise ConnectionLostError(str(self._lost)) from self._lost
            sequence = self._sequence
            request = self._encoder.encode({"ServiceMethod": method, "Seq": sequence}, _REQUEST)
            data = request + self._encoder.encode(argument, kind)
            self._sequence += 1
            self._calls[sequence] = call
            try:
                self._socket.sendall(data)
            except OSError as error:
                lost = ConnectionLostError(f"{method} could not be sent: {error}")
            else:
                return call
        self._lose(lost)
        raise lost

    # -- receiving ---------------------------------------------------------------------------------------------

    def _greet(self, seconds: float) -> None:
        """Request the RPC connection behind HTTP, within `seconds`. Raises `ConnectionLostError`."""
        end = time.monotonic() + seconds
        try:
            self._socket.sendall(_CONNECT)
            while b"\n\n" not in self._buffer.replace(b"\r\n", b"\n") and len(self._buffer) < _LONGEST_HEADER:
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                chunk = self._socket.recv(1)  # what follows is gob, and belongs to the decoder
                if not chunk:
                    break
                self._buffer += chunk
        except OSError as error:
            raise ConnectionLostError(f"it does not answer as an RPC server: {error}") from error
        first = bytes(self._buffer.partition(b"\n")[0].strip())
        if first != _CONNECTED:
            raise ConnectionLostError(f"it does not answer as an RPC server, but {first[:100]!r}")
        self._buffer.clear()

    def _receive(self) -> None:
        """Read answers until the connection ends. Runs in the thread."""
        decoder = Decoder(self._read)
        try:
            while True:
                header = decoder.decode()
                body = decoder.decode()
                self._heard = time.monotonic()
                self._answer(header, body)
        except EOFError:
            self._lose(ConnectionLostError("the connection has ended"))
        except (GobError, OSError, ValueError, ConnectionLostError) as error:  # ValueError: closed meanwhile
            self._lose(ConnectionLostError(f"the connection has failed: {error}"))
        finally:
            self._selector.close()

    def _answer(self, header: Any, body: Any) -> None:
        """Give an answer to the call that waits for it. Raises `GobError` for an answer without call."""
        fields = header if isinstance(header, dict) else {}
        number, error = fields.get("Seq", 0), fields.get("Error", "")
        call = self._calls.pop(number, None) if isinstance(number, int) else None
        if call is None or not isinstance(error, str):
            raise GobError(f"an answer to no call: {str(header)[:200]}")
        if error:
            call.error = ServerError(error)
        else:
            call.value = body
        call.done.set()

    def _read(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises EOFError. In the meantime, keep the server alive."""
        while len(self._buffer) < count:
            left = self._next_keep_alive - time.monotonic()
            if left <= 0:
                self._next_keep_alive = time.monotonic() + KEEP_ALIVE_SECONDS
                self._send(self._keep_alive(), {}, NO_ARGUMENT)
            if not self._selector.select(max(0.0, left)):
                continue
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _lose(self, error: Exception) -> None:
        """End the connection, and all calls with `error`."""
        with self._lock:
            if self._lost is None:
                self._lost = error
            calls = list(self._calls.values())
            self._calls.clear()
        # A thread that waits in `recv` is not woken by `close`.
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as problem:
            log.debug("the connection was closed already: %s", problem)
        self._socket.close()
        for call in calls:
            call.error = call.error or error
            call.done.set()

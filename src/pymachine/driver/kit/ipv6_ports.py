"""Offer forwarded ports on ::1 too; for drivers whose QEMU forwards ports of IPv4 addresses only.

QEMU cannot do it: version 7.2 refuses an IPv6 address. So this process listens on ::1, and connects each client with
the machine's address. It uses a thread, which ends with the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import OrderedDict
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import Any, Protocol, TypeVar, cast

from pymachine.driver.kit.user_network import Published

ADDRESS = "::1"
_CHUNK = 65536
_QUEUE = 4096
# A client of a UDP port has no end. When another one comes, the one that was silent the longest is forgotten.
MOST_UDP_CLIENTS = 128
_CALL_SECONDS = 30.0
_PAUSE_SECONDS = 1.0

T = TypeVar("T")


class _Opened(Protocol):
    """A port that listens."""

    def close(self) -> None:
        """Stop listening."""


class Ipv6Ports:
    """The ports on ::1 of a machine, which lead to the same ports of its `target` address."""

    address = ADDRESS

    def __init__(self, target: str) -> None:
        self._target = target
        self._opened: dict[Published, _Opened] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def forwards(self) -> set[Published]:
        """Return the ports that are open."""
        return set(self._opened)

    def add(self, port: Published) -> str:
        """Open a port; return why that is not possible, or ""."""
        try:
            opening = self._submit(_open(port.protocol, (self._target, port.port)))
            try:
                self._opened[port] = opening.result(_CALL_SECONDS)
            except TimeoutError:
                # Otherwise the port would open later, and nothing would close it.
                if opening.cancel():
                    raise
                self._opened[port] = opening.result()
        except OSError as error:
            return error.strerror or str(error) or "the thread for ::1 does not answer"
        return ""

    def remove(self, port: Published) -> str:
        """Close a port, or return why that takes longer. Connections to a TCP port continue."""
        opened = self._opened.pop(port, None)
        if opened is not None:
            try:
                self._submit(_close(opened)).result(_CALL_SECONDS)
            except TimeoutError:
                return "the thread for ::1 does not answer"
        return "closed"

    def _submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `call` in the thread, which starts with the first call."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="ports on ::1", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)


async def _open(protocol: str, target: tuple[str, int]) -> _Opened:
    await asyncio.sleep(0)  # ends here if `add` has stopped waiting
    return await (_Listener.open if protocol == "tcp" else _Datagrams.open)(target)


async def _close(opened: _Opened) -> None:
    opened.close()


class _Listener:
    """A TCP port. (asyncio's own servers lose clients that connect while they are closed.)"""

    def __init__(self, server: socket.socket, target: tuple[str, int]) -> None:
        self._server = server
        self._target = target
        self._loop = asyncio.get_running_loop()
        # asyncio keeps no references to tasks, so Python would delete them.
        self._tasks: set[asyncio.Task[None]] = set()
        self._listen()

    @classmethod
    async def open(cls, target: tuple[str, int]) -> _Opened:
        server = socket.create_server((ADDRESS, target[1]), family=socket.AF_INET6, backlog=_QUEUE)
        server.settimeout(0)
        return cls(server, target)

    def close(self) -> None:
        self._loop.remove_reader(self._server)
        self._server.close()

    def _listen(self) -> None:
        if self._server.fileno() >= 0:
            self._loop.add_reader(self._server, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except (BlockingIOError, ConnectionError):  # the client has gone
            return
        except OSError:  # too many open files, until connections end
            self._loop.remove_reader(self._server)
            self._loop.call_later(_PAUSE_SECONDS, self._listen)
            return
        client.settimeout(0)
        task = self._loop.create_task(_connect(client, self._target))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _connect(client: socket.socket, target: tuple[str, int]) -> None:
    """Connect a client with `target`, until both directions have ended or one has failed."""
    with closing(client), suppress(OSError):  # a reset of one side becomes one of the other
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
            try:
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            finally:
                far_writer.transport.abort()
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    # Wait until all is sent, since `_connect` may end the connection then.
    writer.transport.set_write_buffer_limits(high=0)
    await writer.drain()
    writer.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP port. Passes on the datagrams of each client from a port of its own, so that answers find their client."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._clients: OrderedDict[Any, socket.socket] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, target: tuple[str, int]) -> _Opened:
        _, port = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(target), local_addr=(ADDRESS, target[1])
        )
        return port

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        with suppress(OSError):  # a datagram may be lost
            client = self._clients.get(addr) or self._add(addr)
            self._clients.move_to_end(addr)
            client.send(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        while self._clients:
            self._forget()

    def _add(self, addr: Any) -> socket.socket:
        if len(self._clients) >= MOST_UDP_CLIENTS:
            self._forget()
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            client.settimeout(0)
            client.connect(self._target)
        except OSError:
            client.close()
            raise
        self._clients[addr] = client
        self._loop.add_reader(client, self._answer, client, addr)
        return client

    def _answer(self, client: socket.socket, addr: Any) -> None:
        with suppress(OSError):  # such as the refusal of an earlier datagram
            data = client.recv(_CHUNK)
            if self._transport is not None:
                self._transport.sendto(data, addr)

    def _forget(self) -> None:
        _, client = self._clients.popitem(last=False)
        self._loop.remove_reader(client)
        client.close()

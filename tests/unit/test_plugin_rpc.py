"""The client of Go's net/rpc, against a server here that can misbehave. Integration tests use a real one in Go."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

from pymachine_driver_plugin import rpc
from pymachine_driver_plugin.gob.decoder import Decoder
from pymachine_driver_plugin.gob.encoder import Encoder
from pymachine_driver_plugin.gob.types import INT, STRING, UINT, Slice, Struct, Type
from pymachine_driver_plugin.rpc import Client, ConnectionLostError, NoAnswerError, ServerError

RESPONSE = Struct("Response", (("ServiceMethod", STRING), ("Seq", UINT), ("Error", STRING)))
CONNECTED = b"HTTP/1.0 200 Connected to Go RPC\n\n"
KEEP_ALIVE = "S.Heartbeat"


class Peer:
    """A server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.file = connection.makefile("rb")
        self._decoder, self._encoder = Decoder(self._read), Encoder()
        self.kept_alive = 0

    def _read(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def greet(self) -> None:
        """Answer as Go's server does."""
        assert self.file.readline() == b"CONNECT /_goRPC_ HTTP/1.0\n"
        assert self.file.readline() == b"\n"
        self.connection.sendall(CONNECTED)

    def request(self) -> tuple[str, int]:
        """Return method and number of the next call. Answer those that keep the server alive."""
        while True:
            header = self._decoder.decode()
            self._decoder.decode()
            if header["ServiceMethod"] != KEEP_ALIVE:
                return header["ServiceMethod"], header["Seq"]
            self.kept_alive += 1
            self.answer(header["Seq"], {}, rpc.NO_ARGUMENT)

    def answer(self, number: int, value: Any, kind: Type, *, error: str = "") -> None:
        """Answer a call."""
        header = self._encoder.encode({"ServiceMethod": "", "Seq": number, "Error": error}, RESPONSE)
        self.connection.sendall(header + self._encoder.encode(value, kind))


@contextmanager
def serving(handle: Callable[[Peer], None]) -> Iterator[tuple[str, int]]:
    """Serve one connection with `handle`, in a thread. Yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    handle(Peer(connection))
                finally:
                    with suppress(OSError):  # the client may have gone
                        connection.shutdown(socket.SHUT_RDWR)  # the peer's file keeps it open

        served = pool.submit(serve)
        yield listener.getsockname()
        served.result(20)


@contextmanager
def connected(handle: Callable[[Peer], None]) -> Iterator[Client]:
    """Yield a client of a server that greets, and goes on with `handle`."""

    def greet_and_handle(peer: Peer) -> None:
        peer.greet()
        handle(peer)

    with serving(greet_and_handle) as (host, port):
        client = Client(host, port, keep_alive=lambda: KEEP_ALIVE, seconds=5)
        try:
            yield client
        finally:
            client.close()


def until_the_end(peer: Peer) -> None:
    """Read calls until the client has gone."""
    try:
        while True:
            peer.request()
    except (EOFError, OSError):
        return


def test_results_and_errors_are_returned() -> None:
    def handle(peer: Peer) -> None:
        method, number = peer.request()
        assert method == "S.Count"
        peer.answer(number, 42, INT)
        _, number = peer.request()
        peer.answer(number, {}, rpc.NO_ARGUMENT, error="no such machine")
        _, number = peer.request()
        peer.answer(number, "after it", STRING)

    with connected(handle) as client:
        assert client.call("S.Count", seconds=5) == 42
        with pytest.raises(ServerError, match=r"\Ano such machine\Z"):
            client.call("S.Fail", seconds=5)
        assert client.call("S.Go", seconds=5) == "after it"


def test_answers_may_come_in_any_order() -> None:
    def handle(peer: Peer) -> None:
        calls = [peer.request() for _ in range(3)]
        for method, number in sorted(calls, reverse=True):
            peer.answer(number, method, STRING)

    with connected(handle) as client, ThreadPoolExecutor(3) as pool:
        methods = ["S.A", "S.B", "S.C"]
        assert list(pool.map(lambda method: client.call(method, seconds=5), methods)) == methods


def end(peer: Peer) -> None:
    peer.request()


def end_within_an_answer(peer: Peer) -> None:
    peer.request()
    peer.connection.sendall(b"\x0b\xff\x83")


def answer_another_call(peer: Peer) -> None:
    peer.request()
    peer.answer(1000, 1, INT)


def answer_with_a_list_as_number(peer: Peer) -> None:
    peer.request()
    wrong = Struct("Response", (("ServiceMethod", STRING), ("Seq", Slice(UINT)), ("Error", STRING)))
    header = Encoder().encode({"ServiceMethod": "", "Seq": [0], "Error": ""}, wrong)
    peer.connection.sendall(header + Encoder().encode(1, INT))


def answer_rubbish(peer: Peer) -> None:
    peer.request()
    peer.connection.sendall(b"HTTP/1.0 500 Internal Server Error\r\n\r\n" * 10)


def announce_too_much(peer: Peer) -> None:
    peer.request()
    peer.connection.sendall(b"\xf8\x7f\xff\xff\xff\xff\xff\xff\xff" + bytes(100))


@pytest.mark.parametrize(
    "handle",
    [end, end_within_an_answer, answer_another_call, answer_with_a_list_as_number, answer_rubbish, announce_too_much],
)
def test_a_server_that_breaks_off_ends_the_call(handle: Callable[[Peer], None]) -> None:
    with connected(handle) as client:
        with pytest.raises(ConnectionLostError):
            client.call("S.Create", seconds=10)
        assert not client.is_connected
        with pytest.raises(ConnectionLostError):
            client.call("S.Again", seconds=10)


def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "SILENT_SECONDS", 0.5)
    ended = threading.Event()

    def handle(peer: Peer) -> None:
        ended.wait(10)

    with connected(handle) as client:
        with pytest.raises(NoAnswerError, match=r"nothing was answered for 0.5 seconds, during S.State"):
            client.call("S.State", seconds=60)
        ended.set()


def test_a_long_call_may_take_its_time_while_the_server_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(rpc, "KEEP_ALIVE_SECONDS", 0.1)
    with connected(until_the_end) as client, pytest.raises(NoAnswerError, match=r"S.Create did not end within 1.5 sec"):
        client.call("S.Create", seconds=1.5)


def test_an_idle_server_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "KEEP_ALIVE_SECONDS", 0.05)
    enough = threading.Event()

    def handle(peer: Peer) -> None:
        peer_thread = threading.Thread(target=until_the_end, args=(peer,))
        peer_thread.start()
        while peer.kept_alive < 3 and peer_thread.is_alive():
            peer_thread.join(0.05)
        enough.set()
        peer_thread.join()

    with connected(handle):
        assert enough.wait(10)


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 404 Not Found\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"x" * 10_000]
)
def test_other_servers_are_refused(greeting: bytes) -> None:
    def handle(peer: Peer) -> None:
        peer.connection.sendall(greeting)

    with serving(handle) as (host, port), pytest.raises(ConnectionLostError, match="does not answer as an RPC server"):
        Client(host, port, keep_alive=lambda: KEEP_ALIVE, seconds=5)


def test_a_greeting_that_does_not_end_is_given_up() -> None:
    def handle(peer: Peer) -> None:
        with suppress(OSError):  # the client goes
            for _ in range(100):
                peer.connection.sendall(b"H")
                time.sleep(0.1)

    began = time.monotonic()
    with serving(handle) as (host, port), pytest.raises(ConnectionLostError, match="does not answer as an RPC server"):
        Client(host, port, keep_alive=lambda: KEEP_ALIVE, seconds=0.5)
    assert time.monotonic() - began < 9


def test_an_interrupt_in_a_call_leaves_the_connection_usable() -> None:
    interrupted = threading.Event()

    def handle(peer: Peer) -> None:
        _, first = peer.request()
        interrupted.wait(10)
        peer.answer(first, "too late", STRING)
        _, second = peer.request()
        peer.answer(second, "in time", STRING)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with connected(handle) as client:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                client.call("S.Create", seconds=30)
            interrupted.set()
            assert client.call("S.Config", seconds=10) == "in time"
    finally:
        signal.signal(signal.SIGALRM, before)

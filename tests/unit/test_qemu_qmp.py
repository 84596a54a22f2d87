"""The QMP client against a misbehaving peer; tests/integration has a real QEMU."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymachine.system.wait import Deadline
from pymachine_driver_qemu import qmp

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
OK = b'{"return": {}}\n'
Serve = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Run a function with the first connection to a Unix socket; return the socket's path."""
    threads = []
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)

    def start(peer: Callable[[socket.socket], None]) -> Path:
        server.bind(str(path))
        server.listen(1)

        def accept() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):  # a client that gave up
                peer(connection)

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
    server.close()


def negotiate(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    connection.recv(4096)
    connection.sendall(OK)


def test_commands_are_answered_with_events_in_between(serve: Serve) -> None:
    asked = []

    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        asked.append(json.loads(connection.recv(4096)))
        connection.sendall(b'{"event": "STOP", "timestamp": {}}\n{"return": ')
        time.sleep(0.02)
        connection.sendall(b'{"status": "paused"}}\n{"event": "RESUME"}\n')
        connection.recv(1)

    with qmp.Qmp(serve(peer)) as monitor:
        assert monitor.execute("query-status", some_name=1) == {"status": "paused"}
        assert asked == [{"execute": "query-status", "arguments": {"some-name": 1}}]
        assert monitor.events() == ["STOP", "RESUME"]
        assert monitor.events() == []


def test_a_refused_command_has_qemus_message(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        connection.recv(4096)
        connection.sendall(b'{"error": {"class": "GenericError", "desc": "no such thing"}}\n')
        connection.recv(1)

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="refused frob: no such thing"):
        monitor.execute("frob")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"[]\n", b'{"hello": 1}\n', b"\xff\xfe\n"])
def test_a_peer_that_does_not_speak_qmp_is_refused(serve: Serve, said: bytes) -> None:
    with pytest.raises(qmp.QmpError, match="not"):
        qmp.Qmp(serve(lambda connection: connection.sendall(said)))


def test_an_endless_line_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "_LONGEST_LINE", 1000)

    def peer(connection: socket.socket) -> None:
        connection.sendall(b"x" * 5000)
        connection.recv(1)

    with pytest.raises(qmp.QmpError, match="is too long"):
        qmp.Qmp(serve(peer))


def test_silence_is_a_timeout(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        connection.recv(1)

    with pytest.raises(qmp.QmpTimeoutError):
        qmp.Qmp(serve(peer), timeout=0.2)


def test_a_connection_that_ends_means_the_end_of_qemu(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        connection.recv(4096)
        connection.sendall(b'{"retu')

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpGoneError):
        monitor.execute("query-status")


def test_a_missing_and_a_stale_socket_are_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(qmp.QmpGoneError):
        qmp.Qmp(tmp_path / "none")
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(stale))
        server.listen()
    with pytest.raises(qmp.QmpGoneError):
        qmp.Qmp(stale)
    assert not qmp.is_listening(stale)


def test_a_full_queue_counts_as_listening_and_is_a_timeout(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    waiting = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        try:
            while True:
                waiting.append(qmp.connect(path, Deadline(0.1)))
        except qmp.QmpTimeoutError:
            assert waiting
        assert qmp.is_listening(path)
        with pytest.raises(qmp.QmpTimeoutError):
            qmp.Qmp(path, timeout=0.2)
    for connection in waiting:
        connection.close()


def repeat_endlessly(piece: bytes, *, pause: float) -> Callable[[socket.socket], None]:
    """Return a monitor that answers a command with `piece` endlessly, pausing `pause` seconds each time."""

    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        connection.recv(4096)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(piece)
                time.sleep(pause)

    return peer


def test_endless_events_are_a_timeout(serve: Serve) -> None:
    """Each event comes in time, but the answer never does."""
    peer = repeat_endlessly(b'{"event": "RESET"}\n', pause=0.02)
    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpTimeoutError, match="did not answer within 0.3"):
        monitor.execute("query-status", timeout=0.3)


def test_a_slow_answer_of_qemu_is_a_timeout(serve: Serve) -> None:
    with qmp.Qmp(serve(repeat_endlessly(b" ", pause=0.0002))) as monitor, pytest.raises(qmp.QmpTimeoutError):
        monitor.execute("query-status", timeout=0.3)


@pytest.mark.parametrize("way", ["execute", "events"])
def test_a_flood_of_events_is_an_error(serve: Serve, way: str) -> None:
    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b'{"event": "RESET"}\n' * 1000)

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="too many events"):
        monitor.execute("query-status", timeout=60.0) if way == "execute" else monitor.events()


def test_an_endlessly_nested_answer_is_refused(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiate(connection)
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(b"[" * 1_000_000 + b"\n")

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="not QMP"):
        monitor.execute("query-status", timeout=60.0)

"""The QMP client against a peer that misbehaves in every way; a real QEMU is in tests/integration."""

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
    """Run a function with the first connection to a socket, whose path is returned."""
    threads = []
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)

    def start(peer: Callable[[socket.socket], None]) -> Path:
        server.bind(str(path))
        server.listen(1)

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                peer(connection)

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
    server.close()


def negotiated(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    connection.recv(4096)
    connection.sendall(OK)


def test_a_command_with_arguments_and_events_between(serve: Serve) -> None:
    asked = []

    def peer(connection: socket.socket) -> None:
        negotiated(connection)
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


def test_a_refusal_has_qemus_words(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiated(connection)
        connection.recv(4096)
        connection.sendall(b'{"error": {"class": "GenericError", "desc": "no such thing"}}\n')
        connection.recv(1)

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="refused frob: no such thing"):
        monitor.execute("frob")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"[]\n", b'{"hello": 1}\n', b"\xff\xfe\n"])
def test_what_is_not_qmp_is_refused(serve: Serve, said: bytes) -> None:
    with pytest.raises(qmp.QmpError, match="not"):
        qmp.Qmp(serve(lambda connection: connection.sendall(said)))


def test_an_answer_without_end_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "_LONGEST_LINE", 1000)

    def peer(connection: socket.socket) -> None:
        connection.sendall(b"x" * 5000)
        connection.recv(1)

    with pytest.raises(qmp.QmpError, match="is too long"):
        qmp.Qmp(serve(peer))


def test_silence_is_a_timeout(serve: Serve) -> None:
    with pytest.raises(qmp.QmpTimeoutError):
        qmp.Qmp(serve(lambda connection: connection.recv(1)), timeout=0.2)


def test_an_end_in_the_middle_is_the_end_of_qemu(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiated(connection)
        connection.recv(4096)
        connection.sendall(b'{"retu')

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpGoneError):
        monitor.execute("query-status")


def test_no_socket_and_a_stale_one_are_the_same(tmp_path: Path) -> None:
    with pytest.raises(qmp.QmpGoneError):
        qmp.Qmp(tmp_path / "none")
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(stale))
        server.listen()
    with pytest.raises(qmp.QmpGoneError):
        qmp.Qmp(stale)
    assert not qmp.is_listening(stale)


def test_a_full_queue_is_waited_for_and_counts_as_alive(tmp_path: Path) -> None:
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


def without_end(piece: bytes, *, pause: float) -> Callable[[socket.socket], None]:
    """A monitor that answers a command with `piece` again and again, after `pause` seconds each time."""

    def peer(connection: socket.socket) -> None:
        negotiated(connection)
        connection.recv(4096)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(piece)
                time.sleep(pause)

    return peer


def test_events_without_end_are_a_timeout(serve: Serve) -> None:
    """Each comes in time, and the answer never does."""
    peer = without_end(b'{"event": "RESET"}\n', pause=0.02)
    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpTimeoutError, match="did not answer within 0.3"):
        monitor.execute("query-status", timeout=0.3)


def test_an_answer_that_drips_is_a_timeout(serve: Serve) -> None:
    with qmp.Qmp(serve(without_end(b" ", pause=0.0002))) as monitor, pytest.raises(qmp.QmpTimeoutError):
        monitor.execute("query-status", timeout=0.3)


@pytest.mark.parametrize("way", ["execute", "events"])
def test_a_flood_of_events_is_given_up(serve: Serve, way: str) -> None:
    def peer(connection: socket.socket) -> None:
        negotiated(connection)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b'{"event": "RESET"}\n' * 1000)

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="too many events"):
        monitor.execute("query-status", timeout=60.0) if way == "execute" else monitor.events()


def test_an_answer_that_is_nested_without_end(serve: Serve) -> None:
    def peer(connection: socket.socket) -> None:
        negotiated(connection)
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(b"[" * 1_000_000 + b"\n")

    with qmp.Qmp(serve(peer)) as monitor, pytest.raises(qmp.QmpError, match="not QMP"):
        monitor.execute("query-status", timeout=60.0)

"""Ports on ::1 that lead to an address of a machine, with real servers in place of the machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pymachine.driver.kit import ipv6_ports
from pymachine.driver.kit.ipv6_ports import Ipv6Ports
from pymachine.driver.kit.user_network import Published
from support.ipv6 import NEEDS_LOOPBACK

pytestmark = NEEDS_LOOPBACK

TARGET = "127.70.1.2"
SECONDS = 30
MEBIBYTES = 8


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back after the client has ended its input."""

    def handle(self) -> None:
        received = bytearray()
        while data := self.request.recv(1 << 20):
            received += data
        self.request.sendall(received)


class UdpEcho(socketserver.BaseRequestHandler):
    """Sends each datagram back, with the port from which it came."""

    def handle(self) -> None:
        data, server = self.request
        server.sendto(b"%d %s" % (self.client_address[1], data), self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve during the block, and return the port."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()


@pytest.fixture
def tcp() -> Iterator[Published]:
    with serving(TcpServer((TARGET, 0), Echo)) as port:
        yield Published("tcp", port)


@pytest.fixture
def udp() -> Iterator[Published]:
    with serving(socketserver.UDPServer((TARGET, 0), UdpEcho)) as port:
        yield Published("udp", port)


def talk(port: int, data: bytes) -> bytes:
    """Send `data`, end the input, and return the whole answer."""
    with socket.create_connection(("::1", port), timeout=SECONDS) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        answer = bytearray()
        while piece := client.recv(1 << 20):
            answer += piece
        sender.join()
    return bytes(answer)


def test_a_connection_carries_all_data_in_both_directions(tcp: Published) -> None:
    ports = Ipv6Ports(TARGET)
    assert ports.add(tcp) == ""
    assert ports.forwards() == {tcp}
    data = bytes(range(256)) * 4096 * MEBIBYTES
    assert talk(tcp.port, data) == data
    assert talk(tcp.port, b"") == b""
    ports.remove(tcp)


def test_many_clients_connect_at_once(tcp: Published) -> None:
    ports = Ipv6Ports(TARGET)
    ports.add(tcp)
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(talk(tcp.port, b"marco"))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert answers == [b"marco"] * 100
    ports.remove(tcp)


def test_a_removed_port_refuses_clients_and_keeps_connections() -> None:
    ports = Ipv6Ports(TARGET)
    with socket.create_server((TARGET, 0)) as server:
        port = Published("tcp", server.getsockname()[1])
        ports.add(port)
        with socket.create_connection(("::1", port.port), timeout=SECONDS) as client, server.accept()[0] as connected:
            ports.remove(port)
            assert ports.forwards() == set()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", port.port), timeout=SECONDS)
            client.sendall(b"marco")
            assert connected.recv(100) == b"marco"
            connected.sendall(b"polo")
            assert client.recv(100) == b"polo"
    assert ports.add(port) == ""
    ports.remove(port)


def test_clients_that_connect_while_a_port_closes_do_not_wait(tcp: Published) -> None:
    ports = Ipv6Ports(TARGET)
    for _ in range(20):
        ports.add(tcp)
        with socket.create_connection(("::1", tcp.port), timeout=SECONDS) as client:
            ports.remove(tcp)
            with suppress(ConnectionError):
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""


def test_a_client_is_disconnected_if_the_machine_refuses_it() -> None:
    with socket.create_server((TARGET, 0)) as server:
        port = Published("tcp", server.getsockname()[1])
    ports = Ipv6Ports(TARGET)
    ports.add(port)
    with socket.create_connection(("::1", port.port), timeout=SECONDS) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""
    ports.remove(port)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_taken_port_is_refused_with_the_reason(kind: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as other:
        other.bind(("::1", 0))
        if kind == "tcp":
            other.listen()
        port = Published(kind, other.getsockname()[1])
        ports = Ipv6Ports(TARGET)
        assert "in use" in ports.add(port)
        assert ports.forwards() == set()
    assert ports.add(port) == ""
    ports.remove(port)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_thread_that_does_not_answer_opens_no_port_later(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port, other = Published(kind, server.getsockname()[1]), Published("udp", server.getsockname()[1])
    ports = Ipv6Ports(TARGET)
    assert ports.add(other) == ""
    loop = ports._loop
    assert loop is not None
    busy, free = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        free.wait(SECONDS)

    loop.call_soon_threadsafe(block)
    assert busy.wait(SECONDS)
    monkeypatch.setattr(ipv6_ports, "_CALL_SECONDS", 0)
    assert "does not answer" in ports.remove(other)
    assert "does not answer" in ports.add(port)
    assert ports.forwards() == set()
    free.set()
    monkeypatch.setattr(ipv6_ports, "_CALL_SECONDS", SECONDS)
    # The port is free for another call.
    assert ports.add(port) == ""
    ports.remove(port)


def test_answers_to_datagrams_find_their_client(udp: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipv6_ports, "MOST_UDP_CLIENTS", 3)
    ports = Ipv6Ports(TARGET)
    assert ports.add(udp) == ""
    clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(5)]
    try:
        for client in clients:
            client.settimeout(SECONDS)
            client.connect(("::1", udp.port))
        first = ask(clients[0], b"0")
        for number, client in enumerate(clients[1:], 1):
            assert ask(client, b"%d" % number) != first
            # A client that keeps sending keeps its port, and the silent ones are forgotten.
            assert ask(clients[0], b"0") == first
        ports.remove(udp)
        with pytest.raises(ConnectionRefusedError):
            ask(clients[0], b"0")
    finally:
        for client in clients:
            client.close()


def ask(client: socket.socket, data: bytes) -> bytes:
    """Return the port from which the server received `data`, after checking the answer."""
    client.send(data)
    port, answer = client.recv(100).split()
    assert answer == data
    return port

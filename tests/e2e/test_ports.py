"""Forwarded ports of a machine, with a real docker client and real servers in containers."""

from __future__ import annotations

import errno
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from pymachine.system.wait import until
from support import images, packages
from support.runner import Pymachine

pytestmark = pytest.mark.timeout(900)

CLIENTS = 100
CLIENT_SECONDS = 60.0
IMAGE = "pm-servers:1"
FILES = {
    "etc/nginx/nginx.conf": packages.NGINX_CONF.replace("worker_connections 64", "worker_connections 1024"),
    "usr/share/nginx/html/index.html": "hello\n",
}


@pytest.fixture(scope="module")
def host(intro: Pymachine, tmp_path_factory: pytest.TempPathFactory) -> Pymachine:
    """The machine ``intro``, with an image that serves HTTP."""
    layer = images.with_programs(images.alpine_like("3.2", packages="http://none.invalid"), ["nginx", "socat"], FILES)
    file = tmp_path_factory.mktemp("servers") / "image.tar"
    file.write_bytes(layer)
    intro.shell(f"""docker import --change 'CMD ["nginx", "-g", "daemon off;"]' {file} {IMAGE}""")
    return intro


@pytest.fixture(scope="module")
def address(host: Pymachine) -> str:
    return host("ip", "intro").stdout.strip()


def folder(host: Pymachine) -> Path:
    return host.store / "machines" / "intro"


def at_once(client: Callable[[], bytes]) -> list[bytes | OSError]:
    """Run `client` in `CLIENTS` threads at the same time; return the results or errors."""
    ready = Barrier(CLIENTS)

    def one(_: int) -> bytes | OSError:
        ready.wait()
        try:
            return client()
        except OSError as error:
            return error

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, range(CLIENTS)))


def fetch(address: str, port: int) -> bytes:
    connection = http.client.HTTPConnection(address, port, timeout=CLIENT_SECONDS)
    connection.request("GET", "/index.html")
    return connection.getresponse().read()


def serves(address: str, port: int) -> bool:
    try:
        return fetch(address, port) == b"hello\n"
    except OSError:
        return False


def is_closed(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == errno.ECONNREFUSED


def echo(address: str, port: int) -> bytes:
    """Send a datagram; return the answer, or nothing if none comes within a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect((address, port))
        try:
            client.send(b"marco")
            return client.recv(100)
        except OSError:
            return b""


# -- a container with published ports of each kind ---------------------------------------------------------------


@pytest.fixture(scope="module")
def listened_at_once(host: Pymachine, address: str) -> bool:
    """Start the container ``servers``; return whether port 8090 accepted a connection when ``docker run`` returned."""
    ports = f"-p 8090:80 -p {address}:8092:80 -p 127.0.0.1:8093:80 -p 8096:53/udp -p {address}:8097:53/udp"
    both = """sh -c "socat UDP-RECVFROM:53,fork SYSTEM:cat & exec nginx -g 'daemon off;'" """
    host.shell(f"docker run -d --name servers --stop-signal KILL {ports} {IMAGE} {both}")
    with socket.socket() as client:
        client.settimeout(CLIENT_SECONDS)
        return client.connect_ex((address, 8090)) == 0


@pytest.fixture
def servers(listened_at_once: bool) -> None:
    """The container ``servers``. The last test removes it."""


def test_a_published_port_listens_when_docker_run_returns(listened_at_once: bool) -> None:
    assert listened_at_once


@pytest.mark.usefixtures("servers")
def test_a_published_port_accepts_many_connections_at_once(address: str) -> None:
    until(lambda: serves(address, 8090), deadline=60, what="the published port")
    assert at_once(lambda: fetch(address, 8090)) == [b"hello\n"] * CLIENTS


@pytest.mark.usefixtures("servers")
def test_a_port_published_on_the_address_of_the_machine_is_forwarded(address: str) -> None:
    until(lambda: serves(address, 8092), deadline=60, what="the port")


@pytest.mark.usefixtures("servers")
def test_a_port_published_on_the_loopback_of_the_guest_is_not_forwarded(address: str) -> None:
    until(lambda: serves(address, 8090), deadline=60, what="the other port")
    assert is_closed(address, 8093)


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("port", [8096, 8097], ids=["any address", "address of the machine"])
def test_udp_ports_are_forwarded(address: str, port: int) -> None:
    until(lambda: echo(address, port) == b"marco", deadline=60, what="the echo")


@pytest.mark.usefixtures("servers")
def test_a_client_that_ends_its_input_early_gets_all_output(host: Pymachine) -> None:
    size = 3_000_000
    script = 'eval "$(pymachine env intro)"; docker exec -i servers sh -c "sleep 1; cat"'
    done = subprocess.run(
        ["bash", "-c", script], input=b"x" * size, env=host.environment(), capture_output=True, timeout=300, check=True
    )
    assert len(done.stdout) == size


def test_the_engine_port_accepts_many_connections_at_once(host: Pymachine, address: str) -> None:
    context = ssl.create_default_context(cafile=str(folder(host) / "ca.pem"))
    context.load_cert_chain(folder(host) / "cert.pem", folder(host) / "key.pem")

    def ping() -> bytes:
        connection = http.client.HTTPSConnection(address, 2376, timeout=CLIENT_SECONDS, context=context)
        connection.request("GET", "/_ping")
        return connection.getresponse().read()

    assert at_once(ping) == [b"OK"] * CLIENTS


# -- containers that come and go ---------------------------------------------------------------------------------


@contextmanager
def container(host: Pymachine, flags: str, command: str = "") -> Iterator[None]:
    """Run a container with a unique name during the block."""
    name = f"c{secrets.token_hex(4)}"
    host.shell(f"docker run -d --name {name} {flags} {IMAGE} {command}")
    try:
        yield
    finally:
        host.shell(f"docker rm -f {name}")


def test_a_port_of_a_container_with_host_networking_is_forwarded(host: Pymachine, address: str) -> None:
    with container(host, "--net=host", "busybox httpd -f -p 8095 -h /usr/share/nginx/html"):
        until(lambda: serves(address, 8095), deadline=60, what="the port")
    until(lambda: is_closed(address, 8095), deadline=60, what="the port to close")


def test_the_ingress_port_of_a_service_is_forwarded(host: Pymachine, address: str) -> None:
    host.shell("docker swarm init --advertise-addr eth0")
    try:
        host.shell(f"docker service create --detach --no-resolve-image -p 8094:80 --name web {IMAGE}")
        until(lambda: serves(address, 8094), deadline=180, what="the service")
        host.shell("docker service rm web")
        until(lambda: is_closed(address, 8094), deadline=60, what="the port to close")
    finally:
        host.shell("docker swarm leave --force")


def test_a_taken_port_is_reported_and_forwarded_once_it_is_free(host: Pymachine, address: str) -> None:
    with socket.create_server((address, 8098)) as other, container(host, "-p 8098:80"):

        def problems() -> list[str]:
            ports = json.loads(host("ports", "--json", "intro").stdout)
            return [port["Problem"] for port in ports if port["Port"] == 8098]

        until(lambda: any(problems()), deadline=60, what="the problem to be reported")
        assert "in use by another program" in problems()[0]
        row = json.loads(host("ls", "--json").stdout)[0]
        assert "8098/tcp: in use by another program" in row["Error"]
        assert "8098/tcp" in host("doctor", code=None).stdout
        assert "8098/tcp" in host("logs", "intro").stdout
        other.close()
        until(lambda: serves(address, 8098), deadline=60, what="the port")
        assert problems() == [""]
        assert json.loads(host("ls", "--json").stdout)[0]["Error"] == ""


@pytest.mark.usefixtures("servers")
def test_a_killed_forwarder_is_replaced(host: Pymachine, address: str) -> None:
    def forwarders() -> list[int]:
        found = host.processes().items()
        return [pid for pid, line in found if "pymachine_driver_qemu.ports" in line and not line.startswith("/bin/sh")]

    until(lambda: serves(address, 8090), deadline=60, what="the port")
    before = forwarders()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: [pid for pid in forwarders() if pid not in before] != [], deadline=60, what="another forwarder")
    with container(host, "-p 8100:80"):
        until(lambda: serves(address, 8100), deadline=60, what="a port that it adds")
    until(lambda: is_closed(address, 8100), deadline=60, what="a port that it removes")
    assert serves(address, 8090)


@pytest.mark.usefixtures("servers")
def test_the_ports_of_a_removed_container_are_closed(host: Pymachine, address: str) -> None:
    """The forwarder that opened them was killed by the test before."""
    host.shell("docker rm -f servers")
    for port in (8090, 8092):
        until(lambda port=port: is_closed(address, port), deadline=60, what=f"port {port} to close")  # type: ignore[misc]

"""IPv6 of a machine's guest, of its containers and of its forwarded ports."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pymachine.system.wait import until
from support.ipv6 import NEEDS_LOOPBACK
from support.runner import Pymachine
from support.ssh_shares import make_box

pytestmark = [pytest.mark.timeout(1800), NEEDS_LOOPBACK]

NAME = "six"
TEXT = "from the host\n"


class Ipv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(scope="module")
def machine(intro: Pymachine) -> Iterator[Pymachine]:
    """A machine with both options, resumed from a template without IPv6, and an image `box` with busybox."""
    intro("create", "--no-share", "--ipv6", "--ipv6-ports", NAME)
    make_box(intro, NAME)
    yield intro
    intro("rm", "-y", "-f", NAME)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server on the host's ::1."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "text").write_text(TEXT)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with Ipv6Server(("::1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield http_server.server_address[1]
        http_server.shutdown()


def guest(machine: Pymachine, command: str) -> str:
    return machine("ssh", NAME, command).stdout


def reaches_the_host(machine: Pymachine, server: int, prefix: str = "") -> bool:
    # The host in QEMU's user network.
    command = f"{prefix} busybox wget -q -T 20 -O- 'http://[fd70:796d:6162::2]:{server}/text'"
    return machine("ssh", NAME, command, code=None).stdout == TEXT


def serves(port: int, address: str = "::1") -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", "/index.html")
        return connection.getresponse().read() == b"hello\n"
    except (OSError, http.client.HTTPException):
        return False


def is_closed(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as client:
        return client.connect_ex(("::1", port)) != 0


def serve(machine: Pymachine, name: str, port: int) -> None:
    script = "mkdir -p /www && echo hello > /www/index.html && exec busybox httpd -f -p 80 -h /www"
    guest(machine, f"docker run -d --name {name} -p {port}:80 box /bin/sh -c '{script}'")


def forwarded(machine: Pymachine, port: int) -> dict[str, str]:
    """Return the problems of a port by its addresses on the host."""
    rows = json.loads(machine("ports", "--json", NAME).stdout)
    return {row["Address"]: row["Problem"] for row in rows if row["Port"] == port}


def test_guest_and_containers_reach_ipv6_addresses(machine: Pymachine, server: int) -> None:
    until(lambda: reaches_the_host(machine, server), deadline=60, what="the guest's IPv6")
    assert reaches_the_host(machine, server, "docker run --rm box")
    assert "fd70:796d:6163:" in guest(machine, "docker run --rm box busybox ip -6 address")


def test_published_ports_are_on_the_ipv6_loopback(machine: Pymachine) -> None:
    own = machine("ip", NAME).stdout.strip()
    serve(machine, "web", 8110)
    until(lambda: serves(8110), deadline=60, what="the port on ::1")
    assert serves(8110, own)
    assert forwarded(machine, 8110) == {own: "", "::1": ""}
    guest(machine, "docker rm -f web")
    until(lambda: is_closed(8110), deadline=60, what="the port to close")


def test_a_port_in_use_on_the_ipv6_loopback_is_reported_and_taken_later(machine: Pymachine) -> None:
    own = machine("ip", NAME).stdout.strip()
    with socket.create_server(("::1", 8111), family=socket.AF_INET6):
        serve(machine, "web", 8111)
        until(lambda: len(forwarded(machine, 8111)) == 2, deadline=60, what="the report")
        found = forwarded(machine, 8111)
        assert found[own] == ""
        assert "in use by another program" in found["::1"]
    until(lambda: serves(8111), deadline=60, what="the port on ::1")
    assert forwarded(machine, 8111) == {own: "", "::1": ""}
    guest(machine, "docker rm -f web")


def test_a_killed_forwarder_opens_the_ports_again(machine: Pymachine) -> None:
    def forwarders() -> list[int]:
        lines = machine.processes().items()
        wanted = f"pymachine_driver_qemu.ports {machine.store}/machines/{NAME}"
        return [pid for pid, line in lines if wanted in line and not line.startswith("/bin/sh")]

    serve(machine, "web", 8112)
    until(lambda: serves(8112), deadline=60, what="the port on ::1")
    for pid in forwarders():
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_closed(8112), deadline=60, what="the forwarder to end")
    until(lambda: serves(8112), deadline=60, what="the port on ::1 again")
    guest(machine, "docker rm -f web")


def test_both_last_over_a_restart_and_can_be_turned_off(machine: Pymachine, server: int) -> None:
    serve(machine, "web", 8113)
    machine("restart", NAME)
    guest(machine, "docker start web")
    until(lambda: serves(8113), deadline=60, what="the port on ::1")
    until(lambda: reaches_the_host(machine, server), deadline=60, what="the guest's IPv6")
    assert reaches_the_host(machine, server, "docker run --rm box")

    machine("modify", "--no-ipv6", "--no-ipv6-ports", "--restart", NAME)
    guest(machine, "docker start web")
    own = machine("ip", NAME).stdout.strip()
    until(lambda: serves(8113, own), deadline=60, what="the port")
    assert forwarded(machine, 8113) == {own: ""}
    assert is_closed(8113)
    assert not reaches_the_host(machine, server)


def test_a_machine_without_the_option_has_no_ipv6(intro: Pymachine) -> None:
    assert "global" not in intro("ssh", "intro", "ip -6 address show dev eth0").stdout
    assert "default" not in intro("ssh", "intro", "ip -6 route").stdout

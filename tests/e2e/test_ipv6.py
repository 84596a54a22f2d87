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
from support.guest_scripts import in_guest
from support.ipv6 import NEEDS_LOOPBACK
from support.runner import Pymachine
from support.ssh_shares import make_box

pytestmark = [pytest.mark.timeout(1800), NEEDS_LOOPBACK]

NAME = "six"
TEXT = "from the host\n"
# Ports of the container `web`, and of a program in the guest. Both are forwarded.
WEB, PROGRAM = 8110, 8111
SERVE = "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; busybox httpd -p {} -h /tmp/www"
RUN_WEB = f"""docker run -d --name web --restart=always --stop-signal=KILL -p {WEB}:80 box \
/bin/sh -c '{SERVE.format("80 -f")}'"""


class Ipv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(scope="module")
def machine(intro: Pymachine) -> Iterator[Pymachine]:
    """A machine with both options, resumed from a template without IPv6, and its container `web`."""
    intro("create", "--no-share", "--ipv6", "--ipv6-ports", NAME)
    make_box(intro, NAME)
    intro("ssh", NAME, RUN_WEB)
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


def get_text(server: int) -> str:
    """Return the command that gets TEXT from the host, at its address in QEMU's user network."""
    return f"busybox wget -q -T 20 -O- http://[fd70:796d:6162::2]:{server}/text"


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


def forwarded(machine: Pymachine, port: int) -> dict[str, str]:
    """Return the problems of a port by its addresses on the host."""
    rows = json.loads(machine("ports", "--json", NAME).stdout)
    return {row["Address"]: row["Problem"] for row in rows if row["Port"] == port}


def check_guest_and_container_reach_the_host(machine: Pymachine, server: int) -> None:
    get = get_text(server)
    output = in_guest(machine, NAME, f"wait_for {get}", get, f"inside web {get}", "inside web ip -6 address")
    assert output.startswith(TEXT * 2)
    assert "fd70:796d:6163:" in output


def test_guest_and_containers_reach_ipv6_addresses(machine: Pymachine, server: int) -> None:
    check_guest_and_container_reach_the_host(machine, server)


def test_published_ports_are_on_the_ipv6_loopback(machine: Pymachine) -> None:
    own = machine("ip", NAME).stdout.strip()
    until(lambda: forwarded(machine, WEB) == {own: "", "::1": ""}, deadline=60, what="the report")
    assert serves(WEB)
    assert serves(WEB, own)


def test_a_port_in_use_on_the_ipv6_loopback_is_reported_and_taken_later(machine: Pymachine) -> None:
    own = machine("ip", NAME).stdout.strip()
    with socket.create_server(("::1", PROGRAM), family=socket.AF_INET6):
        in_guest(machine, NAME, SERVE.format(PROGRAM))
        until(lambda: len(forwarded(machine, PROGRAM)) == 2, deadline=60, what="the report")
        found = forwarded(machine, PROGRAM)
        assert found[own] == ""
        assert "in use by another program" in found["::1"]
    until(lambda: serves(PROGRAM), deadline=60, what="the port on ::1")
    until(lambda: forwarded(machine, PROGRAM) == {own: "", "::1": ""}, deadline=60, what="the next report")
    in_guest(machine, NAME, f"pkill -f '[h]ttpd -p {PROGRAM}'")
    until(lambda: is_closed(PROGRAM), deadline=60, what="the port to close")


def test_a_killed_forwarder_opens_the_ports_again(machine: Pymachine) -> None:
    def forwarders() -> list[int]:
        lines = machine.processes().items()
        wanted = f"pymachine_driver_qemu.ports {machine.store}/machines/{NAME}"
        return [pid for pid, line in lines if wanted in line and not line.startswith("/bin/sh")]

    until(lambda: serves(WEB), deadline=60, what="the port on ::1")
    for pid in forwarders():
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_closed(WEB), deadline=60, what="the forwarder to end")
    until(lambda: serves(WEB), deadline=60, what="the port on ::1 again")


def test_both_last_over_a_restart_and_can_be_turned_off(machine: Pymachine, server: int) -> None:
    machine("restart", NAME)
    until(lambda: serves(WEB), deadline=60, what="the port on ::1")
    check_guest_and_container_reach_the_host(machine, server)

    machine("modify", "--no-ipv6", "--no-ipv6-ports", "--restart", NAME)
    own = machine("ip", NAME).stdout.strip()
    until(lambda: forwarded(machine, WEB) == {own: ""}, deadline=60, what="the report")
    assert serves(WEB, own)
    assert is_closed(WEB)
    machine("ssh", NAME, get_text(server), code=1)


def test_a_machine_without_the_option_has_no_ipv6(intro: Pymachine) -> None:
    found = intro("ssh", "intro", "ip -6 address show dev eth0; echo routes; ip -6 route").stdout
    addresses, _, routes = found.partition("routes\n")
    assert "global" not in addresses
    assert "default" not in routes

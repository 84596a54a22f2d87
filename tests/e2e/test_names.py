"""Names in guests and containers, on a host with a company's name server."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support import processes
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

SECONDS = 120.0
PORT = 8765
HOSTS = "127.0.0.1 localhost\n127.0.0.1 shop.test\n192.0.2.9 printer.test printer\n"
IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin
for name in sh cat ping wget sleep; do ln -s busybox /tmp/box/bin/$name; done
tar -C /tmp/box -c . | docker import - box; docker network create own"""
# The first line of `ping` has the address. Nothing answers there.
LOOK_UP = r"""for name in wiki.corp.example wiki printer.test; do
    ping -c 1 -w 1 $name | { read -r line; echo "$line"; }
done
for name in host.docker.internal shop.test; do wget -q -O - http://$name:8765/; done"""


@dataclass
class Network:
    """A host of its own, in a network namespace and with its own files in /etc."""

    folder: Path
    enter: Sequence[str]
    """The beginning of a command that runs in the namespaces."""

    def use_name_server(self, address: str, domain: str) -> None:
        """Write resolv.conf in place, since it is a bind mount."""
        (self.folder / "resolv.conf").write_text(f"nameserver {address}\nsearch {domain}\n")


@contextmanager
def host_network(folder: Path) -> Iterator[Network]:
    """Start a network with name servers at 127.0.0.53 and 127.0.0.54, which disagree, and a web server."""
    (folder / "hosts").write_text(HOSTS)
    (folder / "index.html").write_text("from the host's loopback\n")
    user = [] if os.getuid() == 0 else ["--user"]
    script = """set -e; ip link set lo up
        for file in resolv.conf hosts; do mount --bind "$0/$file" "/etc/$file"; done
        touch "$0/ready"; exec sleep infinity"""
    unshare = ["unshare", "--net", "--mount", *(["--map-root-user"] if user else [])]
    with ExitStack() as stack:
        network = Network(folder, [])
        network.use_name_server("127.0.0.53", "corp.example")
        holder = stack.enter_context(processes.started([*unshare, "sh", "-c", script, str(folder)]))
        until((folder / "ready").exists, deadline=SECONDS, what="the network namespace")
        keep = ["--preserve-credentials"] if user else []
        network.enter = ["nsenter", "--target", str(holder.pid), *user, *keep, "--net", "--mount"]
        web = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), str(PORT)]
        stack.enter_context(processes.started([*network.enter, *web]))
        for server, address in (("127.0.0.53", "192.0.2.7"), ("127.0.0.54", "192.0.2.8")):
            options = ["--no-daemon", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="]
            options += [f"--listen-address={server}", "--bind-interfaces", f"--address=/wiki.corp.example/{address}"]
            stack.enter_context(processes.started([*network.enter, "/usr/sbin/dnsmasq", *options]))
        yield network


def in_guest(program: Pymachine, command: str) -> str:
    return program("ssh", "one", f"sudo sh -c {shlex.quote(command)}").stdout


def in_container(program: Pymachine, command: str, *options: str) -> str:
    words = ["docker", "run", "--rm", *options, "box", "sh", "-c", command]
    return program("ssh", "one", shlex.join(words)).stdout


def check_answers(output: str, *, wiki: str) -> None:
    for address in (f"wiki.corp.example ({wiki})", f"wiki ({wiki})", "printer.test (192.0.2.9)"):
        assert f"PING {address}" in output
    assert output.count("from the host's loopback") == 2


def test_guest_and_containers_resolve_names_as_their_host(tmp_path: Path) -> None:
    with host_network(tmp_path) as network, private_store() as program:
        program.wrapper = network.enter
        program("create", "--no-share", "one")
        program("ssh", "one", IMPORT)
        check_answers(in_guest(program, LOOK_UP), wiki="192.0.2.7")
        for name in ("bridge", "own", "host"):
            check_answers(in_container(program, LOOK_UP, f"--network={name}"), wiki="192.0.2.7")

        by_option = in_container(program, f"wget -q -O - http://gate:{PORT}/", "--add-host=gate:host-gateway")
        assert by_option == "from the host's loopback\n"

        # A container's own name server at port 53 changes nothing.
        ports = ("--publish=53:53", "--publish=53:53/udp")
        program("ssh", "one", shlex.join(["docker", "run", "-d", "--name=long", *ports, "box", "sleep", "3600"]))
        check_answers(in_container(program, LOOK_UP, "--network=own"), wiki="192.0.2.7")

        # The host changes to another network, and running containers follow.
        network.use_name_server("127.0.0.54", "corp.example")
        ping = "docker exec long ping -c 1 -w 1 wiki.corp.example; true"
        until(
            lambda: "(192.0.2.8)" in program("ssh", "one", ping).stdout,
            deadline=SECONDS,
            what="answers of the new name server",
        )

        # The host's own files are read again at each start.
        (tmp_path / "hosts").write_text(HOSTS.replace("192.0.2.9", "192.0.2.10"))
        program("restart", "one")
        assert "PING printer.test (192.0.2.10)" in in_guest(program, LOOK_UP)
        assert "PING printer.test (192.0.2.10)" in in_container(program, LOOK_UP, "--network=own")

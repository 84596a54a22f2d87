"""Names in guests and containers, on a host with a company's name server."""

from __future__ import annotations

import json
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
# Containers in each kind of network. One has a name server of its own, at the guest's port 53.
START = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin
for name in sh cat ping wget sleep; do ln -s busybox /tmp/box/bin/$name; done
tar -C /tmp/box -c . | docker import - box; docker network create own
start() { docker run -d --name=$1 --network=$1 --restart=always --stop-signal=KILL $2 box sleep 86400; }
start own "--publish=53:53 --publish=53:53/udp"
start bridge --add-host=gate:host-gateway
start host"""
NETWORKS = ("own", "bridge", "host")
# The first line of `ping` has the address. Nothing answers there.
LOOK_UP = r"""for name in wiki.corp.example wiki printer.test; do
    ping -c 1 -w 1 $name | { read -r line; echo "$line"; } &
done
wait
for name in host.docker.internal shop.test; do wget -q -O - http://$name:8765/; done"""
# Sockets of dnsmasq that the host would forward.
QUERIES = """awk '$4 == "07" && $8 == 953 && $2 ~ /^00000000/' /proc/net/udp"""
SILENT = """import socket, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.55", 53))
time.sleep(86400)"""


@dataclass
class Network:
    """A host of its own, in a network namespace and with its own files in /etc."""

    folder: Path
    enter: Sequence[str]
    """The beginning of a command that runs in the namespaces."""

    def use_name_server(self, address: str) -> None:
        """Write resolv.conf in place, since it is a bind mount."""
        (self.folder / "resolv.conf").write_text(f"nameserver {address}\nsearch corp.example\n")


@contextmanager
def host_network(folder: Path) -> Iterator[Network]:
    """Start a network with a web server, and name servers.

    Those at 127.0.0.53 and 127.0.0.54 disagree. That at 127.0.0.55 does not answer.
    """
    (folder / "hosts").write_text(HOSTS)
    (folder / "index.html").write_text("from the host's loopback\n")
    user = [] if os.getuid() == 0 else ["--user"]
    script = """set -e; ip link set lo up
        for file in resolv.conf hosts; do mount --bind "$0/$file" "/etc/$file"; done
        touch "$0/ready"; exec sleep infinity"""
    unshare = ["unshare", "--net", "--mount", *(["--map-root-user"] if user else [])]
    with ExitStack() as stack:
        network = Network(folder, [])
        network.use_name_server("127.0.0.53")
        holder = stack.enter_context(processes.started([*unshare, "sh", "-c", script, str(folder)]))
        until((folder / "ready").exists, deadline=SECONDS, what="the network namespace")
        keep = ["--preserve-credentials"] if user else []
        network.enter = ["nsenter", "--target", str(holder.pid), *user, *keep, "--net", "--mount"]
        web = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), str(PORT)]
        stack.enter_context(processes.started([*network.enter, *web]))
        stack.enter_context(processes.started([*network.enter, sys.executable, "-c", SILENT]))
        for server, address in (("127.0.0.53", "192.0.2.7"), ("127.0.0.54", "192.0.2.8")):
            options = ["--no-daemon", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="]
            options += [f"--listen-address={server}", "--bind-interfaces", f"--address=/wiki.corp.example/{address}"]
            stack.enter_context(processes.started([*network.enter, "/usr/sbin/dnsmasq", *options]))
        yield network


def in_guest(program: Pymachine, command: str) -> str:
    return program("ssh", "one", f"sudo sh -c {shlex.quote(command)}").stdout


def in_container(program: Pymachine, network: str, command: str) -> str:
    return program("ssh", "one", shlex.join(["docker", "exec", network, "sh", "-c", command])).stdout


def check_answers(program: Pymachine, *, wiki: str, printer: str = "192.0.2.9") -> None:
    for output in (in_guest(program, LOOK_UP), *(in_container(program, network, LOOK_UP) for network in NETWORKS)):
        for answer in (f"wiki.corp.example ({wiki})", f"wiki ({wiki})", f"printer.test ({printer})"):
            assert f"PING {answer}" in output
        assert output.count("from the host's loopback") == 2


def await_wiki(program: Pymachine, address: str) -> None:
    """Wait until the guest resolves the wiki's name to this address."""
    ping = "ping -c 1 -w 1 wiki.corp.example || true"
    until(lambda: f"({address})" in in_guest(program, ping), deadline=SECONDS, what=f"the answer {address}")


def forwarded(program: Pymachine) -> list[tuple[str, int]]:
    return [(port["Protocol"], port["Port"]) for port in json.loads(program("ports", "--json", "one").stdout)]


def test_guest_and_containers_resolve_names_as_their_host(tmp_path: Path) -> None:
    with host_network(tmp_path) as network, private_store() as program:
        program.wrapper = network.enter
        program("create", "--no-share", "one")
        program("ssh", "one", START)
        check_answers(program, wiki="192.0.2.7")
        by_option = in_container(program, "bridge", f"wget -q -O - http://gate:{PORT}/")
        assert by_option == "from the host's loopback\n"

        # The host changes to another network, and running containers follow.
        network.use_name_server("127.0.0.54")
        await_wiki(program, "192.0.2.8")
        check_answers(program, wiki="192.0.2.8")

        # The guest's name server is started again.
        in_guest(program, "kill -KILL $(pidof dnsmasq)")
        await_wiki(program, "192.0.2.8")

        # Its sockets stay open while it waits for an answer, and are not forwarded.
        network.use_name_server("127.0.0.55")
        program("ssh", "one", "docker exec -d own sh -c 'while :; do ping -c 1 -w 1 silent.test; done'")
        until(lambda: in_guest(program, QUERIES) != "", deadline=SECONDS, what="a query without an answer")
        program("ssh", "one", "docker run -d --name=last --publish=8766:80 box sleep 86400")
        until(lambda: ("tcp", 8766) in forwarded(program), deadline=SECONDS, what="a report after that")
        assert in_guest(program, QUERIES)
        assert sorted(forwarded(program)) == [("tcp", 53), ("tcp", 8766), ("udp", 53)]

        # The host's own files are read again at each start.
        network.use_name_server("127.0.0.53")
        (tmp_path / "hosts").write_text(HOSTS.replace("192.0.2.9", "192.0.2.10"))
        program("restart", "one")
        check_answers(program, wiki="192.0.2.7", printer="192.0.2.10")

"""Names and search domains in guests and containers, on a host with a company's name server."""

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
from support.guest_scripts import in_guest
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

SECONDS = 120.0
PORT = 8765
HOSTS = "127.0.0.1 localhost\n127.0.0.1 shop.test\n192.0.2.9 printer.test printer\n"
# Containers in each kind of network. One has a name server of its own, at the guest's port 53. Only one runs again
# after a restart, since loading containers is slow in emulation.
START = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin
for name in sh cat ping wget sleep; do ln -s busybox /tmp/box/bin/$name; done
tar -C /tmp/box -c . | docker import - box; docker network create own
start() { docker run -d --name=$1 --network=$1 --stop-signal=KILL $2 box sleep 86400; }
start own "--publish=53:53 --publish=53:53/udp"
start bridge "--restart=always --add-host=gate:host-gateway"
start host"""
NETWORKS = ("own", "bridge", "host")
# The first line of `ping` has the address. Nothing answers there.
LOOK_UP = r"""cat /etc/resolv.conf
for name in wiki.corp.example wiki printer.test; do
    ping -c 1 -w 1 $name | { read -r line; echo "$line"; } &
done
wait
for name in host.docker.internal shop.test; do wget -q -O - http://$name:8765/; done"""
# The DHCP client writes resolv.conf again.
RENEW_LEASE = """: > /etc/resolv.conf
for each in $(pidof udhcpc); do kill -USR1 $each; done
wait_for grep nameserver /etc/resolv.conf
cat /etc/resolv.conf"""
WAIT_FOR_OTHER_NETWORK = """has_address() { ping -c 1 -w 1 wiki.corp.example | grep "(192.0.2.8)"; }
wait_for has_address"""
# In the background. The login would wait for its output.
LOOK_UP_WITHOUT_END = """{
    exec < /dev/null > /dev/null 2>&1
    inside own sh -c 'while :; do ping -c 1 -w 1 silent.test; done'
} &"""
# Print sockets of dnsmasq that the host would forward.
QUERIES = """queries() { awk '$4 == "07" && $8 == 953 && $2 ~ /^00000000/' /proc/net/udp | grep .; }"""
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

    def use_name_server(self, address: str, *, domains: str = "corp.example lab.example") -> None:
        """Write resolv.conf in place, since it is a bind mount."""
        (self.folder / "resolv.conf").write_text(f"nameserver {address}\nsearch {domains}\n")


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


def look_up(containers: Sequence[str] = NETWORKS) -> str:
    """Return the command that runs LOOK_UP in the guest and in containers at the same time."""
    places = shlex.join(["guest", *containers])
    return f"""look_up={shlex.quote(LOOK_UP)}
sh -c "$look_up" > /tmp/guest &
for each in {shlex.join(containers)}; do inside $each sh -c "$look_up" > /tmp/$each & done
wait
for each in {places}; do echo "answers in $each"; cat /tmp/$each; done"""


def check_answers(
    output: str,
    *,
    containers: Sequence[str] = NETWORKS,
    wiki: str,
    printer: str = "192.0.2.9",
    domains: str = "corp.example lab.example",
) -> None:
    """Check the output of `look_up`."""
    _, *sections = output.split("answers in ")
    assert [section.partition("\n")[0] for section in sections] == ["guest", *containers]
    for section in sections:
        for answer in (f"wiki.corp.example ({wiki})", f"wiki ({wiki})", f"printer.test ({printer})"):
            assert f"PING {answer}" in section
        assert section.count("from the host's loopback") == 2
        assert "169.254.53.53" in section
        assert search_lines(section) == [f"search {domains}"]


def search_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("search")]


def forwarded(program: Pymachine) -> list[tuple[str, int]]:
    return [(port["Protocol"], port["Port"]) for port in json.loads(program("ports", "--json", "one").stdout)]


def test_guest_and_containers_resolve_names_as_their_host(tmp_path: Path) -> None:
    with host_network(tmp_path) as network, private_store() as program:
        program.wrapper = network.enter
        # The template has no search domains. Each clone gets those of its host.
        program("create", "--no-share", "one")
        program("ssh", "one", START)
        check_answers(in_guest(program, "one", look_up()), wiki="192.0.2.7")

        # The host changes to another network, and running containers follow.
        network.use_name_server("127.0.0.54")
        answers = in_guest(program, "one", WAIT_FOR_OTHER_NETWORK, look_up())
        check_answers(answers, wiki="192.0.2.8")

        # The guest's name server is started again. A new lease changes nothing.
        gate = f"inside bridge wget -q -O - http://gate:{PORT}/"
        output = in_guest(program, "one", "kill -KILL $(pidof dnsmasq)", WAIT_FOR_OTHER_NETWORK, RENEW_LEASE, gate)
        assert "nameserver 169.254.53.53\n" in output
        assert search_lines(output) == ["search corp.example lab.example"]
        assert output.endswith("from the host's loopback\n")

        # The sockets of the name server stay open while it waits for an answer, and are not forwarded.
        network.use_name_server("127.0.0.55")
        in_guest(program, "one", LOOK_UP_WITHOUT_END, QUERIES, "wait_for queries", "busybox httpd -p 8766")
        until(lambda: ("tcp", 8766) in forwarded(program), deadline=SECONDS, what="a report after that")
        assert in_guest(program, "one", QUERIES, "queries")
        assert sorted(forwarded(program)) == [("tcp", 53), ("tcp", 8766), ("udp", 53)]

        # The host's own files are read again at each start.
        network.use_name_server("127.0.0.53", domains="corp.example home.example")
        (tmp_path / "hosts").write_text(HOSTS.replace("192.0.2.9", "192.0.2.10"))
        program("restart", "one")
        check_answers(
            in_guest(program, "one", look_up(["bridge"])),
            containers=["bridge"],
            wiki="192.0.2.7",
            printer="192.0.2.10",
            domains="corp.example home.example",
        )

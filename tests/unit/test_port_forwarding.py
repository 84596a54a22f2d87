"""The port forwarder, which forwards the ports that the guest reports, with a stand-in for QEMU's monitor."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pymachine.driver.kit import forwarded_ports, guest_listeners, listen_queues, port_forwarding as forwarders
from pymachine.driver.kit.port_forwarding import Forwarder, Target
from pymachine.driver.kit.user_network import Published, UserNetwork
from support import unprivileged
from support.ipv6 import NEEDS_LOOPBACK

FIRST_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
TARGET = Target(address="127.0.0.1", docker_port=2376, ssh_port=22022, netdev="net")


class Machine:
    """A forwarder whose monitor records the commands to QEMU; it also records what the forwarder logs."""

    def __init__(self, folder: Path, target: Target = TARGET, *, usernet: str = "") -> None:
        self.folder = folder
        self.commands: list[str] = []
        self.logged: list[str] = []
        self.lengthened = 0
        self.usernet = usernet
        self.forwarder = Forwarder(folder, target, monitor=self.monitor, lengthen=self.lengthen, say=self.logged.append)

    def monitor(self, line: str) -> str:
        if line == "info usernet":
            return self.usernet
        self.commands.append(line)
        return ""

    def lengthen(self) -> None:
        self.lengthened += 1
        raise listen_queues.BacklogError("not here")

    def report(self, *ports: int) -> None:
        words = " ".join([guest_listeners.WORD, *(f"tcp/00000000:{port:04X}" for port in ports)])
        self.forwarder.hear(f"{words}\n".encode())

    def saved(self) -> Any:
        return json.loads((self.folder / forwarded_ports.FILE).read_text())


@pytest.fixture
def free() -> int:
    """A port that no program uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_ports_over_the_limit_are_recorded_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarders, "refusal", lambda *_: "")
    machine = Machine(tmp_path)
    most = guest_listeners.MOST_PORTS
    ports = range(3000, 3000 + most + 1000)
    machine.report(*ports)
    rows = machine.saved()
    assert [row["Port"] for row in rows if not row["Problem"]] == list(ports[:most])
    # Not all: a guest could have the file grow with each report.
    assert [row["Port"] for row in rows if row["Problem"] == "the limit is 256 ports"] == list(ports[most:][:64])
    assert machine.logged[0] == "1000 open ports of the guest are not forwarded: the limit is 256 ports"
    machine.report(*ports[1:][:most])
    assert not [row for row in machine.saved() if row["Problem"]]
    machine.forwarder.clear()
    assert machine.saved() == []


@NEEDS_LOOPBACK
def test_forwarded_ports_are_on_the_ipv6_loopback_too(tmp_path: Path, free: int) -> None:
    """Also after another program has freed the port there, but not while QEMU does not forward it."""
    machine = Machine(tmp_path, dataclasses.replace(TARGET, ipv6=True))
    machine.report(free)
    assert [(row["Address"], row["Problem"]) for row in machine.saved()] == [("127.0.0.1", ""), ("::1", "")]
    assert f"forwarding [::1]:{free}/tcp" in machine.logged
    with socket.create_connection(("::1", free), timeout=10):
        pass
    machine.forwarder.clear()
    assert machine.saved() == []
    with socket.create_server(("::1", free), family=socket.AF_INET6):
        machine.report(free)
        ours, theirs = machine.saved()
        assert (ours["Problem"], theirs["Address"]) == ("", "::1")
        assert "in use by another program" in theirs["Problem"]
        assert machine.forwarder.wants_retry
    machine.forwarder.retry()
    assert [row["Problem"] for row in machine.saved()] == ["", ""]
    machine.forwarder.clear()
    with socket.create_server(("127.0.0.1", free)):
        machine.report(free)
        assert [row["Address"] for row in machine.saved()] == ["127.0.0.1"]


@NEEDS_LOOPBACK
def test_ports_of_an_earlier_forwarder_are_on_the_ipv6_loopback_again(tmp_path: Path, free: int) -> None:
    usernet = f"  TCP[HOST_FORWARD] 100  127.0.0.1  {free}  10.0.2.15  {free}  0  0\n"
    machine = Machine(tmp_path, dataclasses.replace(TARGET, ipv6=True), usernet=usernet)
    machine.forwarder.adopt()
    assert [(row["Address"], row["Problem"]) for row in machine.saved()] == [("127.0.0.1", ""), ("::1", "")]
    machine.forwarder.clear()


@NEEDS_LOOPBACK
@pytest.mark.skipif(FIRST_PORT <= 1, reason="this host reserves no ports for root")
def test_a_port_reserved_for_root_is_refused_with_the_reason() -> None:
    script = (
        "from pymachine.driver.kit import port_forwarding, user_network\n"
        "for address in ('127.0.0.1', '::1'):\n"
        "    print(port_forwarding.refusal(address, user_network.Published('tcp', 1)))"
    )
    command = [*unprivileged.as_user(unprivileged.USERS[-1]), sys.executable, "-c", script]
    refusal = subprocess.run(command, capture_output=True, text=True, check=True)
    reason = "ports below net.ipv4.ip_unprivileged_port_start are reserved for root"
    assert refusal.stdout.splitlines() == [reason] * 2


def test_an_address_that_this_host_does_not_have_is_refused() -> None:
    assert forwarders.refusal("2001:db8::1", Published("tcp", 8080)) == "this host does not have the address"


def test_a_log_that_reaches_its_limit_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "ports.log"
    script = (
        "from pymachine.driver.kit.port_forwarding import log\n"
        f"for n in range(30): log('x' * {forwarders.LARGEST_LOG // 20})"
    )
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", script], stdout=output, check=True)
    assert 0 < log.stat().st_size < 1.1 * forwarders.LARGEST_LOG


def test_a_full_disk_does_not_end_the_forwarder(tmp_path: Path, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(forwarded_ports, "save", Mock(side_effect=OSError(28, "No space left on device")))
        machine.report(free)
        machine.report(free)
    assert [line for line in machine.logged if "record" in line] == [
        "cannot record the forwarded ports: No space left on device"
    ]
    machine.report(free)
    assert [row["Port"] for row in machine.saved()] == [free]
    with Path("/dev/full").open("w") as output:
        script = "from pymachine.driver.kit.port_forwarding import log; log('one'); log('two')"
        subprocess.run([sys.executable, "-c", script], stdout=output, check=True)


def test_reported_ports_are_forwarded_and_saved(tmp_path: Path, free: int) -> None:
    machine = Machine(tmp_path)
    machine.forwarder.hear(b"listening tcp/0000")
    assert machine.commands == []
    machine.forwarder.hear(b"\n")
    machine.report(free)
    machine.report(free)
    assert machine.commands == [f"hostfwd_add net tcp:127.0.0.1:{free}-:{free}"]
    assert machine.saved() == [{"Protocol": "tcp", "Port": free, "Address": "127.0.0.1", "Problem": ""}]
    assert machine.lengthened == 1
    machine.forwarder.clear()
    assert machine.commands[1:] == [f"hostfwd_remove net tcp:127.0.0.1:{free}"]
    assert machine.saved() == []


def test_ports_of_an_earlier_forwarder_are_removed_if_the_guest_stays_silent(
    tmp_path: Path, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarders, "_SILENCE_SECONDS", 0.0)
    usernet = f"  TCP[HOST_FORWARD] 100  127.0.0.1  {free}  10.0.2.15  {free}  0  0\n"
    machine = Machine(tmp_path, usernet=usernet)
    machine.forwarder.adopt()
    machine.report(free)
    machine.forwarder.retry()
    assert (machine.commands, machine.forwarder.wants_retry) == ([], False)
    machine.forwarder.adopt()
    assert machine.forwarder.wants_retry
    machine.forwarder.retry()
    assert machine.commands == [f"hostfwd_remove net tcp:127.0.0.1:{free}"]
    assert (machine.saved(), machine.forwarder.wants_retry) == ([], False)


def test_ports_are_recorded_without_waiting_for_the_disk(
    tmp_path: Path, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", Mock(side_effect=AssertionError("waits for the disk")))
    machine = Machine(tmp_path)
    machine.report(free)
    assert [row["Port"] for row in machine.saved()] == [free]


def test_queues_that_cannot_be_lengthened_are_reported_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.forwarder.lengthen_queues()
    machine.forwarder.lengthen_queues()
    assert machine.logged == ["cannot lengthen the queues of the ports: not here"]


def test_a_port_that_another_program_uses_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        machine.report(port)
        assert (machine.commands, machine.forwarder.wants_retry) == ([], True)
        assert "in use by another program" in machine.saved()[0]["Problem"]
        machine.forwarder.retry()
    machine.forwarder.retry()
    # The last attempt is too recent.
    assert machine.commands == []
    monkeypatch.setattr(forwarders, "RETRY_SECONDS", 0.0)
    machine.forwarder._retry_at = 0.0
    machine.forwarder.retry()
    assert machine.commands == [f"hostfwd_add net tcp:127.0.0.1:{port}-:{port}"]
    assert not machine.forwarder.wants_retry
    assert machine.saved()[0]["Problem"] == ""


@pytest.mark.parametrize(("port", "whose"), [(2400, "engine"), (22022, "SSH")])
def test_the_machines_own_ports_are_never_forwarded(tmp_path: Path, port: int, whose: str) -> None:
    target = Target(address="127.0.0.1", docker_port=2400, ssh_port=22022, netdev="net")
    machine = Machine(tmp_path, target)
    machine.report(port)
    machine.forwarder.retry()
    assert machine.commands == []
    assert machine.saved()[0]["Problem"] == f"the machine's own {whose} uses it"


USERNET = """\
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD] 100               *  8888       10.0.2.15  8888     0     0
  TCP[HOST_FORWARD] 101               *  2376       10.0.2.15  2376     0     0
  TCP[HOST_FORWARD] 102               * 22022       10.0.2.15    22     0     0
"""


def test_on_a_remote_host_qemu_listens_on_all_addresses(tmp_path: Path) -> None:
    """Existing forwards are adopted; only QEMU knows whether a port is taken on its host."""
    machine = Machine(tmp_path, Target(address="", docker_port=2376, ssh_port=22022, netdev="net"), usernet=USERNET)
    machine.forwarder.adopt()
    with socket.create_server(("", 0)) as here:
        port = int(here.getsockname()[1])
        machine.report(port)
    assert machine.commands == [
        "hostfwd_remove net tcp::8888",
        f"hostfwd_add net tcp::{port}-:{port}",
    ]


def test_a_refused_port_that_qemu_forwards_after_all_is_no_problem(tmp_path: Path) -> None:
    """The connection ended between the command and its answer."""
    refusing = forwarded_ports.Forwards(
        UserNetwork(monitor=lambda line: "no", netdev="net", address=""), say=lambda _: None
    )
    refusing.follow({Published("tcp", 8888)})
    refusing._network = UserNetwork(monitor=lambda _: USERNET, netdev="net", address="")
    refusing.adopt()
    assert Published("tcp", 8888) in refusing.active
    assert refusing.refused == {}


def test_too_many_ports_are_reported_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Target(address="", docker_port=2376, ssh_port=22022, netdev="net"))
    machine.report(*range(3000, 3300))
    machine.report(*range(3000, 3300))
    assert len(machine.commands) == guest_listeners.MOST_PORTS
    assert [line for line in machine.logged if line.startswith("44 open ports of the guest are not forwarded")] != []
    assert len([line for line in machine.logged if "are not forwarded" in line]) == 1

"""Ports that containers publish, and the forwards that follow them."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest.mock import Mock

import pytest

from pymachine.cli import ports
from pymachine.driver.abilities import ForwardedPort, PortForwardable
from pymachine.driver.kit import forwarded_ports
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.user_network import Published, UserNetwork
from pymachine.system.wait import until
from pymachine_driver_qemu import background


class Monitor:
    """Records the commands to QEMU; refuses ports below 1024, as a kernel does."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def human(self, line: str) -> str:
        self.lines.append(line)
        return "could not set up host forwarding rule" if ":80-" in line else ""


def test_forwards_follow_published_ports_and_a_refusal_is_reported_once() -> None:
    monitor = Monitor()
    said: list[str] = []
    forwards = forwarded_ports.Forwards(
        UserNetwork(monitor=monitor.human, netdev="net", address="127.70.1.2"), say=said.append
    )
    forwards.follow({Published("tcp", 8080), Published("tcp", 80), Published("udp", 53000)})
    assert monitor.lines == [
        "hostfwd_add net tcp:127.70.1.2:80-:80",
        "hostfwd_add net tcp:127.70.1.2:8080-:8080",
        "hostfwd_add net udp:127.70.1.2:53000-:53000",
    ]
    assert [line for line in said if "cannot forward 127.70.1.2:80/tcp" in line]
    monitor.lines.clear()
    forwards.follow({Published("tcp", 8080), Published("tcp", 80)})
    assert monitor.lines == ["hostfwd_remove net udp:127.70.1.2:53000"]
    monitor.lines.clear()
    forwards.follow({Published("tcp", 8080)})
    forwards.follow({Published("tcp", 8080), Published("tcp", 80)})
    assert monitor.lines == ["hostfwd_add net tcp:127.70.1.2:80-:80"]


def test_a_refused_port_is_retried_until_it_is_free() -> None:
    monitor = Monitor()
    obstacles = {Published("tcp", 8080): "taken"}
    said: list[str] = []
    forwards = forwarded_ports.Forwards(
        UserNetwork(monitor=monitor.human, netdev="net", address="127.70.1.2"),
        say=said.append,
        obstacle=lambda port: obstacles.get(port, ""),
    )
    forwards.follow({Published("tcp", 8080)})
    forwards.retry()
    assert (monitor.lines, forwards.active, len(said)) == ([], set(), 1)
    assert forwards.refused == {Published("tcp", 8080): "taken"}
    obstacles.clear()
    forwards.retry()
    assert monitor.lines == ["hostfwd_add net tcp:127.70.1.2:8080-:8080"]
    assert (forwards.active, forwards.refused) == ({Published("tcp", 8080)}, {})


def test_a_port_published_on_the_machines_address_targets_it_in_the_guest() -> None:
    monitor = Monitor()
    forwards = forwarded_ports.Forwards(
        UserNetwork(monitor=monitor.human, netdev="net", address="127.70.1.2"), say=lambda _: None
    )
    forwards.follow({Published("udp", 53, "127.70.1.2")})
    # Open on every address now: the earlier forward makes room first.
    forwards.follow({Published("udp", 53)})
    assert monitor.lines == [
        "hostfwd_add net udp:127.70.1.2:53-127.70.1.2:53",
        "hostfwd_remove net udp:127.70.1.2:53",
        "hostfwd_add net udp:127.70.1.2:53-:53",
    ]


USERNET = """\
Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD] 100      127.70.1.2  8888      127.70.1.2  8888     0     0
  TCP[TIME_WAIT]     21      127.70.1.2 22022       10.0.2.15    22     0     0
  TCP[HOST_FORWARD] 101      127.70.1.2  8081       10.0.2.15  8081     0     0
  UDP[HOST_FORWARD]  18      127.70.1.2  5353       10.0.2.15  5353     0     0
  TCP[ESTABLISHED]  109      127.70.1.2  2376       10.0.2.15  2376     0     0
"""


def test_forwards_of_an_earlier_forwarder_are_adopted() -> None:
    """The text is QEMU 7.2's."""
    forwards = forwarded_ports.Forwards(
        UserNetwork(monitor=lambda _: USERNET, netdev="net", address="127.70.1.2"), say=lambda _: None
    )
    forwards.adopt()
    assert forwards.active == {
        Published("tcp", 8888, "127.70.1.2"),
        Published("tcp", 8081),
        Published("udp", 5353),
    }


def test_forwarded_ports_are_saved(tmp_path: Path) -> None:
    monitor = Monitor()
    forwards = forwarded_ports.Forwards(
        UserNetwork(monitor=monitor.human, netdev="net", address="127.70.1.2"), say=lambda _: None
    )
    forwards.follow({Published("tcp", 80), Published("tcp", 8080)})
    assert forwarded_ports.load(tmp_path) == []
    forwarded_ports.save(tmp_path, forwards.rows())
    before = (tmp_path / forwarded_ports.FILE).stat().st_ino
    forwarded_ports.save(tmp_path, forwards.rows())
    assert (tmp_path / forwarded_ports.FILE).stat().st_ino == before
    taken, forwarded = forwarded_ports.load(tmp_path)
    assert (taken.port, taken.problem.startswith("could not set up")) == (80, True)
    assert forwarded == ForwardedPort("tcp", 8080, "127.70.1.2")
    (tmp_path / forwarded_ports.FILE).write_text('[{"Port": 1}]')
    assert forwarded_ports.load(tmp_path) == []


# -- who follows them --------------------------------------------------------------------------------------------


def test_an_endless_line_of_a_guest_ends_the_waiting_shell(tmp_path: Path) -> None:
    """It would otherwise use up the host's memory."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            background.follow_ports(tmp_path, ListenAddress("127.0.0.1", 2376, 22022), ipv6=False, reports=theirs)
        with pytest.raises(OSError, match="Broken pipe|Connection reset"):
            for _ in range(1000):
                ours.sendall(b"x" * 1024 * 1024)


def test_a_watcher_waits_for_events_and_ends_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is a script here; the shell that waits for it is the real one."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$*" > "$4.ran"\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    listen = ListenAddress("127.0.0.1", 2376, 22022)
    folders = [tmp_path / "told", tmp_path / "ended"]
    for folder in folders:
        folder.mkdir()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                background.follow_ports(folder, listen, ipv6=False, reports=theirs)
            if folder.name == "told":
                ours.sendall(b"containers\n")
                until((tmp_path / "told.ran").exists, deadline=10, what="the watcher")
            ours.shutdown(socket.SHUT_WR)
            # The shell's end of the connection is closed with it.
            ours.settimeout(10)
            assert ours.recv(1) == b""
    assert not (tmp_path / "ended.ran").exists()
    assert (tmp_path / "told.ran").read_text() == f"-P -m pymachine_driver_qemu.ports {folders[0]}\n"
    assert "pymachine_driver_qemu.ports" in (folders[1] / background.PORTS.log).read_text()


def test_a_problem_at_the_ipv6_loopback_is_named_with_that_address() -> None:
    found = [ForwardedPort("tcp", 80, "127.70.1.2"), ForwardedPort("tcp", 80, "::1", "in use")]
    assert ports.problem(Mock(PortForwardable, forwarded_ports=lambda: found)) == "not forwarded: [::1]:80/tcp: in use"


def test_one_line_names_only_some_of_many_problems() -> None:
    def problem(count: int) -> str:
        found = [ForwardedPort("tcp", port, "127.70.1.2", "in use") for port in range(1, count + 1)]
        return ports.problem(Mock(PortForwardable, forwarded_ports=lambda: found))

    assert problem(0) == ""
    assert problem(2) == "not forwarded: 1/tcp: in use; 2/tcp: in use"
    assert problem(5).endswith("; 5/tcp: in use")
    assert problem(70).endswith("; 5/tcp: in use; and 65 more, see `pymachine ports`")

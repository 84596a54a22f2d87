"""Ports that containers publish, and the forwards that follow them."""

from __future__ import annotations

from pymachine import published
from pymachine.published import Published


def test_what_is_published_is_read_from_the_engines_answer() -> None:
    answer = [
        {
            "Ports": [
                {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"},
                {"IP": "::", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"},
                {"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 5353, "Type": "udp"},
                {"PrivatePort": 443, "Type": "tcp"},
                {"IP": "127.0.0.1", "PrivatePort": 1, "PublicPort": 9999, "Type": "tcp"},
                {"IP": "0.0.0.0", "PrivatePort": 2, "PublicPort": 9998, "Type": "sctp"},
            ]
        },
        {"Ports": None},
        {},
    ]
    assert published.published(answer) == {Published("tcp", 32768), Published("udp", 5353)}


class Monitor:
    """Remembers what QEMU was told; refuses ports below 1024, as a kernel does."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def human(self, line: str) -> str:
        self.lines.append(line)
        return "could not set up host forwarding rule" if ":80-" in line else ""


def test_forwards_follow_what_is_published_and_a_refusal_is_said_once() -> None:
    monitor = Monitor()
    said: list[str] = []
    forwards = published.Forwards(monitor.human, netdev="net", address="127.70.1.2", say=said.append)
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

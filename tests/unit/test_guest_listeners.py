"""What guests report, and what of it is forwarded."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.kit import guest_listeners
from pymachine.driver.kit.user_network import Published

OWN = "127.76.207.250"
EVERYWHERE6 = "0" * 32


def v4(address: str) -> str:
    """As ``/proc/net/tcp`` has it on a little-endian processor."""
    return bytes(reversed([int(part) for part in address.split(".")])).hex().upper()


def report(*sockets: str) -> str:
    return " ".join((guest_listeners.WORD, *sockets))


@pytest.mark.parametrize(
    ("socket", "port"),
    [
        ("tcp/00000000:1F90", Published("tcp", 8080)),
        (f"tcp/{EVERYWHERE6}:1F90", Published("tcp", 8080)),
        (f"tcp/{v4('10.0.2.15')}:1F90", Published("tcp", 8080)),
        (f"tcp/0000000000000000FFFF0000{v4('10.0.2.15')}:1F90", Published("tcp", 8080)),
        (f"tcp/{v4(OWN)}:1F90", Published("tcp", 8080, OWN)),
        ("udp/00000000:14E9", Published("udp", 5353)),
        (f"udp/{v4(OWN)}:14E9", Published("udp", 5353, OWN)),
    ],
)
def test_what_is_open_to_the_host_is_forwarded(socket: str, port: Published) -> None:
    assert guest_listeners.wanted(report(socket), own=OWN) == ({port}, 0)


@pytest.mark.parametrize(
    "socket",
    [
        f"tcp/{v4('127.0.0.1')}:1F90",
        f"tcp/{v4('127.0.0.11')}:0035",
        f"tcp/{v4('172.17.0.1')}:1F90",
        "tcp/00000000000000000000000001000000:1F90",
        "tcp/00000000:0016",
        f"tcp/{EVERYWHERE6}:0016",
        "tcp/00000000:0948",
        "udp/00000000:0044",
        "tcp/00000000:0949",
        "udp/00000000:12B5",
        "tcp/00000000:0000",
        # Not what a guest of ours says.
        "tcp/00000000:11F90",
        "tcp/0000000:1F90",
        "sctp/00000000:1F90;quit",
        "tcp/00000000:1f90",
    ],
)
def test_what_is_the_guests_own_or_nonsense_is_not(socket: str) -> None:
    assert guest_listeners.wanted(report(socket), own=OWN) == (set(), 0)


def test_a_port_open_everywhere_is_one_port() -> None:
    sockets = ("tcp/00000000:1F90", f"tcp/{EVERYWHERE6}:1F90", f"tcp/{v4(OWN)}:1F90")
    assert guest_listeners.wanted(report(*sockets), own=OWN)[0] == {Published("tcp", 8080)}


def test_of_too_many_ports_those_that_are_forwarded_stay() -> None:
    sockets = [f"tcp/00000000:{port:04X}" for port in range(3000, 4000)]
    kept = {Published("tcp", 3999), Published("tcp", 3998)}
    ports, left_out = guest_listeners.wanted(report(*sockets), own=OWN, kept=kept)
    assert (len(ports), left_out) == (guest_listeners.MOST_PORTS, 1000 - guest_listeners.MOST_PORTS)
    assert kept <= ports


@given(st.text())
def test_anything_may_be_said(text: str) -> None:
    ports, left_out = guest_listeners.wanted(text, own=OWN)
    assert len(ports) <= guest_listeners.MOST_PORTS
    assert left_out >= 0


@given(st.lists(st.integers(1, 40)))
def test_reports_come_in_pieces_of_any_size(sizes: list[int]) -> None:
    lines = ["containers", report("tcp/00000000:0050"), "nonsense", report("tcp/00000000:1F90"), "cut"]
    data = "\n".join(lines).encode()
    reports, newest = guest_listeners.Reports(), None
    for size in [*sizes, len(data)]:
        newest = reports.feed(data[:size]) or newest
        data = data[size:]
    assert newest == report("tcp/00000000:1F90")


def test_a_line_without_an_end_is_dropped_and_the_next_is_read() -> None:
    reports = guest_listeners.Reports()
    assert reports.feed(guest_listeners.WORD.encode() + b" ") is None
    for _ in range(3):
        assert reports.feed(b"x" * guest_listeners.LONGEST_REPORT) is None
    assert reports.feed(b"tcp/00000000:0050\n") is None
    assert reports.feed(f"{report('tcp/00000000:1F90')}\n".encode()) == report("tcp/00000000:1F90")

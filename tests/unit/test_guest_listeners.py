"""Guests' reports of listening sockets, and the ports that are forwarded for them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.kit import guest_listeners
from pymachine.driver.kit.user_network import Published

OWN = "127.76.207.250"
EVERYWHERE6 = "0" * 32


def kernel_ipv4(address: str) -> str:
    """Return an address as ``/proc/net/tcp`` shows it on a little-endian processor."""
    return bytes(reversed([int(part) for part in address.split(".")])).hex().upper()


def make_report(*sockets: str) -> str:
    return " ".join((guest_listeners.WORD, *sockets))


@pytest.mark.parametrize(
    ("socket", "port"),
    [
        ("tcp/00000000:1F90", Published("tcp", 8080)),
        (f"tcp/{EVERYWHERE6}:1F90", Published("tcp", 8080)),
        (f"tcp/{kernel_ipv4('10.0.2.15')}:1F90", Published("tcp", 8080)),
        (f"tcp/0000000000000000FFFF0000{kernel_ipv4('10.0.2.15')}:1F90", Published("tcp", 8080)),
        (f"tcp/{kernel_ipv4(OWN)}:1F90", Published("tcp", 8080, OWN)),
        ("udp/00000000:14E9", Published("udp", 5353)),
        (f"udp/{kernel_ipv4(OWN)}:14E9", Published("udp", 5353, OWN)),
    ],
)
def test_sockets_open_to_the_host_are_forwarded(socket: str, port: Published) -> None:
    assert guest_listeners.wanted(make_report(socket), own=OWN) == ({port}, set())


@pytest.mark.parametrize(
    "socket",
    [
        f"tcp/{kernel_ipv4('127.0.0.1')}:1F90",
        f"tcp/{kernel_ipv4('127.0.0.11')}:0035",
        f"tcp/{kernel_ipv4('172.17.0.1')}:1F90",
        "tcp/00000000000000000000000001000000:1F90",
        "tcp/00000000:0016",
        f"tcp/{EVERYWHERE6}:0016",
        "tcp/00000000:0948",
        "udp/00000000:0044",
        "tcp/00000000:0949",
        "udp/00000000:12B5",
        "tcp/00000000:0000",
        # Entries that no pymachine guest sends.
        "tcp/00000000:11F90",
        "tcp/0000000:1F90",
        "sctp/00000000:1F90;quit",
        "tcp/00000000:1f90",
    ],
)
def test_the_guests_own_sockets_and_invalid_entries_are_not_forwarded(socket: str) -> None:
    assert guest_listeners.wanted(make_report(socket), own=OWN) == (set(), set())


def test_a_port_open_on_several_addresses_is_forwarded_once() -> None:
    sockets = ("tcp/00000000:1F90", f"tcp/{EVERYWHERE6}:1F90", f"tcp/{kernel_ipv4(OWN)}:1F90")
    assert guest_listeners.wanted(make_report(*sockets), own=OWN)[0] == {Published("tcp", 8080)}


def test_over_the_port_limit_existing_forwards_are_kept() -> None:
    sockets = [f"tcp/00000000:{port:04X}" for port in range(3000, 4000)]
    kept = {Published("tcp", 3999), Published("tcp", 3998)}
    ports, left_out = guest_listeners.wanted(make_report(*sockets), own=OWN, kept=kept)
    assert (len(ports), len(left_out)) == (guest_listeners.MOST_PORTS, 1000 - guest_listeners.MOST_PORTS)
    assert kept <= ports
    assert not ports & left_out


@given(st.text())
def test_any_report_is_accepted_within_the_port_limit(text: str) -> None:
    ports, left_out = guest_listeners.wanted(text, own=OWN)
    assert len(ports) <= guest_listeners.MOST_PORTS
    assert not ports & left_out


@given(st.lists(st.integers(1, 40)))
def test_reports_may_arrive_in_pieces_of_any_size(sizes: list[int]) -> None:
    lines = ["containers", make_report("tcp/00000000:0050"), "nonsense", make_report("tcp/00000000:1F90"), "cut"]
    data = "\n".join(lines).encode()
    reports, newest = guest_listeners.Reports(), None
    for size in [*sizes, len(data)]:
        newest = reports.feed(data[:size]) or newest
        data = data[size:]
    assert newest == make_report("tcp/00000000:1F90")


def test_an_overlong_line_is_dropped_and_the_next_is_read() -> None:
    reports = guest_listeners.Reports()
    assert reports.feed(guest_listeners.WORD.encode() + b" ") is None
    for _ in range(3):
        assert reports.feed(b"x" * guest_listeners.LONGEST_REPORT) is None
    assert reports.feed(b"tcp/00000000:0050\n") is None
    assert reports.feed(f"{make_report('tcp/00000000:1F90')}\n".encode()) == make_report("tcp/00000000:1F90")

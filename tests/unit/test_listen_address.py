"""Listen addresses and ports of machines that are reached on the loopback."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pymachine.driver.kit import listen_address as address
from pymachine.driver.kit.listen_address import DOCKER_PORT, LOOPBACK, SSH_PORT, ListenAddress

linux_only = pytest.mark.skipif(not address.has_own_addresses(), reason="only Linux has all of 127.0.0.0/8")


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[int]:
    with socket.create_server((host, port)) as server:
        yield server.getsockname()[1]


@linux_only
def test_addresses_are_in_the_range_and_not_at_its_edges() -> None:
    found = {address.allocate([], own_address=True).address for _ in range(50)}
    assert len(found) > 40
    for text in found:
        assert ipaddress.ip_address(text) in ipaddress.ip_network("127.64.0.0/10")
        assert not set(text.split(".")[2:]) & {"0", "255"}


@linux_only
def test_a_machine_with_its_own_address_has_the_usual_ports() -> None:
    assert address.allocate([], own_address=True).ports == (DOCKER_PORT, SSH_PORT)


@linux_only
def test_the_address_of_another_machine_is_not_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["127.70.7.7", "127.70.7.8"])
    monkeypatch.setattr(address, "_random_address", lambda: next(drawn))
    found = address.allocate([ListenAddress("127.70.7.7", DOCKER_PORT, SSH_PORT)], own_address=True)
    assert found.address == "127.70.7.8"


@linux_only
def test_an_address_in_use_is_not_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["127.70.7.7", "127.70.7.8"])
    monkeypatch.setattr(address, "_random_address", lambda: next(drawn))
    with listening("127.70.7.7", SSH_PORT):
        assert address.allocate([], own_address=True).address == "127.70.7.8"


@linux_only
def test_a_program_on_all_addresses_makes_the_machine_take_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "SSH_PORT", 22023)
    with listening("0.0.0.0", 22023):
        found = address.allocate([], own_address=True)
    assert found.docker_port == DOCKER_PORT
    assert found.ssh_port not in (22023, DOCKER_PORT)
    assert found.address != LOOPBACK


def test_without_own_addresses_each_machine_has_its_own_ports() -> None:
    places: list[ListenAddress] = []
    for _ in range(5):
        places.append(address.allocate(places, own_address=False))
    assert {listen.address for listen in places} == {LOOPBACK}
    ports = [port for listen in places for port in listen.ports]
    assert len(ports) == len(set(ports))


def test_a_port_is_free_until_a_program_listens() -> None:
    with listening(LOOPBACK) as port:
        assert not address.is_free(LOOPBACK, port)
    assert address.is_free(LOOPBACK, port)

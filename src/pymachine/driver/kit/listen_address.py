"""Where a machine is reached whose ports are forwarded on this host's loopback; for drivers that do so.

On Linux all of 127.0.0.0/8 is this host, so each machine has an address of its own there, and Docker's port is 2376
on every one. Elsewhere only 127.0.0.1 is: there each machine has ports of its own.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pymachine.driver.contract import DOCKER_PORT, Json
from pymachine.errors import DriverError
from pymachine.system import os_errors

# Not 22: ports below 1024 are for root. Not 2222, which much else takes.
SSH_PORT = 22022
LOOPBACK = "127.0.0.1"
# 127.64.0.0 to 127.127.255.255: away from 127.0.0.0/16, where resolvers (127.0.0.53) and name tricks (127.0.53.53,
# 127.0.1.1) live.
_SECOND_BYTES = range(64, 128)
_ATTEMPTS = 16


@dataclass(frozen=True)
class ListenAddress:
    """An address with the two ports that every machine has."""

    address: str
    docker_port: int
    ssh_port: int

    @property
    def ports(self) -> tuple[int, int]:
        """Both ports."""
        return self.docker_port, self.ssh_port


def of(config: Mapping[str, Json]) -> ListenAddress:
    """Return the address that a machine's configuration has."""
    return ListenAddress(
        str(config.get("IPAddress", "")),
        int(config.get("EnginePort", DOCKER_PORT)),
        int(config.get("SSHPort", SSH_PORT)),
    )


def of_all(configs: Iterable[Mapping[str, Json]]) -> list[ListenAddress]:
    """Return the addresses of machines, from their configurations; leave out what is missing or wrong."""
    found = []
    for config in configs:
        try:
            listen = of(config)
        except (TypeError, ValueError, OverflowError):  # another machine's record must not stop this one
            continue
        if config.get("IPAddress"):
            found.append(listen)
    return found


def has_own_addresses() -> bool:
    """Whether every address in 127.0.0.0/8 belongs to this host."""
    return sys.platform == "linux"


def allocate(taken: Iterable[ListenAddress], *, own_address: bool) -> ListenAddress:
    """Return an address that is not in `taken` and where nothing listens now. Raises `DriverError` if there is none."""
    others = list(taken)
    return _own_address({listen.address for listen in others}) if own_address else _own_ports(others)


def is_free(address: str, port: int) -> bool:
    """Whether one could listen on that TCP port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # QEMU sets it too; without it a connection that ended a moment ago makes the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _own_address(taken: Collection[str]) -> ListenAddress:
    for _ in range(_ATTEMPTS):
        address = _random_address()
        if address not in taken and is_free(address, DOCKER_PORT) and is_free(address, SSH_PORT):
            return ListenAddress(address, DOCKER_PORT, SSH_PORT)
    # Something listens on one of the ports on every address (0.0.0.0): keep to an address, take other ports.
    address = _random_address()
    docker_port = DOCKER_PORT if is_free(address, DOCKER_PORT) else _free_port(address, ())
    ssh_port = SSH_PORT if is_free(address, SSH_PORT) else _free_port(address, (docker_port,))
    return ListenAddress(address, docker_port, ssh_port)


def _own_ports(others: Iterable[ListenAddress]) -> ListenAddress:
    taken = {port for listen in others if listen.address == LOOPBACK for port in listen.ports}
    docker_port = DOCKER_PORT
    if docker_port in taken or not is_free(LOOPBACK, docker_port):
        docker_port = _free_port(LOOPBACK, taken)
    return ListenAddress(LOOPBACK, docker_port, _free_port(LOOPBACK, {*taken, docker_port}))


def _random_address() -> str:
    """No byte is at the edge of its range: x.0 and x.255 look like a network's own addresses to some programs."""
    import secrets  # noqa: PLC0415 (of 10 ms, and only `create` comes here)

    second = secrets.choice(_SECOND_BYTES)
    return f"127.{second}.{1 + secrets.randbelow(254)}.{1 + secrets.randbelow(254)}"


def _free_port(address: str, taken: Collection[int]) -> int:
    for _ in range(_ATTEMPTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                raise os_errors.wrapped(DriverError, f"cannot listen on {address}", error) from error
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
    raise DriverError(f"no free port on {address}")

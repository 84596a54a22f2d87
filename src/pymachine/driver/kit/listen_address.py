"""Choose loopback addresses and ports for machines; for drivers that forward ports on this host's loopback.

On Linux, all of 127.0.0.0/8 belongs to this host, so each machine has its own address, and Docker's port is always
2376. Other systems have only 127.0.0.1, so each machine has its own ports.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pymachine.driver.contract import DOCKER_PORT, Json
from pymachine.errors import DriverError
from pymachine.system import os_errors

# Not 22: ports below 1024 are reserved for root. Not 2222, which many other programs use.
SSH_PORT = 22022
LOOPBACK = "127.0.0.1"
# 127.64.0.0 to 127.127.255.255: outside 127.0.0.0/16, with the addresses of resolvers (127.0.0.53) and special names
# (127.0.53.53, 127.0.1.1).
_SECOND_BYTES = range(64, 128)
_ATTEMPTS = 16


@dataclass(frozen=True)
class ListenAddress:
    """A machine's address, Docker port and SSH port."""

    address: str
    docker_port: int
    ssh_port: int

    @property
    def ports(self) -> tuple[int, int]:
        """The Docker port and the SSH port."""
        return self.docker_port, self.ssh_port


def of(config: Mapping[str, Json]) -> ListenAddress:
    """Return a machine's address from its configuration."""
    return ListenAddress(
        str(config.get("IPAddress", "")),
        int(config.get("EnginePort", DOCKER_PORT)),
        int(config.get("SSHPort", SSH_PORT)),
    )


def of_all(configs: Iterable[Mapping[str, Json]]) -> list[ListenAddress]:
    """Return the addresses of machines from their configurations; skip missing and wrong ones."""
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
    """Choose an address that is not in `taken` and where nothing listens. Raises `DriverError` if there is none.

    `own_address` says whether each machine can have its own address.
    """
    others = list(taken)
    return _own_address({listen.address for listen in others}) if own_address else _own_ports(others)


def is_free(address: str, port: int) -> bool:
    """Return whether a program could listen on that TCP port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # QEMU sets this too. Without it, the port looks in use shortly after a connection ended.
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
    # A program listens on one of the ports on every address (0.0.0.0): choose other ports.
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
    """Return a random address without bytes 0 and 255, which some programs take for a network's own addresses."""
    import secrets  # noqa: PLC0415 (10 ms, and only `create` needs it)

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

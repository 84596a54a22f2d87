"""Choose a machine's address and ports. `configure` does so once, for the machine's whole life.

In one of libvirt's networks, a machine has its own address. If no such network can be reached from this host, QEMU
listens for the machine: at a loopback address of this host, or at another host's address with the machine's own ports.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pymachine.driver.contract import DOCKER_PORT, Config, Endpoint, Json
from pymachine.driver.kit import listen_address
from pymachine_driver_libvirt import connection as libvirts, domain as domains, hosts, network as networks, options
from pymachine_driver_libvirt.connection import Connection

SSH_USER = "docker"
SSH_PORT = 22
# Above the ports of well-known services, below those that systems assign to clients.
_REMOTE_PORTS = range(20000, 32768)


@dataclass(frozen=True)
class ListenAddress:
    """A machine's address, ports and network."""

    address: str
    docker_port: int
    ssh_port: int
    network: str
    """The network's name; ``user`` if QEMU listens for the machine."""

    @property
    def is_forwarded(self) -> bool:
        """Whether QEMU listens for the machine."""
        return self.network == options.USER_NETWORK

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint for pymachine's core."""
        return Endpoint(self.address, docker_port=self.docker_port, ssh_port=self.ssh_port, ssh_user=SSH_USER)

    def forwards(self, uri: str) -> domains.Forwards | None:
        """Return where QEMU listens on the host of `uri`, or None if the machine has its own address."""
        if not self.is_forwarded:
            return None
        return domains.Forwards(
            # Another host's interfaces may not have the address by which this host reaches it.
            address=self.address if hosts.is_local(uri) else "",
            docker_port=self.docker_port,
            ssh_port=self.ssh_port,
        )


def of(config: Mapping[str, Json]) -> ListenAddress:
    """Return a machine's address from its configuration."""
    return ListenAddress(
        str(config.get("IPAddress", "")),
        int(config.get("EnginePort", DOCKER_PORT)),
        int(config.get("SSHPort", SSH_PORT)),
        str(config.get("Network", options.DEFAULT_NETWORK)),
    )


def _readable(configs: Iterable[Mapping[str, Json]]) -> list[ListenAddress]:
    """Return the machines' addresses; skip wrong records, which must not prevent another machine's `create`."""
    found = []
    for config in configs:
        try:
            found.append(of(config))
        except (TypeError, ValueError, OverflowError):
            continue
    return found


def choose(connection: Connection, uri: str, asked: str, siblings: Sequence[Config]) -> ListenAddress:
    """Choose an address for a new machine in the network `asked`, or, if empty, one that this host reaches.

    Raises `pymachine_driver_libvirt.network.NetworkError` if the network cannot be used.
    """
    taken = _readable(config for config in siblings if config.get("ConnectionURI") == uri)
    name = asked or _reachable(connection, uri)
    if name != options.USER_NETWORK:
        network = networks.find(connection, name)
        addresses = {listen.address for listen in taken} | networks.leased(connection, name)
        return ListenAddress(networks.choose(network, addresses), DOCKER_PORT, SSH_PORT, name)
    if not hosts.is_local(uri):
        docker_port, ssh_port = _remote_ports(taken)
        return ListenAddress(hosts.address(uri), docker_port, ssh_port, name)
    # All machines of this store, since any URI may lead to this host.
    here = _readable(siblings)
    found = listen_address.allocate(
        [
            listen_address.ListenAddress(listen.address, listen.docker_port, listen.ssh_port)
            for listen in here
            if listen.is_forwarded
        ],
        own_address=listen_address.has_own_addresses(),
    )
    return ListenAddress(found.address, found.docker_port, found.ssh_port, name)


def _reachable(connection: Connection, uri: str) -> str:
    """Return the default network if this host reaches its machines, else user networking."""
    if hosts.is_session(uri):
        return options.USER_NETWORK
    if hosts.is_local(uri):
        return options.DEFAULT_NETWORK
    if networks.lookup(connection, options.DEFAULT_NETWORK) is None:
        return options.USER_NETWORK
    with libvirts.wrap_errors(f"cannot read network {options.DEFAULT_NETWORK}"):
        handle = connection.networkLookupByName(options.DEFAULT_NETWORK)
        network = networks.parse(handle.XMLDesc())
        usable = handle.isActive() and network.reached_by_others and network.ranges
    return options.DEFAULT_NETWORK if usable else options.USER_NETWORK


def _remote_ports(taken: Iterable[ListenAddress]) -> tuple[int, int]:
    used = {port for listen in taken for port in (listen.docker_port, listen.ssh_port)}
    docker_port, ssh_port = random.sample([port for port in _REMOTE_PORTS if port not in used], 2)
    return docker_port, ssh_port

"""Where a machine is reached: its printed address, and a check of the connection to its engine."""

from __future__ import annotations

import dataclasses

from pymachine.driver.contract import Endpoint
from pymachine.errors import UsageError
from pymachine.hosts.host import Host, is_existing_host
from pymachine.store.record import Machine


def ip(host: Host) -> str:
    """Return what `ip` prints. Raises `HostNotRunningError` unless the machine is running.

    An existing host keeps its address while it is off.
    """
    if is_existing_host(host.driver):
        return host.driver.endpoint().ip
    return host.endpoint().ip


def check(host: Host, *, timeout: float = 20.0, swarm: bool = False) -> Endpoint:
    """Make a TLS handshake with the machine's engine as a client would, and return its endpoint.

    With `swarm` the endpoint is that of the Swarm standalone master, as docker-machine made them.
    """
    from pymachine.tls import handshake  # noqa: PLC0415 (ssl costs 20 ms)

    endpoint = host.endpoint()
    if swarm:
        endpoint = _swarm_endpoint(host.record, endpoint)
    ca, cert, key = host.client_files()
    handshake.check_address(endpoint.address, endpoint.docker_port, endpoint.url)
    handshake.check(endpoint.address, endpoint.docker_port, ca=ca, cert=cert, key=key, timeout=timeout)
    return endpoint


def _swarm_endpoint(machine: Machine, endpoint: Endpoint) -> Endpoint:
    """Return where the manager of a Swarm standalone listens. Raises `UsageError` if `machine` is not its master."""
    port = machine.swarm.host.rpartition(":")[2]
    if not machine.swarm.master or not (port.isdecimal() and port.isascii() and 0 < int(port[:6]) < 65536):
        raise UsageError(
            f'"{machine.name}" is not a swarm master. The --swarm flag is intended for use with swarm masters',
            hint="Swarm standalone is gone from Docker; today's swarm mode needs no flag here.",
        )
    return dataclasses.replace(endpoint, docker_port=int(port), docker_url="")

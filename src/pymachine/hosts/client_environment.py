"""The environment of a command that uses a machine."""

from __future__ import annotations

import os

from pymachine.docker.variables import TLS_NAMES, connection_variables, socket_variables
from pymachine.hosts.host import Hosts


def of(hosts: Hosts, name: str) -> dict[str, str]:
    """Return this process's environment, in which a docker client connects to machine `name`."""
    host = hosts.open(name)
    if host.record.socket:
        from pymachine.hosts import local_socket  # noqa: PLC0415 (few machines have one)

        path = local_socket.ensure(hosts, name)
        inherited = {key: value for key, value in os.environ.items() if key not in TLS_NAMES}
        return inherited | dict(socket_variables(str(path), name))
    folder = host.client_files().folder or host.directory
    return {**os.environ, **dict(connection_variables(host.endpoint().url, str(folder), name))}

"""Ports on the host's loopback, for SSH to each guest."""

from __future__ import annotations

import socket
from collections.abc import Collection

HOST = "127.0.0.1"
_TRIES = 100


def free(others: Collection[int] = ()) -> int:
    """Return a free port that is not one of `others`."""
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in others:
            return port
    raise OSError("no free port on the loopback")


def is_free(port: int) -> bool:
    """Return whether `port` is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def banner(port: int, *, timeout: float, host: str = HOST) -> bool:
    """Return whether an SSH server answers at `port`. VirtualBox accepts connections there even without a guest."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False

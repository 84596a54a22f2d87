"""Where a machine is reached: on this host's loopback, see `pymachine.driver.kit.listen_address`."""

from pymachine.driver.kit.listen_address import (
    DOCKER_PORT,
    LOOPBACK,
    SSH_PORT,
    Place,
    allocate,
    has_own_addresses,
    is_free,
    of,
    places,
)

__all__ = [
    "DOCKER_PORT",
    "LOOPBACK",
    "SSH_PORT",
    "Place",
    "allocate",
    "has_own_addresses",
    "is_free",
    "of",
    "places",
]

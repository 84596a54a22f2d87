"""Have a machine start when this host boots."""

from __future__ import annotations

from pymachine.driver.contract import Trait
from pymachine.hosts import autostart_services
from pymachine.hosts.host import Hosts
from pymachine.hosts.locking import lock


def enable(hosts: Hosts, name: str) -> bool:
    """Start machine `name` at each boot of this host. It is not started now.

    Return False if it will start only when the user logs in; the reason is reported.
    Raises `UserServiceError` where there are no such services, and `UnsupportedError` if the driver cannot start it.
    """
    with lock(hosts, name):
        host = hosts.open(name)
        if host.has(Trait.NO_START):
            raise host.driver.unsupported("starting a machine")
        return autostart_services.install(host)


def disable(hosts: Hosts, name: str) -> bool:
    """Do not start machine `name` at boot any more. Return False if it did not. Raises `UserServiceError`."""
    with lock(hosts, name):
        return autostart_services.disable(hosts, name)

"""IPv6 of a machine: that of its guest and containers, and that of its forwarded ports."""

from __future__ import annotations

import socket

from pymachine.driver.abilities import Ipv6Capable
from pymachine.driver.contract import Driver

# An address of the documentation's prefix. It only selects a route: connecting a UDP socket sends nothing.
_ELSEWHERE = ("2001:db8::1", 9)


def check(driver: Driver, *, guest: bool, ports: bool) -> None:
    """Raise `UnsupportedError` if the driver supports neither. `guest` and `ports` say what is wanted.

    Warn if this host has no IPv6 route for a guest to use.
    """
    if not (guest or ports):
        return
    if not isinstance(driver, Ipv6Capable):
        raise driver.unsupported("--ipv6" if guest else "--ipv6-ports")
    driver.check_ipv6()
    if guest and not host_has_route():
        driver.reporter.warn("This host has no IPv6 route, so the machine reaches only this host by IPv6.")


def host_has_route() -> bool:
    """Return whether this host has an IPv6 address and a route that leads to other networks."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE)
    except OSError:
        return False
    return True

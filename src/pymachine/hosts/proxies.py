"""The proxies of a machine, as its guest reaches them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from pymachine.driver.abilities import LoopbackReachable
from pymachine.driver.contract import Driver, Trait
from pymachine.errors import UnsupportedError
from pymachine.store.proxies import Proxies
from pymachine.system.progress import Reporter

HOST_NAME = "host.docker.internal"
"""The name of this host in guests that reach its loopback."""


def supported(driver: type[Driver]) -> bool:
    """Return whether the driver's machines use this host's proxies: those whose engine has no settings of its owner."""
    return Trait.IDENTITY in driver.info.traits


def check(driver: type[Driver], proxies: Proxies) -> None:
    """Raise `UnsupportedError` if there are proxies that the driver's machines cannot use."""
    if proxies and not supported(driver):
        raise UnsupportedError(f"{driver.info.name} driver does not support --host-proxy")


def reachable(driver: Driver, proxies: Proxies, reporter: Reporter) -> Proxies:
    """Return `proxies` as the machine's guest and its containers reach them.

    A proxy on this host's loopback gets the address at which the guest reaches it. Without one it is left out, with a
    warning. Servers at that address need no proxy, as on the host.
    """
    loopback = driver.host_loopback() if isinstance(driver, LoopbackReachable) else ""
    found = {}
    for key, name, url in (("http", "HTTP_PROXY", proxies.http), ("https", "HTTPS_PROXY", proxies.https)):
        if not _is_loopback(url):
            found[key] = url
        elif loopback:
            found[key] = _with_host(url, loopback)
        else:
            reporter.warn(
                f"{name} is on this host's loopback, which this machine of the driver {driver.info.name} does not "
                "reach: the machine does not use it."
            )
    if not any(found.values()):
        return Proxies()
    return Proxies(**found, no=with_exceptions(proxies.no, [loopback, HOST_NAME] if loopback else []))


def with_exceptions(no: str, hosts: Iterable[str]) -> str:
    """Return a value of NO_PROXY with further hosts, each once."""
    words = [word.strip() for word in no.split(",") if word.strip()]
    return ",".join(words if "*" in words else dict.fromkeys([*words, *hosts]))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    # Connections to 0.0.0.0 and :: reach the loopback.
    return address.is_loopback or address.is_unspecified


def _with_host(url: str, host: str) -> str:
    """Return `url` with another host, and the same user, password and port."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    port = "" if parts.port is None else f":{parts.port}"
    return parts._replace(netloc=f"{user}{at}{host}{port}").geturl()

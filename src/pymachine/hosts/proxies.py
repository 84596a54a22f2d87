"""The proxies of a machine's engine, as its guest reaches them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from pymachine.driver.abilities import LoopbackReachable
from pymachine.driver.contract import Driver, Trait
from pymachine.errors import UnsupportedError
from pymachine.store.proxies import Proxies
from pymachine.system.progress import Reporter


def supported(driver: type[Driver]) -> bool:
    """Return whether the driver's machines use this host's proxies: those whose engine has no settings of its owner."""
    return Trait.IDENTITY in driver.info.traits


def check(driver: type[Driver], proxies: Proxies) -> None:
    """Raise `UnsupportedError` if there are proxies that the driver's machines cannot use."""
    if proxies and not supported(driver):
        raise UnsupportedError(f"{driver.info.name} driver does not support --host-proxy")


def environment(driver: Driver, proxies: Proxies, reporter: Reporter) -> str:
    """Return the engine's variables for `proxies`, as ``NAME=value`` lines; an empty text without a proxy.

    A proxy on this host's loopback gets the address at which the guest reaches it. Without one it is left out, with a
    warning. What the guest reaches at that address needs no proxy, as on the host.
    """
    loopback = driver.host_loopback() if isinstance(driver, LoopbackReachable) else ""
    lines = []
    for name, url in (("HTTP_PROXY", proxies.http), ("HTTPS_PROXY", proxies.https)):
        if not url:
            continue
        if not _is_loopback(url):
            lines.append(f"{name}={url}")
        elif loopback:
            lines.append(f"{name}={_with_host(url, loopback)}")
        else:
            reporter.warn(
                f"{name} is on this host's loopback, which machines of the driver {driver.info.name} do not reach: "
                "the engine does not use it."
            )
    if lines:
        no = [word.strip() for word in proxies.no.split(",") if word.strip()]
        if loopback and loopback not in no and "*" not in no:
            no.append(loopback)
        if no:
            lines.append(f"NO_PROXY={','.join(no)}")
    return "".join(f"{line}\n" for line in lines)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _with_host(url: str, host: str) -> str:
    """Return `url` with another host, and the same user, password and port."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    port = "" if parts.port is None else f":{parts.port}"
    return parts._replace(netloc=f"{user}{at}{host}{port}").geturl()

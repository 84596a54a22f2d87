"""Have the docker client set a machine's proxies in its containers and builds.

The record has the addresses of the engine for which the client's configuration has proxies of ours. Proxies that the
user has set for an address are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymachine.driver.contract import Driver
from pymachine.errors import PymachineError, UnsupportedError
from pymachine.hosts import proxies
from pymachine.hosts.host import Host

# A container reaches itself under these names. Through a proxy, they would be the proxy's host.
_CONTAINER = ("localhost", "127.0.0.1", "::1")


def check(driver: type[Driver]) -> None:
    """Raise `UnsupportedError` if the driver's machines use no proxies, and `ClientConfigError`."""
    from pymachine.docker import client_config  # noqa: PLC0415 (few machines need it)

    if not proxies.supported(driver):
        raise UnsupportedError(f"{driver.info.name} driver does not support --container-proxy")
    client_config.check()


def refresh(host: Host) -> None:
    """Let the client's configuration follow the machine's record and address. A failure is only a warning."""
    own = host.record.client_proxies
    wanted = _urls(host) if host.record.container_proxy and host.proxies() else []
    if not own and not wanted:
        return
    from pymachine.docker import client_config  # noqa: PLC0415 (few machines need it)

    try:
        with client_config.changing_proxies() as entries:
            taken = [url for url in wanted if url in entries and url not in own]
            urls = [url for url in wanted if url not in taken]
            # The record has an address before the client does, so that `rm` finds it even if we are killed in between.
            _record(host, dict.fromkeys([*own, *urls]))
            for url in own:
                entries.pop(url, None)
            entries.update(dict.fromkeys(urls, _entry(host)))
        _record(host, urls)
    except PymachineError as error:
        host.reporter.warn(f"The proxies of containers could not be updated: {error.brief}")
        return
    for url in taken:
        host.reporter.warn(f"{client_config.path()} has other proxies for {url} already. They are not changed.")


def drop(host: Host) -> None:
    """Remove the machine's proxies from the client's configuration. A failure is only a warning."""
    if not host.record.client_proxies:
        return
    from pymachine.docker import client_config  # noqa: PLC0415 (few machines need it)

    try:
        with client_config.changing_proxies() as entries:
            for url in host.record.client_proxies:
                entries.pop(url, None)
    except PymachineError as error:
        host.reporter.warn(f"The proxies of containers could not be removed: {error.brief}")


def _record(host: Host, urls: Iterable[str]) -> None:
    if host.record.client_proxies != list(urls):
        host.record.client_proxies = list(urls)
        host.save()


def _entry(host: Host) -> dict[str, str]:
    """Return what the client's configuration has for the machine."""
    used = host.proxies()
    values = {"httpProxy": used.http, "httpsProxy": used.https}
    return {
        **{key: url for key, url in values.items() if url},
        "noProxy": proxies.with_exceptions(used.no, _CONTAINER),
    }


def _urls(host: Host) -> list[str]:
    """Return the addresses at which clients reach the engine: none if it is known only while the machine runs."""
    try:
        urls = [host.driver.endpoint().url]
    except PymachineError:
        return []
    if host.record.socket:
        from pymachine.ssh.local_socket import place  # noqa: PLC0415 (few machines need it)

        urls.append(place.url(host.directory))
    return urls

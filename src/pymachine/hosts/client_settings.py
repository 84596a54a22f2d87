"""The settings of other programs on this host that name a machine, and the names that other machines have for it.

The settings are its docker context, its proxies in the docker client's configuration, its entry for OpenSSH, and the
service that starts it when the host boots. Failures are only warnings.
"""

from __future__ import annotations

from pymachine.driver.abilities import PeerReachable
from pymachine.hosts import autostart_services, container_proxies, context_updates, ssh_config
from pymachine.hosts.host import Host, Hosts


def refresh(host: Host) -> None:
    """Let the settings follow the machine's record and address."""
    context_updates.refresh(host)
    container_proxies.refresh(host)
    ssh_config.refresh(host)
    send_names(host)


def follow_rename(host: Host, former_name: str) -> None:
    """Let the settings follow a rename. Can be called again after it was killed."""
    context_updates.follow_rename(host, former_name)
    container_proxies.refresh(host)
    ssh_config.refresh(host)
    autostart_services.follow_rename(host, former_name)
    send_names(host)


def drop(host: Host) -> None:
    """Remove the settings, while the machine's record still names them: the process may be killed."""
    context_updates.drop(host)
    container_proxies.drop(host)
    drop_named(host.hosts, host.name)
    send_names(host, dropped=True)


def drop_named(hosts: Hosts, name: str) -> None:
    """Remove those that are found without the machine's record, which may not be readable."""
    ssh_config.drop(hosts, name)
    autostart_services.drop(hosts, name)


def send_names(host: Host, *, dropped: bool = False) -> None:
    """Send the names of the machine and of those that it reaches to all of them; without its own if it is `dropped`."""
    if isinstance(host.driver, PeerReachable):
        from pymachine.hosts import peer_names  # noqa: PLC0415 (few machines reach each other)

        peer_names.send(host, dropped=dropped)

"""Set up the engine of a machine that runs: over SSH on an existing host, or by a new identity in a guest."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pymachine.driver.abilities import IdentityUpdatable
from pymachine.driver.contract import Driver, Endpoint, State, Trait
from pymachine.driver.names import host_name
from pymachine.errors import HostNotRunningError
from pymachine.hosts import client_settings, local_socket, ssh_shares
from pymachine.hosts.host import Host, Hosts, is_existing_host
from pymachine.hosts.locking import locked
from pymachine.hosts.timeouts import PROVISIONED_SECONDS, STOP_SECONDS, boot_timeout
from pymachine.store import paths

if TYPE_CHECKING:
    from pymachine.provision.session import Session


def provision(hosts: Hosts, name: str) -> None:
    """Set up the engine of machine `name` again. Settings that are already right are not touched.

    Raises `HostNotRunningError` unless it is running, and `UnsupportedError` if there is nothing to set up.
    """
    with locked(hosts, name) as host:
        if not changes_while_running(host.driver):
            raise host.driver.unsupported("provision")
        if host.state() is not State.RUNNING:
            raise HostNotRunningError(name=name)
        apply(host)
        host.save()
        host.reporter.info("Checking connection to Docker...")
        host.wait_for_engine(seconds=PROVISIONED_SECONDS)
        host.reporter.info("Docker is up and running!")
        client_settings.refresh(host)
        ssh_shares.mount(host)
        local_socket.follow_record(host)


def changes_while_running(driver: Driver) -> bool:
    """Return whether a running machine can take new certificates and engine options."""
    return Trait.PROVISION in driver.info.traits or isinstance(driver, IdentityUpdatable)


def apply(host: Host, *, renew: bool = False) -> None:
    """Bring certificates and engine options from the record into the running machine.

    With `renew` it gets a new server certificate.
    """
    if host.has(Trait.PROVISION):
        set_up_host(host, renew=renew)
    elif isinstance(host.driver, IdentityUpdatable):
        host.driver.apply_identity(host.boot_request(renew=renew))
    else:
        raise host.driver.unsupported("new certificates while a machine runs")


def set_up_host(host: Host, *, renew: bool = False, before_changes: Callable[[], object] | None = None) -> None:
    """Install the engine on an existing host if it is missing, and set it up, over one SSH connection.

    With `renew` it gets a new server certificate. `before_changes` is called before the host is changed.
    """
    from pymachine.provision import session  # noqa: PLC0415 (only existing hosts need it)

    endpoint, reporter = host.driver.endpoint(), host.reporter
    began = time.monotonic()
    with (
        _session(host, endpoint, timeout=boot_timeout()) as opened,
        session.interruptible(_to_complete(host, before_changes), before_changes, reporter=reporter) as begin,
    ):
        reporter.info("Copying certs to the local machine directory...")
        host.ensure_certificates(endpoint.address, renew=renew)
        opened.provision(
            session.wanted(
                host.record,
                endpoint,
                directory=host.directory,
                host_name="" if is_existing_host(host.driver) else host_name(host.name),
            ),
            install_script=lambda: session.install_script(host.record, keep=host.directory / paths.INSTALL_SCRIPT),
            before_changes=begin,
        )
    host.hosts.timings["provisioning"] = time.monotonic() - began


def _to_complete(host: Host, before_changes: Callable[[], object] | None) -> str:
    """Return the name of the machine if it stays when its setup is interrupted, or else an empty text."""
    is_removed = before_changes is not None and not is_existing_host(host.driver)
    return "" if is_removed else host.name


def follow_address(host: Host) -> None:
    """Set the host up again if its address is another one than before, since its server certificate names the old one.

    As with docker-machine, the address of a cloud's host may change whenever it starts.
    """
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    address = host.driver.endpoint().address
    if not certs.is_for(host.directory / paths.SERVER_CERT, address):
        host.reporter.info(f"The address is now {address}. Setting up the engine for it...")
        set_up_host(host)
        host.save()


def upgrade_host(host: Host) -> None:
    """Bring the engine of an existing host to its newest version. The rest of the host is its owner's."""
    with _session(host, host.driver.endpoint(), timeout=boot_timeout()) as opened:
        opened.upgrade()
    host.wait_for_engine(seconds=boot_timeout())


def restore_host(host: Host) -> None:
    """Undo on an existing host what pymachine changed there. Raises `UnsupportedError` for other machines."""
    if not host.has(Trait.PROVISION):
        raise host.driver.unsupported("--restore")
    with _session(host, host.driver.endpoint(), timeout=STOP_SECONDS) as opened:
        host.reporter.info(f'Restoring the host of "{host.name}"...')
        if not opened.restore():
            host.reporter.info("pymachine has changed nothing on it.")


def _session(host: Host, endpoint: Endpoint, *, timeout: float) -> AbstractContextManager[Session]:
    """Open a session on an existing host, whose host key is pinned at the first login."""
    from pymachine.provision import session  # noqa: PLC0415 (only existing hosts need it)

    target = host.target(endpoint, learn=True)
    return session.opened(target, reporter=host.reporter, timeout=timeout, native=host.hosts.native_ssh)

"""Regenerate the certificates of a machine, and the CA and client certificate of the store."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pymachine.driver.contract import State, Trait
from pymachine.errors import PymachineError, StoreError
from pymachine.hosts import context_updates, provision
from pymachine.hosts.host import SETS_UP_ENGINE, Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.timeouts import boot_timeout
from pymachine.store import paths
from pymachine.system import files

_CERTIFICATES = (paths.CA_CERT, paths.CLIENT_CERT, paths.CLIENT_KEY, paths.SERVER_CERT, paths.SERVER_KEY)


def regenerate(hosts: Hosts, name: str) -> None:
    """Give machine `name` a new server certificate, in force at once. Its containers are not affected.

    A stopped machine takes it at its next start.
    """
    with locked(hosts, name) as host:
        must_set_up_engine(host, "new certificates")
        running = host.state() is State.RUNNING
        with identity_restored_on_error(host, running=running):
            if running:
                provision.apply(host, renew=True)
            elif host.has(Trait.FIXED_ADDRESS):
                host.ensure_certificates(host.driver.endpoint().address, renew=True)
            else:  # the address for the certificate is known when the machine starts
                (host.directory / paths.SERVER_CERT).unlink(missing_ok=True)
            host.save()
        if running:
            host.wait_for_engine(seconds=boot_timeout())
        context_updates.refresh(host)


def check_regenerable(hosts: Hosts, name: str) -> None:
    """Raise the error with which `regenerate` would refuse machine `name`, before anything is changed."""
    host = hosts.open(name)
    must_set_up_engine(host, "new certificates")
    if host.state() is State.RUNNING and not provision.changes_while_running(host.driver):
        raise host.driver.unsupported("new certificates while a machine runs")


def must_set_up_engine(host: Host, action: str) -> None:
    """Raise `UnsupportedError` for `action` on a machine whose engine pymachine does not set up."""
    if not host.has(SETS_UP_ENGINE):
        raise host.driver.unsupported(action)


@contextmanager
def renewed_authority(hosts: Hosts) -> Iterator[Callable[[], object]]:
    """Renew the store's authority for the block; if the block fails, the old authority is restored.

    The block calls the yielded function once a machine has certificates of the new authority, which is kept from
    then on.
    """
    with files.kept(dataclasses.astuple(hosts.auth_paths())) as restore, ExitStack() as undo:
        undo.callback(restore)
        renew_authority(hosts)
        yield undo.pop_all
        undo.pop_all()


def renew_authority(hosts: Hosts) -> None:
    """Make a new client certificate, and a new CA unless the user brought the CA."""
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    own = "ca_cert" not in hosts.authority
    if not own:
        hosts.reporter.warn(f"The CA {hosts.authority['ca_cert']} is not pymachine's: it stays as it is.")
    certs.renew_authority(hosts.auth_paths(), reporter=hosts.reporter, ca=own)


@contextmanager
def identity_restored_on_error(host: Host, *, running: bool) -> Iterator[None]:
    """If the block fails, restore certificates and the record, in the guest too if it is `running`."""
    record = host.record
    before = copy.deepcopy({each.name: getattr(record, each.name) for each in dataclasses.fields(record)})
    # This one follows the file of the docker client, which is not restored.
    del before["client_proxies"]
    driver = before.pop("driver")
    with files.kept([host.directory / name for name in _CERTIFICATES]) as restore:
        try:
            yield
        except BaseException:
            restore()
            for name, value in before.items():
                setattr(record, name, value)
            record.driver.clear()  # the driver has the same object
            record.driver.update(driver)
            if running and not _apply_again(host):
                restore()  # the attempt may have made certificates that the guest does not have
            _save_again(host)
            raise


def _apply_again(host: Host) -> bool:
    """Give the guest its old identity again, and return whether it accepted it. A failure is only a warning."""
    host.reporter.warn(f'Giving machine "{host.name}" its old identity again...')
    try:
        provision.apply(host)
    except PymachineError as error:
        host.reporter.warn(f"It did not take it ({error.brief}): restart it: pymachine restart {host.name}")
        return False
    return True


def _save_again(host: Host) -> None:
    """Save the old record again. If that fails, as on a full disk, warn: the first error is raised."""
    try:
        host.save()
    except StoreError as error:
        host.reporter.warn(error.brief)

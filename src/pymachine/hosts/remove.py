"""Remove a machine with all that its driver made."""

from __future__ import annotations

from contextlib import suppress

from pymachine.driver.kit import transactions
from pymachine.errors import PymachineError
from pymachine.hosts import (
    client_settings,
    local_socket,
    provision,
    recovery,
    ssh_shares,
)
from pymachine.hosts.host import Host, Hosts
from pymachine.system import os_errors


def remove(hosts: Hosts, name: str, *, restore: bool = False) -> None:
    """Remove machine `name` with all that its driver made; the record is removed last.

    An existing host is not touched. With `restore` the changes that pymachine made on it are undone.
    """
    with hosts.store.lock(name):
        if _end_rename(hosts, name) == [transactions.CREATE]:
            return
        host = hosts.open(name)
        driver = host.driver
        ssh_shares.end(host.directory)
        local_socket.end(host.directory)
        if restore:
            provision.restore_host(host)
        driver.remove()
        client_settings.drop(host)
        _delete(hosts, name)


def forget(hosts: Hosts, name: str) -> None:
    """Remove the record of machine `name` and what the docker client knows of it, and nothing else (``rm -f``)."""
    with hosts.store.lock(name):
        try:
            client_settings.drop(hosts.open(name))
        except PymachineError:  # the record cannot be read
            client_settings.drop_named(hosts, name)
        with suppress(PymachineError):  # it ends when the record is gone
            ssh_shares.end(hosts.store.machine_dir(name))
        with suppress(PymachineError):
            local_socket.end(hosts.store.machine_dir(name))
        _delete(hosts, name)


def undo_create(host: Host) -> None:
    """Remove a machine whose `create` failed. If that fails too, it stays in the store, for `rm`."""
    try:
        ssh_shares.end(host.directory)
        local_socket.end(host.directory)
        host.driver.remove()
        client_settings.drop(host)
        host.store.delete(host.name)
    except (PymachineError, OSError) as error:
        why = error.brief if isinstance(error, PymachineError) else os_errors.reason(error)
        host.reporter.warn(
            f'Could not clean up after the failed create of "{host.name}": {why}. '
            f"Remove it with: pymachine rm {host.name}"
        )


def _end_rename(hosts: Hosts, name: str) -> list[str]:
    """Finish or undo an interrupted rename or import of machine `name`, and return the names of the changes.

    After a rename that was killed, a hypervisor may know the machine by its old name. An import that was killed may
    have left no record, and is undone.
    """
    try:
        return recovery.recover(hosts, name, only=transactions.RENAME)
    except PymachineError as error:
        hosts.reporter.warn(error.brief)
        return []


def _delete(hosts: Hosts, name: str) -> None:
    """Remove the machine's folder. If it is a link, report the folder that stays."""
    folder = hosts.store.machine_dir(name)
    behind = folder.resolve() if folder.is_symlink() and folder.exists() else None
    hosts.store.delete(name)
    if behind is not None:
        hosts.reporter.info(f'The folder {behind}, to which "{name}" was a link, stays, with what is in it.')

"""Save a machine's state as a snapshot, restore it, and remove it. `snapshots` has the folders of the snapshots."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from pymachine.driver.abilities import Restorable, Snapshottable
from pymachine.driver.contract import State
from pymachine.driver.kit import transactions
from pymachine.errors import UnsupportedError
from pymachine.hosts import change_notes, local_socket, recovery, snapshots, ssh_shares
from pymachine.hosts.boot import boot
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import lock, locked


def save_snapshot(hosts: Hosts, name: str, snapshot: str, *, disk_only: bool = False) -> snapshots.Snapshot:
    """Save the state of machine `name`, with its memory if it runs. The machine continues. Raises `SnapshotError`.

    With `disk_only` the memory is left out.
    """
    with locked(hosts, name) as host:
        fill = partial(_snapshottable(host).save_snapshot, memory=not disk_only)
        return snapshots.make(host.directory, snapshot, fill)


def restore_snapshot(hosts: Hosts, name: str, snapshot: str, *, disk_only: bool = False) -> State:
    """Restore machine `name` from a snapshot, and return its state afterwards.

    With `disk_only` the machine is stopped afterwards, even if the snapshot contains its memory.
    """
    with locked(hosts, name) as host:
        driver = _snapshottable(host)
        found = snapshots.find(host.directory, snapshot)
        facts = {**found.facts, "Memory": found.has_memory and not disk_only}
        restore = partial(driver.restore_snapshot, found.directory, facts)
        with _undone_on_error(host):
            # The connection is gone after a restore. With memory, `boot` mounts them again.
            ssh_shares.end(host.directory)
            local_socket.end(host.directory)
            if facts["Memory"]:
                boot(host, restore, host.boot_request())
            else:
                restore(host.boot_request())
            host.save()
        return host.state()


def remove_snapshot(hosts: Hosts, name: str, snapshot: str) -> None:
    """Remove a snapshot of machine `name`, even if its record cannot be read."""
    with lock(hosts, name):
        snapshots.remove(snapshots.find(hosts.store.machine_dir(name), snapshot))


def _snapshottable(host: Host) -> Snapshottable:
    if not isinstance(host.driver, Snapshottable):
        raise UnsupportedError(f"{host.record.driver_name} driver does not support snapshots")
    return host.driver


def _undone_on_error(host: Host) -> AbstractContextManager[None]:
    """If the restore in the block fails, undo it. There is nothing to undo if the hypervisor keeps the snapshots."""
    if isinstance(host.driver, Restorable):
        return change_notes.replacing(host, transactions.RESTORE, recovery.restore_finisher(host.driver))
    return nullcontext()

"""Finish or undo what killed commands left in the store."""

from __future__ import annotations

import os

from pymachine.driver.kit import transactions
from pymachine.errors import LockedError, PymachineError
from pymachine.hosts import recovery
from pymachine.hosts.host import Hosts
from pymachine.store import paths
from pymachine.system import atomic_dirs


def sweep(hosts: Hosts) -> None:
    """Finish or undo what killed commands left in the store. A machine where that fails is a warning."""
    store = hosts.store
    atomic_dirs.sweep(paths.machines(store.root))
    transactions.sweep_files(paths.certs(store.root))
    for name in store.names():
        _sweep_machine(hosts, name)
    store.sweep_locks()


def _sweep_machine(hosts: Hosts, name: str) -> None:
    folder = hosts.store.machine_dir(name)
    snapshots = folder / paths.SNAPSHOTS
    # A folder that may not be entered has nothing that can be swept.
    half_made = [] if os.path.islink(snapshots) else atomic_dirs.leftovers(snapshots)  # noqa: PTH114 (never raises)
    if not half_made and not transactions.has_leftovers(folder):
        return
    try:
        with hosts.store.lock(name, timeout=0):
            recovery.recover(hosts, name)
            if half_made:
                atomic_dirs.sweep(snapshots)
    except LockedError:
        return  # a command is working on it
    except Exception as error:  # noqa: BLE001 (a fault of one record or driver must not stop every `create`)
        why = error.brief if isinstance(error, PymachineError) else f"{type(error).__name__}: {error}"
        hosts.reporter.warn(f'The interrupted change of "{name}" could not be finished or undone: {why}')

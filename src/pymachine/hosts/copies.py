"""What a machine was, kept and brought back; and other machines made of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial

from pymachine.driver.abilities import Clonable, Restorable, Snapshottable
from pymachine.driver.contract import Driver, State
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name
from pymachine.errors import MachineExistsError, UnsupportedError
from pymachine.hosts import recovery, snapshots
from pymachine.hosts.manager import CreateRequest, Manager
from pymachine.hosts.snapshots import Snapshot
from pymachine.store.record import Machine


class Copies(Manager):
    """A manager that makes snapshots of machines, and machines of other machines."""

    def save_snapshot(self, name: str, snapshot: str) -> Snapshot:
        """Save machine `name` as it is now, its memory too if it runs; it goes on. Raises `SnapshotError`."""
        with self._locked(name):
            machine, driver = self._loaded(name)
            able = _able_to_save(machine, driver)
            return snapshots.make(self.store.machine_dir(name), snapshot, able.save_snapshot)

    def restore_snapshot(self, name: str, snapshot: str, *, disk_only: bool = False) -> State:
        """Bring machine `name` back to a snapshot, and return the state in which it is then.

        `disk_only`: it is stopped then, whether the snapshot has its memory or not.
        """
        with self._locked(name):
            machine, driver = self._loaded(name)
            able = _able_to_save(machine, driver)
            found = snapshots.find(self.store.machine_dir(name), snapshot)
            facts = {**found.facts, "Memory": found.has_memory and not disk_only}
            restore = partial(able.restore_snapshot, found.directory, facts)
            with self._restoring(machine, driver):
                if facts["Memory"]:
                    self._boot(machine, driver, restore, self._request(machine))
                else:
                    restore(self._request(machine))
                self.store.save(machine)
            return driver.state()

    def _restoring(self, machine: Machine, driver: Driver) -> AbstractContextManager[None]:
        """What is undone if the restore in the block fails: nothing where the hypervisor keeps the snapshots."""
        if isinstance(driver, Restorable):
            return self._replacing(machine, driver, transactions.RESTORE, recovery.settle_restore(driver))
        return nullcontext()

    def remove_snapshot(self, name: str, snapshot: str) -> None:
        """Remove a snapshot of machine `name`."""
        with self._locked(name):
            snapshots.remove(snapshots.find(self.store.machine_dir(name), snapshot))

    def clone(self, name: str, copy: str) -> Machine:
        """Make machine `copy` with the disk of machine `name`, and bring it up with an identity of its own.

        What was made is undone if any step fails, or is interrupted. A machine that runs is held up for as long as
        the copying takes; what its programs had not yet written is not in the copy.
        """
        check_new_name(copy)
        with ExitStack() as undo:
            for each in sorted({name, copy}):  # always in this order, so that two clones do not wait for each other
                undo.enter_context(self._locked(each))
            machine, driver = self._loaded(name)
            if self.store.exists(copy):
                raise MachineExistsError(copy)
            if not isinstance(driver, Clonable):
                raise UnsupportedError(f"{machine.driver_name} driver does not support copies of machines")
            request = CreateRequest(
                name=copy,
                driver_name=machine.driver_name,
                options={},
                engine=replace(machine.engine),
                swarm=replace(machine.swarm),
                sans=tuple(machine.auth.server_cert_sans),
            )
            made = self._reserve(request, driver.copy_config)
            new = self.driver(made)
            with ExitStack() as half_made:
                half_made.callback(self._undo_create, made, new)
                self._make_keys(made, new)
                assert isinstance(new, Clonable)  # noqa: S101 (the same class)
                self._boot(made, new, partial(new.create_copy, driver), self._request(made))
                half_made.pop_all()
            self._is_made(made)
        return made


def _able_to_save(machine: Machine, driver: Driver) -> Snapshottable:
    if not isinstance(driver, Snapshottable):
        raise UnsupportedError(f"{machine.driver_name} driver does not support snapshots")
    return driver

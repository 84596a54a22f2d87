"""Machines that have outlived their time: those with a time to live, and those whose `run` is no longer there."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pymachine.errors import MachineNotFoundError, PymachineError
from pymachine.hosts.manager import Manager
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system import durations
from pymachine.system.progress import Reporter

# The owner in the record of a machine that is `run`'s, and goes with it.
RUN = "run"


@dataclass(frozen=True)
class Outlived:
    """A machine that is to go, and why."""

    name: str
    why: str

    def remove(self, manager: Manager, reporter: Reporter) -> bool:
        """Remove it, say so, and tell whether it is gone; trouble is told of, and not raised."""
        try:
            manager.remove(self.name)
        except MachineNotFoundError:
            return True  # another pymachine was quicker
        except PymachineError as error:
            reporter.warn(f'Could not remove "{self.name}" ({self.why}): {error.brief}')
            return False
        except Exception as error:  # noqa: BLE001 (a fault of one record or driver must not stop every `create`)
            reporter.warn(f'Could not remove "{self.name}" ({self.why}): {type(error).__name__}: {error}')
            return False
        reporter.info(f'Removed "{self.name}": {self.why}.')
        return True


def find(store: Store) -> list[Outlived]:
    """What has outlived its time now. Records that cannot be read are passed over."""
    found = []
    for name in store.names():
        try:
            machine = store.load(name)
        except PymachineError:
            continue
        why = _outlived(machine, store)
        if why:
            found.append(Outlived(name, why))
    return found


def hold(store: Store, name: str) -> AbstractContextManager[object]:
    """Hold the lock of the `run` that owns machine `name`; when its process ends, so does the lock.

    Raises TimeoutError if another process holds it.
    """
    return store.lock_for_run(name)


def _outlived(machine: Machine, store: Store) -> str:
    late = time.time() - machine.expires if machine.expires is not None else -1.0
    if late >= 0:
        return f"its time to live ended {durations.humanize(late)} ago"
    if machine.owner == RUN and _abandoned(store, machine.name):
        return "the run that it was made for is gone"
    return ""


def _abandoned(store: Store, name: str) -> bool:
    try:
        with hold(store, name):
            return True
    except TimeoutError:
        return False
    except OSError:  # the lock belongs to another user: whether it is held cannot be known
        return False

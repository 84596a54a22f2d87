"""Remove expired machines: those whose time to live has ended, and those whose `run` command has ended."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pymachine.errors import MachineNotFoundError, PymachineError
from pymachine.hosts.host import Hosts
from pymachine.hosts.remove import remove
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system import durations

# The owner in the record of a machine that `run` made, and removes when its command has ended.
RUN = "run"


@dataclass(frozen=True)
class ExpiredMachine:
    """A machine that is to be removed, and the reason."""

    name: str
    reason: str


def find(store: Store) -> list[ExpiredMachine]:
    """Return the machines that have expired. Records that cannot be read are skipped."""
    found = []
    for name in store.names():
        try:
            machine = store.load(name)
        except PymachineError:
            continue
        reason = _reason(machine, store)
        if reason:
            found.append(ExpiredMachine(name, reason))
    return found


def remove_expired(hosts: Hosts, expired: ExpiredMachine) -> bool:
    """Remove an expired machine, and return whether it is gone. A failure is only a warning."""
    name, reporter = expired.name, hosts.reporter
    try:
        remove(hosts, name)
    except MachineNotFoundError:
        return True  # another pymachine removed it first
    except PymachineError as error:
        reporter.warn(f'Could not remove "{name}" ({expired.reason}): {error.brief}')
        return False
    except Exception as error:  # noqa: BLE001 (a fault of one record or driver must not stop every `create`)
        reporter.warn(f'Could not remove "{name}" ({expired.reason}): {type(error).__name__}: {error}')
        return False
    reporter.info(f'Removed "{name}": {expired.reason}.')
    return True


def hold(store: Store, name: str) -> AbstractContextManager[object]:
    """Hold the lock of the `run` that owns machine `name`. The lock ends with its process.

    Raises TimeoutError if another process holds it.
    """
    return store.lock_for_run(name)


def _reason(machine: Machine, store: Store) -> str:
    """Return why a machine has expired; empty if it has not."""
    late = time.time() - machine.expires if machine.expires is not None else -1.0
    if late >= 0:
        return f"its time to live ended {durations.humanize(late)} ago"
    if machine.owner == RUN and _is_abandoned(store, machine.name):
        return "the run that it was made for is gone"
    return ""


def _is_abandoned(store: Store, name: str) -> bool:
    try:
        with hold(store, name):
            return True
    except TimeoutError:
        return False
    except OSError:  # the lock belongs to another user: whether it is held cannot be known
        return False

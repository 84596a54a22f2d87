"""Lock a machine for a change; interrupted changes of it are finished or undone first."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pymachine.errors import PymachineError
from pymachine.hosts import recovery
from pymachine.hosts.host import Host, Hosts


@contextmanager
def lock(hosts: Hosts, name: str, *, to_stop: bool = False) -> Iterator[Collection[str]]:
    """Hold the lock of machine `name`, which need not exist, and finish or undo its interrupted changes first.

    With `to_stop` a failure of that is only a warning, since a machine can always be stopped, and an interrupted boot
    is ended instead of finished. Yields the names of the changes that were finished or undone.
    """
    with hosts.store.lock(name):
        recovered: Collection[str] = ()
        try:
            recovered = recovery.recover(hosts, name, finish_boot=not to_stop)
        except PymachineError as error:
            if not to_stop:
                raise
            hosts.reporter.warn(error.brief)
        yield recovered


@contextmanager
def locked(hosts: Hosts, name: str, *, to_stop: bool = False) -> Iterator[Host]:
    """Hold the lock of machine `name` as `lock` does, and yield the machine."""
    with lock(hosts, name, to_stop=to_stop):
        yield hosts.open(name)

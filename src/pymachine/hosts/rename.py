"""Rename a machine: its folder, its host name, its certificate, and its docker context."""

from __future__ import annotations

import dataclasses

from pymachine.driver.abilities import Renamable
from pymachine.driver.contract import State, Trait
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name
from pymachine.errors import MachineExistsError, PymachineError, WrongStateError
from pymachine.hosts import change_notes, client_settings, recovery
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import lock


def rename(hosts: Hosts, name: str, new: str) -> None:
    """Rename the stopped machine `name` to `new`. If that fails, it keeps its name."""
    check_new_name(new)
    if name == new:
        raise MachineExistsError(new)
    first, second = sorted((name, new))
    with lock(hosts, first), lock(hosts, second):
        host = hosts.open(name)
        if not isinstance(host.driver, Renamable):
            raise host.driver.unsupported("another name for a machine that exists")
        if hosts.store.exists(new):
            raise MachineExistsError(new)
        if host.has(Trait.IDENTITY):
            _refuse_running(host)
        # The note is in the folder, and moves with it.
        change_notes.begin(host, transactions.RENAME, {"Before": name}, durable=True)
        hosts.store.rename(name, new)
        try:
            renamed = hosts.open(new)
            recovery.follow_name(renamed, name)
        except BaseException:
            hosts.store.rename(new, name)
            _take_back_name(host, new)
            host.save()
            change_notes.end(host, transactions.RENAME)
            raise
        client_settings.follow_rename(renamed, name)
        change_notes.end(renamed, transactions.RENAME)


def _refuse_running(host: Host) -> None:
    if host.state() is not State.STOPPED:
        raise WrongStateError(
            f'Machine "{host.name}" is {host.state().word.lower()}; it must be stopped', hint="Stop it first."
        )


def _take_back_name(host: Host, new: str) -> None:
    """Have the driver use the old name again, in case it uses the name `new` already."""
    driver = host.driver
    assert isinstance(driver, Renamable)  # noqa: S101 (the caller has checked)
    failed = dataclasses.replace(driver.machine, name=new, directory=host.store.machine_dir(new))
    try:
        driver.renamed(failed)
    except PymachineError as error:
        host.reporter.warn(f'"{driver.machine.name}" may be called "{new}" by its hypervisor: {error.brief}')

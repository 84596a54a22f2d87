"""Clone a machine: a new machine with a copy of its disk, and an identity of its own."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from pymachine.driver.abilities import Clonable
from pymachine.driver.names import check_new_name
from pymachine.errors import UnsupportedError
from pymachine.hosts.boot import boot
from pymachine.hosts.copies import request_like
from pymachine.hosts.create import finish, make_keys, refuse_existing, reserve
from pymachine.hosts.host import Hosts
from pymachine.hosts.locking import lock
from pymachine.hosts.remove import undo_create
from pymachine.hosts.shares import ShareRequest
from pymachine.store.record import Machine


def clone(hosts: Hosts, name: str, copy: str, *, shares: ShareRequest | None = None) -> Machine:
    """Make machine `copy` with the disk of machine `name`, and boot it with an identity of its own.

    It shares the folders of `shares`, or those that machine `name` shares if that is None.

    If a step fails or is interrupted, everything made so far is removed. A running machine is paused while its disk
    is copied; data that its programs had not written yet is not in the copy.
    """
    check_new_name(copy)
    with ExitStack() as locks:
        for each in sorted({name, copy}):  # always in this order, so that two clones do not wait for each other
            locks.enter_context(lock(hosts, each))
        source = hosts.open(name)
        driver = source.driver
        refuse_existing(hosts, copy)
        if not isinstance(driver, Clonable):
            raise UnsupportedError(f"{source.record.driver_name} driver does not support copies of machines")
        host = reserve(hosts, request_like(source.record, copy, shares), driver.copy_config)
        with ExitStack() as undo:
            undo.callback(undo_create, host)
            make_keys(host)
            assert isinstance(host.driver, Clonable)  # noqa: S101 (the same class)
            boot(host, partial(host.driver.create_copy, driver), host.boot_request())
            undo.pop_all()
        finish(host)
    return host.record

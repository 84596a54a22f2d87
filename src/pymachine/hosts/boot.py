"""Bring a machine up: the driver's work, provisioning, and the wait for the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache

from pymachine.driver.contract import BootRequest, Trait
from pymachine.driver.kit import transactions
from pymachine.errors import PymachineError
from pymachine.hosts import (
    change_notes,
    client_settings,
    local_socket,
    provision,
    recovery,
    shares,
    ssh_shares,
)
from pymachine.hosts.host import SETS_UP_ENGINE, Host
from pymachine.hosts.timeouts import PROVISIONED_SECONDS


def boot(
    host: Host,
    act: Callable[[BootRequest], None],
    request: BootRequest,
    *,
    before_provisioning: Callable[[], object] | None = None,
    resumes: bool = False,
) -> None:
    """Call `act`, by which the driver boots the machine, save the record, and wait for the engine to answer.

    With `resumes` the machine was paused or saved, and is not switched off if this is interrupted. With
    `before_provisioning` an existing host is set up over SSH, and this is called before the host is changed.
    """
    seconds = request.timeout
    shares.warn_of_missing(host)

    @cache
    def check() -> None:
        host.reporter.info("Checking connection to Docker...")
        host.wait_for_engine(seconds=seconds)

    undoable = recovery.may_switch_off(host.driver) and not resumes
    with change_notes.noted(host, transactions.BOOT) if undoable else nullcontext():
        try:
            act(replace(request, wait_for_engine=check) if host.has(Trait.IDENTITY) else request)
        finally:
            host.save()
    if before_provisioning is not None and host.has(Trait.PROVISION):
        with prefixing("Error running provisioning: "):
            provision.set_up_host(host, before_changes=before_provisioning)
        seconds = min(seconds, PROVISIONED_SECONDS)
    elif host.has(Trait.PROVISION) and not host.has(Trait.FIXED_ADDRESS):
        provision.follow_address(host)
    if host.has(SETS_UP_ENGINE):
        check()
        host.reporter.info("Docker is up and running!")
    client_settings.refresh(host)
    _mount_shares(host)
    local_socket.follow_record(host)


def _mount_shares(host: Host) -> None:
    """Mount the folders that the core mounts.

    If a machine with our image cannot mount one, only warn, as drivers do: its engine works, and the folders may be a
    default. Raises `ShareMountError` for an existing host.
    """
    try:
        ssh_shares.mount(host)
    except ssh_shares.ShareMountError as error:
        if not host.has(Trait.IDENTITY):
            raise
        host.reporter.warn(f"{error.brief}. {error.hint}".strip())


@contextmanager
def prefixing(prefix: str) -> Iterator[None]:
    """Put `prefix` in front of the errors of the block, as docker-machine wraps its errors."""
    try:
        yield
    except PymachineError as error:
        raise error.prefixed(prefix) from error.__cause__

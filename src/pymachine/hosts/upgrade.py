"""Upgrade a machine: a newer image under the same data, or a newer engine on an existing host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymachine.driver.abilities import Upgradable
from pymachine.driver.contract import State, Trait
from pymachine.driver.kit import transactions
from pymachine.errors import PymachineError
from pymachine.hosts import change_notes, lifecycle, provision, recovery, trusted_cas
from pymachine.hosts.boot import boot
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.timeouts import STOP_SECONDS

if TYPE_CHECKING:
    from pymachine.driver.contract import ImageFiles


def upgrade(hosts: Hosts, name: str, *, timeout: float = STOP_SECONDS) -> None:
    """Give machine `name` the newest image and keep its data. If its engine does not answer, restore the old image.

    A machine that was stopped runs afterwards, as with docker-machine: the new image has to prove itself.
    """
    with locked(hosts, name) as host:
        driver = host.driver
        request = driver.image_request() if isinstance(driver, Upgradable) else None
        if request is None and host.has(Trait.PROVISION):
            if host.state() is not State.RUNNING:
                _start(host)
            provision.upgrade_host(host)
            return
        if request is None or not isinstance(driver, Upgradable):
            raise driver.unsupported("upgrade")
        from pymachine.image import provide  # noqa: PLC0415 (only this needs the builder)

        trusted_cas.trust_in_downloads(hosts.store.root, host.record.ca_certificates)
        image = provide.refresh(request, store=hosts.store.root, reporter=driver.reporter)
        newest = image.digest == driver.image_digest()
        # A stopped machine starts with its new image. A saved or paused one cannot change its image.
        if host.state() not in ((State.RUNNING,) if newest else (State.RUNNING, State.STOPPED)):
            _start(host)
        if newest:
            host.reporter.info(f'Machine "{name}" has the newest image already.')
            return
        _replace_image(host, image, timeout)


def _start(host: Host) -> None:
    host.reporter.info("Starting machine so machine can be upgraded...")
    lifecycle.start_host(host)


def _replace_image(host: Host, image: ImageFiles, timeout: float) -> None:
    """Boot the machine with `image`. If that fails, it has its old image again, and runs if it ran before."""
    driver, reporter = host.driver, host.reporter
    assert isinstance(driver, Upgradable)  # noqa: S101 (the caller has checked)
    reporter.info("Upgrading docker...")
    was_running = driver.state() is State.RUNNING
    if was_running:
        reporter.info("Stopping machine to do the upgrade...")
        driver.stop(timeout)
    reporter.info(f'Upgrading machine "{host.name}"...')
    try:
        with change_notes.replacing(host, transactions.UPGRADE, recovery.upgrade_finisher(driver)):
            driver.swap_image(image)
            host.save()
            reporter.info("Starting machine back up...")
            boot(host, driver.start, host.boot_request())
    except PymachineError as error:
        reporter.warn(f"The new image did not come up ({error.brief}): going back to the old one.")
        if was_running:
            boot(host, driver.start, host.boot_request())
        raise error.prefixed(f'Machine "{host.name}" has its old image again: ') from error

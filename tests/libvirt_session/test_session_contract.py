"""The contract suite for the driver ``libvirt`` with a user's own libvirtd: forwarded ports instead of a network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import ClassVar

import pytest

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.testing import LiveDriverContract
from pymachine_driver_libvirt import Driver as LibvirtDriver
from support import boot
from support.libvirtd import SESSION, virsh, wait_for

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def removed_afterwards() -> Iterator[None]:
    yield
    live = getattr(TestLiveSession, "live", None)
    if live is not None:
        live.remove()


class TestLiveSession(LiveDriverContract):
    driver = LibvirtDriver
    changed: ClassVar = {"libvirt_uri": SESSION}

    def boot_request(self, driver: Driver) -> BootRequest:
        return boot.request(driver)

    def check_running(self) -> None:
        endpoint = self.live.endpoint()
        assert ipaddress.ip_address(endpoint.address).is_loopback
        assert (endpoint.docker_port, endpoint.ssh_port) == (2376, 22022)
        log = self.live.machine.directory / "ports.log"
        wait_for(lambda: "following the guest" in log.read_text(), "the port forwarder")

    def test_remove_leaves_nothing_and_can_be_repeated(self) -> None:
        super().test_remove_leaves_nothing_and_can_be_repeated()
        assert virsh("list", "--all", "--name", uri=SESSION) == ""
        assert virsh("vol-list", "default", uri=SESSION) == ""
        log = self.live.machine.directory / "ports.log"
        wait_for(lambda: "the machine has ended" in log.read_text(), "the end of the port forwarder")

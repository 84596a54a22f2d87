"""The contract suite for the driver ``libvirt`` with another host's libvirtd, over SSH."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.testing import LiveDriverContract
from pymachine_driver_libvirt import Driver as LibvirtDriver
from support import boot, libvirtd
from support.libvirtd import OtherHost

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def removed_afterwards() -> Iterator[None]:
    yield
    live = getattr(TestLiveRemote, "live", None)
    if live is not None:
        live.remove()


class TestLiveRemote(LiveDriverContract):
    driver = LibvirtDriver

    @pytest.fixture(autouse=True)
    def on_other_host(self, attic: OtherHost) -> None:
        type(self).changed = {"libvirt_uri": attic.uri}

    def boot_request(self, driver: Driver) -> BootRequest:
        return boot.request(driver)

    def check_running(self) -> None:
        """Check that the machine has ports on the other host's address, since that host's network is not routed."""
        endpoint = self.live.endpoint()
        assert endpoint.address == libvirtd.THERE
        assert endpoint.docker_port != endpoint.ssh_port
        assert self.live.location() == libvirtd.THERE  # type: ignore[attr-defined]

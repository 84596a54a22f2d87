"""The contract suite for the driver ``libvirt`` with a system libvirtd and a machine that runs the real image."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.testing import LiveDriverContract
from pymachine_driver_libvirt import Driver as LibvirtDriver
from support import boot
from support.libvirtd import virsh

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def removed_afterwards() -> Iterator[None]:
    yield
    live = getattr(TestLiveLibvirt, "live", None)
    if live is not None:
        live.remove()


def validate(xml: str, folder: Path) -> None:
    """Validate libvirt's definition of a machine against libvirt's own schema."""
    (folder / "domain.xml").write_text(xml)
    subprocess.run(["virt-xml-validate", folder / "domain.xml", "domain"], check=True)


class TestLiveLibvirt(LiveDriverContract):
    driver = LibvirtDriver

    def boot_request(self, driver: Driver) -> BootRequest:
        return boot.request(driver)

    def check_running(self) -> None:
        name, config = self.live.machine.name, self.live.config
        assert virsh("domuuid", name) == config["MachineID"]
        assert f"made by pymachine: machine {name} of the store {self.live.machine.store}" in virsh("desc", name)
        mark = virsh("metadata", name, "urn:pymachine:libvirt:1")
        assert f"<name>{name}</name>" in mark.replace("pymachine:", "")
        validate(virsh("dumpxml", "--inactive", name), self.live.machine.directory)
        self.check_reservation()

    def check_reservation(self) -> None:
        mac, address = self.live.config["MACAddress"], self.live.endpoint().address
        for xml in (virsh("net-dumpxml", "default"), virsh("net-dumpxml", "--inactive", "default")):
            assert re.search(f"<host mac='{mac}' name='contract' ip='{address}'", xml)
        assert re.search(rf"{mac} +ipv4 +{re.escape(address)}/", virsh("net-dhcp-leases", "default"))

    def test_remove_leaves_nothing_and_can_be_repeated(self) -> None:
        name = self.live.machine.name
        assert name in virsh("list", "--all", "--name")
        super().test_remove_leaves_nothing_and_can_be_repeated()
        assert name not in virsh("list", "--all", "--name")
        assert "<host" not in virsh("net-dumpxml", "default")
        assert virsh("vol-list", "default") == ""

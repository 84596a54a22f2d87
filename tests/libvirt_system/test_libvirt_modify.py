"""New hardware, image and name for an existing machine, with the user's edits of the domain kept."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import BootRequest, MachineRef
from pymachine.driver.kit.identity_channel import GuestTimeoutError
from pymachine.driver.testing import defaults, reference
from pymachine.errors import DriverError, HostNotRunningError, UsageError
from pymachine_driver_libvirt import Driver as LibvirtDriver
from support import boot
from support.libvirtd import virsh

EDITED = "<title>My own words</title>"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtDriver]:
    """A machine that was switched off during its first boot, with a domain that the user has edited."""
    ref = reference(tmp_path_factory.mktemp("modify"), "thing")
    driver = LibvirtDriver(ref, dict(LibvirtDriver.configure(ref, defaults(LibvirtDriver), [])))
    request = boot.request(driver)
    try:
        with pytest.raises(GuestTimeoutError):
            driver.create(BootRequest(identity=request.identity, image=request.image, timeout=0.1))
        xml = virsh("dumpxml", "--inactive", "thing")
        virsh("define", "/dev/stdin", stdin=xml.replace("<description>", f"{EDITED}<description>"))
        yield driver
    finally:
        driver.remove()


def test_a_hardware_change_keeps_the_edits(stopped: LibvirtDriver) -> None:
    stopped.resize(HardwareChange(cpus=1, memory_mib=768, disk_mb=30000))
    xml = virsh("dumpxml", "--inactive", "thing")
    assert re.search(r"<vcpu[^>]*>1</vcpu>", xml)
    assert f"<memory unit='KiB'>{768 * 1024}</memory>" in xml
    assert f"<currentMemory unit='KiB'>{768 * 1024}</currentMemory>" in xml
    assert EDITED in xml
    assert "Capacity:       29.30 GiB" in virsh("vol-info", stopped.config["DiskVolume"], "default")
    assert [stopped.config[key] for key in ("CPU", "Memory", "DiskSize")] == [1, 768, 30000]
    with pytest.raises(UsageError, match="--disk-size is 20000, but the disk has 30000 MB"):
        stopped.resize(HardwareChange(disk_mb=20000))


def test_a_swapped_image_can_be_kept_or_restored(stopped: LibvirtDriver) -> None:
    image = boot.image(stopped)
    other = dataclasses.replace(image, digest="f" * 64, command_line="quiet=maybe")
    before = stopped.config["ImageSet"]
    for keep in (False, True):
        stopped.swap_image(other)
        assert stopped.image_digest() == "f" * 64
        xml = virsh("dumpxml", "--inactive", "thing")
        assert before not in xml
        assert xml.count("pymachine-ffffffffffff-") == 3
        assert "quiet=maybe</cmdline>" in xml
        assert EDITED in xml
        if keep:
            stopped.commit_image()
        else:
            stopped.rollback_image()
        kept, dropped = ("pymachine-ffff", before) if keep else (before, "pymachine-ffff")
        names = virsh("vol-list", "default")
        assert kept in names
        # An image that another machine, perhaps of another store, boots from is not removed.
        others = [name for name in virsh("list", "--all", "--name").split() if name != "thing"]
        assert (dropped in names) == any(dropped in virsh("dumpxml", other) for other in others)
        assert (kept in virsh("dumpxml", "--inactive", "thing"), "PreviousImage" in stopped.config) == (True, False)


def test_a_rename_renames_the_domain(stopped: LibvirtDriver) -> None:
    before = stopped.machine
    stopped.machine = MachineRef("other", before.directory, before.store, before.ssh_key)
    stopped.renamed(before)
    assert "thing" not in virsh("list", "--all", "--name")
    assert "machine other of the store" in virsh("desc", "other")
    assert "<name>other</name>" in virsh("metadata", "other", "urn:pymachine:libvirt:1").replace("pymachine:", "")
    mac, address = stopped.config["MACAddress"], stopped.endpoint().address
    assert f"<host mac='{mac}' name='other' ip='{address}'>" in virsh("net-dumpxml", "default")
    with pytest.raises(HostNotRunningError):
        stopped.apply_identity(boot.request(stopped))


def test_a_rename_to_a_taken_name_is_refused(stopped: LibvirtDriver) -> None:
    xml = "<domain type='qemu'><name>theirs</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
    virsh("define", "/dev/stdin", stdin=xml)
    before = stopped.machine
    stopped.machine = MachineRef("theirs", before.directory, before.store, before.ssh_key)
    try:
        with pytest.raises(DriverError, match="already has another domain called theirs"):
            stopped.renamed(before)
        assert before.name in virsh("list", "--all", "--name")
    finally:
        stopped.machine = before
        virsh("undefine", "theirs")


def test_the_console_log_is_in_the_folder_of_the_machine(stopped: LibvirtDriver, tmp_path: Path) -> None:
    assert stopped.console_log() == stopped.machine.directory / "console.log"

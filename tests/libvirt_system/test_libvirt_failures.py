"""Failures before a machine runs report the cause and a fix, and leave libvirt unchanged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest, Driver, Endpoint
from pymachine.driver.kit.crashes import CrashedError
from pymachine.driver.kit.identity_channel import GuestTimeoutError
from pymachine.driver.testing import defaults, reference
from pymachine.errors import DriverError
from pymachine.system.wait import until
from pymachine_driver_libvirt import Driver as LibvirtDriver
from pymachine_driver_qemu.process import find_pids
from support import boot, libvirtd
from support.libvirtd import Daemon, virsh
from support.runner import Pymachine

CREATE = ("create", "--driver", "libvirt")
FOREIGN = """\
<domain type="qemu"><name>x</name><description>another machine</description><memory unit="MiB">64</memory>
<os><type arch="x86_64" machine="q35">hvm</type></os></domain>"""


def libvirt_state() -> str:
    """Return the domains, volumes and reserved addresses, which must be the same before and after a test."""
    domains = virsh("list", "--all", "--name")
    pools = virsh("vol-list", "default") if "default" in virsh("pool-list", "--name") else ""
    return f"{domains}\n{pools}\n{re.findall('<host .*', virsh('net-dumpxml', 'default'))}"


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = libvirt_state()
    yield
    assert libvirt_state() == before


def make(folder: Path, name: str = "x", **changed: Any) -> LibvirtDriver:
    """Return a configured driver for a machine that is not created yet, in the store `folder`."""
    ref = reference(folder, name)
    return LibvirtDriver(ref, dict(LibvirtDriver.configure(ref, defaults(LibvirtDriver, **changed), [])))


def create_until_boot(driver: Driver) -> None:
    """Run `create` until the guest starts to boot, when everything has been made."""
    request = boot.request(driver)
    with pytest.raises(GuestTimeoutError, match=r"the guest did not come up within 0\.5 seconds"):
        driver.create(BootRequest(identity=request.identity, image=request.image, timeout=0.5))


# -- names ------------------------------------------------------------------------------------------------------


def test_a_domain_of_another_owner_is_not_changed(pymachine: Pymachine) -> None:
    virsh("define", "/dev/stdin", stdin=FOREIGN)
    try:
        before = virsh("dumpxml", "x")
        outcome = pymachine(*CREATE, "x", code=3)
        assert "already has another domain called x" in outcome.stderr
        assert "another machine" in outcome.stderr
        assert "Hint: Choose another name" in outcome.stderr
        assert pymachine("ls", "-q").stdout == ""
        assert virsh("dumpxml", "x") == before
    finally:
        virsh("undefine", "x")


def test_two_stores_share_only_the_image(tmp_path: Path) -> None:
    """A name that another store uses is refused, and the error names that store."""
    one, two = make(tmp_path / "one", "one"), make(tmp_path / "two", "two")
    assert one.endpoint().address != two.endpoint().address
    try:
        create_until_boot(one)
        create_until_boot(two)
        assert one.config["ImageSet"] == two.config["ImageSet"]
        again = make(tmp_path / "two", "one")
        with pytest.raises(DriverError, match="already has another domain called one") as caught:
            again.precreate_check()
        assert f"the store {tmp_path / 'one'}" in caught.value.details
        one.remove()
        names = virsh("vol-list", "default")
        assert two.config["ImageSet"] in names
        assert "one-" not in names
    finally:
        for driver in (one, two):
            driver.remove()


# -- networks -----------------------------------------------------------------------------------------------------


def test_a_missing_network_is_reported(pymachine: Pymachine) -> None:
    outcome = pymachine(*CREATE, "--libvirt-network", "nonesuch", "x", code=3)
    assert "libvirt has no network called 'nonesuch'" in outcome.stderr
    assert "Existing networks: default" in outcome.stderr
    assert pymachine("ls", "-q").stdout == ""


def test_an_inactive_network_or_one_without_dhcp_is_reported(pymachine: Pymachine) -> None:
    virsh("net-define", "/dev/stdin", stdin=libvirtd.network_xml("lab", number=55))
    try:
        outcome = pymachine(*CREATE, "--libvirt-network", "lab", "x", code=3)
        assert "network lab is not active" in outcome.stderr
        assert "virsh net-start lab" in outcome.stderr
        virsh("net-undefine", "lab")
        libvirtd.define_network("<network><name>lab</name><bridge name='virbr55'/></network>", "lab")
        outcome = pymachine(*CREATE, "--libvirt-network", "lab", "x", code=3)
        assert "network lab has no DHCP server of libvirt" in outcome.stderr
        assert "--libvirt-network user" in outcome.stderr
        virsh("net-destroy", "lab")
    finally:
        virsh("net-undefine", "lab")


def test_a_full_network_is_reported(tmp_path: Path) -> None:
    libvirtd.define_network(libvirtd.network_xml("tiny", number=56, last=2), "tiny")
    try:
        driver = make(tmp_path, libvirt_network="tiny")
        assert driver.endpoint().address == "192.168.56.2"
        ref = reference(tmp_path, "y")
        with pytest.raises(DriverError, match="network tiny has no free address left") as caught:
            LibvirtDriver.configure(ref, defaults(LibvirtDriver, libvirt_network="tiny"), [driver.config])
        assert caught.value.exit_code == 3
    finally:
        virsh("net-destroy", "tiny")
        virsh("net-undefine", "tiny")


def test_an_address_reserved_by_another_machine_in_the_meantime_is_reported(tmp_path: Path) -> None:
    driver = make(tmp_path)
    address = driver.endpoint().address
    host = f"<host mac='52:54:00:00:00:99' ip='{address}'/>"
    virsh("net-update", "default", "add", "ip-dhcp-host", host, "--live", "--config")
    try:
        request = boot.request(driver)
        with pytest.raises(DriverError, match=f"{address} on network default is now reserved for another machine"):
            driver.create(request)
        driver.remove()
        assert "52:54:00:00:00:99" in virsh("net-dumpxml", "default")
    finally:
        virsh("net-update", "default", "delete", "ip-dhcp-host", host, "--live", "--config")


# -- pools --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pool(tmp_path: Path) -> Iterator[str]:
    """A pool of 100 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], check=True)
    virsh("pool-define-as", "small", "dir", "--target", str(folder))
    virsh("pool-start", "small")
    try:
        yield "small"
    finally:
        virsh("pool-destroy", "small")
        virsh("pool-undefine", "small")
        subprocess.run(["umount", folder], check=True)


def test_a_pool_without_space_is_reported_before_anything_is_made(pymachine: Pymachine, small_pool: str) -> None:
    outcome = pymachine(*CREATE, "--libvirt-storage-pool", small_pool, "x", code=3)
    assert re.search(r"not enough space in storage pool small: \d+ MB free, 1024 MB needed", outcome.stderr)
    assert pymachine("ls", "-q").stdout == ""


def test_a_pool_that_fills_up_during_the_upload_is_reported(tmp_path: Path, small_pool: str) -> None:
    driver = make(tmp_path, libvirt_storage_pool=small_pool)
    with pytest.raises(DriverError, match=r"cannot upload into volume pymachine-.* of storage pool small: .*space"):
        driver.create(boot.request(driver))
    driver.remove()
    assert virsh("vol-list", small_pool) == ""


def test_a_missing_pool_is_reported(pymachine: Pymachine) -> None:
    outcome = pymachine(*CREATE, "--libvirt-storage-pool", "nonesuch", "x", code=3)
    assert "libvirt has no storage pool called 'nonesuch'" in outcome.stderr
    assert "virsh pool-define-as nonesuch" in outcome.stderr


# -- XML ----------------------------------------------------------------------------------------------------------


def test_an_xml_patch_is_applied_and_an_invalid_one_is_reported(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text("<domain><devices><input type='tablet' bus='virtio'/></devices></domain>")
    bad.write_text("<domain><devices><input type='nonesuch'/></devices></domain>")
    # This name is valid for a domain, but not for a host in a libvirt network.
    driver = make(tmp_path, "9lives", libvirt_xml_patch=(str(good),), libvirt_autostart=True)
    try:
        create_until_boot(driver)
        assert re.search("<input type='tablet' bus='virtio'", virsh("dumpxml", "9lives"))
        assert re.search(r"Autostart: +enable", virsh("dominfo", "9lives"))
    finally:
        driver.remove()
    driver = make(tmp_path, libvirt_xml_patch=(str(bad),))
    with pytest.raises(
        DriverError, match="libvirt rejects the definition of the machine's domain: XML document failed to validate"
    ):
        driver.create(boot.request(driver))
    driver.remove()


# -- interrupted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["Creating SSH key", "Uploading the image", "Waiting for the machine to start"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_rm_cleans_up_after_an_interrupted_create(pymachine: Pymachine, step: str, number: signal.Signals) -> None:
    process = pymachine.start(*CREATE, "x")
    assert process.stdout
    output = []
    for line in process.stdout:
        output.append(line)
        if re.search(step, line):
            break
    else:
        pytest.fail(f"no line matches {step!r} in:\n{''.join(output)}")
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    if number is signal.SIGKILL:
        pymachine("rm", "-y", "x")
    assert pymachine("ls", "-q").stdout == ""


def test_a_qemu_that_crashes_during_boot_is_started_again(pymachine: Pymachine) -> None:
    """libvirt reports a killed QEMU as crashed, and a kill writes no core file."""
    process = pymachine.start(*CREATE, "x")
    assert process.stdout
    for line in process.stdout:
        if "Waiting for the machine to start" in line:
            break
    [qemu] = find_pids("guest=x,debug-threads=on")
    os.kill(qemu, signal.SIGKILL)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert text.count("the machine's QEMU crashed: booting again.") == 1
    assert pymachine("status", "x").stdout == "Running\n"
    pymachine("rm", "-y", "x")


def test_a_qemu_that_crashes_before_its_channel_is_open_is_reported(tmp_path: Path) -> None:
    """On a busy host, QEMU may end before the driver opens the channel."""
    driver = make(tmp_path)
    made = boot.request(driver)

    def kill_qemu_first(endpoint: Endpoint) -> bytes:
        [qemu] = find_pids("guest=x,debug-threads=on")
        os.kill(qemu, signal.SIGKILL)
        until(lambda: not find_pids("guest=x,debug-threads=on"), deadline=10, what="QEMU to end")
        return made.identity(endpoint)

    try:
        with pytest.raises(CrashedError, match="the machine's QEMU crashed"):
            driver.create(BootRequest(identity=kill_qemu_first, image=made.image, timeout=60))
    finally:
        driver.remove()


# -- no libvirt ---------------------------------------------------------------------------------------------------


def test_libvirts_test_driver_is_refused(pymachine: Pymachine) -> None:
    outcome = pymachine(*CREATE, "--libvirt-uri", "test:///default", "x", code=None)
    assert outcome.code != 0
    assert "test:///default is libvirt's test driver, whose machines exist only in memory" in outcome.stderr
    assert pymachine("ls", "-q").stdout == ""


def test_a_missing_daemon_is_reported_with_a_fix(pymachine: Pymachine, daemon: Daemon) -> None:
    daemon.stop()
    try:
        outcome = pymachine(*CREATE, "x", code=3)
    finally:
        daemon.start()
    assert "cannot connect to libvirt at qemu:///system: Failed to connect socket" in outcome.stderr
    assert "systemctl start libvirtd" in outcome.stderr
    assert "qemu:///session" in outcome.stderr
    assert pymachine("ls", "-q").stdout == ""

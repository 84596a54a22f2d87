"""Run in the nested computer: all operations that need no Linux in the guest, on a machine with a boot sector."""

from __future__ import annotations

import io
import ipaddress
import json
import sys
import tarfile
import time
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint, ImageFiles, State
from pymachine.driver.testing import defaults, reference, reread
from pymachine.system.progress import Silent
from pymachine_driver_virtualbox import Driver, boot, checks, files, network, output, snapshots, vm

# Writes "A" to the serial port at each clock tick: mov dx, 0x3f8; mov al, 'A'; out dx, al; hlt; jmp to mov al.
CODE = bytes.fromhex("ba f8 03 b0 41 ee f4 eb fa")


def log(text: str) -> None:
    sys.stdout.write(f"[{time.monotonic():.1f}] {text}\n")
    sys.stdout.flush()


def make_iso(path: Path) -> None:
    from pycdlib import PyCdlib

    iso = PyCdlib()
    iso.new(interchange_level=3)
    sector = CODE.ljust(2048, b"\0")
    iso.add_fp(io.BytesIO(sector), len(sector), "/BOOT.BIN;1")
    iso.add_eltorito("/BOOT.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4)
    iso.write(str(path))
    iso.close()


def identity(endpoint: Endpoint) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("hostname"))
    return buffer.getvalue()


def writes_to_console(console: Path) -> bool:
    """Wait for more output of the guest; return whether there was any."""
    size = console.stat().st_size if console.exists() else 0
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if console.exists() and console.stat().st_size > size:
            return True
        time.sleep(0.2)
    return False


def main() -> None:
    folder = Path("/root/test")
    ref = reference(folder, "m1")
    ref.ssh_key.with_name("id_rsa.pub").write_text("ssh-ed25519 AAAA test\n")
    driver = Driver(ref, dict(Driver.configure(ref, defaults(Driver), [])))
    health = Driver.health()
    log(f"health {health}")
    assert health.usable, health
    assert health.version == "7.2.22"
    vbox = driver.vbox()
    driver.precreate_check()
    make_iso(folder / "boot.iso")
    image = ImageFiles("0" * 64, "amd64", folder / "boot.iso", folder / "boot.iso", folder / "boot.iso")
    request = BootRequest(identity=identity, image=image, timeout=30.0)
    log("the host-only interface is made once and then reused")
    first, made = network.ensure(vbox, ipaddress.IPv4Interface(driver.config["HostOnlyCIDR"]))
    assert made
    assert boot.host_network(vbox, driver.config) == first
    checks.before_create(vbox, driver.config, reporter=Silent())
    network.ensure_dhcp(vbox, first)
    log("the machine is made and started")
    vm.make(driver, vbox, request)
    boot._join_network(driver, vbox, None)
    boot._forward_ssh(driver, vbox)
    boot._start(driver, vbox)
    assert reread(driver).state() is State.RUNNING
    assert writes_to_console(driver.console_log())
    assert "HM: Using AMD-V" in boot.vbox_log(vbox, driver.vm)
    log("paused and resumed")
    vbox("controlvm", driver.vm, "pause")
    assert driver.state() is State.PAUSED
    driver.start(request)
    assert driver.state() is State.RUNNING
    assert writes_to_console(driver.console_log())
    log("a snapshot of the running machine")
    taken = driver.machine.directory / "snapshots" / "one"
    taken.mkdir(parents=True)
    facts = driver.save_snapshot(taken)
    (taken / "snapshot.json").write_text(json.dumps({"format": 1, "made": 1.0, "facts": facts}))
    assert facts["Memory"] is True
    assert driver.state() is State.RUNNING
    log("switched off and on again")
    driver.kill()
    assert reread(driver).state() is State.STOPPED
    driver.kill()
    boot._forward_ssh(driver, vbox)
    boot._start(driver, vbox)
    assert driver.state() is State.RUNNING
    assert output.forwardings(vbox.info(driver.vm)) == {"ssh": driver.config["SSHPort"]}
    log("stopped by force, since the guest ignores the power button")
    driver.stop(2.0)
    assert driver.state() is State.STOPPED
    log("removed with its snapshot while it runs")
    assert snapshots.known(vbox, driver.vm)
    boot._start(driver, vbox)
    driver.remove()
    assert driver.state() is State.STOPPED
    assert vbox("list", "vms") == vbox("list", "hdds") == vbox("list", "dvds") == ""
    assert not files.of(driver.machine.directory).disk.exists()
    log("BOOT SECTOR PASSED")


if __name__ == "__main__":
    main()

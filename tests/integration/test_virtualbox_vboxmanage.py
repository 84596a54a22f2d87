"""The driver with the real VBoxManage: everything that works without the kernel module, so no running guests."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from pymachine.driver.abilities import HardwareChange, Resizable, Snapshottable
from pymachine.driver.contract import BootRequest, Endpoint, ImageFiles, State
from pymachine.driver.shares import Share
from pymachine.driver.testing import DriverContract, defaults, reference, reread
from pymachine.errors import DriverError, PymachineError, UsageError
from pymachine.system.progress import Silent
from pymachine_driver_virtualbox import (
    Driver,
    boot,
    checks,
    files,
    leases,
    machine,
    network,
    output,
    shared_folders,
    snapshots,
    vm,
)
from pymachine_driver_virtualbox.driver import VirtualBoxDriver
from pymachine_driver_virtualbox.errors import (
    HostNetworkError,
    NotInstalledError,
    VirtualBoxError,
    VirtualizationError,
    VmNotFoundError,
)
from pymachine_driver_virtualbox.vboxmanage import VBoxManage
from support import virtualbox
from support.runner import Pymachine, private_store
from support.virtualbox import VERSION, RealVirtualBox

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVirtualBox]:
    with virtualbox.real(tmp_path_factory.mktemp("box")) as found:
        yield found


@pytest.fixture
def box(shared_box: RealVirtualBox) -> Iterator[RealVirtualBox]:
    """An empty VirtualBox. All tests share its server, which sometimes takes long to start."""
    yield shared_box
    shared_box.empty()


def make(folder: Path, name: str = "m1", **changed: object) -> VirtualBoxDriver:
    ref = reference(folder / "store", name)
    ref.ssh_key.write_text("key")
    ref.ssh_key.with_name("id_rsa.pub").write_text("ssh-ed25519 AAAA test\n")
    return Driver(ref, dict(Driver.configure(ref, defaults(Driver, virtualbox_no_share=True, **changed), [])))


def identity(endpoint: Endpoint) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("hostname")
        archive.addfile(entry)
    return buffer.getvalue()


def make_iso(path: Path, content: bytes = b"first") -> Path:
    """Write an ISO image, since VirtualBox accepts nothing else in a CD drive."""
    from pymachine.image.filesystem import iso
    from pymachine.image.filesystem.tree import Node, Tree

    tree = Tree()
    tree.put("content", Node.file(content))
    iso.write(tree, path, volume="TEST")
    return path


def request(folder: Path, content: bytes = b"first") -> BootRequest:
    iso = make_iso(folder / f"{content.decode()}.iso", content)
    image = ImageFiles(hashlib.sha256(content).hexdigest(), "amd64", iso, iso, iso)
    return BootRequest(identity=identity, image=image, timeout=5.0)


def made(folder: Path, name: str = "m1", **changed: object) -> VirtualBoxDriver:
    """Make a machine as `create` does, up to its first start."""
    return made_from(request(folder), folder, name, **changed)


def made_from(boot_request: BootRequest, folder: Path, name: str, **changed: object) -> VirtualBoxDriver:
    """Make a machine of an image that exists. Machines made at once must not all write the ISO they share."""
    driver = make(folder, name, **changed)
    vm.make(driver, driver.vbox(), boot_request)
    return driver


class TestContract(DriverContract):
    """The contract suite, with VirtualBox installed."""

    driver = Driver

    @pytest.fixture(autouse=True)
    def _box(self, box: RealVirtualBox) -> None:
        """Put VBoxManage on PATH."""

    def test_a_machine_that_was_not_created_is_stopped(self, tmp_path: Path) -> None:
        assert self.make(tmp_path).state() is State.STOPPED


# -- the life of a machine that does not run ---------------------------------------------------------------------


def test_a_machine_has_the_requested_settings(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path, virtualbox_memory=2048, virtualbox_cpu_count=3, virtualbox_nat_nictype="virtio")
    own = files.of(driver.machine.directory)
    info = driver.vbox().info(driver.vm)
    assert (info["name"], info["UUID"]) == ("m1", driver.config["VMUUID"])
    assert (info["memory"], info["cpus"], info["nictype1"]) == ("2048", "3", "virtio")
    assert list(output.attached(info)) == [str(own.iso), str(own.disk)]
    assert info["uartmode1"] == f"file,{own.console}"
    assert info["CfgFile"].startswith(str(driver.machine.directory))
    assert driver.state() is reread(driver).state() is State.STOPPED
    capacity = box("showmediuminfo", own.disk).stdout
    assert "20000 MBytes" in capacity
    assert own.disk.stat().st_size < 8 << 20, "it grows as it fills"


def test_the_disk_starts_with_the_identity_for_the_guest(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path, virtualbox_disk_size=1000)
    raw = tmp_path / "raw"
    box("clonemedium", "disk", files.of(driver.machine.directory).disk, raw, "--format", "RAW")
    begin = raw.read_bytes()[: 1 << 20]
    assert raw.stat().st_size == 1000 << 20
    assert begin.startswith(b"boot2docker, please format-me\0")
    assert b"pymachine-identity.tar" in begin


def test_nothing_is_left_of_a_removed_machine(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    driver.remove()
    assert driver.state() is State.STOPPED
    driver.remove()
    for kind in ("vms", "hdds", "dvds"):
        assert box("list", kind).stdout == "", kind
    assert not files.of(driver.machine.directory).disk.exists()


def test_machines_of_the_same_name_in_two_stores_are_independent(box: RealVirtualBox, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    first.remove()
    assert second.vbox().info(second.vm)["name"] == "m1"
    second.remove()


def test_remove_cleans_up_after_a_killed_create(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = make(tmp_path)
    saved = json.dumps(driver.config)
    vm.make(driver, driver.vbox(), request(tmp_path))
    # The record is still the one from before `create`.
    after_the_crash = Driver(driver.machine, json.loads(saved))
    after_the_crash.remove()
    assert box("list", "vms").stdout == ""


def test_a_machine_missing_in_virtualbox_is_reported(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    box("unregistervm", driver.vm, "--delete")
    with pytest.raises(VmNotFoundError, match="machine does not exist"):
        driver.state()
    driver.remove()


def test_a_start_without_the_kernel_module_says_how_to_load_it(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    with pytest.raises(VirtualizationError, match="could not start the machine") as caught:
        boot._start(driver, driver.vbox())
    assert "terminated unexpectedly during startup" in caught.value.details
    assert "modprobe vboxdrv" in caught.value.hint
    assert driver.state() is State.STOPPED


def test_the_image_can_be_swapped_and_restored(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    vbox, own = driver.vbox(), files.of(driver.machine.directory)
    before, digest = own.iso.read_bytes(), driver.image_digest()
    newer = request(tmp_path, b"second").image
    assert newer
    driver.swap_image(newer)
    assert (own.iso.read_bytes(), driver.image_digest()) == (newer.iso.read_bytes(), newer.digest)
    assert next(output.attached(vbox.info(driver.vm))) == str(own.iso)
    driver.rollback_image()
    assert (own.iso.read_bytes(), driver.image_digest()) == (before, digest)
    driver.swap_image(newer)
    driver.commit_image()
    assert sorted(path.name for path in own.folder.glob("boot2docker.iso*")) == ["boot2docker.iso"]
    driver.remove()
    assert box("list", "dvds").stdout == ""


def test_the_ssh_port_changes_only_if_it_is_taken(box: RealVirtualBox, tmp_path: Path) -> None:
    import socket

    driver = made(tmp_path)
    vbox = driver.vbox()
    port = driver.config["SSHPort"]
    boot._forward_ssh(driver, vbox)
    boot._forward_ssh(driver, vbox)
    assert output.forwardings(vbox.info(driver.vm)) == {"ssh": port}
    with socket.create_server(("127.0.0.1", port)):
        boot._forward_ssh(driver, vbox)
    assert output.forwardings(vbox.info(driver.vm)) == {"ssh": driver.config["SSHPort"]}
    assert driver.config["SSHPort"] != port


def test_a_disk_can_grow_but_not_shrink(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path, virtualbox_disk_size=2000)
    assert isinstance(driver, Resizable)
    driver.resize(HardwareChange(cpus=2, memory_mib=2048, disk_mb=3000))
    info = driver.vbox().info(driver.vm)
    assert (info["cpus"], info["memory"]) == ("2", "2048")
    assert "3000 MBytes" in box("showmediuminfo", files.of(driver.machine.directory).disk).stdout
    assert [driver.config[key] for key in ("CPU", "Memory", "DiskSize")] == [2, 2048, 3000]
    for shape in (HardwareChange(disk_mb=2000), HardwareChange(memory_mib=1), HardwareChange(cpus=99)):
        with pytest.raises(UsageError):
            driver.resize(shape)
    assert driver.config["DiskSize"] == 3000


def test_a_renamed_machine_moves_with_its_files(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path, virtualbox_memory=777)
    before = driver.machine
    after = reference(tmp_path / "store", "m2")
    after.directory.rmdir()
    before.directory.rename(after.directory)
    renamed = Driver(after, driver.config)
    renamed.renamed(before)
    info = renamed.vbox().info(renamed.vm)
    assert (info["name"], info["memory"], info["UUID"]) == ("m2", "777", driver.config["VMUUID"])
    assert list(output.attached(info)) == [str(after.directory / "boot2docker.iso"), str(after.directory / "disk.vmdk")]
    assert box("list", "vms").stdout.count("\n") == 1
    assert not (after.directory / "m1").exists()
    renamed.remove()
    assert box("list", "hdds").stdout == box("list", "dvds").stdout == ""


def test_a_rename_ignores_a_medium_that_virtualbox_has_forgotten(
    box: RealVirtualBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VirtualBox's server may end after it has listed a medium that no machine uses. The next one does not know it."""
    driver = made(tmp_path)
    before, after = driver.machine, reference(tmp_path / "store", "m2")
    after.directory.rmdir()
    before.directory.rename(after.directory)
    forgotten = {"Location": str(before.directory / "boot2docker.iso"), "UUID": str(uuid.uuid4())}
    blocks = output.blocks
    monkeypatch.setattr(
        output, "blocks", lambda text: [*blocks(text), *([forgotten] if forgotten["Location"] in text else [])]
    )
    renamed = Driver(after, driver.config)
    renamed.renamed(before)
    assert renamed.vbox().info(renamed.vm)["name"] == "m2"
    renamed.remove()


def test_a_machine_with_snapshots_cannot_be_renamed_or_exported(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    box("snapshot", driver.vm, "take", "theirs")
    after = reference(tmp_path / "store", "m2")
    after.directory.rmdir()
    driver.machine.directory.rename(after.directory)
    with pytest.raises(DriverError, match="has snapshots"):
        Driver(after, dict(driver.config)).renamed(driver.machine)
    after.directory.rename(driver.machine.directory)
    assert driver.state() is State.STOPPED
    with pytest.raises(DriverError, match="the machine has snapshots"):
        driver.exported()


def test_a_copy_differs_from_its_original_in_identity(box: RealVirtualBox, tmp_path: Path) -> None:
    import shutil

    driver = made(tmp_path)
    copy = make(tmp_path, "copy")
    for name in driver.exported():
        shutil.copy(driver.machine.directory / name, copy.machine.directory)
    imported = Driver(copy.machine, {**driver.config, "MachineName": "copy"})
    imported.imported([driver.config])
    assert imported.state() is driver.state() is State.STOPPED
    for key in ("VMUUID", "MACAddress", "IPAddress", "SSHPort"):
        assert imported.config[key] != driver.config[key], key
    disks = [block["UUID"] for block in output.blocks(box("list", "hdds").stdout)]
    assert len(set(disks)) == 2
    imported.remove()
    driver.remove()


def test_snapshots_are_removed_with_their_folders(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    assert isinstance(driver, Snapshottable)
    box("snapshot", driver.vm, "take", "theirs")
    box("modifyvm", driver.vm, "--memory", "900")
    folder = driver.machine.directory / "snapshots" / "one"
    folder.mkdir(parents=True)
    facts = driver.save_snapshot(folder)
    assert facts["Memory"] is False
    (folder / "snapshot.json").write_text(json.dumps({"format": 1, "made": 1.0, "facts": facts}))
    driver.config["Memory"] = 1024
    driver.config["IdentityDigest"] = "current"
    driver.restore_snapshot(folder, facts, request(tmp_path))
    info = driver.vbox().info(driver.vm)
    assert info["memory"] == "1024", "not as in the record"
    assert not driver.config["IdentityDigest"], "the disk may have an older one"
    second = folder.with_name("two")
    second.mkdir()
    later = driver.save_snapshot(second)
    assert len(snapshots.known(driver.vbox(), driver.vm)) == 3
    (folder / "snapshot.json").unlink()
    (second / "snapshot.json").write_text(json.dumps({"format": 1, "made": 2.0, "facts": later}))
    snapshots.prune(driver, driver.vbox())
    assert set(snapshots.known(driver.vbox(), driver.vm).values()) >= {later[snapshots.FACT]}
    assert facts[snapshots.FACT] not in snapshots.known(driver.vbox(), driver.vm).values()
    assert "theirs" in snapshots.known(driver.vbox(), driver.vm)
    with pytest.raises(DriverError, match="does not have this snapshot"):
        driver.restore_snapshot(folder, facts, request(tmp_path))
    driver.remove()
    assert box("list", "hdds").stdout == ""


# -- shared folders ----------------------------------------------------------------------------------------------


def shared(folder: Path, guest_path: str = "", *, read_only: bool = False) -> Share:
    folder.mkdir(exist_ok=True)
    return Share(path=folder, guest_path=PurePosixPath(guest_path or folder), read_only=read_only)


def with_shares(folder: Path, *shares: Share) -> BootRequest:
    return replace(request(folder), shares=shares)


def start(driver: VirtualBoxDriver, boot_request: BootRequest) -> None:
    """Start the machine, but for the last step, which needs the kernel module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boot, "start_machine", lambda *_, **__: None)
        driver.start(boot_request)


def folders(driver: VirtualBoxDriver) -> dict[str, str]:
    return shared_folders.existing(driver.vbox().info(driver.vm))


def settings(driver: VirtualBoxDriver) -> str:
    """Return VirtualBox's own file about the machine, which says more than showvminfo."""
    return (driver.machine.directory / "m1" / "m1.vbox").read_text(encoding="utf-8")


def save_state(box: RealVirtualBox, driver: VirtualBoxDriver) -> None:
    """Give the machine a saved memory, as if it had run."""
    state = driver.machine.directory / "state.sav"
    state.write_bytes(bytes(1024))
    box("adoptstate", driver.vm, state)
    assert driver.state() is State.SAVED


NAMES = ("plain", "a,b", "a b ", 'quote"', "back\\slash", "a=b;c", "äöü-日本", "😀", "x" * 200)


def test_folders_of_any_name_can_be_shared(box: RealVirtualBox, tmp_path: Path) -> None:
    shares = [shared(tmp_path / name) for name in NAMES]
    driver = make(tmp_path)
    driver.check_shares(shares)
    vm.make(driver, driver.vbox(), with_shares(tmp_path, *shares))
    assert folders(driver) == {shared_folders.name(share): str(share.path) for share in shares}


def test_a_new_machine_has_its_shared_folders_and_mounts_them(box: RealVirtualBox, tmp_path: Path) -> None:
    first, second = shared(tmp_path / "one"), shared(tmp_path / "two", "/srv/two", read_only=True)
    gone = Share(path=tmp_path / "gone", guest_path=PurePosixPath("/gone"))
    driver = make(tmp_path)
    vm.make(driver, driver.vbox(), with_shares(tmp_path, first, second, gone))
    assert folders(driver) == {shared_folders.name(share): str(share.path) for share in (first, second)}
    text = settings(driver)
    assert f'name="{shared_folders.name(first)}" hostPath="{first.path}" writable="true" autoMount="false"' in text
    assert f'name="{shared_folders.name(second)}" hostPath="{second.path}" writable="false" autoMount="false"' in text
    assert "SharedFoldersEnableSymlinksCreate" not in text
    assert "symlinkPolicy" not in text, "VirtualBox's default forbids guests to make symbolic links"
    raw = tmp_path / "raw"
    box("clonemedium", "disk", files.of(driver.machine.directory).disk, raw, "--format", "RAW")
    with raw.open("rb") as disk:
        begin = disk.read(1 << 20)
    for share, mode in ((first, "rw"), (second, "ro")):
        line = f"vboxsf\t{shared_folders.name(share)}\t{mode},nosuid,nodev,uid=1000,gid=1000\t{share.guest_path}\n"
        assert line.encode() in begin


def test_a_start_changes_the_shared_folders(box: RealVirtualBox, tmp_path: Path) -> None:
    first, second = shared(tmp_path / "one"), shared(tmp_path / "two")
    driver = made(tmp_path)
    box("sharedfolder", "add", driver.vm, "--name", "theirs", "--hostpath", tmp_path)
    start(driver, with_shares(tmp_path, first, second))
    assert set(folders(driver).values()) == {str(first.path), str(second.path)}
    start(driver, with_shares(tmp_path, replace(second, read_only=True)))
    assert set(folders(driver).values()) == {str(second.path)}
    assert f'hostPath="{second.path}" writable="false"' in settings(driver)
    second.path.rmdir()
    start(driver, with_shares(tmp_path, second))
    assert folders(driver) == {}
    assert [share.name for share in shared_folders.others(driver.vbox().info(driver.vm))] == ["theirs"]


def test_a_renamed_machine_gets_its_shared_folders_when_it_starts(box: RealVirtualBox, tmp_path: Path) -> None:
    share = shared(tmp_path / "one")
    driver = make(tmp_path)
    vm.make(driver, driver.vbox(), with_shares(tmp_path, share))
    after = reference(tmp_path / "store", "m2")
    after.directory.rmdir()
    driver.machine.directory.rename(after.directory)
    renamed = Driver(after, driver.config)
    renamed.renamed(driver.machine)
    assert folders(renamed) == {}
    start(renamed, with_shares(tmp_path, share))
    assert list(folders(renamed).values()) == [str(share.path)]


def test_a_saved_machine_is_not_resumed_with_a_removed_share(box: RealVirtualBox, tmp_path: Path) -> None:
    """VirtualBox does not change the shared folders of a machine with saved memory."""
    share = shared(tmp_path / "one")
    driver = make(tmp_path)
    vm.make(driver, driver.vbox(), with_shares(tmp_path, share))
    save_state(box, driver)
    refused = box("sharedfolder", "remove", driver.vm, "--name", shared_folders.name(share), code=1)
    assert "VBOX_E_INVALID_VM_STATE" in refused.stderr
    with pytest.raises(DriverError, match=f"m1 cannot be resumed: its memory has shared folders .*: {share.path}$"):
        driver.start(with_shares(tmp_path))
    assert driver.state() is State.SAVED
    driver.kill()
    assert driver.state() is State.STOPPED
    start(driver, with_shares(tmp_path))
    assert folders(driver) == {}


def test_a_snapshot_of_only_the_disk_is_restored_without_memory(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    save_state(box, driver)
    facts = driver.save_snapshot(tmp_path, memory=False)
    driver.config["Memory"] = 900
    driver.restore_snapshot(tmp_path, facts, request(tmp_path))
    assert driver.state() is State.STOPPED
    assert driver.vbox().info(driver.vm)["memory"] == "900"


def test_a_snapshot_with_memory_does_not_bring_back_a_share(box: RealVirtualBox, tmp_path: Path) -> None:
    share = shared(tmp_path / "one")
    driver = make(tmp_path)
    vm.make(driver, driver.vbox(), with_shares(tmp_path, share))
    save_state(box, driver)
    facts = json.loads(json.dumps(driver.save_snapshot(tmp_path)))
    assert facts["Memory"] is True
    driver.kill()
    start(driver, with_shares(tmp_path))
    with pytest.raises(DriverError, match="the snapshot has shared folders that were changed since"):
        driver.restore_snapshot(tmp_path, facts, with_shares(tmp_path))
    assert driver.state() is State.STOPPED
    assert folders(driver) == {}


# -- machines made by docker-machine -----------------------------------------------------------------------------


@pytest.fixture
def old(box: RealVirtualBox, tmp_path: Path) -> VirtualBoxDriver:
    """A machine made with docker-machine's commands, whose record has no field of pymachine."""
    ref = reference(tmp_path / "store", "old")
    disk = ref.directory / "disk.vmdk"
    make_iso(ref.directory / "boot2docker.iso")
    box("createvm", "--basefolder", ref.directory, "--name", "old", "--register")
    box("createmedium", "disk", "--filename", disk, "--size", "100", "--format", "VMDK")
    box("modifyvm", "old", "--nic1", "nat", "--nic2", "hostonly", "--hostonlyadapter2", "vboxnet0")
    box("storagectl", "old", "--name", "SATA", "--add", "sata", "--hostiocache", "on")
    for port, kind, medium in (("0", "dvddrive", ref.directory / "boot2docker.iso"), ("1", "hdd", disk)):
        box(*machine.attach("old", port, kind, str(medium)))
    box("sharedfolder", "add", "old", "--name", "hosthome", "--hostpath", "/home", "--automount")
    config = {
        "IPAddress": "192.168.99.100",
        "MachineName": "old",
        "SSHUser": "docker",
        "SSHPort": 40022,
        "SSHKeyPath": str(ref.ssh_key),
        "StorePath": str(ref.store),
        "VBoxManager": {},
        "HostInterfaces": {},
        "CPU": 1,
        "Memory": 1024,
        "DiskSize": 20000,
        "NatNicType": "82540EM",
        "HostOnlyCIDR": "192.168.99.1/24",
        "HostOnlyNicType": "82540EM",
        "HostOnlyPromiscMode": "deny",
        "UIType": "headless",
    }
    return Driver(ref, config)


def test_an_old_machine_is_found_by_name_and_has_no_address_while_off(old: VirtualBoxDriver) -> None:
    assert old.state() is State.STOPPED
    assert old.image_digest() == ""
    with pytest.raises(PymachineError, match="Host is not running"):
        old.endpoint()
    old.kill()
    old.stop(1.0)


def test_an_upgraded_old_machine_has_a_fixed_address_and_keeps_its_shares(
    old: VirtualBoxDriver, tmp_path: Path
) -> None:
    image = request(tmp_path, b"second").image
    assert image
    old.swap_image(image)
    endpoint = old.endpoint()
    assert endpoint.address.startswith("192.168.99.")
    assert (endpoint.ssh_host, endpoint.ssh_port) == ("127.0.0.1", 40022)
    info = old.vbox().info(old.vm)
    assert [share.name for share in shared_folders.others(info)] == ["hosthome"]
    tar = boot.complete(old, identity(endpoint), info, shared_folders.others(info))
    mac = info["macaddress2"].lower()
    line = ":".join(mac[index : index + 2] for index in range(0, 12, 2)) + f" {endpoint.address}/24"
    assert line.encode() in tar
    old.rollback_image()
    assert "FixedAddress" not in old.config
    assert old.config["IPAddress"] == "192.168.99.100"


def test_an_old_machine_has_the_address_that_its_guest_reports(box: RealVirtualBox, old: VirtualBoxDriver) -> None:
    vbox, info = old.vbox(), old.vbox().info("old")
    with pytest.raises(HostNetworkError, match="has no address on its host-only interface yet"):
        leases.address(vbox, "old", info, old.config, key=old.machine.ssh_key)
    properties = {
        "0/MAC": "080027000001",
        "0/V4/IP": "10.0.2.15",
        "1/MAC": info["macaddress2"],
        "1/V4/IP": "192.168.99.107",
    }
    for name, value in properties.items():
        box("guestproperty", "set", "old", f"/VirtualBox/GuestInfo/Net/{name}", value)
    assert leases.address(vbox, "old", info, old.config, key=old.machine.ssh_key) == "192.168.99.107"


def test_an_old_machine_is_removed_with_its_disk(box: RealVirtualBox, old: VirtualBoxDriver) -> None:
    old.remove()
    assert box("list", "vms").stdout == ""
    assert not (old.machine.directory / "disk.vmdk").exists()


def test_a_boot2docker_machine_can_be_imported(
    box: RealVirtualBox, old: VirtualBoxDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_boot2docker").write_text("its key")
    (home / ".ssh" / "id_boot2docker.pub").write_text("its public key")
    monkeypatch.setenv("HOME", str(home))
    box("modifyvm", "old", "--memory", "768", "--cpus", "2")
    driver = made(tmp_path, "new", virtualbox_import_boot2docker_vm="old")
    info = driver.vbox().info(driver.vm)
    assert (info["memory"], info["cpus"]) == ("768", "2")
    assert driver.machine.ssh_key.read_text() == "its key"
    assert "100 MBytes" in box("showmediuminfo", files.of(driver.machine.directory).disk).stdout
    assert not driver.config.get("IdentityDigest"), "it gets its identity over SSH"
    driver.remove()
    assert old.state() is State.STOPPED


# -- failures ----------------------------------------------------------------------------------------------------


def test_extra_output_of_debians_wrapper_is_ignored(tmp_path: Path) -> None:
    with virtualbox.real(tmp_path, wrapper=True) as box:
        assert box("--version").stdout.startswith("WARNING: The character device /dev/vboxdrv does not exist.")
        assert VBoxManage().traits.version == VERSION
        driver = made(tmp_path)
        assert driver.state() is State.STOPPED
        assert network.interfaces(driver.vbox()("list", "hostonlyifs")) == []
        driver.remove()


def test_health_names_the_missing_kernel_module(box: RealVirtualBox) -> None:
    health = Driver.health()
    assert not health.usable
    assert health.version == "7.2.22"
    assert "vboxdrv" in health.problem
    assert "modprobe vboxdrv" in health.fix


def test_health_reports_a_missing_virtualbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    health = Driver.health()
    assert not health.usable
    assert "VBoxManage not found. Make sure VirtualBox is installed" in health.problem
    with pytest.raises(NotInstalledError):
        VBoxManage()


def test_create_without_the_kernel_module_fails_before_anything_is_made(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = make(tmp_path)
    with pytest.raises(VirtualizationError) as caught:
        driver.precreate_check()
    assert "--virtualbox-no-vtx-check" in caught.value.hint
    # With the check disabled, the error has VirtualBox's message and a fix.
    with pytest.raises(VirtualBoxError, match="hostonlyif create: Failed to create the host-only adapter") as later:
        driver.create(request(tmp_path))
    assert "failed to open /dev/vboxnetctl" in later.value.details
    assert "modprobe vboxnetadp" in later.value.hint
    assert box("list", "vms").stdout == ""
    driver.remove()


def test_a_host_only_range_that_virtualbox_refuses_is_reported(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = make(tmp_path, virtualbox_hostonly_cidr="192.168.99.1/24", virtualbox_no_vtx_check=True)
    with pytest.raises(HostNetworkError, match="VirtualBox refuses 192.168.99.1/24") as caught:
        checks.before_create(driver.vbox(), driver.config, reporter=Silent())
    assert "* 192.168.99.0/24" in caught.value.hint


def test_a_missing_adapter_is_an_error_although_virtualbox_only_warns(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    gone = network.Interface("vboxnet7", None)
    with pytest.raises(HostNetworkError, match='"vboxnet7" disappeared'):
        boot._join_network(driver, driver.vbox(), gone)


@pytest.mark.timeout(600)
def test_calls_are_retried_when_the_server_is_killed(box: RealVirtualBox, tmp_path: Path) -> None:
    """VBoxSVC is killed in the middle of calls; each call succeeds or is retried until it does.

    VBoxManage waits half a minute for a server that dies while it starts. On a busy host that is frequent, although
    the server is killed only after it has answered.
    """
    driver = made(tmp_path)
    vbox = driver.vbox()
    killed = 0
    answered = threading.Event()

    def kill() -> None:
        nonlocal killed
        for pause in (0.3, 0.4, 0.2):
            answered.clear()
            answered.wait()
            time.sleep(pause)
            killed += box.kill_server()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    seen = set()
    while killer.is_alive():
        seen.add(vbox.info(driver.vm)["UUID"])
        answered.set()
    killer.join()
    assert killed
    assert seen == {driver.config["VMUUID"]}
    vbox("modifyvm", driver.vm, "--memory", "900")
    assert vbox.info(driver.vm)["memory"] == "900"


def test_a_locked_machine_is_waited_for_and_then_reported(box: RealVirtualBox, tmp_path: Path) -> None:
    """Another front end locks the machine, as VirtualBox's settings window does."""
    driver = made(tmp_path)
    with box.holding(driver.vm) as holder:
        with pytest.raises(VirtualBoxError, match="is already locked"):
            VBoxManage(patience=0.5)("modifyvm", driver.vm, "--memory", "900")
        assert driver.state() is State.STOPPED
        assert holder.stdin
        release = threading.Timer(1.0, holder.stdin.close)
        release.start()
        driver.vbox()("modifyvm", driver.vm, "--memory", "900")
        assert holder.stdin.closed
        release.join()
    assert driver.vbox().info(driver.vm)["memory"] == "900"


def test_a_disk_that_another_machine_uses_is_kept(box: RealVirtualBox, tmp_path: Path) -> None:
    driver = made(tmp_path)
    disk = files.of(driver.machine.directory).disk
    other = box("createvm", "--basefolder", tmp_path / "other", "--name", "other", "--register")
    box("storagectl", "other", "--name", "SATA", "--add", "sata")
    box(*machine.attach("other", "0", "hdd", str(disk)))
    driver.remove()
    assert "other" in other.stdout
    assert disk.exists()
    assert box("list", "vms").stdout.startswith('"other"')


def test_a_full_disk_is_reported_with_the_message_of_virtualbox(
    box: RealVirtualBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make(tmp_path)
    monkeypatch.setenv("TEST_SMALL_DISK", str(driver.machine.directory))
    with pytest.raises(VirtualBoxError, match="convertfromraw: .*VERR_DISK_FULL") as caught:
        files.make_disk(
            driver.vbox(), files.of(driver.machine.directory).disk, size_mb=20000, beginning=os.urandom(1 << 20)
        )
    assert "--storage-path" in caught.value.hint


def test_a_hanging_call_times_out(box: RealVirtualBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = made(tmp_path)
    box.kill_server()
    monkeypatch.setenv("PYMACHINE_VBOXMANAGE_TIMEOUT", "0.01")
    with pytest.raises(VirtualBoxError, match="did not end within 0.01 seconds") as caught:
        driver.vbox().info(driver.vm)
    assert "PYMACHINE_VBOXMANAGE_TIMEOUT" in caught.value.hint
    monkeypatch.setenv("PYMACHINE_VBOXMANAGE_TIMEOUT", "soon")
    with pytest.raises(VirtualBoxError, match="expected a number of seconds"):
        driver.vbox().info(driver.vm)


def test_many_machines_can_be_made_and_removed_at_once(box: RealVirtualBox, tmp_path: Path) -> None:
    shared = request(tmp_path)

    def one(number: int) -> VirtualBoxDriver:
        driver = made_from(shared, tmp_path, f"m{number}")
        boot._forward_ssh(driver, driver.vbox())
        return driver

    with ThreadPoolExecutor(8) as pool:
        drivers = list(pool.map(one, range(8)))
    assert len(box("list", "vms").stdout.splitlines()) == 8
    assert len({driver.config["SSHPort"] for driver in drivers}) == 8
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(VirtualBoxDriver.remove, drivers))
    assert box("list", "vms").stdout == ""
    assert box("list", "hdds").stdout == ""


# -- the whole program -------------------------------------------------------------------------------------------


@pytest.fixture
def program(box: RealVirtualBox) -> Iterator[tuple[RealVirtualBox, Pymachine]]:
    with private_store() as found:
        for name in ("VBOX_USER_HOME", "VBOX_IPC_SOCKETID"):
            found.env[name] = box.environment[name]
        found.env["PATH"] = f"{box.program.parent}:{found.environment()['PATH']}"
        yield box, found


def test_a_failed_create_leaves_nothing(program: tuple[RealVirtualBox, Pymachine]) -> None:
    box, pymachine = program
    refused = pymachine("create", "--driver", "virtualbox", "m1", code=3)
    assert "Error with pre-create check" in refused.stderr
    assert "Hint: " in refused.stderr
    insisted = pymachine("create", "--driver", "virtualbox", "--virtualbox-no-vtx-check", "m1", code=1)
    assert "Error creating machine: Error in driver during machine creation: VBoxManage hostonlyif create" in (
        insisted.stderr
    )
    assert "/dev/vboxnetctl" in insisted.stderr
    assert pymachine("ls", "-q").stdout == ""
    assert box("list", "vms").stdout == ""


def test_a_docker_machine_record_is_shown_and_removed(
    program: tuple[RealVirtualBox, Pymachine], tmp_path: Path
) -> None:
    box, pymachine = program
    folder = pymachine.store / "machines" / "old"
    folder.mkdir(parents=True)
    box("createvm", "--basefolder", folder, "--name", "old", "--register")
    record = {
        "ConfigVersion": 3,
        "Driver": {"IPAddress": "192.168.99.100", "MachineName": "old", "SSHUser": "docker", "SSHPort": 40022},
        "DriverName": "virtualbox",
        "HostOptions": {"EngineOptions": {}, "SwarmOptions": {}, "AuthOptions": {"StorePath": str(folder)}},
        "Name": "old",
    }
    (folder / "config.json").write_text(json.dumps(record))
    assert pymachine("status", "old").stdout == "Stopped\n"
    # Sometimes a call of VBoxManage takes ten seconds.
    listed = pymachine("ls", "-t", "60").stdout.splitlines()[1].split()
    assert listed[:4] == ["old", "-", "virtualbox", "Stopped"]
    assert pymachine("ip", "old", code=1).stderr.startswith("Error getting IP address: Host is not running")
    failed = pymachine("start", "old", code=1)
    assert "VirtualBox refuses 192.168.99.1/24" in failed.stderr
    pymachine("rm", "-y", "old")
    assert box("list", "vms").stdout == ""
    assert not folder.exists()

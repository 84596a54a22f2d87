"""Making a machine in VirtualBox, changing its image, and taking it away again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver import BootRequest, ImageFiles, State
from pymachine.errors import PrecreateError
from pymachine_driver_virtualbox import boot, files, guest, machine, network, options, output, power, shares
from pymachine_driver_virtualbox.errors import VirtualBoxError, VmNotFoundError

if TYPE_CHECKING:
    from pymachine_driver_virtualbox.driver import VirtualBoxDriver
    from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# boot2docker's key, with which a machine of its is entered.
BOOT2DOCKER_KEY = Path(".ssh") / "id_boot2docker"
_KEPT = ("ImageDigest", "IdentityDigest", "FixedAddress", "IPAddress")


def make(driver: VirtualBoxDriver, vbox: VBoxManage, request: BootRequest) -> None:
    """Make the machine's files and the machine. What was made is left for `remove` when this raises."""
    own = files.of(driver.machine.directory)
    if request.image is None:
        raise PrecreateError("no image to boot from")
    driver.config["ImageDigest"] = request.image.digest
    driver.reporter.info("Creating VirtualBox VM...")
    files.keep_image(request.image, own.iso)
    shared = shares.chosen(
        share_folder=str(driver.config.get("ShareFolder", "")), no_share=bool(driver.config.get("NoShare"))
    )
    if driver.config.get("Boot2DockerImportVM"):
        _import(driver, vbox)
    else:
        identity = boot.complete(driver, request.identity(driver.endpoint()), {}, shared)
        key = driver.machine.ssh_key.with_name(driver.machine.ssh_key.name + ".pub").read_bytes()
        size = int(driver.config["DiskSize"])
        files.make_disk(vbox, own.disk, size_mb=size, beginning=guest.userdata(key, identity))
        driver.config["IdentityDigest"] = guest.digest(identity)
    # From the first call on, the machine may be there.
    driver.config["Made"] = True
    for words in machine.made(driver.vm, driver.machine.name, driver.config, own, shared):
        vbox(*words)


def _import(driver: VirtualBoxDriver, vbox: VBoxManage) -> None:
    """Take disk, size and key of a machine that boot2docker made (``--virtualbox-import-boot2docker-vm``)."""
    name = str(driver.config["Boot2DockerImportVM"])
    info = vbox.info(name)
    disk = next((path for path in output.attached(info) if path.lower().endswith((".vmdk", ".vdi"))), None)
    key = Path.home() / BOOT2DOCKER_KEY
    if disk is None or not key.is_file():
        missing = "has no disk" if disk is None else f"is entered with {key}, which is not there"
        raise PrecreateError(f"{name} cannot be imported: it {missing}")
    own = files.of(driver.machine.directory)
    driver.reporter.info(f"Cloning the disk of {name}...")
    vbox("clonemedium", "disk", disk, own.disk, "--format", "VMDK", timeout=files.DISK_SECONDS)
    for suffix in ("", ".pub"):
        target = driver.machine.ssh_key.with_name(driver.machine.ssh_key.name + suffix)
        shutil.copyfile(key.with_name(key.name + suffix), target)
        target.chmod(0o600)
    driver.config["CPU"], driver.config["Memory"] = int(info.get("cpus", 1)), int(info.get("memory", 1024))


def remove(vbox: VBoxManage, vm: str, *, iso: Path) -> None:
    """Take the machine away with its disks, and `iso` out of VirtualBox's list; what is not there is gone already."""
    try:
        if output.state(vbox.info(vm)) in {State.RUNNING, State.PAUSED, State.STARTING, State.STOPPING, State.ERROR}:
            _force_off(vbox, vm)
        vbox("unregistervm", vm, "--delete", timeout=files.DISK_SECONDS)
    except VmNotFoundError:
        return
    _forget_dvd(vbox, iso)


def _force_off(vbox: VBoxManage, vm: str) -> None:
    """As `power.off`, but a machine that VirtualBox cannot even read has nothing to be switched off."""
    try:
        power.off(vbox, vm)
    except VirtualBoxError as error:
        if error.reason not in {"VBOX_E_INVALID_VM_STATE", "E_ACCESSDENIED"}:
            raise


def swap_image(driver: VirtualBoxDriver, vbox: VBoxManage, image: ImageFiles) -> None:
    """Boot `image` from the next start on. A machine of docker-machine's gets a fixed address with it."""
    own = files.of(driver.machine.directory)
    config = driver.config
    config["PreviousImage"] = {key: config[key] for key in _KEPT if key in config}
    files.set_aside(own.iso)
    files.keep_image(image, own.iso)
    config["ImageDigest"] = image.digest
    # VirtualBox knows a medium by its path: let go of the old one's size.
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", "none"))
    _forget_dvd(vbox, own.iso)
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", str(own.iso)))
    vbox("modifyvm", driver.vm, *machine.SERIAL, own.console)
    if not config.get("FixedAddress"):
        host = options.cidr(str(config.get("HostOnlyCIDR") or boot.OLD_CIDR))
        seed = sum(str(driver.machine.directory).encode())
        config.update({"FixedAddress": True, "IPAddress": network.allocate(host, [], seed=seed)})


def settle_image(driver: VirtualBoxDriver, vbox: VBoxManage, *, keep: bool) -> None:
    """Drop the image that was set aside, or put it back."""
    own = files.of(driver.machine.directory)
    previous = driver.config.pop("PreviousImage", {})
    if keep:
        files.settle(own.iso, keep=True)
        return
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", "none"))
    _forget_dvd(vbox, own.iso)
    files.settle(own.iso, keep=False)
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", str(own.iso)))
    for key in _KEPT:
        driver.config.pop(key, None)
    driver.config.update(previous)


def _forget_dvd(vbox: VBoxManage, iso: Path) -> None:
    """Take an image out of VirtualBox's registry of media; one that is not in it is forgotten already."""
    try:
        vbox("closemedium", "dvd", iso)
    except VirtualBoxError as error:
        if error.reason not in {"VBOX_E_OBJECT_NOT_FOUND", "VBOX_E_FILE_ERROR"}:
            raise

"""Create a machine in VirtualBox, change its image, move it, and remove it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.contract import BootRequest, ImageFiles, Json, MachineRef, State
from pymachine.driver.errors import DriverError, PrecreateError
from pymachine.driver.kit import name_resolution
from pymachine_driver_virtualbox import (
    boot,
    files,
    guest,
    machine,
    network,
    options,
    output,
    power,
    shared_folders,
    shares,
)
from pymachine_driver_virtualbox.errors import VirtualBoxError, VmNotFoundError
from pymachine_driver_virtualbox.shares import Share

if TYPE_CHECKING:
    from pymachine_driver_virtualbox.base import VirtualBoxMachine
    from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# boot2docker's SSH key, below the home directory.
BOOT2DOCKER_KEY = Path(".ssh") / "id_boot2docker"
_KEPT = ("ImageDigest", "IdentityDigest", "FixedAddress", "IPAddress")


def make(driver: VirtualBoxMachine, vbox: VBoxManage, request: BootRequest) -> None:
    """Create the machine's files and register the machine. On failure, leftovers are for `remove` to clean up."""
    paths = files.of(driver.machine.directory)
    if request.image is None:
        raise PrecreateError("no image to boot from")
    driver.config["ImageDigest"] = request.image.digest
    driver.reporter.info("Creating VirtualBox VM...")
    files.keep_image(request.image, paths.iso)
    shared = chosen_shares(driver)
    if driver.config.get("Boot2DockerImportVM"):
        _import(driver, vbox)
    else:
        identity = boot.complete(driver, name_resolution.identity(request, driver.endpoint()), {}, shared)
        identity = shared_folders.with_mounts(identity, request.shares)
        key = driver.machine.ssh_key.with_name(driver.machine.ssh_key.name + ".pub").read_bytes()
        size = int(driver.config["DiskSize"])
        files.make_disk(vbox, paths.disk, size_mb=size, beginning=guest.userdata(key, identity))
        driver.config["IdentityDigest"] = guest.digest(identity)
    define(driver, vbox, shared)
    shared_folders.update(vbox, driver.vm, {}, request.shares)


def define(driver: VirtualBoxMachine, vbox: VBoxManage, shared: Sequence[Share]) -> None:
    """Register the machine in VirtualBox. Its files must exist. `start` adds the folders of `BootRequest.shares`."""
    # Set before the first call, since the machine may exist from then on.
    driver.config["Made"] = True
    paths = files.of(driver.machine.directory)
    for arguments in machine.creation_commands(driver.vm, driver.machine.name, driver.config, paths, shared):
        vbox(*arguments)
    if vbox.traits.hides_loopback:
        vbox(*machine.reach_loopback(driver.vm))


def chosen_shares(driver: VirtualBoxMachine) -> list[Share]:
    """Return docker-machine's shares, as the machine's record says."""
    return shares.chosen(
        share_folder=str(driver.config.get("ShareFolder", "")), no_share=bool(driver.config.get("NoShare"))
    )


def _import(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Copy disk, hardware and SSH key of a boot2docker machine (``--virtualbox-import-boot2docker-vm``)."""
    name = str(driver.config["Boot2DockerImportVM"])
    info = vbox.info(name)
    disk = next((path for path in output.attached(info) if path.lower().endswith((".vmdk", ".vdi"))), None)
    key = Path.home() / BOOT2DOCKER_KEY
    if disk is None or not key.is_file():
        missing = "has no disk" if disk is None else f"needs the SSH key {key}, which does not exist"
        raise PrecreateError(f"{name} cannot be imported: it {missing}")
    paths = files.of(driver.machine.directory)
    driver.reporter.info(f"Cloning the disk of {name}...")
    vbox("clonemedium", "disk", disk, paths.disk, "--format", "VMDK", timeout=files.DISK_SECONDS)
    for suffix in ("", ".pub"):
        target = driver.machine.ssh_key.with_name(driver.machine.ssh_key.name + suffix)
        shutil.copyfile(key.with_name(key.name + suffix), target)
        target.chmod(0o600)
    driver.config["CPU"], driver.config["Memory"] = int(info.get("cpus", 1)), int(info.get("memory", 1024))


def remove(vbox: VBoxManage, vm: str, paths: machine.Files) -> None:
    """Remove the machine and its disks, and its image from VirtualBox's list. Do nothing for parts already gone."""
    try:
        info = vbox.info(vm)
        _refuse_foreign(info, vm, paths)
        if output.state(info) in {State.RUNNING, State.PAUSED, State.STARTING, State.STOPPING, State.ERROR}:
            _force_off(vbox, vm)
        vbox("unregistervm", vm, "--delete", timeout=files.DISK_SECONDS)
    except VmNotFoundError:
        if (
            paths.disk.exists()
        ):  # create was interrupted after it made the disk, or another front end removed the machine
            _forget_medium(vbox, "disk", paths.disk)
        return
    _forget_medium(vbox, "dvd", paths.iso)


def _refuse_foreign(info: Mapping[str, str], vm: str, paths: machine.Files) -> None:
    """Raise `DriverError` if the machine's settings are outside its folder: a record may name any VirtualBox machine.

    If the settings file does not exist any more, the store was moved, and the machine is accepted.
    """
    settings = Path(info.get("CfgFile", ""))
    if settings.is_file() and paths.folder.resolve() not in settings.resolve().parents:
        raise DriverError(
            f"VirtualBox's machine {vm} is not this one: its settings are in {settings}",
            hint="To remove only the record: pymachine rm -f.",
        )


def _force_off(vbox: VBoxManage, vm: str) -> None:
    """Switch off, and ignore the failure if VirtualBox cannot read the machine: then it does not run."""
    try:
        power.off(vbox, vm)
    except VirtualBoxError as error:
        if error.reason not in {"VBOX_E_INVALID_VM_STATE", "E_ACCESSDENIED"}:
            raise


def resize(driver: VirtualBoxMachine, vbox: VBoxManage, changed: Mapping[str, Json]) -> None:
    """Apply `changed` to VirtualBox and the record: the disk first, since only that may be refused."""
    if changed.get("DiskSize", driver.config.get("DiskSize")) != driver.config.get("DiskSize"):
        disk = files.of(driver.machine.directory).disk
        vbox("modifymedium", "disk", disk, "--resize", str(changed["DiskSize"]), timeout=files.DISK_SECONDS)
        driver.config["DiskSize"] = changed["DiskSize"]
    wanted = {**driver.config, **changed}
    vbox("modifyvm", driver.vm, *machine.size_options(wanted))
    driver.config.update(changed)


def check_portable(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Raise `DriverError` unless the whole disk is in one file, which it is not while there are snapshots."""
    info = vbox.info(driver.vm)
    disk = files.of(driver.machine.directory).disk
    if "SnapshotName" in info or str(disk) not in output.attached(info):
        raise DriverError(
            f"the disk of {driver.machine.name} is not only in {disk}: the machine has snapshots",
            hint="Remove its snapshots (pymachine snapshot rm), and those made in VirtualBox itself.",
        )


def move(driver: VirtualBoxMachine, vbox: VBoxManage, before: MachineRef) -> None:
    """Register the machine again after its folder was moved.

    Its UUID stays. Settings that were changed with another front end are lost. Raises `DriverError` if it has
    snapshots.
    """
    settings = driver.machine.directory / before.name
    if any((settings / "Snapshots").glob("*")):
        raise DriverError(
            f"{before.name} has snapshots, and VirtualBox cannot find them after a move",
            hint="Remove its snapshots first (pymachine snapshot rm), and those made in VirtualBox itself.",
        )
    _forget(vbox, driver.vm if "VMUUID" in driver.config else before.name, files.of(before.directory))
    if settings.is_dir():
        shutil.rmtree(settings)
    if "VMUUID" not in driver.config:
        driver.config["VMUUID"] = str(uuid.uuid4())
    define(driver, vbox, chosen_shares(driver))


def _forget(vbox: VBoxManage, vm: str, old: machine.Files) -> None:
    try:
        vbox("unregistervm", vm)
    except VmNotFoundError:
        return
    for kind, path in (("disk", old.disk), ("dvd", old.iso)):
        for block in output.blocks(vbox("list", "hdds" if kind == "disk" else "dvds")):
            if block.get("Location") == str(path):
                # VirtualBox's server may have ended since it listed a medium that no machine uses. The next server
                # does not know the medium.
                _forget_medium(vbox, kind, block["UUID"])


def register_imported(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Register an imported machine. Its disk gets a new UUID, since VirtualBox may know the original."""
    paths = files.of(driver.machine.directory)
    vbox("internalcommands", "sethduuid", paths.disk)
    with ExitStack() as undo:
        undo.callback(remove, vbox, driver.vm, paths)
        define(driver, vbox, chosen_shares(driver))
        undo.pop_all()


def swap_image(driver: VirtualBoxMachine, vbox: VBoxManage, image: ImageFiles) -> None:
    """Boot `image` from the next start on. A machine that docker-machine created also gets a fixed address."""
    paths = files.of(driver.machine.directory)
    config = driver.config
    config["PreviousImage"] = {key: config[key] for key in _KEPT if key in config}
    files.set_aside(paths.iso)
    files.keep_image(image, paths.iso)
    config["ImageDigest"] = image.digest
    # VirtualBox registers media by path: forget this one, or it would keep the old size.
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", "none"))
    _forget_medium(vbox, "dvd", paths.iso)
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", str(paths.iso)))
    vbox("modifyvm", driver.vm, *machine.SERIAL, paths.console)
    if not config.get("FixedAddress"):
        host = options.cidr(str(config.get("HostOnlyCIDR") or boot.OLD_CIDR))
        seed = sum(str(driver.machine.directory).encode())
        config.update({"FixedAddress": True, "IPAddress": network.allocate(host, [], seed=seed)})


def commit_image(driver: VirtualBoxMachine) -> None:
    """Delete the old image that `swap_image` kept."""
    driver.config.pop("PreviousImage", None)
    files.drop_aside(files.of(driver.machine.directory).iso)


def rollback_image(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Restore the old image that `swap_image` kept, and the facts recorded about it."""
    paths = files.of(driver.machine.directory)
    previous = driver.config.pop("PreviousImage", {})
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", "none"))
    _forget_medium(vbox, "dvd", paths.iso)
    files.bring_back(paths.iso)
    vbox(*machine.attach(driver.vm, machine.ISO_PORT, "dvddrive", str(paths.iso)))
    for key in _KEPT:
        driver.config.pop(key, None)
    driver.config.update(previous)


def _forget_medium(vbox: VBoxManage, kind: str, medium: Path | str) -> None:
    """Remove a medium, by path or UUID, from VirtualBox's registry, if it is in it."""
    try:
        vbox("closemedium", kind, medium)
    except VirtualBoxError as error:
        if error.reason not in {"VBOX_E_OBJECT_NOT_FOUND", "VBOX_E_FILE_ERROR"}:
            raise

"""The driver's optional abilities: changing, renaming, exporting and upgrading a machine, and snapshots.

Commands that only read import this module too, so modules for changes are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import BootRequest, Config, ImageFiles, Json, MachineRef
from pymachine.driver.shares import Share
from pymachine_driver_virtualbox.base import VirtualBoxMachine


class ModifiableMachine(VirtualBoxMachine):
    """The optional abilities of `VirtualBoxDriver`."""

    def apply_identity(self, request: BootRequest) -> None:
        """Send the running guest the identity that `request` builds, over SSH."""
        from pymachine_driver_virtualbox import boot  # noqa: PLC0415

        if not self.image:
            raise self.unsupported("another identity for a machine with boot2docker's image; upgrade it first")
        boot.send_identity(self, request, pinned=True)

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Refuse folders that VirtualBox cannot share, and any for a guest with boot2docker's image."""
        from pymachine_driver_virtualbox import shared_folders, vm  # noqa: PLC0415

        if not self.image and not self.is_unregistered:
            raise self.unsupported("--share for a machine with boot2docker's image; upgrade it first")
        shared_folders.check(shares, vm.chosen_shares(self))

    def notifies_over_ssh(self) -> bool:
        """Return whether the guest has our image, which has the programs for that."""
        return bool(self.image)

    def chooses_shares(self) -> bool:
        """Return whether docker-machine's options name the folder to share, or say that there is none."""
        return bool(self.config.get("NoShare") or self.config.get("ShareFolder"))

    def drop_default_shares(self) -> None:
        """Do not share the home folders, as with ``--virtualbox-no-share``."""
        if not self.config.get("ShareFolder"):
            self.config["NoShare"] = True

    def resize(self, change: HardwareChange) -> None:
        """Change the machine's hardware. The disk grows now, its file system at the guest's next boot."""
        from pymachine_driver_virtualbox import options, vm  # noqa: PLC0415

        vm.resize(self, self.vbox(), options.changed_hardware(self.config, change))

    def renamed(self, before: MachineRef) -> None:
        """Register the machine again in VirtualBox, under its new name and with the same disk."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.move(self, self.vbox(), before)

    def exported(self) -> Sequence[str]:
        """Return the files of an export: the disk and the image."""
        from pymachine_driver_virtualbox import files, vm  # noqa: PLC0415

        vm.check_portable(self, self.vbox())
        return (files.DISK, files.ISO)

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """Return the fields that an import accepts: hardware and image."""
        from pymachine_driver_virtualbox import options  # noqa: PLC0415

        return options.PORTABLE

    def portable_files(self) -> Mapping[str, int]:
        """Return the largest sizes of disk and image that an import accepts."""
        from pymachine.driver.kit.machine_files import MEBIBYTE  # noqa: PLC0415
        from pymachine_driver_virtualbox import files, options, vmdk  # noqa: PLC0415

        size = int(self.config.get("DiskSize", options.DEFAULT_DISK_MB)) * MEBIBYTE
        return {files.DISK: vmdk.largest(size), files.ISO: files.LARGEST_IMAGE}

    def imported(self, siblings: Sequence[Config]) -> None:
        """Register the imported machine in VirtualBox with ids of its own: the original may be registered too."""
        from pymachine.driver.kit.machine_files import MEBIBYTE  # noqa: PLC0415
        from pymachine_driver_virtualbox import files, options, vm, vmdk  # noqa: PLC0415

        self.config.update({**options.IMPORTED, **self.config})
        size = int(self.config["DiskSize"]) * MEBIBYTE
        vmdk.check(files.of(self.machine.directory).disk, largest=size)
        self.config.update(options.own(self.machine, self.config, siblings))
        vm.register_imported(self, self.vbox())

    def image_digest(self) -> str:
        """Return the digest recorded by `create` or the last upgrade, or "" for a boot2docker image."""
        return self.image

    def swap_image(self, image: ImageFiles) -> None:
        """Replace the image, and keep the old one until `commit_image` or `rollback_image`."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.swap_image(self, self.vbox(), image)

    def commit_image(self) -> None:
        """Delete the old image."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.commit_image(self)

    def rollback_image(self) -> None:
        """Restore the old image."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.rollback_image(self, self.vbox())

    def console_log(self) -> Path:
        """Return the path of the console log, which records the guest's serial port."""
        from pymachine_driver_virtualbox import files  # noqa: PLC0415

        return files.of(self.machine.directory).console

    def save_snapshot(self, folder: Path, *, memory: bool = True) -> Mapping[str, Json]:  # noqa: ARG002 (VirtualBox keeps its own)
        """Take a snapshot in VirtualBox, with the memory if the machine runs, which is not used without `memory`."""
        from pymachine_driver_virtualbox import snapshots  # noqa: PLC0415

        facts = snapshots.save(self, self.vbox())
        return facts if memory else {**facts, "Memory": False}

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:  # noqa: ARG002
        """Restore a snapshot, with the memory if it has it."""
        from pymachine_driver_virtualbox import snapshots  # noqa: PLC0415

        snapshots.restore(self, self.vbox(), facts, request)

"""What can be done to a machine after it was made: the driver's optional abilities.

Imported with the driver by reading commands too: what only changes need is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import BootRequest, Config, ImageFiles, Json, MachineRef
from pymachine_driver_virtualbox.base import VirtualBoxMachine


class ModifiableMachine(VirtualBoxMachine):
    """The abilities; `VirtualBoxDriver` has them."""

    def apply_identity(self, request: BootRequest) -> None:
        """Give the running guest the identity that `request` makes, over SSH."""
        from pymachine_driver_virtualbox import boot  # noqa: PLC0415

        if not self.image:
            raise self.unsupported("another identity for a machine with boot2docker's image; upgrade it first")
        boot.send_identity(self, request, pinned=True)

    def resize(self, change: HardwareChange) -> None:
        """Change VirtualBox's settings; the disk grows at once, its file system in the guest's next boot."""
        from pymachine_driver_virtualbox import options, vm  # noqa: PLC0415

        vm.resize(self, self.vbox(), options.changed_hardware(self.config, change))

    def renamed(self, before: MachineRef) -> None:
        """Make the machine anew in VirtualBox, under its new name and of the same disk."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.move(self, self.vbox(), before)

    def exported(self) -> Sequence[str]:
        """The disk and what is booted."""
        from pymachine_driver_virtualbox import files, vm  # noqa: PLC0415

        vm.check_portable(self, self.vbox())
        return (files.DISK, files.ISO)

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """Hardware and image; see `pymachine_driver_virtualbox.options`."""
        from pymachine_driver_virtualbox import options  # noqa: PLC0415

        return options.PORTABLE

    def portable_files(self) -> Mapping[str, int]:
        """The disk, with what VirtualBox adds to its content, and what is booted."""
        from pymachine_driver_virtualbox import files, options, vmdk  # noqa: PLC0415

        size = int(self.config.get("DiskSize", options.DEFAULT_DISK_MB)) * files.MEBIBYTE
        return {files.DISK: vmdk.largest(size), files.ISO: files.LARGEST_IMAGE}

    def imported(self, siblings: Sequence[Config]) -> None:
        """A machine of its own in VirtualBox: the one that it was copied from may still be there."""
        from pymachine_driver_virtualbox import files, options, vm, vmdk  # noqa: PLC0415

        self.config.update({**options.IMPORTED, **self.config})
        size = int(self.config["DiskSize"]) * files.MEBIBYTE
        vmdk.check(files.of(self.machine.directory).disk, largest=size)
        self.config.update(options.own(self.machine, self.config, siblings))
        vm.take_in(self, self.vbox())

    def image_digest(self) -> str:
        """What `create` or the last upgrade noted; nothing for boot2docker's own image."""
        return self.image

    def swap_image(self, image: ImageFiles) -> None:
        """Put the new image in the old one's place; the old one is beside it."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.swap_image(self, self.vbox(), image)

    def commit_image(self) -> None:
        """Drop the image that was set aside."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.commit_image(self)

    def rollback_image(self) -> None:
        """Put the image back that was set aside."""
        from pymachine_driver_virtualbox import vm  # noqa: PLC0415

        vm.rollback_image(self, self.vbox())

    def console_log(self) -> Path:
        """What the guest says on its serial port."""
        from pymachine_driver_virtualbox import files  # noqa: PLC0415

        return files.of(self.machine.directory).console

    def save_snapshot(self, folder: Path) -> Mapping[str, Json]:  # noqa: ARG002 (VirtualBox keeps its own)
        """Have VirtualBox take a snapshot, with the memory of a machine that runs."""
        from pymachine_driver_virtualbox import snapshots  # noqa: PLC0415

        return snapshots.save(self, self.vbox())

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:  # noqa: ARG002
        """Go back to it."""
        from pymachine_driver_virtualbox import snapshots  # noqa: PLC0415

        snapshots.restore(self, self.vbox(), facts, request)

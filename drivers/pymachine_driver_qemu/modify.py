"""What can be done to a machine after it was made: the driver's optional abilities.

Everything of a machine is in its folder, so that most of them are a few lines. Imported with the driver by reading
commands too: what only changes need is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import BootRequest, Config, ImageFiles, MachineRef
from pymachine.driver.errors import HostNotRunningError
from pymachine_driver_qemu import runtime
from pymachine_driver_qemu.base import SSH_USER, QemuMachine


class ModifiableMachine(QemuMachine):
    """The abilities; `QemuDriver` has them."""

    def apply_identity(self, request: BootRequest) -> None:
        """Send the identity to the guest, which reloads what can be reloaded."""
        from pymachine.driver.kit import search_domains  # noqa: PLC0415
        from pymachine.driver.kit.system import wait  # noqa: PLC0415
        from pymachine_driver_qemu import identity  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is None:
            raise HostNotRunningError(name=self.machine.name)
        channel = identity.Channel(sockets / runtime.IDENTITY)
        try:
            with self.reporter.task("Waiting for the machine to take over its new identity") as task:
                tar = search_domains.identity(request, self.endpoint())
                channel.update_identity(tar, deadline=wait.Deadline(request.timeout), task=task)
        finally:
            channel.close()

    def check_resize(self, change: HardwareChange) -> None:
        """What `create` would refuse, and a disk that shrinks."""
        from pymachine_driver_qemu import options  # noqa: PLC0415

        options.changed_hardware(self.config, change)

    def resize(self, change: HardwareChange) -> None:
        """Change the configuration; the disk's file grows at once, its file system in the guest's next boot."""
        from pymachine_driver_qemu import disk, options  # noqa: PLC0415

        changed = options.changed_hardware(self.config, change)
        if change.disk_mb is not None:
            disk.grow(self._folder / disk.DISK, size_mb=change.disk_mb)
        self.config.update(changed)

    def renamed(self, before: MachineRef) -> None:
        """Nothing outside the folder has the name of a machine that is stopped."""

    def exported(self) -> Sequence[str]:
        """The disk and what is booted."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.check_image(self._folder)
        return (disk.DISK, disk.ISO, disk.KERNEL, disk.INITRD)

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """Hardware and image; see `pymachine_driver_qemu.options`."""
        from pymachine_driver_qemu import options  # noqa: PLC0415

        return options.PORTABLE

    def portable_files(self) -> Mapping[str, int]:
        """The disk, as large as the record says, and what is booted."""
        from pymachine.driver.kit import machine_files  # noqa: PLC0415
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        return {**dict.fromkeys(disk.IMAGE, disk.LARGEST_IMAGE), disk.DISK: self._disk_mb * machine_files.MEBIBYTE}

    def imported(self, siblings: Sequence[Config]) -> None:
        """A machine of its own: the one that it was copied from may still be there.

        QEMU takes all of its files as raw, whatever is in them: none leads it to another file.
        """
        from pymachine.driver.kit import listen_address  # noqa: PLC0415
        from pymachine_driver_qemu import options  # noqa: PLC0415

        listen = listen_address.allocate(
            listen_address.of_all(siblings), own_address=listen_address.has_own_addresses()
        )
        self.config.setdefault("Arch", options.host_architecture())
        self.config.update(
            {
                "IPAddress": listen.address,
                "EnginePort": listen.docker_port,
                "SSHPort": listen.ssh_port,
                "SSHUser": SSH_USER,
                "Accelerator": "auto",
                "QemuBinary": "",
                "Boot2DockerURL": "",
                **options.new_ids(),
            }
        )

    def image_digest(self) -> str:
        """What `create` or the last upgrade noted."""
        return str(self.config.get("ImageDigest", ""))

    def swap_image(self, image: ImageFiles) -> None:
        """Put the new image in the old one's place; the old one is beside it."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.set_image_aside(self._folder)
        disk.keep_image(image, self._folder)
        self.config["PreviousImage"] = {key: self.config.get(key, "") for key in ("ImageDigest", "KernelCommandLine")}
        self.config.update({"ImageDigest": image.digest, "KernelCommandLine": image.command_line})

    def commit_image(self) -> None:
        """Drop the image that was set aside."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.drop_aside(self._folder, disk.IMAGE)
        self.config.pop("PreviousImage", None)

    def rollback_image(self) -> None:
        """Put the image back that was set aside."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.bring_back(self._folder, disk.IMAGE)
        self.config.update(self.config.pop("PreviousImage", {}))

    def console_log(self) -> Path:
        """QEMU appends to it."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        return self._folder / process.CONSOLE_LOG

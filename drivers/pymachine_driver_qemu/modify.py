"""The driver's abilities to change, rename, export and upgrade a machine.

Since all of a machine is in its folder, most of them are short. Commands that only read import this module too, so
modules for changes are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import BootRequest, Config, ImageFiles, MachineRef
from pymachine.driver.errors import HostNotRunningError
from pymachine.driver.shares import Share
from pymachine_driver_qemu import runtime
from pymachine_driver_qemu.base import SSH_USER, QemuMachine


class ModifiableMachine(QemuMachine):
    """The abilities of `QemuDriver` to change a machine."""

    def apply_identity(self, request: BootRequest) -> None:
        """Send the running guest its identity."""
        from pymachine.driver.kit.system import wait  # noqa: PLC0415
        from pymachine_driver_qemu import identity, shares  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is None:
            raise HostNotRunningError(name=self.machine.name)
        channel = identity.Channel(sockets / runtime.IDENTITY)
        try:
            with self.reporter.task("Waiting for the machine to apply its new identity") as task:
                tar = shares.identity(request, self.endpoint(), sockets)
                channel.update_identity(tar, deadline=wait.Deadline(request.timeout), task=task)
        finally:
            channel.close()

    def check_resize(self, change: HardwareChange) -> None:
        """Raise `UsageError` for values that `create` would refuse, and for a disk that would shrink."""
        from pymachine_driver_qemu import options  # noqa: PLC0415

        options.changed_hardware(self.config, change)

    def resize(self, change: HardwareChange) -> None:
        """Change the machine's hardware. The disk grows now, its file system at the guest's next boot."""
        from pymachine_driver_qemu import options  # noqa: PLC0415

        changed = options.changed_hardware(self.config, change)
        if change.disk_mb is not None:
            self._grow_disk(change.disk_mb)
        self.config.update(changed)

    def _grow_disk(self, size_mb: int) -> None:
        from pymachine.driver.kit.machine_files import MEBIBYTE  # noqa: PLC0415
        from pymachine_driver_qemu import disk, disk_jobs  # noqa: PLC0415

        if disk.parts(self._folder) == (disk.DISK,):
            disk.grow(self._folder / disk.DISK, size_mb=size_mb)
        else:
            overlay, base = self._folder / disk.OVERLAY, self._folder / disk.BASE
            disk_jobs.grow(self._qemu(), overlay, base=base, size=size_mb * MEBIBYTE)

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Raise `UsageError` for too many folders."""
        from pymachine_driver_qemu import shares as over_9p  # noqa: PLC0415

        over_9p.check(shares, self._qemu())

    def shares_over_ssh(self) -> bool:
        """Return whether QEMU was built without virtio-9p, so that the core has to mount shared folders."""
        return not self._qemu().has_9p

    def missing_shares(self) -> Sequence[Share]:
        """Return the shares with which QEMU was not started."""
        from pymachine_driver_qemu import shares  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        return shares.missing(sockets) if sockets is not None else ()

    def renamed(self, before: MachineRef) -> None:
        """Do nothing: the name of a stopped machine is only in its folder."""

    def prepare_export(self) -> None:
        """Make a whole disk of a disk that has the changes to a template's."""
        from pymachine.driver.kit.system import files  # noqa: PLC0415
        from pymachine_driver_qemu import disk, disk_jobs  # noqa: PLC0415

        if disk.parts(self._folder) != (disk.DISK,):
            overlay, base = self._folder / disk.OVERLAY, self._folder / disk.BASE
            disk.must_fit(self._folder, sum(files.allocated(path.stat()) for path in (overlay, base)))
            with self.reporter.task("Copying the disk"):
                disk_jobs.flatten(self._qemu(), overlay, self._folder / disk.DISK, base=base)

    def end_export(self) -> None:
        """Remove what `prepare_export` made."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.drop_flattened(self._folder)

    def exported(self) -> Sequence[str]:
        """Return the files of an export: the disk and the image."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.check_image(self._folder)
        return (disk.DISK, disk.ISO, disk.KERNEL, disk.INITRD)

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """Return the fields that an import accepts: hardware and image."""
        from pymachine_driver_qemu import options  # noqa: PLC0415

        return options.PORTABLE

    def portable_files(self) -> Mapping[str, int]:
        """Return the largest sizes of disk and image that an import accepts."""
        from pymachine.driver.kit import machine_files  # noqa: PLC0415
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        return {**dict.fromkeys(disk.IMAGE, disk.LARGEST_IMAGE), disk.DISK: self._disk_mb * machine_files.MEBIBYTE}

    def imported(self, siblings: Sequence[Config]) -> None:
        """Give the imported machine an address and ids of its own, since the original may exist on this host.

        QEMU opens all of its files as raw, so their content cannot refer to other files.
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
        """Return the digest recorded by `create` or the last upgrade."""
        return str(self.config.get("ImageDigest", ""))

    def swap_image(self, image: ImageFiles) -> None:
        """Replace the image, and keep the old one until `commit_image` or `rollback_image`."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.set_image_aside(self._folder)
        disk.keep_image(image, self._folder)
        self.config["PreviousImage"] = {key: self.config.get(key, "") for key in ("ImageDigest", "KernelCommandLine")}
        self.config.update({"ImageDigest": image.digest, "KernelCommandLine": image.command_line})

    def commit_image(self) -> None:
        """Delete the old image."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.drop_aside(self._folder, disk.IMAGE)
        self.config.pop("PreviousImage", None)

    def rollback_image(self) -> None:
        """Restore the old image."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        disk.bring_back(self._folder, disk.IMAGE)
        self.config.update(self.config.pop("PreviousImage", {}))

    def console_log(self) -> Path:
        """Return the path of the console log, to which QEMU appends."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        return self._folder / process.CONSOLE_LOG

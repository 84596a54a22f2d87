"""The driver's main class: each operation on a machine, in terms of the other modules.

Commands that only read (`status`, `ls`, `ip`) load this module too, so modules for `create` and `start` are imported
where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pymachine.driver.contract import (
    BootRequest,
    Config,
    DriverInfo,
    Health,
    ImageRequest,
    Json,
    MachineRef,
    Note,
    State,
    Trait,
)
from pymachine.driver.errors import PymachineError
from pymachine.driver.kit import listen_address
from pymachine.driver.options import Option
from pymachine_driver_qemu import base, modify, options, runtime, snapshots_and_templates

if TYPE_CHECKING:
    from pymachine_driver_qemu.binary import Qemu

STOP_SECONDS = 60.0


class QemuDriver(modify.ModifiableMachine, snapshots_and_templates.CopyableMachine):
    """A machine as the user's QEMU process, with a folder of sockets and a loopback address."""

    config_fields = options.FIELDS
    info: ClassVar[DriverInfo] = DriverInfo(
        "qemu",
        "QEMU, without root, daemon or hardware virtualisation",
        Trait.IDENTITY | Trait.FIXED_ADDRESS,
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return the driver's options."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Report whether a QEMU for this host's architecture is installed and runs."""
        from pymachine_driver_qemu import binary  # noqa: PLC0415

        try:
            found = binary.find(options.host_architecture())
        except PymachineError as error:
            return Health(usable=False, problem=error.brief, fix=error.hint)
        return Health(usable=True, version=found.version_text, notes=tuple(cls._notes(found)))

    def host_loopback(self) -> str:
        """Return the gateway of QEMU's user network, which QEMU connects to the host's loopback."""
        return "10.0.2.2"

    @classmethod
    def _notes(cls, found: Qemu) -> Iterator[Note]:
        from pymachine.driver.kit import listen_queues  # noqa: PLC0415
        from pymachine_driver_qemu import syscall_filter  # noqa: PLC0415

        try:
            listen_queues.probe()
        except listen_queues.BacklogError as error:
            text = f"if many clients connect to a machine at once, some wait for seconds or fail: {error}"
            yield Note(text, fix=error.fix)
        if not found.has_9p:
            text = f"folders are shared over SSH, which is slower: {found.path} was built without virtio-9p"
            yield Note(text, fix="Use another QEMU.")
        try:
            syscall_filter.probe()
        except syscall_filter.FilterError as error:
            text = f"containers cannot change the owner of files in shared folders, and can make them setuid: {error}"
            yield Note(text, fix=error.fix)

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:  # noqa: ARG003
        """Check the options; choose an address, ports and an id for the machine."""
        choices = options.check(values)
        taken = listen_address.of_all(siblings)
        listen = listen_address.allocate(taken, own_address=listen_address.has_own_addresses())
        return {
            "IPAddress": listen.address,
            "EnginePort": listen.docker_port,
            "SSHPort": listen.ssh_port,
            "SSHUser": base.SSH_USER,
            **options.new_ids(),
            "CPU": choices.cpus,
            "Memory": choices.memory_mib,
            "DiskSize": choices.disk_mb,
            "Boot2DockerURL": choices.image,
            "Accelerator": choices.accelerator,
            "QemuBinary": choices.binary,
            "Arch": choices.architecture,
            "TBSize": choices.tb_mib,
            "NoASLR": choices.no_aslr,
        }

    def image_request(self) -> ImageRequest:
        """Return the chosen image, for the machine's architecture."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture=self._architecture)

    def precreate_check(self) -> None:
        """Check that a QEMU runs, that there is disk space, and that the ports are free."""
        from pymachine.driver.kit import machine_files  # noqa: PLC0415

        self._qemu()
        machine_files.check_space(self.machine.directory)
        self._check_ports()

    def create(self, request: BootRequest) -> None:
        """Create the machine's files and boot it; return once the guest has its identity and its engine answers."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        image = base.image_of(request)
        self._remember(image)
        disk.keep_image(image, self._folder)
        disk.make_data_disk(self._folder / disk.DISK, size_mb=self._disk_mb)
        self._boot(request)

    def start(self, request: BootRequest) -> None:
        """Boot a stopped machine, or resume a paused one."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is not None and self.state() is State.PAUSED:
            self._execute(sockets, "cont")
            return
        if self.state() is State.STOPPING:  # `stop` was interrupted while it waited
            self.stop(STOP_SECONDS)
        self._must_be_stopped()
        disk.check_image(self._folder)
        self._boot(request)

    def stop(self, timeout: float) -> None:
        """Press the machine's power button; end QEMU after `timeout` seconds."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is not None:
            if self.state() is State.PAUSED:  # a paused guest does not notice the button
                self._execute(sockets, "cont")
            if not process.power_down(sockets, timeout=timeout):
                self.reporter.warn(
                    f"The guest did not shut down within {timeout:g} seconds. Switching the machine off."
                )
                process.end(sockets)
        runtime.remove(self._folder)

    def remove(self) -> None:
        """End QEMU and remove its sockets. Everything else is in the machine's folder."""
        self.kill()

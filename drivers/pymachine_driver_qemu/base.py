"""The driver's base class: the machine's folder, its QEMU, its accelerator, its processes.

Commands that only read load this module too, so modules for changes are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.contract import BootRequest, Driver, Endpoint, ImageFiles, State
from pymachine.driver.errors import DriverError
from pymachine.driver.kit import listen_address
from pymachine_driver_qemu import monitor, options, runtime

if TYPE_CHECKING:
    from pymachine_driver_qemu.binary import Qemu
    from pymachine_driver_qemu.machine_spec import MachineSpec

SSH_USER = "docker"


class PortTakenError(DriverError):
    """Another program listens on one of the machine's ports."""

    code = "port-taken"


class QemuMachine(Driver):
    """A machine as a QEMU process with a folder of sockets."""

    _chosen = ""
    _found: tuple[str, Qemu] | None = None

    def kill(self) -> None:
        """End QEMU."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is not None:
            process.end(sockets)
        runtime.remove(self._folder)

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """Return the ports that the port forwarder forwards."""
        from pymachine.driver.kit import forwarded_ports  # noqa: PLC0415

        return forwarded_ports.load(self._folder)

    def check_ipv6(self) -> None:
        """Do nothing: QEMU's user network has IPv6."""

    def state(self) -> State:
        """Return the state that QEMU's monitor reports."""
        return monitor.state(runtime.find(self._folder))

    def endpoint(self) -> Endpoint:
        """Return the address that `configure` chose."""
        listen = self._listen_address
        return Endpoint(
            listen.address,
            docker_port=listen.docker_port,
            ssh_port=listen.ssh_port,
            ssh_user=str(self.config.get("SSHUser", SSH_USER)),
        )

    @property
    def _folder(self) -> Path:
        # QEMU and the port forwarder run in another working directory.
        return self.machine.directory.absolute()

    @property
    def _listen_address(self) -> listen_address.ListenAddress:
        return listen_address.of(self.config)

    @property
    def _architecture(self) -> str:
        return str(self.config.get("Arch") or options.host_architecture())

    @property
    def _disk_mb(self) -> int:
        return int(self.config.get("DiskSize", options.DEFAULT_DISK_MB))

    def _qemu(self) -> Qemu:
        """Find the machine's QEMU, once: in `create` several steps need it, and a search takes up to 12 ms."""
        from pymachine_driver_qemu import binary  # noqa: PLC0415

        asked = str(self.config.get("QemuBinary", ""))
        if self._found is None or self._found[0] != asked:
            self._found = asked, binary.find(self._architecture, asked=asked)
        return self._found[1]

    def _remember(self, image: ImageFiles) -> None:
        """Record the machine's image."""
        self.config["ImageDigest"] = image.digest
        self.config["KernelCommandLine"] = image.command_line

    def _machine_spec(self, request: BootRequest, image: ImageFiles | None = None) -> MachineSpec:
        """Return the machine's spec for `request`, with its own image or the one that it is to be created from."""
        from pymachine_driver_qemu import disk, machine_spec  # noqa: PLC0415

        qemu = self._qemu()
        if image is None:
            folder, digest = self._folder, str(self.config.get("ImageDigest", ""))
            chosen = self._accelerator(qemu, folder / disk.KERNEL, folder / disk.INITRD, digest)
            command_line = str(self.config.get("KernelCommandLine", ""))
        else:
            chosen = self._accelerator(qemu, image.kernel, image.initrd, image.digest)
            command_line = image.command_line
        return machine_spec.MachineSpec(
            qemu=qemu,
            accelerator=chosen,
            architecture=self._architecture,
            config={**self.config, "KernelCommandLine": command_line},
            shares=request.shares,
            ipv6=request.ipv6,
        )

    def _accelerator(self, qemu: Qemu, kernel: Path, initrd: Path, image: str) -> str:
        """Choose the machine's accelerator, and report the choice, once."""
        from pymachine_driver_qemu import accelerator  # noqa: PLC0415

        if not self._chosen:
            trial = accelerator.Trial(
                qemu=qemu, architecture=self._architecture, kernel=kernel, initrd=initrd, image=image
            )
            asked = str(self.config.get("Accelerator", "auto"))
            self._chosen = accelerator.choose(asked, trial, reporter=self.reporter)
        return self._chosen

    def _check_ports(self) -> None:
        listen = self._listen_address
        for port in listen.ports:
            if not listen_address.is_free(listen.address, port):
                raise PortTakenError(
                    f"{listen.address}:{port} is in use by another program",
                    hint=f"Find it (ss -ltnp 'sport = :{port}'; with sudo for another user's) and end it. A program "
                    f"that listens on 0.0.0.0:{port} uses the port on every address. It does not have the machine's "
                    "certificate, so no client accepts it. If it must keep running, make a clone with another address: "
                    f"pymachine clone {self.machine.name} NEW-NAME",
                )

    def _must_be_stopped(self) -> None:
        if self.state() is not State.STOPPED:
            raise DriverError(f"{self.machine.name} already has a QEMU process; it is {self.state().word}")

    def _boot(self, request: BootRequest) -> None:
        """Start QEMU, send the guest its identity, and follow its reports. On failure, end QEMU."""
        from pymachine.driver.kit import crashes  # noqa: PLC0415
        from pymachine_driver_qemu import boot_slots  # noqa: PLC0415

        spec = self._machine_spec(request)
        self._check_ports()
        with (
            boot_slots.for_boot(spec.accelerator, self.reporter),
            crashes.ended_on_failure(self.kill),
        ):
            crashes.retry_once(lambda: self._boot_machine(spec, request), reporter=self.reporter)

    def _boot_machine(self, spec: MachineSpec, request: BootRequest) -> None:
        from pymachine.driver.kit.system import wait  # noqa: PLC0415
        from pymachine_driver_qemu import background, boot  # noqa: PLC0415

        deadline = wait.Deadline(request.timeout)
        started = boot.launch(
            spec, self.machine.name, self._folder, listen=self._listen_address, timings=request.timings
        )
        boot.deliver(started, self._folder, self.endpoint(), request, deadline=deadline, reporter=self.reporter)
        with background.Connections(started.sockets) as connections:
            connections.follow(self._folder, self._listen_address, request)


def image_of(request: BootRequest) -> ImageFiles:
    """Return the request's image, which must exist."""
    if request.image is None:
        raise DriverError("the qemu driver needs an image to create a machine")
    return request.image

"""The driver: a machine's life in terms of the other modules.

Loaded by reading commands too (`status`, `ls`, `ip`), so that what only `create` and `start` need is imported there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pymachine.driver import (
    BootRequest,
    Capability,
    Config,
    DriverInfo,
    Endpoint,
    Health,
    ImageFiles,
    ImageRequest,
    Json,
    MachineRef,
    Option,
    State,
)
from pymachine.errors import DriverError, PymachineError
from pymachine_driver_qemu import address, monitor, options, runtime, upkeep

if TYPE_CHECKING:
    from pymachine.wait import Deadline
    from pymachine_driver_qemu.binary import Qemu
    from pymachine_driver_qemu.template import Board

SSH_USER = "docker"
_place = address.of


class PortTakenError(DriverError):
    """Something else listens where the machine is to be reached."""

    code = "port-taken"


class QemuDriver(upkeep.Upkeep):
    """One machine is one QEMU process of the user's, with a folder of sockets and an address on the loopback."""

    info: ClassVar[DriverInfo] = DriverInfo(
        "qemu",
        "QEMU, without root, daemon or hardware virtualisation",
        Capability.IMAGE | Capability.IDENTITY | Capability.FIXED_ADDRESS,
    )

    _chosen = ""

    @classmethod
    def options(cls) -> Sequence[Option]:
        """The flags; see `pymachine_driver_qemu.options`."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Whether there is a QEMU for this host's architecture that runs."""
        from pymachine_driver_qemu import binary  # noqa: PLC0415

        try:
            found = binary.find(options.host_architecture())
        except PymachineError as error:
            return Health(usable=False, problem=error.brief, fix=error.hint)
        return Health(usable=True, version=found.version_text)

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:  # noqa: ARG003
        """Check the flags; choose an address, a MAC address and an id for the machine."""
        choices = options.check(values)
        taken = [_place(config) for config in siblings if config.get("IPAddress")]
        place = address.allocate(taken, own_address=address.has_own_addresses())
        return {
            "IPAddress": place.address,
            "EnginePort": place.docker_port,
            "SSHPort": place.ssh_port,
            "SSHUser": SSH_USER,
            **options.new_ids(),
            "CPU": choices.cpus,
            "Memory": choices.memory_mib,
            "DiskSize": choices.disk_mb,
            "Boot2DockerURL": choices.image,
            "Accelerator": choices.accelerator,
            "QemuBinary": choices.binary,
            "Arch": choices.architecture,
        }

    def image_request(self) -> ImageRequest:
        """The image that was asked for, of the machine's architecture."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture=self._architecture)

    def precreate_check(self) -> None:
        """A QEMU that runs, room on the disk, ports that are free."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        self._qemu()
        disk.check_space(self.machine.directory)
        self._check_ports()

    def create(self, request: BootRequest) -> None:
        """Make the machine's files and boot it; returns once the guest has its identity and its engine answers."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        image = _image(request)
        self._remember(image)
        disk.keep_image(image, self._folder)
        disk.make_data_disk(self._folder / disk.DISK, size_mb=int(self.config.get("DiskSize", options.DEFAULT_DISK_MB)))
        self._boot(request)

    def template_shape(self, request: BootRequest) -> Mapping[str, Json] | None:
        """What a template for this machine has to be like."""
        from pymachine_driver_qemu import template  # noqa: PLC0415

        return template.shape(self._board(_image(request)))

    def make_template(self, folder: Path, request: BootRequest) -> None:
        """Boot a guest, and freeze it into `folder`."""
        from pymachine_driver_qemu import template, turns  # noqa: PLC0415

        image = _image(request)
        board = self._board(image)
        with turns.turn(turns.places(board.accelerator), reporter=self.reporter):
            template.make(board, folder.absolute(), image, request, reporter=self.reporter)

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        """Resume the template in `folder` as this machine."""
        from pymachine_driver_qemu import template, turns, watcher  # noqa: PLC0415

        image = _image(request)
        board = self._board(image)
        place = _place(self.config)
        clone = template.Clone(name=self.machine.name, folder=self._folder, place=place, endpoint=self.endpoint())
        self._check_ports()
        self._remember(image)
        template.prepare(folder, clone, image)
        with turns.turn(turns.resumes(), reporter=self.reporter, kind="resume"), self._ended_on_failure():
            began = time.monotonic()
            sockets = runtime.make(self._folder, self.config["MachineID"])
            template.resume(board, folder.absolute(), clone, sockets, request, reporter=self.reporter)
            request.timings["resume"] = round(time.monotonic() - began, 2)
            watcher.start(self._folder, place)

    def start(self, request: BootRequest) -> None:
        """Boot a stopped machine from what `create` kept."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        if self.state() is not State.STOPPED:
            raise DriverError(f"{self.machine.name} has a QEMU already; it is {self.state().word}")
        disk.check_image(self._folder)
        self._boot(request)

    def stop(self, timeout: float) -> None:
        """Press the power button; after `timeout` seconds, switch off."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is not None:
            if self.state() is State.PAUSED:
                self._resume(sockets)
            if not process.power_down(sockets, timeout=timeout):
                self.reporter.warn(f"The guest did not shut down within {timeout:g} seconds: switching it off.")
                process.end(sockets)
        runtime.remove(self._folder)

    def kill(self) -> None:
        """End QEMU."""
        from pymachine_driver_qemu import process  # noqa: PLC0415

        sockets = runtime.find(self._folder)
        if sockets is not None:
            process.end(sockets)
        runtime.remove(self._folder)

    def remove(self) -> None:
        """End QEMU and remove its sockets; all else is in the machine's folder."""
        self.kill()

    def state(self) -> State:
        """What QEMU's monitor says."""
        return monitor.state(runtime.find(self._folder))

    def endpoint(self) -> Endpoint:
        """The address that `configure` chose."""
        place = _place(self.config)
        return Endpoint(
            place.address,
            docker_port=place.docker_port,
            ssh_port=place.ssh_port,
            ssh_user=str(self.config.get("SSHUser", SSH_USER)),
        )

    @property
    def _folder(self) -> Path:
        # QEMU and the port watcher are in another working folder.
        return self.machine.directory.absolute()

    @property
    def _architecture(self) -> str:
        return str(self.config.get("Arch") or options.host_architecture())

    def _qemu(self) -> Qemu:
        from pymachine_driver_qemu import binary  # noqa: PLC0415

        return binary.find(self._architecture, asked=str(self.config.get("QemuBinary", "")))

    def _remember(self, image: ImageFiles) -> None:
        """Note in the record which image the machine is made of."""
        self.config["ImageDigest"] = image.digest
        self.config["KernelCommandLine"] = image.command_line

    def _board(self, image: ImageFiles) -> Board:
        from pymachine_driver_qemu import template  # noqa: PLC0415

        qemu = self._qemu()
        return template.Board(
            qemu=qemu,
            accelerator=self._accelerator(qemu, image.kernel, image.initrd, image.digest),
            architecture=self._architecture,
            config={**self.config, "KernelCommandLine": image.command_line},
        )

    def _check_ports(self) -> None:
        place = _place(self.config)
        for port in place.ports:
            if not address.is_free(place.address, port):
                raise PortTakenError(
                    f"{place.address}:{port} is taken by another program",
                    hint=f"See which one (ss -ltnp 'sport = :{port}') and end it; one that listens on 0.0.0.0:{port} "
                    "takes the port on every address.",
                )

    def _boot(self, request: BootRequest) -> None:
        """Start QEMU, give the guest its identity, and the ports a watcher. Nothing is left running on failure."""
        from pymachine import wait  # noqa: PLC0415
        from pymachine_driver_qemu import disk, turns, watcher  # noqa: PLC0415

        qemu = self._qemu()
        self._check_ports()
        accelerator = self._accelerator(
            qemu, self._folder / disk.KERNEL, self._folder / disk.INITRD, str(self.config.get("ImageDigest", ""))
        )
        with turns.turn(turns.places(accelerator), reporter=self.reporter), self._ended_on_failure():
            deadline = wait.Deadline(request.timeout)
            sockets = self._launch(qemu, accelerator, request)
            self._deliver(sockets, request, deadline)
            watcher.start(self._folder, _place(self.config))

    def _accelerator(self, qemu: Qemu, kernel: Path, initrd: Path, image: str) -> str:
        """The accelerator for this machine; chosen, and told of, once."""
        from pymachine_driver_qemu import accelerator  # noqa: PLC0415

        if not self._chosen:
            trial = accelerator.Trial(
                qemu=qemu, architecture=self._architecture, kernel=kernel, initrd=initrd, image=image
            )
            asked = str(self.config.get("Accelerator", "auto"))
            self._chosen = accelerator.choose(asked, trial, reporter=self.reporter)
        return self._chosen

    def _launch(self, qemu: Qemu, accelerator: str, request: BootRequest) -> Path:
        from pymachine_driver_qemu import machine_line, process  # noqa: PLC0415

        began = time.monotonic()
        sockets = runtime.make(self._folder, self.config["MachineID"])
        argv = machine_line.argv(
            qemu,
            accelerator=accelerator,
            architecture=self._architecture,
            name=self.machine.name,
            folder=self._folder,
            sockets=sockets,
            place=_place(self.config),
            config=self.config,
        )
        process.launch(argv, directory=self._folder, sockets=sockets, environment=qemu.environment)
        request.timings["qemu"] = round(time.monotonic() - began, 2)
        return sockets

    def _deliver(self, sockets: Path, request: BootRequest, deadline: Deadline) -> None:
        from pymachine_driver_qemu import identity, process  # noqa: PLC0415

        channel = identity.Channel(sockets / runtime.IDENTITY)
        try:
            with self.reporter.task("Waiting for the machine to start") as task:
                tar = request.identity(self.endpoint())
                channel.deliver(tar, deadline=deadline, task=task, timings=request.timings)
        except identity.GuestError as error:
            error.details = process.last_words(self._folder)
            error.hint = (
                f"The whole console is in {self._folder / process.CONSOLE_LOG}" if not error.hint else error.hint
            )
            raise
        finally:
            channel.close()

    @contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    @staticmethod
    def _resume(sockets: Path) -> None:
        """A paused guest cannot see the power button."""
        from pymachine_driver_qemu.qmp import Qmp  # noqa: PLC0415

        with Qmp(sockets / runtime.CONTROL) as monitor:
            monitor.execute("cont")


def _image(request: BootRequest) -> ImageFiles:
    if request.image is None:
        raise DriverError("the qemu driver needs an image to create a machine")
    return request.image

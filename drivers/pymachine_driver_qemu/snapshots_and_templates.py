"""The driver's abilities for templates, snapshots and clones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from pymachine.driver.contract import BootRequest, Config, Driver, Json, MachineRef, State
from pymachine.driver.errors import DriverError, HostNotRunningError
from pymachine.driver.kit import listen_address
from pymachine_driver_qemu import options, runtime
from pymachine_driver_qemu.base import QemuMachine, image_of

SYNC_SECONDS = 10.0


class CopyableMachine(QemuMachine):
    """The abilities of `QemuDriver` for templates, snapshots and clones."""

    # -- templates ---------------------------------------------------------------------------------------------

    def template_shape(self, request: BootRequest) -> Mapping[str, Json] | None:
        """Return the shape of a template for this machine, or None if there can be none."""
        from pymachine_driver_qemu import template  # noqa: PLC0415

        return template.shape(self._machine_spec(request, image_of(request)))

    def make_template(self, folder: Path, request: BootRequest) -> None:
        """Boot a guest, and freeze it as a template in `folder`."""
        from pymachine_driver_qemu import boot_slots, template  # noqa: PLC0415

        image = image_of(request)
        spec = self._machine_spec(request, image)
        with boot_slots.for_boot(spec.accelerator, self.reporter):
            template.make(spec, folder.absolute(), image, request, reporter=self.reporter)

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        """Resume the template in `folder` as this machine."""
        from pymachine.driver.kit import crashes  # noqa: PLC0415
        from pymachine_driver_qemu import boot_slots, template  # noqa: PLC0415

        image = image_of(request)
        spec = self._machine_spec(request, image)
        self._check_ports()
        self._remember(image)
        template.prepare(folder, self._folder, image)
        with (
            boot_slots.for_resume(self.reporter),
            crashes.ended_on_failure(self.kill),
        ):
            began = time.monotonic()
            connections = template.resume(
                spec,
                folder.absolute(),
                self.machine.name,
                self._folder,
                self._listen_address,
                self.endpoint(),
                request,
                reporter=self.reporter,
            )
            request.timings["resume"] = round(time.monotonic() - began, 2)
            with connections:
                connections.follow(self._folder, self._listen_address, request)

    # -- named templates ---------------------------------------------------------------------------------------

    def freeze(self, folder: Path, request: BootRequest) -> Mapping[str, Json]:
        """Freeze a copy of this running machine as a template in `folder`, and return the facts to resume it."""
        from pymachine_driver_qemu import boot_slots, frozen  # noqa: PLC0415

        if self.state() is not State.RUNNING:
            raise HostNotRunningError(name=self.machine.name)
        spec = self._machine_spec(request)
        if frozen.shape(spec, {}) is None:
            raise self.unsupported(f"named templates of {spec.architecture} machines")
        frozen.must_fit(spec, self._folder, folder)
        facts = dict(self.save_snapshot(folder))
        with boot_slots.for_boot(spec.accelerator, self.reporter):
            frozen.freeze(spec, folder.absolute(), facts, request, self.reporter)
        ports = [{"Protocol": port.protocol, "Port": port.port} for port in self.forwarded_ports() if not port.problem]
        return {**facts, "Ports": ports, "Shape": frozen.shape(spec, facts)}

    def create_from_frozen(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Resume the template in `folder` as this machine."""
        from pymachine.driver.kit import crashes  # noqa: PLC0415
        from pymachine_driver_qemu import boot_slots, frozen  # noqa: PLC0415

        self._check_ports()
        spec = self._machine_spec(request)
        frozen.check_shape(spec, facts)
        frozen.prepare(folder, self._folder)
        with boot_slots.for_resume(self.reporter), crashes.ended_on_failure(self.kill):
            connections = frozen.resume(
                spec, folder.absolute(), facts, self.machine.name, self._folder, self._listen_address,
                self.endpoint(), request, reporter=self.reporter,
            )  # fmt: skip
            with connections:
                connections.follow(self._folder, self._listen_address, request)

    # -- snapshots ---------------------------------------------------------------------------------------------

    def save_snapshot(self, folder: Path, *, memory: bool = True) -> Mapping[str, Json]:
        """Save disk and image, and with `memory` the memory of a machine that runs or is paused."""
        from pymachine_driver_qemu import snapshot  # noqa: PLC0415

        sockets = self._running_sockets()
        hardware = {key: self.config[key] for key in snapshot.HARDWARE if key in self.config}
        with ExitStack() as undo:
            undo.enter_context(self.reporter.task("Saving the machine's state"))
            if sockets is not None and memory:
                undo.enter_context(self._without_shares(sockets))
            elif sockets is not None:
                self.sync()
            if sockets is not None:
                undo.enter_context(self._paused(sockets))
            facts = snapshot.save(self._folder, sockets if memory else None, folder)
        return {**facts, "Hardware": hardware, "Qemu": self._qemu().version_text}

    @contextmanager
    def _without_shares(self, sockets: Path) -> Iterator[None]:
        """Have the shared folders unmounted during the block, since QEMU does not save the state of mounted ones.

        Raises `SnapshotError` if that is not possible.
        """
        from pymachine_driver_qemu import shares  # noqa: PLC0415

        if not shares.are_mounted(sockets):
            yield
            return
        with shares.unmounted(sockets, reporter=self.reporter):
            yield

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Restore disk and image, and the memory if the snapshot has it."""
        from pymachine.driver.kit import crashes  # noqa: PLC0415
        from pymachine_driver_qemu import background, boot_slots, snapshot  # noqa: PLC0415

        with self.reporter.task("Restoring the machine's state"):
            snapshot.swap(self._folder, folder, end=self.kill)
            self.config.update(facts.get("Hardware", {}))
            if not facts.get("Memory"):
                return
            spec = self._machine_spec(request)
            self._check_ports()
            with (
                boot_slots.for_resume(self.reporter),
                crashes.ended_on_failure(self.kill),
            ):
                sockets = snapshot.load(
                    spec, self.machine.name, self._folder, self._listen_address, folder, facts, self.endpoint(),
                    request, reporter=self.reporter,
                )  # fmt: skip
                with background.Connections(sockets) as connections:
                    connections.follow(self._folder, self._listen_address, request)

    def commit_restore(self) -> None:
        """Delete the replaced disk and image."""
        from pymachine_driver_qemu import snapshot  # noqa: PLC0415

        snapshot.commit(self._folder)

    def rollback_restore(self) -> None:
        """Restore the replaced disk and image."""
        from pymachine_driver_qemu import disk, snapshot  # noqa: PLC0415

        # If the restore failed before it changed the machine, nothing was kept, and the machine may still run.
        if any(disk.aside(self._folder / name).exists() for name in disk.DATA):
            self.kill()
        snapshot.rollback(self._folder)

    # -- after a crash -----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Resume a guest that a killed command left paused, and start the processes again that follow its reports."""
        from pymachine.driver.kit import transactions  # noqa: PLC0415
        from pymachine_driver_qemu import background, migration  # noqa: PLC0415
        from pymachine_driver_qemu.qmp import Qmp  # noqa: PLC0415

        state, sockets = self.state(), runtime.find(self._folder)
        if sockets is None or state not in (State.RUNNING, State.PAUSED):
            return
        held = any(change.name == transactions.HOLD for change in transactions.changes(self._folder))
        with Qmp(sockets / runtime.CONTROL) as control:
            if held and state is State.PAUSED:
                migration.cancel(control)
                control.execute("cont")
            devices = control.execute("query-chardev")
        # Not before, since the monitor serves one client at a time.
        if self.state() is State.RUNNING:
            background.start_missing(self._folder, sockets, devices, self._listen_address)

    # -- copies ------------------------------------------------------------------------------------------------

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:  # noqa: ARG002
        """Return the configuration of a clone: the same hardware and image, another address and other ids."""
        taken = listen_address.of_all([*siblings, self.config])
        listen = listen_address.allocate(taken, own_address=listen_address.has_own_addresses())
        addresses = {"IPAddress": listen.address, "EnginePort": listen.docker_port, "SSHPort": listen.ssh_port}
        kept = {key: value for key, value in self.config.items() if key not in _OF_ONE_MACHINE}
        return {**kept, **addresses, **options.new_ids()}

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        """Copy disk and image of `source`, and boot the clone."""
        from pymachine_driver_qemu import disk  # noqa: PLC0415

        if not isinstance(source, CopyableMachine):
            raise DriverError(f"{source.machine.name} is not a machine of this driver")
        sockets = source._running_sockets()  # noqa: SLF001 (the same class)
        if sockets is not None:
            source.sync()
        with self.reporter.task("Copying the disk"), source._paused(sockets) if sockets else nullcontext():  # noqa: SLF001
            disk.copy_image(source._folder, self._folder)  # noqa: SLF001
            disk.copy_data_disk(source._folder, self._folder)  # noqa: SLF001
        self._boot(request)

    def sync(self) -> None:
        """Make the guest flush its buffers to its disk. If it does not confirm that, warn."""
        from pymachine.driver.kit.identity_channel import GuestError  # noqa: PLC0415
        from pymachine.driver.kit.system import wait  # noqa: PLC0415
        from pymachine_driver_qemu import identity  # noqa: PLC0415

        sockets = self._running_sockets()
        if sockets is None or self.state() is not State.RUNNING:
            return
        port = identity.Channel(sockets / runtime.IDENTITY)
        try:
            port.sync(deadline=wait.Deadline(SYNC_SECONDS))
        except GuestError as error:
            self.reporter.warn(
                f"The guest did not flush its buffers ({error.brief}): its disk is as after a power cut."
            )
        finally:
            port.close()

    def _running_sockets(self) -> Path | None:
        """Return the folder of QEMU's sockets if the machine runs or is paused, else None."""
        return runtime.find(self._folder) if self.state() is not State.STOPPED else None

    @contextmanager
    def _paused(self, sockets: Path) -> Iterator[None]:
        """Pause the guest during the block. A guest that was paused stays paused."""
        from pymachine.driver.kit import transactions  # noqa: PLC0415

        was_running = self.state() in (State.RUNNING, State.STOPPING)
        if was_running:
            transactions.note(self._folder, transactions.HOLD)
        self._execute(sockets, "stop")
        try:
            yield
        finally:
            if was_running:
                self._execute(sockets, "cont")
                transactions.clear(self._folder, transactions.HOLD)

    @staticmethod
    def _execute(sockets: Path, command: str) -> None:
        from pymachine_driver_qemu.qmp import Qmp  # noqa: PLC0415

        with Qmp(sockets / runtime.CONTROL) as monitor:
            monitor.execute(command)


# Fields that belong to one machine only. The core sets them.
_OF_ONE_MACHINE = frozenset({"IPAddress", "MachineName", "SSHKeyPath", "StorePath", "PreviousImage"})

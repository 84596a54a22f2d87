"""Named templates: a copy of a running machine, frozen with its containers and without its identity.

The state of the machine is saved with its memory, as for a snapshot. A second QEMU loads it, with a memory that is a
file of the template, and without a network. There the guest forgets the machine's identity, and waits for another one.
The rest is as for other templates, but a clone's disk has only the changes to the template's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint, Json
from pymachine.driver.errors import DriverError, StaleTemplateError, TemplateError
from pymachine.driver.kit import port_forwarding
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.machine_files import MEBIBYTE
from pymachine.driver.kit.system import Deadline, Reporter, os_errors, sparse_files
from pymachine.driver.kit.user_network import Published
from pymachine_driver_qemu import (
    background,
    boot,
    command_line,
    disk,
    disk_jobs,
    migration,
    options,
    process,
    qmp,
    runtime,
    snapshot,
    template,
)
from pymachine_driver_qemu.machine_spec import MachineSpec

_LOAD_SECONDS = 1800.0


def spec_of(spec: MachineSpec, facts: Mapping[str, Json]) -> MachineSpec:
    """Return `spec` with the devices that the frozen machine had."""
    return replace(
        spec,
        qemu=replace(spec.qemu, has_9p=bool(facts.get("SharedFolders"))),
        has_shares_port=bool(facts.get("SharesPort")),
    )


def memory_name(spec: MachineSpec, facts: Mapping[str, Json]) -> str:
    """Return the name of the memory in the saved state."""
    return command_line.MEMORY if facts.get("Backed") else command_line.UNBACKED_MEMORY[spec.architecture]


def freeze(
    spec: MachineSpec, folder: Path, facts: Mapping[str, Json], request: BootRequest, reporter: Reporter
) -> None:
    """Turn the saved machine in `folder` into a template. No process is left running. Raises `DriverError`."""
    _flatten(spec, folder)
    isolated = replace(spec_of(spec, facts).as_template(), isolated=True)
    memory = command_line.Memory(
        path=folder / template.MEMORY,
        shared=True,
        name=memory_name(spec, facts),
        # As in the machine's QEMU. The guest gives the device up before it is frozen, since a clone's has no reports.
        reporting=not facts.get("Backed"),
    )
    try:
        started = boot.launch(isolated, "template", folder, listen=None, memory=memory, resumed=True, tied=True)
        _load(started.sockets, folder)
        # The guest must run to notice that its ports are connected.
        with boot.channel(started, folder) as port, background.Connections(started.sockets):
            with reporter.task("Removing the machine's identity from the copy") as task:
                port.forget_identity(request.seed, deadline=Deadline(request.timeout), task=task)
            template.save(started.sockets, folder)
    finally:
        left = runtime.find(folder)
        if left is not None:
            process.end(left)
        runtime.remove(folder)
    _shrink(folder / template.MEMORY)
    (folder / disk.DISK).rename(folder / disk.BASE)
    disk_jobs.make_overlay(spec.qemu, folder / disk.OVERLAY, base=folder / disk.BASE)


def shape(spec: MachineSpec, facts: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return everything that the saved state depends on, or None if a machine cannot be frozen."""
    return template.shape(spec_of(spec, facts), memory_name=memory_name(spec, facts))


def must_fit(spec: MachineSpec, machine: Path, target: Path) -> None:
    """Raise `DiskError` unless there is room for freezing, which takes the disk once and the memory twice."""
    memory = int(spec.config.get("Memory", options.RECORDED_MEMORY_MIB)) * MEBIBYTE
    disk.must_fit(target, disk.allocated(machine) + 2 * memory)


def check_shape(spec: MachineSpec, facts: Mapping[str, Json]) -> None:
    """Raise `StaleTemplateError` if this host cannot resume the template."""
    now, then = shape(spec, facts) or {}, facts["Shape"]
    different = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if different:
        changes = ", ".join(f"{name}: {then.get(name)}, now {now.get(name)}" for name in different)
        raise StaleTemplateError("this host's QEMU, or how it runs machines, has changed", details=changes)


def resume(
    spec: MachineSpec,
    source: Path,
    facts: Mapping[str, Json],
    name: str,
    folder: Path,
    listen: ListenAddress,
    endpoint: Endpoint,
    request: BootRequest,
    *,
    reporter: Reporter,
) -> background.Connections:
    """Start a machine from the template in `source`, as `template.resume` does. Its containers' ports are open then."""
    ports = [Published(str(each["Protocol"]), int(each["Port"])) for each in facts.get("Ports", ())]
    # Those that another program or the machine itself uses are left to the port forwarder, which reports them.
    own = {listen.docker_port, listen.ssh_port}
    free = [port for port in ports if port.port not in own and not port_forwarding.refusal(listen.address, port)]
    machine = replace(spec_of(spec, facts), published=free)
    return template.resume(
        machine, source, name, folder, listen, endpoint, request,
        reporter=reporter, memory_name=memory_name(spec, facts),
    )  # fmt: skip


def prepare(source: Path, folder: Path) -> None:
    """Create the files of a machine that is to be resumed from the template in `source`. Raises `TemplateError`."""
    try:
        disk.copy_image(source, folder)
        disk.copy_data_disk(source, folder)
    except DriverError as error:
        raise TemplateError(error.brief) from error


def _flatten(spec: MachineSpec, folder: Path) -> None:
    if disk.parts(folder) == (disk.DISK,):
        return
    overlay, base = folder / disk.OVERLAY, folder / disk.BASE
    disk_jobs.flatten(spec.qemu, overlay, folder / disk.DISK, base=base)
    overlay.unlink()
    base.unlink()


def _load(sockets: Path, folder: Path) -> None:
    """Load the saved state, with its memory, and let the guest go on."""
    path = folder / snapshot.STATE
    try:
        with qmp.Qmp(sockets / runtime.CONTROL) as monitor, path.open("rb") as state:
            migration.load(monitor, state, without_memory=False, seconds=_LOAD_SECONDS)
            monitor.execute("cont")
        path.unlink()
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot read {path}", error) from error


def _shrink(path: Path) -> None:
    """Make holes of the parts of a file that are zero, such as the guest's overwritten memory."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        sparse_files.copy_without_zeros(path, fresh)
        fresh.replace(path)
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot write {fresh}", error) from error
    finally:
        fresh.unlink(missing_ok=True)

"""Templates: guests frozen before they have an identity, and machines resumed from them.

The guest's memory is a file. QEMU writes to it only while the template boots. The machines resumed from it map it
privately, and share all pages that they do not change. The rest of the state is small. The template's disk is copied,
so that a machine depends on its template only while its QEMU runs. The disk is stored packed, without holes: programs
that save and restore a CI cache would write the holes as 20 GB of zeros.
"""

from __future__ import annotations

import hashlib
import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint, ImageFiles, Json
from pymachine.driver.errors import DriverError, TemplateError
from pymachine.driver.kit import name_resolution
from pymachine.driver.kit.crashes import retry_once
from pymachine.driver.kit.identity_channel import GuestReportedError
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.system import Deadline, Reporter, os_errors
from pymachine_driver_qemu import (
    background,
    boot,
    command_line,
    disk,
    identity,
    migration,
    options,
    process,
    qmp,
    runtime,
    shares,
)
from pymachine_driver_qemu.machine_spec import MachineSpec

MEMORY = "memory"
STATE = "state"
DISK = "disk.packed"
_FREEZE_SECONDS = 60.0
# Kernels on arm64 do not notice that they were resumed, so two clones would draw the same random numbers.
_ARCHITECTURES = frozenset({"amd64"})


def shape(spec: MachineSpec, *, memory_name: str = command_line.MEMORY) -> dict[str, Json] | None:
    """Return everything that a template's state depends on, or None if there can be no template."""
    if spec.architecture not in _ARCHITECTURES:
        return None
    status = spec.qemu.path.stat()
    placeholder = Path("/")
    anonymous = spec.as_template().as_machine(str(uuid.UUID(int=0)))
    memory = command_line.Memory(path=placeholder / MEMORY, shared=True, name=memory_name)
    line = "\0".join(anonymous.argv("", placeholder, placeholder, listen=None, memory=memory))
    return {
        "cpus": spec.config.get("CPU", options.DEFAULT_CPUS),
        "memory_mib": spec.config.get("Memory", options.RECORDED_MEMORY_MIB),
        "disk_mb": spec.config.get("DiskSize", options.DEFAULT_DISK_MB),
        "accelerator": spec.accelerator,
        "architecture": spec.architecture,
        "qemu": f"{spec.qemu.version_text} {spec.qemu.path}",
        "qemu_file": [status.st_size, status.st_mtime_ns],
        "devices": hashlib.sha256(line.encode()).hexdigest(),
        "host": _host() if spec.accelerator != "tcg" else "",
    }


def make(spec: MachineSpec, folder: Path, image: ImageFiles, request: BootRequest, *, reporter: Reporter) -> None:
    """Boot a guest with the seed in `folder`, freeze it there, and end its QEMU."""
    size_mb = int(spec.config.get("DiskSize", options.DEFAULT_DISK_MB))
    disk.keep_image(image, folder)
    disk.make_data_disk(folder / disk.DISK, size_mb=size_mb)
    retry_once(lambda: _boot_and_freeze(spec, folder, request, reporter), reporter=reporter)
    disk.pack(folder / disk.DISK, folder / DISK)
    # A resumed machine has its own links to the image.
    for name in (disk.DISK, disk.ISO, disk.KERNEL, disk.INITRD):
        (folder / name).unlink()


def _boot_and_freeze(spec: MachineSpec, folder: Path, request: BootRequest, reporter: Reporter) -> None:
    # After a crash, this contains the memory of the crashed guest.
    (folder / MEMORY).unlink(missing_ok=True)
    memory = command_line.Memory(path=folder / MEMORY, shared=True)
    try:
        template = spec.as_template().as_machine(str(uuid.uuid4()))
        started = boot.launch(template, "template", folder, listen=None, memory=memory, tied=True)
        _freeze(folder, started, request, reporter)
    finally:
        left = runtime.find(folder)
        if left is not None:
            process.end(left)
        runtime.remove(folder)


def _freeze(folder: Path, started: boot.Started, request: BootRequest, reporter: Reporter) -> None:
    sockets = started.sockets
    with boot.channel(started, folder) as port, background.Connections(sockets):
        with reporter.task("Waiting for the template to start") as task:
            port.send_seed(request.seed, deadline=Deadline(request.timeout), task=task)
        # Keep the ports connected while the state is saved, since a resumed guest must find them so.
        save(sockets, folder)


def save(sockets: Path, folder: Path) -> None:
    """Stop the guest, and write its state except its memory to the template's folder."""
    with qmp.Qmp(sockets / runtime.CONTROL) as monitor, (folder / STATE).open("wb") as state:
        (folder / STATE).chmod(0o600)
        monitor.execute("stop")
        migration.save(monitor, state, without_memory=True, seconds=_FREEZE_SECONDS)


def prepare(template: Path, folder: Path, image: ImageFiles) -> None:
    """Create the files of a machine that is to be resumed. Raises `TemplateError`."""
    try:
        disk.keep_image(image, folder)
        disk.unpack(template / DISK, folder / disk.DISK)
    except DriverError as error:
        raise TemplateError(error.brief) from error


def resume(
    spec: MachineSpec,
    template: Path,
    name: str,
    folder: Path,
    listen: ListenAddress,
    endpoint: Endpoint,
    request: BootRequest,
    *,
    reporter: Reporter,
    memory_name: str = command_line.MEMORY,
) -> background.Connections:
    """Start the machine from the template's state, and send it its identity.

    Return the connections on which the guest reports. Raises `TemplateError` if the template may be
    the cause of a failure. The caller must end QEMU on any error.
    """
    memory = command_line.Memory(path=template / MEMORY, name=memory_name)
    deadline = Deadline(request.timeout)
    plain = name_resolution.identity(request, endpoint)
    with _template_at_fault(template, folder):
        started = boot.launch(spec, name, folder, listen=listen, memory=memory, resumed=True, timings=request.timings)
        sockets = started.sockets
        tar = shares.with_mounts(plain, request.shares, sockets)
        # Connect the ports before the state is loaded, in which they are connected.
        with boot.channel(started, folder) as port, ExitStack() as kept:
            connections = kept.enter_context(background.Connections(sockets))
            with qmp.Qmp(sockets / runtime.CONTROL) as monitor, (template / STATE).open("rb") as state:
                migration.load(monitor, state, without_memory=True, seconds=deadline.remaining())
                monitor.execute("cont")
            with reporter.task("Waiting for the machine to resume") as task:
                stages = port.activate_clone(
                    tar, seed=request.seed, wait_for_engine=request.wait_for_engine, deadline=deadline, task=task
                )
            shares.warn_if_not_mounted(request.shares, sockets, stages, reporter=reporter)
            kept.pop_all()
            return connections


@contextmanager
def _template_at_fault(template: Path, folder: Path) -> Iterator[None]:
    """Convert errors of QEMU, and of a guest that does not answer, to `TemplateError`.

    Not converted are errors that the guest reports about its identity, a full disk, and errors that the core raises in
    `BootRequest.wait_for_engine`.
    """
    try:
        yield
    except (GuestReportedError, identity.PausedByDiskError):
        raise
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot read {template / STATE}", error) from error
    except DriverError as error:
        raise TemplateError(error.brief, details=error.details or process.ends_of_logs(folder)) from error


def _host() -> str:
    """Return what determines the guest's view of the processor under hardware virtualisation: kernel and CPU flags."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.release()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"

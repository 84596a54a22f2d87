"""Templates: a guest that was frozen before it became anybody, and machines that are resumed from it.

The guest's memory is a file. While the template boots, QEMU writes to it; afterwards it is never written to again: the
machines that are resumed map it privately, and share all pages that they do not change. The rest of the state is
small. The template's disk is copied, so that a machine depends on its template only for as long as its QEMU runs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver import BootRequest, Endpoint, ImageFiles, Json
from pymachine.errors import DriverError, TemplateError
from pymachine.progress import Reporter
from pymachine.wait import Deadline
from pymachine_driver_qemu import command_line, disk, identity, machine_line, migration, options, process, qmp, runtime
from pymachine_driver_qemu.address import Place
from pymachine_driver_qemu.binary import Qemu

MEMORY = "memory"
STATE = "state"
_FREEZE_SECONDS = 60.0
# Kernels on arm64 are not told that they were resumed: two clones would draw the same random numbers.
_ARCHITECTURES = frozenset({"amd64"})


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a machine and its template have in common."""

    qemu: Qemu
    accelerator: str
    architecture: str
    config: Mapping[str, Json]

    def argv(
        self, name: str, folder: Path, sockets: Path, place: Place | None, memory: command_line.Memory
    ) -> list[str]:
        """The command line of a machine with its memory in a file; one that is not the file's maker is resumed."""
        return machine_line.argv(
            self.qemu,
            accelerator=self.accelerator,
            architecture=self.architecture,
            name=name,
            folder=folder,
            sockets=sockets,
            place=place,
            config=self.config,
            memory=memory,
            resumed=not memory.shared,
        )


def shape(board: Board) -> dict[str, Json] | None:
    """All that a template's state depends on; None where there can be no template."""
    if board.architecture not in _ARCHITECTURES:
        return None
    status = board.qemu.path.stat()
    nowhere = Path("/")
    anybody = {"MachineID": str(uuid.UUID(int=0)), "MACAddress": ""}
    canonical = Board(
        qemu=board.qemu,
        accelerator=board.accelerator,
        architecture=board.architecture,
        config={**board.config, **anybody},
    )
    memory = command_line.Memory(path=nowhere / MEMORY, shared=True)
    line = "\0".join(canonical.argv("", nowhere, nowhere, None, memory))
    return {
        "cpus": board.config.get("CPU", options.DEFAULT_CPUS),
        "memory_mib": board.config.get("Memory", options.DEFAULT_MEMORY_MIB),
        "disk_mb": board.config.get("DiskSize", options.DEFAULT_DISK_MB),
        "accelerator": board.accelerator,
        "architecture": board.architecture,
        "qemu": f"{board.qemu.version_text} {board.qemu.path}",
        "qemu_file": [status.st_size, status.st_mtime_ns],
        "devices": hashlib.sha256(line.encode()).hexdigest(),
        "host": _host() if board.accelerator != "tcg" else "",
    }


def make(board: Board, folder: Path, image: ImageFiles, request: BootRequest, *, reporter: Reporter) -> None:
    """Boot a guest with the seed in `folder`, and freeze it there. Nothing of it runs afterwards."""
    disk.keep_image(image, folder)
    disk.make_data_disk(folder / disk.DISK, size_mb=int(board.config.get("DiskSize", options.DEFAULT_DISK_MB)))
    machine_id = str(uuid.uuid4())
    own = Board(
        qemu=board.qemu,
        accelerator=board.accelerator,
        architecture=board.architecture,
        config={**board.config, "MachineID": machine_id},
    )
    sockets = runtime.make(folder, machine_id)
    try:
        memory = command_line.Memory(path=folder / MEMORY, shared=True)
        argv = own.argv("template", folder, sockets, None, memory)
        process.launch(argv, directory=folder, sockets=sockets, environment=own.qemu.environment, tied=True)
        _freeze(folder, sockets, request, reporter)
    finally:
        process.end(sockets)
        runtime.remove(folder)
    # A machine that is resumed has links to the image of its own.
    for name in (disk.ISO, disk.KERNEL, disk.INITRD):
        (folder / name).unlink()


def _freeze(folder: Path, sockets: Path, request: BootRequest, reporter: Reporter) -> None:
    channel = identity.Channel(sockets / runtime.IDENTITY)
    try:
        with reporter.task("Waiting for the template to start") as task:
            channel.plant(request.seed, deadline=Deadline(request.timeout), task=task)
        # The channel stays open: the guest is frozen in the belief that its host listens.
        with qmp.Qmp(sockets / runtime.CONTROL) as monitor, (folder / STATE).open("wb") as state:
            (folder / STATE).chmod(0o600)
            monitor.execute("stop")
            migration.save(monitor, state, without_memory=True, seconds=_FREEZE_SECONDS)
    except identity.GuestError as error:
        error.details = process.last_words(folder)
        raise
    finally:
        channel.close()


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A machine that is to be resumed from a template."""

    name: str
    folder: Path
    place: Place
    endpoint: Endpoint


def prepare(template: Path, clone: Clone, image: ImageFiles) -> None:
    """Make the machine's own files. Raises `TemplateError`."""
    try:
        disk.keep_image(image, clone.folder)
        disk.copy_disk(template / disk.DISK, clone.folder / disk.DISK)
    except DriverError as error:
        raise TemplateError(error.brief) from error


def resume(
    board: Board, template: Path, clone: Clone, sockets: Path, request: BootRequest, *, reporter: Reporter
) -> None:
    """Start the machine from the template's state, and have it become itself. Raises `TemplateError`.

    What runs when this raises is the caller's to end.
    """
    memory = command_line.Memory(path=template / MEMORY, shared=False)
    argv = board.argv(clone.name, clone.folder, sockets, clone.place, memory)
    deadline = Deadline(request.timeout)
    try:
        process.launch(argv, directory=clone.folder, sockets=sockets, environment=board.qemu.environment)
        # Before the state is there: it has it that somebody listens.
        channel = identity.Channel(sockets / runtime.IDENTITY)
        try:
            with qmp.Qmp(sockets / runtime.CONTROL) as monitor, (template / STATE).open("rb") as state:
                migration.load(monitor, state, without_memory=True, seconds=deadline.remaining())
                tar = request.identity(clone.endpoint)
                monitor.execute("cont")
            with reporter.task("Waiting for the machine to resume") as task:
                channel.enliven(tar, seed=request.seed, deadline=deadline, task=task)
        finally:
            channel.close()
    except OSError as error:
        raise TemplateError(f"cannot read {template / STATE}: {error.strerror}") from error
    except DriverError as error:
        raise TemplateError(error.brief, details=process.last_words(clone.folder)) from error


def _host() -> str:
    """What decides, under hardware virtualisation, what a guest sees of the processor."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{os.uname().release} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"

"""Save and restore snapshots: a machine's disk, its image, and its memory if it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint, Json
from pymachine.driver.errors import DriverError
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.system import Deadline, Reporter, files
from pymachine_driver_qemu import boot, command_line, disk, migration, qmp, runtime, shares
from pymachine_driver_qemu.machine_spec import MachineSpec

STATE = "state"
# The fields that decide the machine's hardware, which must be the same for the memory to fit.
HARDWARE = ("CPU", "Memory", "DiskSize", "ImageDigest", "KernelCommandLine", "Arch")
_MOVE_SECONDS = 1800.0


class SnapshotError(DriverError):
    """This QEMU cannot load the memory of a snapshot."""

    code = "qemu-snapshot"


def save(folder: Path, sockets: Path | None, target: Path) -> dict[str, Json]:
    """Save the machine in `folder` into `target`, with its memory if it has a QEMU, whose guest must be paused."""
    needed = disk.allocated(folder)
    facts: dict[str, Json] = {"Memory": sockets is not None}
    if sockets is not None:
        with qmp.Qmp(sockets / runtime.CONTROL) as monitor:
            facts["Backed"] = _is_backed(monitor)
            facts["SharedFolders"] = _has_9p(monitor)
            facts["SharesPort"] = _has_shares_port(monitor)
            facts["MissingShares"] = [str(share) for share in shares.missing(sockets)]
            memory = monitor.execute("query-memory-size-summary")
            disk.must_fit(target, needed + int(memory["base-memory"]))
            with (target / STATE).open("wb") as state:
                (target / STATE).chmod(0o600)
                migration.save(monitor, state, without_memory=False, seconds=_MOVE_SECONDS)
    else:
        disk.must_fit(target, needed)
    disk.copy_image(folder, target)
    disk.copy_data_disk(folder, target)
    return facts


def swap(folder: Path, snapshot: Path, *, end: Callable[[], None]) -> None:
    """Replace the disk and the image by the snapshot's; keep the old ones until `commit` or `rollback`.

    All that needs disk space is done before the machine is ended by `end`.
    """
    names = disk.parts(folder)
    if names != disk.parts(snapshot):
        raise SnapshotError(f"the disk in {snapshot} is of another kind than the machine's")
    current = folder / names[0]
    new = files.temporary(current)
    disk.must_fit(folder, disk.allocated(snapshot))
    try:
        # The rest of the disk, what the first file has the changes to, never changes.
        disk.copy_sparse(snapshot / names[0], new)
        disk.set_image_aside(folder)
        end()
        disk.copy_image(snapshot, folder)
        current.rename(disk.aside(current))
        new.rename(current)
    finally:
        new.unlink(missing_ok=True)


def commit(folder: Path) -> None:
    """Delete the disk and the image that `swap` kept."""
    disk.drop_aside(folder, (*disk.DATA, *disk.IMAGE))


def rollback(folder: Path) -> None:
    """Restore the disk and the image that `swap` kept."""
    disk.bring_back(folder, (*disk.DATA, *disk.IMAGE))


def load(
    spec: MachineSpec,
    name: str,
    folder: Path,
    listen: ListenAddress,
    snapshot: Path,
    facts: Mapping[str, Json],
    endpoint: Endpoint,
    request: BootRequest,
    *,
    reporter: Reporter,
) -> Path:
    """Start the machine from the snapshot's memory, and send it its current identity; return its sockets' folder.

    Raises `DriverError`. The caller must end QEMU then.
    """
    memory = command_line.Memory() if facts.get("Backed") else None
    # The memory fits only a machine with the same devices. Snapshots of older versions have fewer for shared folders.
    spec = replace(
        spec,
        qemu=replace(spec.qemu, has_9p=bool(facts.get("SharedFolders"))),
        has_shares_port=bool(facts.get("SharesPort")),
    )
    # The guest may have mounted these over SSH. They stay so: a mount whose connection is lost is in their place.
    missing = facts.get("MissingShares", ())
    started = boot.launch(
        spec, name, folder, listen=listen, memory=memory, resumed=True, missing=missing, timings=request.timings
    )
    sockets = started.sockets
    try:
        with qmp.Qmp(sockets / runtime.CONTROL) as monitor, (snapshot / STATE).open("rb") as state:
            migration.load(monitor, state, without_memory=False, seconds=_MOVE_SECONDS)
            monitor.execute("cont")
    except (qmp.QmpError, migration.MigrationError, OSError) as error:
        raise SnapshotError(
            f"this QEMU cannot load the memory of the snapshot: {error}",
            details=f"it was saved by QEMU {facts.get('Qemu', 'of unknown version')}, this one is "
            f"{spec.qemu.version_text}",
            hint="Restore only its disk: pymachine snapshot restore --disk-only",
        ) from error
    with boot.channel(started, folder) as port, reporter.task("Waiting for the machine to resume") as task:
        tar = shares.identity(request, endpoint, sockets)
        port.update_identity(tar, deadline=Deadline(request.timeout), task=task)
    return sockets


def _has_9p(monitor: qmp.Qmp) -> bool:
    return "virtio-9p" in monitor.human("info qtree")


def _has_shares_port(monitor: qmp.Qmp) -> bool:
    return any(device.get("label") == command_line.SHARES for device in monitor.execute("query-chardev"))


def _is_backed(monitor: qmp.Qmp) -> bool:
    """Return whether the machine's memory is a file, as in a machine resumed from a template."""
    return any(device.get("id") == command_line.MEMORY for device in monitor.execute("query-memdev"))

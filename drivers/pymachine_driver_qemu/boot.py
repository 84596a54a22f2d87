"""Start a machine's QEMU, by power-on or from a saved state, and send the guest its identity."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint, refuse_links
from pymachine.driver.kit import listen_queues
from pymachine.driver.kit.identity_channel import GuestEndedError, GuestError, GuestReportedError
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.system import Deadline, Reporter
from pymachine_driver_qemu import (
    background,
    command_line,
    disk,
    identity,
    process,
    qmp,
    read_only_mounts,
    runtime,
    shares,
)
from pymachine_driver_qemu.machine_spec import MachineSpec


@dataclass(frozen=True)
class Started:
    """A QEMU that this process has started, by the folder of its sockets and its process id."""

    sockets: Path
    pid: int


def launch(
    spec: MachineSpec,
    name: str,
    folder: Path,
    *,
    listen: ListenAddress | None,
    memory: command_line.Memory | None = None,
    resumed: bool = False,
    tied: bool = False,
    missing: Collection[str] = (),
    timings: MutableMapping[str, float] | None = None,
) -> Started:
    """Start the QEMU of the machine in `folder`. If `tied`, it ends with this process.

    `missing` has the texts of shares with which it does not start, beside those whose folder is missing.
    """
    began = time.monotonic()
    refuse_links(folder, (*disk.IMAGE, *disk.DATA, process.CONSOLE_LOG, process.QEMU_LOG))
    disk.drop_flattened(folder)  # of an export that was killed
    sockets = runtime.make(folder, str(spec.config.get("MachineID", "")))
    background.forget(folder)
    shares.note_missing(spec.shares, sockets, also=missing)

    def start(mounts: Sequence[read_only_mounts.Mount] = ()) -> int:
        return process.launch(
            spec.argv(name, folder, sockets, listen=listen, memory=memory, resumed=resumed),
            directory=folder,
            sockets=sockets,
            # With one arena instead of one per thread, the allocator leaves less memory unused.
            environment={"MALLOC_ARENA_MAX": "1", **spec.qemu.environment},
            tied=tied,
            filtered=bool(spec.shares),
            # An emulator uses many small pieces of memory. Guests under hardware virtualisation profit from huge pages.
            small_pages=spec.accelerator == "tcg",
            mounts=mounts,
        )

    try:
        pid = start(shares.make_read_only_mounts(spec.shares, sockets))
    except process.MountError:
        # Without the places of the mounts, QEMU itself enforces that the folders are read-only.
        runtime.remove_places(sockets)
        pid = start()
    started = Started(sockets, pid)
    if listen is not None:
        with _end_noticed(started, folder):
            lengthen_queues(sockets)
    if timings is not None:
        timings["qemu"] = round(time.monotonic() - began, 2)
    return started


def lengthen_queues(sockets: Path) -> None:
    """Let many clients connect to the machine's own ports at once, if the host allows it; see `listen_queues`."""
    with qmp.Qmp(sockets / runtime.CONTROL) as monitor, suppress(listen_queues.BacklogError):
        # If the host does not allow it, `doctor` and the port forwarder report that.
        listen_queues.lengthen(monitor.pid())


def deliver(
    started: Started, folder: Path, endpoint: Endpoint, request: BootRequest, *, deadline: Deadline, reporter: Reporter
) -> None:
    """Send the booting guest its identity, and wait until it is up with it.

    Raises `GuestError`, or `CrashedError` if QEMU crashed.
    """
    with channel(started, folder) as port, reporter.task("Waiting for the machine to start") as task:
        tar = shares.identity(request, endpoint, started.sockets)
        stages = port.deliver(tar, deadline=deadline, task=task, timings=request.timings)
    shares.warn_if_not_mounted(request.shares, started.sockets, stages, reporter=reporter)


@contextmanager
def channel(started: Started, folder: Path) -> Iterator[identity.Channel]:
    """Open the identity channel. Add the end of the console to a `GuestError` that has no details.

    Raises `CrashedError` if QEMU crashes in the block, or has crashed before it.
    """
    try:
        with _end_noticed(started, folder), closing(identity.Channel(started.sockets / runtime.IDENTITY)) as port:
            yield port
    except (GuestReportedError, identity.PausedByDiskError):
        raise
    except GuestError as error:
        error.details = error.details or process.ends_of_logs(folder)
        error.hint = error.hint or f"See the console log, {folder / process.CONSOLE_LOG}."
        raise


@contextmanager
def _end_noticed(started: Started, folder: Path) -> Iterator[None]:
    """If the block fails because QEMU has ended, raise the error of `process.end_error`."""
    try:
        yield
    except (GuestEndedError, qmp.QmpError) as error:
        code = process.exit_code(started.pid)
        # After a shutdown, a `GuestEndedError` already names the last stage of the boot.
        if code is None or (code == 0 and isinstance(error, GuestEndedError)):
            raise
        reason = process.end_error(code, details=process.ends_of_logs(folder))
        if reason is None:
            raise
        raise reason from error

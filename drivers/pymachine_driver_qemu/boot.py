"""Bringing a machine up: its QEMU started, by power-on or from a state, and its guest given its identity."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pymachine import backlog, search_domains
from pymachine.channel import GuestEndedError, GuestError, GuestReportedError
from pymachine.crashes import CrashedError
from pymachine.driver import BootRequest, Endpoint, refuse_links
from pymachine.progress import Reporter
from pymachine.wait import Deadline
from pymachine_driver_qemu import command_line, disk, identity, process, qmp, runtime
from pymachine_driver_qemu.address import Place
from pymachine_driver_qemu.board import Board

_HINTS = {
    signal.SIGKILL: "The kernel ends programs so when memory runs out; see: sudo dmesg",
    signal.SIGBUS: "QEMU ends so when the disk is full; see: df -h",
}


@dataclass(frozen=True)
class Started:
    """A QEMU that this process has started: the folder of its sockets, and its process id."""

    sockets: Path
    pid: int


def launch(
    board: Board,
    name: str,
    folder: Path,
    *,
    place: Place | None,
    memory: command_line.Memory | None = None,
    resumed: bool = False,
    tied: bool = False,
    timings: MutableMapping[str, float] | None = None,
) -> Started:
    """Start the QEMU of the machine in `folder`. `tied`: it ends with us."""
    began = time.monotonic()
    refuse_links(folder, (*disk.IMAGE, disk.DISK, process.CONSOLE_LOG, process.QEMU_LOG))
    sockets = runtime.make(folder, str(board.config.get("MachineID", "")))
    argv = board.argv(name, folder, sockets, place=place, memory=memory, resumed=resumed)
    pid = process.launch(
        argv,
        directory=folder,
        sockets=sockets,
        # An allocator with one arena: with one for each thread more stays unused.
        environment={"MALLOC_ARENA_MAX": "1", **board.qemu.environment},
        tied=tied,
        # An emulator's own memory is in many small pieces. Guests under hardware virtualisation gain by huge pages.
        small_pages=board.accelerator == "tcg",
    )
    if place is not None:
        lengthen_queues(sockets)
    if timings is not None:
        timings["qemu"] = round(time.monotonic() - began, 2)
    return Started(sockets, pid)


def lengthen_queues(sockets: Path) -> None:
    """Let many clients connect at once to the machine's own ports, where the host allows that; see `backlog`."""
    with qmp.Qmp(sockets / runtime.CONTROL) as monitor, suppress(backlog.BacklogError):
        # `doctor` and the port forwarder report a host that does not.
        backlog.lengthen(monitor.pid())


def deliver(
    started: Started, folder: Path, endpoint: Endpoint, request: BootRequest, *, deadline: Deadline, reporter: Reporter
) -> None:
    """Give a guest that boots its identity, and wait until it is up with it.

    Raises `GuestError`, or `CrashedError` if QEMU crashed.
    """
    with channel(started, folder) as port, reporter.task("Waiting for the machine to start") as task:
        tar = search_domains.identity(request, endpoint)
        port.deliver(tar, deadline=deadline, task=task, timings=request.timings)


def news(sockets: Path) -> socket.socket:
    """Where a guest tells of its containers, see `pymachine.channel.CONTAINERS_PORT`. Raises `qmp.QmpError`."""
    connection = qmp.connect(sockets / runtime.CONTAINERS, Deadline(identity.CONNECT_SECONDS))
    connection.settimeout(None)
    return connection


def is_followed(monitor: qmp.Qmp) -> bool:
    """Whether something reads the guest's reports of its ports: the port forwarder, or what waits to start it."""
    devices = monitor.execute("query-chardev")
    return not any(
        device.get("label") == command_line.CONTAINERS and str(device.get("filename", "")).startswith("disconnected:")
        for device in devices
    )


@contextmanager
def channel(started: Started, folder: Path) -> Iterator[identity.Channel]:
    """The identity channel; failures of a guest that does not say why have the end of its console with them.

    Raises `CrashedError` if QEMU crashes in the block.
    """
    port = identity.Channel(started.sockets / runtime.IDENTITY)
    try:
        with _crash_noticed(started, folder):
            yield port
    except (GuestReportedError, identity.PausedByDiskError):
        raise
    except GuestError as error:
        error.details = error.details or process.last_words(folder)
        error.hint = error.hint or f"The whole console is in {folder / process.CONSOLE_LOG}"
        raise
    finally:
        port.close()


@contextmanager
def _crash_noticed(started: Started, folder: Path) -> Iterator[None]:
    """If a signal ended QEMU, raise an error that names it, which is `CrashedError` for a crash."""
    try:
        yield
    except (GuestEndedError, qmp.QmpError) as error:
        ended = process.end_signal(started.pid)
        if ended is None:
            raise
        details = process.last_words(folder)
        if ended in process.CRASHES:
            raise CrashedError(f"QEMU crashed ({ended.name})", details=details) from error
        raise GuestEndedError(f"QEMU was ended by {ended.name}", details=details, hint=_HINTS.get(ended, "")) from error

"""The port forwarder: makes the ports that are open in the guest appear where QEMU listens for the machine.

One small process a machine in user networking, started with it and ending with its domain: ``python -m
pymachine_driver_libvirt.ports MACHINE_FOLDER``. It reads the guest's reports through a stream of libvirt's, and has
libvirt tell QEMU's monitor which ports to forward. What it does is logged in ``ports.log`` in the machine's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pymachine.driver.errors import DriverError, PymachineError
from pymachine.driver.kit import forwarded_ports, identity_channel, listen_queues
from pymachine.driver.kit.port_forwarding import RETRY_SECONDS, Forwarder, Target, log
from pymachine.driver.kit.system import Deadline, os_errors
from pymachine_driver_libvirt import connection as libvirts, guest, state
from pymachine_driver_libvirt.connection import Connection, Domain
from pymachine_driver_libvirt.domain import NETDEV, Forwards
from pymachine_driver_libvirt.guest import Stream

LOG = "ports.log"
SETTINGS = "ports.json"
_LOCK = "ports.lock"
# A guest that has containers reports every two seconds.
_SILENCE_SECONDS = 20.0
# More at one time comes from a guest that floods: its stream is closed for a while.
_MOST_BYTES = 4 * 1024 * 1024
_PAUSE_SECONDS = 0.02
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# How long an earlier forwarder may take to notice that its domain has ended.
_LOCK_SECONDS = 15.0


class MachineEndedError(Exception):
    """The domain has ended, and so does its forwarder."""


class LibvirtGoneError(Exception):
    """The connection to libvirt ended."""


def start(folder: Path, *, uri: str, machine_id: str, forwards: Forwards) -> None:
    """Start a forwarder that outlives us and ends with the machine's domain. Raises `DriverError` if it cannot start.

    `forwards` says where QEMU listens.
    """
    fields = {"uri": uri, "machine_id": machine_id, **dataclasses.asdict(forwards)}
    try:
        (folder / forwarded_ports.FILE).unlink(missing_ok=True)
        (folder / SETTINGS).write_text(json.dumps(fields), encoding="utf-8")
        with (folder / LOG).open("ab") as output:
            # -P: the working folder is not to be searched for modules.
            argv = [sys.executable, "-P", "-m", "pymachine_driver_libvirt.ports", str(folder)]
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
    except OSError as error:
        raise os_errors.wrapped(DriverError, "cannot start the port forwarder", error) from error
    # It is no child to wait for: it ends when the domain does.
    process.returncode = 0


class EventQueue:
    """Deliver libvirt's asynchronous events through a selectable socket."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        self._ends: list[Exception] = []
        self._restarted = False

    def fileno(self) -> int:
        """For a selector."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the socket readable."""
        with contextlib.suppress(BlockingIOError):  # full, so it is readable
            self._writer.send(b"!")

    def end(self, what: Exception) -> None:
        """Note that the machine or the connection has ended."""
        self._ends.append(what)
        self.wake()

    def restart(self) -> None:
        """Note that the guest restarts."""
        self._restarted = True
        self.wake()

    def check(self) -> bool:
        """Raise what has ended, if anything has; return whether the guest has restarted since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        ends, self._ends = self._ends, []
        if ends:
            # The end of the machine says more than that of a connection, which it may have brought about.
            raise next((each for each in ends if isinstance(each, MachineEndedError)), ends[0])
        restarted, self._restarted = self._restarted, False
        return restarted


class Watched:
    """The machine's domain, through a connection that may have to be made again."""

    def __init__(self, uri: str, machine_id: str) -> None:
        self._uri = uri
        self._machine_id = machine_id
        self._connection: Connection | None = None
        self._domain: Domain | None = None
        self._number = -1
        self.events = EventQueue()

    @contextlib.contextmanager
    def reports(self) -> Iterator[Stream]:
        """Connect to the port on which the guest reports; `events` rings when it does.

        Raises `MachineEndedError` if the domain does not run any more, `LibvirtGoneError`.
        """
        libvirt = libvirts.library()
        try:
            connection = libvirts.connect(self._uri)
            domain = state.find(connection, self._machine_id)
            number = domain.ID() if domain is not None and domain.isActive() else -1
            if domain is None or number < 0 or (self._number >= 0 and number != self._number):
                raise MachineEndedError
            if connection is not self._connection:
                self._listen(connection, domain)
            self._connection, self._domain, self._number = connection, domain, number
            with guest.opened(connection, self.events.wake) as stream:
                domain.openChannel(identity_channel.CONTAINERS_PORT, stream.raw, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
                stream.listen()
                yield stream
        except PymachineError as error:
            raise LibvirtGoneError(error.brief) from error
        except libvirt.libvirtError as error:
            raise LibvirtGoneError(libvirts.message(error)) from error

    def monitor(self, line: str) -> str:
        """Run a command of QEMU's monitor. Raises `LibvirtGoneError`."""
        import libvirt_qemu  # noqa: PLC0415 (a part of libvirt-python)

        libvirt = libvirts.library()
        try:
            said = libvirt_qemu.qemuMonitorCommand(self._domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        except libvirt.libvirtError as error:
            raise LibvirtGoneError(libvirts.message(error)) from error
        return str(said).strip()

    def lengthen_queues(self) -> None:
        """See `backlog.lengthen`; nothing is done for a QEMU on another host."""
        for pid in _pids(self._machine_id):
            listen_queues.lengthen(pid)

    def _listen(self, connection: Connection, domain: Domain) -> None:
        libvirt = libvirts.library()

        def lifecycle(connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:  # noqa: ARG001
            if event in {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED}:
                self.events.end(MachineEndedError())

        def rebooted(connection: Any, domain: Any, opaque: Any) -> None:  # noqa: ARG001
            self.events.restart()

        def closed(connection: Any, reason: int, opaque: Any) -> None:  # noqa: ARG001
            self.events.end(LibvirtGoneError("the connection to libvirt ended"))

        connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, rebooted, None)
        connection.registerCloseCallback(closed, None)


def _pids(machine_id: str) -> list[int]:
    """The processes of this host that are the QEMU of the domain with that UUID; none if it runs elsewhere."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"-uuid" in words and machine_id.encode() in words:
            found.append(int(entry.name))
    return found


def watch(folder: Path, watched: Watched, forwarder: Forwarder) -> None:
    """Follow the machine in `folder` until its domain ends (`MachineEndedError`), or the folder is gone."""
    pause, said = _FIRST_PAUSE, ""
    while folder.is_dir():
        began, problem = time.monotonic(), ""
        try:
            with watched.reports() as reports:
                log("following the guest")
                said = ""
                forwarder.adopt()
                # The machine's own ports.
                forwarder.lengthen_queues()
                _follow(reports, watched.events, forwarder)
        except LibvirtGoneError as error:
            problem = str(error)
        # One that answered for a while is probably back soon.
        pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
        _rest(watched.events, pause)
        # Only now: that the machine has ended would explain it.
        if problem != said:
            said = problem
            log(f"libvirt: {problem}")


def main(arguments: list[str]) -> int:
    """The program: one argument, the machine's folder."""
    folder = Path(arguments[0])
    try:
        fields = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        with (folder / _LOCK).open("ab") as lock:
            _take(lock.fileno())
            watched = Watched(str(fields["uri"]), str(fields["machine_id"]))
            target = Target(
                address=str(fields["address"]),
                docker_port=int(fields["docker_port"]),
                ssh_port=int(fields["ssh_port"]),
                netdev=NETDEV,
            )
            forwarder = Forwarder(folder, target, monitor=watched.monitor, lengthen=watched.lengthen_queues, say=log)
            watch(folder, watched, forwarder)
    except MachineEndedError:
        log("the machine has ended")
        return 0
    except (PymachineError, OSError, ValueError, KeyError) as error:
        log(f"ended by an error: {error!r}")
        return 1
    return 0


def _follow(reports: Stream, events: EventQueue, forwarder: Forwarder) -> NoReturn:
    """Keep the forwards right until libvirt's connection ends, or the stream does. Raises `LibvirtGoneError` then."""
    # What an earlier connection left behind goes if the guest has nothing to report any more.
    silence: Deadline | None = Deadline(_SILENCE_SECONDS)
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while True:
            selector.select(RETRY_SECONDS if forwarder.wants_retry or silence else None)
            if events.check():
                forwarder.clear()
            if _take_reports(reports, forwarder):
                silence = None
            elif silence and silence.expired:
                forwarder.clear()
                silence = None
            forwarder.retry()


def _take_reports(reports: Stream, forwarder: Forwarder) -> bool:
    """Take what the guest has sent; return whether a report was completed. Raises `LibvirtGoneError` at the end."""
    came = bytearray()
    while (data := reports.read()) is not None:
        came += data
        if not data:
            raise LibvirtGoneError("the guest's reports ended")
        # libvirt keeps in memory what is not read, as much as the guest sends.
        if len(came) > _MOST_BYTES:
            raise LibvirtGoneError("the guest sends too much")
    if not came:
        return False
    is_report = forwarder.hear(bytes(came))
    # A guest that reports without end does not take a processor of the host; the newest report counts.
    time.sleep(_PAUSE_SECONDS)
    return is_report


def _rest(events: EventQueue, seconds: float) -> None:
    """Wait, but notice the domain's end at once (`MachineEndedError`)."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                # A connection that ended is made again afterwards in any case.
                with contextlib.suppress(LibvirtGoneError):
                    events.check()


def _take(handle: int) -> None:
    """Hold the lock of this machine's forwarder; an earlier one may need a moment to end. Raises OSError."""
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The port forwarder: forwards the guest's open ports to where QEMU listens for the machine.

Each machine in user networking has one small process, which starts with the machine and ends with its domain: ``python
-m pymachine_driver_libvirt.ports MACHINE_FOLDER``. It reads the guest's reports through a libvirt stream, and changes
the forwarded ports through QEMU's monitor. Its log is ``ports.log`` in the machine's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
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
from pymachine.driver.kit.system import files, os_errors, wait
from pymachine_driver_libvirt import connection as libvirts, guest, state
from pymachine_driver_libvirt.connection import Connection, Domain
from pymachine_driver_libvirt.domain import NETDEV, Forwards
from pymachine_driver_libvirt.guest import Stream

LOG = "ports.log"
SETTINGS = "ports.json"
_LOCK = "ports.lock"
# If a guest sends more at one time, its stream is closed for a while.
_MOST_BYTES = 4 * 1024 * 1024
_PAUSE_SECONDS = 0.02
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# Time for an earlier forwarder to notice that its domain has ended.
_LOCK_SECONDS = 15.0


class MachineEndedError(Exception):
    """The domain has ended, so its forwarder must end too."""


class LibvirtGoneError(Exception):
    """The connection to libvirt ended."""


def start(folder: Path, *, uri: str, machine_id: str, forwards: Forwards) -> None:
    """Start a forwarder in the background, which ends with the machine's domain.

    `forwards` says where QEMU listens. Raises `DriverError` if the forwarder cannot start.
    """
    fields = {"uri": uri, "machine_id": machine_id, **dataclasses.asdict(forwards)}
    try:
        (folder / forwarded_ports.FILE).unlink(missing_ok=True)
        (folder / SETTINGS).write_text(json.dumps(fields), encoding="utf-8")
        with (folder / LOG).open("ab") as output:
            # -P: do not search the working directory for modules.
            argv = [sys.executable, "-P", "-m", "pymachine_driver_libvirt.ports", str(folder)]
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
    except OSError as error:
        raise os_errors.wrapped(DriverError, "cannot start the port forwarder", error) from error
    # Prevent the warning about a child that was not waited for: the forwarder runs as long as the domain.
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
        """Return the descriptor of the socket, for a selector."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the socket readable."""
        with contextlib.suppress(BlockingIOError):  # the socket is full, hence readable
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
        """Raise the error of a reported end; return whether the guest has restarted since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        ends, self._ends = self._ends, []
        if ends:
            # The end of the machine comes first: it may have caused the end of the connection.
            raise next((each for each in ends if isinstance(each, MachineEndedError)), ends[0])
        restarted, self._restarted = self._restarted, False
        return restarted


class Watched:
    """The machine's domain, through a connection that may have to be opened again."""

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
            reply = libvirt_qemu.qemuMonitorCommand(
                self._domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            )
        except libvirt.libvirtError as error:
            raise LibvirtGoneError(libvirts.message(error)) from error
        return str(reply).strip()

    def lengthen_queues(self) -> None:
        """Lengthen QEMU's listen queues (see `listen_queues.lengthen`), if QEMU runs on this host."""
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
    """Return the QEMU processes of the domain with that UUID on this host; none if it runs on another host."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # the process has ended
            continue
        if b"-uuid" in arguments and machine_id.encode() in arguments:
            found.append(int(entry.name))
    return found


def watch(folder: Path, watched: Watched, forwarder: Forwarder) -> None:
    """Follow the machine in `folder` until its domain ends (`MachineEndedError`), or the folder is gone."""
    pause, logged = wait.GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE), ""
    while folder.is_dir():
        began, problem = time.monotonic(), ""
        try:
            with watched.reports() as reports:
                log("following the guest")
                logged = ""
                forwarder.adopt()
                # The queues of the machine's own ports exist already.
                forwarder.lengthen_queues()
                _follow(reports, watched.events, forwarder)
        except LibvirtGoneError as error:
            problem = str(error)
        _wait(watched.events, pause.after(time.monotonic() - began))
        # Log only now: if the machine has ended, `_wait` raises, and that explains the problem.
        if problem != logged:
            logged = problem
            log(f"libvirt: {problem}")


def main(arguments: list[str]) -> int:
    """Run the program, whose argument is the machine's folder."""
    folder = Path(arguments[0])
    try:
        fields = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        with (folder / _LOCK).open("ab") as lock:
            _lock(lock.fileno())
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
    """Update the forwarded ports until the connection or the stream ends, and raise `LibvirtGoneError` then."""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while True:
            selector.select(RETRY_SECONDS if forwarder.wants_retry else None)
            if events.check():
                forwarder.clear()
            _take_reports(reports, forwarder)
            forwarder.retry()


def _take_reports(reports: Stream, forwarder: Forwarder) -> None:
    """Process new reports. Raises `LibvirtGoneError` at the stream's end."""
    received = bytearray()
    while (data := reports.read()) is not None:
        received += data
        if not data:
            raise LibvirtGoneError("the guest's reports ended")
        # libvirt keeps unread data in memory, without a limit.
        if len(received) > _MOST_BYTES:
            raise LibvirtGoneError("the guest sends too much")
    if received:
        forwarder.hear(bytes(received))
        # A guest that reports without end must not occupy a CPU of the host.
        time.sleep(_PAUSE_SECONDS)


def _wait(events: EventQueue, seconds: float) -> None:
    """Wait for `seconds`, but raise `MachineEndedError` as soon as the domain ends."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                # The connection is opened again afterwards in any case.
                with contextlib.suppress(LibvirtGoneError):
                    events.check()


def _lock(handle: int) -> None:
    """Lock this machine's forwarder; wait up to 15 seconds for an earlier one to end. Raises BlockingIOError."""
    end = time.monotonic() + _LOCK_SECONDS
    while files.try_lock(handle) is False:
        if time.monotonic() > end:
            raise BlockingIOError(errno.EAGAIN, "an earlier port forwarder still runs")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

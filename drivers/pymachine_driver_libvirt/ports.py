"""The port watcher: makes the ports that containers publish appear where QEMU listens for the machine.

One small process a machine in user networking, started with it and ending with its domain: ``python -m
pymachine_driver_libvirt.ports MACHINE_FOLDER``. It follows the engine's events over mutual TLS, and has libvirt tell
QEMU's monitor which ports to forward. What it does is logged in ``ports.log`` in the machine's folder.
"""

from __future__ import annotations

import fcntl
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymachine import backlog, os_errors, published
from pymachine.engine_events import Engine, EngineGoneError, Target
from pymachine.errors import DriverError, PymachineError
from pymachine.published import Forwards
from pymachine_driver_libvirt import connection as libvirts, state
from pymachine_driver_libvirt.connection import Connection, Domain
from pymachine_driver_libvirt.domain import NETDEV

LOG = "ports.log"
SETTINGS = "ports.json"
_LOCK = "ports.lock"
# A port that another program has may become free.
_RETRY_SECONDS = 2.0
_LARGEST_LOG = 1024 * 1024
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# How long an earlier watcher may take to notice that its domain has ended.
_LOCK_SECONDS = 15.0


class MachineEndedError(Exception):
    """The domain has ended, and so does its watcher."""


class LibvirtGoneError(Exception):
    """The connection to libvirt ended."""


def start(folder: Path, *, uri: str, machine_id: str, target: Target, listen: str) -> None:
    """Start a watcher that outlives us and ends with the machine's domain. Raises `DriverError` if it cannot start.

    `listen` is the address that QEMU listens on.
    """
    fields = {
        "uri": uri,
        "machine_id": machine_id,
        "address": target.address,
        "docker_port": target.docker_port,
        "listen": listen,
    }
    try:
        (folder / published.FILE).unlink(missing_ok=True)
        (folder / SETTINGS).write_text(json.dumps(fields), encoding="utf-8")
        log = folder / LOG
        if log.exists() and log.stat().st_size > _LARGEST_LOG:
            log.unlink()
        with log.open("ab") as output:
            # -P: the working folder is not to be searched for modules.
            argv = [sys.executable, "-P", "-m", "pymachine_driver_libvirt.ports", str(folder)]
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
    except OSError as error:
        raise os_errors.wrapped(DriverError, "cannot start the port watcher", error) from error
    # It is no child to wait for: it ends when the domain does.
    process.returncode = 0


class News:
    """What libvirt tells while nobody asks: a socket that becomes readable, and what has happened."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._happened: list[Exception] = []

    def fileno(self) -> int:
        """For a selector."""
        return self._reader.fileno()

    def tell(self, what: Exception) -> None:
        """Called from the thread of libvirt's events."""
        self._happened.append(what)
        self._writer.send(b"!")

    def check(self) -> None:
        """Raise what has happened, if anything has."""
        if self._happened:
            self._reader.recv(4096)
            happened, self._happened = self._happened, []
            # The end of the machine says more than that of a connection, which it may have brought about.
            raise next((each for each in happened if isinstance(each, MachineEndedError)), happened[0])


class Watched:
    """The machine's domain, through a connection that may have to be made again."""

    def __init__(self, uri: str, machine_id: str) -> None:
        self._uri = uri
        self._machine_id = machine_id
        self._domain: Domain | None = None
        self._number = -1
        self._refusal = ""
        self.news = News()

    def connect(self) -> None:
        """Find the domain. Raises `MachineEndedError` if it does not run any more, `LibvirtGoneError`."""
        libvirt = libvirts.library()
        try:
            connection = libvirts.connect(self._uri)
            domain = state.find(connection, self._machine_id)
            number = domain.ID() if domain is not None and domain.isActive() else -1
            if number < 0 or (self._number >= 0 and number != self._number):
                raise MachineEndedError
            self._listen(connection, domain)
        except (PymachineError, libvirt.libvirtError) as error:
            raise LibvirtGoneError(str(error)) from error
        self._domain, self._number = domain, number

    def monitor(self, line: str) -> str:
        """Run a command of QEMU's monitor. Raises `LibvirtGoneError`."""
        import libvirt_qemu  # noqa: PLC0415 (a part of libvirt-python)

        libvirt = libvirts.library()
        try:
            said = libvirt_qemu.qemuMonitorCommand(self._domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        except libvirt.libvirtError as error:
            raise LibvirtGoneError(libvirts.message(error)) from error
        return str(said).strip()

    def lengthen_queues(self, say: Callable[[str], None]) -> None:
        """Let many clients connect at once, where QEMU runs on this host and the host allows that; see `backlog`."""
        try:
            for pid in _pids(self._machine_id):
                backlog.lengthen(pid)
        except backlog.BacklogError as error:
            if str(error) != self._refusal:
                say(f"cannot lengthen the queues of the ports: {error}")
                self._refusal = str(error)

    def _listen(self, connection: Connection, domain: Domain) -> None:
        libvirt = libvirts.library()

        def lifecycle(connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:  # noqa: ARG001
            if event in {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED}:
                self.news.tell(MachineEndedError())

        def rebooted(connection: Any, domain: Any, opaque: Any) -> None:  # noqa: ARG001
            # The user network in QEMU would keep a dead guest's connections open for good.
            self.news.tell(EngineGoneError("the guest restarts"))

        def closed(connection: Any, reason: int, opaque: Any) -> None:  # noqa: ARG001
            self.news.tell(LibvirtGoneError("the connection to libvirt ended"))

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


def watch(folder: Path, *, watched: Watched, target: Target, listen: str, say: Callable[[str], None]) -> None:
    """Follow the machine in `folder` until its domain ends, or the folder is gone."""
    forwards = Forwards(watched.monitor, netdev=NETDEV, address=listen, say=say)
    pause, connected = _FIRST_PAUSE, False

    def note() -> None:
        published.save(folder, listen, forwards)
        watched.lengthen_queues(say)

    while folder.is_dir():
        began = time.monotonic()
        try:
            if not connected:
                watched.connect()
                connected = True
                # The machine's own ports. Without a QEMU on this host there is nothing to do.
                watched.lengthen_queues(say)
            engine = Engine(folder, target)
            say("following the engine")
            _follow(engine, watched.news, forwards, note=note)
        except EngineGoneError as error:
            say(f"engine: {error}")
        except LibvirtGoneError as error:
            say(f"libvirt: {error}")
            connected = False
        # One that answered for a while is probably back soon.
        pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
        if not _rest(watched.news, pause, say):
            connected = False


def main(arguments: list[str]) -> int:
    """The program: one argument, the machine's folder."""
    folder = Path(arguments[0])
    try:
        fields = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        with (folder / _LOCK).open("ab") as lock:
            _take(lock.fileno())
            watched = Watched(str(fields["uri"]), str(fields["machine_id"]))
            target = Target(str(fields["address"]), int(fields["docker_port"]))
            watch(folder, watched=watched, target=target, listen=str(fields["listen"]), say=_log)
    except MachineEndedError:
        _log("the machine has ended")
        return 0
    except (PymachineError, OSError, ValueError, KeyError) as error:
        _log(f"ended by an error: {error!r}")
        return 1
    return 0


def _follow(engine: Engine, news: News, forwards: Forwards, *, note: Callable[[], None]) -> None:
    """Keep the forwards right until the engine's connection ends, or libvirt has news."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(news, selectors.EVENT_READ)
            selector.register(engine, selectors.EVENT_READ)
            # After subscribing, so that nothing falls between.
            forwards.follow(engine.ports())
            while True:
                note()
                ready = selector.select(_RETRY_SECONDS if forwards.refused else None)
                news.check()
                if engine.something_happened():
                    forwards.follow(engine.ports())
                elif not ready:
                    forwards.retry()
    finally:
        engine.close()


def _rest(news: News, seconds: float, say: Callable[[str], None]) -> bool:
    """Wait, but notice the domain's end at once (`MachineEndedError`); False if the connection to libvirt ended."""
    end = time.monotonic() + seconds
    connected = True
    with selectors.DefaultSelector() as selector:
        selector.register(news, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                try:
                    news.check()
                except LibvirtGoneError as error:
                    say(f"libvirt: {error}")
                    connected = False
                except EngineGoneError as error:
                    say(f"engine: {error}")
    return connected


def _take(handle: int) -> None:
    """Hold the lock of this machine's watcher; an earlier one may need a moment to end. Raises OSError."""
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


def _log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

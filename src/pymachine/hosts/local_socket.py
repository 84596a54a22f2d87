"""A machine's local socket: a unix socket that reaches its engine over SSH, for programs without TLS.

A process for each machine with a socket keeps it connected: see `pymachine.hosts.socket_keeper`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pymachine.driver.contract import Driver, State, Trait
from pymachine.errors import HostNotRunningError, PymachineError, TimeoutExpiredError, UnsupportedError
from pymachine.hosts import container_proxies, context_updates, origins
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.timeouts import boot_timeout
from pymachine.ssh.local_socket import place, status
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError
from pymachine.ssh.local_socket.status import SocketState
from pymachine.store import paths
from pymachine.store.origins import MODIFY, Origin
from pymachine.system import run
from pymachine.system.wait import until


def check(driver: Driver | type[Driver]) -> None:
    """Raise `UnsupportedError` or `LocalSocketError` if the driver's machines cannot have a local socket here."""
    if Trait.NO_SSH in driver.info.traits:
        raise UnsupportedError(f"{driver.info.name} driver does not support SSH, which a local socket needs")
    if sys.platform == "win32":
        raise LocalSocketError("Windows has no local sockets that OpenSSH could forward")
    if run.which("ssh") is None:
        raise LocalSocketError(
            "a local socket needs OpenSSH's client, ssh, which is not installed",
            hint="Install it, for example: apt-get install openssh-client",
        )


def ensure(hosts: Hosts, name: str) -> Path:
    """Return the path of the socket of the running machine `name`, which is made if it is missing.

    The machine has a socket from now on. Raises `HostNotRunningError`, `UnsupportedError` or `LocalSocketError`.
    """
    host = hosts.open(name)
    check(host.driver)
    found = find(host)
    if found is not None:
        return found
    with locked(hosts, name) as host:
        if host.state() is not State.RUNNING:
            raise HostNotRunningError(name=name)
        return turn_on(host)


def find(host: Host) -> Path | None:
    """Return the path of the machine's socket if it is connected now."""
    known = status.load(host.directory)
    if not host.record.socket or known is None or known.pid != KEEPER.find(host.directory):
        return None
    path = place.path(host.directory)
    return path if known.state is SocketState.CONNECTED and os.path.lexists(path) else None


def problem(host: Host) -> str:
    """Return why the machine's socket is not connected now.

    The text is empty if it is connected, if the machine has none, and if the machine is stopped. Raises
    `PymachineError` if the machine's state cannot be read.
    """
    if not host.record.socket or find(host) is not None:
        return ""
    process = KEEPER.find(host.directory)
    if not process:
        return "the process that connects it is not running" if host.state() is State.RUNNING else ""
    known = status.load(host.directory)
    why = known.problem if known is not None and known.pid == process else ""
    return why or "the machine has not answered yet"


def turn_on(host: Host) -> Path:
    """Give a running machine a socket, and return its path. If that fails, the record is as before.

    Raises `LocalSocketError`.
    """
    had_one = host.record.socket
    host.record.socket = True
    host.save()
    try:
        path = connect(host)
    except BaseException:
        if not had_one:
            host.record.socket = False
            host.save()
            with suppress(PymachineError):  # it ends when it reads the record
                end(host.directory)
        raise
    if not had_one:
        host.record.origins[origins.SOCKET] = Origin(MODIFY)
        host.save()
        container_proxies.refresh(host)
    return path


def turn_off(host: Host) -> None:
    """Remove the machine's socket for good. Its docker context uses TLS again. Raises `LocalSocketError`."""
    host.record.socket = host.record.context_socket = False
    host.save()
    end(host.directory)
    context_updates.refresh(host)
    container_proxies.refresh(host)


def follow_record(host: Host) -> None:
    """Connect the socket of a running machine if its record says that it has one; end it if not.

    If that fails for a machine with our image, only warn: its engine works. Raises `LocalSocketError` for an existing
    host.
    """
    if not host.record.socket:
        end(host.directory)
        return
    try:
        check(host.driver)
        connect(host)
    except (LocalSocketError, UnsupportedError) as error:
        if not host.has(Trait.IDENTITY):
            raise
        host.reporter.warn(f"{error.brief}. {error.hint}".strip())


def connect(host: Host) -> Path:
    """Start the process that connects the socket, unless it runs. Return the socket's path once it is connected.

    Raises `LocalSocketError` if the machine refuses, or does not connect it within the time of a boot. The process goes
    on trying.
    """
    tried = _attempts(host.directory)
    process: subprocess.Popen[bytes] | None = None
    KEEPER.retry(host.directory)
    problem = ""

    def is_connected() -> bool:
        nonlocal process, problem, tried
        if process is None and not KEEPER.find(host.directory):  # one that was killed may still have run at first
            host.reporter.info("Connecting the local socket...")
            process = _start(host)
            tried = 0
        if process is not None and process.poll() is not None:
            raise _error(host, "the process that connects it has ended")
        known = status.load(host.directory)
        if known is None or known.pid != KEEPER.find(host.directory):
            return False
        problem = known.problem
        if known.state is SocketState.REFUSED and known.attempts > tried:
            raise _error(host, problem)
        return find(host) is not None

    try:
        until(is_connected, deadline=boot_timeout(), what="connect", interval=0.02, longest=0.2)
    except TimeoutExpiredError as error:
        raise _error(host, problem or "the machine does not answer over SSH") from error
    finally:
        if process is not None:
            # Prevent the warning about a child that was not waited for: the process runs on.
            process.returncode = process.returncode or 0
    return place.path(host.directory)


def end(folder: Path) -> bool:
    """End the process that connects the socket of the machine in `folder`, and remove the socket.

    Return whether a process ran. Raises `LocalSocketError` if it does not end.
    """
    if not (folder / paths.SOCKET_LOCK).exists():
        return False
    ran = KEEPER.end(folder)
    with suppress(OSError):  # the process has removed it, unless it was killed
        place.remove(place.path(folder))
    return ran


@contextmanager
def closed(host: Host) -> Iterator[None]:
    """Close the socket for a block that stops the machine. If it fails, the socket is connected again."""
    ran = end(host.directory)
    try:
        yield
    except BaseException:
        if ran and not KEEPER.find(host.directory):
            _start(host).returncode = 0  # it runs on
        raise


def _attempts(folder: Path) -> int:
    known = status.load(folder)
    return known.attempts if known else 0


def _start(host: Host) -> subprocess.Popen[bytes]:
    # -P: do not search the working directory for modules.
    argv = [sys.executable, "-P", "-m", "pymachine.hosts.socket_keeper", str(host.store.root), host.name]
    return KEEPER.start(host.directory, argv)


def _error(host: Host, why: str) -> LocalSocketError:
    return LocalSocketError(
        f'the local socket of "{host.name}" cannot be connected: {why}',
        hint=f"The log is {host.directory / paths.SOCKET_LOG}. To try again: pymachine socket {shlex.quote(host.name)}",
    )

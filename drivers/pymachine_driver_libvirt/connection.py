"""Connections to libvirt. Only this module imports libvirt's library and converts its errors."""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

from pymachine.driver.errors import DriverError
from pymachine.driver.kit.system import Deadline
from pymachine_driver_libvirt import hosts

# libvirt-python has no type stubs.
Connection: TypeAlias = Any
Domain: TypeAlias = Any

# If the host is off, SSH alone would wait for two minutes.
CONNECT_SECONDS = 20.0
_PULSE_SECONDS = 0.2
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 4
# libvirt's message if no daemon listens at its socket.
_NO_DAEMON = ("Failed to connect socket", "No such file or directory")


class LibvirtError(DriverError):
    """A call of libvirt failed."""

    code = "libvirt"


class LibvirtMissingError(LibvirtError):
    """libvirt's Python library is not installed."""

    code = "libvirt-missing"


class ConnectError(LibvirtError):
    """No libvirt answers at the URI, or it refuses the connection."""

    code = "libvirt-connect"


@functools.cache
def library() -> Any:
    """Import and return the module ``libvirt``. Raises `LibvirtMissingError`."""
    try:
        import libvirt  # noqa: PLC0415 (an extra, and 30 ms)
    except ImportError as error:
        raise LibvirtMissingError(
            f"the Python library for libvirt cannot be loaded: {error}",
            hint="Add the package libvirt-python to pymachine's Python environment. It needs a C compiler, pkg-config "
            "and libvirt's headers; on Debian: apt-get install gcc pkg-config libvirt-dev python3-dev.",
        ) from error
    # Otherwise libvirt writes each error to stderr too.
    libvirt.registerErrorHandler(lambda context, error: None, None)  # noqa: ARG005
    # A connection opened before this has no events. The thread must always run, or a lost network goes unnoticed.
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(libvirt,), daemon=True).start()
    return libvirt


def _run_events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


@contextlib.contextmanager
def wrap_errors(what: str) -> Iterator[None]:
    """Convert libvirt's errors in the block into a `LibvirtError` whose message begins with `what`."""
    libvirt = library()
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"{what}: {message(error)}") from error


def message(error: Exception) -> str:
    """Return the error's message on one line."""
    return " ".join(str(error).split())


def is_error(error: Exception, *names: str) -> bool:
    """Return whether a ``libvirtError`` has one of the codes ``VIR_ERR_<name>``."""
    libvirt = library()
    code = error.get_error_code() if isinstance(error, libvirt.libvirtError) else None
    return code in {getattr(libvirt, f"VIR_ERR_{name}") for name in names}


class _Pool:
    """One connection per URI, shared by all machines and threads of this process (`ls` queries many at once)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._open: dict[str, Connection] = {}

    def get(self, uri: str, seconds: float) -> Connection:
        with self._lock:
            uri_lock = self._locks.setdefault(uri, threading.Lock())
        with uri_lock:
            connection = self._open.get(uri)
            if connection is None or not _alive(connection):
                connection = self._open[uri] = _open(uri, seconds)
            return connection

    def forget(self) -> None:
        """Drop the connections at exit without closing them: that would wait for hosts that may be off by now."""
        for connection in self._open.values():
            connection._o = None  # noqa: SLF001 (its destructor would close this; sockets end with the process)


_pool = _Pool()
atexit.register(_pool.forget)


def connect(uri: str, *, timeout: float = CONNECT_SECONDS) -> Connection:
    """Return a connection to the libvirt at `uri`. Raises `ConnectError`, `LibvirtMissingError`."""
    library()
    return _pool.get(uri, timeout)


def _alive(connection: Connection) -> bool:
    """Query the daemon: ``isAlive`` does not notice a restart of the daemon while no events were processed."""
    try:
        return bool(connection.getLibVersion())
    except library().libvirtError:
        return False


def _open(uri: str, seconds: float) -> Connection:
    """Open a connection in a thread, since SSH to a host that is off has no other timeout."""
    libvirt = library()
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(libvirt.open(uri))
        except libvirt.libvirtError as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise ConnectError(f"no answer from libvirt at {uri} within {seconds:g} seconds", hint=hint(uri, ""))
    if isinstance(outcome[0], libvirt.libvirtError):
        problem = message(outcome[0])
        raise ConnectError(f"cannot connect to libvirt at {uri}: {problem}", hint=hint(uri, problem)) from outcome[0]
    if not hosts.is_local(uri):
        # So that calls fail if the network is lost, instead of waiting for it.
        outcome[0].setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
    return outcome[0]


def hint(uri: str, problem: str) -> str:
    """Return the hint for a connection that failed with libvirt's message `problem`."""
    if not hosts.is_local(uri):
        return f"Check that the host is up and accepts your login: virsh -c '{uri}' version"
    if "polkit" in problem.lower() or "authentication" in problem.lower() or "Permission denied" in problem:
        return "Join the group that may use libvirt, and log in again: sudo usermod -aG libvirt $USER"
    if hosts.is_session(uri) or not all(part in problem for part in _NO_DAEMON):
        return f"Try libvirt's own client: virsh -c '{uri}' version"
    return (
        "libvirt's daemon does not run on this host. On Debian: apt-get install libvirt-daemon-system, then systemctl "
        "start libvirtd. For your own libvirt, without root: --libvirt-uri qemu:///session."
    )


class Waker:
    """Wake a thread that waits for libvirt's events."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._event.set()

    def wait(self, deadline: Deadline) -> bool:
        """Wait until `wake` is called, or for 0.2 seconds; return False once the deadline has passed."""
        self._event.wait(deadline.remaining(at_most=_PULSE_SECONDS))
        self._event.clear()
        return not deadline.expired

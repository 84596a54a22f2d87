"""The way to libvirt: the one place that imports its library, opens connections and turns its errors into ours."""

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

# A host that is off lets SSH wait for two minutes.
CONNECT_SECONDS = 20.0
_PULSE_SECONDS = 0.2
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 4
# "/var/run/libvirt/libvirt-sock": what the daemon's absence looks like.
_NO_DAEMON = ("Failed to connect socket", "No such file or directory")


class LibvirtError(DriverError):
    """libvirt did not do as it was told."""

    code = "libvirt"


class LibvirtMissingError(LibvirtError):
    """The library for Python is not installed."""

    code = "libvirt-missing"


class ConnectError(LibvirtError):
    """There is no libvirt at that URI, or it does not let us in."""

    code = "libvirt-connect"


@functools.cache
def library() -> Any:
    """The module ``libvirt``. Raises `LibvirtMissingError`."""
    try:
        import libvirt  # noqa: PLC0415 (an extra, and 30 ms)
    except ImportError as error:
        raise LibvirtMissingError(
            f"the Python library for libvirt cannot be loaded: {error}",
            hint="Install it: pip install 'pymachine[libvirt]' (it is built with a C compiler, pkg-config and "
            "libvirt's headers; on Debian: apt-get install gcc pkg-config libvirt-dev python3-dev).",
        ) from error
    # Otherwise each error is written to stderr too.
    libvirt.registerErrorHandler(lambda context, error: None, None)  # noqa: ARG005
    # Before the first connection, or it has no events; and all the time, or nobody notices a network that is gone.
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(libvirt,), daemon=True).start()
    return libvirt


def _run_events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn an error of libvirt's in the block into a `LibvirtError` that begins with `what`."""
    libvirt = library()
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"{what}: {message(error)}") from error


def message(error: Exception) -> str:
    """libvirt's own words, on one line."""
    return " ".join(str(error).split())


def is_error(error: Exception, *names: str) -> bool:
    """Whether a ``libvirtError`` has one of the codes ``VIR_ERR_<name>``."""
    libvirt = library()
    code = error.get_error_code() if isinstance(error, libvirt.libvirtError) else None
    return code in {getattr(libvirt, f"VIR_ERR_{name}") for name in names}


class _Pool:
    """One connection a URI, shared by all machines and threads of this process (`ls` asks many at once)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._open: dict[str, Connection] = {}

    def get(self, uri: str, seconds: float) -> Connection:
        with self._lock:
            own = self._locks.setdefault(uri, threading.Lock())
        with own:
            connection = self._open.get(uri)
            if connection is None or not _alive(connection):
                connection = self._open[uri] = _open(uri, seconds)
            return connection

    def forget(self) -> None:
        """At the end of the process: closing would wait for an answer, of a host that may be off by now."""
        for connection in self._open.values():
            connection._o = None  # noqa: SLF001 (what its destructor would close; sockets end with the process)


_pool = _Pool()
atexit.register(_pool.forget)


def connect(uri: str, *, timeout: float = CONNECT_SECONDS) -> Connection:
    """A connection to the libvirt at `uri`. Raises `ConnectError`, `LibvirtMissingError`."""
    library()
    return _pool.get(uri, timeout)


def _alive(connection: Connection) -> bool:
    """By asking: ``isAlive`` knows nothing of a daemon that was restarted while no events were waited for."""
    try:
        return bool(connection.getLibVersion())
    except library().libvirtError:
        return False


def _open(uri: str, seconds: float) -> Connection:
    """Open in a thread of its own: SSH to a host that is off cannot be hurried otherwise."""
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
        said = message(outcome[0])
        raise ConnectError(f"cannot connect to libvirt at {uri}: {said}", hint=hint(uri, said)) from outcome[0]
    if not hosts.is_local(uri):
        # A network that is gone is noticed, instead of waited for.
        outcome[0].setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
    return outcome[0]


def hint(uri: str, said: str) -> str:
    """What to do about a connection that libvirt refused with the words `said`."""
    if not hosts.is_local(uri):
        return f"See whether the host is up and lets you in: virsh -c '{uri}' version"
    if "polkit" in said.lower() or "authentication" in said.lower() or "Permission denied" in said:
        return "Join the group that may use libvirt, and log in again: sudo usermod -aG libvirt $USER"
    if hosts.is_session(uri) or not all(part in said for part in _NO_DAEMON):
        return f"See what it says to libvirt's own client: virsh -c '{uri}' version"
    return (
        "libvirt's daemon does not run here. On Debian: apt-get install libvirt-daemon-system, then systemctl start "
        "libvirtd. For a libvirt of your own, without root: --libvirt-uri qemu:///session."
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

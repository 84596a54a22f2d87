"""Communication with the guest through libvirt's streams, which reach a domain on any host without a shell there.

The identity is sent through the domain's virtio-serial channel. Meanwhile the console is logged to a file on this
host, to show why a guest does not start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO

from pymachine.driver.kit import identity_channel
from pymachine.driver.kit.identity_channel import GuestTimeoutError, Progress
from pymachine.driver.kit.system import Deadline, Task
from pymachine_driver_libvirt import connection as libvirts, state
from pymachine_driver_libvirt.connection import Connection, Domain, Waker

_CHUNK = 65536
# Returned by a stream that would block.
_LATER = -2
_TAIL = 4000
# The most that is read of the console at a time, in case a guest prints without end.
_CHUNKS_AT_ONCE = 64
_PRESS_SECONDS = 15.0


class Stream:
    """A libvirt stream that never blocks."""

    def __init__(self, connection: Connection, wake: Callable[[], None]) -> None:
        """Create the stream. After `listen`, `wake` is called in another thread when there is data to read."""
        libvirt = libvirts.library()
        self._stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._wake = wake
        self._listening = False
        self._events = (
            libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
        )

    @property
    def raw(self) -> Any:
        """libvirt's stream object, to pass to calls that connect it."""
        return self._stream

    def listen(self) -> None:
        """Call `wake` on new data from now on. The stream must be connected."""
        self._listening = True
        self._stream.eventAddCallback(self._events, self._happened, None)

    def read(self) -> bytes | None:
        """Return new data, None if there is none, or b"" at the end.

        Read until None, or `wake` is not called again.
        """
        data = self._stream.recv(_CHUNK)
        if data != _LATER:
            return bytes(data)
        if self._listening:
            self._stream.eventUpdateCallback(self._events)
        return None

    def write(self, data: memoryview) -> int:
        """Send as much of `data` as possible without waiting; return the number of bytes."""
        return max(0, int(self._stream.send(bytes(data[:_CHUNK]))))

    def close(self) -> None:
        """End the stream, in any state."""
        with contextlib.suppress(libvirts.library().libvirtError):
            if self._listening:
                self._listening = False
                self._stream.eventRemoveCallback()
            self._stream.abort()

    def _happened(self, stream: Any, events: int, opaque: Any) -> None:  # noqa: ARG002
        # Stop the events, or libvirt repeats them until the data is read. This fails if the stream was just closed.
        with contextlib.suppress(libvirts.library().libvirtError):
            stream.eventUpdateCallback(0)
        self._wake()


@contextlib.contextmanager
def opened(connection: Connection, wake: Callable[[], None]) -> Iterator[Stream]:
    """Open a stream, and close it afterwards."""
    stream = Stream(connection, wake)
    try:
        yield stream
    finally:
        stream.close()


def deliver(
    connection: Connection,
    domain: Domain,
    tar: bytes,
    *,
    console: Path,
    deadline: Deadline,
    task: Task,
    timings: MutableMapping[str, float],
    resumed: bool = False,
) -> None:
    """Send the identity and wait until the guest reports that it is up with it.

    A guest that is `resumed`, or runs already, does not report the stages of its engine, which is up already.

    Each stage is noted in `task` and `timings`. Raises `GuestError` if the guest reports an error or its domain ends,
    and `GuestTimeoutError` at the `deadline`.
    """
    libvirt = libvirts.library()
    waker = Waker()
    progress = Progress(identity_channel.digest(tar), stages=() if resumed else identity_channel.ENGINE_STAGES)
    try:
        with (
            opened(connection, waker.wake) as port,
            opened(connection, waker.wake) as screen,
            console.open("ab") as log,
        ):
            try:
                domain.openChannel(identity_channel.PORT, port.raw, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
                domain.openConsole(None, screen.raw, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
                port.listen()
                screen.listen()
            except libvirt.libvirtError as error:
                what = libvirts.message(error)
                if state.has_ended(domain):
                    raise identity_channel.ended(progress, details=what) from error
                raise libvirts.LibvirtError(f"cannot open the machine's identity channel: {what}") from error
            _exchange(
                port, _Log(screen, log), waker, progress, identity_channel.message(tar, now=time.time()), deadline, task
            )
    finally:
        timings.update(progress.durations())


def _exchange(
    port: Stream, log: _Log, waker: Waker, progress: Progress, outgoing: bytes, deadline: Deadline, task: Task
) -> None:
    unsent = memoryview(outgoing)
    while True:
        log.follow()
        try:
            if unsent:
                unsent = unsent[port.write(unsent) :]
            while (data := port.read()) is not None:
                if not data:
                    raise identity_channel.ended(progress)
                if progress.feed(data):
                    unsent = memoryview(outgoing)
                task.note(f"({progress.last_stage})")
                if deadline.expired:  # a guest that sends without end
                    raise GuestTimeoutError(identity_channel.too_late(progress, deadline))
        except libvirts.library().libvirtError as error:
            raise identity_channel.ended(progress, details=libvirts.message(error)) from error
        if progress.is_up:
            return
        if not waker.wait(deadline):
            raise GuestTimeoutError(identity_channel.too_late(progress, deadline))


class _Log:
    """Logs the console to a file, until `virsh console --force` takes the console over."""

    def __init__(self, screen: Stream, file: BinaryIO) -> None:
        self._screen: Stream | None = screen
        self._file = file

    def follow(self) -> None:
        """Write new console output, up to `_CHUNKS_AT_ONCE` chunks."""
        if self._screen is None:
            return
        data: bytes | None = None
        try:
            for _ in range(_CHUNKS_AT_ONCE):
                data = self._screen.read()
                if not data:
                    break
                self._file.write(data)
                self._file.flush()
        except libvirts.library().libvirtError:
            data = b""
        if data == b"":
            # An ended stream would keep calling `wake`.
            self._screen.close()
            self._screen = None


def power_down(connection: Connection, domain: Domain, deadline: Deadline) -> bool:
    """Press the power button and wait for the domain's end; return whether it ended before the deadline."""
    libvirt = libvirts.library()
    waker = Waker()
    ended: list[int] = []

    def happened(connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:  # noqa: ARG001
        if event in {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED}:
            ended.append(event)
            waker.wake()

    with libvirts.wrap_errors("cannot shut the machine down"):
        watch = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, happened, None)
        try:
            again = 0.0
            while not ended:
                # A guest that is still booting misses the first press.
                if time.monotonic() >= again:
                    if not state.is_active(domain):
                        return True
                    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    again = time.monotonic() + _PRESS_SECONDS
                if not waker.wait(deadline):
                    break
        finally:
            connection.domainEventDeregisterAny(watch)
    return len(ended) > 0


def tail(path: Path) -> str:
    """Return the last 20 lines of a log file, or "" if there is none."""
    try:
        text = path.read_bytes()[-_TAIL:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.replace("\r", "").splitlines()[-20:])

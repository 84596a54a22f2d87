"""The guest's end of things, through libvirt's streams, which reach a domain on any host without a shell there.

The identity goes through the domain's virtio-serial channel; the console is written to a file here meanwhile, so that a
guest that does not come up leaves its last words.
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
# What a stream answers when it would have to wait.
_LATER = -2
_TAIL = 4000
# So much of the console is taken at a time, so that a guest that prints without end does not keep us from the rest.
_CHUNKS_AT_ONCE = 64
_PRESS_SECONDS = 15.0


class Stream:
    """A stream of libvirt's that never waits."""

    def __init__(self, connection: Connection, wake: Callable[[], None]) -> None:
        """`wake` is called, in another thread, when there is something to read, once `listen` was called."""
        libvirt = libvirts.library()
        self._stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._wake = wake
        self._listening = False
        self._events = (
            libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
        )

    @property
    def raw(self) -> Any:
        """libvirt's object, to be connected to something."""
        return self._stream

    def listen(self) -> None:
        """Call `wake` from now on; the stream must be connected to something."""
        self._listening = True
        self._stream.eventAddCallback(self._events, self._happened, None)

    def read(self) -> bytes | None:
        """What has come, None if nothing has, and empty at the end. Read until None, or `wake` is not called again."""
        data = self._stream.recv(_CHUNK)
        if data != _LATER:
            return bytes(data)
        if self._listening:
            self._stream.eventUpdateCallback(self._events)
        return None

    def write(self, data: memoryview) -> int:
        """Send as much of `data` as goes now; returns how much that was."""
        return max(0, int(self._stream.send(bytes(data[:_CHUNK]))))

    def close(self) -> None:
        """End the stream, whatever state it is in."""
        with contextlib.suppress(libvirts.library().libvirtError):
            if self._listening:
                self._listening = False
                self._stream.eventRemoveCallback()
            self._stream.abort()

    def _happened(self, stream: Any, events: int, opaque: Any) -> None:  # noqa: ARG002
        # libvirt would call again and again until what has come is read. An error: the stream was closed meanwhile.
        with contextlib.suppress(libvirts.library().libvirtError):
            stream.eventUpdateCallback(0)
        self._wake()


@contextlib.contextmanager
def opened(connection: Connection, wake: Callable[[], None]) -> Iterator[Stream]:
    """A stream that is closed afterwards."""
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
    """Send the identity and wait until the guest says that it is up with it.

    `resumed`: it runs, or goes on where it was, so that its engine is up and will not be spoken of.

    Notes each stage in `task` and `timings`. Raises `GuestError` when the guest reports one or its domain ends, and
    `GuestTimeoutError` at the `deadline`.
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
    """Writes down what the console says, for as long as it does (`virsh console --force` takes it over)."""

    def __init__(self, screen: Stream, file: BinaryIO) -> None:
        self._screen: Stream | None = screen
        self._file = file

    def follow(self) -> None:
        """Write what has come, or the first of it."""
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
            # It would wake us for its end again and again.
            self._screen.close()
            self._screen = None


def power_down(connection: Connection, domain: Domain, deadline: Deadline) -> bool:
    """Press the power button and wait for the domain's end; whether it came before the deadline."""
    libvirt = libvirts.library()
    waker = Waker()
    ended: list[int] = []

    def happened(connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:  # noqa: ARG001
        if event in {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED}:
            ended.append(event)
            waker.wake()

    with libvirts.doing("cannot shut the machine down"):
        watch = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, happened, None)
        try:
            again = 0.0
            while not ended:
                # A guest that is still booting does not see the first press.
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
    """The end of a log file; empty if there is none."""
    try:
        text = path.read_bytes()[-_TAIL:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.replace("\r", "").splitlines()[-20:])

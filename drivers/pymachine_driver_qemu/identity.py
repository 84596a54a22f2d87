"""The host's end of the identity channel: a Unix socket of QEMU, connected to a virtio-serial port of the guest.

The protocol is in `pymachine.driver.kit.identity_channel`. QEMU keeps sent data until the guest reads it.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Collection, MutableMapping
from pathlib import Path

from pymachine.driver.kit.identity_channel import (
    SETTLED_STAGES,
    SSH_STAGES,
    GuestError,
    GuestTimeoutError,
    Progress,
    activation_script,
    digest,
    ended,
    forget_message,
    message,
    too_late,
)
from pymachine.driver.kit.system import Deadline, Silent, Task
from pymachine_driver_qemu import monitor, qmp

CONNECT_SECONDS = 5.0
# After this silence, check whether QEMU has paused the guest.
_SILENT_SECONDS = 2.0
_CHUNK = 65536


class PausedByDiskError(GuestError):
    """QEMU has paused the guest, since it cannot write to the machine's disk."""

    code = "qemu-paused-by-disk"


class Channel:
    """A connection to the guest's identity port."""

    def __init__(self, path: Path) -> None:
        """Connect to QEMU's socket at `path`. Raises `qmp.QmpError` if QEMU does not run."""
        self._socket = qmp.connect(path, Deadline(CONNECT_SECONDS))
        self._sockets = path.parent

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def deliver(
        self, tar: bytes, *, deadline: Deadline, task: Task, timings: MutableMapping[str, float]
    ) -> Collection[str]:
        """Send the identity, wait until the guest reports that it is up with it, and return the stages that it reached.

        Each stage is noted in `task` and `timings`. Raises `GuestError` if the guest reports an error or QEMU ends, and
        `GuestTimeoutError` at the `deadline`.
        """
        progress = Progress(digest(tar))
        try:
            self._exchange(progress, message(tar, now=time.time()), deadline, task)
        finally:
            timings.update(progress.durations())
        return progress.stages.keys()

    def send_seed(self, seed: bytes, *, deadline: Deadline, task: Task) -> None:
        """Send the seed, and wait until the guest is idle, ready to be frozen. Raises the errors of `deliver`."""
        outgoing = message(seed, now=time.time(), word="SEED")
        self._exchange(Progress(digest(seed), stages=SETTLED_STAGES), outgoing, deadline, task)

    def forget_identity(self, seed: bytes, *, deadline: Deadline, task: Task) -> None:
        """Make a running guest a template: it forgets its identity, and waits for another, as after `send_seed`.

        `seed` has what its clones share. Raises the errors of `deliver`.
        """
        outgoing = forget_message(seed, now=time.time())
        self._exchange(Progress(digest(seed), stages=SETTLED_STAGES), outgoing, deadline, task)

    def activate_clone(
        self, tar: bytes, *, seed: bytes, wait_for_engine: Callable[[], None], deadline: Deadline, task: Task
    ) -> Collection[str]:
        """Turn a resumed template into the machine whose identity is `tar`, as `deliver` does.

        `wait_for_engine` is called when the engine is about to answer. When this returns, SSH works too.
        """
        progress = Progress(digest(tar), stages=())
        self._exchange(progress, activation_script(tar, seed=seed, now=time.time()), deadline, task)
        wait_for_engine()
        progress.await_one_of(SSH_STAGES)
        self._exchange(progress, b"", deadline, task)
        return progress.stages.keys()

    def sync(self, *, deadline: Deadline) -> None:
        """Make a running guest flush its buffers to its disk. Raises the errors of `deliver`."""
        self._order("sync", deadline)

    def unmount(self, *, deadline: Deadline) -> None:
        """Make a running guest unmount its shared folders. Raises the errors of `deliver`.

        It may have unmounted some if it reports that another one is in use.
        """
        self._order("unmount", deadline)

    def mount(self, *, deadline: Deadline) -> None:
        """Make a running guest mount its shared folders again. Raises the errors of `deliver`."""
        self._order("mount", deadline)

    def _order(self, word: str, deadline: Deadline) -> None:
        with Silent().task("") as task:
            self._exchange(Progress(word, stages=()), f"{word.upper()}\n".encode(), deadline, task)

    def update_identity(self, tar: bytes, *, deadline: Deadline, task: Task) -> None:
        """Send a running machine another identity. Raises the errors of `deliver`."""
        self._exchange(Progress(digest(tar), stages=()), message(tar, now=time.time()), deadline, task)

    def _exchange(self, progress: Progress, outgoing: bytes, deadline: Deadline, task: Task) -> None:
        unsent = memoryview(outgoing)
        self._socket.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while not progress.is_up:
                ready = selector.select(min(deadline.remaining(), _SILENT_SECONDS))
                if deadline.expired:
                    raise GuestTimeoutError(too_late(progress, deadline))
                if not ready:
                    self._check_disk()
                for _, events in ready:
                    if events & selectors.EVENT_READ:
                        if progress.feed(self._receive(progress)):
                            unsent = memoryview(outgoing)
                            selector.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
                        task.note(f"({progress.last_stage})")
                    if events & selectors.EVENT_WRITE:
                        unsent = unsent[self._send(unsent, progress) :]
                        if not unsent:
                            selector.modify(self._socket, selectors.EVENT_READ)

    def _check_disk(self) -> None:
        """Raise `PausedByDiskError` if QEMU has paused the guest, which would stay silent."""
        reason = monitor.disk_problem(self._sockets)
        if reason:
            raise PausedByDiskError(
                f"QEMU has paused the guest, since it cannot write to the machine's disk: {reason}",
                hint="Free some space on that disk, and run the command again. If the machine stays paused, resume it "
                "with pymachine start.",
            )

    def _receive(self, progress: Progress) -> bytes:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ended(progress) from error
        if not data:
            raise ended(progress)
        return data

    def _send(self, unsent: memoryview, progress: Progress) -> int:
        try:
            return self._socket.send(unsent[:_CHUNK])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ended(progress) from error

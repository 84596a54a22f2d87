"""Start a process for one machine in the background, find it again, and end it.

The process holds the lock of a file in the machine's folder, which contains its process id. So the process with that id
is the wanted one as long as the file is locked.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pymachine.driver.kit.port_forwarding import LARGEST_LOG
from pymachine.errors import PymachineError, TimeoutExpiredError
from pymachine.system import files, os_errors
from pymachine.system.wait import until

# A keeper of shared folders waits until its sessions have unmounted them, one after the other.
_END_SECONDS = 60.0
_KILL_SECONDS = 5.0
# Time for an earlier process to notice that its machine is gone.
_LOCK_SECONDS = 15.0
_PID_TRIES = 50

END = b"e"
RETRY = b"r"


@dataclass(frozen=True, kw_only=True)
class BackgroundProcess:
    """The process of one kind that a machine has."""

    lock: str
    """The name of the locked file in the machine's folder."""
    log: str
    """The name of the file in the machine's folder to which the process logs."""
    task: str
    """Its task, for messages: "the process that ..."."""
    error: type[PymachineError]
    """The error if it cannot be started or ended."""

    def start(self, folder: Path, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the process. Raises `error`."""
        # A copied folder may have links in it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            with os.fdopen(os.open(folder / self.log, flags, 0o600), "wb") as output:
                if os.fstat(output.fileno()).st_size > LARGEST_LOG:
                    os.ftruncate(output.fileno(), 0)
                return subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
                )
        except OSError as error:
            raise os_errors.wrapped(self.error, f"cannot start the process that {self.task}", error) from error

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Be the process of the machine in `folder` during the block.

        Raises BlockingIOError if an earlier process does not end within `_LOCK_SECONDS`, and other OSErrors.
        """
        handle = os.open(folder / self.lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            end = time.monotonic() + _LOCK_SECONDS
            while files.try_lock(handle) is False:
                if time.monotonic() > end:
                    raise BlockingIOError(errno.EAGAIN, f"another process {self.task}")
                time.sleep(0.1)
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(handle)

    def find(self, folder: Path) -> int:
        """Return the process id of the machine's process, or 0 if none runs."""
        try:
            with (folder / self.lock).open("rb") as lock:
                for _ in range(_PID_TRIES):
                    if files.try_lock(lock.fileno(), shared=True) is not False:
                        return 0
                    lock.seek(0)
                    if text := lock.read(32).strip():
                        return int(text)
                    time.sleep(0.02)  # the process is about to write it
        except (OSError, ValueError):
            return 0
        return 0

    def end(self, folder: Path) -> bool:
        """End the machine's process by SIGTERM, or else by SIGKILL. Return whether one ran.

        Raises `error` if it does not end.
        """
        if not self.find(folder):
            return False
        for number, seconds in ((signal.SIGTERM, _END_SECONDS), (_kill_signal(), _KILL_SECONDS)):
            pid = self._signal(folder, number)
            if not pid or self._await_end(folder, pid, seconds=seconds):
                return True
        raise self.error(f"the process {self.find(folder)}, which {self.task}, does not end")

    def retry(self, folder: Path) -> None:
        """Have the machine's process try again at once what it could not do, by SIGHUP."""
        if sys.platform != "win32":
            self._signal(folder, signal.SIGHUP)

    def _await_end(self, folder: Path, pid: int, *, seconds: float) -> bool:
        try:
            return until(lambda: self.find(folder) != pid, deadline=seconds, what="end", interval=0.02, longest=0.2)
        except TimeoutExpiredError:
            return False

    def _signal(self, folder: Path, number: int) -> int:
        """Send a signal to the machine's process; return its process id, or 0 if none runs."""
        pid = self.find(folder)
        if not pid:
            return 0
        if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            return pid
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return 0
        try:
            # The lock is still held, so the process behind the handle is the wanted one, and not another with its id.
            if self.find(folder) == pid:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
        return pid


def wake_on_signals() -> socket.socket:
    """Return a socket from which `END` comes after SIGTERM, and `RETRY` after SIGHUP. Raises OSError on Windows."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    reader, writer = socket.socketpair()
    writer.settimeout(0)

    def wake(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with suppress(BlockingIOError):  # the socket is full of earlier ones
            writer.send(RETRY if number == signal.SIGHUP else END)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, wake)
    return reader


def _kill_signal() -> int:
    if sys.platform == "win32":
        return signal.SIGTERM
    return signal.SIGKILL

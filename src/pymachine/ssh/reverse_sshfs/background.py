"""Start a machine's keeper in the background, find it again, and end it.

A keeper holds the lock of a file in the machine's folder, which contains its process id. So the process with that id is
the keeper as long as the file is locked.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pymachine.driver.kit.port_forwarding import LARGEST_LOG
from pymachine.errors import PymachineError, TimeoutExpiredError
from pymachine.store import paths
from pymachine.system import files, os_errors
from pymachine.system.wait import until

# A keeper waits until its sessions have unmounted their folders, one after the other.
_END_SECONDS = 60.0
_KILL_SECONDS = 5.0
# Time for an earlier keeper to notice that its machine is gone.
_LOCK_SECONDS = 15.0
_PID_TRIES = 50


class KeeperError(PymachineError):
    """The process that keeps the shared folders mounted cannot be started or ended."""

    code = "share-keeper"


def start(folder: Path, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a keeper, which logs to `paths.SHARES_LOG`. Raises `KeeperError`."""
    log = folder / paths.SHARES_LOG
    try:
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            os.truncate(log, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(log, flags, 0o600), "wb") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
    except OSError as error:
        brief = "cannot start the process that keeps the shared folders mounted"
        raise os_errors.wrapped(KeeperError, brief, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the keeper of the machine in `folder` during the block.

    Raises BlockingIOError if another keeper does not end within `_LOCK_SECONDS`, and other OSErrors.
    """
    handle = os.open(folder / paths.SHARES_LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while files.try_lock(handle) is False:
            if time.monotonic() > end:
                raise BlockingIOError(errno.EAGAIN, "another process keeps the shared folders mounted")
            time.sleep(0.1)
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


def find(folder: Path) -> int:
    """Return the process id of the machine's keeper, or 0 if none runs."""
    try:
        with (folder / paths.SHARES_LOCK).open("rb") as lock:
            for _ in range(_PID_TRIES):
                if files.try_lock(lock.fileno(), shared=True) is not False:
                    return 0
                lock.seek(0)
                if text := lock.read(32).strip():
                    return int(text)
                time.sleep(0.02)  # the keeper is about to write it
    except (OSError, ValueError):
        return 0
    return 0


def end(folder: Path) -> bool:
    """End the machine's keeper, which unmounts the folders. Return whether one ran.

    Raises `KeeperError` if it does not end.
    """
    if not find(folder):
        return False
    for number, seconds in ((signal.SIGTERM, _END_SECONDS), (_kill_signal(), _KILL_SECONDS)):
        pid = _signal(folder, number)
        if not pid or _await_end(folder, pid, seconds=seconds):
            return True
    raise KeeperError(f"the process {find(folder)}, which keeps the shared folders mounted, does not end")


def retry(folder: Path) -> None:
    """Have the machine's keeper try again at once to mount the folders that it could not mount."""
    if sys.platform != "win32":
        _signal(folder, signal.SIGHUP)


def _await_end(folder: Path, pid: int, *, seconds: float) -> bool:
    try:
        return until(lambda: find(folder) != pid, deadline=seconds, what="end", interval=0.02, longest=0.2)
    except TimeoutExpiredError:
        return False


def _signal(folder: Path, number: int) -> int:
    """Send a signal to the machine's keeper; return its process id, or 0 if none runs."""
    pid = find(folder)
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
        # The lock is still held, so the process behind the handle is the keeper, and not another one with its id.
        if find(folder) == pid:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    return pid


def _kill_signal() -> int:
    if sys.platform == "win32":
        return signal.SIGTERM
    return signal.SIGKILL

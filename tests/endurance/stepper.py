"""Run pymachine, and kill it or fill its disk at one of its steps: ``python stepper.py STOP LOG WORDS...``.

A step changes something outside the process: it opens a file for writing, renames or removes one, starts a program or
makes a connection. Python reports each of them before it happens (audit events), so pymachine needs no hooks for this.
Each step is a line of LOG. STOP says when SIGKILL is sent: ``never``, before step ``12``, or ``12+0.25``: 0.25 seconds
after step 12 begins. ``12=4096:FOLDER`` does not kill: before step 12 it fills the file system of FOLDER, except for
4096 bytes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_CHANGES = {
    "os.chmod",
    "os.chown",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
}
BALLAST = "ballast"
"""The name of the file that fills a disk."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Stepper:
    """Counts the steps of this process, and disturbs it at one of them."""

    def __init__(self, stop: str, log: str) -> None:
        point, _, self._fill = stop.partition("=")
        step, _, delay = point.partition("+")
        self._stop = None if step == "never" else int(step)
        self._delay = float(delay or 0)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()
        self._count = 0
        self._lock = threading.RLock()

    def on_audit_event(self, event: str, arguments: tuple[object, ...]) -> None:
        """Handle one of Python's audit events."""
        if not _is_step(event, arguments) or os.getpid() != self._pid:
            return
        with self._lock:
            self._count += 1
            count = self._count
            os.write(self._log, f"{count} {event} {_described(arguments)}\n".encode(errors="backslashreplace"))
        if count == self._stop:
            if self._fill:
                fill(self._fill)
            elif self._delay:
                threading.Thread(target=self._kill_later, daemon=True).start()
            else:
                os.kill(self._pid, signal.SIGKILL)

    def _kill_later(self) -> None:
        time.sleep(self._delay)
        os.kill(self._pid, signal.SIGKILL)


def fill(target: str) -> None:
    """Fill a disk; `target` is the number of bytes to leave free and the folder, as in ``4096:FOLDER``."""
    left, _, folder = target.partition(":")
    disk = os.statvfs(folder)
    size = disk.f_bavail * disk.f_frsize - int(left)
    handle = os.open(os.path.join(folder, BALLAST), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)  # noqa: PTH118
    try:
        if size > 0:
            os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)


def _is_step(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & _WRITING) and path != os.devnull
    if event == "os.kill":
        return bool(arguments[1])  # signal 0 only checks whether the process exists
    return event in _CHANGES


def _described(arguments: tuple[object, ...]) -> str:
    return " ".join(str(argument) for argument in arguments[:2])[:300].replace("\n", " ")


def main() -> int:
    """Run the program."""
    stop, log, *words = sys.argv[1:]
    from pymachine.__main__ import main as pymachine

    sys.argv = ["pymachine", *words]
    sys.addaudithook(Stepper(stop, log).on_audit_event)
    return pymachine()


if __name__ == "__main__":
    sys.exit(main())

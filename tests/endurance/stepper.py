"""Run pymachine, and kill it or fill its disk at one of its steps: ``python stepper.py STOP LOG WORDS...``.

A step is what changes something outside of the process: a file that is opened for writing, renamed or removed, a
program that is started, a connection that is made. Python reports each of them before it happens (audit events), so
that the program needs no hooks of its own. Each step is a line of LOG. STOP says when the program is killed with
SIGKILL: ``never``, before step ``12``, or ``12+0.25``, which is 0.25 seconds after step 12 begins. With
``12=4096:FOLDER`` it is not killed: before step 12 the file system of FOLDER is filled but for 4096 bytes.
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
    """Counts the steps of this process, and ends it at one of them."""

    def __init__(self, stop: str, log: str) -> None:
        place, _, self._fill = stop.partition("=")
        step, _, delay = place.partition("+")
        self._stop = None if step == "never" else int(step)
        self._delay = float(delay or 0)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()
        self._count = 0
        self._lock = threading.RLock()

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Take one of Python's audit events."""
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


def fill(what: str) -> None:
    """Fill a disk: `what` is how many bytes are left, and the folder, as in ``4096:FOLDER``."""
    left, _, folder = what.partition(":")
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
        return bool(arguments[1])  # signal 0 only asks whether the process exists
    return event in _CHANGES


def _described(arguments: tuple[object, ...]) -> str:
    return " ".join(str(argument) for argument in arguments[:2])[:300].replace("\n", " ")


def main() -> int:
    """The program."""
    stop, log, *words = sys.argv[1:]
    from pymachine.__main__ import main as pymachine

    sys.argv = ["pymachine", *words]
    sys.addaudithook(Stepper(stop, log).hear)
    return pymachine()


if __name__ == "__main__":
    sys.exit(main())

"""One QEMU process: started so that it outlives us, found again, and ended.

Alive means that something listens on its socket. Process ids do not tell: where nothing reaps the dead (PID 1 of many
containers), an ended QEMU keeps its id for good.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from pymachine.driver.errors import DriverError, TimeoutExpiredError
from pymachine.driver.kit import listen_queues
from pymachine.driver.kit.crashes import CrashedError
from pymachine.driver.kit.identity_channel import GuestEndedError, Progress, ended
from pymachine.driver.kit.system import Deadline, os_errors, run, until
from pymachine_driver_qemu import qmp, runtime
from pymachine_driver_qemu.command_line import escape

CONSOLE_LOG = "console.log"
QEMU_LOG = "qemu.log"
LAUNCH_SECONDS = 20.0
QUIT_SECONDS = 5.0
# Guests may miss the button while they boot.
_PRESS_AGAIN_SECONDS = 10.0
_POLL_SECONDS = 0.1
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_THP_DISABLE = 41
_LONGEST_LOG = 1024 * 1024
_KEPT_OF_LOG = 256 * 1024
_TAIL = 4096


# Signals that end QEMU because of its own fault. SIGBUS has another cause: the disk with a template's memory is full.
CRASHES = frozenset({"SIGSEGV", "SIGABRT"})
_SIGNAL_HINTS = {
    "SIGKILL": "The kernel ends programs so when memory runs out; see: sudo dmesg",
    "SIGBUS": "QEMU ends so when the disk is full; see: df -h",
}
_REAP_SECONDS = 2.0


class LaunchError(DriverError):
    """QEMU did not start."""

    code = "qemu-launch"


def launch(
    argv: Sequence[str],
    *,
    directory: Path,
    sockets: Path,
    environment: Mapping[str, str],
    tied: bool = False,
    small_pages: bool = False,
) -> int:
    """Start QEMU in a session of its own, and return its process id once its monitor answers.

    What it says goes to ``qemu.log`` in `directory`. `tied`: it ends with us, however we end (on Linux). `small_pages`:
    the host's kernel gives it no huge ones, of which much stays unused. Raises `LaunchError` with the end of that
    log, or the error of `end_error` if QEMU ended before its monitor answered.
    """
    log = directory / QEMU_LOG
    for path in (log, directory / CONSOLE_LOG):
        trim(path)
    preparation = _preparation(tied=tied, small_pages=small_pages)
    process = spawn(argv, log=log, environment=environment, preparation=preparation)
    deadline = Deadline(LAUNCH_SECONDS)
    while not _answers(sockets / runtime.CONTROL):
        code = process.poll()
        if code is not None or deadline.expired:
            if code is None:
                process.kill()
                process.wait()
            if code is not None and (error := end_error(code, details=said_since_start(log))):
                raise error
            why = f"ended with exit code {code}" if code is not None else f"did not answer in {LAUNCH_SECONDS:g} s"
            raise LaunchError(f"QEMU {why}", details=said_since_start(log), hint=f"All that it said is in {log}")
        time.sleep(0.005)
    # Whoever starts it need not wait for it; without this its end would be a warning about a running child.
    process.returncode = 0
    return process.pid


def exit_code(pid: int) -> int | None:
    """Return the exit code of a QEMU that has ended, negative for a signal; None if it still runs after 2 seconds.

    `pid` is what `launch` returned. A second call for the same QEMU returns None.
    """

    if sys.platform == "win32":
        return None

    def reaped() -> tuple[int, int] | None:
        found = os.waitpid(pid, os.WNOHANG)
        return found if found[0] else None

    try:
        _, status = until(reaped, deadline=_REAP_SECONDS, what="QEMU to end")
    except (ChildProcessError, TimeoutExpiredError):
        return None
    return os.waitstatus_to_exitcode(status)


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    preparation: Callable[[], None] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that outlives us: no terminal, no folder kept in use, output to `log`.

    `preparation` is called in the child before it becomes the program.
    """
    with _opened_log(log) as output:
        output.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {shlex.join(argv)}\n".encode())
        output.flush()
        try:
            return subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**os.environ, **environment},
                start_new_session=True,
                umask=0o077,
                preexec_fn=preparation,  # noqa: PLW1509 (see _preparation)
            )
        except OSError as error:
            raise os_errors.wrapped(LaunchError, f"cannot run {argv[0]}", error) from error


def _preparation(*, tied: bool, small_pages: bool) -> Callable[[], None] | None:
    """Return what a child does before it becomes QEMU; None where the host has no such settings."""
    if sys.platform != "linux":
        return None
    wanted = ((tied, _PR_SET_PDEATHSIG, int(signal.SIGKILL)), (small_pages, _PR_SET_THP_DISABLE, 1))
    calls = [(option, value, 0, 0, 0) for is_wanted, option, value in wanted if is_wanted]
    allow = listen_queues.allowance()
    import ctypes  # noqa: PLC0415 (only for this)

    prctl = ctypes.CDLL(None).prctl

    # The child must do no more than these calls: other threads of ours may have held locks when it was forked.
    def prepare() -> None:
        for call in calls:
            prctl(*call)
        allow()

    return prepare


def power_down(sockets: Path, *, timeout: float) -> bool:
    """Press the power button and wait for the end; whether it came within `timeout` seconds."""
    deadline = Deadline(timeout)
    runtime.note_stop(sockets, seconds=timeout)
    while True:
        try:
            with qmp.Qmp(sockets / runtime.CONTROL) as monitor:
                monitor.execute("system_powerdown")
        except qmp.QmpGoneError:
            return True
        if await_end(sockets, seconds=deadline.remaining(at_most=_PRESS_AGAIN_SECONDS)):
            return True
        if deadline.expired:
            return False


def end(sockets: Path) -> None:
    """End QEMU at once: by its monitor, or by a signal when that does not answer. Ended already is success.

    Raises `DriverError` if it is still there after all that.
    """
    control = sockets / runtime.CONTROL
    try:
        with qmp.Qmp(control) as monitor:
            monitor.execute("quit")
    except qmp.QmpError:
        # It hangs, or is gone, or has started and has no socket yet.
        _signal(control)
    if not await_end(sockets, seconds=QUIT_SECONDS):
        _signal(control)
        if not await_end(sockets, seconds=QUIT_SECONDS):
            raise DriverError(f"QEMU does not end, not even by SIGKILL (its socket: {control})")


def await_end(sockets: Path, *, seconds: float) -> bool:
    """Wait until nothing listens on QEMU's socket; whether that came in time."""
    control = sockets / runtime.CONTROL
    try:
        return until(
            lambda: not qmp.is_listening(control), deadline=seconds, what="end", interval=0.02, longest=_POLL_SECONDS
        )
    except TimeoutExpiredError:
        return False


def monitor_argument(control: Path) -> str:
    """What QEMU's command line says of its monitor; no other process has that among its arguments."""
    return f"unix:{escape(str(control))},server=on,wait=off"


def find_pids(argument: str) -> list[int]:
    """The processes that have `argument` in their command lines; the dead have none.

    The last resort for a QEMU that hangs: its socket's queue may be full, so that the kernel cannot be asked.
    """
    if not Path("/proc/self/cmdline").exists():
        lines = run.run(["ps", "-axo", "pid=,command="]).stdout.splitlines()
        return [int(line.split(None, 1)[0]) for line in lines if argument in line.split()]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Processes of others, and those that end meanwhile, cannot be read.
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def tail(path: Path, *, length: int = _TAIL) -> str:
    """The last lines of a log, at most `length` bytes; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - length))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""


def last_words(directory: Path) -> str:
    """What the console and QEMU said last."""
    parts = [(CONSOLE_LOG, tail(directory / CONSOLE_LOG)), (QEMU_LOG, said_since_start(directory / QEMU_LOG))]
    return "\n".join(f"--- {name}\n{text}" for name, text in parts if text)


def trim(path: Path) -> None:
    """Keep only the end of a log that has grown long; logs are appended to, and nothing else ends their growth."""
    try:
        if path.stat().st_size <= _LONGEST_LOG:
            return
        kept = tail(path, length=_KEPT_OF_LOG)
        path.write_text(kept + "\n", encoding="utf-8")
    except FileNotFoundError:
        return
    except OSError as error:
        raise os_errors.wrapped(LaunchError, f"cannot write {path}", error) from error


def said_since_start(log: Path) -> str:
    """What QEMU said since its last start; the line with its command is not for the user."""
    lines = tail(log).splitlines()
    starts = [number for number, line in enumerate(lines) if " -uuid " in line or " -name guest=" in line]
    return "\n".join(lines[starts[-1] + 1 :] if starts else lines)


def _opened_log(path: Path) -> BinaryIO:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(path, flags, 0o600), "wb")
    except OSError as error:
        raise os_errors.wrapped(LaunchError, f"cannot write {path}", error) from error


def end_error(code: int, *, details: str) -> GuestEndedError | CrashedError | None:
    """Return the error for a QEMU that ended with exit code `code`; None if QEMU itself reports what is wrong.

    A signal has a negative code. QEMU ends with 0 when the guest switches itself off.
    """
    if code == 0:
        return ended(Progress(""), details=details)
    if code > 0:
        return None
    name = signal.Signals(-code).name
    if name in CRASHES:
        return CrashedError(f"QEMU crashed ({name})", details=details)
    return GuestEndedError(f"QEMU was ended by {name}", details=details, hint=_SIGNAL_HINTS.get(name, ""))


def _answers(control: Path) -> bool:
    try:
        with qmp.Qmp(control, timeout=1.0):
            return True
    except qmp.QmpError:
        return False


def _signal(control: Path) -> None:
    """SIGKILL to the QEMU whose monitor is `control`."""
    if sys.platform == "win32":
        return
    for pid in find_pids(monitor_argument(control)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

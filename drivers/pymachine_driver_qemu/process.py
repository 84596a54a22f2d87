"""Start a QEMU process in the background, find it again, and end it.

QEMU counts as running if a process listens on its socket. Process ids do not show this: if nothing reaps ended
processes, as PID 1 of many containers, an ended QEMU keeps its id forever.
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
from typing import TYPE_CHECKING, BinaryIO

from pymachine.driver.errors import DriverError, TimeoutExpiredError
from pymachine.driver.kit import listen_queues
from pymachine.driver.kit.crashes import CrashedError
from pymachine.driver.kit.identity_channel import GuestEndedError, Progress, ended
from pymachine.driver.kit.system import Deadline, os_errors, run, until
from pymachine_driver_qemu import qmp, runtime
from pymachine_driver_qemu.command_line import escape

if TYPE_CHECKING:
    from pymachine_driver_qemu import read_only_mounts

CONSOLE_LOG = "console.log"
QEMU_LOG = "qemu.log"
LAUNCH_SECONDS = 20.0
# A umask: only the user can access new files.
_PRIVATE = 0o077
QUIT_SECONDS = 5.0
# A guest may miss the button press while it boots.
_PRESS_AGAIN_SECONDS = 10.0
_POLL_SECONDS = 0.1
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_THP_DISABLE = 41
_LONGEST_LOG = 1024 * 1024
_KEPT_OF_LOG = 256 * 1024
_TAIL = 4096


# Signals of a crash of QEMU itself. SIGBUS has another cause: the disk with a template's memory is full.
CRASHES = frozenset({"SIGSEGV", "SIGABRT"})
_SIGNAL_HINTS = {
    "SIGKILL": "The kernel does this when memory runs out; see: sudo dmesg",
    "SIGBUS": "This happens when the disk is full; see: df -h",
}
_REAP_SECONDS = 2.0


class LaunchError(DriverError):
    """QEMU did not start."""

    code = "qemu-launch"


class MountError(Exception):
    """The kernel refused the read-only mounts for QEMU, which did not start."""


def launch(
    argv: Sequence[str],
    *,
    directory: Path,
    sockets: Path,
    environment: Mapping[str, str],
    tied: bool = False,
    small_pages: bool = False,
    filtered: bool = False,
    mounts: Sequence[read_only_mounts.Mount] = (),
) -> int:
    """Start QEMU in its own session, and return its process id once its monitor answers.

    Its output goes to ``qemu.log`` in `directory`. If `tied`, QEMU ends with this process, even if that is killed (on
    Linux). With `small_pages`, the kernel gives it no huge pages, of which much would stay unused. If `filtered`, its
    system calls are, where the host allows that: see `syscall_filter`. It then has no umask, so `directory` must be
    private. It runs with `mounts`: see `read_only_mounts`. Raises `MountError` if the kernel refuses these,
    `LaunchError` with the end of that log, or the error of `end_error` if QEMU ended before its monitor answered.
    """
    log = directory / QEMU_LOG
    for path in (log, directory / CONSOLE_LOG):
        trim(path)
    preparation = _preparation(tied=tied, small_pages=small_pages, filtered=filtered, mounts=mounts)
    if filtered:
        _opened_log(directory / CONSOLE_LOG).close()
    # Folders that a guest creates in a shared setgid folder get their modes only from mkdir; see `syscall_filter`.
    umask = 0 if filtered else _PRIVATE
    try:
        process = spawn(argv, log=log, environment=environment, preparation=preparation, umask=umask)
    except subprocess.SubprocessError as failure:  # the preparation raised an error
        if not mounts:
            raise
        raise MountError("the kernel refuses to mount folders read-only for QEMU") from failure
    deadline = Deadline(LAUNCH_SECONDS)
    while not _answers(sockets / runtime.CONTROL):
        code = process.poll()
        if code is not None or deadline.expired:
            if code is None:
                process.kill()
                process.wait()
            if code is not None and (error := end_error(code, details=output_since_start(log))):
                raise error
            why = f"ended with exit code {code}" if code is not None else f"did not answer in {LAUNCH_SECONDS:g} s"
            raise LaunchError(f"QEMU {why}", details=output_since_start(log), hint=f"Its whole output is in {log}")
        time.sleep(0.005)
    # Prevent the warning about a child that was not waited for.
    process.returncode = 0
    return process.pid


def exit_code(pid: int) -> int | None:
    """Return the exit code of an ended QEMU, negative for a signal, or None if it still runs after 2 seconds.

    `pid` is the result of `launch`. A second call for the same QEMU returns None.
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
    umask: int = _PRIVATE,
) -> subprocess.Popen[bytes]:
    """Start a program in the background: without a terminal, in the root directory, with its output in `log`.

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
                umask=umask,
                preexec_fn=preparation,  # noqa: PLW1509 (see _preparation)
            )
        except OSError as error:
            raise os_errors.wrapped(LaunchError, f"cannot run {argv[0]}", error) from error


def _preparation(
    *, tied: bool, small_pages: bool, filtered: bool, mounts: Sequence[read_only_mounts.Mount]
) -> Callable[[], None] | None:
    """Return a function for the child to call before it becomes QEMU, or None if this is not Linux."""
    if sys.platform != "linux":
        return None
    wanted = ((tied, _PR_SET_PDEATHSIG, int(signal.SIGKILL)), (small_pages, _PR_SET_THP_DISABLE, 1))
    calls = [(option, value, 0, 0, 0) for is_wanted, option, value in wanted if is_wanted]
    allow = listen_queues.allowance()
    import ctypes  # noqa: PLC0415 (used only here)

    prctl = ctypes.CDLL(None).prctl
    mount_all = _mounter(mounts) if mounts else None
    install_filter = _filter_installer() if filtered else None

    # The child must only make these calls, since other threads may have held locks when it was forked.
    def prepare() -> None:
        # First, since a new user namespace may reset what the other calls set, and the filter may refuse these.
        if mount_all is not None and (code := mount_all()):
            raise OSError(code, os.strerror(code))
        for call in calls:
            prctl(*call)
        allow()
        if install_filter is not None:
            # QEMU starts without the filter if the kernel refuses it. `syscall_filter.probe` finds that out.
            install_filter()

    return prepare


def _mounter(mounts: Sequence[read_only_mounts.Mount]) -> Callable[[], int]:
    from pymachine_driver_qemu import read_only_mounts  # noqa: PLC0415 (only machines with read-only folders need it)

    return read_only_mounts.mounter(mounts)


def _filter_installer() -> Callable[[], int] | None:
    from pymachine_driver_qemu import syscall_filter  # noqa: PLC0415 (only machines with shared folders need it)

    return syscall_filter.installer() if syscall_filter.available() else None


def power_down(sockets: Path, *, timeout: float) -> bool:
    """Press the power button and wait for QEMU's end; return whether it ended within `timeout` seconds."""
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
    """End QEMU immediately, if it runs: by its monitor, or by SIGKILL if that does not answer.

    Raises `DriverError` if it does not end.
    """
    control = sockets / runtime.CONTROL
    try:
        with qmp.Qmp(control) as monitor:
            monitor.execute("quit")
    except qmp.QmpError:
        # QEMU hangs, has ended, or has no socket yet.
        _signal(control)
    if not await_end(sockets, seconds=QUIT_SECONDS):
        _signal(control)
        if not await_end(sockets, seconds=QUIT_SECONDS):
            raise DriverError(f"QEMU does not end, not even by SIGKILL (its socket: {control})")


def await_end(sockets: Path, *, seconds: float) -> bool:
    """Wait until nothing listens on QEMU's socket; return whether that happened within `seconds`."""
    control = sockets / runtime.CONTROL
    try:
        return until(
            lambda: not qmp.is_listening(control), deadline=seconds, what="end", interval=0.02, longest=_POLL_SECONDS
        )
    except TimeoutExpiredError:
        return False


def monitor_argument(control: Path) -> str:
    """Return the argument for QEMU's monitor, which no other process has."""
    return f"unix:{escape(str(control))},server=on,wait=off"


def find_pids(argument: str) -> list[int]:
    """Return the running processes with `argument` in their command lines.

    This is the last resort for a QEMU that hangs: if its socket's queue is full, the kernel cannot tell its process id.
    """
    if not Path("/proc/self/cmdline").exists():
        lines = run.run(["ps", "-axo", "pid=,command="]).stdout.splitlines()
        return [int(line.split(None, 1)[0]) for line in lines if argument in line.split()]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Other users' processes, and those that end meanwhile, cannot be read.
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def tail(path: Path, *, length: int = _TAIL) -> str:
    """Return the last `length` bytes of a log, or "" if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - length))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""


def ends_of_logs(directory: Path) -> str:
    """Return the ends of the console log and QEMU's log."""
    parts = [(CONSOLE_LOG, tail(directory / CONSOLE_LOG)), (QEMU_LOG, output_since_start(directory / QEMU_LOG))]
    return "\n".join(f"--- {name}\n{text}" for name, text in parts if text)


def trim(path: Path) -> None:
    """Shorten a long log to its end, since programs only append to it."""
    try:
        if path.stat().st_size <= _LONGEST_LOG:
            return
        kept = tail(path, length=_KEPT_OF_LOG)
        path.write_text(kept + "\n", encoding="utf-8")
    except FileNotFoundError:
        return
    except OSError as error:
        raise os_errors.wrapped(LaunchError, f"cannot write {path}", error) from error


def output_since_start(log: Path) -> str:
    """Return QEMU's output since its last start, without the line with its command."""
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
    """Return the error for a QEMU that ended with exit code `code`, or None if QEMU itself reports the reason.

    The code of a signal is negative. QEMU exits with 0 if the guest switches itself off.
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
    """Send SIGKILL to the QEMU whose monitor is `control`."""
    if sys.platform == "win32":
        return
    for pid in find_pids(monitor_argument(control)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

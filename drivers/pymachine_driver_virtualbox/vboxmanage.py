"""Run VBoxManage, detect failures, and retry those that are known to pass.

VBoxManage exits with 0 in some failures, so errors on stderr count too.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.errors import TimeoutExpiredError
from pymachine.driver.kit.system import os_errors, run
from pymachine_driver_virtualbox import output, versions
from pymachine_driver_virtualbox.errors import NotInstalledError, VirtualBoxError, VmNotFoundError

PROGRAM = "VBoxManage"
ENV_TIMEOUT = "PYMACHINE_VBOXMANAGE_TIMEOUT"
CALL_SECONDS = 120.0
LOCK_SECONDS = 600.0
# Errors that pass: VirtualBox's server was just ending or starting, or the process of a machine that ended had not
# unlocked it yet. Each occurs before VBoxManage changes anything.
PASSING = (
    "The object is not ready",
    "Failed to create the VirtualBox object",
    "is already locked by a session",
    "is already locked for a session",
)
# VirtualBox's server died during the call, so it may have been carried out. Only commands that read, or that can be
# run twice, are retried.
DIED = ("NS_ERROR_ABORT", "NS_ERROR_CALL_FAILED")
REPEATABLE = ("--version", "list", "showvminfo", "showmediuminfo", "storageattach", "setextradata", "modifyvm")
NOT_TWICE = ("--natpf1",)
PATIENCE_SECONDS = 20.0
# Retry at least so often even if one attempt takes long: a client waits 30 seconds for a server that died at start.
LEAST_ATTEMPTS = 3
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_MAC = Path("/Applications/VirtualBox.app/Contents/MacOS") / PROGRAM


def find() -> Path:
    """Return the path of VBoxManage. Raises `NotInstalledError`."""
    for variable in ("VBOX_INSTALL_PATH", "VBOX_MSI_INSTALL_PATH"):
        folder = os.environ.get(variable, "")
        if folder and (found := Path(folder) / f"{PROGRAM}.exe").is_file():
            return found
    found_on_path = run.which(PROGRAM)
    if found_on_path is not None:
        return found_on_path
    if sys.platform == "darwin" and _MAC.is_file():
        return _MAC
    raise NotInstalledError(
        "VBoxManage not found. Make sure VirtualBox is installed and VBoxManage is in the path",
        hint="Install VirtualBox from virtualbox.org or your distribution, or use the driver qemu.",
    )


def home() -> Path:
    """Return the folder of VirtualBox's registry of this user's machines and media."""
    chosen = os.environ.get("VBOX_USER_HOME")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "VirtualBox"
    if sys.platform == "win32":
        return Path.home() / ".VirtualBox"
    old = Path.home() / ".VirtualBox"
    config = os.environ.get("XDG_CONFIG_HOME")
    return old if old.is_dir() else (Path(config) if config else Path.home() / ".config") / "VirtualBox"


@contextmanager
def lock(what: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock between processes on something that machines share, such as ``network``.

    Raises `TimeoutExpiredError` after `timeout` seconds, and `VirtualBoxError` if the lock file cannot be written.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 (reading commands take no lock)

    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = FileLock(folder / f"pymachine-{what}.lock", timeout=timeout).acquire()
    except Timeout as error:
        raise TimeoutExpiredError(
            f"another pymachine process has held the lock on VirtualBox's {what} for {timeout:g} seconds",
            hint="Wait for it to end, or end it.",
        ) from error
    except OSError as error:
        raise os_errors.wrapped(VirtualBoxError, f"cannot write in VirtualBox's folder {folder}", error) from error
    with held:
        yield


class VBoxManage:
    """A client for VBoxManage. Its methods raise `VirtualBoxError` with VBoxManage's message."""

    def __init__(self, program: Path | None = None, *, patience: float = PATIENCE_SECONDS) -> None:
        self.program = program or find()
        self._patience = patience
        self._traits: versions.Traits | None = None

    @property
    def traits(self) -> versions.Traits:
        """The properties of the installed version, determined once."""
        if self._traits is None:
            self._traits = versions.Traits(output.version(self("--version")))
        return self._traits

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None, timeout: float | None = None) -> str:
        """Run ``VBoxManage ARGUMENTS`` and return its stdout. Failures that may pass are retried for some seconds."""
        return self.run_with_stderr(*arguments, stdin=stdin, timeout=timeout)[0]

    def run_with_stderr(
        self, *arguments: str | Path, stdin: bytes | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        """Run ``VBoxManage ARGUMENTS`` and return its stdout and stderr, for callers that look at warnings."""
        end = time.monotonic() + self._patience
        pause = _PAUSE_SECONDS
        for attempt in itertools.count(1):
            result = self._run(arguments, stdin=stdin, timeout=timeout)
            if result.returncode == 0 and not output.errors(result.stderr):
                return output.without_wrapper(result.stdout), result.stderr
            out_of_patience = time.monotonic() > end and attempt >= LEAST_ATTEMPTS
            if not _may_be_retried(arguments, result) or out_of_patience:
                raise failure(result)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        raise AssertionError("unreachable")

    def info(self, machine: str) -> dict[str, str]:
        """Return the properties of a machine. Raises `VmNotFoundError`."""
        return output.properties(self("showvminfo", machine, "--machinereadable"))

    def _run(self, arguments: Sequence[str | Path], *, stdin: bytes | None, timeout: float | None) -> run.Result:
        try:
            return run.run([self.program, *arguments], stdin=stdin, timeout=timeout or call_seconds(), check=False)
        except run.CommandNotFoundError as error:
            raise NotInstalledError(error.brief, hint=error.hint) from error
        except run.CommandTimeoutError as error:
            raise VirtualBoxError(
                error.brief,
                hint=f"VirtualBox may hang: check whether `VBoxManage list vms` answers. {ENV_TIMEOUT} sets the "
                "timeout in seconds.",
            ) from error


def _may_be_retried(arguments: Sequence[str | Path], result: run.Result) -> bool:
    """Return whether a failed call can be repeated safely and is likely to succeed."""
    complaints = output.errors(result.stderr)
    if any(text in line for line in complaints for text in PASSING):
        return True
    died = output.code(result.stderr) in DIED or (result.returncode < 0 and not complaints)
    return died and arguments[0] in REPEATABLE and not any(word in arguments for word in NOT_TWICE)


def failure(result: run.Result) -> VirtualBoxError:
    """Return the error for a failed call."""
    messages = output.errors(result.stderr) or [result.stderr.strip() or output.without_wrapper(result.stdout).strip()]
    brief, reason = messages[0], output.code(result.stderr)
    if "Could not find a registered machine" in brief:
        return VmNotFoundError(
            "machine does not exist",
            reason=reason,
            details="\n".join(messages),
            hint="VirtualBox does not know it any more. `rm` removes its record.",
        )
    if result.returncode < 0:
        brief = f"{run.describe_exit(result.returncode)}: {brief}"
    if reason.startswith("VERR_") and reason not in brief:
        brief = f"{brief} ({reason})"
    return VirtualBoxError(
        f"VBoxManage {_subcommand(result.argv)}: {brief or run.describe_exit(result.returncode)}",
        details="\n".join(messages[1:]),
        hint=_HINTS.get(reason, ""),
        reason=reason,
    )


_HINTS = {
    "VERR_DISK_FULL": "Free some space, or keep machines elsewhere with --storage-path.",
    "VERR_ACCESS_DENIED": "Check who owns the file and its mode.",
}


def _subcommand(argv: Sequence[str]) -> str:
    return " ".join(argv[1:3] if len(argv) > 2 and argv[1] in {"hostonlyif", "dhcpserver", "snapshot"} else argv[1:2])


def call_seconds() -> float:
    """Return the timeout of one call in seconds: PYMACHINE_VBOXMANAGE_TIMEOUT, or 120."""
    text = os.environ.get(ENV_TIMEOUT, "")
    try:
        seconds = float(text) if text else CALL_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise VirtualBoxError(f"{ENV_TIMEOUT} is {text!r}, expected a number of seconds above 0")
    return seconds

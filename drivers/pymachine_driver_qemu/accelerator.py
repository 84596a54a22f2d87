"""Choose the accelerator: one that has booted the machine's own kernel, else software emulation.

See `pymachine.driver.kit.accelerator`. A result is kept until the host reboots.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.errors import DriverError
from pymachine.driver.kit import kernel_parameters
from pymachine.driver.kit.accelerator import PROOF, TRIAL_INIT, TRIAL_MEMORY_MIB, TRIAL_SECONDS, decide
from pymachine.driver.kit.system import Deadline, Reporter
from pymachine_driver_qemu import command_line, runtime
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.options import host_architecture

KVM_DEVICE = Path("/dev/kvm")
_CACHE = "accelerators.json"
_TRIAL_PROCESSOR_SECONDS = 20

log = logging.getLogger(__name__)


class AcceleratorError(DriverError):
    """The requested accelerator does not work on this host."""

    code = "qemu-accelerator"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The parameters of a trial of an accelerator."""

    qemu: Qemu
    architecture: str
    kernel: Path
    initrd: Path
    image: str
    """The image's digest, which identifies the kernel."""


def choose(asked: str, trial: Trial, *, reporter: Reporter) -> str:
    """Return the accelerator to use: `asked`, or if that is ``auto``, the host's if it works, else ``tcg``.

    Says so when it is software emulation against expectation. Raises `AcceleratorError` if `asked` is one that does
    not work.
    """
    if asked == "tcg":
        return asked
    native = asked if asked != "auto" else native_accelerator()
    problem = unavailable(native, trial.architecture) if native else "this system has no accelerator that QEMU can use"
    if not problem:
        problem = _trial_problem(native, trial)
    return decide(
        native,
        problem,
        is_required=asked != "auto",
        flag="qemu-accelerator",
        error=AcceleratorError,
        reporter=reporter,
    )


def native_accelerator() -> str:
    """Return the accelerator of this operating system, or "" if it has none."""
    return {"linux": "kvm", "darwin": "hvf"}.get(sys.platform, "")


def unavailable(accelerator: str, architecture: str) -> str:
    """Return why `accelerator` cannot be used on this host, or "" if only a trial can tell."""
    if accelerator != native_accelerator():
        return f"{accelerator} is not for this system"
    if architecture != host_architecture():
        return f"the machine is {architecture}, this host {platform.machine()}"
    if accelerator != "kvm":
        return ""
    if not KVM_DEVICE.exists():
        return f"{KVM_DEVICE} does not exist"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"no permission for {KVM_DEVICE}; members of the group kvm have it"
    return ""


def boots(accelerator: str, trial: Trial, *, seconds: float = TRIAL_SECONDS) -> bool:
    """Return whether the kernel starts its first program under `accelerator` within `seconds`."""
    with tempfile.TemporaryDirectory(dir=runtime.base(), prefix=runtime.TRIAL) as folder:
        console, messages = Path(folder) / "console", Path(folder) / "messages"
        with messages.open("wb") as output:
            process = subprocess.Popen(
                [str(trial.qemu.path), *trial.qemu.arguments, *_trial_arguments(accelerator, trial, console)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**os.environ, **trial.qemu.environment},
                start_new_session=True,
            )
        try:
            _limit(process.pid)
            return _has_booted(process, console, Deadline(seconds))
        finally:
            process.kill()
            process.wait()
            text = messages.read_text(errors="replace").strip()
            log.debug("trial of %s: %s", accelerator, text or "QEMU printed nothing")


def _trial_problem(accelerator: str, trial: Trial) -> str:
    """Return why `accelerator` failed its trial, or "". The result is cached, and only one process at a time tries."""
    status = trial.qemu.path.stat()
    key = runtime.probe_key(accelerator, trial.qemu.path, status.st_size, status.st_mtime_ns, trial.image)
    with runtime.probe_results(_CACHE) as known:
        if not isinstance(known.get(key), bool):
            known[key] = boots(accelerator, trial)
        return "" if known[key] else f"{accelerator} is available, but does not boot Linux on this host"


def _trial_arguments(accelerator: str, trial: Trial, console: Path) -> list[str]:
    hardware = command_line.Hardware(
        architecture=trial.architecture, accelerator=accelerator, cpus=1, memory_mib=TRIAL_MEMORY_MIB
    )
    append = kernel_parameters.for_trial(trial.architecture, init=TRIAL_INIT, panic=-1)
    boot = command_line.Boot(kernel=trial.kernel, initrd=trial.initrd, append=append)
    return command_line.trial(hardware, boot, console=console)


def _limit(pid: int) -> None:
    """Limit the trial's CPU time, which ends a stuck guest even if this process is killed.

    Also prevent a core dump, since QEMU may abort if the accelerator is broken.
    """
    if sys.platform == "linux":
        resource.prlimit(pid, resource.RLIMIT_CPU, (_TRIAL_PROCESSOR_SECONDS, _TRIAL_PROCESSOR_SECONDS))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _has_booted(process: subprocess.Popen[bytes], console: Path, deadline: Deadline) -> bool:
    while True:
        ended = process.poll() is not None or deadline.expired
        with contextlib.suppress(FileNotFoundError):
            if PROOF in console.read_bytes():
                return True
        if ended:
            return False
        time.sleep(deadline.remaining(at_most=0.05))

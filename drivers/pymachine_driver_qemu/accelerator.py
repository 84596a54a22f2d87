"""Which accelerator to use: one that has booted the machine's own kernel, else software emulation.

That /dev/kvm opens says little: on some hosts, CI's among them, it opens and even runs a boot sector, and Linux never
gets past its first instructions. So each is tried once with the image's kernel, and the answer is kept for as long as
the host does not reboot.
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
from pymachine.driver.kit.system import Deadline, Reporter
from pymachine_driver_qemu import command_line, probe_cache, runtime
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.options import host_architecture

# Software emulation needs about three seconds for it on an idle host; an accelerator that needs longer is none.
TRIAL_SECONDS = 5.0
KVM_DEVICE = Path("/dev/kvm")
_MEMO = "accelerators.json"
_MEMORY_MIB = 256
_TRIAL_PROCESSOR_SECONDS = 20
# The kernel runs a program that ends at once, then has no more to run, and resets: proof of it all in a second.
_TRIAL_INIT = "/usr/bin/busybox"
_PROOF = b"Attempted to kill init"

log = logging.getLogger(__name__)


class AcceleratorError(DriverError):
    """The requested accelerator does not work on this host."""

    code = "qemu-accelerator"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an accelerator is tried with."""

    qemu: Qemu
    architecture: str
    kernel: Path
    initrd: Path
    image: str
    """What tells this kernel from others: the image's digest."""


def choose(asked: str, trial: Trial, *, reporter: Reporter) -> str:
    """The accelerator to use: `asked`, or the host's if that is ``auto`` and it works, or ``tcg``.

    Says so when it is software emulation against expectation. Raises `AcceleratorError` if `asked` is one that does
    not work.
    """
    if asked == "tcg":
        return asked
    native = asked if asked != "auto" else native_accelerator()
    problem = unavailable(native, trial.architecture) if native else "this system has none that QEMU can use"
    if not problem:
        problem = _tried(native, trial)
    if not problem:
        return native
    if asked != "auto":
        raise AcceleratorError(
            f"accelerator {asked} does not work here: {problem}", hint="Use --qemu-accelerator auto, or tcg."
        )
    reporter.info(f"No hardware virtualisation ({problem}): using software emulation.")
    return "tcg"


def native_accelerator() -> str:
    """The accelerator that belongs to this system; empty if none does."""
    return {"linux": "kvm", "darwin": "hvf"}.get(sys.platform, "")


def unavailable(accelerator: str, architecture: str) -> str:
    """Why `accelerator` cannot be used here at all, as far as can be told without a trial; empty if nothing speaks
    against it.
    """
    if accelerator != native_accelerator():
        return f"{accelerator} is not for this system"
    if architecture != host_architecture():
        return f"the machine is {architecture}, this host {platform.machine()}"
    if accelerator != "kvm":
        return ""
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE}"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"no permission for {KVM_DEVICE}; be a member of the group kvm to have it"
    return ""


def boots(accelerator: str, trial: Trial, *, seconds: float = TRIAL_SECONDS) -> bool:
    """Whether the kernel comes to run a program under `accelerator` within `seconds`."""
    with tempfile.TemporaryDirectory(dir=runtime.base(), prefix=runtime.TRIAL) as folder:
        console, said = Path(folder) / "console", Path(folder) / "said"
        with said.open("wb") as output:
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
            return _proven(process, console, Deadline(seconds))
        finally:
            process.kill()
            process.wait()
            log.debug("trial of %s: %s", accelerator, said.read_text(errors="replace").strip() or "QEMU said nothing")


def _tried(accelerator: str, trial: Trial) -> str:
    """What a trial says against `accelerator`; remembered, and made by one process at a time."""
    status = trial.qemu.path.stat()
    key = probe_cache.key(accelerator, trial.qemu.path, status.st_size, status.st_mtime_ns, trial.image)
    with probe_cache.answers(_MEMO) as known:
        if not isinstance(known.get(key), bool):
            known[key] = boots(accelerator, trial)
        return "" if known[key] else f"{accelerator} is there, but does not boot Linux on this host"


def _trial_arguments(accelerator: str, trial: Trial, console: Path) -> list[str]:
    hardware = command_line.Hardware(
        architecture=trial.architecture, accelerator=accelerator, cpus=1, memory_mib=_MEMORY_MIB
    )
    append = f"console={command_line.kernel_console(trial.architecture)} quiet panic=-1 rdinit={_TRIAL_INIT} -- true"
    boot = command_line.Boot(kernel=trial.kernel, initrd=trial.initrd, append=append)
    return command_line.trial(hardware, boot, console=console)


def _limit(pid: int) -> None:
    """Let the trial end by itself if we are killed meanwhile: a guest that is stuck burns its time soon.

    Where the accelerator is broken QEMU may abort; nobody wants the core.
    """
    if sys.platform == "linux":
        resource.prlimit(pid, resource.RLIMIT_CPU, (_TRIAL_PROCESSOR_SECONDS, _TRIAL_PROCESSOR_SECONDS))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _proven(process: subprocess.Popen[bytes], console: Path, deadline: Deadline) -> bool:
    while True:
        ended = process.poll() is not None or deadline.expired
        with contextlib.suppress(FileNotFoundError):
            if _PROOF in console.read_bytes():
                return True
        if ended:
            return False
        time.sleep(deadline.remaining(at_most=0.05))

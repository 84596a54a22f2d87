"""The choice between hardware virtualisation and software emulation.

That an accelerator exists says little: on some hosts, CI's among them, /dev/kvm opens and even runs a boot sector, and
Linux never gets past its first instructions. So drivers boot the image's own kernel once under an accelerator, and
keep the result in a `pymachine.driver.kit.probe_cache`.
"""

from __future__ import annotations

from pymachine.driver.errors import DriverError
from pymachine.system.progress import Reporter

# Software emulation needs about three seconds for a trial on an idle host. An accelerator must not need longer.
TRIAL_SECONDS = 5.0
TRIAL_MEMORY_MIB = 256
# The kernel runs a program that ends at once, and panics since it has no more to run: that proves a whole boot.
TRIAL_INIT = "/usr/bin/busybox"
PROOF = b"Attempted to kill init"
EMULATION = "tcg"


def trial_parameters(console: str, *, panic: int) -> str:
    """Return the kernel's parameters for a trial; `panic` is that of Linux, in seconds."""
    return f"console={console} quiet panic={panic} rdinit={TRIAL_INIT} -- true"


def decide(
    accelerator: str, problem: str, *, is_required: bool, flag: str, error: type[DriverError], reporter: Reporter
) -> str:
    """Return `accelerator`, or software emulation if there is a `problem` with it, which is reported.

    Raises `error` instead if the accelerator `is_required`. `flag` is the option that chooses it.
    """
    if not problem:
        return accelerator
    if is_required:
        raise error(f"accelerator {accelerator} does not work: {problem}", hint=f"Use --{flag} auto, or tcg.")
    reporter.info(f"No hardware virtualisation ({problem}): using software emulation.")
    return EMULATION

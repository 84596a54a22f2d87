"""Choose between hardware virtualisation and software emulation.

It is not enough that an accelerator exists: on some hosts, such as CI runners, /dev/kvm opens and even runs a boot
sector, but Linux never gets past its first instructions. Drivers therefore boot the image's own kernel once under an
accelerator, and keep the result in a `pymachine.driver.kit.probe_cache`.
"""

from __future__ import annotations

from pymachine.driver.errors import DriverError
from pymachine.system.progress import Reporter

# Software emulation needs about three seconds for a trial on an idle host. An accelerator must not need longer.
TRIAL_SECONDS = 5.0
TRIAL_MEMORY_MIB = 256
# The trial's init ends at once. The kernel's panic about that proves that it booted.
TRIAL_INIT = "/usr/bin/busybox"
PROOF = b"Attempted to kill init"
EMULATION = "tcg"


def decide(
    accelerator: str, problem: str, *, is_required: bool, flag: str, error: type[DriverError], reporter: Reporter
) -> str:
    """Return `accelerator`, or if there is a `problem` with it, report that and return software emulation.

    Raises `error` instead if the accelerator `is_required`. `flag` is the option that chooses it.
    """
    if not problem:
        return accelerator
    if is_required:
        raise error(f"accelerator {accelerator} does not work: {problem}", hint=f"Use --{flag} auto, or tcg.")
    reporter.info(f"No hardware virtualisation ({problem}): using software emulation.")
    return EMULATION

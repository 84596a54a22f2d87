"""Find out why VirtualBox cannot run 64-bit guests on this host, and how to fix it.

Some problems show before a machine is started, others only in VirtualBox's log when a start fails.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.errors import CommandError
from pymachine.driver.kit.system import run
from pymachine_driver_virtualbox.versions import Traits

DRIVER_DEVICE = Path("/dev/vboxdrv")
POWERSHELL_SECONDS = 20.0
NO_CHECK = "To skip this check, use --virtualbox-no-vtx-check."


@dataclass(frozen=True)
class Problem:
    """A problem of this host and its fix."""

    what: str
    fix: str
    fatal: bool = True


# VirtualBox's codes in VBox.log and in the errors of startvm. Source: include/VBox/err.h of VirtualBox.
_IN_USE = (
    "another hypervisor uses the processor's virtualisation",
    "Stop the other virtual machines (KVM, VMware, ...). For KVM on Linux 6.12 and later, also run (as root): "
    "modprobe -r kvm_intel kvm_amd, or boot with the kernel parameter kvm.enable_virt_at_load=0.",
)
_DISABLED = (
    "the processor's virtualisation (VT-x, AMD-V) is switched off",
    "Switch it on in the firmware's settings (BIOS, UEFI), then restart the computer.",
)
_MISSING = (
    "this processor, or the virtual machine that this host is, has no virtualisation (VT-x, AMD-V)",
    "Use the driver qemu, which works without it: --driver qemu.",
)
_MODULE = (
    "VirtualBox's kernel module is not loaded",
    "Load it (as root): modprobe vboxdrv; if that fails, build it: /sbin/vboxconfig, or install virtualbox-dkms and "
    "your kernel's headers.",
)
LOG_CODES = {
    "VERR_VMX_IN_VMX_ROOT_MODE": _IN_USE,
    "VERR_SVM_IN_USE": _IN_USE,
    "VERR_VMX_MSR_ALL_VMX_DISABLED": _DISABLED,
    "VERR_VMX_MSR_VMX_DISABLED": _DISABLED,
    "VERR_SVM_DISABLED": _DISABLED,
    "VERR_VMX_NO_VMX": _MISSING,
    "VERR_SVM_NO_SVM": _MISSING,
    "VERR_NEM_NOT_AVAILABLE": (
        "neither the processor's virtualisation nor Hyper-V can be used",
        "Switch virtualisation on in the firmware, or switch Hyper-V off: bcdedit /set hypervisorlaunchtype off",
    ),
    "VERR_VM_DRIVER_NOT_INSTALLED": _MODULE,
    "VERR_VM_DRIVER_NOT_ACCESSIBLE": (
        "you may not open /dev/vboxdrv",
        "Check its group (ls -l /dev/vboxdrv), and join it; on most systems it is vboxusers.",
    ),
    "VERR_VM_DRIVER_VERSION_MISMATCH": (
        "VirtualBox's kernel module has another version than VirtualBox",
        "Build and load it again (as root): /sbin/vboxconfig, or restart the computer.",
    ),
}


def in_log(text: str) -> Problem | None:
    """Return the first known problem in VirtualBox's log or error message, or None."""
    for match in re.finditer(r"\bVERR_[A-Z0-9_]+\b", text):
        if match[0] in LOG_CODES:
            what, fix = LOG_CODES[match[0]]
            return Problem(f"{what} ({match[0]})", fix)
    if "Kernel driver not installed" in text:
        return Problem(*_MODULE)
    return None


def module_problem(*, platform: str = sys.platform, device: Path = DRIVER_DEVICE) -> Problem | None:
    """Return a problem if VirtualBox's kernel module is not loaded on Linux, where it may have to be built."""
    if platform != "linux" or device.exists():
        return None
    return Problem(f"{_MODULE[0]}: {device} does not exist", _MODULE[1])


def processor_problem(traits: Traits, *, proc: Path = Path("/proc"), sys_fs: Path = Path("/sys")) -> Problem | None:
    """Return what prevents 64-bit guests on this host's processor, or (not fatal) slows them, or None."""
    if traits.platform == "linux":
        return _linux(traits, proc, sys_fs)
    if traits.platform == "win32":
        return _windows(traits)
    return None


def _linux(traits: Traits, proc: Path, sys_fs: Path) -> Problem | None:
    flags = re.search(r"^flags\s*:(.*)$", _read(proc / "cpuinfo"), re.MULTILINE)
    if flags is None or not {"vmx", "svm"} & set(flags[1].split()):
        # docker-machine's sentence.
        what = "This computer doesn't have VT-X/AMD-v enabled. Enabling it in the BIOS is mandatory"
        return Problem(what, _MISSING[1])
    modules = _read(proc / "modules")
    kvm = re.search(r"^kvm_(?:intel|amd) \d+ (\d+) ", modules, re.MULTILINE)
    if kvm and int(kvm[1]) > 0:
        return Problem(
            "KVM runs virtual machines, and VirtualBox's may fail to start meanwhile", _IN_USE[1], fatal=False
        )
    held = _read(sys_fs / "module/kvm/parameters/enable_virt_at_load").strip() == "Y"
    if kvm and held and not traits.runs_beside_kvm:
        return Problem("KVM holds the processor's virtualisation while its module is loaded", _IN_USE[1], fatal=False)
    return None


def _windows(traits: Traits) -> Problem | None:
    if not _hyper_v_runs():
        return None
    # docker-machine's sentences. Since 6.0, VirtualBox also runs on top of Hyper-V, but slowly.
    return Problem(
        "This computer is running Hyper-V. VirtualBox won't boot a 64bits VM when Hyper-V is activated."
        if not traits.runs_beside_hyper_v
        else "This computer is running Hyper-V, which makes VirtualBox's machines slow.",
        "Either use Hyper-V as a driver, or disable the Hyper-V hypervisor (as administrator): "
        "bcdedit /set hypervisorlaunchtype off",
        fatal=not traits.runs_beside_hyper_v,
    )


def _hyper_v_runs() -> bool:
    command = "(Get-CimInstance Win32_ComputerSystem).HypervisorPresent"
    try:
        answer = run.run(
            ["powershell", "-NoProfile", "-NonInteractive", "-Command", command], timeout=POWERSHELL_SECONDS
        )
    except CommandError:
        return False  # unknown; if Hyper-V is a problem, VirtualBox reports it when the machine starts
    return answer.stdout.strip().lower() == "true"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
